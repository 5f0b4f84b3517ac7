package live

import (
	"fmt"
	"log/slog"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"pilotlight/config"
	"pilotlight/router"
	"pilotlight/warmpool/planner"
)

// fleet is a fleet of one node, whose backends are what a test says.
type fleet struct {
	*router.Router
	uses map[string]router.Use
	node router.Node
}

func (f *fleet) Use(backend string) router.Use { return f.uses[backend] }

// newFleet has models with a backend each, asleep, which take 30 s from disk and 2 s from the host's memory.
func newFleet(models map[string]config.Model) *fleet {
	f := &fleet{Router: router.New(models, nil, slog.New(slog.DiscardHandler)), uses: map[string]router.Use{}}
	f.node = router.Node{Name: "n", Host: 100 * config.GiB, GPUs: []router.Room{{Free: 80 * config.GiB}}}
	for name := range models {
		f.node.Backends = append(f.node.Backends, router.Backend{
			ID: name + "-0", Model: name, Node: "n", Slots: 4, Memory: 8 * config.GiB, Host: 8 * config.GiB, State: router.Asleep, Tier: router.OnHost,
			WakeTime: 2 * time.Second, Wakes: router.Wakes{Disk: 30 * time.Second, Host: 2 * time.Second},
		})
	}
	f.Observe(f.node)
	return f
}

// set moves a backend.
func (f *fleet) set(model string, state router.State, tier router.Tier) {
	f.node.Backends = slices.Clone(f.node.Backends)
	for i := range f.node.Backends {
		if b := &f.node.Backends[i]; b.Model == model {
			b.State, b.Tier = state, tier
		}
	}
	f.Observe(f.node)
}

// use changes how much a model's backend is used.
func (f *fleet) use(model string, granted int64, inFlight int) {
	u := f.uses[model+"-0"]
	u.Granted += granted
	u.InFlight = inFlight
	f.uses[model+"-0"] = u
}

func model(name string, change ...func(*config.Model)) config.Model {
	m := config.DefaultModel(name)
	for _, f := range change {
		f(&m)
	}
	return m
}

// pool is that of a file which says nothing, with a policy.
func pool(policy string) config.Pool {
	return config.Pool{Policy: config.PoolPolicy(policy), GPUPrice: 0.03, HostPrice: 0.003, Loads: 10, Swaps: 2}
}

var noon = time.Date(2026, 11, 26, 12, 0, 0, 0, time.UTC)

// item is what a plan says of a model's backend.
func item(t *testing.T, p planner.Plan, model string) planner.Item {
	t.Helper()
	for _, it := range p.Items {
		if it.Model == model {
			return it
		}
	}
	t.Fatalf("the plan has no %s", model)
	return planner.Item{}
}

func TestAModelIsKeptAsItsPolicySays(t *testing.T) {
	f := newFleet(map[string]config.Model{
		"pool":  model("pool"),
		"own":   model("own", func(m *config.Model) { m.Policy = "fixed:idle=2m" }),
		"fixed": model("fixed", func(m *config.Model) { m.Policy, m.IdleTime = "fixed", config.Duration(5*time.Minute) }),
	})
	p := New(f, pool("fixed:idle=10m"), 1)
	p.Step(noon)
	for m := range map[string]bool{"pool": true, "own": true, "fixed": true} {
		f.use(m, 1, 1)
		f.set(m, router.Ready, router.OnGPU)
	}
	if it := item(t, p.Step(noon.Add(time.Second)), "own"); it.Rule != planner.RuleBusy {
		t.Errorf("in use it is planned by %s", it.Rule)
	}
	for m := range map[string]bool{"pool": true, "own": true, "fixed": true} {
		f.use(m, 0, 0)
	}
	for _, c := range []struct {
		after            time.Duration
		pool, own, fixed router.Tier
	}{
		{time.Minute, router.OnGPU, router.OnGPU, router.OnGPU},
		{4 * time.Minute, router.OnGPU, router.OnHost, router.OnGPU},
		{8 * time.Minute, router.OnGPU, router.OnHost, router.OnHost},
		{20 * time.Minute, router.OnHost, router.OnHost, router.OnHost},
	} {
		if c.after == time.Minute {
			p.Step(noon.Add(2 * time.Second)) // it sees that they are idle
		}
		plan := p.Step(noon.Add(c.after))
		for m, want := range map[string]router.Tier{"pool": c.pool, "own": c.own, "fixed": c.fixed} {
			if it := item(t, plan, m); it.Want != want {
				t.Errorf("after %s %s should be on %s by %s: %s; want %s", c.after, m, it.Want, it.Rule, it.Why, want)
			}
		}
		wishes := Wishes(&plan, f.Fleet(), noon)
		if _, wished := wishes["fixed-0"]; wished {
			t.Error("a keeper knows idle times by itself")
		}
		if w := wishes["own-0"]; w.Tier != c.own || w.Why == "" || !w.Made.Equal(noon) || !w.Fresh(noon.Add(time.Minute)) {
			t.Errorf("after %s it is wished %+v", c.after, w)
		}
	}
}

