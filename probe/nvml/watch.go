package nvml

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"log/slog"
	"time"

	"pilotlight/probe"
)

// How long is waited for what.
const (
	stale     = 3 * time.Second  // without a reading the GPUs are Unknown
	starting  = time.Minute      // a process without its first reading is killed: drivers start up slowly without persistence mode
	stuck     = 15 * time.Second // the same after its first reading
	dying     = 5 * time.Second  // how long one that is killed may take to end, before it counts as one that cannot be ended
	firstRest = time.Second      // before a process is started anew; doubled each time
	longRest  = time.Minute      // the longest rest
	stuckRest = 10 * time.Minute // the same after a process that cannot be ended
	proven    = time.Minute      // a process that has looked for so long lets the rests begin anew
)

// maxProcesses bounds the processes that cannot be ended: beside so many no further one is started.
const maxProcesses = 3

// Watcher watches the GPUs of this node. Its Watch is a probe.Watch.
type Watcher struct {
	Command []string // starts a process that calls Child
	Log     *slog.Logger

	start func() (*looking, error) // nil: Command
}

// errUndead says that killing did not help.
var errUndead = errors.New("the process that looks is stuck in the kernel, where it cannot be ended")

// Watch implements probe.Watch. Its error is ErrNoLibrary, or ctx's.
func (w *Watcher) Watch(ctx context.Context, see func(probe.GPUs)) error {
	ctx, cancel := context.WithCancelCause(ctx)
	defer cancel(nil)
	news := make(chan message, 1)
	over := make(chan struct{})
	go func() {
		defer close(over)
		cancel(w.supervise(ctx, news))
	}()
	defer func() { <-over }()

	m := memory{pasts: map[string]*past{}, heard: time.Now()}
	silent := time.NewTimer(stale)
	defer silent.Stop()
	for {
		select {
		case n := <-news:
			if n.err == nil {
				silent.Reset(stale)
				see(m.know(n.reading, time.Now()))
			} else if m.why = n.err.Error(); len(m.last.GPUs) == 0 || time.Since(m.heard) >= stale {
				see(m.unknown(time.Now()))
			}
		case <-silent.C:
			see(m.unknown(time.Now()))
		case <-ctx.Done():
			if err := context.Cause(ctx); errors.Is(err, ErrNoLibrary) {
				see(probe.GPUs{Problem: err.Error()})
				return err
			}
			return context.Cause(ctx)
		}
	}
}

// message is a reading, or why there is none.
type message struct {
	reading probe.GPUs
	err     error
}

// put leaves the newest message for one who may be slow. Nothing is lost by that: what counts in a reading is counted up.
func put(news chan message, m message) {
	for {
		select {
		case news <- m:
			return
		default:
		}
		select {
		case <-news:
		default:
		}
	}
}

// supervise keeps one process looking. Its error is ErrNoLibrary, or ctx's.
func (w *Watcher) supervise(ctx context.Context, news chan message) error {
	rest := firstRest
	alive := make(chan struct{}, maxProcesses)
	for {
		began := time.Now()
		err := w.once(ctx, news, alive)
		if ctx.Err() != nil {
			return context.Cause(ctx)
		}
		if errors.Is(err, ErrNoLibrary) {
			return err
		}
		if time.Since(began) >= proven {
			rest = firstRest
		}
		most := longRest
		if errors.Is(err, errUndead) {
			rest, most = max(rest, longRest), stuckRest
		}
		if !errors.Is(err, errAfresh) {
			w.Log.Warn("the GPUs cannot be read", "error", err, "again_in", rest.String())
			put(news, message{err: err})
		}
		select {
		case <-time.After(rest):
		case <-ctx.Done():
			return context.Cause(ctx)
		}
		rest = min(2*rest, most)
	}
}

// once has one process look until it ends, or is of no use any more. Alive has an entry for each process that has not ended.
func (w *Watcher) once(ctx context.Context, news chan message, alive chan struct{}) error {
	select {
	case alive <- struct{}{}:
	default:
		return fmt.Errorf("%w, and no more than %d are started", errUndead, maxProcesses)
	}
	start := w.start
	if start == nil {
		start = w.run
	}
	p, err := start()
	if err != nil {
		<-alive
		return err
	}
	err = p.follow(ctx, news)
	p.kill()
	select {
	case <-p.gone:
		<-alive
		return cmp.Or(p.ended, err)
	case <-time.After(dying):
		go func() { <-p.gone; <-alive }()
		return errUndead
	}
}
