package foreign

import (
	"cmp"
	"errors"
	"fmt"
	"maps"
	"net/url"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/google/shlex"
	"go.yaml.in/yaml/v4"

	"pilotlight/config"
)

// swap is the file of llama-swap, as far as we have a use for it: see config.example.yaml and config-schema.json in its repository.
// What it says otherwise is in the maps called Rest.
type swap struct {
	HealthCheckTimeout int                  `yaml:"healthCheckTimeout"`
	GlobalTTL          int                  `yaml:"globalTTL"`
	Macros             yaml.Node            `yaml:"macros"` // in order: a macro may use those before it
	APIKeys            []string             `yaml:"apiKeys"`
	Models             yaml.Node            `yaml:"models"` // in order
	Groups             map[string]swapGroup `yaml:"groups"`
	Matrix             map[string]any       `yaml:"matrix"`
	Hooks              struct {
		OnStartup struct {
			Preload []string `yaml:"preload"`
		} `yaml:"on_startup"`
	} `yaml:"hooks"`
	Peers map[string]struct {
		Proxy  string   `yaml:"proxy"`
		Models []string `yaml:"models"`
	} `yaml:"peers"`
	Rest map[string]any `yaml:",inline"`
}

type swapGroup struct {
	Swap       *bool    `yaml:"swap"`
	Persistent bool     `yaml:"persistent"`
	Members    []string `yaml:"members"`
}

type swapModel struct {
	Macros           yaml.Node   `yaml:"macros"`
	Cmd              string      `yaml:"cmd"`
	CmdStop          string      `yaml:"cmdStop"`
	Env              []string    `yaml:"env"`
	Proxy            string      `yaml:"proxy"`
	CheckEndpoint    string      `yaml:"checkEndpoint"`
	TTL              *int        `yaml:"ttl"`
	UseModelName     string      `yaml:"useModelName"`
	Aliases          []swapAlias `yaml:"aliases"`
	ConcurrencyLimit int         `yaml:"concurrencyLimit"`
	Timeouts         struct {
		Connect        int `yaml:"connect"`
		ResponseHeader int `yaml:"responseHeader"`
	} `yaml:"timeouts"`
	Rest map[string]any `yaml:",inline"`
}

// swapAlias is a name, or a mapping with one.
type swapAlias struct{ ID string }

func (a *swapAlias) UnmarshalYAML(n *yaml.Node) error {
	if n.Kind == yaml.ScalarNode {
		a.ID = n.Value
		return nil
	}
	var long struct {
		ID string `yaml:"id"`
	}
	if err := n.Decode(&long); err != nil {
		return fmt.Errorf("read an alias: %w", err)
	}
	a.ID = long.ID
	return nil
}

// Surroundings is what an import looks up where it runs.
type Surroundings struct {
	GPUs     []config.Size                    // of the node; none: the driver names them when pilotlight runs
	Getenv   func(name string) (string, bool) // for ${env.NAME}
	FileSize func(path string) (int64, bool)  // of weights, by which memory is guessed
	Source   string                           // what is imported, for the head of the file
}

// LlamaSwap makes a configuration of a file of llama-swap. Its error says what is wrong with that file; or it is config.Problems beside an
// Import whose file has them.
func LlamaSwap(text []byte, s Surroundings) (*Import, error) {
	var f swap
	if err := yaml.Load(text, &f); err != nil {
		return nil, fmt.Errorf("read %s: %w", s.Source, err)
	}
	if f.Models.Kind != yaml.MappingNode || len(f.Models.Content) == 0 {
		return nil, fmt.Errorf("%s has no models; is it a file of llama-swap?", s.Source)
	}
	im := &swapImport{Surroundings: s, file: &f, draft: newDraft()}
	if err := im.run(); err != nil {
		return nil, err
	}
	return im.draft.finish("Made by pilotlight import llama-swap " + s.Source + "\nCheck it with: pilotlight check FILE")
}

// swapImport is one import while it is made.
type swapImport struct {
	Surroundings
	file  *swap
	draft *draft
}

