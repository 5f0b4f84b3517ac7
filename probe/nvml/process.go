package nvml

import (
	"bufio"
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os/exec"
	"strings"
	"syscall"
	"time"

	"pilotlight/config"
	"pilotlight/probe"
)

const (
	maxLine = 4 << 20 // bytes of a line
	maxSaid = 2 << 10 // bytes of what a process says on its standard error that are kept: the last
	maxGPUs = 1024    // more than a node has, instances included
	maxSize = 1 << 50 // more memory than a GPU has
)

// line is what a process that looks writes: a reading, or last of all why it ends.
type line struct {
	Reading   *reading `json:",omitempty"`
	NoLibrary string   `json:",omitempty"`
	Afresh    bool     `json:",omitempty"`
}

// errAfresh ends a process that can see nothing new of a GPU.
var errAfresh = errors.New("a GPU is lost; the driver is asked anew which there are")

// Child looks with the library at path, or the system's where that is empty, and writes each reading to out. It ends when in does:
// when whoever started it is gone, however that came.
func Child(ctx context.Context, path string, in io.Reader, out io.Writer) error {
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	go func() {
		_, _ = io.Copy(io.Discard, in)
		cancel()
	}()
	lines := json.NewEncoder(out)
	say := func(l line) {
		if lines.Encode(l) != nil {
			cancel()
		}
	}
	looked := make(chan error, 1)
	go func() { looked <- Look(ctx, path, func(r probe.GPUs) { say(line{Reading: write(r)}) }) }()
	select {
	case err := <-looked:
		switch {
		case errors.Is(err, ErrNoLibrary):
			say(line{NoLibrary: err.Error()})
			return nil
		case errors.Is(err, errAfresh):
			say(line{Afresh: true})
			return nil
		}
		return err
	case <-ctx.Done(): // a look that is stuck is not waited for
		return nil
	}
}

// looking is one process that looks.
type looking struct {
	lines io.Reader     // what it writes, until it ends
	kill  func()        // which does not help where it is stuck in the kernel
	gone  chan struct{} // closed when it has ended
	ended error         // how, where that says more than that it did; for reading once gone is closed
}

// run starts Command. Its standard input is a pipe that nobody writes to, and that ends with us.
func (w *Watcher) run() (*looking, error) {
	cmd := exec.Command(w.Command[0], w.Command[1:]...)   //nolint:noctx // killing it may not help: once takes care of that
	cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true} // a Ctrl-C is for us
	cmd.WaitDelay = time.Second
	said := &tail{}
	cmd.Stderr = said
	in, err := cmd.StdinPipe()
	if err != nil {
		return nil, fmt.Errorf("start the process that looks at GPUs: %w", err)
	}
	lines, out := io.Pipe() // StdoutPipe is closed by Wait before all is read
	cmd.Stdout = out
	if err := cmd.Start(); err != nil {
		return nil, fmt.Errorf("start the process that looks at GPUs: %w", err)
	}
	p := &looking{lines: lines, gone: make(chan struct{})}
	p.kill = func() {
		_ = in.Close()
		_ = cmd.Process.Kill()
		_ = lines.Close()
	}
	go func() {
		err := cmd.Wait()
		if exit, failed := errors.AsType[*exec.ExitError](err); failed && exit.ExitCode() >= 0 { // else it was killed
			p.ended = fmt.Errorf("the process that looks at GPUs ended: %w%s", err, said)
		}
		_ = out.Close()
		close(p.gone)
	}()
	return p, nil
}

// follow passes on what a process reads, until it ends, writes what is no reading, or nothing for too long.
func (p *looking) follow(ctx context.Context, news chan message) error {
	lines, failed, done := make(chan []byte), make(chan error, 1), make(chan struct{})
	defer close(done)
	go func() {
		s := bufio.NewScanner(p.lines)
		s.Buffer(nil, maxLine)
		for s.Scan() {
			select {
			case lines <- s.Bytes():
				<-lines // until it is parsed: the next Scan overwrites it
			case <-done:
				return
			}
		}
		failed <- cmp.Or(s.Err(), io.EOF)
	}()
	limit := time.NewTimer(starting)
	defer limit.Stop()
	for {
		select {
		case text := <-lines:
			r, err := parse(text)
			if err != nil {
				return err
			}
			lines <- nil
			limit.Reset(stuck)
			put(news, message{reading: r})
		case err := <-failed:
			return fmt.Errorf("the process that looks at GPUs ended: %w", err)
		case <-limit.C:
			return errors.New("the driver does not answer")
		case <-ctx.Done():
			return context.Cause(ctx)
		}
	}
}

// parse reads one line of a process that looks. Its error ends that process.
func parse(text []byte) (probe.GPUs, error) {
	var l line
	err := json.Unmarshal(text, &l)
	switch {
	case err != nil:
		return probe.GPUs{}, fmt.Errorf("the process that looks at GPUs wrote what is no reading: %w", err)
	case l.NoLibrary != "":
		return probe.GPUs{}, noLibrary(l.NoLibrary)
	case l.Afresh:
		return probe.GPUs{}, errAfresh
	case l.Reading == nil || l.Reading.At.IsZero() || len(l.Reading.Each) > maxGPUs:
		return probe.GPUs{}, errors.New("the process that looks at GPUs wrote what is no reading")
	}
	r := l.Reading.read()
	for _, g := range r.GPUs {
		if g.Health > probe.Unknown || !plausible(g.Total, g.Used, g.Free, g.Reserved) {
			return probe.GPUs{}, fmt.Errorf("the process that looks at GPUs wrote what is no reading of GPU %d", g.Index)
		}
	}
	return r, nil
}

func plausible(sizes ...config.Size) bool {
	for _, s := range sizes {
		if s < -1 || s > maxSize {
			return false
		}
	}
	return true
}

// noLibrary is an ErrNoLibrary as its process put it.
type noLibrary string

func (e noLibrary) Error() string { return string(e) }
func (noLibrary) Unwrap() error   { return ErrNoLibrary }

// tail keeps the end of what is written to it.
type tail struct{ text []byte }

func (t *tail) Write(p []byte) (int, error) {
	t.text = append(t.text, p...)
	t.text = t.text[max(0, len(t.text)-maxSaid):]
	return len(p), nil
}

// String is that, to stand behind a sentence.
func (t *tail) String() string {
	if said := strings.TrimSpace(string(t.text)); said != "" {
		return ": " + said
	}
	return ""
}
