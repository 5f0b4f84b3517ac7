package router

import (
	"context"
	"fmt"
	"math/rand/v2"
	"slices"
	"sync"
	"testing"
	"testing/synctest"
)

// The queue of a model is compared with what it promises: higher priorities first, tenants in turns, by arrival within a
// tenant; whatever comes, leaves and is served, in whatever order.
func TestTheQueueKeepsItsPromises(t *testing.T) {
	for seed := range uint64(200) {
		r := rand.New(rand.NewPCG(seed, 0))
		var q queue
		var waiting []*waiter // by arrival
		passed := map[string]int{}
		for n := range 300 {
			switch r.IntN(5) {
			case 0, 1:
				w := &waiter{req: Request{Bytes: int64(n), Tenant: fmt.Sprint(r.IntN(4)), Priority: Priority(r.IntN(3) - 1)}}
				q.push(w)
				waiting = append(waiting, w)
			case 2:
				if len(waiting) > 0 {
					i := r.IntN(len(waiting))
					w := waiting[i]
					q.remove(w)
					waiting = slices.Delete(waiting, i, i+1)
					if !slices.ContainsFunc(waiting, func(other *waiter) bool { return row(other) == row(w) }) {
						delete(passed, row(w)) // who comes back has its turn last
					}
				}
			default:
				w := q.head()
				if (w == nil) != (len(waiting) == 0) {
					t.Fatalf("seed %d: %d wait and the head is %v", seed, len(waiting), w)
				}
				if w == nil {
					continue
				}
				checkHead(t, w, waiting, passed)
				q.serve(w)
				waiting = slices.DeleteFunc(waiting, func(other *waiter) bool { return other == w })
			}
			if q.Len() != len(waiting) {
				t.Fatalf("seed %d: %d wait, and the queue says %d", seed, len(waiting), q.Len())
			}
		}
	}
}

// row names those of one tenant and priority.
func row(w *waiter) string { return w.req.Priority.String() + w.req.Tenant }

// checkHead says what is wrong with a head, given all who wait. Passed counts how often a tenant of whom somebody waits has
// been passed by another.
func checkHead(t *testing.T, head *waiter, waiting []*waiter, passed map[string]int) {
	t.Helper()
	present := map[string]bool{}
	for _, w := range waiting {
		present[row(w)] = true
		switch {
		case w.req.Priority > head.req.Priority:
			t.Errorf("%+v is served before %+v", head.req, w.req)
		case row(w) == row(head) && w.req.Bytes < head.req.Bytes:
			t.Errorf("%+v overtook %+v", head.req, w.req)
		}
	}
	for name := range passed {
		if !present[name] {
			delete(passed, name)
		}
	}
	for _, w := range waiting { // each row once
		if name := row(w); present[name] && w.req.Priority == head.req.Priority {
			present[name] = false
			if passed[name]++; passed[name] > 4 && name != row(head) {
				t.Errorf("tenant %s of 4 has been passed %d times", name, passed[name])
			}
		}
	}
	passed[row(head)] = 0
}

func TestTenantsTakeTurnsAndHighComesFirst(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		f := newFleetOf(t, wide, Backend{ID: "a", State: Ready, Slots: 1})
		held, err := f.TryAcquire(Request{Model: "m"})
		if err != nil {
			t.Fatal(err)
		}
		var mu sync.Mutex
		var order []string
		var all sync.WaitGroup
		for _, r := range []Request{ // in the order in which they come
			{Tenant: "a"},
			{Tenant: "a"},
			{Tenant: "a"},
			{Tenant: "b", Priority: Low},
			{Tenant: "b"},
			{Tenant: "c"},
			{Tenant: "b"},
			{Tenant: "c", Priority: High},
			{Tenant: "a"},
			{Tenant: "a", Priority: High},
			{Tenant: "c", Priority: High},
		} {
			r.Model = "m"
			all.Go(func() {
				lease, err := f.Acquire(context.Background(), r)
				if err != nil {
					t.Error(err)
					return
				}
				mu.Lock()
				order = append(order, r.Priority.String()+" "+r.Tenant)
				mu.Unlock()
				lease.Release(OK)
			})
			synctest.Wait()
		}
		held.Release(OK)
		all.Wait()
		want := []string{"high c", "high a", "high c", "normal a", "normal b", "normal c", "normal a", "normal b", "normal a", "normal a", "low b"}
		if !slices.Equal(order, want) {
			t.Errorf("served %q\nwant   %q", order, want)
		}
		f.Close()
	})
}

// A refusal must be cheap when it matters: 1 ms is the promise.
func BenchmarkRefuse(b *testing.B) {
	r, held := fullLine(b)
	b.ReportAllocs()
	for b.Loop() {
		if _, err := r.Acquire(b.Context(), Request{Model: "m"}); err == nil {
			b.Fatal("the line was not full")
		}
	}
	held.Release(OK)
}

// fullLine is a router whose model m has 1000 waiters and room for no more, and the lease they wait for.
func fullLine(b *testing.B) (*Router, Lease) {
	f := newFleetOf(nil, wide, Backend{ID: "a", State: Ready, Slots: 1})
	held, err := f.TryAcquire(Request{Model: "m"})
	if err != nil {
		b.Fatal(err)
	}
	ctx, leave := context.WithCancel(context.Background())
	var all sync.WaitGroup
	for range wide.Requests {
		all.Go(func() {
			if lease, err := f.Acquire(ctx, Request{Model: "m"}); err == nil {
				lease.Release(OK)
			}
		})
	}
	for f.Use("a").Waiting < wide.Requests {
	}
	b.Cleanup(func() { leave(); all.Wait(); f.Close() })
	return f.Router, held
}
