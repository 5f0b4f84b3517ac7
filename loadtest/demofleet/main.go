// Demofleet runs a fleet on this machine to look at: Consul, agents of nodes with simulated GPUs and model servers, and edges, each
// a process of its own. Ctrl-C ends it all. It is what `make demo-fleet` runs.
package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"io"
	"net/http"
	"os"
	"os/exec"
	"os/signal"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"time"

	"pilotlight/probe/proc"
)

const (
	startTime = 30 * time.Second // that a process may take until it answers
	stopTime  = 30 * time.Second // that it may take to end
)

func main() {
	f := &fleet{}
	flag.StringVar(&f.pilotlight, "pilotlight", "bin/pilotlight", "the program")
	flag.StringVar(&f.consul, "consul", "bin/consul", "Consul; empty: edges are told where the agents are")
	flag.IntVar(&f.edges, "edges", 3, "how many edges, 1 to 100")
	flag.IntVar(&f.agents, "agents", 4, "how many agents, 1 to 26")
	once := flag.Bool("once", false, "end as soon as a request at each edge was answered")
	flag.Parse()
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer stop()
	if err := f.run(ctx, *once); err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
}

// fleet is what runs.
type fleet struct {
	pilotlight, consul string
	edges, agents      int

	dir      string
	running  []*process // in the order in which they were started
	discover string     // how edges and agents find one another: a line of their configurations
	links    []string   // addresses of the agents
	data     []string   // of the edges' data ports
	admin    []string   // and of their admin ports
}

// run starts everything, says what to do with it, and ends it when ctx ends.
func (f *fleet) run(ctx context.Context, once bool) (err error) {
	if f.edges < 1 || f.edges > 100 || f.agents < 1 || f.agents > 26 {
		return errors.New("there are 1 to 100 edges and 1 to 26 agents")
	}
	if f.pilotlight, err = filepath.Abs(f.pilotlight); err != nil {
		return fmt.Errorf("find pilotlight: %w", err)
	}
	if f.dir, err = os.MkdirTemp("", "pilotlight-fleet-"); err != nil {
		return fmt.Errorf("make a directory for the fleet: %w", err)
	}
	defer func() {
		err = errors.Join(err, f.end())
		_ = os.RemoveAll(f.dir)
	}()
	if err := f.start(ctx); err != nil {
		return err
	}
	f.explain()
	if once {
		return f.askEach(ctx)
	}
	<-ctx.Done()
	fmt.Println("\nending everything")
	return nil
}

func (f *fleet) start(ctx context.Context) error {
	if f.consul != "" {
		if err := f.startConsul(ctx); err != nil {
			return err
		}
	}
	for i := range f.agents {
		if err := f.startAgent(ctx, i); err != nil {
			return err
		}
	}
	if f.consul == "" {
		f.discover = "agents: [" + strings.Join(f.links, ", ") + "]"
	}
	for i := range f.edges {
		if err := f.startEdge(ctx, i); err != nil {
			return err
		}
	}
	return nil
}

func (f *fleet) startConsul(ctx context.Context) error {
	ports, err := proc.FreePorts(4)
	if err != nil {
		return err
	}
	addr := fmt.Sprintf("127.0.0.1:%d", ports[0])
	f.discover = "consul: {address: " + addr + "}"
	fmt.Println("starting Consul on", addr)
	args := []string{"agent", "-dev", "-bind", "127.0.0.1", "-dns-port", "-1", "-grpc-port", "-1"}
	for i, flag := range []string{"-http-port", "-server-port", "-serf-lan-port", "-serf-wan-port"} {
		args = append(args, flag, strconv.Itoa(ports[i]))
	}
	if err := f.launch("consul", f.consul, args...); err != nil {
		return err
	}
	return await(ctx, "http://"+addr+"/v1/status/leader", func(body string) bool { return len(strings.TrimSpace(body)) > 2 })
}

