package main

import (
	"context"
	"io"
	"log/slog"
	"os"
	"sync"
	"time"
)

// newLog writes text at once for people and JSON for machines. A busy edge logs a line for each request, so what is for machines is
// gathered for a moment: flush writes what is left.
func newLog(ctx context.Context) (log *slog.Logger, flush func()) {
	if info, err := os.Stderr.Stat(); err == nil && info.Mode()&os.ModeCharDevice != 0 {
		return slog.New(slog.NewTextHandler(os.Stderr, nil)), func() {}
	}
	g := &gather{to: os.Stderr}
	var flusher sync.WaitGroup
	ctx, stop := context.WithCancel(context.WithoutCancel(ctx))
	flusher.Go(func() { g.run(ctx) })
	return slog.New(slog.NewJSONHandler(g, nil)), func() { stop(); flusher.Wait() }
}

const (
	gatherTime  = 100 * time.Millisecond // longest time between a line and its being written
	gatherBytes = 64 << 10               // what is gathered at most
)

// gather writes many lines in one call.
type gather struct {
	mu    sync.Mutex // guards what follows; held during writes, so that lines stay in order
	to    io.Writer
	lines []byte
}

// Write takes a line. It waits only where lines come faster than they can be written.
func (g *gather) Write(line []byte) (int, error) {
	g.mu.Lock()
	defer g.mu.Unlock()
	if len(g.lines)+len(line) > gatherBytes {
		if err := g.flush(); err != nil {
			return 0, err
		}
	}
	g.lines = append(g.lines, line...)
	return len(line), nil
}

// run writes what there is every so often until ctx ends, and then the rest.
func (g *gather) run(ctx context.Context) {
	tick := time.NewTicker(gatherTime)
	defer tick.Stop()
	for done := false; !done; {
		select {
		case <-tick.C:
		case <-ctx.Done():
			done = true
		}
		g.mu.Lock()
		_ = g.flush() // there is nobody left to tell
		g.mu.Unlock()
	}
}

// flush writes everything. g.mu is held.
func (g *gather) flush() error {
	if len(g.lines) == 0 {
		return nil
	}
	_, err := g.to.Write(g.lines)
	g.lines = g.lines[:0]
	return err
}
