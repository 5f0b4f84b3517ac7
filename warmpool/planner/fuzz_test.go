package planner

import (
	"fmt"
	"math/rand/v2"
	"reflect"
	"slices"
	"testing"
	"time"

	"pilotlight/router"
)

// fleet is one at random: models on nodes of 80 GiB, whose memory is never promised twice.
func fleet(rng *rand.Rand, models, nodes int) *Input {
	in := &Input{
		Now: noon, Prices: Prices{ColdStart: rng.Float64(), GPU: rng.Float64() / 10, Host: rng.Float64() / 100, Alpha: float64(rng.IntN(2)) / 4},
		Budget: Budget{Loads: rng.IntN(4), Swaps: rng.IntN(3)},
	}
	for n := range nodes {
		in.Nodes = append(in.Nodes, Node{Name: fmt.Sprintf("n%03d", n), GPU: 80 << 30, GPUFree: 80 << 30, Host: 200 << 30, HostFree: 200 << 30})
	}
	for i := range models {
		chance, size := rng.Float64()*rng.Float64()*0.2, int64(4+rng.IntN(40))<<30
		m := Model{
			Name: fmt.Sprintf("m%04d", i), Rate: rng.Float64() * 10, Idle: noon.Add(-time.Duration(rng.IntN(7200)) * time.Second), Busy: rng.IntN(8) == 0,
			Chance:   func(within time.Duration) float64 { return min(1, chance*within.Minutes()) },
			Decision: Decision{Warm: rng.IntN(3) == 0, Chance: chance, Why: "likely"},
		}
		switch rng.IntN(12) {
		case 0:
			m.Rules.Min = 1 + rng.IntN(2)
		case 1:
			m.Rules.NeverSleep = true
		case 2:
			m.Rules.Max = 1
		case 3:
			m.Rules.IdleTime = time.Hour
		case 4:
			m.Rules.Schedule = []Window{{"noon", daily(12), time.Hour, rng.IntN(2) == 0}}
		case 5:
			m.Waiting, m.Busy = 3, false
		case 6:
			m.Rules.Pin = "n000"
		}
		for b := range 1 + rng.IntN(2) {
			m.Backends = append(m.Backends, in.place(rng, fmt.Sprintf("m%04d/%d", i, b), size))
		}
		in.Models = append(in.Models, m)
	}
	return in
}

// place makes a backend that is where there is room for it.
func (in *Input) place(rng *rand.Rand, id string, size int64) Backend {
	n := &in.Nodes[rng.IntN(len(in.Nodes))]
	b := Backend{
		ID: id, Node: n.Name, Tier: router.Tier(rng.IntN(3)), Moving: rng.IntN(15) == 0, Since: noon.Add(-time.Duration(rng.IntN(600)) * time.Second),
		GPU: size, Host: size, CannotSleep: rng.IntN(30) == 0, CannotStop: rng.IntN(30) == 0, Residual: int64(rng.IntN(2)) << 30,
		Wake: map[router.Tier]time.Duration{router.OnDisk: 30 * time.Second, router.OnHost: 2 * time.Second},
	}
	if rng.IntN(10) == 0 {
		b.Host, b.Residual = 0, 0
	}
	if b.Tier == router.OnHost && b.Host == 0 {
		b.Tier = router.OnDisk
	}
	if gpu, host := b.holds(b.Tier); gpu > n.GPUFree || host > n.HostFree {
		b.Tier = router.OnDisk
	}
	gpu, host := b.holds(b.Tier)
	n.GPUFree, n.HostFree = n.GPUFree-gpu, n.HostFree-host
	return b
}

// holds is what a backend holds in a tier.
func (b *Backend) holds(t router.Tier) (gpu, host int64) {
	if t == router.OnGPU {
		return b.GPU, 0
	}
	return b.residual(t), b.hosted(t)
}

