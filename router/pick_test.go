package router

import (
	"fmt"
	"math"
	"math/rand/v2"
	"testing"
	"time"

	"pilotlight/config"
	"pilotlight/probe"
)

func candidate(id string, s State, inFlight, slots int) *Candidate {
	return &Candidate{Backend: &Backend{ID: id, State: s, Slots: slots}, InFlight: inFlight}
}

func TestPick(t *testing.T) {
	now := time.Now()
	queued := candidate("queued", Ready, 0, 4)
	queued.Reading, queued.Others = probe.Reading{At: now, Waiting: 3}, 3
	stale := candidate("stale", Ready, 0, 4)
	stale.Reading, stale.Others = probe.Reading{At: now.Add(-time.Minute), Waiting: 3}, 3
	bad := candidate("bad", Ready, 0, 4)
	bad.Ejected = now.Add(time.Second)
	for name, c := range map[string]struct {
		from  []*Candidate
		tried Tried
		want  string
	}{
		"nobody":                               {nil, Tried{}, ""},
		"only ready ones":                      {[]*Candidate{candidate("a", Waking, 0, 4), candidate("b", Ready, 3, 4)}, Tried{}, "b"},
		"only those with a free slot":          {[]*Candidate{candidate("a", Ready, 4, 4)}, Tried{}, ""},
		"the smallest share":                   {[]*Candidate{candidate("a", Ready, 1, 2), candidate("b", Ready, 2, 8)}, Tried{}, "b"},
		"the first of equals":                  {[]*Candidate{candidate("a", Ready, 0, 4), candidate("b", Ready, 0, 4)}, Tried{}, "a"},
		"what others ask of the engine counts": {[]*Candidate{queued, candidate("b", Ready, 1, 4)}, Tried{}, "b"},
		"an old reading has no vote":           {[]*Candidate{stale, candidate("b", Ready, 1, 4)}, Tried{}, "stale"},
		"ejected ones come last":               {[]*Candidate{bad, candidate("b", Ready, 3, 4)}, Tried{}, "b"},
		"but never is everything barred":       {[]*Candidate{bad}, Tried{}, "bad"},
		"nor is one that was tried":            {[]*Candidate{candidate("a", Ready, 0, 4), bad, candidate("b", Ready, 3, 4)}, Tried{"a"}, "b"},
		"one that was tried comes last":        {[]*Candidate{candidate("a", Ready, 0, 4), bad}, Tried{"a"}, "bad"},
		"and two come, in the end":             {[]*Candidate{candidate("a", Ready, 3, 4), candidate("b", Ready, 0, 4)}, Tried{"a", "b"}, "b"},
	} {
		got, why := Pick(c.from, now, Ask{Routing: config.DefaultRouting(), Tried: c.tried})
		if id := idOf(got); id != c.want || why.Rule == "" {
			t.Errorf("%s: got %q (%v), want %q", name, id, why, c.want)
		}
	}
}

// A backend is picked for what is known of it, one thing at a time.
func TestWhatEachFactorDoes(t *testing.T) {
	now := time.Now()
	near := candidate("b", Ready, 0, 8)
	for name, c := range map[string]struct {
		worse, better func(*Candidate)
	}{
		"requests of ours":      {func(c *Candidate) { c.InFlight = 1 }, nil},
		"and of others":         {func(c *Candidate) { c.Reading, c.Others = probe.Reading{At: now}, 1 }, nil},
		"fewer slots":           {func(c *Candidate) { c.Slots = 7 }, nil},
		"a queue":               {func(c *Candidate) { c.Reading = probe.Reading{At: now, Waiting: 1} }, nil},
		"a full cache":          {func(c *Candidate) { c.Reading = probe.Reading{At: now, KVCache: 0.5} }, nil},
		"a prompt that is read": {func(c *Candidate) { c.Opening = 1 }, nil},
		"a tenant":              {func(c *Candidate) { c.Strain = Strain{At: now, Slow: 1} }, nil},
		"a hot GPU":             {func(c *Candidate) { c.Strain = Strain{At: now, Slow: 0.5} }, nil},
		"little memory":         {func(c *Candidate) { c.Strain = Strain{At: now, Used: 0.9} }, nil},
		"a failure":             {func(c *Candidate) { c.Broke, c.LastBad = 1, now.Add(-time.Second) }, nil},
		"a sick GPU":            {func(c *Candidate) { c.Strain = Strain{At: now, Bad: true} }, nil},
		"a known prefix":        {nil, func(c *Candidate) { *c = *near }},
		"a tenant is worth more than requests": {
			func(c *Candidate) { c.Strain = Strain{At: now, Slow: 1.5} }, func(c *Candidate) { c.InFlight = 6 },
		},
		"a prefix is worth less than half of the slots": {func(c *Candidate) { *c = *near; c.InFlight = 5 }, func(c *Candidate) { c.InFlight = 0 }},
	} {
		a, b := candidate("a", Ready, 0, 8), near
		*b = *candidate("b", Ready, 0, 8)
		if c.worse != nil {
			c.worse(a)
		}
		if c.better != nil {
			c.better(b)
		}
		ask := Ask{Routing: config.DefaultRouting()}
		if name == "a known prefix" {
			ask.Near = b
		}
		if got, why := Pick([]*Candidate{a, b}, now, ask); got != b {
			t.Errorf("%s: got %s by %+v", name, got.ID, why)
		}
	}
}

