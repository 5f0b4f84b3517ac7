package router

import (
	"cmp"
	"math/bits"
	"slices"
	"time"

	"pilotlight/config"
	"pilotlight/probe"
)

// Fit is where on its node a backend finds room, and what that costs.
type Fit struct {
	GPUs    gpuSet
	Victims int           // how many must leave for it
	Takes   time.Duration // until the last of them has left
}

// gpuSet is some of a node's GPUs, or of those that would leave them: a bit for each. Only the first 64 count.
type gpuSet uint64

func setOf(indices []int) (s gpuSet) {
	for _, i := range indices {
		s |= 1 << i
	}
	return s
}

// indices are those of the set, in order.
func (s gpuSet) indices() (all []int) {
	for ; s != 0; s &= s - 1 {
		all = append(all, bits.TrailingZeros64(uint64(s)))
	}
	return all
}

func (s gpuSet) has(i int) bool { return s>>i&1 != 0 }

// maxMembers is how many members a gpuSet can have.
const maxMembers = 64

// share of total that falls on each of n GPUs, rounded up.
func share(total config.Size, n int) config.Size {
	return (total + config.Size(n) - 1) / config.Size(n)
}

// Fit says where a backend that is stopped, asleep or failed finds room, by what the node's keeper expects: where nobody need leave;
// else where those leave who are idle, put to sleep if that is enough, or stopped; else the busy ones too. A backend of
// several GPUs gets those that are the nearest to each other that the node has; farther ones only where nothing else is possible. What
// sleeps can only wake where it is, and what it holds there is its own. GPUs that are sick, or of which nothing is known, get nothing.
func (n *Node) Fit(b *Backend, now time.Time) (Fit, bool) {
	if len(n.GPUs) == 0 || b.Width < 1 {
		return Fit{}, true
	}
	need := need{now: now, each: share(b.Memory, b.Width), width: b.Width, near: probe.LinkUnknown}
	if b.State == Asleep && len(b.GPUs) > 0 {
		need.on = setOf(b.GPUs)
		need.each -= share(b.Residual, b.Width)
	} else if b.Width > 1 && n.Links != nil {
		need.near = n.nearest(b.Width)
	}
	for {
		for _, by := range []leave{{}, {idle: true}, {idle: true, stop: true}, {idle: true, busy: true}, {idle: true, busy: true, stop: true}} {
			if fit, ok := n.fit(need, b.ID, by); ok {
				return fit, true
			}
			if len(n.Evictable) == 0 {
				break
			}
		}
		if need.near == probe.LinkUnknown {
			return Fit{}, false
		}
		need.near = probe.LinkUnknown
	}
}

// need is what a backend needs.
type need struct {
	now   time.Time
	each  config.Size
	width int
	on    gpuSet     // only these; none: any
	near  probe.Link // how far from each other they may be
}

// leave is who may leave for it, and whether those who could sleep are stopped, which frees more.
type leave struct{ idle, busy, stop bool }

// room is one GPU on which there would be room.
type room struct {
	gpu     int
	free    config.Size
	victims gpuSet // of the node's Evictable

	sleepers gpuSet // of the victims: the others are stopped
}

// fit tries it in one way. The choice is the keeper's own: the fewest victims, those who go most gladly, and where nobody need
// leave the tightest GPUs.
func (n *Node) fit(need need, self string, by leave) (Fit, bool) {
	var space [16]room
	rooms := space[:0]
	for g := range min(len(n.GPUs), maxMembers) {
		if need.on != 0 && !need.on.has(g) || n.GPUs[g].Health == probe.Sick || n.GPUs[g].Health == probe.Unknown {
			continue
		}
		if r := (room{gpu: g, free: n.GPUs[g].Free}); r.free >= need.each || by.idle && n.clear(&r, need.each, self, by) {
			rooms = append(rooms, r)
		}
	}
	if len(rooms) < need.width {
		return Fit{}, false
	}
	slices.SortFunc(rooms, func(a, b room) int {
		return cmp.Or(cmp.Compare(bits.OnesCount64(uint64(a.victims)), bits.OnesCount64(uint64(b.victims))),
			cmp.Compare(bits.Len64(uint64(a.victims)), bits.Len64(uint64(b.victims))), cmp.Compare(a.free, b.free), cmp.Compare(a.gpu, b.gpu))
	})
	for i := range rooms {
		if fit, ok := n.around(rooms, i, need); ok {
			return fit, true
		}
	}
	return Fit{}, false
}

