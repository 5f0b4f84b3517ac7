package planner

import (
	"testing"
	"time"

	"pilotlight/router"
)

// crowd is models of 30 GiB on one node with 40 GiB free beside those that are on its GPUs.
func crowd(free int64, tiers map[string]router.Tier, chances map[string]float64) *Input {
	in := &Input{Now: noon, Prices: Prices{ColdStart: 1, GPU: 0.01}, Nodes: []Node{{Name: "n", GPU: 100 << 30, GPUFree: free << 30, Host: 1 << 40, HostFree: 1 << 40}}}
	for name, tier := range tiers {
		in.Models = append(in.Models, Model{
			Name: name, Idle: noon.Add(-time.Hour), Decision: Decision{Warm: true, Chance: chances[name], Why: "likely"},
			Backends: []Backend{{ID: name, Node: "n", Tier: tier, GPU: 30 << 30, Host: 30 << 30, Wake: wakes, Since: noon.Add(-time.Hour)}},
		})
	}
	return in
}

func wanted(p Plan) (names string) {
	for _, it := range p.Items {
		if it.Want == router.OnGPU {
			names += it.Model
		}
	}
	return names
}

func TestShortMemoryGoesToWhatIsWorthMost(t *testing.T) {
	const gpu, host = router.OnGPU, router.OnHost
	for name, c := range map[string]struct {
		free    int64
		tiers   map[string]router.Tier
		chances map[string]float64
		change  func(in *Input)
		want    string
	}{
		"there is room for all":             {60, map[string]router.Tier{"a": host, "b": host}, map[string]float64{"a": .1, "b": .2}, nil, "ab"},
		"for the likelier one":              {40, map[string]router.Tier{"a": host, "b": host}, map[string]float64{"a": .1, "b": .2}, nil, "b"},
		"a little more worth moves nobody":  {0, map[string]router.Tier{"a": gpu, "b": host}, map[string]float64{"a": .1, "b": .14}, nil, "a"},
		"much more worth does":              {0, map[string]router.Tier{"a": gpu, "b": host}, map[string]float64{"a": .1, "b": .16}, nil, "b"},
		"the least worth leaves":            {0, map[string]router.Tier{"a": gpu, "b": host, "c": gpu}, map[string]float64{"a": .1, "b": .4, "c": .05}, nil, "ab"},
		"one weighs more":                   {0, map[string]router.Tier{"a": gpu, "b": host}, map[string]float64{"a": .1, "b": .1}, func(in *Input) { in.named("b").Rules.Weight = 2 }, "b"},
		"min moves whom the policy keeps":   {0, map[string]router.Tier{"a": gpu, "b": host}, map[string]float64{"a": .9, "b": 0}, func(in *Input) { in.named("b").Rules.Min = 1 }, "b"},
		"but nobody who is busy":            {0, map[string]router.Tier{"a": gpu, "b": host}, nil, func(in *Input) { in.named("b").Rules.Min, in.named("a").Busy = 1, true }, "a"},
		"nor who came only now":             {0, map[string]router.Tier{"a": gpu, "b": host}, nil, func(in *Input) { in.named("b").Rules.Min, in.named("a").Backends[0].Since = 1, noon.Add(-time.Second) }, "a"},
		"who has too much gives some back":  {-10, map[string]router.Tier{"a": gpu, "b": gpu}, map[string]float64{"a": .1, "b": .2}, nil, "b"},
		"a budget lets the likeliest first": {90, map[string]router.Tier{"a": host, "b": host, "c": host}, map[string]float64{"a": .1, "b": .3, "c": .2}, func(in *Input) { in.Budget.Loads = 2 }, "bc"},
		"what was loaded before counts":     {90, map[string]router.Tier{"a": host, "b": host}, map[string]float64{"a": .1, "b": .3}, func(in *Input) { in.Budget.Loads, in.Before = 2, &Plan{Loads: []time.Time{noon.Add(-time.Second)}} }, "b"},
		"but not what was long before":      {90, map[string]router.Tier{"a": host, "b": host}, map[string]float64{"a": .1, "b": .3}, func(in *Input) { in.Budget.Loads, in.Before = 2, &Plan{Loads: []time.Time{noon.Add(-time.Minute)}} }, "ab"},
		"few make way for others at a time": {0, map[string]router.Tier{"a": gpu, "b": gpu, "c": host, "d": host}, map[string]float64{"a": .01, "b": .01, "c": .3, "d": .4}, func(in *Input) { in.Budget.Swaps = 1 }, "bd"},
		"rarely used models weigh more":     {30, map[string]router.Tier{"a": host, "b": host}, map[string]float64{"a": .1, "b": .11}, func(in *Input) { in.Prices.Alpha, in.named("a").Rate, in.named("b").Rate = .25, 1, 100 }, "a"},
	} {
		t.Run(name, func(t *testing.T) {
			in := crowd(c.free, c.tiers, c.chances)
			if c.change != nil {
				c.change(in)
			}
			p := Make(in)
			if got := wanted(p); got != c.want {
				t.Errorf("wanted are %q, not %q: %+v", got, c.want, p.Items)
			}
		})
	}
}

