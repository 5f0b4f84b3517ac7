package main

import (
	"context"
	"io"
	"log/slog"
	"os"
	"sync"
	"time"
)

// newLog writes text at once for people and JSON for machines, as format says: text, json or auto. A busy edge logs a line for each request, so what is for machines is
// gathered for a moment: flush writes what is left.
func newLog(ctx context.Context, format string) (log *slog.Logger, flush func()) {
	info, err := os.Stderr.Stat()
	if terminal := err == nil && info.Mode()&os.ModeCharDevice != 0; format == "text" || format == "auto" && terminal {
		return slog.New(slog.NewTextHandler(os.Stderr, nil)), func() {}
	}
	g := newGather(os.Stderr)
	var flusher sync.WaitGroup
	ctx, stop := context.WithCancel(context.WithoutCancel(ctx))
	flusher.Go(func() { g.run(ctx) })
	return slog.New(jsonLog{slog.NewJSONHandler(g, nil), g}), func() { stop(); flusher.Wait() }
}

// jsonLog is slog's JSONHandler that knows where its lines go.
type jsonLog struct {
	*slog.JSONHandler
	lines io.Writer
}

// linesOf is where ready lines of JSON go, if that is what the log writes.
func linesOf(log *slog.Logger) io.Writer {
	if h, ok := log.Handler().(jsonLog); ok {
		return h.lines
	}
	return nil
}

const (
	gatherTime  = 100 * time.Millisecond // longest time between a line and its being written
	gatherBytes = 64 << 10               // what is gathered at most, while as much is being written
)

// gather writes many lines in one call, which those that bring lines do not wait for.
type gather struct {
	to      io.Writer
	nudge   chan struct{} // has run write now
	writing sync.Mutex    // held during writes, so that lines stay in order; guards spare
	spare   []byte

	mu    sync.Mutex // guards what follows
	lines []byte
}

func newGather(to io.Writer) *gather { return &gather{to: to, nudge: make(chan struct{}, 1)} }

// Write takes a line. It waits only where lines come faster than they can be written.
func (g *gather) Write(line []byte) (int, error) {
	g.mu.Lock()
	defer g.mu.Unlock()
	for len(g.lines) > 0 && len(g.lines)+len(line) > gatherBytes {
		g.mu.Unlock()
		err := g.flush()
		g.mu.Lock()
		if err != nil {
			return 0, err
		}
	}
	g.lines = append(g.lines, line...)
	if len(g.lines) > gatherBytes/2 {
		select {
		case g.nudge <- struct{}{}:
		default:
		}
	}
	return len(line), nil
}

// run writes what there is every so often until ctx ends, and then the rest.
func (g *gather) run(ctx context.Context) {
	tick := time.NewTicker(gatherTime)
	defer tick.Stop()
	for done := false; !done; {
		select {
		case <-tick.C:
		case <-g.nudge:
		case <-ctx.Done():
			done = true
		}
		_ = g.flush() // there is nobody left to tell
	}
}

// flush writes everything.
func (g *gather) flush() error {
	g.writing.Lock()
	defer g.writing.Unlock()
	g.mu.Lock()
	g.lines, g.spare = g.spare[:0], g.lines
	g.mu.Unlock()
	if len(g.spare) == 0 {
		return nil
	}
	_, err := g.to.Write(g.spare)
	return err
}
