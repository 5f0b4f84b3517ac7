package scenario

import (
	"bufio"
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"time"

	"pilotlight/probe/proc"
)

// Bounds of how long the parts of a fleet may take.
const (
	startTime = 30 * time.Second
	stopTime  = 30 * time.Second
)

// fleet is pilotlight with its model servers, as processes of this host: one edge that keeps them itself, or edges, agents and Consul.
type fleet struct {
	dir       string
	program   string
	processes []*process // in the order in which they are started
	addrs     []string   // of the edges' data ports
	relays    []*relay   // by agent
	looks     bool       // it looks at its simulated GPUs, which takes as long as in the world
	factor    string     // file by whose number loads take longer
	others    string     // file that says what others hold of simulated GPUs; empty: nobody looks
}

// models is that part of a configuration.
func (s Scenario) models(program, factor string) string {
	var b strings.Builder
	b.WriteString("models:\n")
	for _, m := range s.Fleet {
		for _, name := range m.names() {
			fmt.Fprintf(&b, "  %s:\n    idle_time: %s\n    heartbeat: 1s\n    line: {requests: 10000}\n    backends:\n", name, s.real(s.Idle))
			for range m.Backends {
				fmt.Fprintf(&b, "      - process: {command: [%q, modelsim, --port, \"{port}\", --model, %s, --load, %s, --wake-host, %s, --step, %s, --step-per-seq, %s, --prefill, 0s, "+
					"--slots, \"%d\", --gpu-memory, \"%g\", --gpu-memory-asleep, \"%g\", --load-factor, %q]}\n"+
					"        engine: vllm\n        sleep: engine\n        memory: %gGiB\n        asleep_memory: %gGiB\n        host_memory: %gGiB\n        slots: %d\n",
					program, name, s.real(m.Load), s.real(m.Wake), s.real(m.Step), s.real(stepPerSeq), m.Slots, m.Memory, asleepMemory, factor,
					m.Memory, asleepMemory, m.Memory, m.Slots)
			}
		}
	}
	return b.String()
}

// node is that part of a configuration.
func (s Scenario) node(name, state string) string {
	return fmt.Sprintf("node: {name: %s, nvml: off, host_memory: 4TiB, state_dir: %q, gpus: [%s]}\n", name, state,
		strings.TrimSuffix(strings.Repeat(fmt.Sprintf("{memory: %dGiB}, ", gpuMemory), s.GPUs), ", "))
}

// start starts the fleet of a scenario and returns once it serves.
func (s Scenario) start(ctx context.Context, o Options) (f *fleet, err error) {
	f = &fleet{program: o.Program, looks: s.Speed == 1 && s.Agents == 0}
	if f.dir, err = os.MkdirTemp("", "pilotlight-scenario-"); err != nil {
		return nil, fmt.Errorf("make a directory for the fleet: %w", err)
	}
	f.factor = filepath.Join(f.dir, "factor")
	if s.Agents == 0 {
		err = f.startAlone(ctx, s)
	} else {
		err = f.startMany(ctx, s, o.Consul)
	}
	if err != nil {
		return nil, errors.Join(err, f.stop())
	}
	return f, nil
}

// startAlone starts an edge that keeps its models itself.
func (f *fleet) startAlone(ctx context.Context, s Scenario) error {
	state := filepath.Join(f.dir, "state")
	var more []string
	if f.looks {
		more, f.others = []string{"--simulate"}, filepath.Join(state, "others.json")
	}
	return f.startEdge(ctx, "edge-0", "drain_limit: 3s\n"+s.node("made-up", state)+s.models(f.program, f.factor), more...)
}