func (im *swapImport) run() error {
	root := im.draft.root
	if len(im.GPUs) > 0 {
		im.gpus(root.below("node"))
	}
	models := root.below("models")
	if len(im.file.APIKeys) > 0 {
		root.note("llama-swap asks for one of %d API keys; here keys are made with: pilotlight keys new", len(im.file.APIKeys))
	}
	for i := 0; i+1 < len(im.file.Models.Content); i += 2 {
		if err := im.model(models, im.file.Models.Content[i].Value, im.file.Models.Content[i+1]); err != nil {
			return err
		}
	}
	im.peers(models)
	if len(im.file.Matrix) > 0 || len(im.file.Groups) > 0 {
		root.note("groups and the matrix say which models run together; here the memory of GPUs does: what fits runs, and what was asked for " +
			"longest ago makes room. Give every backend its memory")
	}
	return nil
}

func (im *swapImport) gpus(node *section) {
	list := &yaml.Node{Kind: yaml.SequenceNode}
	for _, size := range im.GPUs {
		list.Content = append(list.Content, &yaml.Node{Kind: yaml.MappingNode, Content: []*yaml.Node{scalar("memory"), scalar(size)}})
	}
	node.add("gpus", list)
}

// model takes over one model.
func (im *swapImport) model(models *section, name string, n *yaml.Node) error {
	var m swapModel
	if err := n.Decode(&m); err != nil {
		return fmt.Errorf("read model %s: %w", name, err)
	}
	macros := im.macros(name, &m)
	var err error
	for _, s := range []*string{&m.Cmd, &m.CmdStop, &m.Proxy, &m.CheckEndpoint, &m.UseModelName} {
		if *s, err = im.fill(*s, macros, 0); err != nil {
			return fmt.Errorf("read model %s: %w", name, err)
		}
	}
	command, err := words(m.Cmd)
	if err != nil {
		return fmt.Errorf("read the command of model %s: %w", name, err)
	}
	if len(command) == 0 {
		return fmt.Errorf("model %s has no cmd", name)
	}
	to := models.below(name)
	im.policy(to, name, &m)
	if err := im.backend(to, &m, command, macros); err != nil {
		return fmt.Errorf("read model %s: %w", name, err)
	}
	return nil
}

// policy is what concerns the model as a whole.
func (im *swapImport) policy(to *section, name string, m *swapModel) {
	var aliases []string
	for _, a := range m.Aliases {
		aliases = append(aliases, a.ID)
	}
	to.list("aliases", aliases)
	if m.UseModelName != "" && m.UseModelName != name {
		to.set("served_as", m.UseModelName)
	}
	ttl := im.file.GlobalTTL
	if m.TTL != nil && *m.TTL >= 0 {
		ttl = *m.TTL
	}
	if ttl > 0 {
		to.set("idle_time", config.Duration(time.Duration(ttl)*time.Second))
	} else { // until another model needs its memory, as there
		to.set("idle_time", config.Duration(never))
	}
	for _, g := range im.file.Groups {
		if g.Persistent && slices.Contains(g.Members, name) {
			to.set("never_sleep", true)
		}
	}
	if slices.Contains(im.file.Hooks.OnStartup.Preload, name) {
		to.set("min", 1)
	}
	if t := m.Timeouts.ResponseHeader; t > 0 {
		to.below("answer").set("first_byte", config.Duration(time.Duration(t)*time.Second))
	}
	for _, key := range slices.Sorted(maps.Keys(m.Rest)) {
		to.note("%s is not taken over: %s", key, cmp.Or(reasons()[key], "there is nothing like it here"))
	}
}

// never is an idle time that does not come: llama-swap's ttl 0.
const never = 365 * 24 * time.Hour

// reasons are why keys of a model are not taken over.
func reasons() map[string]string {
	return map[string]string{
		"name": "models are listed by the names that clients ask for", "description": "models are listed by the names that clients ask for",
		"metadata": "models are listed by the names that clients ask for", "unlisted": "every model is listed",
		"filters":          "requests reach the model server as the client sent them",
		"sendLoadingState": "clients that wait for a stream get heartbeats",
	}
}

// backend is the model server.
func (im *swapImport) backend(to *section, m *swapModel, command []string, macros map[string]string) error {
	b := to.item("backends")
	process := b.below("process")
	process.list("command", command)
	gpus, err := im.env(process, m, macros)
	if err != nil {
		return err
	}
	if err := im.port(process, m, command); err != nil {
		return err
	}
	if m.CmdStop != "" {
		process.note("cmdStop %q is not taken over: the process group gets SIGTERM, and SIGKILL after stop_time", m.CmdStop)
	}
	kind := kindOf(command)
	b.set("engine", string(kind))
	switch ready := m.CheckEndpoint; ready {
	case "", "/health": // what engines say by themselves
	case "none":
		b.note("checkEndpoint none is not taken over: without a test of readiness the first requests would fail")
	default:
		b.set("ready", ready)
	}
	if gpus != 1 {
		b.set("gpus", gpus)
	}
	if n := slots(m, kind, command); n > 0 {
		b.set("slots", n)
	}
	if t := m.Timeouts.Connect; t > 0 {
		b.set("connect_time", config.Duration(time.Duration(t)*time.Second))
	}
	if t := im.file.HealthCheckTimeout; t > 0 {
		b.set("stall", config.Duration(time.Duration(max(t, 15))*time.Second))
	}
	im.memory(b, kind, command, gpus)
	return nil
}

