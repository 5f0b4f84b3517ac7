// Package loadtest puts a load on a model server, or on whatever stands in front of it, and measures what its clients see.
//
// A load is open: when its requests begin is fixed before it does, and does not depend on the answers. The time of a request counts from when
// it was meant to begin, so a server that pauses is charged for everybody whom the pause kept waiting, and not only for the
// requests that it was answering. (A load that waits for answers sends less when the server is slow, and reports that all is well:
// "coordinated omission".) Loads that wait, with a fixed number of requests at once, are there as well, for who wants to know
// how much a server can do.
package loadtest

import (
	"context"
	"iter"
	"sync"
	"time"
)

// Asker sends a request and says what became of it. It returns soon after ctx ends.
type Asker func(ctx context.Context, r *Request) Answer

// Load is what is sent.
type Load struct {
	Requests    iter.Seq[Request] // in the order of At
	Concurrency int               // so many at once, each after the answer to the one before, whatever At says; 0: when they are due
	For         time.Duration     // what would begin later is not sent; 0: all are
	WarmUp      time.Duration     // what begins earlier does not count
	Patience    time.Duration     // that a request may take, counted from when it began
	Most        int               // requests at once: more wait, and the wait counts
}

// Run sends the load and returns when every request has its answer. When ctx ends nothing more is sent, and what is in
// flight is left.
func Run(ctx context.Context, ask Asker, load Load, into *Result) {
	into.begin(load)
	defer into.end()
	if load.Concurrency > 0 {
		load.closed(ctx, ask, into)
	} else {
		load.open(ctx, ask, into)
	}
}

// open sends each request when it is due.
func (l *Load) open(ctx context.Context, ask Asker, into *Result) {
	var all sync.WaitGroup
	defer all.Wait()
	free := make(chan struct{}, max(l.Most, 1))
	for r := range l.Requests {
		due := into.Began.Add(r.At)
		if l.For > 0 && r.At >= l.For || !sleepUntil(ctx, due) {
			return
		}
		select {
		case free <- struct{}{}:
		case <-ctx.Done():
			return
		}
		into.sent(r.At)
		all.Go(func() {
			defer func() { <-free }()
			into.add(&r, due, l.patiently(ctx, ask, &r))
		})
	}
}

// closed has so many clients that each wait for their answer.
func (l *Load) closed(ctx context.Context, ask Asker, into *Result) {
	next, stop := iter.Pull(l.Requests)
	defer stop()
	var mu sync.Mutex // guards next
	var all sync.WaitGroup
	defer all.Wait()
	for range l.Concurrency {
		all.Go(func() {
			for ctx.Err() == nil && (l.For == 0 || time.Since(into.Began) < l.For) {
				mu.Lock()
				r, more := next()
				mu.Unlock()
				if !more {
					return
				}
				due := time.Now()
				r.At = due.Sub(into.Began)
				into.sent(r.At)
				into.add(&r, due, l.patiently(ctx, ask, &r))
			}
		})
	}
}

// patiently asks, and leaves when it takes too long.
func (l *Load) patiently(ctx context.Context, ask Asker, r *Request) Answer {
	if l.Patience > 0 {
		var cancel context.CancelFunc
		ctx, cancel = context.WithTimeoutCause(ctx, l.Patience, ErrTooLong)
		defer cancel()
	}
	return ask(ctx, r)
}

// sleepUntil says whether it came to that before ctx ended.
func sleepUntil(ctx context.Context, t time.Time) bool {
	d := time.Until(t)
	if d <= 0 {
		return ctx.Err() == nil
	}
	timer := time.NewTimer(d)
	defer timer.Stop()
	select {
	case <-timer.C:
		return ctx.Err() == nil
	case <-ctx.Done():
		return false
	}
}
