package router

import (
	"fmt"
	"math/bits"
	"math/rand/v2"
	"slices"
	"testing"
	"time"

	"pilotlight/config"
	"pilotlight/probe"
)

func TestPlace(t *testing.T) {
	now := time.Now()
	with := func(c *Candidate, wake time.Duration) *Candidate {
		c.WakeTime, c.Since = wake, now.Add(-10*time.Second)
		return c
	}
	resting := with(candidate("resting", Failed, 0, 1), time.Second)
	resting.Rested = now.Add(time.Minute)
	rested := with(candidate("rested", Failed, 0, 1), time.Second)
	avoided := with(candidate("avoided", Stopped, 0, 1), 0)
	avoided.Avoid = now.Add(time.Second)
	asked := with(candidate("asked", Waking, 0, 1), 0)
	asked.wake = &wake{}
	for name, c := range map[string]struct {
		from []*Candidate
		want string
	}{
		"nobody":                     {nil, ""},
		"the soonest":                {[]*Candidate{with(candidate("disk", Stopped, 0, 1), time.Minute), with(candidate("host", Asleep, 0, 1), time.Second)}, "host"},
		"one on the way counts":      {[]*Candidate{with(candidate("host", Asleep, 0, 1), 3*time.Second), with(candidate("waking", Waking, 0, 1), 12*time.Second)}, "waking"},
		"not one that was asked":     {[]*Candidate{asked, with(candidate("disk", Stopped, 0, 1), time.Minute)}, "disk"},
		"not while it rests":         {[]*Candidate{resting}, ""},
		"but after that":             {[]*Candidate{rested}, "rested"},
		"not one that has just said": {[]*Candidate{avoided}, ""},
		"not one that is ready":      {[]*Candidate{candidate("ready", Ready, 1, 1)}, ""},
	} {
		got, why := Place(c.from, now)
		if id := idOf(got); id != c.want || got == nil && why.Why == "" {
			t.Errorf("%s: got %q (%v), want %q", name, id, why, c.want)
		}
	}
}

// optimum is the least expected time to be ready over all candidates and all ways to choose GPUs and who leaves, by trying all of them, in
// whatever order; who leaves sleeps where there is host memory for it, or is stopped.
func optimum(candidates []*Candidate, now time.Time) (best time.Duration, ok bool) {
	for _, c := range candidates {
		if c.notAsked(now) != "" {
			continue
		}
		if c.State == Waking || c.State == Draining {
			if t := c.soonest(now); !ok || t < best {
				best, ok = t, true
			}
			continue
		}
		n := c.node
		for set := range uint64(1) << len(n.GPUs) {
			if bits.OnesCount64(set) != c.Width || c.State == Asleep && gpuSet(set) != setOf(c.GPUs) {
				continue
			}
			evict, fits := leastEviction(n, c.Backend, gpuSet(set), now)
			if t := max(evict, n.queue(c.Tier, gpuSet(set), now)) + c.WakeTime; fits && (!ok || t < best) {
				best, ok = t, true
			}
		}
	}
	return best, ok
}

// leastEviction is how soon there can be room on all GPUs of a set, over all choices of who leaves and who of them is stopped.
func leastEviction(n *Node, b *Backend, set gpuSet, now time.Time) (least time.Duration, ok bool) {
	for leave := range uint64(1) << len(n.Evictable) {
		for stopped := leave; ; stopped = (stopped - 1) & leave {
			if takes, fits := roomIf(n, b, set, leave, stopped, now); fits && (!ok || takes < least) {
				least, ok = takes, true
			}
			if stopped == 0 {
				break
			}
		}
	}
	return least, ok
}

// roomIf says whether there is room on every GPU of a set if some leave, of whom some are stopped, and how long that takes.
func roomIf(n *Node, b *Backend, set gpuSet, leave, stopped uint64, now time.Time) (takes time.Duration, ok bool) {
	host := n.Host
	frees := make([]config.Size, len(n.Evictable))
	for i, e := range n.Evictable {
		switch {
		case leave>>i&1 == 0:
			continue
		case stopped>>i&1 != 0:
			frees[i] = e.Stopped
		default:
			frees[i], host = e.Frees, host-e.Host
		}
		if frees[i] == 0 || e.Backend == b.ID {
			return 0, false
		}
		takes = max(takes, max(0, e.From.Sub(now))+e.Takes)
	}
	if host < 0 && host < n.Host {
		return 0, false // it would be overcommitted by this
	}
	each := share(b.Memory, b.Width)
	if b.State == Asleep {
		each -= share(b.Residual, b.Width)
	}
	for g := range n.GPUs {
		free := n.GPUs[g].Free
		for i, e := range n.Evictable {
			if slices.Contains(e.GPUs, g) {
				free += frees[i]
			}
		}
		if set.has(g) && (free < each || n.GPUs[g].Health >= probe.Sick) {
			return 0, false
		}
	}
	return takes, true
}

