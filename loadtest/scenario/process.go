package scenario

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"sync"
	"syscall"
	"time"
)

// role is what a process of a fleet is.
type role string

// The roles. Backends are no processes of ours: agents and edges start them.
const (
	anEdge   role = "edge"
	anAgent  role = "agent"
	theOne   role = "consul"
	aBackend role = "backend"
)

// process is one of a fleet's, which may be killed, frozen and started again.
type process struct {
	name    string
	role    role
	program string
	args    []string
	log     string // path
	admin   string // address of its admin port

	mu    sync.Mutex // guards what follows
	cmd   *exec.Cmd
	ended chan error
}

// start starts it, for the first time or again. Its log goes on.
func (p *process) start() error {
	log, err := os.OpenFile(p.log, os.O_CREATE|os.O_WRONLY|os.O_APPEND, 0o600)
	if err != nil {
		return fmt.Errorf("open the log of %s: %w", p.name, err)
	}
	defer log.Close()
	cmd := exec.CommandContext(context.Background(), p.program, p.args...) // it is ended in order, whatever ends us
	cmd.Stdout, cmd.Stderr = log, log                                      // not a pipe: who reads a line for every request takes the time for it from the edge
	cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true}                  // Ctrl-C is for us to pass on
	if err := cmd.Start(); err != nil {
		return fmt.Errorf("start %s: %w", p.name, err)
	}
	ended := make(chan error, 1)
	go func() { ended <- cmd.Wait() }()
	p.mu.Lock()
	defer p.mu.Unlock()
	p.cmd, p.ended = cmd, ended
	return nil
}

// pid is that of the process that was started last.
func (p *process) pid() int {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.cmd.Process.Pid
}

func (p *process) signal(s syscall.Signal) error {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.cmd.Process.Signal(s)
}

// kill ends it at once, and returns when it is gone.
func (p *process) kill() error {
	if err := p.signal(syscall.SIGKILL); err != nil && !errors.Is(err, os.ErrProcessDone) {
		return fmt.Errorf("kill %s: %w", p.name, err)
	}
	p.await()
	return nil
}

// await waits until it has ended, and says how.
func (p *process) await() error {
	p.mu.Lock()
	ended := p.ended
	p.mu.Unlock()
	err := <-ended
	ended <- err // for whoever else asks
	return err
}

// gone says whether it has ended.
func (p *process) gone() bool {
	p.mu.Lock()
	defer p.mu.Unlock()
	return len(p.ended) > 0
}

// end ends it as Ctrl-C does: edges and agents end their model servers as well.
func (p *process) end() error {
	_ = p.signal(syscall.SIGCONT) // it may be frozen,
	_ = p.signal(syscall.SIGINT)  // or have ended
	late := time.AfterFunc(stopTime, func() { _ = p.signal(syscall.SIGKILL) })
	err := p.await()
	if !late.Stop() {
		return fmt.Errorf("%s does not end within %s", p.name, stopTime)
	}
	if p.role == theOne {
		return nil // how Consul ends is its own business
	}
	if err != nil {
		return fmt.Errorf("%s: %w", p.name, err)
	}
	return nil
}

// newProcess is one that writes its log into the fleet's directory.
func (f *fleet) newProcess(name string, is role, program, admin string, args ...string) *process {
	p := &process{name: name, role: is, program: program, args: args, log: filepath.Join(f.dir, name+".log"), admin: admin}
	f.processes = append(f.processes, p)
	return p
}
