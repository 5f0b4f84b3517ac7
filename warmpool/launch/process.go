package launch

import (
	"context"
	"errors"
	"fmt"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"sync/atomic"
	"syscall"
	"time"

	"pilotlight/probe/proc"
	"pilotlight/warmpool"
)

const (
	killTime  = 30 * time.Second // a group may take to end after SIGKILL: the driver has memory to clear up
	lastWords = 8 << 10          // bytes of the log in which a process that ends may say that it was short of GPU memory
	youngTime = time.Second      // a process that ends younger than this and says that its port is taken gets another
)

// child is a model server that is a process of ours: one that we started, or that a Launcher before us did.
type child struct {
	pid     int // it leads a process group of this number
	started time.Time
	log     string // path of its log
	logFrom int64  // where its part of the log begins

	stopping atomic.Bool   // we end it, so that it ends is no news
	ended    chan struct{} // closed when it has ended
	why      error         // set before ended is closed
	gone     chan error    // capacity 1: why it ended, if not by us
}

func newChild(pid int, started time.Time, log string, logFrom int64) *child {
	return &child{
		pid: pid, started: started, log: log, logFrom: logFrom,
		ended: make(chan struct{}), gone: make(chan error, 1),
	}
}

// end tells everybody that the process has ended.
func (c *child) end(how string) {
	text, err := tail(c.log, c.logFrom)
	why := &endedError{how: how, age: time.Since(c.started), line: causeOf(text)}
	if err != nil {
		why.line = fmt.Sprintf("its log cannot be read: %v", err)
	}
	why.portTaken = why.age < youngTime && portTaken.Match(text)
	why.noMemory = outOfMemory.Match(text[max(0, len(text)-lastWords):])
	c.why = why
	close(c.ended)
	if !c.stopping.Load() {
		c.gone <- c.why
	}
}

// sweep ends what a leader that ended by itself left of its group: workers that hold GPU memory and serve nobody.
func (c *child) sweep() {
	if !c.stopping.Load() {
		_ = syscall.Kill(-c.pid, syscall.SIGKILL)
	}
}

// endedError is why a process is no more.
type endedError struct {
	how       string        // "exited with status 1"
	age       time.Duration // it reached
	line      string        // of its log that looks like the cause
	portTaken bool          // and another one may do
	noMemory  bool          // it found too little on its GPUs
}

// Is tells that it is warmpool.ErrOutOfMemory, too, where it is.
func (e *endedError) Is(target error) bool { return target == warmpool.ErrOutOfMemory && e.noMemory }

func (e *endedError) Error() string {
	s := fmt.Sprintf("it %s after %v", e.how, e.age.Round(time.Millisecond))
	if e.line != "" {
		s += ": " + e.line
	}
	return s
}

// portTaken is how programs say that somebody else listens on their port.
var portTaken = regexp.MustCompile(`(?i)address (is )?already in use|EADDRINUSE|port \S* ?(is )?already in use`)

// start starts the process on the given GPUs and records it before anything else, so that whoever comes after us finds it.
func (l *Launcher) start(gpus []int) error {
	p := l.spec.Backend.Process
	port := p.Port
	if port == 0 {
		free, err := proc.FreePorts(1)
		if err != nil {
			return err
		}
		port = free[0]
	}
	cmd, err := l.command(port, gpus)
	if err != nil {
		return err
	}
	path := l.path("logs", ".log")
	log, from, err := openLog(path)
	if err != nil {
		return err
	}
	defer log.Close() //nolint:errcheck // it is the process' own by now
	cmd.Stdout, cmd.Stderr = log, log
	if err := cmd.Start(); err != nil {
		return fmt.Errorf("start %s: %w", p.Command[0], err)
	}

	c := newChild(cmd.Process.Pid, time.Now(), path, from)
	born, err := birth(c.pid)
	l.child = c
	l.pid.Store(int64(c.pid))
	l.record = record{
		PID: c.pid, Born: born, Addr: net.JoinHostPort("127.0.0.1", strconv.Itoa(port)), GPUs: slices.Clone(gpus),
		Command: commandHash(*p), Started: c.started,
	}
	// It is its parent that has to see it off, for as long as it lives: Close does not wait for this one.
	go func() {
		awaitExit(c.pid)
		c.sweep() // before Wait: until then its number is taken
		_ = cmd.Wait()
		c.end(how(cmd.ProcessState))
	}()
	l.watchers.Go(func() { l.trimLog(c) })
	return errors.Join(err, l.saveRecord())
}

