package warmpool

import (
	"fmt"
	"math"
	"slices"
	"time"

	"pilotlight/config"
	"pilotlight/probe"
)

const (
	// lookAge is how old a look at the GPUs may be to be believed. Looks come some times per second.
	lookAge = 5 * time.Second
	// cleanLooks is how many looks in a row must find nothing wrong with a GPU that was sick before it is used again: a driver
	// reports an error once, and what it did to the GPU a little later.
	cleanLooks = 10
)

// looks is what the driver says of a node's GPUs.
type looks struct {
	sights   []sight // by index
	links    [][]probe.Link
	lookedAt time.Time
	moved    time.Time   // when a backend last moved
	hostFree config.Size // -1: not known
}

// sight is what was last seen of one GPU.
type sight struct {
	others  config.Size // what nobody of ours held when that was last certain
	certain time.Time   // when that was

	at    time.Time // the zero time: never
	total config.Size
	used  config.Size            // by whomever, and kept by the driver for itself
	ours  map[string]config.Size // what of it is held by the processes of backends
	// nameless says that the driver does not tell whose the memory is. What backends are promised is then taken for theirs.
	nameless bool
	health   probe.Health
	reason   string // why it is not Healthy
	clean    int    // looks that found nothing wrong since it was last sick; cleanLooks: or never was
}

// See takes in a look. owner says whose a process is, the empty string if nobody's.
func (l *Ledger) See(look probe.GPUs, owner func(probe.Process) string) {
	l.lookedAt, l.hostFree, l.links = look.At, -1, nil
	if look.At.IsZero() {
		clear(l.sights)
	}
	if look.HostTotal > 0 {
		l.hostFree = look.HostFree
	}
	whole := true // no GPU is missing, and none is split
	for i := range look.GPUs {
		g := &look.GPUs[i]
		whole = whole && g.Index == i && g.Parent == ""
		if g.Index >= 0 && g.Index < len(l.sights) && g.Parent == "" {
			l.sights[g.Index].see(g, look.At, owner)
			l.sights[g.Index].nameless = l.sights[g.Index].nameless || look.Foreign
			l.sights[g.Index].count(l.moved)
		}
	}
	if whole && len(look.Links) == len(look.GPUs) {
		l.links = look.Links
	}
}

func (s *sight) see(g *probe.GPU, at time.Time, owner func(probe.Process) string) {
	switch {
	case g.Health == probe.Sick:
		s.clean = 0
	case s.at.IsZero():
		s.clean = cleanLooks
	case s.clean == cleanLooks:
	case g.Health == probe.Unknown:
		s.clean = 0
	case s.clean < cleanLooks:
		s.clean++
	}
	if s.at, s.health = at, g.Health; s.clean == cleanLooks || g.Health == probe.Sick {
		s.reason = g.Reason
	}
	if g.Health == probe.Unknown {
		return
	}
	s.total, s.used, s.ours, s.nameless = g.Used+g.Free, g.Used, map[string]config.Size{}, false
	for _, p := range g.Processes {
		if s.nameless = s.nameless || p.Used < 0; p.Used < 0 {
			continue
		}
		if id := owner(p); id != "" {
			s.ours[id] += p.Used
		}
	}
}

// moveTime is for how long after a move a look may be of two minds: what is in use from before it, and the processes from after.
const moveTime = 250 * time.Millisecond

// count takes in what others hold of a GPU, if the look was taken when nothing of ours had just moved; at the latest after
// lookAge that is believed anyway.
func (s *sight) count(moved time.Time) {
	if s.at.After(moved.Add(moveTime)) || s.at.Sub(s.certain) >= lookAge {
		s.others, s.certain = s.used, s.at
		for _, used := range s.ours {
			s.others -= used
		}
	}
}

// strangers is what others hold of a GPU: what seems to be theirs now, but not more than when that was last certain.
func (l *Ledger) strangers(s *sight, nameless config.Size) config.Size {
	seems := s.used
	for _, used := range s.ours {
		seems -= used
	}
	if s.certain.Before(s.at) {
		seems = min(seems, s.others)
	}
	return max(0, seems-nameless)
}

