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
		if u.replica && !u.placed && k.edge.Use(u.id).Waiting == 0 {
			u.kept, u.replica = false, false // those who waited have been served
		}
		if u.isAhead() && !u.placed && !k.assign(u, now) { // the planner sees, and plans anew
			u.kept, u.ahead = false, false
		}
		if !u.isWanted() {
			k.callOff(u, "nobody waits for it any more")
			continue
		}
		if slices.ContainsFunc(u.victims, k.isStuck) {
			k.unplace(u)
		}
		if !u.placed && (k.ledger.awaitsLook(u.again, now) || !k.assign(u, now)) {
			continue
		}
		// Who has left is forgotten at once: it may be on its way back already, to another GPU.
		u.victims = slices.DeleteFunc(u.victims, func(v *unit) bool { return u.debt.paid(v, now) })
		for _, v := range u.victims {
			if v.state == router.Ready && v.op == nothing || v.state == router.Draining { // it could not leave just now, and may be leaving for another reason
				k.evict(v, "evicted for "+u.id, u.debt.stop)
			}
		}
		if len(u.victims) == 0 && k.isBack(u, now) {
			gpus, left := k.ledger.taken[u.id].GPUs, u.debt.left
			k.unqueue(u)
			u.woken.Left = left
			k.awaken(u, gpus)
		}
	}
	return len(k.queue) > 0
}

// debt is the memory that those who make room for a wake have to give back.
type debt struct {
	from   []owed
	before []config.Size // what the driver said was in use of each of the wake's GPUs when they were told to leave
	left   time.Time     // when the last of them had
	lives  bool          // the process of one goes on: it is to be seen whether its memory is back
	stop   bool          // what they hold asleep was counted on, too
	held   Commitment    // what the wake itself held before it was given room
}

// owed is what one of them has to give back, of each of its GPUs.
type owed struct {
	unit *unit
	each config.Size
}

// paid notes that one of them has left, if it has.
func (d *debt) paid(v *unit, now time.Time) bool {
	if v.holdsRoom() {
		return false
	}
	d.left, d.lives = now, d.lives || v.state != router.Stopped || v.spec.Process == nil
	return true
}

// returnTime is how long the memory of backends that went to sleep may take to come back.
const returnTime = 5 * time.Second

// isBack says whether the memory of those that have left is really free. The end of a process is sure sign; of one that sleeps
// the driver is asked: either there is room now, or all that it held before is no longer in use. Memory that does not come
// back for returnTime is not waited for; where it is somebody else who has taken it, the backend is placed anew.
func (k *Keeper) isBack(u *unit, now time.Time) bool {
	d := &u.debt
	late := now.Sub(d.left) >= returnTime
	switch {
	case d.left.IsZero() || !d.lives:
		return true
	case k.ledger.awaitsLook(d.left, now) && !late:
		return false
	}
	short, others, gone := config.Size(0), false, true
	for i, g := range k.ledger.taken[u.id].GPUs {
		s := k.ledger.believed(g, now)
		if s == nil {
			continue
		}
		missing := -k.ledger.Free(g, now)
		all, still := k.outstanding(d, g, s)
		short, others = max(short, missing), others || missing > still
		gone = gone && d.before[i]-s.used >= all
	}
	short = roundUp(short)
	switch {
	case short == 0 || gone:
		return true
	case others:
		k.log.Info("a backend is placed anew: somebody else has taken the memory that was freed for it", "model", u.model, "backend", u.id, "missing", short.String())
		k.unplace(u)
		return false
	case late:
		u.reason = fmt.Sprintf("woken although %s that others freed for it had not come back after %s", short, returnTime)
		k.log.Warn("a backend wakes although the memory that was freed for it has not come back", "model", u.model, "backend", u.id, "missing", short.String(), "waited", returnTime.String())
		k.changed = true
	}
	return late
}