func (in *Input) named(name string) *Model {
	for i := range in.Models {
		if in.Models[i].Name == name {
			return &in.Models[i]
		}
	}
	return nil
}

func TestHostMemoryIsHeldForWhatItSpares(t *testing.T) {
	for name, c := range map[string]struct {
		tier   router.Tier
		free   int64
		price  float64
		chance float64
		want   router.Tier
		rule   Rule
	}{
		"it spares more than it costs":    {router.OnHost, 0, 0.001, 0.01, router.OnHost, RuleForecast},
		"it costs more":                   {router.OnHost, 0, 1, 0.01, router.OnDisk, RulePrices},
		"who leaves its GPU sleeps first": {router.OnGPU, 30, 0.001, 0.01, router.OnHost, RuleForecast},
		"where there is room":             {router.OnGPU, 29, 0.001, 0.01, router.OnDisk, RuleForecast},
		"and where it is worth it":        {router.OnGPU, 30, 1, 0.01, router.OnDisk, RuleForecast},
		"host memory that costs nothing":  {router.OnHost, 0, 0, 0, router.OnHost, RuleForecast},
	} {
		t.Run(name, func(t *testing.T) {
			in := crowd(0, map[string]router.Tier{"a": c.tier}, map[string]float64{"a": c.chance})
			in.Models[0].Decision.Warm, in.Prices.Host, in.Nodes[0].HostFree = false, c.price, c.free<<30
			if it := Make(in).Items[0]; it.Want != c.want || it.Rule != c.rule {
				t.Errorf("%+v", it)
			}
		})
	}
}

func TestAnItemSaysWhatItCostsEitherWay(t *testing.T) {
	in := crowd(0, map[string]router.Tier{"a": router.OnGPU}, map[string]float64{"a": 0.05})
	in.Models[0].Chance = func(time.Duration) float64 { return 0.5 }
	it := Make(in).Items[0]
	if it.KeepCost != 0.3 || it.SleepCost != 1 { // 30 GiB at 0.01; half a wait of 2 s at 1
		t.Errorf("%+v", it)
	}
}

func TestTheWorthOfAColdStart(t *testing.T) {
	p := Prices{ColdStart: 0.067, GPU: 0.04}
	if k := p.Worth(30*time.Second, 16<<30, 0).Round(time.Second); k != 3*time.Hour+8*time.Minute+26*time.Second {
		t.Errorf("K is %s", k) // 30 s × 0.067 / (16 × 0.04) of an hour
	}
	if p.Worth(30*time.Second, 16<<30, 2) != 2*p.Worth(30*time.Second, 16<<30, 1) || (Prices{}).Worth(time.Minute, 1, 1) != 0 {
		t.Error("weights double it, and without prices there is none")
	}
}

func TestAPriceFollowsItsTarget(t *testing.T) {
	target := Target{Share: 0.01, Wait: 2 * time.Second}
	in := &Input{Now: noon, Prices: Prices{Target: target}, Seen: Seen{Requests: 10000, Waited: 200}}
	before := Make(in)
	if before.ColdStart != firstPrice {
		t.Errorf("it begins with %v", before.ColdStart)
	}
	in.Before, in.Now = &before, noon.Add(time.Hour)
	if p := Make(in); p.ColdStart != 2*firstPrice {
		t.Errorf("twice as many waited as should, and after an hour it is %v", p.ColdStart)
	}
	in.Seen.Waited = 0
	if p := Make(in); p.ColdStart != firstPrice/4 {
		t.Errorf("nobody waited, and after an hour it is %v", p.ColdStart)
	}
	in.Seen.Requests = 10
	if p := Make(in); p.ColdStart != firstPrice {
		t.Errorf("ten requests moved it to %v", p.ColdStart)
	}
}
