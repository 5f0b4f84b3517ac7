// Package edge runs `pilotlight serve` as a process of its own, for the programs that measure it from outside.
package edge

import (
	"bufio"
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"time"
)

// Edge is a running `pilotlight serve`.
type Edge struct {
	Addr  string // of the data port
	Admin string // address of the admin port
	PID   int

	cmd       *exec.Cmd
	interrupt func() error // once: a second signal would end it before it has stopped its model servers
	log       string       // path
	ended     chan error   // how
}

// Build compiles pilotlight into dir and returns the path of the binary.
func Build(ctx context.Context, dir string) (string, error) {
	binary := filepath.Join(dir, "pilotlight")
	build := exec.CommandContext(ctx, "go", "build", "-o", binary, "pilotlight")
	build.Stderr = os.Stderr
	if err := build.Run(); err != nil {
		return "", fmt.Errorf("build pilotlight: %w", err)
	}
	return binary, nil
}

// Start runs the binary with a configuration, on free ports of the loopback address and with dir for its state, and returns
// once it serves. env adds to the environment. The edge ends with ctx at the latest.
func Start(ctx context.Context, binary, dir, configuration string, env ...string) (*Edge, error) {
	file := filepath.Join(dir, "pilotlight.yaml")
	if err := os.WriteFile(file, []byte(configuration), 0o600); err != nil {
		return nil, err
	}
	cmd := exec.CommandContext(ctx, binary, "serve", "-c", file, "--listen", "127.0.0.1:0", "--admin", "127.0.0.1:0")
	cmd.Env = append(append(os.Environ(), "XDG_STATE_HOME="+filepath.Join(dir, "state")), env...)
	cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true} // Ctrl-C is for us to pass on
	interrupt := sync.OnceValue(func() error { return cmd.Process.Signal(os.Interrupt) })
	cmd.Cancel = interrupt
	cmd.WaitDelay = 30 * time.Second
	log, err := os.Create(filepath.Join(dir, "pilotlight.log"))
	if err != nil {
		return nil, err
	}
	defer log.Close()
	cmd.Stderr = log // not a pipe: who reads a line for every request takes the time for it from the edge
	if err := cmd.Start(); err != nil {
		return nil, fmt.Errorf("start pilotlight: %w", err)
	}
	e := &Edge{PID: cmd.Process.Pid, cmd: cmd, interrupt: interrupt, log: log.Name(), ended: make(chan error, 1)}
	go func() { e.ended <- cmd.Wait() }()
	if err := e.awaitServing(); err != nil {
		return nil, errors.Join(err, e.Stop())
	}
	return e, nil
}

// entry is what matters of a line of its log.
type entry struct{ Msg, Listen, Admin string }

// awaitServing reads the log until it names the data port.
func (e *Edge) awaitServing() error {
	for {
		text, err := os.ReadFile(e.log)
		if err != nil {
			return err
		}
		for line := range bytes.Lines(text) {
			var got entry
			if json.Unmarshal(line, &got) == nil && got.Msg == "serving" {
				e.Addr, e.Admin = got.Listen, got.Admin
				return nil
			}
		}
		select {
		case err := <-e.ended:
			e.ended <- err
			return fmt.Errorf("pilotlight ended before it served: %s", text)
		case <-time.After(10 * time.Millisecond):
		}
	}
}

// complain copies what is more than information from the log.
func (e *Edge) complain(w io.Writer) error {
	log, err := os.Open(e.log)
	if err != nil {
		return err
	}
	defer log.Close()
	lines := bufio.NewScanner(log)
	for lines.Scan() {
		if !bytes.Contains(lines.Bytes(), []byte(`"level":"INFO"`)) {
			fmt.Fprintln(w, lines.Text())
		}
	}
	return lines.Err()
}

// Stop ends the edge and its model servers. It must be called exactly once.
func (e *Edge) Stop() error {
	if err := e.interrupt(); err != nil && !errors.Is(err, os.ErrProcessDone) {
		return fmt.Errorf("stop pilotlight: %w", err)
	}
	return errors.Join(<-e.ended, e.complain(os.Stderr))
}

// CPU is the processor time that a process has used, exact to 10 ms, without that of the processes it started.
func CPU(pid int) (time.Duration, error) {
	text, err := os.ReadFile("/proc/" + strconv.Itoa(pid) + "/stat")
	if err != nil {
		return 0, fmt.Errorf("read the processor time of process %d: %w", pid, err)
	}
	_, after, _ := strings.Cut(string(text), ") ") // the name of the program may hold anything but this
	fields := strings.Fields(after)
	if len(fields) < 13 {
		return 0, fmt.Errorf("read the processor time of process %d: got %q", pid, text)
	}
	var ticks int64
	for _, field := range fields[11:13] { // utime and stime
		n, err := strconv.ParseInt(field, 10, 64)
		if err != nil {
			return 0, fmt.Errorf("read the processor time of process %d: %w", pid, err)
		}
		ticks += n
	}
	const perSecond = 100 // sysconf(_SC_CLK_TCK), the same on every Linux that Go runs on
	return time.Duration(ticks) * time.Second / perSecond, nil
}

// Memory is that of a process, in bytes; of what it shares with others it has its share.
func Memory(pid int) (int64, error) {
	text, err := os.ReadFile("/proc/" + strconv.Itoa(pid) + "/smaps_rollup")
	if err != nil {
		return 0, fmt.Errorf("read the memory of process %d: %w", pid, err)
	}
	_, after, _ := bytes.Cut(text, []byte("\nPss:"))
	var kib int64
	if _, err := fmt.Sscan(string(after), &kib); err != nil {
		return 0, fmt.Errorf("read the memory of process %d: got %q", pid, text)
	}
	return kib << 10, nil
}