// startMany starts Consul where there is one, agents that each have a node with all models, and edges.
func (f *fleet) startMany(ctx context.Context, s Scenario, consul string) error {
	discover := ""
	if consul != "" {
		addr, err := f.startConsul(ctx, consul)
		if err != nil {
			return err
		}
		discover = "consul: {address: " + addr + "}\n"
	}
	var links []string
	for i := range s.Agents {
		link, err := f.startAgent(ctx, s, i, discover)
		if err != nil {
			return err
		}
		links = append(links, link)
	}
	if consul == "" {
		discover = "agents: [" + strings.Join(links, ", ") + "]\n"
	}
	for i := range s.Edges {
		name := fmt.Sprintf("edge-%d", i)
		file := fmt.Sprintf("drain_limit: 3s\nnode: {name: %s, state_dir: %q}\n%s", name, filepath.Join(f.dir, name), discover)
		if err := f.startEdge(ctx, name, file); err != nil {
			return err
		}
		linked := func(body string) bool { return strings.Count(body, `"link": "linked"`) == s.Agents }
		if err := f.await(ctx, f.edges()[i], "/api/nodes", linked); err != nil {
			return err
		}
	}
	return nil
}

func (f *fleet) startConsul(ctx context.Context, program string) (addr string, err error) {
	ports, err := proc.FreePorts(4)
	if err != nil {
		return "", err
	}
	addr = fmt.Sprintf("127.0.0.1:%d", ports[0])
	args := []string{"agent", "-dev", "-bind", "127.0.0.1", "-dns-port", "-1", "-grpc-port", "-1"}
	for i, flag := range []string{"-http-port", "-server-port", "-serf-lan-port", "-serf-wan-port"} {
		args = append(args, flag, strconv.Itoa(ports[i]))
	}
	p := f.newProcess("consul", theOne, program, addr, args...)
	if err := p.start(); err != nil {
		return "", err
	}
	return addr, f.await(ctx, p, "/v1/status/leader", func(body string) bool { return len(strings.TrimSpace(body)) > 2 })
}

func (f *fleet) startAgent(ctx context.Context, s Scenario, i int, discover string) (link string, err error) {
	ports, err := proc.FreePorts(2)
	if err != nil {
		return "", err
	}
	name := fmt.Sprintf("agent-%d", i)
	// Edges come to 127.0.0.1, where the relay is; the agent itself has the same port of an address next to it.
	admin, own, link := fmt.Sprintf("127.0.0.1:%d", ports[0]), fmt.Sprintf("127.0.0.2:%d", ports[1]), fmt.Sprintf("127.0.0.1:%d", ports[1])
	file, err := f.write(name, fmt.Sprintf("admin: %s\nlink: {listen: %q, advertise: 127.0.0.1}\n%s%s%s", admin, own, discover,
		s.node(fmt.Sprintf("node-%d", i), filepath.Join(f.dir, name)), s.models(f.program, f.factor)))
	if err != nil {
		return "", err
	}
	between, err := newRelay(link, own)
	if err != nil {
		return "", fmt.Errorf("stand between edges and %s: %w", name, err)
	}
	f.relays = append(f.relays, between)
	p := f.newProcess(name, anAgent, f.program, admin, "agent", "-c", file)
	if err := p.start(); err != nil {
		return "", err
	}
	return link, f.await(ctx, p, "/healthz", nil)
}

func (f *fleet) startEdge(ctx context.Context, name, configuration string, more ...string) error {
	ports, err := proc.FreePorts(2)
	if err != nil {
		return err
	}
	file, err := f.write(name, configuration)
	if err != nil {
		return err
	}
	addr, admin := fmt.Sprintf("127.0.0.1:%d", ports[0]), fmt.Sprintf("127.0.0.1:%d", ports[1])
	args := append([]string{"serve", "-c", file, "--listen", addr, "--admin", admin}, more...)
	p := f.newProcess(name, anEdge, f.program, admin, args...)
	f.addrs = append(f.addrs, addr)
	if err := p.start(); err != nil {
		return err
	}
	return f.await(ctx, p, "/readyz", nil)
}

func (f *fleet) write(name, text string) (file string, err error) {
	file = filepath.Join(f.dir, name+".yaml")
	if err := os.WriteFile(file, []byte(text), 0o600); err != nil {
		return "", fmt.Errorf("configure %s: %w", name, err)
	}
	return file, nil
}

// of are the processes of a role.
func (f *fleet) of(is role) (all []*process) {
	for _, p := range f.processes {
		if p.role == is {
			all = append(all, p)
		}
	}
	return all
}

func (f *fleet) edges() []*process { return f.of(anEdge) }

