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
	read      chan error   // the end of its log
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
	log, err := cmd.StderrPipe()
	if err != nil {
		return nil, err
	}
	if err := cmd.Start(); err != nil {
		return nil, fmt.Errorf("start pilotlight: %w", err)
	}
	e := &Edge{PID: cmd.Process.Pid, cmd: cmd, interrupt: interrupt, read: make(chan error, 1)}
	lines := bufio.NewScanner(log)
	if err := e.awaitServing(lines); err != nil {
		return nil, errors.Join(err, cmd.Wait())
	}
	go func() { e.read <- complaints(os.Stderr, lines) }()
	return e, nil
}

// entry is what matters of a line of its log.
type entry struct{ Msg, Listen, Admin string }

// awaitServing reads the log until it names the data port.
func (e *Edge) awaitServing(lines *bufio.Scanner) error {
	var said strings.Builder
	for lines.Scan() {
		var got entry
		if json.Unmarshal(lines.Bytes(), &got) == nil && got.Msg == "serving" {
			e.Addr, e.Admin = got.Listen, got.Admin
			return nil
		}
		said.WriteString(lines.Text() + "\n")
	}
	return fmt.Errorf("pilotlight ended before it served: %s", said.String())
}

// complaints copies what is more than information. It reads a line for every request: what it spends, the edge lacks.
func complaints(w io.Writer, lines *bufio.Scanner) error {
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
	return errors.Join(<-e.read, e.cmd.Wait())
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
