package warmpool

import (
	"fmt"
	"time"

	"pilotlight/router"
)

// settle does whatever follows from what has happened, and says when to look again even if nothing does; the zero time: never.
func (k *Keeper) settle(now time.Time) time.Time {
	var next time.Time
	for {
		for _, u := range k.inOrder() {
			k.settleOne(u, now)
		}
		var steps []Step
		steps, next = Plan(now, k.seen(now))
		if !k.follow(steps) {
			break
		}
	}
	if at := k.read(now); !at.IsZero() && (next.IsZero() || at.Before(next)) {
		next = at
	}
	if k.makeRoom(now) {
		if soon := now.Add(lookForRoom); next.IsZero() || soon.Before(next) {
			next = soon
		}
	}
	if anew := k.findAnew(now); next.IsZero() || !anew.IsZero() && anew.Before(next) {
		next = anew
	}
	if k.changed {
		k.publish()
	}
	return next
}

// findAnew looks now and then whether somebody else has started what an orchestrator runs, and says when to look again.
func (k *Keeper) findAnew(now time.Time) (next time.Time) {
	for _, u := range k.units {
		if u.state != router.Stopped || u.op != nothing || !u.elsewhere() || u.gone {
			continue
		}
		at := u.looked.Add(lookAnew)
		switch {
		case !at.After(now):
			k.find(u)
		case next.IsZero() || at.Before(next):
			next = at
		}
	}
	return next
}

// settleOne does what follows for one backend from what others want of it and what became of it.
func (k *Keeper) settleOne(u *unit, now time.Time) {
	if len(u.downs) > 0 || u.gone || u.next != nil {
		k.takeDown(u)
	}
	k.flee(u, now)
	if u.state == router.Draining && u.op == draining && (!u.firm && u.isWanted() || u.lost != nil) {
		u.cancel()
	}
	if u.op != nothing {
		return
	}
	switch down := u.state == router.Stopped || u.state == router.Asleep; {
	case u.lost != nil:
		err := u.lost
		u.lost = nil
		switch u.state {
		case router.Waking: // it has no room yet, and is started anew when it has
			u.up, u.tier = Up{}, router.OnDisk
			u.unwatch()
		case router.Ready, router.Draining, router.Asleep:
			k.fell(u, err)
		case router.Stopped, router.Failed:
		}
	case u.gone && u.state == router.Stopped:
		u.answer(fmt.Errorf("%s is no longer in the configuration", u.id))
		u.launcher.Close()
		delete(k.units, u.id)
		k.changed = true
	case u.next != nil && u.state == router.Stopped:
		u.spec, u.next = *u.next, nil
		u.launcher.Close()
		u.launcher = k.launch(u.model, u.policy, u.spec)
		k.find(u)
	case down && u.isWanted() && !u.gone && u.next == nil:
		why := "asked for"
		if u.isAhead() {
			why = "woken ahead: " + k.wishes[u.id].Why
		}
		k.move(u, wanted, why)
		k.queue = append(k.queue, u)
	case u.state == router.Failed && len(u.waits) > 0 && u.rested.After(now):
		u.answer(u.resting(now))
	}
}

// takeDown brings a backend down for those who said so: a person, or a new configuration.
func (k *Keeper) takeDown(u *unit) {
	stop := u.halt || u.gone || u.next != nil
	down := u.state == router.Stopped || u.state == router.Failed || u.state == router.Asleep && !stop
	switch {
	case u.op == draining:
		u.firm, u.halt = true, stop
	case u.op != nothing && u.op != awaking:
	case down:
		for _, w := range u.downs {
			w.done <- nil
		}
		u.downs, u.halt = nil, false
	case u.state == router.Ready && u.fixed():
		k.move(u, dismissed, "the configuration changed")
		k.move(u, halted, "the configuration changed")
		k.forget(u)
	case u.state == router.Ready:
		k.dismiss(u, "told to", true, stop)
	case u.state == router.Asleep:
		u.reason = "told to stop"
		k.stop(u)
	case u.state == router.Waking:
		u.answer(&router.Refusal{Status: 503, Code: router.WakeFailed, RetryAfter: time.Second, Reason: u.model + " was told to stop while it woke"})
		k.callOff(u, "told to stop")
	}
}

// callOff ends a wake.
func (k *Keeper) callOff(u *unit, why string) {
	if u.op == awaking {
		u.abort = why
		u.cancel()
		return
	}
	k.unqueue(u)
	k.stand(u, why)
}

// stand takes a backend that has not begun to wake back to where it was.
func (k *Keeper) stand(u *unit, why string) {
	if u.tier == router.OnDisk && u.up.Addr == "" {
		k.ledger.Release(u.id)
		k.move(u, halted, why)
		return
	}
	k.commit(u, u.up.GPUs, k.stays(u), u.spec.HostMemory)
	k.move(u, slept, why)
}

// seen is what the plan sees.
func (k *Keeper) seen(now time.Time) []Seen {
	all := make([]Seen, 0, len(k.units))
	for _, u := range k.inOrder() {
		if !u.gone {
			all = append(all, Seen{
				ID: u.id, Model: u.model, State: u.state, Since: u.since, Rested: u.rested,
				Use: k.edge.Use(u.id), Policy: u.policy, Tier: u.tier, Rests: u.rests(), Stays: u.fixed(), Sleeps: !u.canStop(),
				Wish: k.wishes[u.id], Slots: max(u.spec.Slots, 1), WakeTime: k.wakeTime(u), WakeAgain: k.expect(u, u.rests()),
			})
		}
	}
	k.observeLoads(now, all)
	return all
}

// observeLoads takes in how much the models are asked for.
func (k *Keeper) observeLoads(now time.Time, all []Seen) {
	was := k.loads
	k.loads = map[string]load{}
	for _, backends := range byModel(all) {
		l := was[backends[0].Model]
		l.observe(now, backends)
		k.loads[backends[0].Model] = l
	}
	for i := range all {
		all[i].Load = k.loads[all[i].Model]
	}
}

// follow does what the plan says and is possible now. It says whether it did anything.
func (k *Keeper) follow(steps []Step) bool {
	did := false
	for _, s := range steps {
		u := k.units[s.ID]
		if u.op != nothing || u.kept {
			continue // the plan is asked again when that is over
		}
		switch s.Event {
		case wanted:
			u.kept, u.replica, u.ahead = true, s.Replica, s.Ahead
		case dismissed:
			k.dismiss(u, s.Why, false, s.Stop)
		case halted:
			u.reason = s.Why
			k.stop(u)
		case rested:
			if k.isStuck(u) {
				k.stop(u)
			} else {
				k.move(u, rested, s.Why)
			}
		case cameUp, slept, fellOver:
			panic("BUG: a plan cannot make a backend " + s.Event.String())
		}
		did = true
	}
	return did
}
