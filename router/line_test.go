package router

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"math/rand/v2"
	"slices"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"pilotlight/config"
)

// fleetOf is a router with one model, m, and a fake owner of its backends, whose wakes take as long as the test says.
type fleetOf struct {
	*Router
	t        *testing.T
	mu       sync.Mutex
	backends []Backend
	takes    map[string]time.Duration // how long a wake takes
	fails    map[string]error         // what it ends with instead
	woken    []string
}

func newFleetOf(t *testing.T, line config.Line, backends ...Backend) *fleetOf {
	f := &fleetOf{t: t, takes: map[string]time.Duration{}, fails: map[string]error{}}
	for _, b := range backends {
		b.Model, b.Node, b.Since = "m", "n", time.Now()
		b.Slots = max(b.Slots, 1)
		f.backends = append(f.backends, b)
	}
	f.Router = New(map[string]config.Model{"m": {Line: line, Aliases: []string{"alias"}}}, f, slog.New(slog.DiscardHandler))
	f.set("", Ready)
	return f
}

// set changes a backend's state and tells the router.
func (f *fleetOf) set(id string, s State) {
	f.mu.Lock()
	defer f.mu.Unlock()
	for i := range f.backends {
		if f.backends[i].ID == id {
			f.backends[i].State, f.backends[i].Since = s, time.Now()
			f.backends[i].Rested = time.Now().Add(30 * time.Second) // if it failed
		}
	}
	f.Observe(Node{Name: "n", Backends: f.backends})
}

// Wake is what the fake owner does.
func (f *fleetOf) Wake(ctx context.Context, backend string) error {
	f.mu.Lock()
	f.woken = append(f.woken, backend)
	takes, err := f.takes[backend], f.fails[backend]
	f.mu.Unlock()
	f.set(backend, Waking)
	select {
	case <-time.After(takes):
	case <-ctx.Done():
		f.set(backend, Stopped)
		return context.Cause(ctx)
	}
	if err != nil {
		f.set(backend, Failed)
		return err
	}
	f.set(backend, Ready)
	return nil
}

var wide = config.Line{Requests: 1000, Bytes: config.GiB, MaxWait: config.Duration(5 * time.Minute)}

func TestAFreeSlotIsGivenAtOnce(t *testing.T) {
	f := newFleetOf(t, wide, Backend{ID: "a", State: Ready, Slots: 2})
	one, err := f.TryAcquire(Request{Model: "alias"})
	if err != nil {
		t.Fatal(err)
	}
	two, err := f.TryAcquire(Request{Model: "m"})
	if err != nil {
		t.Fatal(err)
	}
	if _, err := f.TryAcquire(Request{Model: "m"}); !errors.Is(err, ErrWait) {
		t.Errorf("a third request got %v, want ErrWait", err)
	}
	one.Release(OK)
	two.Release(OK)
	if u := f.Use("a"); u.InFlight != 0 {
		t.Errorf("in flight after release: %d", u.InFlight)
	}
}

func TestAnUnknownModelIsRefused(t *testing.T) {
	f := newFleetOf(t, wide)
	_, err := f.TryAcquire(Request{Model: "nobody"})
	if r, ok := errors.AsType[*Refusal](err); !ok || r.Status != 404 || r.Code != UnknownModel {
		t.Errorf("got %v", err)
	}
}

func TestOneWakeServesFiveHundredInOrder(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		f := newFleetOf(t, wide, Backend{ID: "a"})
		f.takes["a"] = 10 * time.Second
		ctxs := make([]context.CancelCauseFunc, 500)
		var mu sync.Mutex
		var served []int
		left := 0
		var all sync.WaitGroup
		for i := range 500 {
			ctx, cancel := context.WithCancelCause(t.Context())
			ctxs[i] = cancel
			all.Go(func() {
				lease, err := f.Acquire(ctx, Request{Model: "m", Bytes: 1000})
				mu.Lock()
				if err != nil {
					if !errors.Is(err, ErrLeft) {
						t.Errorf("request %d: %v", i, err)
					}
					left++
					mu.Unlock()
					return
				}
				served = append(served, i)
				mu.Unlock()
				if !lease.Cold {
					t.Errorf("request %d does not know that it was a cold start", i)
				}
				time.Sleep(time.Millisecond)
				lease.Release(OK)
			})
			synctest.Wait() // so that the order of arrival is known
		}
		for i := range 500 { // 300 leave during the wake
			if i%5 < 3 {
				ctxs[i](ErrLeft)
			}
		}
		synctest.Wait()
		if u := f.Use("a"); u.Waiting != 200 || u.Bytes != 200*1000 {
			t.Errorf("%d wait with %d bytes after 300 of 500 have left", u.Waiting, u.Bytes)
		}
		all.Wait()
		if len(f.woken) != 1 || left != 300 || len(served) != 200 || !slices.IsSorted(served) {
			t.Errorf("%d wakes, %d left, %d served, in order: %t", len(f.woken), left, len(served), slices.IsSorted(served))
		}
		if u := f.Use("a"); u != (Use{Last: u.Last, Granted: 200}) {
			t.Errorf("something is left: %+v", u)
		}
		f.Close()
	})
}