// outstanding is what is owed in all of a GPU, and how much of that is still in use as far as can be told.
func (k *Keeper) outstanding(d *debt, gpu int, s *sight) (all, still config.Size) {
	for _, o := range d.from {
		c := k.ledger.taken[o.unit.id]
		switch {
		case !slices.Contains(o.unit.up.GPUs, gpu):
			continue
		case c.Nameless || s.nameless:
			still += o.each
		default:
			still += max(0, s.ours[o.unit.id]-c.Each)
		}
		all += o.each
	}
	return all, still
}

// unplace takes back what a wake was given. It goes on waiting for room.
func (k *Keeper) unplace(u *unit) {
	k.restore(u, u.debt.held)
	u.placed, u.victims, u.debt = false, nil, debt{}
}

// unqueue takes a backend out of those that wait for room.
func (k *Keeper) unqueue(u *unit) {
	k.queue = slices.DeleteFunc(k.queue, func(q *unit) bool { return q == u })
	u.placed, u.victims, u.debt, u.doubted = false, nil, debt{}, time.Time{}
}

// isStuck says whether a backend could not be stopped. What it takes is its own until that succeeds: see halted.
func (k *Keeper) isStuck(u *unit) bool {
	return u.state == router.Failed && u.op == nothing && k.ledger.taken[u.id].Each > 0
}

// holdsRoom says whether a victim has not left yet.
func (u *unit) holdsRoom() bool {
	return u.op != nothing || u.state == router.Ready || u.state == router.Draining
}

// assign gives a backend its GPUs, and their memory, and dismisses who must leave for it: those that are idle if that is
// enough, put to sleep if that is enough. It says whether there was anything to give. What sleeps can only wake
// where it is.
func (k *Keeper) assign(u *unit, now time.Time) bool {
	held := k.ledger.taken[u.id]
	k.ledger.Release(u.id) // what it holds asleep is its own
	may := k.evictable(u, now)
	ranks := []rank{isIdle, turnOver}
	if k.isMore(u) || u.isAhead() { // nobody whom others use makes room for one more of a model
		ranks = ranks[:1]
	}
	for _, memory := range k.asks(u) {
		each := Spread(memory, u.spec.GPUs)
		for _, rank := range ranks {
			for _, stop := range []bool{false, true} {
				all := upTo(may, rank, stop)
				if gpus, victims, ok := k.ledger.Fit(now, each, u.spec.GPUs, u.up.GPUs, all); ok {
					k.place(u, held, gpus, memory)
					k.clear(u, victims, all, stop)
					return true
				}
			}
		}
		if _, _, possible := k.ledger.Fit(now, each, u.spec.GPUs, u.up.GPUs, upTo(may, isBusy, true)); possible && memory <= k.needs(u) {
			k.restore(u, held)
			return false
		}
	}
	k.restore(u, held)
	if u.isAhead() || k.doubts(u, now) {
		return false
	}
	k.unqueue(u)
	k.fell(u, fmt.Errorf("it needs %s on each of %d GPUs of %s, and %s", Spread(u.spec.Memory, u.spec.GPUs), u.spec.GPUs, k.node.Name, k.unfit(u, now)))
	return false
}

// isMore says whether another backend of the same model is ready, or on the way there.
func (k *Keeper) isMore(u *unit) bool {
	for _, v := range k.units {
		if v != u && v.model == u.model && (v.state == router.Ready || v.op == awaking) {
			return true
		}
	}
	return false
}

// doubtTime is how long others must be seen to hold the memory that a wake needs, before it has failed.
const doubtTime = 3 * time.Second

// doubts says whether a backend that is left no room goes on waiting: others may go, one look may be wrong, and the last one may show what was
// there before something of ours moved.
func (k *Keeper) doubts(u *unit, now time.Time) bool {
	old := k.ledger.awaitsLook(k.ledger.moved.Add(moveTime), now) && len(k.ailing(u, now)) == 0
	if k.ledger.others(now) <= 0 && !old {
		return false
	}
	if u.doubted.IsZero() {
		u.doubted = now
	}
	return now.Sub(u.doubted) < doubtTime
}

