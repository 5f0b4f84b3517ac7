package warmpool

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"time"

	"pilotlight/config"
	"pilotlight/router"
)

// A backend that fails to wake, or dies within shortLife of it, rests: for firstRest, then twice as long each time, up to
// maxRest, a fifth more or less so that those that failed together do not come back together.
const (
	shortLife = 10 * time.Second
	firstRest = time.Second
	maxRest   = 5 * time.Minute
)

// lookAnew is how often a backend that an orchestrator runs is looked for while it is stopped: others may start it, too.
const lookAnew = 30 * time.Second

// find asks the launcher what is there already.
func (k *Keeper) find(u *unit) {
	u.looked = time.Now()
	k.begin(u, finding, func(ctx context.Context) func() {
		found, err := u.launcher.Find(ctx)
		return func() { k.found(u, found, err) }
	})
}

// found takes over a model server that was there before its keeper.
func (k *Keeper) found(u *unit, f Found, err error) {
	said := ""
	if err != nil {
		said = err.Error()
	}
	if said != "" && said != u.hidden { // it is looked for again and again
		k.log.Warn("looking for a running model server", "model", u.model, "backend", u.id, "error", err)
	}
	if u.hidden = said; err != nil {
		return
	}
	switch f.State {
	case router.Ready:
		k.isUp(u, f.Up, "found running")
	case router.Asleep:
		u.up, u.tier = f.Up, f.Tier
		k.commit(u, f.Up.GPUs, k.stays(u), u.spec.HostMemory)
		k.move(u, slept, "found asleep")
		k.watch(u)
	case router.Waking:
		u.up = f.Up
		k.commit(u, f.Up.GPUs, k.needs(u), 0)
		k.move(u, wanted, "found starting")
		u.kept = true
		k.awaken(u, f.Up.GPUs)
	case router.Stopped, router.Draining, router.Failed:
	}
}

// want notes that somebody waits for the backend. What follows from that is settled afterwards.
func (k *Keeper) want(u *unit, w *wait, now time.Time) {
	switch {
	case u.state == router.Ready:
		w.done <- nil
	case u.state == router.Failed && (u.rested.After(now) || u.op != nothing):
		w.done <- u.resting(now)
	default:
		u.waits = append(u.waits, w)
	}
}

// resting is what those are told who want a backend that rests after a failure.
func (u *unit) resting(now time.Time) error {
	return &router.Refusal{
		Status: 503, Code: router.WakeFailed, RetryAfter: max(u.rested.Sub(now), time.Second),
		Reason: fmt.Sprintf("%s rests after a failure: %s", u.model, u.reason),
	}
}

// awaken lets the launcher wake the backend.
func (k *Keeper) awaken(u *unit, gpus []int) {
	u.began = time.Now()
	u.woken.Room = u.began
	k.begin(u, awaking, func(ctx context.Context) func() {
		up, err := u.launcher.Wake(ctx, gpus)
		return func() { k.woke(u, up, err) }
	})
}

// woke is what became of a wake.
func (k *Keeper) woke(u *unit, up Up, err error) {
	switch {
	case u.abort != "": // even if it came up in the same moment: somebody counts on its memory
		if err == nil {
			u.up = up
		}
		u.reason = u.abort
		k.bringDown(u, true)
	case errors.Is(err, ErrOutOfMemory) && u.again.IsZero():
		k.tryAgain(u, err)
	case err == nil:
		if e := k.learned.Learn(u.id, u.tier, time.Since(u.began)); e != nil {
			k.log.Warn("learned wake times are not saved", "error", e)
		}
		if !u.again.IsZero() && !k.ledger.sees(time.Now()) {
			k.learnMemory(u, router.OnGPU, k.needs(u)+u.extra)
		}
		u.again, u.extra = time.Time{}, 0
		k.isUp(u, up, "its engine answers")
	default:
		if errors.Is(err, ErrOutOfMemory) {
			k.learnMemory(u, router.OnGPU, min(k.needs(u)*5/4, k.ledger.most(u.spec.GPUs)))
			err = fmt.Errorf("also after room was made for more: %w", err)
		}
		u.again, u.extra = time.Time{}, 0
		k.fell(u, err)
	}
	u.abort = ""
}