func TestNobodyOvertakes(t *testing.T) {
	for range 20 {
		f := newFleetOf(t, wide, Backend{ID: "a", State: Ready, Slots: 1})
		held, err := f.TryAcquire(Request{Model: "m"})
		if err != nil {
			t.Fatal(err)
		}
		var mu sync.Mutex
		var order []int
		var all sync.WaitGroup
		for i := range 50 {
			before := f.Use("a").Waiting
			all.Go(func() {
				lease, err := f.Acquire(t.Context(), Request{Model: "m"})
				if err != nil {
					t.Error(err)
					return
				}
				mu.Lock()
				order = append(order, i)
				mu.Unlock()
				lease.Release(OK)
			})
			for f.Use("a").Waiting == before {
				// until it stands in line
			}
		}
		newcomers := make(chan struct{})
		all.Go(func() { // they may only have what nobody waits for
			for {
				select {
				case <-newcomers:
					return
				default:
				}
				if lease, err := f.TryAcquire(Request{Model: "m"}); err == nil {
					if n := f.Use("a").Waiting; n > 0 {
						t.Errorf("a newcomer got a slot while %d waited", n)
					}
					lease.Release(OK)
				}
			}
		})
		held.Release(OK)
		for {
			if u := f.Use("a"); u.Waiting == 0 {
				break
			}
		}
		close(newcomers)
		all.Wait()
		if !slices.IsSorted(order) || len(order) != 50 {
			t.Fatalf("served in the order %v", order)
		}
	}
}

func TestTheLineIsBounded(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		f := newFleetOf(t, config.Line{Requests: 2, Bytes: 100, MaxWait: config.Duration(time.Minute)}, Backend{ID: "a", WakeTime: 40 * time.Second})
		f.takes["a"] = time.Hour
		ctx, leave := context.WithCancelCause(t.Context())
		var all sync.WaitGroup
		wait := func(bytes int64) {
			all.Go(func() { _, _ = f.Acquire(ctx, Request{Model: "m", Bytes: bytes}) })
			synctest.Wait()
		}
		wait(60)
		_, err := f.Acquire(ctx, Request{Model: "m", Bytes: 60})
		r, ok := errors.AsType[*Refusal](err)
		if !ok || r.Status != 429 || r.Code != LineFull || r.RetryAfter != 40*time.Second {
			t.Errorf("too many bytes: %#v", err)
		}
		wait(10)
		time.Sleep(15 * time.Second)
		_, err = f.Acquire(ctx, Request{Model: "m"})
		if r, ok := errors.AsType[*Refusal](err); !ok || r.Code != LineFull || r.RetryAfter != 25*time.Second {
			t.Errorf("too many requests: %#v", err)
		}
		leave(ErrLeft)
		all.Wait()
		f.Close()
	})
}

func TestWaitingForASlotHasABudgetAndAWakeStartsItAfresh(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		f := newFleetOf(t, config.Line{Requests: 9, Bytes: 9, MaxWait: config.Duration(time.Minute)}, Backend{ID: "a"})
		f.takes["a"] = 10 * time.Minute
		began := time.Now()
		var first Lease
		var all sync.WaitGroup
		all.Go(func() {
			var err error
			if first, err = f.Acquire(t.Context(), Request{Model: "m"}); err != nil {
				t.Error(err)
			}
		})
		synctest.Wait()
		_, err := f.Acquire(t.Context(), Request{Model: "m"})
		if r, ok := errors.AsType[*Refusal](err); !ok || r.Code != WaitTooLong {
			t.Errorf("got %v", err)
		}
		if waited := time.Since(began); waited != 11*time.Minute {
			t.Errorf("it waited %s, want the wake and a minute", waited)
		}
		all.Wait()
		first.Release(OK)
		f.Close()
	})
}