// days are how long daily teaches, and lesson is what is learned then, once for all tests.
const days = 5

var lesson = sync.OnceValues(func() ([]byte, error) {
	p := New(nil, pool("predictive:k=60m"), 1)
	p.Teach(tenToNoon.Add(-lessonTime), lessonTime, func(yield func(Use) bool) {
		for day := range days + 1 {
			for _, hour := range []int{9, 12} {
				for i := range 6 {
					for other, name := range []string{"m", "n", "o", "p", "q", "r", "s", "t"} {
						at := time.Duration(day)*24*time.Hour + time.Duration(hour)*time.Hour + time.Duration(5*i)*time.Minute + time.Duration(other*other)*time.Second
						if at < lessonTime && !yield(Use{name, at, 10 * time.Second, 1}) {
							return
						}
					}
				}
			}
		}
	})
	return p.Save(0)
})

const lessonTime = days*24*time.Hour + 11*time.Hour + 50*time.Minute

var tenToNoon = noon.Add(-10 * time.Minute)

// daily gives a planner what is learned from models, m among them, that are asked for at nine and at noon every day, up to ten minutes before noon.
func daily(t *testing.T, p *Planner) (now time.Time) {
	t.Helper()
	saved, err := lesson()
	if err == nil {
		err = p.Load(saved)
	}
	if err != nil {
		t.Fatal(err)
	}
	return tenToNoon
}

func TestWhatIsAskedForEveryDayIsWokenAheadAndScored(t *testing.T) {
	for name, c := range map[string]struct {
		asks time.Duration // after it should wake; negative: nobody does
		want Score
	}{
		"somebody asks":             {90 * time.Second, Score{Model: "m", Used: 1}},
		"somebody asks at once":     {time.Second, Score{Model: "m", Late: 1}},
		"nobody asks for some time": {-1, Score{Model: "m", Wasted: 1}},
	} {
		t.Run(name, func(t *testing.T) {
			f := newFleet(map[string]config.Model{"m": model("m")})
			p := New(f, pool("predictive:k=60m"), 1)
			now := daily(t, p)
			var woke time.Time
			for end := now.Add(15 * time.Minute); woke.IsZero() && now.Before(end); now = now.Add(10 * time.Second) {
				if it := item(t, p.Step(now), "m"); it.Want == router.OnGPU {
					woke = now
					if !it.Ahead || it.Rule != planner.RuleForecast || !strings.Contains(it.Why, "days") {
						t.Errorf("it wakes by %s: %s", it.Rule, it.Why)
					}
				}
			}
			if woke.IsZero() {
				t.Fatal("it is not woken before noon")
			}
			f.set("m", router.Ready, router.OnGPU)
			for end := woke.Add(6 * time.Hour); now.Before(end); now = now.Add(10 * time.Second) {
				if c.asks >= 0 && !now.Before(woke.Add(c.asks)) {
					f.use("m", 1, 0)
					p.Step(woke.Add(c.asks))
					break
				}
				p.Step(now)
			}
			_, all := p.Scores()
			if len(all) != 1 {
				t.Fatalf("scores are %+v", all)
			}
			got := all[0]
			if (got.GPUHours > 0) != (got.Wasted > 0) || got.GiBHours != 8*got.GPUHours {
				t.Errorf("%g GPU-hours and %g GiB-hours are wasted", got.GPUHours, got.GiBHours)
			}
			got.GPUHours, got.GiBHours = 0, 0
			if got != c.want {
				t.Errorf("the score is %+v, want %+v", got, c.want)
			}
		})
	}
}

func TestADryRunWishesNothingAndIsScored(t *testing.T) {
	f := newFleet(map[string]config.Model{"m": model("m")})
	dry := pool("predictive:k=60m")
	dry.DryRun = true
	p := New(f, dry, 1)
	now := daily(t, p)
	for end := now.Add(11 * time.Minute); now.Before(end); now = now.Add(10 * time.Second) {
		plan := p.Step(now)
		if wishes := Wishes(&plan, f.Fleet(), now); len(wishes) > 0 {
			t.Fatalf("it wishes %v", wishes)
		}
	}
	f.use("m", 1, 0)
	p.Step(now)
	if sum, _ := p.Scores(); sum.Used != 1 || sum.HitRate() != 1 {
		t.Errorf("the score is %+v", sum)
	}
}