func TestOldReadingsLoseTheirVote(t *testing.T) {
	now := time.Now()
	old := now.Add(-3 * time.Second)
	a := candidate("a", Ready, 0, 8)
	a.Reading, a.Others, a.Strain = probe.Reading{At: old, Waiting: 7, KVCache: 1}, 7, Strain{At: old, Slow: 9, Used: 1}
	if got, why := Pick([]*Candidate{a, candidate("b", Ready, 0, 8)}, now, Ask{Routing: config.DefaultRouting()}); got != a || why.Factors != (Factors{Load: 0.125}) {
		t.Errorf("got %s by %+v", got.ID, why)
	}
}

func TestAPrefixMakesNobodyTheOnlyOne(t *testing.T) {
	now := time.Now()
	var all []*Candidate
	for _, id := range []string{"a", "b", "c", "d"} {
		all = append(all, candidate(id, Ready, 0, 64))
	}
	for range 64 {
		c, _ := Pick(all, now, Ask{Routing: config.DefaultRouting(), Near: all[2]})
		c.InFlight++
	}
	if most := all[2].InFlight; most < 17 || most > 21 { // a quarter of 64, and a quarter more
		t.Errorf("the one with the prefix got %d of 64", most)
	}
}

func TestOtherPolicies(t *testing.T) {
	now := time.Now()
	all := []*Candidate{candidate("a", Ready, 3, 8), candidate("b", Ready, 8, 8), candidate("c", Ready, 1, 8), candidate("d", Ready, 2, 8)}
	count := func(p config.RoutingPolicy) map[string]int {
		got := map[string]int{}
		for turn := range uint64(3000) {
			c, _ := Pick(all, now, Ask{Routing: config.Routing{Policy: p}, Turn: turn})
			got[c.ID]++
		}
		return got
	}
	if got := count(config.RoundRobin); got["a"] != 1000 || got["c"] != 1000 || got["d"] != 1000 {
		t.Errorf("round robin: got %v", got)
	}
	if got := count(config.LeastConnections); got["c"] != 3000 {
		t.Errorf("least connections: got %v", got)
	}
	if got := count(config.Random); got["b"] > 0 || min(got["a"], got["c"], got["d"]) < 900 {
		t.Errorf("random: got %v", got)
	}
	if got := count(config.PowerOfTwo); got["b"] > 0 || got["a"] > 0 || got["c"] < 1900 || got["c"] > 2100 {
		t.Errorf("power of two: got %v", got)
	}
}