// randomFleet is some nodes with others' backends and wakes on them, and candidates that are not ready. How long it takes until somebody
// has left is by whether he is busy, as keepers say it.
func randomFleet(r *rand.Rand, now time.Time) []*Candidate {
	nodes := make([]*Node, 1+r.IntN(4))
	for i := range nodes {
		n := &Node{Name: fmt.Sprint("node", i), Host: config.Size(r.IntN(100)) * config.GiB}
		for range 1 + r.IntN(4) {
			n.GPUs = append(n.GPUs, Room{Free: config.Size(r.IntN(81)) * config.GiB, Health: probe.Health(max(0, r.IntN(12)-8))})
		}
		for e := range r.IntN(4) {
			held := config.Size(1+r.IntN(40)) * config.GiB
			v := Evictable{
				Backend: fmt.Sprint("other", e), GPUs: r.Perm(len(n.GPUs))[:1+r.IntN(min(2, len(n.GPUs)))], Host: held, Takes: time.Second,
			}
			if r.IntN(3) > 0 {
				v.Frees = max(held-2*config.GiB, 0)
			}
			if r.IntN(3) > 0 || v.Frees == 0 {
				v.Stopped = held
			}
			if v.Busy = e > 1 && r.IntN(2) == 0; v.Busy {
				v.From, v.Takes = now.Add(time.Duration(r.IntN(20))*time.Second), 6*time.Second
			}
			n.Evictable = append(n.Evictable, v)
		}
		for range r.IntN(3) {
			n.Wakes = append(n.Wakes, Wake{Tier: Tier(r.IntN(2)), GPUs: []int{r.IntN(len(n.GPUs))}, Ready: now.Add(time.Duration(r.IntN(30)) * time.Second)})
		}
		nodes[i] = n
	}
	var all []*Candidate
	for i := range 1 + r.IntN(6) {
		n := nodes[r.IntN(len(nodes))]
		b := &Backend{
			ID: fmt.Sprint("b", i), Node: n.Name, node: n, Slots: 8, Width: 1 + r.IntN(min(2, len(n.GPUs))), Memory: config.Size(1+r.IntN(80)) * config.GiB,
			State: Stopped, WakeTime: time.Duration(5+r.IntN(60)) * time.Second,
		}
		switch r.IntN(5) {
		case 0:
			b.State, b.Tier, b.WakeTime, b.Residual = Asleep, OnHost, time.Duration(300+r.IntN(5000))*time.Millisecond, min(2*config.GiB, b.Memory)
			b.GPUs = r.Perm(len(n.GPUs))[:b.Width]
		case 1:
			b.State, b.Since = Waking, now.Add(-time.Duration(r.IntN(10))*time.Second)
		case 2:
			b.State, b.Rested = Failed, now.Add(time.Duration(r.IntN(10)-5)*time.Second)
		}
		all = append(all, &Candidate{Backend: b})
	}
	return all
}

func TestPlaceIsAsGoodAsTryingEverything(t *testing.T) {
	now := time.Now()
	placed, worst := 0, 0.0
	for seed := range uint64(200) {
		all := randomFleet(rand.New(rand.NewPCG(seed, 3)), now)
		c, p := Place(all, now)
		best, possible := optimum(all, now)
		if (c != nil) != possible {
			t.Errorf("fleet %d: got %s (%s), and something is possible: %v", seed, idOf(c), p.Why, possible)
			continue
		}
		if c == nil {
			continue
		}
		placed++
		over := p.Left.Seconds()/max(best.Seconds(), 0.2) - 1
		if worst = max(worst, over); over > 0.1 {
			t.Errorf("fleet %d: %s would be ready in %s, the best in %s", seed, c.ID, p.Left, best)
		}
	}
	t.Logf("%d fleets with a placement; the worst is %.1f %% later than the best", placed, 100*worst)
	if placed < 100 {
		t.Errorf("only %d of 200 fleets had a placement", placed)
	}
}