// tryAgain lets a backend that ran out of GPU memory wake once more, as soon as somebody has looked at the GPUs since. It asks
// for a tenth more than there was, for which others leave; if that is not to be had, for what it asked for before.
func (k *Keeper) tryAgain(u *unit, err error) {
	k.log.Warn("a wake ran out of GPU memory and is tried once more", "model", u.model, "backend", u.id, "error", err)
	u.again = time.Now()
	u.extra = k.needs(u)/10 + config.Size(u.spec.GPUs)*k.ledger.leastFree(k.ledger.taken[u.id].GPUs, u.again)
	u.reason = "tried once more: " + err.Error()
	if u.spec.Process != nil { // its launcher has ended it
		k.forget(u)
	} else {
		k.commit(u, u.up.GPUs, k.stays(u), u.spec.HostMemory)
	}
	k.queue = append(k.queue, u)
	k.changed = true
}

// isUp makes a backend ready and tells the edges at once.
func (k *Keeper) isUp(u *unit, up Up, why string) {
	u.up, u.tier = up, router.OnGPU
	if u.state == router.Waking {
		u.woken.Answered, u.woken.Ready = up.Answered, time.Now()
	}
	if up.Gone != u.watched {
		u.lost = nil // it was of a server before this one
	}
	k.commit(u, up.GPUs, k.needs(u), 0)
	k.move(u, cameUp, why)
	k.watch(u)
	k.publish()
	u.answer(nil)
}

// watch waits for the model server to end by itself. The same server is watched once, however often it wakes.
func (k *Keeper) watch(u *unit) {
	gone := u.up.Gone
	if gone == u.watched {
		return
	}
	u.unwatch()
	if gone == nil {
		return
	}
	stop := make(chan struct{})
	u.watched, u.watching = gone, stop
	k.ops.Go(func() {
		select {
		case err := <-gone:
			k.do(func() {
				if u.watched == gone {
					u.lost = err
				}
			})
		case <-stop:
		case <-k.closing:
		}
	})
}

// forget notes that the backend has no model server, and holds nothing.
func (k *Keeper) forget(u *unit) {
	u.up, u.tier = Up{}, router.OnDisk
	u.unwatch()
	k.ledger.Release(u.id)
}

// unwatch forgets the model server.
func (u *unit) unwatch() {
	if u.watching != nil {
		close(u.watching)
	}
	u.watched, u.watching = nil, nil
}

// fell takes note of a failure: the backend rests, whoever waits is refused, and what is left of it is cleared away.
func (k *Keeper) fell(u *unit, err error) {
	now := time.Now()
	rests := time.Duration(0)
	switch {
	case u.state == router.Waking:
		u.failed++
		rests = rest(u.failed, rand.Float64())
	case now.Sub(u.since) < shortLife: // the first time may be chance
		rests = rest(u.failed, rand.Float64())
		u.failed++
	default:
		u.failed = 0
	}
	u.rested = now.Add(rests)
	k.log.Warn("backend fell over", "model", u.model, "backend", u.id, "error", err, "failed", u.failed, "rests", rests.Round(time.Millisecond).String())
	k.lifeIsOver(u)
	code := router.WakeFailed
	if errors.Is(err, ErrStalled) {
		code = router.WakeStalled
	}
	k.move(u, fellOver, err.Error())
	k.publish()
	u.answer(&router.Refusal{
		Status: 503, Code: code, RetryAfter: max(u.rested.Sub(now), time.Second),
		Reason: fmt.Sprintf("%s could not be woken: %v", u.model, err),
	})
	k.stop(u)
}

// rest is how long a backend rests after it failed n times in a row; jitter is from 0 to 1. A server that had served
// for a while does not rest.
func rest(n int, jitter float64) time.Duration {
	if n == 0 {
		return 0
	}
	full := min(firstRest<<min(n-1, 16), maxRest)
	return time.Duration(float64(full) * (0.8 + 0.4*jitter))
}