// node is what an agent's configuration says. Each node has two GPUs, which do not hold all of its models at once.
const node = `
admin: 127.0.0.1:%[1]d
node: {name: node-%[2]c, gpus: [{memory: 24GiB}, {memory: 24GiB}], nvml: off, host_memory: 64GiB, state_dir: %[3]q}
link: {listen: "127.0.0.1:%[4]d"}
%[5]s
models:
  llama-8b: # on every node
    aliases: [gpt-4o-mini]
    idle_time: 1m
    heartbeat: 1s
    backends:
      - process: {command: [%[6]q, modelsim, --port, "{port}", --model, llama-8b, --load, 3s, --wake-host, 300ms]}
        engine: vllm
        sleep: engine
        memory: 18GiB
        asleep_memory: 1GiB
        slots: 8
  model-%[2]c: # on this node only
    idle_time: 1m
    heartbeat: 1s
    backends:
      - process: {command: [%[6]q, modelsim, --port, "{port}", --model, model-%[2]c, --load, 4s, --step, 30ms]}
        engine: vllm
        sleep: engine
        memory: 40GiB
        asleep_memory: 2GiB
        gpus: 2
        slots: 4
`

func (f *fleet) startAgent(ctx context.Context, i int) error {
	ports, err := proc.FreePorts(2)
	if err != nil {
		return err
	}
	name := fmt.Sprintf("agent-%d", i)
	text := fmt.Sprintf(node, ports[0], 'a'+rune(i), filepath.Join(f.dir, name), ports[1], f.discover, f.pilotlight)
	file, err := f.write(name, text)
	if err != nil {
		return err
	}
	f.links = append(f.links, fmt.Sprintf("127.0.0.1:%d", ports[1]))
	if err := f.launch(name, f.pilotlight, "agent", "-c", file); err != nil {
		return err
	}
	return await(ctx, fmt.Sprintf("http://127.0.0.1:%d/healthz", ports[0]), nil)
}

// edge is what an edge's configuration says: where it is, and who knows the rest.
const edge = `
listen: 127.0.0.1:%d
admin: 127.0.0.1:%d
drain_limit: 3s
node: {name: edge-%d, state_dir: %q}
%s
`

func (f *fleet) startEdge(ctx context.Context, i int) error {
	ports, err := proc.FreePorts(2)
	if err != nil {
		return err
	}
	name := fmt.Sprintf("edge-%d", i)
	file, err := f.write(name, fmt.Sprintf(edge, ports[0], ports[1], i, filepath.Join(f.dir, name), f.discover))
	if err != nil {
		return err
	}
	f.data = append(f.data, fmt.Sprintf("127.0.0.1:%d", ports[0]))
	f.admin = append(f.admin, fmt.Sprintf("127.0.0.1:%d", ports[1]))
	if err := f.launch(name, f.pilotlight, "serve", "-c", file); err != nil {
		return err
	}
	linked := func(body string) bool { return strings.Count(body, `"link": "linked"`) == f.agents }
	return await(ctx, "http://"+f.admin[i]+"/api/nodes", linked)
}

// explain says what there is and what to do with it.
func (f *fleet) explain() {
	fmt.Printf("\n%d agents on nodes with simulated GPUs, and %d edges. A request to any edge wakes a model on some node:\n\n", f.agents, f.edges)
	for i, addr := range f.data {
		model := fmt.Sprintf("model-%c", 'a'+rune(i%f.agents))
		fmt.Printf("  curl -N http://%s/v1/chat/completions -H 'Content-Type: application/json' \\\n"+
			"    -d '{\"model\":%q,\"stream\":true,\"messages\":[{\"role\":\"user\",\"content\":\"Tell me about pilot lights.\"}]}'\n", addr, model)
	}
	fmt.Println("\nEvery edge sees the whole fleet, and says the same of it:")
	fmt.Println()
	for _, addr := range f.admin {
		fmt.Printf("  %s status --admin %s\n", f.pilotlight, addr)
	}
	fmt.Printf("  %s nodes --admin %s\n", f.pilotlight, f.admin[0])
	fmt.Println("\nEnd an agent, and what it left ready goes on serving:")
	fmt.Println()
	for _, p := range f.running {
		if strings.HasPrefix(p.name, "agent-") {
			fmt.Printf("  kill -9 %d   # %s\n", p.cmd.Process.Pid, p.name)
		}
	}
	fmt.Printf("\nLogs and configurations: %s   Ctrl-C ends it all.\n\n", f.dir)
}