// command makes the command with everything filled in.
func (l *Launcher) command(port int, gpus []int) (*exec.Cmd, error) {
	p := l.spec.Backend.Process
	indices := make([]string, len(gpus))
	for i, gpu := range gpus {
		indices[i] = strconv.Itoa(gpu)
	}
	list := strings.Join(indices, ",")
	fill := strings.NewReplacer("{port}", strconv.Itoa(port), "{gpus}", list)

	args := make([]string, len(p.Command))
	for i, arg := range p.Command {
		args[i] = fill.Replace(arg)
	}
	cmd := exec.Command(args[0], args[1:]...) //nolint:noctx // it outlives every context here
	cmd.Dir = p.Dir
	cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true}
	cmd.Env = os.Environ()
	if len(gpus) > 0 { // which CUDA would number by speed, and the driver numbers by place
		cmd.Env = append(cmd.Env, "CUDA_DEVICE_ORDER=PCI_BUS_ID", "CUDA_VISIBLE_DEVICES="+list)
	}
	for name, value := range p.Env {
		cmd.Env = append(cmd.Env, name+"="+fill.Replace(value))
	}
	for name, path := range p.SecretEnv {
		secret, err := os.ReadFile(path)
		if err != nil {
			return nil, fmt.Errorf("read the secret %s: %w", name, err)
		}
		cmd.Env = append(cmd.Env, name+"="+strings.TrimRight(string(secret), "\r\n"))
	}
	return cmd, nil
}

// current is the process that is up, be it that it has to be adopted. What has ended is forgotten.
func (l *Launcher) current() *child {
	if l.child == nil && l.record.PID != 0 {
		l.adopt()
	}
	if l.child == nil {
		return nil
	}
	select {
	case <-l.child.ended:
		l.child = nil
		l.dropRecord()
	default:
	}
	return l.child
}

// adopt takes over the process of the record, if it is still that one.
func (l *Launcher) adopt() {
	if l.spec.Backend.Process == nil {
		l.log.Warn("the configuration has no process any more for one that may still run", "pid", l.record.PID)
		l.record.PID = 0
		return
	}
	if !lives(l.record.PID, l.record.Born) {
		l.log.Info("the process of a record has ended", "pid", l.record.PID)
		l.dropRecord()
		return
	}
	if l.record.Command != commandHash(*l.spec.Backend.Process) {
		l.log.Warn("adopted a process that an older configuration started; stop it to start it anew", "pid", l.record.PID)
	} else {
		l.log.Info("adopted a process", "pid", l.record.PID)
	}
	c, born := newChild(l.record.PID, l.record.Started, l.path("logs", ".log"), 0), l.record.Born
	l.child = c
	l.pid.Store(int64(c.pid))
	l.watchers.Go(func() {
		if awaitEnd(c.pid, born, l.closing) {
			c.sweep()
			c.end("ended")
		}
	})
	l.watchers.Go(func() { l.trimLog(c) })
}

// stopProcess ends the process and its group: politely first, until its time is up or ctx ends.
func (l *Launcher) stopProcess(ctx context.Context, c *child) error {
	c.stopping.Store(true)
	patience := l.spec.Backend.Process.StopTime.Std()
	if len(l.record.Checkpointed) > 0 {
		patience = 0 // it would wait for its GPU to say good-bye to
	}
	polite, cancel := context.WithTimeout(ctx, patience)
	defer cancel()
	if !signalUntilGone(polite, c, syscall.SIGTERM) {
		sure, cancel := context.WithTimeout(context.WithoutCancel(ctx), killTime)
		defer cancel()
		if !signalUntilGone(sure, c, syscall.SIGKILL) {
			return fmt.Errorf("process group %d is still there %v after SIGKILL", c.pid, killTime)
		}
	}
	l.child = nil
	l.dropRecord()
	return nil
}

// signalUntilGone reports whether the whole group ended before ctx did.
func signalUntilGone(ctx context.Context, c *child, signal syscall.Signal) bool {
	_ = syscall.Kill(-c.pid, signal)
	ended := c.ended
	for pause := firstPause; ; pause = min(2*pause, remotePause) {
		if !groupLives(c.pid) && ended == nil {
			return true
		}
		select {
		case <-ended:
			ended = nil // only the rest of the group is left to wait for
		case <-ctx.Done():
			return false
		case <-time.After(pause):
		}
	}
}

// pollEnd returns true when a process has ended, within a second, and false when cancelled is closed.
func pollEnd(pid int, born string, cancelled <-chan struct{}) bool {
	for lives(pid, born) {
		select {
		case <-cancelled:
			return false
		case <-time.After(time.Second):
		}
	}
	return true
}

// how says how a process ended.
func how(state *os.ProcessState) string {
	if status, ok := state.Sys().(syscall.WaitStatus); ok && status.Signaled() {
		return fmt.Sprintf("was ended by signal %d (%v)", status.Signal(), status.Signal())
	}
	return fmt.Sprintf("exited with status %d", state.ExitCode())
}

func openLog(path string) (log *os.File, size int64, err error) {
	if err := os.MkdirAll(filepath.Dir(path), 0o700); err != nil {
		return nil, 0, fmt.Errorf("open its log: %w", err)
	}
	log, err = os.OpenFile(path, os.O_APPEND|os.O_CREATE|os.O_WRONLY, 0o600)
	if err != nil {
		return nil, 0, fmt.Errorf("open its log: %w", err)
	}
	info, err := log.Stat()
	if err != nil {
		return nil, 0, errors.Join(fmt.Errorf("open its log: %w", err), log.Close())
	}
	return log, info.Size(), nil
}
