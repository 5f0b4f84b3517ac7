package config

import (
	"cmp"
	"fmt"
	"net"
	"net/netip"
	"net/url"
	"path/filepath"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"unicode"
)

// check notes what is well formed but cannot be meant.
func (c *Config) check(at *place) {
	listen := checkAddress(at.below("listen"), c.Listen, 0)
	admin := checkAddress(at.below("admin"), c.Admin, 0)
	if listen && admin {
		checkPorts(at, c.Listen, c.Admin, c.AdminTokenFile != "")
	}
	c.Pool.check(at.below("pool"))
	if c.Consul != nil {
		c.Consul.check(at.below("consul"))
	}
	switch {
	case !c.Alone():
	case at.get("models") == nil:
		at.problem("%s needs %q", at.name(), "models")
	case len(c.Models) == 0:
		at.problemIn("models", "models names no model; at least one is needed")
	}
	c.checkLink(at)
	c.Ledger.check(at.below("ledger"))
	c.Telemetry.check(at.below("telemetry"))
	if c.Prices != nil {
		c.Prices.check(at.below("prices"))
	}
	for key, limit := range map[string]int64{
		"body": int64(c.Limits.Body), "header": int64(c.Limits.Header), "connections": int64(c.Limits.Connections), "write_time": int64(c.Limits.WriteTime),
		"connections_per_address": int64(c.Limits.ConnectionsPerAddress), "requests_per_connection": int64(c.Limits.RequestsPerConnection),
		"header_time": int64(c.Limits.HeaderTime), "body_time": int64(c.Limits.BodyTime), "idle_time": int64(c.Limits.IdleTime),
		"held": int64(c.Limits.Held),
	} {
		if at := at.below("limits").below(key); limit == 0 && !at.bad {
			at.problem("limits.%s is 0; nobody could be served", key)
		}
	}
	if c.Keys != nil {
		c.checkKeys(at.below("keys"))
	}
	if c.TLS != nil {
		c.TLS.check(at.below("tls"))
	}
	if at := at.below("node").below("nvml"); c.Node.NVML != NVMLAuto && c.Node.NVML != NVMLOff && !filepath.IsAbs(string(c.Node.NVML)) && !at.bad {
		at.problem("%s is no way to look at GPUs; write auto, off, or the whole path of a libnvidia-ml.so.1", quote(string(c.Node.NVML)))
	}
	names := checkNames(at)
	node := c.Node
	node.GPUs = slices.SortedFunc(slices.Values(node.GPUs), func(a, b GPU) int { return cmp.Compare(b.Memory, a.Memory) })
	for name, at := range at.models() {
		m := c.Models[name]
		if c.Alone() {
			m.checkHasBackends(at)
		}
		m.check(at, node)
	}
	c.checkBackendNames(at)
	c.checkShared(at)
	for name, at := range at.models() {
		checkAliases(at, name, c.Models[name].Aliases, names)
	}
}

// checkLink: edges and agents that can be reached from outside must know each other.
func (c *Config) checkLink(at *place) {
	list := at.below("agents")
	for i, addr := range c.Agents {
		switch host, _, _ := net.SplitHostPort(addr); {
		case !checkAddress(list.item(i), addr, 1):
		case slices.Contains(c.Agents[:i], addr):
			list.item(i).problem("%s is listed twice", quote(addr))
		case !loopback(host) && (c.Link == nil || c.Link.Cert == ""):
			list.item(i).problem("%s is not a loopback address; speaking with an agent there needs link.cert, link.key and link.ca", quote(addr))
		}
	}
	if c.Link == nil {
		return
	}
	link := at.below("link")
	if l := *c.Link; (l.Cert == "") != (l.Key == "") || (l.Cert == "") != (l.CA == "") {
		link.problem("cert, key and ca come together")
	}
	if !checkAddress(link.below("listen"), c.Link.Listen, 0) {
		return
	}
	if strings.ContainsAny(c.Link.Advertise, "/ ") || strings.Count(c.Link.Advertise, ":") == 1 {
		link.below("advertise").problem("link.advertise is %s; it must be a name or an address without a port, as in gpu-1.internal", quote(c.Link.Advertise))
	}
	if host, port, _ := net.SplitHostPort(c.Link.Listen); !loopback(host) && c.Link.Cert == "" {
		link.below("listen").problem("link.listen is %s; without cert, key and ca it must be a loopback address, as in 127.0.0.1:%s", quote(c.Link.Listen), port)
	}
}

