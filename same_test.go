package main_test

import (
	"fmt"
	"log/slog"
	"math/rand/v2"
	"slices"
	"strings"
	"testing"
	"time"

	"pilotlight/config"
	"pilotlight/router"
	"pilotlight/warmpool/live"
	"pilotlight/warmpool/policy"
	"pilotlight/warmpool/simulate"
)

// told is a policy that notes when it changes its mind.
type told struct {
	policy.Policy
	decisions []string
}

func (p *told) Decide(q policy.Question) policy.Decision {
	d := p.Policy.Decide(q)
	if d.Warm != q.Warm {
		p.decisions = append(p.decisions, decision(q.Now, q.Model, d.Warm))
	}
	return d
}

func decision(at time.Time, model string, warm bool) string {
	return fmt.Sprintf("%s %s warm: %t", at.Format(time.RFC3339Nano), model, warm)
}

// loadTime is short: what has come a moment ago stays for twice as long, which simulate knows nothing of.
const loadTime = time.Second

// recorded is made-up demand of three days, with hours and habits, in whole seconds.
func recorded() (uses []simulate.Use) {
	r := rand.New(rand.NewPCG(1, 2))
	for m := range 6 {
		for day := range 3 {
			for _, hour := range []int{8, 9, 12, 13, 18 + m%4} {
				if r.IntN(5) == 0 {
					continue
				}
				at := time.Duration(day*24+hour) * time.Hour
				for range 1 + r.IntN(6) {
					at += time.Duration(20+r.IntN(900)) * time.Second
					uses = append(uses, simulate.Use{Model: fmt.Sprint("m", m), At: at, Took: time.Duration(31+r.IntN(60)) * time.Second, Requests: 1 + r.Int64N(3)})
				}
			}
		}
	}
	slices.SortStableFunc(uses, func(a, b simulate.Use) int { return int(a.At - b.At) })
	return uses
}

// virtual is a fleet in virtual time, in which loads take their time and everything else none.
type virtual struct {
	*router.Router
	node  router.Node
	uses  map[string]router.Use
	ends  map[string]time.Time // of what is in flight
	ready map[string]time.Time // when a load ends; zero: it is asleep
}

func newVirtual(uses []simulate.Use) *virtual {
	models := map[string]config.Model{}
	for _, u := range uses {
		models[u.Model] = config.DefaultModel(u.Model)
	}
	v := &virtual{Router: router.New(models, nil, slog.New(slog.DiscardHandler)), uses: map[string]router.Use{}, ends: map[string]time.Time{}, ready: map[string]time.Time{}}
	v.node = router.Node{Name: "n", Host: config.Size(1) << 50, GPUs: []router.Room{{Free: config.Size(1) << 50}}}
	for name := range models {
		v.node.Backends = append(v.node.Backends, router.Backend{
			ID: name, Model: name, Node: "n", Slots: 8, Memory: 16 * config.GiB, State: router.Stopped, WakeTime: loadTime, NoSleep: true,
			Wakes: router.Wakes{Disk: loadTime, Host: loadTime},
		})
	}
	return v
}

func (v *virtual) Use(backend string) router.Use { return v.uses[backend] }

// show tells the router where backends are now.
func (v *virtual) show(now time.Time) {
	v.node.Backends = slices.Clone(v.node.Backends)
	for i := range v.node.Backends {
		b := &v.node.Backends[i]
		switch ready := v.ready[b.ID]; {
		case ready.IsZero():
			b.State, b.Tier = router.Stopped, router.OnDisk
		case now.Before(ready):
			b.State, b.Tier = router.Waking, router.OnDisk
		default:
			b.State, b.Tier = router.Ready, router.OnGPU
		}
	}
	v.Observe(v.node)
}