// env takes over the environment. CUDA_VISIBLE_DEVICES is ours to set; its length is how many GPUs the model server spreads over.
func (im *swapImport) env(process *section, m *swapModel, macros map[string]string) (gpus int, err error) {
	gpus = 1
	env := process.below("env")
	for _, pair := range m.Env {
		if pair, err = im.fill(pair, macros, 0); err != nil {
			return 0, err
		}
		name, value, _ := strings.Cut(pair, "=")
		if name != "CUDA_VISIBLE_DEVICES" {
			env.set(name, value)
			continue
		}
		gpus = 0
		if value != "" && value != "-1" {
			gpus = strings.Count(value, ",") + 1
		}
	}
	if env.empty() {
		process.drop()
	}
	if gpus > 1 {
		process.note("CUDA_VISIBLE_DEVICES named %d GPUs; which ones is decided at each start", gpus)
	}
	return gpus, nil
}

// port is where the model server listens: a free port for ${PORT}, else that of proxy.
func (im *swapImport) port(process *section, m *swapModel, command []string) error {
	if slices.ContainsFunc(command, func(word string) bool { return strings.Contains(word, "{port}") }) {
		return nil
	}
	u, err := url.Parse(m.Proxy)
	if err != nil || u.Port() == "" {
		return fmt.Errorf("the command does not hold ${PORT} and proxy is %q; one of them must say where the model server listens", m.Proxy)
	}
	port, err := strconv.Atoi(u.Port())
	if err != nil {
		return fmt.Errorf("proxy is %q: %w", m.Proxy, err)
	}
	process.set("port", port)
	if host := u.Hostname(); host != "localhost" && host != "127.0.0.1" && host != "::1" {
		process.note("proxy was %s; a process that is started here is reached at 127.0.0.1", m.Proxy)
	}
	return nil
}

// slots is how many requests the model server takes at once: 0, it does not say.
func slots(m *swapModel, kind config.Engine, command []string) int {
	if m.ConcurrencyLimit > 0 {
		return m.ConcurrencyLimit
	}
	var flags []string
	switch kind {
	case config.LlamaCPP:
		flags = []string{"--parallel", "-np"}
	case config.VLLM:
		flags = []string{"--max-num-seqs"}
	case config.SGLang:
		flags = []string{"--max-running-requests"}
	case config.TGI:
		flags = []string{"--max-concurrent-requests"}
	case config.Ollama, config.Triton, config.HTTP:
	}
	n, err := strconv.Atoi(flag(command, flags...))
	if err != nil || n < 0 {
		return 0
	}
	return n
}

// memory guesses what the model server takes of GPU memory, from the size of its weights.
func (im *swapImport) memory(b *section, kind config.Engine, command []string, gpus int) {
	if gpus == 0 {
		return
	}
	if weights := flag(command, "--model", "-m", "--model-path"); weights != "" && im.FileSize != nil && kind == config.LlamaCPP {
		if size, found := im.FileSize(weights); found {
			guess := roundUp(size + size/5) // the context and the engine's buffers come on top of the weights
			b.set("memory", guess)
			b.note("a guess, from the size of the weights; what is measured counts once it has run (pilotlight gpus)")
			return
		}
	}
	if len(im.GPUs) > 0 {
		whole := config.Size(int64(slices.Min(im.GPUs)) * int64(gpus))
		b.set("memory", whole)
		b.note("the whole GPU, so that models take turns as they did; put in what it takes (pilotlight gpus)")
		return
	}
	b.set("memory", config.Size(0))
	b.note("nothing says what it takes of GPU memory; put it in, or models that do not fit together are started together")
}

// roundUp is a size in whole hundreds of MiB.
func roundUp(n int64) config.Size {
	const step = 100 << 20
	return config.Size((n + step - 1) / step * step)
}