// checkPorts: the two ports must differ, and the admin port must not be reachable from outside by whoever comes.
func checkPorts(at *place, listen, admin string, token bool) {
	dataHost, dataPort, _ := net.SplitHostPort(listen)
	adminHost, adminPort, _ := net.SplitHostPort(admin)
	given := at.get("admin")
	if given == nil {
		given = at.below("listen")
	}
	if !loopback(adminHost) && !token {
		given.problem("admin is %s; without admin_token_file it must be a loopback address, as in 127.0.0.1:%s", quote(admin), adminPort)
	} else if dataPort == adminPort && dataPort != "0" && (dataHost == adminHost || unspecified(dataHost) || unspecified(adminHost) || loopback(dataHost) && loopback(adminHost)) {
		given.problem("admin and listen are both on port %s", adminPort)
	}
}

// check: the files are looked at when they are loaded, not here: a check may run on another host.
func (t *TLS) check(at *place) {
	if t.Cert == "" {
		at.problemIn("cert", "cert names no file")
	}
	if t.Key == "" {
		at.problemIn("key", "key names no file")
	}
	if given := at.get("client_cert"); given != nil && t.ClientCA == "" {
		given.problem("client_cert means nothing without client_ca")
	}
}

// check: a process of ours is on this host, where there is nobody to hide from.
func (t *BackendTLS) check(at *place, address string) {
	at = at.below("tls")
	if address == "" {
		at.problem("tls is for a backend with an address; this one has none")
	}
	if (t.Cert == "") != (t.Key == "") {
		at.problem("cert and key come together")
	}
}

func loopback(host string) bool {
	ip, err := netip.ParseAddr(host)
	return host == "localhost" || err == nil && ip.Unmap().IsLoopback()
}

func unspecified(host string) bool {
	ip, err := netip.ParseAddr(host)
	return host == "" || err == nil && ip.IsUnspecified()
}

var hostName = regexp.MustCompile(`^[A-Za-z0-9_]([A-Za-z0-9_.-]*[A-Za-z0-9_.])?$`)

// checkAddress tells whether s is host:port, with a port of at least least.
func checkAddress(at *place, s string, least int) bool {
	host, port, err := net.SplitHostPort(s)
	n, portErr := strconv.ParseUint(port, 10, 16)
	_, ipErr := netip.ParseAddr(host)
	switch {
	case strings.Contains(s, "://"):
		at.problem("%s is a URL; write host:port only", quote(s))
	case err != nil:
		at.problem("%s is not host:port, as in 127.0.0.1:8080", quote(s))
	case portErr != nil || int(n) < least:
		at.problem("%s is not a port; it must be a number from %d to 65535", quote(port), least)
	case ipErr != nil && !hostName.MatchString(host) && (host != "" || least > 0):
		at.problem("%s is not the name or the address of a host", quote(host))
	default:
		return true
	}
	return false
}

// The longest names, in bytes. A backend's may hold a model's and its position.
const (
	maxName        = 256
	maxBackendName = 300
)

// checkName tells what is wrong with a name, if anything: names stand in headers, logs, metrics and on the screen.
func checkName(name string, most int) string {
	switch {
	case name == "":
		return "a name cannot be empty"
	case len(name) > most:
		return fmt.Sprintf("a name has %d bytes at most", most)
	case strings.ContainsFunc(name, unicode.IsControl):
		return "a name cannot hold control characters"
	}
	return ""
}

// checkNames is the line of each model.
func checkNames(at *place) map[string]int {
	lines := map[string]int{}
	for name, m := range at.models() {
		if wrong := checkName(name, maxName); wrong != "" {
			m.doc.problemAt(m.key, "%s", wrong)
		}
		lines[name] = m.key.Line
	}
	return lines
}

// checkAliases: an alias must name one model. Taken are the lines of all names so far; it grows.
func checkAliases(at *place, model string, aliases []string, taken map[string]int) {
	list := at.below("aliases")
	for i, alias := range aliases {
		at := list.item(i)
		line, is := taken[alias]
		switch wrong := checkName(alias, maxName); {
		case wrong != "":
			at.problem("%s", wrong)
		case alias == model:
			at.problem("%s is the model's own name", quote(alias))
		case is:
			at.problem("%s is taken already, on line %d", quote(alias), line)
		default:
			taken[alias] = at.node.Line
		}
	}
}

// checkBackendNames: a backend is known by its name alone, whatever model it serves.
func (c *Config) checkBackendNames(at *place) {
	lines := map[string]int{}
	for name, at := range at.models() {
		backends := at.below("backends")
		for i, b := range c.Models[name].Backends {
			at := backends.item(i).below("name")
			given := at.key != nil // else the name comes from the model's, which has been looked at
			if wrong := checkName(b.Name, maxBackendName); wrong != "" && given {
				at.problem("%s", wrong)
			} else if line, twice := lines[b.Name]; twice {
				at.problem("backend name %s is taken already, on line %d", quote(b.Name), line)
			} else {
				lines[b.Name] = at.node.Line
			}
		}
	}
}