func TestSeveralGPUsAreNearEachOther(t *testing.T) {
	now := time.Now()
	n := &Node{Name: "n", GPUs: make([]Room, 4), Links: [][]probe.Link{ // two pairs with NVLink
		{probe.LinkSelf, probe.LinkNVLink, probe.LinkSystem, probe.LinkSystem},
		{probe.LinkNVLink, probe.LinkSelf, probe.LinkSystem, probe.LinkSystem},
		{probe.LinkSystem, probe.LinkSystem, probe.LinkSelf, probe.LinkNVLink},
		{probe.LinkSystem, probe.LinkSystem, probe.LinkNVLink, probe.LinkSelf},
	}}
	b := &Backend{ID: "b", Width: 2, Memory: 40 * config.GiB}
	free := func(gib ...config.Size) {
		for g := range n.GPUs {
			n.GPUs[g].Free = gib[g] * config.GiB
		}
	}
	for name, c := range map[string]struct {
		free      []config.Size
		evictable []Evictable
		want      []int
		victims   int
	}{
		"a pair that is free": {[]config.Size{20, 0, 80, 80}, nil, []int{2, 3}, 0},
		"a pair for which one must leave, though others are free": {
			[]config.Size{20, 0, 0, 20}, []Evictable{{Backend: "v", GPUs: []int{1}, Stopped: 20 * config.GiB}}, []int{0, 1}, 1,
		},
		"no pair, where that is impossible": {[]config.Size{20, 0, 0, 20}, nil, []int{0, 3}, 0},
	} {
		free(c.free...)
		n.Evictable = c.evictable
		if fit, ok := n.Fit(b, now); !ok || !slices.Equal(fit.GPUs.indices(), c.want) || fit.Victims != c.victims {
			t.Errorf("%s: got %v, %d leave, %v", name, fit.GPUs.indices(), fit.Victims, ok)
		}
	}
}

func TestReplicasSpreadOverNodes(t *testing.T) {
	now := time.Now()
	one, two := &Node{Name: "one"}, &Node{Name: "two"}
	up := candidate("a", Ready, 0, 1)
	up.node = one
	beside, elsewhere, later := candidate("b", Stopped, 0, 1), candidate("c", Stopped, 0, 1), candidate("d", Stopped, 0, 1)
	beside.node, elsewhere.node, later.node = one, two, two
	beside.WakeTime, elsewhere.WakeTime, later.WakeTime = 20*time.Second, 20500*time.Millisecond, 30*time.Second
	if c, _ := Place([]*Candidate{up, beside, elsewhere}, now); c != elsewhere {
		t.Errorf("got %s, want the one on the other node, which is as good as soon", c.ID)
	}
	if c, _ := Place([]*Candidate{up, beside, later}, now); c != beside {
		t.Errorf("got %s, want the one that is ready long before", c.ID)
	}
}

// Place never gives one that does not fit or cannot be asked, and always the same one.
func FuzzPlace(f *testing.F) {
	f.Add(uint64(1))
	f.Fuzz(func(t *testing.T, seed uint64) {
		now := time.Now()
		all := randomFleet(rand.New(rand.NewPCG(seed, 4)), now)
		c, p := Place(all, now)
		again, q := Place(all, now)
		if c != again || p != q {
			t.Errorf("got %s, then %s", idOf(c), idOf(again))
		}
		if c == nil || c.State == Waking {
			return
		}
		if why := c.notAsked(now); why != "" {
			t.Errorf("%s: %s", c.ID, why)
		}
		if _, fits := leastEviction(c.node, c.Backend, p.Fit.GPUs, now); !fits {
			t.Errorf("%s does not fit on %v of %+v", c.ID, p.Fit.GPUs.indices(), c.node)
		}
	})
}

// BenchmarkPlace: a model that could wake on any of 1,000 nodes of eight GPUs, on half of which somebody would have to leave.
func BenchmarkPlace(b *testing.B) {
	now := time.Now()
	r := rand.New(rand.NewPCG(1, 2))
	var all []*Candidate
	for i := range 1000 {
		n := &Node{Name: fmt.Sprint("node", i), Host: 100 * config.GiB}
		for g := range 8 {
			n.GPUs = append(n.GPUs, Room{Free: config.Size(r.IntN(20+60*(i%2))) * config.GiB})
			n.Evictable = append(n.Evictable, Evictable{Backend: fmt.Sprint("other", g), GPUs: []int{g}, Frees: 50 * config.GiB, Stopped: 60 * config.GiB, Takes: time.Second})
		}
		n.Wakes = []Wake{{Tier: OnDisk, Ready: now.Add(time.Duration(r.IntN(20)) * time.Second)}}
		all = append(all, &Candidate{Backend: &Backend{
			ID: fmt.Sprint("b", i), Node: n.Name, node: n, Width: 1, Memory: 40 * config.GiB, WakeTime: time.Duration(20+r.IntN(20)) * time.Second,
		}})
	}
	b.ReportAllocs()
	for b.Loop() {
		Place(all, now)
	}
}