// askEach asks every edge for a model of some node.
func (f *fleet) askEach(ctx context.Context) error {
	for i, addr := range f.data {
		body := fmt.Sprintf(`{"model":"model-%c","messages":[{"role":"user","content":"Hello."}]}`, 'a'+rune(i%f.agents))
		r, err := http.NewRequestWithContext(ctx, http.MethodPost, "http://"+addr+"/v1/chat/completions", strings.NewReader(body))
		if err != nil {
			return fmt.Errorf("ask an edge: %w", err)
		}
		r.Header.Set("Content-Type", "application/json")
		began := time.Now()
		answer, err := http.DefaultClient.Do(r)
		if err != nil {
			return fmt.Errorf("ask an edge: %w", err)
		}
		text, err := io.ReadAll(answer.Body)
		answer.Body.Close()
		if err != nil || answer.StatusCode != http.StatusOK {
			return fmt.Errorf("edge %d answers %s: %s (%w)", i, answer.Status, text, err)
		}
		fmt.Printf("edge %d answered after %s\n", i, time.Since(began).Round(time.Millisecond))
	}
	return nil
}

// process is one of the fleet's.
type process struct {
	name string
	cmd  *exec.Cmd
	log  *os.File
}

// launch starts a process in a group of its own, so that Ctrl-C comes to it from us, in order.
func (f *fleet) launch(name, program string, args ...string) error {
	log, err := os.Create(filepath.Join(f.dir, name+".log"))
	if err != nil {
		return fmt.Errorf("start %s: %w", name, err)
	}
	cmd := exec.Command(program, args...) //nolint:noctx // it ends when it is told to
	cmd.Stdout, cmd.Stderr = log, log
	cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true}
	if err := cmd.Start(); err != nil {
		log.Close()
		return fmt.Errorf("start %s: %w", name, err)
	}
	f.running = append(f.running, &process{name, cmd, log})
	return nil
}

// end ends everything, the last started first: edges, agents and with them their model servers, Consul.
func (f *fleet) end() error {
	var errs []error
	for len(f.running) > 0 {
		last := f.running[len(f.running)-1]
		f.running = f.running[:len(f.running)-1]
		_ = last.cmd.Process.Signal(os.Interrupt) // it may have been ended by hand
		late := time.AfterFunc(stopTime, func() {
			errs = append(errs, fmt.Errorf("%s does not end within %s", last.name, stopTime))
			_ = last.cmd.Process.Kill()
		})
		_ = last.cmd.Wait()
		late.Stop()
		last.log.Close()
	}
	return errors.Join(errs...)
}

func (f *fleet) write(name, text string) (file string, err error) {
	file = filepath.Join(f.dir, name+".yaml")
	if err := os.WriteFile(file, []byte(text), 0o600); err != nil {
		return "", fmt.Errorf("configure %s: %w", name, err)
	}
	return file, nil
}

// await asks for a page until it is there, and is as it should be.
func await(ctx context.Context, url string, good func(body string) bool) error {
	ctx, cancel := context.WithTimeout(ctx, startTime)
	defer cancel()
	for {
		if body, ok := page(ctx, url); ok && (good == nil || good(body)) {
			return nil
		}
		select {
		case <-time.After(20 * time.Millisecond):
		case <-ctx.Done():
			return fmt.Errorf("%s is not as it should be after %s: %w", url, startTime, context.Cause(ctx))
		}
	}
}

func page(ctx context.Context, url string) (body string, ok bool) {
	r, err := http.NewRequestWithContext(ctx, http.MethodGet, url, nil)
	if err != nil {
		return "", false
	}
	answer, err := http.DefaultClient.Do(r)
	if err != nil {
		return "", false
	}
	defer answer.Body.Close()
	text, err := io.ReadAll(answer.Body)
	return string(text), err == nil && answer.StatusCode == http.StatusOK
}