// check says what a plan does that it must not.
func check(t *testing.T, in *Input, p Plan) {
	t.Helper()
	models, backends := map[string]*Model{}, map[string]*Backend{}
	gpu, host, ahead, want := map[string]int64{}, map[string]int64{}, 0, map[string]int{}
	for _, n := range in.Nodes {
		gpu[n.Name], host[n.Name] = n.GPUFree, n.HostFree
	}
	for i := range in.Models {
		m := &in.Models[i]
		models[m.Name] = m
		for j := range m.Backends {
			backends[m.Backends[j].ID] = &m.Backends[j]
		}
	}
	if len(p.Items) != len(backends) {
		t.Fatalf("%d items for %d backends", len(p.Items), len(backends))
	}
	for _, it := range p.Items {
		b, m := backends[it.Backend], models[it.Model]
		moved := it.Want != b.Tier
		wasGPU, wasHost := b.holds(b.Tier)
		isGPU, isHost := b.holds(it.Want)
		gpu[b.Node] += wasGPU - isGPU
		host[b.Node] += wasHost - isHost
		if it.Want == router.OnGPU {
			want[m.Name]++
		}
		if it.Ahead {
			ahead++
		}
		switch {
		case it.Why == "" || it.Rule == "" || it.Now != b.Tier || moved == it.At.IsZero():
			t.Errorf("what is said of %s: %+v", b.ID, it)
		case moved && b.Moving:
			t.Errorf("%s moves already, and should go to %s", b.ID, it.Want)
		case moved && b.Tier == router.OnGPU && (m.Busy || b.CannotSleep || m.Rules.NeverSleep):
			t.Errorf("%s is taken off its GPU: %+v", b.ID, it)
		case moved && b.Tier == router.OnHost && it.Want == router.OnDisk && b.CannotStop, it.Want == router.OnHost && b.Host == 0:
			t.Errorf("%s cannot go to %s", b.ID, it.Want)
		case moved && it.Rule == RuleMemory && b.Tier == router.OnGPU && in.Now.Sub(b.Since) < 2*b.Wake[b.rests()]:
			t.Errorf("%s came %s ago and should go again", b.ID, in.Now.Sub(b.Since))
		case moved && it.Want == router.OnGPU && m.Rules.Max > 0 && want[m.Name] > m.Rules.Max:
			t.Errorf("%d of %s are wanted, at most %d", want[m.Name], m.Name, m.Rules.Max)
		}
	}
	for n, free := range gpu {
		if free < 0 {
			t.Errorf("%s lacks %d MiB of GPU memory", n, -free>>20)
		}
	}
	for n, free := range host {
		if free < 0 && promised(in, p, n) {
			t.Errorf("%s lacks %d MiB of host memory", n, -free>>20)
		}
	}
	if in.Budget.Loads > 0 && ahead > in.Budget.Loads {
		t.Errorf("%d loads ahead, %d are allowed", ahead, in.Budget.Loads)
	}
	for name, m := range models {
		if least := min(m.Rules.Min, len(m.Backends)); want[name] < min(least, m.awake()) {
			t.Errorf("%d of %s are wanted, %d are awake, min is %d", want[name], name, m.awake(), m.Rules.Min)
		}
	}
}

// promised says whether anything that might be stopped is left in a node's host memory.
func promised(in *Input, p Plan, node string) bool {
	stay := map[string]bool{}
	for _, m := range in.Models {
		for _, b := range m.Backends {
			stay[b.ID] = b.CannotStop || b.Moving
		}
	}
	return slices.ContainsFunc(p.Items, func(it Item) bool { return it.Node == node && it.Want == router.OnHost && !stay[it.Backend] })
}

func FuzzMake(f *testing.F) {
	for seed := range uint64(40) {
		f.Add(seed, uint8(seed*5), uint8(seed))
	}
	f.Fuzz(func(t *testing.T, seed uint64, models, nodes uint8) {
		rng := rand.New(rand.NewPCG(seed, 1))
		in := fleet(rng, int(models)%200, 1+int(nodes)%12)
		p := Make(in)
		check(t, in, p)
		for i := range in.Models {
			rng.Shuffle(len(in.Models[i].Backends), func(a, b int) {
				bs := in.Models[i].Backends
				bs[a], bs[b] = bs[b], bs[a]
			})
		}
		rng.Shuffle(len(in.Models), func(a, b int) { in.Models[a], in.Models[b] = in.Models[b], in.Models[a] })
		rng.Shuffle(len(in.Nodes), func(a, b int) { in.Nodes[a], in.Nodes[b] = in.Nodes[b], in.Nodes[a] })
		if again := Make(in); !reflect.DeepEqual(p, again) {
			t.Error("another order of the same makes another plan")
		}
	})
}

// BenchmarkMake plans 1,000 models with 1,500 backends on 100 nodes, whose memory is short.
func BenchmarkMake(b *testing.B) {
	in := fleet(rand.New(rand.NewPCG(1, 1)), 1000, 100)
	in.Budget = Budget{}
	b.ReportAllocs()
	for b.Loop() {
		Make(in)
	}
}
