package warmpool

import (
	"cmp"
	"fmt"
	"slices"
	"time"

	"pilotlight/config"
	"pilotlight/router"
)

const (
	// lookForRoom is how often it is looked whether a busy backend has become idle while somebody waits for its memory.
	lookForRoom = 10 * time.Millisecond
	// minTurn is how long a backend serves before others that wait for its memory may end its turn although it is busy; twice
	// its wake time, if that is more. Without a turn's end, a model that is always busy would keep the others out for ever;
	// without a minimum, two models would do nothing but swap.
	minTurn = 10 * time.Second
)

// makeRoom wakes whom there is room for, in the order in which they asked, and dismisses those who must make room. It
// says whether anybody still waits for room.
func (k *Keeper) makeRoom(now time.Time) bool {
	for _, u := range slices.Clone(k.queue) {
		if !u.isWanted() {
			k.callOff(u, "nobody waits for it any more")
			continue
		}
		if !u.placed && !k.assign(u, now) {
			continue
		}
		// Who has left is forgotten at once: it may be on its way back already, to another GPU.
		u.victims = slices.DeleteFunc(u.victims, func(v *unit) bool { return !v.holdsRoom() })
		for _, v := range u.victims {
			if v.state == router.Ready && v.op == nothing { // it could not leave just now
				k.evict(v, "evicted for "+u.id, false)
			}
		}
		if len(u.victims) == 0 {
			k.unqueue(u)
			k.awaken(u, k.ledger.taken[u.id].GPUs)
		}
	}
	return len(k.queue) > 0
}

// unqueue takes a backend out of those that wait for room.
func (k *Keeper) unqueue(u *unit) {
	k.queue = slices.DeleteFunc(k.queue, func(q *unit) bool { return q == u })
	u.placed, u.victims = false, nil
}

// holdsRoom says whether a victim has not left yet.
func (u *unit) holdsRoom() bool {
	return u.op != nothing || u.state == router.Ready || u.state == router.Draining
}

// assign gives a backend its GPUs, and their memory, and dismisses who must leave for it: those that are idle if that is
// enough, put to sleep if that is enough. It says whether there was anything to give. What sleeps can only wake
// where it is.
func (k *Keeper) assign(u *unit, now time.Time) bool {
	n, each := u.spec.GPUs, Spread(u.spec.Memory, u.spec.GPUs)
	held := k.ledger.taken[u.id]
	k.ledger.Release(u.id) // what it holds asleep is its own
	may := k.evictable(u, now)
	for _, rank := range []rank{isIdle, turnOver} {
		for _, stop := range []bool{false, true} {
			gpus, victims, ok := k.ledger.Fit(each, n, u.up.GPUs, upTo(may, rank, stop))
			if !ok {
				continue
			}
			k.ledger.Commit(u.id, Commitment{GPUs: gpus, Each: each, Host: held.Host})
			u.placed = true
			for _, id := range victims {
				u.victims = append(u.victims, k.units[id])
				k.evict(k.units[id], "evicted for "+u.id, stop)
			}
			return true
		}
	}
	_, _, possible := k.ledger.Fit(each, n, u.up.GPUs, upTo(may, isBusy, true))
	k.ledger.Commit(u.id, held)
	if !possible {
		k.unqueue(u)
		k.fell(u, fmt.Errorf("it needs %s on each of %d GPUs of %s, and what never sleeps leaves less", each, n, k.node.Name))
	}
	return false
}

// evict makes a backend leave its GPUs.
func (k *Keeper) evict(v *unit, why string, stop bool) {
	switch {
	case v.state == router.Waking:
		k.callOff(v, why)
	case v.op != nothing: // it is on its way out
		v.firm, v.halt = true, v.halt || stop
	case v.state == router.Ready:
		k.dismiss(v, why, true, stop)
	case v.state == router.Asleep:
		v.reason = why
		k.stop(v)
	}
}

// rank is how gladly a backend makes room, the first most gladly.
type rank uint8

const (
	isLeaving rank = iota
	isUnwanted
	isAsleep
	isIdle
	turnOver // busy, and has been long enough
	isBusy
)

// evictee is a backend that could make room.
type evictee struct {
	Evictable
	rank  rank
	last  time.Time   // when it was last used
	stays config.Size // on each GPU, if it sleeps rather than stops
}

// evictable lists who could make room for u, in the order in which they should go. What never sleeps, and what min keeps, is
// not among them.
func (k *Keeper) evictable(u *unit, now time.Time) []evictee {
	awake := map[string]int{}
	for _, v := range k.units {
		if v.state == router.Ready {
			awake[v.model]++
		}
	}
	var may []evictee
	for _, v := range k.units {
		held := k.ledger.taken[v.id]
		e := evictee{Evictable: Evictable{Backend: v.id, GPUs: held.GPUs, Frees: held.Each}, last: v.since}
		pinned := v.policy.NeverSleep || v.policy.Min > 0 && awake[v.model] <= v.policy.Min
		if v == u || v.fixed() || held.Each == 0 {
			continue
		}
		switch v.state {
		case router.Failed, router.Stopped: // it is being cleared away
		case router.Draining:
			e.stays = v.residue()
		case router.Asleep:
			if e.rank = isAsleep; !v.canStop() {
				continue
			}
		case router.Waking:
			if e.rank = isUnwanted; v.isWanted() || v.op != awaking {
				e.rank = isBusy
			}
		case router.Ready:
			if e.rank, e.last = k.turn(v, now); pinned {
				continue
			}
			e.stays = v.residue()
		}
		if !v.canStop() {
			e.Frees, e.stays = e.Frees-e.stays, 0
		}
		may = append(may, e)
	}
	slices.SortFunc(may, func(a, b evictee) int {
		return cmp.Or(cmp.Compare(a.rank, b.rank), a.last.Compare(b.last), cmp.Compare(a.Backend, b.Backend))
	})
	return may
}

// upTo is those who go at least as gladly as rank, and what that frees.
func upTo(may []evictee, rank rank, stop bool) (all []Evictable) {
	for _, e := range may {
		if e.rank <= rank {
			if !stop {
				e.Frees -= e.stays
			}
			all = append(all, e.Evictable)
		}
	}
	return all
}

// turn ranks a ready backend.
func (k *Keeper) turn(v *unit, now time.Time) (rank, time.Time) {
	use := k.edge.Use(v.id)
	switch {
	case use.InFlight == 0 && use.Waiting == 0:
		return isIdle, use.Last
	case now.Sub(v.since) >= max(minTurn, 2*k.learned.Expect(v.id, router.OnDisk, v.spec.Memory)):
		return turnOver, v.since
	}
	return isBusy, v.since
}

// residue is what stays on each GPU when the backend sleeps, unless it is to be stopped.
func (u *unit) residue() (each config.Size) {
	if u.state == router.Draining && u.halt || !u.canSleep() {
		return 0
	}
	return Spread(u.spec.AsleepMemory, len(u.up.GPUs))
}