func TestWhatWasLearnedOutlivesThePlanner(t *testing.T) {
	f := newFleet(map[string]config.Model{"m": model("m")})
	first := New(f, pool("predictive:k=60m"), 1)
	now := daily(t, first)
	saved, err := first.Save(1 << 18)
	if err != nil {
		t.Fatal(err)
	}
	second := New(f, pool("predictive:k=60m"), 1)
	if err := second.Load(saved); err != nil {
		t.Fatal(err)
	}
	first.Step(now)
	second.Step(now)
	if err := second.Load([]byte("nonsense")); err == nil {
		t.Error("nonsense is taken for what was learned")
	}
	f.use("m", 1, 0)
	for i := range 20 {
		now = now.Add(time.Minute)
		a, b := item(t, first.Step(now), "m"), item(t, second.Step(now), "m")
		if a.Want != b.Want || a.Chance != b.Chance || a.Why != b.Why {
			t.Fatalf("minute %d: one plans %s (%g, %s), the other %s (%g, %s)", i, a.Want, a.Chance, a.Why, b.Want, b.Chance, b.Why)
		}
	}
}

func TestAnotherPolicyIsTriedWithoutHarm(t *testing.T) {
	f := newFleet(map[string]config.Model{"m": model("m")})
	p := New(f, pool("fixed:idle=10m"), 1)
	p.Step(noon)
	f.set("m", router.Ready, router.OnGPU)
	f.use("m", 1, 0)
	p.Step(noon.Add(time.Second))
	now := noon.Add(5 * time.Minute)
	if it := item(t, p.WhatIf(now, pool("fixed:idle=1m"), nil), "m"); it.Want != router.OnHost {
		t.Errorf("it would be on %s", it.Want)
	}
	other := model("m", func(m *config.Model) { m.NeverSleep = true })
	if it := item(t, p.WhatIf(now, pool("fixed:idle=1m"), map[string]config.Model{"m": other}), "m"); it.Want != router.OnGPU || it.Rule != planner.RuleNeverSleep {
		t.Errorf("it would be on %s by %s", it.Want, it.Rule)
	}
	for i := range 100 {
		p.WhatIf(now, pool(fmt.Sprintf("ttl:k=%dm", i+1)), nil)
	}
	if it := item(t, p.Step(now), "m"); it.Want != router.OnGPU || len(p.policies) != 2 {
		t.Errorf("afterwards it is planned on %s, with %d policies", it.Want, len(p.policies))
	}
}

// TestAModelThatIsNewIsPlannedBeforeAnybodyHasLookedAtIt: somebody may ask what if in the second after it came.
func TestAModelThatIsNewIsPlannedBeforeAnybodyHasLookedAtIt(t *testing.T) {
	p := New(newFleet(map[string]config.Model{"m": model("m")}), pool("predictive:k=60m"), 1)
	if plan := p.WhatIf(noon, pool("predictive:k=60m"), nil); len(plan.Items) != 1 {
		t.Errorf("%d backends are planned", len(plan.Items))
	}
}

func TestWrongPoliciesAreSaid(t *testing.T) {
	for spec, wrong := range map[config.PoolPolicy]bool{
		"": false, "fixed": false, "fixed:idle=5m": false, "predictive": false, "predictive:k=2h": false, "hybrid:range=4h": false,
		"fixed:k=5m": true, "predictive:k=soon": true, "predictive:k=0s": true, "predictive:alpha=1": true, "oracle": true,
	} {
		if err := Check(spec); (err != nil) != wrong {
			t.Errorf("%q: %v", spec, err)
		}
	}
}

func TestPricesMakeK(t *testing.T) {
	priced := pool("predictive:k=20m")
	priced.ColdStartCost, priced.GPUPrice = 0.001, 0.03
	// 30 s of waiting cost 0.03, and an hour of 8 GiB 0.24: an eighth of an hour.
	if k := prices(priced).Worth(30*time.Second, int64(8*config.GiB), 1); k.Round(time.Millisecond) != 450*time.Second {
		t.Errorf("a cold start is worth %s", k)
	}
}

func TestATargetSteersThePriceOfWaiting(t *testing.T) {
	f := newFleet(map[string]config.Model{"m": model("m")})
	aimed := pool("predictive:k=20m")
	aimed.ColdStartCost = 0.001
	aimed.Target = &config.ColdTarget{Share: 0.01, Wait: config.Duration(2 * time.Second)}
	p := New(f, aimed, 1)
	now := noon
	steer := func(waited time.Duration) float64 {
		for i := range 500 {
			if now = now.Add(time.Minute); i%2 == 0 {
				p.Answered(waited)
			}
			p.Step(now)
		}
		return p.Plan().ColdStart
	}
	begins := p.Step(now).ColdStart
	if dear := steer(10 * time.Second); dear <= begins {
		t.Errorf("everybody waits for too long, and waiting costs %g, which was %g", dear, begins)
	}
}
