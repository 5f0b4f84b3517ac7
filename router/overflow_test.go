package router

import (
	"context"
	"errors"
	"log/slog"
	"testing"
	"testing/synctest"
	"time"

	"pilotlight/config"
)

func overflowing(t *testing.T, line config.Line, when ...config.OverflowWhen) *fleetOf {
	f := newFleetOf(t, line, Backend{ID: "a"})
	f.Update(map[string]config.Model{"m": {Line: line, Overflow: &config.Overflow{When: when, After: config.Duration(2 * time.Second)}}})
	f.takes["a"] = 10 * time.Second
	return f
}

func TestARequestOverflowsAndItsWakeGoesOn(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		f := overflowing(t, wide, config.OverflowCold)
		began := time.Now()
		if _, err := f.Acquire(t.Context(), Request{Model: "m", Overflow: true}); err != ErrOverflow || time.Since(began) != 2*time.Second {
			t.Errorf("got %v after %s, want the overflow after 2 s", err, time.Since(began))
		}
		ctx, leave := context.WithCancelCause(t.Context())
		time.AfterFunc(time.Second, func() { leave(ErrLeft) })
		if _, err := f.Acquire(ctx, Request{Model: "m"}); err != ErrLeft {
			t.Errorf("got %v", err)
		}
		time.Sleep(3 * time.Second) // nobody waits
		lease, err := f.Acquire(t.Context(), Request{Model: "m"})
		if err != nil || len(f.woken) != 1 || time.Since(began) != 10*time.Second {
			t.Errorf("got %v after %s and %d wakes, want the first wake's end", err, time.Since(began), len(f.woken))
		}
		if _, err := f.TryAcquire(Request{Model: "m", Overflow: true}); err != ErrWait {
			t.Errorf("got %v", err)
		}
		time.AfterFunc(time.Minute, func() { lease.Release(OK) })
		if lease, err = f.Acquire(t.Context(), Request{Model: "m", Overflow: true}); err != nil || lease.Waited != time.Minute {
			t.Errorf("a request for a model that is ready got %v after %s", err, lease.Waited)
		}
		lease.Release(OK)
		f.Close()
	})
}

func TestAnOwedWakeEndsWithTheRouter(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		f := overflowing(t, wide, config.OverflowCold)
		f.takes["a"] = time.Hour
		if _, err := f.Acquire(t.Context(), Request{Model: "m", Overflow: true}); err != ErrOverflow {
			t.Errorf("got %v", err)
		}
		began := time.Now()
		if f.Close(); time.Since(began) > 0 {
			t.Errorf("it took %s to close", time.Since(began))
		}
	})
}

func TestWhatOverflows(t *testing.T) {
	const cold, full = config.OverflowCold, config.OverflowFull
	narrow := config.Line{Requests: 0, Bytes: 9, MaxWait: config.Duration(time.Minute)}
	for name, c := range map[string]struct {
		line config.Line
		when config.OverflowWhen
		may  bool
		fail bool // the wake does, after a second
		want bool
	}{
		"a full line":                     {narrow, full, true, false, true},
		"not if only cold ones do":        {narrow, cold, true, false, false},
		"not if the request may not":      {narrow, full, false, false, false},
		"a wake that failed":              {wide, cold, true, true, true},
		"not if only a full line does":    {wide, full, true, true, false},
		"nor then if the request may not": {wide, cold, false, true, false},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				f := overflowing(t, c.line, c.when)
				if c.fail {
					f.takes["a"], f.fails["a"] = time.Second, errors.New("it exited")
				}
				_, err := f.Acquire(t.Context(), Request{Model: "m", Overflow: c.may})
				if _, refused := errors.AsType[*Refusal](err); (err == ErrOverflow) != c.want || refused == c.want {
					t.Errorf("got %v", err)
				}
				f.Close()
			})
		})
	}
}

func TestWhatAllLinesHoldIsBounded(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		asleep := wakerFunc(func(ctx context.Context, _ string) error { <-ctx.Done(); return context.Cause(ctx) })
		r := New(map[string]config.Model{"a": {Line: wide}, "b": {Line: wide}}, asleep, slog.New(slog.DiscardHandler))
		r.Held = 100
		r.Observe(Node{Name: "n", Backends: []Backend{{ID: "a", Model: "a", Slots: 1}, {ID: "b", Model: "b", Slots: 1}}})
		ctx, leave := context.WithCancelCause(t.Context())
		for model, bytes := range map[string]int64{"a": 60, "b": 40} {
			go r.Acquire(ctx, Request{Model: model, Bytes: bytes})
		}
		synctest.Wait()
		for _, model := range []string{"a", "b"} {
			_, err := r.Acquire(t.Context(), Request{Model: model, Bytes: 1})
			if no, ok := errors.AsType[*Refusal](err); !ok || no.Status != 429 || no.Code != LineFull {
				t.Errorf("got %v", err)
			}
		}
		leave(ErrLeft)
		synctest.Wait()
		if held := r.held.Load(); held != 0 {
			t.Errorf("%d bytes are still held", held)
		}
		go r.Acquire(t.Context(), Request{Model: "a", Bytes: 100})
		synctest.Wait()
		if held := r.held.Load(); held != 100 {
			t.Errorf("%d bytes are held, want 100", held)
		}
		r.Close()
		synctest.Wait()
		if held := r.held.Load(); held != 0 {
			t.Errorf("%d bytes are held after the end", held)
		}
	})
}