// believed is what was seen of a GPU; nil where it was not, or too long ago.
func (l *Ledger) believed(gpu int, now time.Time) *sight {
	s := &l.sights[gpu]
	if s.at.IsZero() || now.Sub(s.at) >= lookAge || s.health == probe.Unknown {
		return nil
	}
	return s
}

// Health is that of a GPU, and why it is not Healthy. One at which nobody ever looked is. One that was Sick is until
// cleanLooks looks in a row have found nothing wrong.
func (l *Ledger) Health(gpu int, now time.Time) (probe.Health, string) {
	s := &l.sights[gpu]
	switch age := now.Sub(s.at); {
	case s.at.IsZero():
		return probe.Healthy, ""
	case s.clean < cleanLooks && s.health != probe.Sick && s.health != probe.Unknown && age < lookAge:
		return probe.Sick, fmt.Sprintf("%s; since then %d of %d looks found nothing", s.reason, s.clean, cleanLooks)
	case s.health == probe.Sick:
		return probe.Sick, s.reason
	case age >= lookAge:
		return probe.Unknown, fmt.Sprintf("nobody could look at it for %s", age.Round(time.Second))
	}
	return s.health, s.reason
}

// takes says whether something new may be placed on a GPU.
func (l *Ledger) takes(gpu int, now time.Time) bool {
	h, _ := l.Health(gpu, now)
	return h == probe.Healthy || h == probe.Degraded
}

// usedBy is the most that the processes of a backend were seen to hold of one of its GPUs.
func (l *Ledger) usedBy(backend string) (most config.Size) {
	for _, gpu := range l.taken[backend].GPUs {
		if gpu < len(l.sights) {
			most = max(most, l.sights[gpu].ours[backend])
		}
	}
	return most
}

// holds is what a backend holds of each of its GPUs, by its promise or by the driver, whichever is more; where the driver shows it
// on some only, that is what it holds of each at least.
func (l *Ledger) holds(backend string, now time.Time) config.Size {
	c := l.taken[backend]
	least := config.Size(math.MaxInt64)
	for _, g := range c.GPUs {
		used := config.Size(0)
		if s := l.believed(g, now); s != nil {
			used = s.ours[backend]
		}
		least = min(least, max(c.Each, used))
	}
	if len(c.GPUs) == 0 {
		return 0
	}
	return least
}

// others is what is held of the GPUs by nobody that we know, in sum.
func (l *Ledger) others(now time.Time) (sum config.Size) {
	for g := range l.sights {
		if s := l.believed(g, now); s != nil {
			sum += s.used
			for _, used := range s.ours {
				sum -= used
			}
		}
	}
	return sum
}

// leastFree is what is free at least of each of the GPUs; 0 where one is overcommitted.
func (l *Ledger) leastFree(gpus []int, now time.Time) config.Size {
	least := config.Size(math.MaxInt64)
	for _, g := range gpus {
		least = min(least, max(0, l.Free(g, now)))
	}
	if len(gpus) == 0 {
		return 0
	}
	return least
}

// most is the largest memory, over all its GPUs, of a backend that fits on so many when nothing else is there.
func (l *Ledger) most(gpus int) config.Size {
	if gpus == 0 || gpus > len(l.gpus) {
		return math.MaxInt64
	}
	sizes := slices.Sorted(slices.Values(l.gpus))
	return config.Size(gpus) * (sizes[len(sizes)-gpus] - l.headroom)
}

// sees says whether anybody looks at the GPUs.
func (l *Ledger) sees(now time.Time) bool {
	return !l.lookedAt.IsZero() && now.Sub(l.lookedAt) < lookAge
}

// awaitsLook says that a look at the GPUs after the given time is still to come. Where nobody looks, none is.
func (l *Ledger) awaitsLook(after, now time.Time) bool {
	return l.sees(now) && !l.lookedAt.After(after)
}
