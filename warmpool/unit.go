package warmpool

import (
	"cmp"
	"context"
	"maps"
	"reflect"
	"slices"
	"time"

	"pilotlight/config"
	"pilotlight/router"
)

// unit is one backend and where it is in its life. It belongs to the goroutine of Run.
type unit struct {
	id       string
	model    string
	policy   config.Model
	spec     config.Backend
	launcher Launcher

	state  router.State
	tier   router.Tier
	since  time.Time
	reason string
	rested time.Time // Failed: until when it rests
	looked time.Time // when it was last looked for
	hidden string    // why it could not be found then
	failed int       // wakes and short lives that failed in a row

	up       Up
	watched  <-chan error  // up.Gone, as far as it is watched
	watching chan struct{} // closed to end that
	lost     error         // its model server ended by itself; not dealt with yet

	op      op                 // what its launcher does now
	cancel  context.CancelFunc // of op
	waits   []*wait            // who wants it ready
	kept    bool               // so does the plan
	replica bool               // besides others that are ready
	ahead   bool               // before anybody asked
	slept   int                // the PID of the process that has slept
	reading bool               // its engine is asked what it does
	downs   []*wait            // who wants it down

	began   time.Time // Waking: when its launcher began
	woken   router.Woken
	placed  bool        // Waking: it has its GPUs, and their memory once victims have left
	victims []*unit     // Waking: who must leave first
	debt    debt        // Waking: what they owe
	again   time.Time   // Waking: when it ran out of GPU memory and was to try once more
	doubted time.Time   // Waking: since when there seems to be no room because of what others hold
	extra   config.Size // Waking: what it asks for then beyond what it needs
	peak    config.Size // Ready: the most it was seen to hold of its GPUs since it woke, over all of them
	abort   string      // Waking: why it is to be called off
	firm    bool        // Draining: it leaves even if it is wanted again
	halt    bool        // Draining: it stops instead of sleeping

	next *config.Backend // what the file says of it now, where it must be stopped first
	gone bool            // it is no longer in the file
}

// op is what a launcher is doing with a backend. There is one at a time.
type op uint8

const (
	nothing op = iota
	finding
	awaking
	draining // waits for the edges; the launcher itself does nothing
	sleeping
	stopping
)

// wait is somebody who waits for a backend to be up, or down.
type wait struct{ done chan error } // capacity 1

// answer tells everybody who wants the backend ready.
func (u *unit) answer(err error) {
	for _, w := range u.waits {
		w.done <- err
	}
	u.waits, u.kept, u.replica, u.ahead = nil, false, false, false
}

// isAhead says that nobody but the planner wants it.
func (u *unit) isAhead() bool { return u.ahead && len(u.waits) == 0 }

// isWanted says whether anybody wants it ready.
func (u *unit) isWanted() bool { return len(u.waits) > 0 || u.kept }

// canStop says whether its launcher can end it.
func (u *unit) canStop() bool {
	return u.spec.Process != nil || u.elsewhere() || u.spec.Hooks != nil && u.spec.Hooks.Stop != ""
}

// elsewhere says that an orchestrator runs it, which others may tell to.
func (u *unit) elsewhere() bool {
	return u.spec.Nomad != nil || u.spec.Kubernetes != nil || u.spec.Docker != nil
}

// canSleep says whether its launcher can put it to sleep.
func (u *unit) canSleep() bool { return u.spec.Sleep != config.SleepNone && u.spec.Sleep != "" }

// rests is the tier to which it would go from its GPUs.
func (u *unit) rests() router.Tier {
	if u.canSleep() && u.spec.HostMemory > 0 {
		return router.OnHost
	}
	return router.OnDisk
}

// fixed says that nobody here can take it off its GPU.
func (u *unit) fixed() bool { return !u.canStop() && !u.canSleep() }

// inOrder lists the units in the order of their IDs.
func (k *Keeper) inOrder() []*unit {
	return slices.SortedFunc(maps.Values(k.units), func(a, b *unit) int { return cmp.Compare(a.id, b.id) })
}

// take makes the units those of the models.
func (k *Keeper) take(models map[string]config.Model) {
	named := map[string]bool{}
	for model, policy := range models {
		for _, spec := range policy.Backends {
			named[spec.Name] = true
			u := k.units[spec.Name]
			if u == nil {
				u = &unit{id: spec.Name, spec: spec, since: time.Now()}
				u.launcher = k.launch(model, policy, spec)
				k.units[u.id] = u
				k.find(u)
			}
			u.gone = false
			u.model, u.policy = model, policy
			if u.next = nil; !reflect.DeepEqual(u.spec, spec) {
				u.next = &spec
			}
		}
	}
	for id, u := range k.units {
		u.gone = !named[id]
	}
	k.learned.Keep(named)
	k.changed = true
}

// begin lets the launcher do something, off the keeper's goroutine; after is run on it.
func (k *Keeper) begin(u *unit, o op, run func(context.Context) (after func())) {
	if u.op != nothing {
		panic("BUG: two things are done with " + u.id + " at once")
	}
	if k.isClosing() {
		return
	}
	ctx, cancel := context.WithCancel(context.Background())
	u.op, u.cancel = o, cancel
	k.ops.Go(func() {
		defer cancel()
		after := run(ctx)
		k.do(func() {
			u.op, u.cancel = nothing, nil
			if !k.isClosing() { // else it was called off, and nothing follows from that
				after()
			}
		})
	})
}