func TestWhatOthersTakeOfAGPU(t *testing.T) {
	gpu := func(busy float64, p ...probe.Process) *probe.GPUs {
		return &probe.GPUs{GPUs: []probe.GPU{{Index: 1, Busy: 1}, {Index: 3, Busy: busy, Processes: p}}}
	}
	for name, c := range map[string]struct {
		pid, inFlight int
		gpus          *probe.GPUs
		want          float64
	}{
		"its own process":           {7, 1, gpu(0.9, probe.Process{PID: 7, Busy: 0.9}), 0},
		"its child":                 {7, 1, gpu(0.9, probe.Process{PID: 9, Lineage: []int{9, 8, 7}, Busy: 0.9}), 0},
		"one of its group":          {7, 1, gpu(0.9, probe.Process{PID: 9, Group: 7, Busy: 0.9}), 0},
		"another":                   {7, 1, gpu(0.9, probe.Process{PID: 7, Busy: 0.5}, probe.Process{PID: 5, Busy: 0.25}), 0.25},
		"next to nothing":           {7, 1, gpu(0.9, probe.Process{PID: 5, Busy: 0.01}), 0},
		"the driver does not say":   {7, 1, gpu(0.9, probe.Process{PID: 5, Busy: -1}), 0},
		"but the backend is idle":   {7, 0, gpu(0.75, probe.Process{PID: 5, Busy: -1}), 0.75},
		"a process that is unknown": {0, 0, gpu(0.75, probe.Process{PID: 5, Busy: 0.25}), 0.75},
		"nor does it say how busy":  {0, 0, gpu(-1), 0},
	} {
		b := candidate("b", Ready, c.inFlight, 8)
		b.PID, b.GPUs = c.pid, []int{3}
		if b.SeeGPUs(c.gpus); math.Abs(b.Strain.Slow-c.want/(1-c.want)) > 1e-9 {
			t.Errorf("%s: got %v, want others to take %v", name, b.Strain.Slow, c.want)
		}
	}
}

// Pick never gives a full or unready backend, whatever the policy and whatever is known, and always the same one.
func FuzzPick(f *testing.F) {
	f.Add(uint64(1))
	f.Fuzz(func(t *testing.T, seed uint64) {
		r := rand.New(rand.NewPCG(seed, 0))
		now := time.Now()
		from, free := randomCandidates(r, now)
		ask := randomAsk(r, from)
		got, why := Pick(from, now, ask)
		again, _ := Pick(from, now, ask)
		if got != again || (got != nil) != free || got != nil && (got.State != Ready || got.InFlight >= got.Slots) || math.IsNaN(why.Score) || math.IsInf(why.Score, 0) {
			t.Errorf("Pick of %v gave %v, then %v: %+v", from, got, again, why)
		}
	})
}

func randomCandidates(r *rand.Rand, now time.Time) (from []*Candidate, free bool) {
	for i := range r.IntN(10) {
		c := candidate(string(rune('a'+i)), State(r.IntN(6)), r.IntN(5), 1+r.IntN(4))
		c.Reading = probe.Reading{At: now.Add(-time.Duration(r.Int64N(4e9))), Running: r.IntN(20) - 1, Waiting: r.IntN(20) - 1, KVCache: r.Float64()*2 - 1}
		c.Others = r.IntN(5)
		c.Strain = Strain{At: now.Add(-time.Duration(r.Int64N(4e9))), Slow: r.Float64() * 20, Used: r.Float64(), Bad: r.IntN(4) == 0}
		c.Broke, c.LastBad = r.IntN(5), now.Add(-time.Duration(r.Int64N(20e9)))
		if r.IntN(3) == 0 {
			c.Ejected = now.Add(time.Duration(r.Int64N(2e9)) - 1e9)
		}
		free = free || c.State == Ready && c.InFlight < c.Slots
		from = append(from, c)
	}
	return from, free
}

func randomAsk(r *rand.Rand, from []*Candidate) Ask {
	policies := []config.RoutingPolicy{config.Scored, config.LeastConnections, config.RoundRobin, config.Random, config.PowerOfTwo}
	ask := Ask{Routing: config.DefaultRouting(), Turn: r.Uint64()}
	ask.Routing.Policy = policies[r.IntN(len(policies))]
	if len(from) > 0 {
		ask.Near = from[r.IntN(len(from))]
		ask.Tried = Tried{from[r.IntN(len(from))].ID}
	}
	return ask
}

func BenchmarkPick(b *testing.B) {
	now := time.Now()
	r := rand.New(rand.NewPCG(1, 2))
	var from []*Candidate
	for i := range 64 {
		c := candidate(fmt.Sprintf("backend-%02d", i), Ready, r.IntN(32), 32)
		c.Reading = probe.Reading{At: now, Running: r.IntN(32), Waiting: r.IntN(4), KVCache: r.Float64()}
		c.Strain = Strain{At: now, Slow: r.Float64() * 2, Used: r.Float64()}
		from = append(from, c)
	}
	ask := Ask{Routing: config.DefaultRouting(), Near: from[40]}
	b.ReportAllocs()
	for b.Loop() {
		Pick(from, now, ask)
	}
}

func idOf(c *Candidate) string {
	if c == nil {
		return ""
	}
	return c.ID
}
