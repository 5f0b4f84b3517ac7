package warmpool

import (
	"cmp"
	"slices"
	"time"

	"pilotlight/config"
	"pilotlight/probe"
)

// Ledger is what a node's backends may take of its memory, what they have taken, and what the driver says of it.
//
// Of each GPU there is free what it has, less headroom, less what every backend holds or is promised (whichever is more: a wake
// in flight holds its promise before it uses it), less what others hold. So a wake whose memory the driver already shows in use
// counts once. It may be overcommitted: a wake commits before those that make room for it have left. Where nobody looks at
// the GPUs, or has not for lookAge, what was promised is all that counts.
type Ledger struct {
	gpus     []config.Size // total of each
	headroom config.Size   // of each, never given out
	host     config.Size
	taken    map[string]Commitment

	looks // of the GPUs
}

// Commitment is what one backend holds.
type Commitment struct {
	GPUs []int
	Each config.Size // on each of GPUs
	Host config.Size

	Nameless bool      // the driver cannot say which processes are its own
	Since    time.Time // when it began
}

// NewLedger counts the memory of a node.
func NewLedger(n config.Node) *Ledger {
	l := &Ledger{headroom: n.Headroom, host: n.HostMemory, taken: map[string]Commitment{}}
	for _, g := range n.GPUs {
		l.gpus = append(l.gpus, g.Memory)
	}
	l.sights, l.hostFree = make([]sight, len(l.gpus)), -1
	return l
}

// Commit notes what a backend holds now, in place of what it held before.
func (l *Ledger) Commit(backend string, c Commitment) {
	if was := l.taken[backend]; len(was.GPUs) > 0 {
		c.Since = was.Since
	}
	l.taken[backend] = c
}

// Release notes that a backend holds nothing.
func (l *Ledger) Release(backend string) { delete(l.taken, backend) }

// Free is what may still be given out of a GPU. It is negative where it is overcommitted.
func (l *Ledger) Free(gpu int, now time.Time) config.Size {
	s := l.believed(gpu, now)
	free := l.gpus[gpu]
	if s != nil {
		free = min(free, s.total)
	}
	free -= l.headroom
	nameless := config.Size(0)
	for id, c := range l.taken {
		if !slices.Contains(c.GPUs, gpu) {
			continue
		}
		holds := c.Each
		if s != nil {
			if (c.Nameless || s.nameless) && !c.Since.After(s.at) {
				nameless += holds
			} else {
				holds = max(holds, s.ours[id])
			}
		}
		free -= holds
	}
	if s == nil {
		return free
	}
	for id, used := range s.ours {
		if !slices.Contains(l.taken[id].GPUs, gpu) {
			free -= used // it is leaving
		}
	}
	return free - l.strangers(s, nameless)
}

// HostBudget is what those that go to sleep may still take of what the configuration gives them of the host's memory.
func (l *Ledger) HostBudget() config.Size {
	free := l.host
	for _, c := range l.taken {
		free -= c.Host
	}
	return free
}

// FreeHost is that, but no more than the host has.
func (l *Ledger) FreeHost(now time.Time) config.Size {
	free := l.HostBudget()
	if l.hostFree >= 0 && now.Sub(l.lookedAt) < lookAge {
		free = min(free, l.hostFree)
	}
	return free
}

// Spread is the share of total that falls on each of n GPUs, rounded up.
func Spread(total config.Size, n int) config.Size {
	if n < 1 {
		return 0
	}
	return (total + config.Size(n) - 1) / config.Size(n)
}

// Evictable is a backend that can make room.
type Evictable struct {
	Backend string
	GPUs    []int
	Frees   config.Size // on each of GPUs
}

// room is how a GPU would make room.
type room struct {
	gpu     int
	health  probe.Health
	free    config.Size // once they have left
	victims []string
	last    int // the last victim's place in the order of preference
}

// Fit says on which n GPUs, of on or (nil) of all, there is room for each of size, and who must leave for it. Evictable
// backends are in order of preference, the first to go first. Where nothing needs to leave, the tightest GPUs are
// taken, so that large backends find room later; else those where the fewest must leave, and they the most gladly. Several are
// near to each other. Nothing fits on a GPU that is Sick or Unknown. A node without GPUs has room for everything.
func (l *Ledger) Fit(now time.Time, each config.Size, n int, on []int, evictable []Evictable) (gpus []int, victims []string, ok bool) {
	if len(l.gpus) == 0 || n == 0 {
		return nil, nil, true
	}
	var rooms []room
	for g := range l.gpus {
		if on != nil && !slices.Contains(on, g) || !l.takes(g, now) {
			continue
		}
		if r, ok := l.room(now, g, each, evictable); ok {
			r.health, _ = l.Health(g, now)
			rooms = append(rooms, r)
		}
	}
	if len(rooms) < n {
		return nil, nil, false
	}
	slices.SortStableFunc(rooms, func(a, b room) int {
		return cmp.Or(cmp.Compare(a.health, b.health), cmp.Compare(len(a.victims), len(b.victims)), cmp.Compare(a.last, b.last), cmp.Compare(a.free, b.free))
	})
	for _, r := range l.nearest(rooms, n) {
		gpus = append(gpus, r.gpu)
		for _, v := range r.victims {
			if !slices.Contains(victims, v) {
				victims = append(victims, v)
			}
		}
	}
	slices.Sort(gpus)
	return gpus, victims, true
}

// room says who must leave one GPU so that size is free on it: those that go most gladly, but nobody of them who turns out not to be
// needed since one after it frees enough.
func (l *Ledger) room(now time.Time, gpu int, size config.Size, evictable []Evictable) (room, bool) {
	r := room{gpu: gpu, free: l.Free(gpu, now)}
	for i, e := range evictable {
		if r.free >= size {
			break
		}
		if e.Frees > 0 && slices.Contains(e.GPUs, gpu) {
			r.free += e.Frees
			r.last = i
			r.victims = append(r.victims, e.Backend)
		}
	}
	for i, id := range slices.Backward(r.victims) {
		e := evictable[slices.IndexFunc(evictable, func(e Evictable) bool { return e.Backend == id })]
		if r.free-e.Frees >= size {
			r.free -= e.Frees
			r.victims = slices.Delete(r.victims, i, i+1)
		}
	}
	return r, r.free >= size
}