func TestAFailedWakeGoesToAnotherBackendAndThenToTheClient(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		f := newFleetOf(t, wide, Backend{ID: "a", WakeTime: time.Second}, Backend{ID: "b", WakeTime: 2 * time.Second})
		f.takes["a"], f.fails["a"] = time.Second, errors.New("it exited with status 1")
		f.takes["b"] = 3 * time.Second
		lease, err := f.Acquire(t.Context(), Request{Model: "m"})
		if err != nil || lease.Backend.ID != "b" || lease.Waited != 4*time.Second {
			t.Fatalf("got %v after %s, %v", lease.Backend, lease.Waited, err)
		}
		lease.Release(OK)
		f.set("b", Stopped)
		f.fails["b"] = &Refusal{Status: 503, Code: WakeStalled, Reason: "no progress", RetryAfter: 7 * time.Second}
		time.Sleep(time.Minute)
		f.set("a", Stopped)
		_, err = f.Acquire(t.Context(), Request{Model: "m"})
		if r, ok := errors.AsType[*Refusal](err); !ok || r.Code != WakeStalled || r.RetryAfter != 7*time.Second {
			t.Errorf("got %#v", err)
		}
		f.Close()
	})
}

func TestAWakeThatChangesNothingIsNotAskedForAgainAtOnce(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		asked := 0
		r := New(map[string]config.Model{"m": {Line: wide}}, wakerFunc(func(context.Context, string) error { asked++; return nil }), slog.New(slog.DiscardHandler))
		r.Observe(Node{Name: "n", Backends: []Backend{{ID: "a", Model: "m", Slots: 1}}})
		_, err := r.Acquire(t.Context(), Request{Model: "m"})
		if refusal, ok := errors.AsType[*Refusal](err); !ok || refusal.Code != WakeFailed || asked != 1 {
			t.Errorf("got %v after %d wakes", err, asked)
		}
		r.Close()
	})
}

type wakerFunc func(context.Context, string) error

func (f wakerFunc) Wake(ctx context.Context, id string) error { return f(ctx, id) }

func TestALongLineWakesASecondBackendIfThatIsSooner(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		f := newFleetOf(t, wide, Backend{ID: "a", State: Ready}, Backend{ID: "b", WakeTime: 5 * time.Second})
		f.takes["b"] = 5 * time.Second
		var all sync.WaitGroup
		ask := func() {
			all.Go(func() {
				lease, err := f.Acquire(t.Context(), Request{Model: "m"})
				if err != nil {
					t.Error(err)
					return
				}
				time.Sleep(2 * time.Second)
				lease.Release(OK)
			})
			synctest.Wait()
		}
		ask()
		time.Sleep(3 * time.Second) // a request is now known to take 2 s
		ask()
		ask()
		ask() // 2 wait: 4 s of work in front of one slot
		if len(f.woken) != 0 {
			t.Errorf("woke %v for a line that a wake would not shorten", f.woken)
		}
		ask()
		if !slices.Equal(f.woken, []string{"b"}) {
			t.Errorf("woke %v for 6 s of line, want b", f.woken)
		}
		all.Wait()
		f.Close()
	})
}

func TestAWakeIsCalledOffWhenTheLastHasLeft(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		f := newFleetOf(t, wide, Backend{ID: "a"})
		f.takes["a"] = time.Hour
		ctx, leave := context.WithCancelCause(t.Context())
		var all sync.WaitGroup
		for range 2 {
			all.Go(func() { _, _ = f.Acquire(ctx, Request{Model: "m"}) })
		}
		synctest.Wait()
		leave(ErrLeft)
		all.Wait()
		synctest.Wait()
		if s := f.Models()[0].State; s != Stopped {
			t.Errorf("the wake goes on: %s", s)
		}
		f.Close()
	})
}

func TestARemovedModelRefusesItsLine(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		f := newFleetOf(t, wide, Backend{ID: "a"})
		f.takes["a"] = time.Hour
		var err error
		var all sync.WaitGroup
		all.Go(func() { _, err = f.Acquire(t.Context(), Request{Model: "m"}) })
		synctest.Wait()
		f.Update(map[string]config.Model{"other": {}})
		all.Wait()
		if r, ok := errors.AsType[*Refusal](err); !ok || r.Code != UnknownModel {
			t.Errorf("got %v", err)
		}
		f.Close()
	})
}

func TestABackendThatBreaksRequestsComesLastForAWhile(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		f := newFleetOf(t, wide, Backend{ID: "a", State: Ready, Slots: 4}, Backend{ID: "b", State: Ready, Slots: 4})
		take := func() Lease {
			lease, err := f.TryAcquire(Request{Model: "m"})
			if err != nil {
				t.Fatal(err)
			}
			return lease
		}
		outcomes := map[string]Outcome{"a": Broken, "b": OK}
		var leases []Lease
		for range 2 * brokenToEject { // in turns
			leases = append(leases, take())
		}
		for _, l := range leases {
			l.Release(outcomes[l.Backend.ID])
		}
		leases = nil
		for range 5 {
			leases = append(leases, take())
		}
		if got := leases[3].Backend.ID + leases[4].Backend.ID; got != "ba" {
			t.Errorf("a broke %d times in a row; the last slot of b and the first of a went to %s", brokenToEject, got)
		}
		for _, l := range leases {
			l.Release(OK)
		}
		time.Sleep(firstEjection)
		if l := take(); l.Backend.ID != "a" {
			t.Errorf("a answered once more, and %s got the next", l.Backend.ID)
		} else {
			l.Release(OK)
		}
	})
}

