package main

import (
	"bytes"
	"context"
	"fmt"
	"strings"
	"sync"
	"testing"
)

// slow is written to by one at a time, and keeps what it got.
type slow struct {
	busy sync.Mutex
	got  bytes.Buffer
}

func (s *slow) Write(b []byte) (int, error) {
	if !s.busy.TryLock() {
		panic("two write at once")
	}
	defer s.busy.Unlock()
	return s.got.Write(b)
}

func TestNoLineOfTheLogIsLostOrOutOfOrder(t *testing.T) {
	to := &slow{}
	g := newGather(to)
	ctx, stop := context.WithCancel(t.Context())
	var running, writing sync.WaitGroup
	running.Go(func() { g.run(ctx) })
	const writers, lines = 4, 5000
	for w := range writers {
		writing.Go(func() {
			for i := range lines {
				fmt.Fprintf(g, "%d %d %s\n", w, i, strings.Repeat("x", 100))
			}
		})
	}
	writing.Wait()
	stop()
	running.Wait()
	var next [writers]int
	for line := range strings.Lines(to.got.String()) {
		var w, i int
		if _, err := fmt.Sscan(line, &w, &i); err != nil || i != next[w] {
			t.Fatalf("got line %q after %d of this writer: %v", line, next[w], err)
		}
		next[w]++
	}
	if next != [writers]int{lines, lines, lines, lines} {
		t.Errorf("got %v lines, want %d of each writer", next, lines)
	}
	if most := 2 * gatherBytes; cap(g.lines)+cap(g.spare) > 2*most {
		t.Errorf("the log holds %d and %d bytes, want no more than %d", cap(g.lines), cap(g.spare), most)
	}
}

// TestTheLogLooksAsIsSaid: where nothing is said it is JSON unless somebody watches.
func TestTheLogLooksAsIsSaid(t *testing.T) {
	for format, wantsJSON := range map[string]bool{"json": true, "text": false} {
		log, flush := newLog(t.Context(), format)
		if got := linesOf(log) != nil; got != wantsJSON {
			t.Errorf("%s: JSON %v, want %v", format, got, wantsJSON)
		}
		flush()
	}
}
