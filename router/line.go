package router

import (
	"context"
	"slices"
	"strings"
	"sync"
	"time"

	"pilotlight/config"
	"pilotlight/probe"
)

// A line hands out the slots of one model's backends, in the order of its queue: by arrival where priorities and tenants are
// the same. A newcomer never overtakes a waiter: it takes a free slot only if nobody waits.
type line struct {
	router *Router
	name   string

	mu         sync.Mutex // guards what follows
	model      *Model     // as last observed
	candidates []*Candidate
	waiters    queue
	bytes      int64         // bodies held by waiters
	warmSince  time.Time     // since when some backend is ready, without a break; zero: none is
	hold       time.Duration // how long a request keeps its slot, learned
	retries    retries
	turn       uint64
	prefixes   *prefixes
	granted    int64    // leases, since the start
	closed     *Refusal // why nobody may wait any more
	owed       bool     // wakes go on though nobody waits: requests for which they began went elsewhere
}

type answer struct {
	lease Lease
	err   error
}

func newLine(r *Router, m *Model) *line {
	return &line{router: r, name: m.Name, model: m, retries: retries{retryReserve, time.Now()}, prefixes: &prefixes{}}
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
	c, why := l.pick(&req, now)
	if c == nil {
		return Lease{}, ErrWait
	}
	return l.lease(c, &req, why, now), nil
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
	l.waiters.push(w)
	l.bytes += req.Bytes
	held := l.router.held.Add(req.Bytes)
	l.serve(now)
	if why := l.full(held); l.waiting(w) && why != "" {
		l.leave(w)
		after := l.estimate(now)
		l.mu.Unlock()
		return Lease{}, refuse(429, LineFull, after, "%s; ask again later", why)
	}
	if l.waiting(w) {
		l.stir()
	}
	l.call(now)
	overflow := l.model.Config.Overflow
	l.mu.Unlock()
	var patience <-chan time.Time
	if req.Overflow && overflow != nil && slices.Contains(overflow.When, config.OverflowCold) {
		patience = time.After(overflow.After.Std())
	}
	return l.wait(ctx, w, limits.MaxWait.Std(), patience)
}

// pick gives a request a backend that has a free slot; nil: none has. l.mu is held.
func (l *line) pick(req *Request, now time.Time) (*Candidate, Why) {
	ask := Ask{Routing: l.routing(), Tried: req.Not, Turn: l.turn, Near: l.prefixes.find(req.Prefix)}
	c, why := Pick(l.candidates, now, ask)
	if c != nil {
		l.turn++
		l.prefixes.note(req.Prefix, c)
	}
	return c, why
}

// routing is how the model wants its backends picked. l.mu is held.
func (l *line) routing() config.Routing {
	if l.model.Config.Routing == (config.Routing{}) {
		return config.DefaultRouting() // the model is not from a file
	}
	return l.model.Config.Routing
}

// full says why nobody may join the line, if so. Held are the bytes that all lines hold. l.mu is held.
func (l *line) full(held int64) string {
	limits := l.model.Config.Line
	switch {
	case l.waiters.Len() > limits.Requests || l.bytes > int64(limits.Bytes):
		return "the line for " + l.name + " is full"
	case l.router.Held > 0 && held > int64(l.router.Held):
		return "this edge holds as much for requests that wait as it may"
	}
	return ""
}

// wait stands in line until there is an answer, the client leaves, or the budget for waiting is used up. Only time in which
// a backend is ready counts: how long a wake may take is its owner's to say. A request that could go elsewhere
// does if the model still wakes when its patience ends.
func (l *line) wait(ctx context.Context, w *waiter, budget time.Duration, patience <-chan time.Time) (Lease, error) {
	timer := time.NewTimer(budget)
	defer timer.Stop()
	for {
		select {
		case a := <-w.done:
			return a.lease, a.err
		case <-ctx.Done():
			return l.quit(w, context.Cause(ctx))
		case <-patience:
			if l.overflow(w) {
				return Lease{}, ErrOverflow
			}
		case now := <-timer.C:
			l.mu.Lock()
			rest, after := l.rest(w, now, budget), l.estimate(now)
			l.mu.Unlock()
			if rest > 0 {
				timer.Reset(rest)
				continue
			}
			return l.quit(w, refuse(503, WaitTooLong, after, "no slot of %s was free within %s; ask again later", l.name, budget))
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
func (l *line) quit(w *waiter, why error) (Lease, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	select {
	case a := <-w.done: // answered while it was leaving
		if a.err == nil {
			a.lease.began()
			l.free(a.lease.candidate, time.Now())
		}
	default:
		l.leave(w)
		if l.waiters.Len() == 0 {
			l.callOff()
		}
	}
	return Lease{}, why
}

// waiting says whether w has no answer yet. l.mu is held.
func (l *line) waiting(w *waiter) bool { return len(w.done) == 0 }

// leave takes a waiter out of the line that is not served. l.mu is held.
func (l *line) leave(w *waiter) {
	l.waiters.remove(w)
	l.drop(w)
}

// drop is for the bytes of a waiter that does not wait any more. l.mu is held.
func (l *line) drop(w *waiter) {
	l.bytes -= w.req.Bytes
	l.router.held.Add(-w.req.Bytes)
}

// serve grants slots to the head of the line while there are both. Wakes that nobody waits for any more are called off.
// l.mu is held.
func (l *line) serve(now time.Time) {
	for l.waiters.Len() > 0 {
		w := l.waiters.head()
		c, why := l.pick(&w.req, now)
		if c == nil {
			return
		}
		l.waiters.serve(w)
		l.drop(w)
		lease := l.lease(c, &w.req, why, now)
		lease.Waited, lease.Cold = now.Sub(w.since), w.cold
		w.done <- answer{lease: lease}
	}
	l.callOff()
}

// stir says that somebody else should know how the model is used now. l.mu is held.
func (l *line) stir() {
	if l.router.Stir != nil {
		l.router.Stir(l.name)
	}
}

// refuseAll ends every wait. l.mu is held.
func (l *line) refuseAll(why error) {
	for l.waiters.Len() > 0 {
		w := l.waiters.head()
		l.leave(w)
		w.done <- answer{err: why}
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
			c.Avoid, c.Ejected, c.Broke = time.Time{}, time.Time{}, 0 // what was held against it is of its last life
			if b.State == Failed {
				c.Avoid = b.Rested
			}
		}
		if c.Backend = b; c.gpus != nil {
			c.SeeGPUs(c.gpus) // it may be on others now
		}
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
	l.owed = l.owed && !warm
	switch {
	case !warm:
		l.warmSince = time.Time{}
	case l.warmSince.IsZero():
		l.warmSince = now
	}
	l.serve(now)
	l.call(now)
}

// candidate finds a backend; they are in the order of their IDs. l.mu is held.
func (l *line) candidate(backend string) *Candidate {
	i, ok := slices.BinarySearchFunc(l.candidates, backend, func(c *Candidate, id string) int { return strings.Compare(c.ID, id) })
	if !ok {
		return nil
	}
	return l.candidates[i]
}

// read takes in what a probe saw of a backend's engine.
func (l *line) read(backend string, r probe.Reading) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if c := l.candidate(backend); c != nil {
		c.See(r)
	}
}

// readGPUs takes in what a probe saw of the GPUs of a backend's node.
func (l *line) readGPUs(backend string, g *probe.GPUs) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if c := l.candidate(backend); c != nil {
		c.SeeGPUs(g)
	}
}
