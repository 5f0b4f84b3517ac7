package router

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"time"
)

// retryWake is how soon a backend whose owner would not wake it is asked again, where the owner did not say.
const retryWake = time.Second

// wake is one call of the Waker. It belongs to everybody in line.
type wake struct{ cancel context.CancelFunc }

// call wakes a backend if the line needs one: none is ready or on the way, or those that are would take longer to work
// off the line than another takes to wake. Where nobody can be woken and nobody is ready, everybody in line is
// refused. l.mu is held.
func (l *line) call(now time.Time) {
	if l.waiters.Len() == 0 || l.closed != nil {
		return
	}
	c, placement := l.place(now)
	switch {
	case l.cold():
		if c == nil {
			l.refuseAll(l.nobody(now))
			return
		}
	case c == nil || l.isFull() || l.backlog() <= placement.Left:
		return
	}
	l.start(c)
}

// place says whom to wake. Where nothing is ready and nobody has room, by what is known, the owner of one that could be
// asked otherwise is: it says why not, or knows better. l.mu is held.
func (l *line) place(now time.Time) (*Candidate, Placement) {
	c, p := Place(l.candidates, now)
	if c == nil && l.cold() {
		for _, o := range l.candidates {
			if o.notAsked(now) == "" && (c == nil || o.soonest(now) < c.soonest(now)) {
				c = o
			}
		}
	}
	return c, p
}

// cold says that no backend is ready and none has been asked to be. l.mu is held.
func (l *line) cold() bool {
	return l.warmSince.IsZero() && !slices.ContainsFunc(l.candidates, func(c *Candidate) bool { return c.wake != nil })
}

// isFull says that as many backends are ready, or on the way, as may be. l.mu is held.
func (l *line) isFull() bool {
	most, up := l.model.Config.Max, 0
	for _, c := range l.candidates {
		if c.State == Ready || c.State == Waking || c.wake != nil {
			up++
		}
	}
	return most > 0 && up >= most
}

// backlog is how long the line would wait if no further backend woke. l.mu is held.
func (l *line) backlog() time.Duration {
	slots := 0
	for _, c := range l.candidates {
		if c.State == Ready || c.wake != nil {
			slots += max(c.limit(), 1)
		}
	}
	if slots == 0 {
		return 0
	}
	return l.hold * time.Duration(l.waiters.Len()) / time.Duration(slots)
}

// start asks the waker. l.mu is held.
func (l *line) start(c *Candidate) {
	ctx, cancel := context.WithCancel(context.Background())
	w, backend := &wake{cancel}, c.ID
	c.wake = w
	l.router.wakes.Go(func() {
		defer cancel()
		l.woke(c, w, l.router.waker.Wake(ctx, backend))
	})
}

// woke is what became of a wake.
func (l *line) woke(c *Candidate, w *wake, err error) {
	now := time.Now()
	l.mu.Lock()
	defer l.mu.Unlock()
	if c.wake != w {
		return // called off
	}
	c.wake = nil
	if err == nil && c.State != Ready {
		err = fmt.Errorf("%s was ready, and is %s again already", c.ID, c.State)
	}
	if err != nil {
		l.router.log.Info("wake refused", "model", l.name, "backend", c.ID, "error", err, "waiting", l.waiters.Len())
		refusal := asRefusal(err)
		c.Avoid = now.Add(max(refusal.RetryAfter, retryWake))
		if next, _ := l.place(now); next == nil && l.cold() {
			l.refuseAll(refusal)
		}
		l.owed = l.owed && !l.cold()
	}
	l.call(now)
}

// callOff says to the owners that nobody waits any more, unless it is owed to those who went elsewhere. l.mu is held.
func (l *line) callOff() {
	if l.owed && l.closed == nil {
		return
	}
	for _, c := range l.candidates {
		if c.wake != nil {
			c.wake.cancel()
			c.wake = nil
		}
	}
}

// nobody is the refusal where no backend can be asked. l.mu is held.
func (l *line) nobody(now time.Time) *Refusal {
	if len(l.candidates) == 0 {
		return refuse(503, WakeFailed, l.estimate(now), "no backend of %s is known at present; ask again later", l.name)
	}
	for _, c := range l.candidates {
		if c.State == Failed {
			return refuse(503, WakeFailed, l.estimate(now), "%s rests after a failure: %s", l.name, c.Reason)
		}
	}
	return refuse(503, WakeFailed, l.estimate(now), "no backend of %s can be woken now; ask again later", l.name)
}

// asRefusal makes what an owner said readable for a client.
func asRefusal(err error) *Refusal {
	if r, ok := errors.AsType[*Refusal](err); ok {
		return r
	}
	return refuse(503, WakeFailed, retryWake, "%v", err)
}

// minRetry and maxRetry bound every Retry-After.
const (
	minRetry = time.Second
	maxRetry = 10 * time.Minute
)

// estimate is how long a request that came now would wait: until the first backend is ready, as learned from past
// wakes, and for those already in line. l.mu is held.
func (l *line) estimate(now time.Time) time.Duration {
	var ready time.Time
	for _, c := range l.candidates {
		at := c.ReadyAt(now)
		if c.Avoid.After(at) {
			at = c.Avoid
		}
		if ready.IsZero() || at.Before(ready) {
			ready = at
		}
	}
	wait := l.backlog()
	if !ready.IsZero() {
		wait += ready.Sub(now)
	}
	return min(max(wait, minRetry), maxRetry)
}