// move takes a backend through the life table. It says whether the event led anywhere.
func (k *Keeper) move(u *unit, e event, why string) bool {
	to, ok := life[u.state][e]
	if !ok {
		return false
	}
	if to == router.Waking {
		u.woken = router.Woken{From: u.tier, Wanted: time.Now()}
	}
	k.log.Info("backend moved", "model", u.model, "backend", u.id, "from", u.state.String(), "to", to.String(), "event", e.String(), "reason", why)
	u.state, u.since, u.reason = to, time.Now(), why
	k.changed, k.ledger.moved = true, u.since
	return true
}

// publish tells the edges.
func (k *Keeper) publish() {
	now := time.Now()
	n := router.Node{Name: k.node.Name, Host: k.ledger.FreeHost(now), GPUs: k.room(now), Links: k.ledger.links, Backends: make([]router.Backend, 0, len(k.units))}
	for _, e := range k.evictable(nil, now) {
		n.Evictable = append(n.Evictable, k.leaving(e))
	}
	for _, u := range k.inOrder() {
		n.Backends = append(n.Backends, router.Backend{
			ID: u.id, Model: u.model, Addr: u.up.Addr, PID: u.up.PID, Engine: u.spec.Engine, Slots: max(u.spec.Slots, 1),
			Width: u.spec.GPUs, GPUs: u.up.GPUs, Memory: k.needs(u), Configured: u.spec.Memory, Residual: k.stays(u), Host: u.spec.HostMemory,
			State: u.state, Tier: u.tier, Since: u.since, Reason: u.reason, Rested: u.rested, WakeTime: k.wakeTime(u), Woken: u.woken,
			Wakes: router.Wakes{Disk: k.expect(u, router.OnDisk), Host: k.expect(u, router.OnHost)}, Stays: u.fixed(), NoSleep: !u.canSleep(), NoStop: !u.canStop(),
		})
		if u.state == router.Waking {
			began := u.began
			if u.op != awaking {
				began = now
			}
			n.Wakes = append(n.Wakes, router.Wake{Backend: u.id, GPUs: k.ledger.taken[u.id].GPUs, Tier: u.tier, Ready: began.Add(k.wakeTime(u))})
		}
	}
	k.changed, k.told = false, n.GPUs
	k.edge.Observe(n)
}

// room is what there is of each GPU.
func (k *Keeper) room(now time.Time) (all []router.Room) {
	for g := range k.node.GPUs {
		health, _ := k.ledger.Health(g, now)
		all = append(all, router.Room{Free: k.ledger.Free(g, now), Health: health})
	}
	return all
}

// leaving is what the edges are told of one that could make room.
func (k *Keeper) leaving(e evictee) router.Evictable {
	u := k.units[e.Backend]
	v := router.Evictable{Backend: e.Backend, GPUs: e.GPUs, Host: u.spec.HostMemory, Takes: leaveTime}
	if u.canSleep() && u.state != router.Asleep {
		v.Frees = e.Frees - e.stays
	}
	if u.canStop() {
		v.Stopped = e.Frees
	}
	if e.rank >= turnOver {
		v.Busy, v.From, v.Takes = true, u.since.Add(k.turnTime(u)), leaveTime+drainTime
	}
	return v
}

// What it is taken to need until a backend's memory is back, and until one that is busy has finished what it does.
const (
	leaveTime = time.Second
	drainTime = 5 * time.Second
)

// wakeTime is how long a wake of the backend is expected to take.
func (k *Keeper) wakeTime(u *unit) time.Duration {
	switch u.state {
	case router.Ready:
		return 0
	case router.Draining:
		if !u.firm {
			return 0
		}
	case router.Stopped, router.Asleep, router.Waking, router.Failed:
	}
	return k.expect(u, u.tier)
}

// expect is how long a wake from a tier takes: as was seen of the backend, or else of one of its model that is configured alike, where several
// were the slowest.
func (k *Keeper) expect(u *unit, from router.Tier) (longest time.Duration) {
	if took, seen := k.learned.Seen(u.id, from); seen {
		return took
	}
	for _, other := range k.units {
		if other.model == u.model && alike(other.spec, u.spec) {
			took, _ := k.learned.Seen(other.id, from)
			longest = max(longest, took)
		}
	}
	if longest > 0 {
		return longest
	}
	return k.learned.Expect(u.id, from, u.spec.Memory)
}

// alike says whether backends wake in the same way.
func alike(a, b config.Backend) bool {
	return a.Engine == b.Engine && a.Sleep == b.Sleep && a.SleepLevel == b.SleepLevel && a.Memory == b.Memory && a.GPUs == b.GPUs && (a.Process == nil) == (b.Process == nil)
}

// commit notes in the ledger what the backend holds on its GPUs.
func (k *Keeper) commit(u *unit, gpus []int, memory, host config.Size) {
	k.ledger.Commit(u.id, Commitment{GPUs: gpus, Each: Spread(memory, len(gpus)), Host: host, Nameless: u.spec.Process == nil, Since: time.Now()})
}
