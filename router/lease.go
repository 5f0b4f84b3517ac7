package router

import (
	"context"
	"time"
)

// Lease is one request's right to one slot of a backend, from Acquire until Release.
type Lease struct {
	Backend *Backend // as it was when the lease was given
	Model   *Model   // likewise
	Why     Why
	Waited  time.Duration // in line
	Cold    bool          // no backend was ready when the request came

	line      *line
	candidate *Candidate
	at        time.Time
	opening   bool // it counts as such
}

// lease takes a slot of c. l.mu is held.
func (l *line) lease(c *Candidate, req *Request, why Why, now time.Time) Lease {
	c.InFlight++
	if req.Stream {
		c.Opening++
	}
	c.last = now
	l.retries.earned++
	l.granted++
	c.granted++
	return Lease{Backend: c.Backend, Model: l.model, Why: why, line: l, candidate: c, at: now, opening: req.Stream}
}

// Began says that the answer has begun. It may be called more than once.
func (s *Lease) Began() {
	if s.opening {
		s.line.mu.Lock()
		s.began()
		s.line.mu.Unlock()
	}
}

// began is Began. The line's mu is held.
func (s *Lease) began() {
	if s.opening {
		s.opening = false
		s.candidate.Opening--
	}
}

// Release gives the slot back and says how the request ended. It must be called exactly once.
func (s *Lease) Release(o Outcome) {
	now := time.Now()
	l, c := s.line, s.candidate
	l.mu.Lock()
	defer l.mu.Unlock()
	s.began()
	switch o {
	case OK:
		c.Broke = 0
		l.hold = smooth(l.hold, now.Sub(s.at))
	case Broken:
		l.brokeOne(c, now)
	case Refused, Left:
	}
	l.free(c, now)
}

// smooth is an exponentially weighted mean that starts at the first value.
func smooth(mean, value time.Duration) time.Duration {
	if mean == 0 {
		return value
	}
	return mean + (value-mean)/8
}

// free takes a slot back and serves whoever waits for it. l.mu is held.
func (l *line) free(c *Candidate, now time.Time) {
	if c.InFlight--; c.InFlight < 0 {
		panic("BUG: a slot of " + c.ID + " was released twice")
	}
	c.last = now
	over := c.InFlight >= c.limit()
	l.serve(now)
	if c.Shared && (over || c.Granted.Short && c.InFlight < c.limit() || c.State != Ready) {
		l.stir()
	}
	if c.InFlight == 0 && c.drained != nil {
		close(c.drained)
		c.drained = nil
	}
}

// grant changes how many slots of a backend may be used, and serves whom it can.
func (l *line) grant(backend string, g Grant) {
	now := time.Now()
	l.mu.Lock()
	defer l.mu.Unlock()
	if c := l.candidate(backend); c != nil && c.Granted != g {
		c.Granted = g
		l.serve(now)
	}
}

// drained waits until nothing is in flight on a backend.
func (l *line) drained(ctx context.Context, backend string) error {
	l.mu.Lock()
	c := l.candidate(backend)
	if c == nil || c.InFlight == 0 {
		l.mu.Unlock()
		return nil
	}
	if c.drained == nil {
		c.drained = make(chan struct{})
	}
	drained := c.drained
	l.mu.Unlock()
	select {
	case <-drained:
		return nil
	case <-ctx.Done():
		return context.Cause(ctx)
	}
}

// use says how much a backend is used.
func (l *line) use(backend string) Use {
	l.mu.Lock()
	defer l.mu.Unlock()
	u := Use{Waiting: l.waiters.Len(), Bytes: l.bytes}
	if c := l.candidate(backend); c != nil {
		u.InFlight, u.Last, u.Granted = c.InFlight, c.last, c.granted
	}
	return u
}