// clear lets others leave a GPU until there is enough, and then those stay after all who need not leave, the slowest first. It says
// whether there is enough.
func (n *Node) clear(r *room, each config.Size, self string, by leave) bool {
	host := n.Host
	for i := range min(len(n.Evictable), maxMembers) {
		e := &n.Evictable[i]
		if r.free >= each {
			break
		}
		if e.Busy && !by.busy || e.Backend == self || e.Stopped == 0 && e.Host > max(host, 0) || !slices.Contains(e.GPUs, r.gpu) {
			continue
		}
		if e.sleeps(by, host) {
			host -= e.Host
			r.sleepers |= 1 << i
		}
		if frees := r.frees(n, i); frees > 0 {
			r.free += frees
			r.victims |= 1 << i
		}
	}
	if r.free < each {
		return false
	}
	for {
		spare := -1
		for v := r.victims; v != 0; v &= v - 1 {
			i := bits.TrailingZeros64(uint64(v))
			if r.free-r.frees(n, i) >= each && (spare < 0 || n.Evictable[i].Takes > n.Evictable[spare].Takes) {
				spare = i
			}
		}
		if spare < 0 {
			return true
		}
		r.free -= r.frees(n, spare)
		r.victims &^= 1 << spare
		r.sleepers &^= 1 << spare
	}
}

// sleeps says whether a backend that leaves is put to sleep rather than stopped. One that can do
// nothing but sleep does.
func (e *Evictable) sleeps(by leave, host config.Size) bool {
	return e.Frees > 0 && (e.Stopped == 0 || !by.stop && e.Host <= host)
}

// frees is what a GPU gains if one of the node's Evictable leaves it.
func (r *room) frees(n *Node, i int) config.Size {
	if r.sleepers.has(i) {
		return n.Evictable[i].Frees
	}
	return n.Evictable[i].Stopped
}

// around takes the rooms in their order, beginning with one of them, that are near enough to each other.
func (n *Node) around(rooms []room, seed int, need need) (Fit, bool) {
	fit := Fit{GPUs: 1 << rooms[seed].gpu}
	victims := rooms[seed].victims
	for i, r := range rooms {
		if bits.OnesCount64(uint64(fit.GPUs)) == need.width {
			break
		}
		if i != seed && n.within(fit.GPUs, r.gpu, need.near) {
			fit.GPUs |= 1 << r.gpu
			victims |= r.victims
		}
	}
	if bits.OnesCount64(uint64(fit.GPUs)) < need.width {
		return Fit{}, false
	}
	host := n.Host
	for v := victims; v != 0; v &= v - 1 {
		e := &n.Evictable[bits.TrailingZeros64(uint64(v))]
		fit.Victims++
		fit.Takes = max(fit.Takes, max(0, e.From.Sub(need.now))+e.Takes)
		if e.Stopped == 0 && e.Host > 0 { // the others are stopped where host memory is short, which frees no less
			if host -= e.Host; host < 0 {
				return Fit{}, false
			}
		}
	}
	return fit, true
}

// within says whether a GPU is no farther than near from all of some others.
func (n *Node) within(some gpuSet, g int, near probe.Link) bool {
	if near == probe.LinkUnknown {
		return true
	}
	for ; some != 0; some &= some - 1 {
		if n.Links[bits.TrailingZeros64(uint64(some))][g] > near {
			return false
		}
	}
	return true
}

// nearest is how far from each other those of so many of the node's GPUs are that are the nearest to each other.
func (n *Node) nearest(width int) probe.Link {
	for near := range probe.LinkUnknown {
		for seed := range min(len(n.Links), maxMembers) {
			group := gpuSet(1 << seed)
			for g := range min(len(n.Links), maxMembers) {
				if g != seed && bits.OnesCount64(uint64(group)) < width && n.within(group, g, near) {
					group |= 1 << g
				}
			}
			if bits.OnesCount64(uint64(group)) >= width {
				return near
			}
		}
	}
	return probe.LinkUnknown
}
