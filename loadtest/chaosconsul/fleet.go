package main

import (
	"bufio"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"time"

	"pilotlight/loadtest/realconsul"
	"pilotlight/probe/proc"
)

// fleet is two edges and two agents, each with a model that stays awake and one that sleeps whenever it can.
type fleet struct {
	edges  []*process
	agents []*process
}

// process is one pilotlight.
type process struct {
	cmd           *exec.Cmd
	log           string // its file
	listen, admin string
}

// last is what it said last.
func (p *process) last() string {
	const most = 2000
	text, err := os.ReadFile(p.log)
	if err != nil {
		return err.Error()
	}
	return string(text[max(0, len(text)-most):])
}

const agentFile = `
admin: %[1]s
drain_limit: 1s
link: {listen: "%[2]s"}
node: {name: "%[3]s", state_dir: "%[4]s", gpus: [{memory: 48GiB}]}
consul: {address: "%[5]s"}
models:
  steady:
    min: 1
    never_sleep: true
    backends: [{process: {command: ["%[6]s", modelsim, --port, "{port}", --model, steady, --load, 0s, --answer, "4"]}, engine: vllm, memory: 8GiB, slots: 64}]
  sleepy:
    idle_time: 1s
    backends: [{process: {command: ["%[6]s", modelsim, --port, "{port}", --model, sleepy, --load, 200ms, --answer, "4"]}, engine: vllm, memory: 8GiB}]
`

const edgeFile = `
listen: %[1]s
admin: %[2]s
drain_limit: 1s
node: {name: "%[3]s", state_dir: "%[4]s"}
consul: {address: "%[5]s"}
`

// startFleet builds pilotlight and starts everything; it returns when each edge knows all and answers.
func startFleet(ctx context.Context, dir string, cluster *realconsul.Cluster) (*fleet, error) {
	binary := filepath.Join(dir, "pilotlight")
	build := exec.CommandContext(ctx, "go", "build", "-o", binary, "pilotlight")
	if text, err := build.CombinedOutput(); err != nil {
		return nil, fmt.Errorf("build pilotlight: %w: %s", err, text)
	}
	f := &fleet{}
	all, err := free(2 * 4) // at once: none of them is taken until its process has started
	if err != nil {
		return nil, err
	}
	for i := range 2 {
		addrs := all[4*i:]
		consul := cluster.Servers[i].Addr
		node, edge := fmt.Sprintf("node-%d", i), fmt.Sprintf("edge-%d", i)
		agent, err := begin(ctx, dir, binary, "agent", node, fmt.Sprintf(agentFile, addrs[0], addrs[1], node, filepath.Join(dir, node), consul, binary))
		if err != nil {
			return nil, errors.Join(err, f.end())
		}
		f.agents = append(f.agents, agent)
		served, err := begin(ctx, dir, binary, "serve", edge, fmt.Sprintf(edgeFile, addrs[2], addrs[3], edge, filepath.Join(dir, edge), consul))
		if err != nil {
			return nil, errors.Join(err, f.end())
		}
		served.listen, served.admin = addrs[2], addrs[3]
		f.edges = append(f.edges, served)
	}
	if err := f.well(ctx); err != nil {
		return nil, errors.Join(err, f.end())
	}
	return f, nil
}

// free are addresses where nobody listens.
func free(n int) (addrs []string, err error) {
	ports, err := proc.FreePorts(n)
	for _, port := range ports {
		addrs = append(addrs, fmt.Sprintf("127.0.0.1:%d", port))
	}
	return addrs, err
}

func begin(ctx context.Context, dir, binary, verb, name, text string) (*process, error) {
	file := filepath.Join(dir, name+".yaml")
	if err := os.WriteFile(file, []byte(text), 0o644); err != nil {
		return nil, err
	}
	log, err := os.Create(filepath.Join(dir, name+".log"))
	if err != nil {
		return nil, err
	}
	defer log.Close()
	p := &process{cmd: exec.CommandContext(ctx, binary, verb, "-c", file), log: log.Name()}
	p.cmd.Stdout, p.cmd.Stderr = log, log
	p.cmd.Cancel = func() error { return p.cmd.Process.Signal(os.Interrupt) }
	return p, p.cmd.Start()
}

