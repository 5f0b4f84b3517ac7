package warmpool

import (
	"fmt"
	"slices"
	"strings"
	"time"

	"pilotlight/config"
	"pilotlight/probe"
	"pilotlight/router"
)

// settled is how long a backend must have slept for what it still holds to be what it will go on to hold.
const settled = lookAge

// needs is what a backend takes of its GPUs while ready: what the configuration says, or what was measured where that is more.
func (k *Keeper) needs(u *unit) config.Size {
	return max(u.spec.Memory, k.learned.Memory(u.id, router.OnGPU))
}

// stays is what a backend that sleeps still takes of its GPUs: what was measured, else what the configuration says.
func (k *Keeper) stays(u *unit) config.Size {
	if measured := k.learned.Memory(u.id, router.OnHost); measured > 0 {
		return measured
	}
	return u.spec.AsleepMemory
}

// hostFor is how much of the host's memory a backend may take asleep. A process that has slept before may have kept that memory,
// so what the host has beside it says nothing.
func (k *Keeper) hostFor(u *unit) config.Size {
	if u.slept != 0 && u.slept == u.up.PID {
		return k.ledger.HostBudget()
	}
	return k.ledger.FreeHost(time.Now())
}

// roundUp is a size for people.
func roundUp(s config.Size) config.Size { return (s + config.MiB - 1) / config.MiB * config.MiB }

// See takes in a look at the node's GPUs: what their driver says of them, some times per second. Without looks, the keeper counts what
// it has given out; so it does after one without a time, which says that there will be no more.
func (k *Keeper) See(look probe.GPUs) {
	k.edge.Read(k.node.Name, router.Readings{GPUs: &look})
	k.do(func() {
		now := time.Now()
		linked := k.ledger.links != nil
		k.ledger.See(look, k.owner(look))
		for _, u := range k.inOrder() {
			k.measure(u, now)
		}
		if room := k.room(now); !slices.EqualFunc(room, k.told, like) || linked != (k.ledger.links != nil) {
			k.changed = true
		}
	})
}

// like says whether two rooms are the same to anybody who looks for one.
func like(a, b router.Room) bool {
	const notable = 256 * config.MiB
	return a.Health == b.Health && max(a.Free-b.Free, b.Free-a.Free) < notable
}

// owner says whose a process is.
func (k *Keeper) owner(look probe.GPUs) func(probe.Process) string {
	if look.Foreign {
		return func(probe.Process) string { return "" }
	}
	pids := map[string]int{}
	for id, u := range k.units {
		pids[id] = u.pid()
	}
	return probe.NewOwners(pids).Of
}

// A Starter is a Launcher that says which process it has started before its Wake returns. It may be asked at any time.
type Starter interface {
	PID() int // 0: none
}

// pid is the model server's process; 0 where there is none, or we do not know it.
func (u *unit) pid() int {
	if u.up.PID != 0 {
		return u.up.PID
	}
	if s, ok := u.launcher.(Starter); ok {
		return s.PID()
	}
	return 0
}

// measure learns from the last look what a backend holds: what it needs is the most it has held since it woke.
func (k *Keeper) measure(u *unit, now time.Time) {
	holds := k.ledger.usedBy(u.id) * config.Size(len(u.up.GPUs))
	if holds == 0 || k.ledger.lookedAt.Before(u.since) {
		return
	}
	switch {
	case u.state == router.Ready:
		if u.peak = max(u.peak, holds); u.peak > k.needs(u) || k.learned.Memory(u.id, router.OnGPU) == 0 {
			k.learnMemory(u, router.OnGPU, u.peak)
			k.commit(u, u.up.GPUs, k.needs(u), 0)
		}
	case u.state == router.Asleep && u.op == nothing && now.Sub(u.since) >= settled && holds != k.stays(u):
		k.learnMemory(u, router.OnHost, holds)
		k.commit(u, u.up.GPUs, k.stays(u), u.spec.HostMemory)
	}
}

// lifeIsOver takes in that a backend leaves its GPUs: what it needed this time is what it is expected to need the next.
func (k *Keeper) lifeIsOver(u *unit) {
	if u.peak > 0 && time.Since(u.since) >= settled {
		k.learnMemory(u, router.OnGPU, u.peak)
	}
	u.peak = 0
}

func (k *Keeper) learnMemory(u *unit, tier router.Tier, holds config.Size) {
	k.changed = true
	if err := k.learned.LearnMemory(u.id, tier, holds); err != nil {
		k.log.Warn("what was learned is not saved", "error", err)
	}
}

// sickness is why a backend must leave its GPUs; empty where it need not.
func (k *Keeper) sickness(u *unit, now time.Time) string {
	for _, g := range k.ledger.taken[u.id].GPUs {
		if health, why := k.ledger.Health(g, now); health == probe.Sick {
			return fmt.Sprintf("GPU %d is sick: %s", g, why)
		}
	}
	return ""
}

// flee takes a backend off GPUs that are sick. Whoever waits for it goes on waiting: it wakes on others.
func (k *Keeper) flee(u *unit, now time.Time) {
	why := k.sickness(u, now)
	if why == "" || u.fixed() {
		return
	}
	switch {
	case u.state == router.Waking && u.op == awaking && u.abort == "":
		u.abort = why
		u.cancel()
	case u.state == router.Waking && u.op == nothing && u.placed:
		k.unplace(u)
	case u.state == router.Draining && u.op == draining:
		u.firm, u.halt, u.reason = true, u.canStop(), why
	case u.state == router.Ready && u.op == nothing:
		k.dismiss(u, why, true, u.canStop())
	case u.state == router.Asleep && u.op == nothing && u.canStop():
		u.reason = why
		k.stop(u)
	}
}

// ailing are the GPUs that a backend cannot have because of their health, and why.
func (k *Keeper) ailing(u *unit, now time.Time) (all []string) {
	for g := range k.node.GPUs {
		if u.up.GPUs != nil && !slices.Contains(u.up.GPUs, g) {
			continue
		}
		if health, why := k.ledger.Health(g, now); health == probe.Sick || health == probe.Unknown {
			all = append(all, fmt.Sprintf("GPU %d is %s: %s", g, health, why))
		}
	}
	return all
}

// unfit is why there is no room for a backend whoever left, for people.
func (k *Keeper) unfit(u *unit, now time.Time) string {
	ailing := k.ailing(u, now)
	switch {
	case len(ailing) > 0:
		return strings.Join(ailing, "; ")
	case k.ledger.others(now) > 0:
		return "what never sleeps, and what others hold, leaves less"
	}
	return "what never sleeps leaves less"
}
