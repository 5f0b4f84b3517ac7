package warmpool

import (
	"cmp"
	"slices"

	"pilotlight/probe"
)

// maxChoice bounds the GPUs among which the nearest are looked for: 8 of 16 are 12,870 sets.
const maxChoice = 16

// nearest chooses n of the rooms, which are in order of preference: healthy GPUs first, then those whose worst link is the
// best (NVLink, then PCIe by what stands between them), for that is how fast a backend that spreads over them is for
// as long as it lives; then those for which the fewest must leave, and they the most gladly. Where links are not known, GPUs
// with neighbouring indices count as near.
func (l *Ledger) nearest(rooms []room, n int) []room {
	rooms = rooms[:min(len(rooms), max(n, maxChoice))]
	if n == 1 || len(rooms) == n {
		return rooms[:n]
	}
	var best []room
	var least cost
	set := make([]room, 0, n)
	var choose func(from int)
	choose = func(from int) {
		if len(set) == n {
			if c := l.cost(set); best == nil || c.less(least) {
				best, least = slices.Clone(set), c
			}
			return
		}
		for i := from; i <= len(rooms)-(n-len(set)); i++ {
			set = append(set, rooms[i])
			choose(i + 1)
			set = set[:len(set)-1]
		}
	}
	choose(0)
	return best
}

// cost is what speaks against a set of GPUs, the weightiest first.
type cost struct {
	degraded int
	worst    probe.Link // between two of them
	victims  int
	last     int // the last victim's place in the order of preference
	links    int // in sum
	span     int // of indices
}

func (c cost) less(d cost) bool {
	return cmp.Or(
		cmp.Compare(c.degraded, d.degraded), cmp.Compare(c.worst, d.worst), cmp.Compare(c.victims, d.victims),
		cmp.Compare(c.last, d.last), cmp.Compare(c.links, d.links), cmp.Compare(c.span, d.span),
	) < 0
}

func (l *Ledger) cost(set []room) (c cost) {
	first, last := set[0].gpu, set[0].gpu
	var victims []string
	for i, a := range set {
		if a.health != probe.Healthy {
			c.degraded++
		}
		for _, v := range a.victims {
			if !slices.Contains(victims, v) {
				victims = append(victims, v)
			}
		}
		c.last = max(c.last, a.last)
		first, last = min(first, a.gpu), max(last, a.gpu)
		for _, b := range set[:i] {
			if max(a.gpu, b.gpu) < len(l.links) && len(l.links[a.gpu]) == len(l.links) {
				link := l.links[a.gpu][b.gpu]
				c.worst = max(c.worst, link)
				c.links += int(link)
			}
		}
	}
	c.victims, c.span = len(victims), last-first
	return c
}