// end stops all, the model servers included: that is what SIGINT asks of an agent.
func (f *fleet) end() error {
	for _, p := range append(f.edges, f.agents...) {
		_ = p.cmd.Process.Signal(syscall.SIGINT)
	}
	for _, p := range append(f.edges, f.agents...) {
		_ = p.cmd.Wait()
	}
	return nil
}

// well waits until Consul answers each edge, and each edge knows both agents and both of the steady backends.
func (f *fleet) well(ctx context.Context) error {
	ctx, cancel := context.WithTimeout(ctx, 2*time.Minute)
	defer cancel()
	for _, e := range f.edges {
		for why := e.ill(); why != nil; why = e.ill() {
			pause(ctx, 100*time.Millisecond)
			if ctx.Err() != nil {
				return fmt.Errorf("an edge is not well again: %w; it said last:\n%s", why, e.last())
			}
		}
	}
	return nil
}

// ill says what an edge lacks; nil: nothing.
func (p *process) ill() error {
	var s struct {
		Models []struct {
			Name     string
			Backends []struct{ State string }
		}
		Consul struct {
			Answers       bool
			Failure       string
			Agents, Edges int
			Locks         map[string]string
		}
	}
	answer, err := get("http://" + p.admin + "/api/status")
	if err != nil {
		return err
	}
	defer answer.Body.Close()
	if err := json.NewDecoder(answer.Body).Decode(&s); err != nil {
		return err
	}
	if !s.Consul.Answers || s.Consul.Agents != 2 || s.Consul.Edges != 2 || s.Consul.Locks["planner"] == "" {
		return fmt.Errorf("status of Consul: %+v", s.Consul)
	}
	ready := 0
	for _, m := range s.Models {
		for _, b := range m.Backends {
			if m.Name == "steady" && b.State == "ready" {
				ready++
			}
		}
	}
	if ready != 2 {
		return fmt.Errorf("%d backends of steady are ready", ready)
	}
	return nil
}

// get asks a process of ours, which answers soon or not at all.
func get(url string) (*http.Response, error) {
	client := http.Client{Timeout: 10 * time.Second}
	return client.Get(url) //nolint:noctx // it has a limit
}

// queries is how often the edge has asked Consul.
func (p *process) queries() int {
	answer, err := get("http://" + p.admin + "/metrics")
	if err != nil {
		return 0
	}
	defer answer.Body.Close()
	lines := bufio.NewScanner(answer.Body)
	for lines.Scan() {
		if value, ok := strings.CutPrefix(lines.Text(), "pilotlight_consul_requests_total "); ok {
			n, _ := strconv.ParseFloat(value, 64)
			return int(n)
		}
	}
	return 0
}

// load are requests that go on until stop.
type load struct {
	cancel context.CancelFunc
	all    sync.WaitGroup

	mu sync.Mutex // guards what follows
	result
}

// startLoad asks each edge four times a second for what is awake, and every three seconds for what has gone to sleep.
func (f *fleet) startLoad(ctx context.Context) *load {
	ctx, cancel := context.WithCancel(ctx)
	l := &load{cancel: cancel}
	for _, e := range f.edges {
		for model, every := range map[string]time.Duration{"steady": 250 * time.Millisecond, "sleepy": 3 * time.Second} {
			l.all.Go(func() {
				tick := time.NewTicker(every)
				defer tick.Stop()
				for {
					select {
					case <-tick.C:
						l.note(ctx, model, ask(e.listen, model))
					case <-ctx.Done():
						return
					}
				}
			})
		}
	}
	return l
}

func (l *load) note(_ context.Context, model string, err error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.requests++
	if model == "sleepy" {
		l.cold++
	}
	if err != nil {
		l.failed++
		l.reason = err.Error()
	}
}

// stop waits for the requests that are under way.
func (l *load) stop() result {
	l.cancel()
	l.all.Wait()
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.result
}

// ask sends one request and reads all of the answer.
func ask(addr, model string) error {
	client := http.Client{Timeout: time.Minute}
	body := fmt.Sprintf(`{"model":%q,"messages":[{"role":"user","content":"hello"}]}`, model)
	answer, err := client.Post("http://"+addr+"/v1/chat/completions", "application/json", strings.NewReader(body)) //nolint:noctx // its client has a limit
	if err != nil {
		return err
	}
	defer answer.Body.Close()
	text, err := io.ReadAll(answer.Body)
	if err != nil {
		return err
	}
	if answer.StatusCode != http.StatusOK {
		return fmt.Errorf("%s: %s", answer.Status, text)
	}
	return nil
}
