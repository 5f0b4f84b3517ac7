package router

import (
	"container/list"
	"context"
	"slices"
	"sync"
	"time"
)

// A line hands out the slots of one model's backends, in order of arrival. A newcomer never overtakes a waiter: it takes
// a free slot only if nobody waits.
type line struct {
	router *Router
	name   string

	mu         sync.Mutex // guards what follows
	model      *Model     // as last observed
	candidates []*Candidate
	waiters    list.List     // of *waiter
	bytes      int64         // bodies held by waiters
	warmSince  time.Time     // since when some backend is ready, without a break; zero: none is
	hold       time.Duration // how long a request keeps its slot, learned
	retries    retries
	closed     *Refusal // why nobody may wait any more
}

// waiter is one request in line.
type waiter struct {
	req   Request
	since time.Time
	cold  bool
	done  chan answer // capacity 1: an answer never blocks
}

type answer struct {
	lease Lease
	err   error
}

func newLine(r *Router, m *Model) *line {
	return &line{router: r, name: m.Name, model: m, retries: retries{retryReserve, time.Now()}}
}

// try takes a free slot if there is one and nobody waits for it.
func (l *line) try(req Request) (Lease, error) {
	now := time.Now()
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.closed != nil {
		return Lease{}, l.closed
	}
	if l.waiters.Len() > 0 {
		return Lease{}, ErrWait
	}
	c, why := Pick(l.candidates, now, req.Not)
	if c == nil {
		return Lease{}, ErrWait
	}
	return l.lease(c, why, now), nil
}

// acquire waits for a slot. It leaves the line as soon as ctx ends.
func (l *line) acquire(ctx context.Context, req Request) (Lease, error) {
	now := time.Now()
	w := &waiter{req: req, since: now, done: make(chan answer, 1)}
	l.mu.Lock()
	if l.closed != nil {
		defer l.mu.Unlock()
		return Lease{}, l.closed
	}
	limits := l.model.Config.Line
	w.cold = l.warmSince.IsZero()
	e := l.waiters.PushBack(w)
	l.bytes += req.Bytes
	l.serve(now)
	if l.waiting(w) && (l.waiters.Len() > limits.Requests || l.bytes > int64(limits.Bytes)) {
		l.leave(e)
		after := l.estimate(now)
		l.mu.Unlock()
		return Lease{}, refuse(429, LineFull, after, "the line for %s is full; ask again later", l.name)
	}
	l.call(now)
	l.mu.Unlock()
	return l.wait(ctx, e, w, limits.MaxWait.Std())
}

// wait stands in line until there is an answer, the client leaves, or the budget for waiting is used up. Only time in which
// a backend is ready counts: how long a wake may take is its owner's to say.
func (l *line) wait(ctx context.Context, e *list.Element, w *waiter, budget time.Duration) (Lease, error) {
	timer := time.NewTimer(budget)
	defer timer.Stop()
	for {
		select {
		case a := <-w.done:
			return a.lease, a.err
		case <-ctx.Done():
			return l.quit(e, w, context.Cause(ctx))
		case now := <-timer.C:
			l.mu.Lock()
			rest, after := l.rest(w, now, budget), l.estimate(now)
			l.mu.Unlock()
			if rest > 0 {
				timer.Reset(rest)
				continue
			}
			return l.quit(e, w, refuse(503, WaitTooLong, after, "no slot of %s was free within %s; ask again later", l.name, budget))
		}
	}
}

// rest is what remains of a waiter's budget. A wake in between starts it afresh. l.mu is held.
func (l *line) rest(w *waiter, now time.Time, budget time.Duration) time.Duration {
	if l.warmSince.IsZero() {
		return budget
	}
	from := w.since
	if l.warmSince.After(from) {
		from = l.warmSince
	}
	return budget - now.Sub(from)
}

// quit leaves the line for a reason of the waiter's own. What it was granted meanwhile goes to the next.
func (l *line) quit(e *list.Element, w *waiter, why error) (Lease, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	select {
	case a := <-w.done: // answered while it was leaving
		if a.err == nil {
			l.free(a.lease.candidate, time.Now())
		}
	default:
		l.leave(e)
		if l.waiters.Len() == 0 {
			l.callOff()
		}
	}
	return Lease{}, why
}

// waiting says whether w has no answer yet. l.mu is held.
func (l *line) waiting(w *waiter) bool { return len(w.done) == 0 }

// leave takes a waiter out of the line. l.mu is held.
func (l *line) leave(e *list.Element) *waiter {
	w := l.waiters.Remove(e).(*waiter)
	l.bytes -= w.req.Bytes
	return w
}

// serve grants slots to the head of the line while there are both. Wakes that nobody waits for any more are called off.
// l.mu is held.
func (l *line) serve(now time.Time) {
	for l.waiters.Len() > 0 {
		head := l.waiters.Front()
		c, why := Pick(l.candidates, now, head.Value.(*waiter).req.Not)
		if c == nil {
			return
		}
		w := l.leave(head)
		lease := l.lease(c, why, now)
		lease.Waited, lease.Cold = now.Sub(w.since), w.cold
		w.done <- answer{lease: lease}
	}
	l.callOff()
}

// refuseAll ends every wait. l.mu is held.
func (l *line) refuseAll(why error) {
	for l.waiters.Len() > 0 {
		l.leave(l.waiters.Front()).done <- answer{err: why}
	}
}

// close ends every wait, now and later.
func (l *line) close(why *Refusal) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.closed = why
	l.refuseAll(why)
	l.callOff()
}

// observe takes over what is known of the model now.
func (l *line) observe(m *Model) {
	now := time.Now()
	l.mu.Lock()
	defer l.mu.Unlock()
	l.model = m
	candidates := make([]*Candidate, 0, len(m.Backends))
	warm := false
	for _, b := range m.Backends {
		c := l.candidate(b.ID)
		if c == nil {
			c = &Candidate{last: now}
		} else if c.State != b.State {
			c.Avoid, c.Ejected, c.broke = time.Time{}, time.Time{}, 0 // what was held against it is of its last life
			if b.State == Failed {
				c.Avoid = b.Rested
			}
		}
		c.Backend = b
		warm = warm || b.State == Ready
		candidates = append(candidates, c)
	}
	for _, c := range l.candidates {
		if c.wake != nil && !slices.Contains(candidates, c) {
			c.wake.cancel()
		}
	}
	l.candidates = candidates
	l.readmit(now)
	switch {
	case !warm:
		l.warmSince = time.Time{}
	case l.warmSince.IsZero():
		l.warmSince = now
	}
	l.serve(now)
	l.call(now)
}

// candidate finds a backend. l.mu is held.
func (l *line) candidate(backend string) *Candidate {
	i := slices.IndexFunc(l.candidates, func(c *Candidate) bool { return c.ID == backend })
	if i < 0 {
		return nil
	}
	return l.candidates[i]
}
