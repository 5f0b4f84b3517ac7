package warmpool

import (
	"cmp"
	"slices"

	"pilotlight/config"
)

// Ledger is what a node's backends may take of its memory and what they have taken. Free = total − commitments − headroom; wakes
// in flight are commitments too. It may be overcommitted: a wake commits before those that make room for it have left.
type Ledger struct {
	gpus     []config.Size // total of each
	headroom config.Size   // of each, never given out
	host     config.Size
	taken    map[string]Commitment
}

// Commitment is what one backend holds.
type Commitment struct {
	GPUs []int
	Each config.Size // on each of GPUs
	Host config.Size
}

// NewLedger counts the memory of a node.
func NewLedger(n config.Node) *Ledger {
	l := &Ledger{headroom: n.Headroom, host: n.HostMemory, taken: map[string]Commitment{}}
	for _, g := range n.GPUs {
		l.gpus = append(l.gpus, g.Memory)
	}
	return l
}

// Commit notes what a backend holds now, in place of what it held before.
func (l *Ledger) Commit(backend string, c Commitment) { l.taken[backend] = c }

// Release notes that a backend holds nothing.
func (l *Ledger) Release(backend string) { delete(l.taken, backend) }

// Free is what may still be given out of a GPU. It is negative where it is overcommitted.
func (l *Ledger) Free(gpu int) config.Size {
	free := l.gpus[gpu] - l.headroom
	for _, c := range l.taken {
		if slices.Contains(c.GPUs, gpu) {
			free -= c.Each
		}
	}
	return free
}

// FreeHost is what may still be given out of the host's memory.
func (l *Ledger) FreeHost() config.Size {
	free := l.host
	for _, c := range l.taken {
		free -= c.Host
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
	free    config.Size // once they have left
	victims []string
	last    int // the last victim's place in the order of preference
}

// Fit says on which n GPUs, of on or (nil) of all, there is room for each of size, and who must leave for it. Evictable
// backends are in order of preference, the first to go first. Where nothing needs to leave, the tightest GPUs are
// taken, so that large backends find room later; else those where the fewest must leave, and they the most gladly. A node without GPUs has
// room for everything.
func (l *Ledger) Fit(each config.Size, n int, on []int, evictable []Evictable) (gpus []int, victims []string, ok bool) {
	if len(l.gpus) == 0 || n == 0 {
		return nil, nil, true
	}
	var rooms []room
	for g := range l.gpus {
		if on != nil && !slices.Contains(on, g) {
			continue
		}
		if r, ok := l.room(g, each, evictable); ok {
			rooms = append(rooms, r)
		}
	}
	if len(rooms) < n {
		return nil, nil, false
	}
	slices.SortStableFunc(rooms, func(a, b room) int {
		return cmp.Or(cmp.Compare(len(a.victims), len(b.victims)), cmp.Compare(a.last, b.last), cmp.Compare(a.free, b.free))
	})
	for _, r := range rooms[:n] {
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

// room says who must leave one GPU so that size is free on it.
func (l *Ledger) room(gpu int, size config.Size, evictable []Evictable) (room, bool) {
	r := room{gpu: gpu, free: l.Free(gpu)}
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
	return r, r.free >= size
}