func TestDrainedWaitsForTheLastRequest(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		f := newFleetOf(t, wide, Backend{ID: "a", State: Ready, Slots: 4})
		lease, err := f.TryAcquire(Request{Model: "m"})
		if err != nil {
			t.Fatal(err)
		}
		f.set("a", Draining)
		began := time.Now()
		go func() {
			time.Sleep(time.Minute)
			lease.Release(OK)
		}()
		if err := f.Drained(t.Context(), "a"); err != nil || time.Since(began) != time.Minute {
			t.Errorf("drained after %s, %v", time.Since(began), err)
		}
	})
}

func TestDrainedWaitsForTheRequestsOfAModelThatIsGone(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		f := newFleetOf(t, wide, Backend{ID: "a", State: Ready, Slots: 4})
		lease, err := f.TryAcquire(Request{Model: "m"})
		if err != nil {
			t.Fatal(err)
		}
		f.Update(map[string]config.Model{"other": {Line: wide}})
		f.set("a", Draining)
		if got := f.Use("a").InFlight; got != 1 {
			t.Errorf("got %d in flight, want 1", got)
		}
		began := time.Now()
		go func() {
			time.Sleep(time.Minute)
			lease.Release(OK)
		}()
		if err := f.Drained(t.Context(), "a"); err != nil || time.Since(began) != time.Minute {
			t.Errorf("drained after %s, %v", time.Since(began), err)
		}
		f.Observe(Node{Name: "n"})
		if got := f.Use("a"); got != (Use{}) {
			t.Errorf("got %+v of a backend that is gone, want nothing", got)
		}
	})
}

// Whatever happens, no backend gets more than its slots, and in the end nothing is left.
func TestSlotsAreNeverOverdrawn(t *testing.T) {
	f := newFleetOf(t, wide, Backend{ID: "a", State: Ready, Slots: 3}, Backend{ID: "b", State: Ready, Slots: 2})
	var all sync.WaitGroup
	for g := range 16 {
		all.Go(func() {
			r := rand.New(rand.NewPCG(1, uint64(g)))
			for range 300 {
				ctx, cancel := context.WithCancelCause(t.Context())
				if r.IntN(3) == 0 {
					go cancel(ErrLeft)
				}
				lease, err := f.Acquire(ctx, Request{Model: "m", Bytes: 1})
				if err == nil {
					if n := f.Use(lease.Backend.ID).InFlight; n > lease.Backend.Slots {
						t.Errorf("%d in flight on %s", n, lease.Backend.ID)
					}
					lease.Release(OK)
				}
				cancel(nil)
			}
		})
	}
	all.Wait()
	for _, id := range []string{"a", "b"} {
		if u := f.Use(id); u.InFlight != 0 || u.Waiting != 0 || u.Bytes != 0 {
			t.Errorf("left on %s: %+v", id, u)
		}
	}
}

func BenchmarkAcquireAndRelease(b *testing.B) {
	var backends []Backend
	for i := range 8 {
		backends = append(backends, Backend{ID: fmt.Sprint(i), Model: "m", State: Ready, Slots: 8})
	}
	r := New(map[string]config.Model{"m": {Line: wide}}, nil, slog.New(slog.DiscardHandler))
	r.Observe(Node{Name: "n", Backends: backends})
	b.ReportAllocs()
	for b.Loop() {
		lease, err := r.TryAcquire(Request{Model: "m"})
		if err != nil {
			b.Fatal(err)
		}
		lease.Release(OK)
	}
}

func TestNoMoreBackendsWakeThanMax(t *testing.T) {
	for limit, want := range map[int]int{0: 3, 1: 1, 2: 2} {
		synctest.Test(t, func(t *testing.T) {
			f := newFleetOf(t, wide, Backend{ID: "a"}, Backend{ID: "b"}, Backend{ID: "c"})
			f.Update(map[string]config.Model{"m": {Line: wide, Max: limit}})
			var all sync.WaitGroup
			for i := range 100 {
				all.Go(func() {
					if i > 0 {
						time.Sleep(2 * time.Second) // the first has shown how long one takes
					}
					lease, err := f.Acquire(t.Context(), Request{Model: "m"})
					if err != nil {
						t.Error(err)
						return
					}
					time.Sleep(time.Second)
					lease.Release(OK)
				})
			}
			all.Wait()
			if woken := slices.Compact(f.woken); len(woken) != want {
				t.Errorf("with max: %d %v were woken, want %d of them", limit, woken, want)
			}
		})
	}
}