// asks is how much memory is looked for, the first that can be had: after it ran out of memory, more than it needs; what it
// needs as measured; and what the configuration says, for what was measured may have been chance.
func (k *Keeper) asks(u *unit) (all []config.Size) {
	needs := k.needs(u)
	if u.extra > 0 {
		all = append(all, needs+u.extra)
	}
	if all = append(all, needs); u.spec.Memory < needs {
		all = append(all, u.spec.Memory)
	}
	return all
}

// restore commits to a backend what it held before it was to be placed.
func (k *Keeper) restore(u *unit, held Commitment) {
	if k.ledger.Release(u.id); len(held.GPUs) > 0 {
		k.ledger.Commit(u.id, held)
	}
}

// place commits a backend's GPUs to it.
func (k *Keeper) place(u *unit, held Commitment, gpus []int, memory config.Size) {
	if len(held.GPUs) > 0 { // since when it holds something does not change
		k.ledger.Commit(u.id, held)
	}
	k.commit(u, gpus, memory, held.Host)
	u.placed, u.debt, u.doubted = true, debt{held: held}, time.Time{}
	for _, g := range gpus {
		u.debt.before = append(u.debt.before, k.ledger.sights[g].used)
	}
}

// clear dismisses those who must leave for a backend.
func (k *Keeper) clear(u *unit, victims []string, all []Evictable, stop bool) {
	u.debt.stop = stop
	for _, e := range all {
		if slices.Contains(victims, e.Backend) {
			u.victims = append(u.victims, k.units[e.Backend])
			u.woken.Evicted = append(u.woken.Evicted, e.Backend)
			u.debt.from = append(u.debt.from, owed{k.units[e.Backend], e.Frees})
			k.evict(k.units[e.Backend], "evicted for "+u.id, stop)
		}
	}
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
	worth float64     // of its memory, as the planner sees it
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
	more := u != nil && k.isMore(u)
	var may []evictee
	for _, v := range k.units {
		held := k.ledger.taken[v.id]
		e := evictee{Evictable: Evictable{Backend: v.id, GPUs: held.GPUs, Frees: k.ledger.holds(v.id, now)}, last: v.since}
		pinned := v.policy.NeverSleep || v.policy.Min > 0 && awake[v.model] <= v.policy.Min
		wish := k.wishes[v.id]
		if wish.Fresh(now) {
			e.worth = wish.Worth
			pinned = pinned || u != nil && u.isAhead() && wish.Tier == router.OnGPU
		}
		if v == u || v.fixed() || held.Each == 0 {
			continue
		}
		switch v.state {
		case router.Failed, router.Stopped: // it is being cleared away
			if k.isStuck(v) {
				e.rank = isBusy
			}
		case router.Draining:
			e.stays = k.residue(v)
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
			if more && now.Sub(e.last) < k.turnTime(v) { // between two requests it looks idle for a moment
				e.rank = isBusy
			}
			e.stays = k.residue(v)
		}
		if !v.canStop() {
			e.Frees, e.stays = e.Frees-e.stays, 0
		}
		may = append(may, e)
	}
	slices.SortFunc(may, func(a, b evictee) int {
		return cmp.Or(cmp.Compare(a.rank, b.rank), cmp.Compare(a.worth, b.worth), a.last.Compare(b.last), cmp.Compare(a.Backend, b.Backend))
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
	case now.Sub(v.since) >= k.turnTime(v):
		return turnOver, v.since
	}
	return isBusy, v.since
}

// turnTime is how long a backend that is busy serves at least.
func (k *Keeper) turnTime(v *unit) time.Duration {
	return max(minTurn, 2*k.learned.Expect(v.id, router.OnDisk, v.spec.Memory))
}

// residue is what stays on each GPU when the backend sleeps, unless it is to be stopped.
func (k *Keeper) residue(u *unit) (each config.Size) {
	if u.state == router.Draining && u.halt || !u.canSleep() {
		return 0
	}
	return Spread(k.stays(u), len(u.up.GPUs))
}