// checkHasBackends: where nothing is found elsewhere, a model has what stands in the file.
func (m Model) checkHasBackends(at *place) {
	if at.get("backends") == nil {
		at.problem("%s needs %q", at.name(), "backends")
	} else if len(m.Backends) == 0 {
		at.problemIn("backends", "%s has no backend; at least one is needed", at.name())
	} else if m.Min > len(m.Backends) {
		at.below("min").problem("min is %d, but the model has only %d", m.Min, len(m.Backends))
	}
}

func (m Model) check(at *place, node Node) {
	if m.Max > 0 && m.Min > m.Max {
		at.below("max").problem("max is %d, but min is %d", m.Max, m.Min)
	}
	agents := at.below("no_heartbeat")
	for i, agent := range m.NoHeartbeat {
		if agent == "" {
			agents.item(i).problem("an empty text is part of every User-Agent; set heartbeat to 0s instead")
		}
	}
	windows := at.below("schedule")
	for i, w := range m.Schedule {
		w.check(windows.item(i))
	}
	if m.Overflow != nil {
		m.Overflow.check(at.below("overflow"))
	}
	for key, limit := range map[string]Duration{
		"first_byte": m.Answer.FirstByte, "between_bytes": m.Answer.BetweenBytes, "total": m.Answer.Total, "upgraded": m.Answer.Upgraded,
	} {
		if at := at.below("answer").below(key); limit == 0 && !at.bad {
			at.problem("answer.%s is 0s; no backend answers as fast", key)
		}
	}
	backends := at.below("backends")
	for i := range m.Backends {
		if (m.Backends[i].GRPC == "") != (m.Backends[0].GRPC == "") {
			backends.item(i).below("grpc").problem("all backends of a model speak gRPC or none does: a call may come to any of them")
		}
		checkBackend(backends.item(i), &m.Backends[i], node)
	}
}

func (o *Overflow) check(at *place) {
	u, err := url.Parse(o.URL)
	switch at := at.get("url"); {
	case at == nil || at.bad:
	case err != nil || u.Scheme != "http" && u.Scheme != "https" || u.Hostname() == "":
		at.problem("%s is not the base of an API; write one like https://api.example.com/v1", quote(o.URL))
	case u.User != nil:
		at.problem("a password does not belong in the file; put the key in a file and name that in key_file")
	case u.RawQuery != "" || u.Fragment != "":
		at.problem("%s has more than a path; requests bring their own queries", quote(o.URL))
	case u.Scheme == "http" && o.KeyFile != "" && !loopback(u.Hostname()):
		at.problem("%s would show the key to whoever is on the way; use https", quote(o.URL))
	case u.Scheme == "http" && o.CA != "":
		at.problem("%s has no certificate that ca could vouch for; use https", quote(o.URL))
	}
}

func checkBackend(at *place, b *Backend, node Node) {
	checkWay(at)
	if given := at.get("address"); given != nil {
		checkAddress(given, b.Address, 1)
	}
	if b.TLS != nil {
		b.TLS.check(at, b.Address)
	}
	if given := at.get("grpc"); given != nil && strings.HasPrefix(b.GRPC, ":") {
		checkAddress(given, "localhost"+b.GRPC, 1)
	} else if given != nil {
		checkAddress(given, b.GRPC, 1)
	}
	if b.Process != nil {
		b.Process.check(at.below("process"))
	}
	b.checkOrchestrators(at)
	if b.Hooks != nil {
		b.Hooks.check(at.below("hooks"))
	}
	if b.Ready != "" && !strings.HasPrefix(b.Ready, "/") {
		at.below("ready").problem("%s is not a path; it must start with /", quote(b.Ready))
	}
	if b.Slots < 1 {
		at.below("slots").problem("slots is 0; a backend serves at least one request at once")
	}
	if at := at.below("connect_time"); b.ConnectTime == 0 && !at.bad {
		at.problem("connect_time is 0s; no connection is as fast")
	}
	b.checkSleep(at)
	b.checkMemory(at, node)
}

func (b *Backend) checkSleep(at *place) {
	canSleep := []Engine{VLLM, SGLang, LlamaCPP, Ollama, Triton}
	switch {
	case b.Sleep == SleepEngine && !slices.Contains(canSleep, b.Engine):
		at.below("sleep").problem("engine %s has no sleep mode; vllm, sglang, llama.cpp, ollama and triton have", b.Engine)
	case b.Sleep == SleepCheckpoint && b.Process == nil && at.get("address") != nil:
		at.below("sleep").problem("cuda-checkpoint is for processes that we start; this one has an address")
	case b.Sleep == SleepHooks && (b.Hooks == nil || b.Hooks.Wake == "" && b.Hooks.Sleep == ""): // one is told by hooks
		at.below("sleep").problem("sleep: hooks needs both hooks.wake and hooks.sleep")
	}
	if level := at.get("sleep_level"); level != nil && b.Engine != VLLM {
		level.problem("sleep_level is for engine vllm only; this one is %s", b.Engine)
	} else if level != nil && b.SleepLevel != 1 && b.SleepLevel != 2 {
		level.problem("sleep_level is %d; vLLM knows 1 and 2", b.SleepLevel)
	}
}

