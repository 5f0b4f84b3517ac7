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
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"time"

	"pilotlight/probe/proc"
)

// Bounds of how long the parts of a fleet may take.
const (
	startTime = 30 * time.Second
	stopTime  = 30 * time.Second
)

// fleet is a pilotlight with its model servers, as processes of this host.
type fleet struct {
	dir   string
	addr  string // of the data port
	admin string
	cmd   *exec.Cmd
	log   string // path
	looks bool   // it looks at its simulated GPUs, which takes as long as in the world
	ended chan error
}

// configuration is the fleet's file.
func (s Scenario) configuration(program, dir string) string {
	var b strings.Builder
	fmt.Fprintf(&b, "drain_limit: 3s\nnode: {name: made-up, nvml: off, host_memory: 4TiB, state_dir: %q, gpus: [%s]}\nmodels:\n", filepath.Join(dir, "state"),
		strings.TrimSuffix(strings.Repeat(fmt.Sprintf("{memory: %dGiB}, ", gpuMemory), s.GPUs), ", "))
	for _, m := range s.Fleet {
		for _, name := range m.names() {
			fmt.Fprintf(&b, "  %s:\n    idle_time: %s\n    heartbeat: 1s\n    line: {requests: 10000}\n    backends:\n", name, s.real(s.Idle))
			for range m.Backends {
				fmt.Fprintf(&b, "      - process: {command: [%q, modelsim, --port, \"{port}\", --model, %s, --load, %s, --wake-host, %s, --step, %s, --step-per-seq, %s, --prefill, 0s, "+
					"--slots, \"%d\", --gpu-memory, \"%g\", --gpu-memory-asleep, \"%g\"]}\n"+
					"        engine: vllm\n        sleep: engine\n        memory: %gGiB\n        asleep_memory: %gGiB\n        host_memory: %gGiB\n        slots: %d\n",
					program, name, s.real(m.Load), s.real(m.Wake), s.real(m.Step), s.real(stepPerSeq), m.Slots, m.Memory, asleepMemory,
					m.Memory, asleepMemory, m.Memory, m.Slots)
			}
		}
	}
	return b.String()
}

// start starts the fleet of a scenario and returns once it serves.
func (s Scenario) start(ctx context.Context, program string) (f *fleet, err error) {
	f = &fleet{ended: make(chan error, 1), looks: s.Speed == 1}
	if f.dir, err = os.MkdirTemp("", "pilotlight-scenario-"); err != nil {
		return nil, fmt.Errorf("make a directory for the fleet: %w", err)
	}
	ports, err := proc.FreePorts(2)
	if err != nil {
		return nil, errors.Join(err, os.RemoveAll(f.dir))
	}
	f.addr, f.admin = fmt.Sprintf("127.0.0.1:%d", ports[0]), fmt.Sprintf("127.0.0.1:%d", ports[1])
	if err := f.launch(program, s.configuration(program, f.dir)); err != nil {
		return nil, errors.Join(err, os.RemoveAll(f.dir))
	}
	if err := f.await(ctx); err != nil {
		return nil, errors.Join(err, f.stop())
	}
	return f, nil
}

func (f *fleet) launch(program, configuration string) error {
	file := filepath.Join(f.dir, "pilotlight.yaml")
	if err := os.WriteFile(file, []byte(configuration), 0o600); err != nil {
		return fmt.Errorf("configure the fleet: %w", err)
	}
	f.log = filepath.Join(f.dir, "pilotlight.log")
	log, err := os.Create(f.log)
	if err != nil {
		return fmt.Errorf("open the log of the fleet: %w", err)
	}
	defer log.Close()
	args := []string{"serve", "-c", file, "--listen", f.addr, "--admin", f.admin}
	if f.looks {
		args = append(args, "--simulate")
	}
	f.cmd = exec.Command(program, args...)
	f.cmd.Stderr = log                                      // not a pipe: who reads a line for every request takes the time for it from the edge
	f.cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true} // Ctrl-C is for us to pass on
	if err := f.cmd.Start(); err != nil {
		return fmt.Errorf("start the fleet: %w", err)
	}
	go func() { f.ended <- f.cmd.Wait() }()
	return nil
}

// await waits until it answers.
func (f *fleet) await(ctx context.Context) error {
	ctx, cancel := context.WithTimeout(ctx, startTime)
	defer cancel()
	for {
		if _, err := f.get(ctx, "/readyz"); err == nil {
			return nil
		}
		select {
		case <-time.After(20 * time.Millisecond):
		case err := <-f.ended:
			f.ended <- err
			text, _ := os.ReadFile(f.log)
			return fmt.Errorf("the fleet ended before it served: %s", text)
		case <-ctx.Done():
			return fmt.Errorf("the fleet does not serve within %s: %w", startTime, context.Cause(ctx))
		}
	}
}

// get asks the admin port for a page.
func (f *fleet) get(ctx context.Context, path string) (string, error) {
	r, err := http.NewRequestWithContext(ctx, http.MethodGet, "http://"+f.admin+path, http.NoBody)
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

// wakeAll wakes every backend, and waits until it is ready.
func (f *fleet) wakeAll(ctx context.Context, s Scenario) error {
	for _, m := range s.Fleet {
		for _, name := range m.names() {
			for range m.Backends {
				if err := f.post(ctx, "/api/wake/"+name); err != nil {
					return fmt.Errorf("wake what is to be awake: %w", err)
				}
			}
		}
	}
	return nil
}

// stop ends it, and takes away what it wrote.
func (f *fleet) stop() error { return errors.Join(f.end(), os.RemoveAll(f.dir)) }

// end ends it with its model servers.
func (f *fleet) end() error {
	_ = f.cmd.Process.Signal(os.Interrupt) // it may have ended by itself
	late := time.AfterFunc(stopTime, func() { _ = f.cmd.Process.Kill() })
	err := <-f.ended
	if !late.Stop() {
		err = fmt.Errorf("the fleet does not end within %s", stopTime)
	}
	return err
}

// complaints are what its log says beyond information, each sort once.
func (f *fleet) complaints() (all []string, err error) {
	log, err := os.Open(f.log)
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
			if seen[l.Msg]++; seen[l.Msg] == 1 {
				all = append(all, lines.Text())
			}
		}
	}
	return all, nil
}