// peers takes over what other servers answer.
func (im *swapImport) peers(models *section) {
	for _, id := range slices.Sorted(maps.Keys(im.file.Peers)) {
		peer := im.file.Peers[id]
		u, err := url.Parse(peer.Proxy)
		if err != nil || u.Scheme != "http" || strings.Trim(u.Path, "/") != "" || u.Hostname() == "" {
			im.draft.root.note("peer %s at %s is not taken over: a backend is host:port. A hosted API can be what a model overflows to (overflow)", id, peer.Proxy)
			continue
		}
		for _, name := range peer.Models {
			b := models.below(name).item("backends")
			b.set("address", u.Hostname()+":"+cmp.Or(u.Port(), "80"))
			b.set("gpus", 0)
		}
	}
}

// macros are a model's macros as they are written: what they hold of others is filled in where they are used, so that a model's own
// take the place of the file's within those too.
func (im *swapImport) macros(name string, m *swapModel) map[string]string {
	all := map[string]string{"MODEL_ID": name, "PORT": "{port}"}
	for _, n := range []*yaml.Node{&im.file.Macros, &m.Macros} {
		for i := 0; i+1 < len(n.Content); i += 2 {
			all[n.Content[i].Value] = n.Content[i+1].Value
		}
	}
	return all
}

// maxDepth is how deep macros may stand in one another.
const maxDepth = 16

// fill puts values in place of ${macro} and ${env.NAME}.
func (im *swapImport) fill(s string, macros map[string]string, depth int) (string, error) {
	if depth > maxDepth {
		return "", errors.New("a macro holds itself")
	}
	var out strings.Builder
	for {
		before, rest, found := strings.Cut(s, "${")
		out.WriteString(before)
		if !found {
			return out.String(), nil
		}
		name, after, closed := strings.Cut(rest, "}")
		if !closed {
			return "", fmt.Errorf("%q is not closed", "${"+rest)
		}
		value, err := im.value(name, macros, depth)
		if err != nil {
			return "", err
		}
		out.WriteString(value)
		s = after
	}
}

// value is what stands for ${name}.
func (im *swapImport) value(name string, macros map[string]string, depth int) (string, error) {
	if variable, ok := strings.CutPrefix(name, "env."); ok {
		value, known := im.Getenv(variable)
		if !known {
			return "", fmt.Errorf("${%s} is used and $%s is not set; set it and import again", name, variable)
		}
		return value, nil
	}
	if name == "PID" { // in cmdStop, which is told and not taken over
		return "${PID}", nil
	}
	value, known := macros[name]
	if !known {
		return "", fmt.Errorf("${%s} is no macro", name)
	}
	return im.fill(value, macros, depth+1)
}

// words are those of a command, which no shell reads; lines that begin with # are comments.
func words(cmd string) ([]string, error) {
	var lines []string
	for line := range strings.Lines(cmd) {
		if line = strings.TrimSpace(line); line != "" && !strings.HasPrefix(line, "#") {
			lines = append(lines, strings.TrimSuffix(line, `\`))
		}
	}
	all, err := shlex.Split(strings.Join(lines, " "))
	if err != nil {
		return nil, errors.New("a quote in it is not closed")
	}
	return all, nil
}

// flag is the value of the first of the flags in a command; empty: there is none.
func flag(command []string, names ...string) string {
	for i, word := range command {
		name, value, joined := strings.Cut(word, "=")
		if !slices.Contains(names, name) {
			continue
		}
		if joined {
			return value
		}
		if i+1 < len(command) {
			return command[i+1]
		}
	}
	return ""
}

// kindOf is the engine that a command starts, itself or in a container.
func kindOf(command []string) config.Engine {
	signs := []struct {
		kind config.Engine
		of   []string // parts of words
	}{
		{config.LlamaCPP, []string{"llama-server", "llama.cpp", "llamacpp"}},
		{config.VLLM, []string{"vllm"}},
		{config.SGLang, []string{"sglang"}},
		{config.TGI, []string{"text-generation-launcher", "text-generation-inference"}},
		{config.Triton, []string{"tritonserver"}},
		{config.Ollama, []string{"ollama"}},
	}
	first := filepath.Base(command[0])
	container := first == "docker" || first == "podman"
	for i, word := range command {
		for _, s := range signs {
			if slices.ContainsFunc(s.of, func(part string) bool { return strings.Contains(word, part) }) {
				return s.kind
			}
		}
		if i >= 3 && !container { // what follows are the server's arguments
			break
		}
	}
	return config.HTTP
}