// checkMemory: a backend that no eviction could make room for would wait for ever. The node's GPUs are sorted, the
// largest first.
func (b *Backend) checkMemory(at *place, node Node) {
	switch {
	case b.GPUs == 0 && b.Memory > 0:
		at.below("memory").problem("the backend takes GPU memory but uses no GPU (gpus: 0)")
	case len(node.GPUs) == 0 || b.GPUs == 0:
	case b.GPUs > len(node.GPUs):
		at.below("gpus").problem("gpus is %d, but the node has only %d", b.GPUs, len(node.GPUs))
	default:
		room := node.GPUs[b.GPUs-1].Memory - node.Headroom
		if b.Memory/Size(b.GPUs) > room {
			at.below("memory").problem("%s does not fit on gpus: %d of this node; one of them has room for %s",
				b.Memory, b.GPUs, max(0, room))
		}
	}
}

// placeholder is what looks like one: a lower-case word in braces, but not in two pairs or after a dollar sign, which
// are templates of others.
var placeholder = regexp.MustCompile(`[{$]?\{[a-z][a-z0-9_]*\}`)

func (p *Process) check(at *place) {
	if len(p.Command) == 0 || p.Command[0] == "" {
		at.problemIn("command", "the command is empty")
	}
	if p.Port > 65535 {
		at.below("port").problem("port is %d; it must be 65535 at most", p.Port)
	}
	told := p.Port != 0
	command := at.below("command")
	for i, arg := range p.Command {
		told = checkPlaceholders(command.item(i), arg) || told
	}
	for _, at := range at.below("env").pairs() {
		told = checkPlaceholders(at, p.Env[at.key.Value]) || told
	}
	for _, key := range []string{"env", "secret_env"} {
		for _, at := range at.below(key).pairs() {
			if name := at.key.Value; name == "" || strings.ContainsAny(name, "=\x00") {
				at.doc.problemAt(at.key, "%s cannot be the name of an environment variable", quote(name))
			}
		}
	}
	for _, at := range at.below("secret_env").pairs() {
		if _, both := p.Env[at.key.Value]; both {
			at.doc.problemAt(at.key, "%s is in env already", quote(at.key.Value))
		}
	}
	if len(p.Command) > 0 && p.Command[0] != "" && !told {
		command.problem("nothing tells the command its port; write {port} in it or in env, or set port")
	}
}

// checkPlaceholders notes those that nobody fills in, and tells whether the port is among them.
func checkPlaceholders(at *place, s string) (port bool) {
	for _, found := range placeholder.FindAllString(s, -1) {
		switch {
		case found == "{port}" || found == "${port}":
			port = true
		case found == "{gpus}" || found[0] == '$' || found[1] == '{':
		default:
			at.problem("%s is not a placeholder; {port} and {gpus} are", found)
			port = true // perhaps it was meant to be: one problem is enough
		}
	}
	return port
}

func (h *Hooks) check(at *place) {
	if at.bad {
		return
	}
	for _, hook := range []struct{ key, request string }{{"wake", h.Wake}, {"sleep", h.Sleep}, {"stop", h.Stop}} {
		if at := at.get(hook.key); at != nil {
			checkHook(at, hook.request)
		}
	}
	switch wake, sleep := at.get("wake") != nil, at.get("sleep") != nil; {
	case wake && !sleep:
		at.problem("hooks has wake but no sleep; only both make a backend that can sleep")
	case sleep && !wake:
		at.problem("hooks has sleep but no wake; only both make a backend that can sleep")
	case !wake && at.get("stop") == nil:
		at.problem("hooks has none of wake, sleep and stop")
	}
}

var method = regexp.MustCompile(`^[A-Z]+$`)

func checkHook(at *place, request string) {
	verb, target, _ := strings.Cut(request, " ")
	u, err := url.Parse(target)
	switch {
	case !method.MatchString(verb) || err != nil || u.Scheme != "http" && u.Scheme != "https" || u.Hostname() == "":
		at.problem("%s is not a request; write one like POST http://127.0.0.1:9000/wake", quote(request))
	case u.User != nil:
		at.problem("a password does not belong in the file; put a token in a file and name that in bearer_file")
	}
}