// arrive begins a use.
func (v *virtual) arrive(u simulate.Use, now time.Time) {
	used := v.uses[u.Model]
	used.Granted, used.InFlight = used.Granted+u.Requests, 1
	v.uses[u.Model] = used
	if end := now.Add(u.Took); end.After(v.ends[u.Model]) {
		v.ends[u.Model] = end
	}
	if v.ready[u.Model].IsZero() {
		v.ready[u.Model] = now.Add(loadTime)
	}
}

// over ends what ends by now.
func (v *virtual) over(now time.Time) {
	for model, end := range v.ends {
		if !end.After(now) {
			used := v.uses[model]
			used.InFlight = 0
			v.uses[model] = used
			delete(v.ends, model)
		}
	}
}

// next is when something happens next by itself; zero: nothing does.
func (v *virtual) next(now time.Time) (at time.Time) {
	for _, times := range []map[string]time.Time{v.ends, v.ready} {
		for _, t := range times {
			if t.After(now) && (at.IsZero() || t.Before(at)) {
				at = t
			}
		}
	}
	return at
}

// follow does what a plan says of backends that nobody uses, and notes it.
func (v *virtual) follow(wishes map[string]router.Wish, now time.Time) (did []string) {
	for model, w := range wishes {
		warm, is := w.Tier == router.OnGPU, !v.ready[model].IsZero()
		if v.uses[model].InFlight > 0 || warm == is {
			continue
		}
		did = append(did, decision(now, model, warm))
		if v.ready[model] = (time.Time{}); warm {
			v.ready[model] = now.Add(loadTime)
		}
	}
	return did
}

// What is planned for a fleet that runs is what simulate does with the same demand.
func TestTheLivePlannerDecidesAsSimulateDoes(t *testing.T) {
	for _, spec := range []string{"fixed:idle=10m", "ttl:k=30m", "hybrid:range=4h", "predictive:k=20m"} {
		t.Run(spec, func(t *testing.T) {
			t.Parallel()
			uses := recorded()
			demand, err := simulate.NewDemand(time.Time{}, slices.Values(uses))
			if err != nil {
				t.Fatal(err)
			}
			parsed, err := policy.Parse(spec)
			if err != nil {
				t.Fatal(err)
			}
			simulated := &told{Policy: parsed}
			if _, err := simulate.Run(t.Context(), demand, simulated, simulate.Options{Load: loadTime}); err != nil {
				t.Fatal(err)
			}

			v := newVirtual(uses)
			p := live.New(v, config.Pool{Policy: config.PoolPolicy(spec), GPUPrice: 0.03, HostPrice: 0.003, Loads: 1000, Swaps: 1000}, 1)
			now, last := demand.Began, demand.Began.Add(uses[len(uses)-1].At)
			v.show(now)
			next := p.Step(now).Next
			var did []string
			for len(uses) > 0 {
				at := demand.Began.Add(uses[0].At)
				for _, other := range []time.Time{next, v.next(now)} {
					if !other.IsZero() && other.Before(at) && other.After(now) {
						at = other
					}
				}
				now = at
				for len(uses) > 0 && !demand.Began.Add(uses[0].At).After(now) {
					v.arrive(uses[0], now)
					uses = uses[1:]
				}
				v.over(now)
				v.show(now)
				plan := p.Step(now)
				did = append(did, v.follow(live.Wishes(&plan, v.Fleet(), now), now)...)
				v.show(now)
				next = plan.Next
			}
			before := func(all []string) (some []string) {
				for _, d := range all {
					if at, _, _ := strings.Cut(d, " "); at < last.Format(time.RFC3339Nano) {
						some = append(some, d)
					}
				}
				slices.Sort(some)
				return some
			}
			got, want := before(did), before(simulated.decisions)
			if !slices.Equal(got, want) {
				n := 0
				for n < min(len(got), len(want)) && got[n] == want[n] {
					n++
				}
				t.Errorf("%d decisions, want %d; the first that differ are %v, want %v", len(got), len(want), got[n:min(n+3, len(got))], want[n:min(n+3, len(want))])
			}
			if len(want) < 50 {
				t.Errorf("%d decisions show little", len(want))
			}
		})
	}
}