// await asks a process for a page until it is there, and is as it should be.
func (f *fleet) await(ctx context.Context, p *process, path string, good func(body string) bool) error {
	ctx, cancel := context.WithTimeout(ctx, startTime)
	defer cancel()
	for {
		if body, err := get(ctx, p.admin, path); err == nil && (good == nil || good(body)) {
			return nil
		}
		if p.gone() {
			text, _ := os.ReadFile(p.log)
			return fmt.Errorf("%s ended before it served: %s", p.name, text)
		}
		select {
		case <-time.After(20 * time.Millisecond):
		case <-ctx.Done():
			return fmt.Errorf("%s does not answer within %s: %w", p.name, startTime, context.Cause(ctx))
		}
	}
}

// get asks an admin port for a page.
func get(ctx context.Context, addr, path string) (string, error) {
	r, err := http.NewRequestWithContext(ctx, http.MethodGet, "http://"+addr+path, http.NoBody)
	if err != nil {
		return "", err
	}
	r.Close = true // a kept connection would count as one that is left
	answer, err := http.DefaultClient.Do(r)
	if err != nil {
		return "", err
	}
	defer answer.Body.Close()
	text, err := io.ReadAll(io.LimitReader(answer.Body, 16<<20))
	if err == nil && answer.StatusCode != http.StatusOK {
		err = fmt.Errorf("%s says %s: %s", path, answer.Status, text)
	}
	return string(text), err
}

// post asks an admin port to do something.
func post(ctx context.Context, addr, path string) error {
	r, err := http.NewRequestWithContext(ctx, http.MethodPost, "http://"+addr+path, http.NoBody)
	if err != nil {
		return err
	}
	r.Close = true
	answer, err := http.DefaultClient.Do(r)
	if err != nil {
		return err
	}
	defer answer.Body.Close()
	if answer.StatusCode >= 300 {
		text, _ := io.ReadAll(io.LimitReader(answer.Body, 4096))
		return fmt.Errorf("%s says %s: %s", path, answer.Status, text)
	}
	return nil
}

// wakeAll wakes every backend, and waits until it is ready.
func (f *fleet) wakeAll(ctx context.Context, s Scenario) error {
	for _, m := range s.Fleet {
		for _, name := range m.names() {
			for range m.Backends {
				if err := post(ctx, f.edges()[0].admin, "/api/wake/"+name); err != nil {
					return fmt.Errorf("wake what is to be awake: %w", err)
				}
			}
		}
	}
	return nil
}

// stop ends it, and takes away what it wrote.
func (f *fleet) stop() error { return errors.Join(f.end(), os.RemoveAll(f.dir)) }

// end ends it with its model servers, what was started last first.
func (f *fleet) end() error {
	var errs []error
	for len(f.processes) > 0 {
		last := f.processes[len(f.processes)-1]
		f.processes = f.processes[:len(f.processes)-1]
		if last.cmd != nil {
			errs = append(errs, last.end())
		}
	}
	for _, r := range f.relays {
		r.close()
	}
	f.relays = nil
	return errors.Join(errs...)
}

// logs are those of edges and agents.
func (f *fleet) logs() (files []string, err error) {
	for _, pattern := range []string{"edge-*.log", "agent-*.log"} {
		found, err := filepath.Glob(filepath.Join(f.dir, pattern))
		if err != nil {
			return nil, err
		}
		files = append(files, found...)
	}
	return files, nil
}

// maxComplaints is how many a report shows.
const maxComplaints = 12

// complaints are what a log says beyond information, each sort once.
func complaints(file string) (all []string, err error) {
	log, err := os.Open(file)
	if err != nil {
		return nil, err
	}
	defer log.Close()
	seen := map[string]int{}
	for lines := bufio.NewScanner(log); lines.Scan(); {
		if !bytes.Contains(lines.Bytes(), []byte(`"level":"WARN"`)) && !bytes.Contains(lines.Bytes(), []byte(`"level":"ERROR"`)) {
			continue
		}
		var l line
		if json.Unmarshal(lines.Bytes(), &l) == nil {
			if seen[l.Msg]++; seen[l.Msg] == 1 && len(all) < maxComplaints {
				all = append(all, filepath.Base(file)+": "+lines.Text())
			}
		}
	}
	return all, nil
}