// dismiss lets the backend finish what it has in flight and takes it off its GPU. A firm dismissal is not taken back when
// the backend is wanted again.
func (k *Keeper) dismiss(u *unit, why string, firm, stop bool) {
	if time.Since(u.since) >= shortLife {
		u.failed = 0
	}
	if !k.move(u, dismissed, why) {
		return
	}
	u.firm, u.halt = firm, stop
	k.lifeIsOver(u)
	k.publish() // from here on nothing is admitted
	k.drain(u)
}

// drain waits until the edges have nothing in flight on the backend.
func (k *Keeper) drain(u *unit) {
	k.begin(u, draining, func(ctx context.Context) func() {
		err := k.edge.Drained(ctx, u.id)
		return func() {
			switch {
			case u.lost != nil: // settled with everything else
			case !u.firm && u.isWanted():
				k.move(u, wanted, "wanted again")
				k.publish()
				u.answer(nil)
			case err != nil: // called off, and then meant after all
				k.drain(u)
			default:
				k.bringDown(u, u.halt)
			}
		}
	})
}

// bringDown puts the backend to sleep or, where it cannot or must not, stops it.
func (k *Keeper) bringDown(u *unit, stop bool) {
	if !stop && u.canSleep() && u.canStop() {
		if free := k.hostFor(u); u.spec.HostMemory > free {
			stop = true
			u.reason += fmt.Sprintf("; stopped, since asleep it takes %s of host memory and %s is free", u.spec.HostMemory, roundUp(max(0, free)))
		}
	}
	if stop && u.canStop() || !u.canSleep() {
		k.stop(u)
		return
	}
	k.begin(u, sleeping, func(ctx context.Context) func() {
		tier, err := u.launcher.Sleep(ctx)
		return func() {
			switch {
			case err == nil:
				u.tier, u.slept = tier, u.up.PID
				k.commit(u, u.up.GPUs, k.stays(u), u.spec.HostMemory)
				if k.move(u, slept, u.reason); u.halt && u.canStop() { // while it went to sleep somebody came who needs all of its memory
					k.stop(u)
				}
			case errors.Is(err, ErrCannotSleep):
				k.log.Warn("a backend is stopped since it cannot sleep", "model", u.model, "backend", u.id, "error", err)
				u.reason += "; stopped: " + err.Error()
				k.stop(u)
			case errors.Is(err, ErrBusy) && k.move(u, wanted, err.Error()):
				k.publish()
				u.answer(nil)
			default:
				k.fell(u, fmt.Errorf("put %s to sleep: %w", u.id, err))
			}
		}
	})
}

// stop ends the backend and whatever is left of it.
func (k *Keeper) stop(u *unit) {
	k.begin(u, stopping, func(ctx context.Context) func() {
		err := u.launcher.Stop(ctx)
		return func() { k.halted(u, err) }
	})
}

// halted is what became of a stop.
func (k *Keeper) halted(u *unit, err error) {
	u.lost = nil
	switch {
	case err == nil || errors.Is(err, ErrCannotStop) && u.state == router.Failed:
		k.forget(u)
		k.changed = true
		k.move(u, halted, u.reason)
	case errors.Is(err, ErrCannotStop) && u.state == router.Waking: // a server of somebody else's; it may still come up
		k.move(u, halted, "called off")
		k.ledger.Release(u.id)
	default: // it is tried again when it has rested
		k.log.Error("stopping a backend", "model", u.model, "backend", u.id, "error", err)
		u.rested = time.Now().Add(maxRest)
		k.move(u, fellOver, fmt.Sprintf("it does not stop: %v", err))
	}
}

// dismissByHand takes a backend down because a person said so.
func (k *Keeper) dismissByHand(u *unit, stop bool) *wait {
	w := &wait{done: make(chan error, 1)}
	if u.fixed() {
		w.done <- fmt.Errorf("%s: %w, and %w", u.id, ErrCannotSleep, ErrCannotStop)
		return w
	}
	if stop && !u.canStop() {
		w.done <- fmt.Errorf("%s: %w", u.id, ErrCannotStop)
		return w
	}
	u.downs = append(u.downs, w)
	u.halt = u.halt || stop
	return w
}
