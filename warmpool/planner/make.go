package planner

import (
	"cmp"
	"fmt"
	"slices"
	"time"

	"pilotlight/router"
)

// Make says what should become of every backend. It is pure: the same input gives the same plan, whatever the order of models, backends and nodes.
//
// For each model it asks first what people have said (Rules), then the policy, which of its backends should be on their GPUs. What need not be is kept
// in the host's memory for as long as that costs less than the longer wakes it spares. Then each node is made to fit its memory.
func Make(in *Input) Plan {
	p := &plan{in: in, Plan: Plan{Made: in.Now, DryRun: in.DryRun, ColdStart: in.Prices.ColdStart}}
	models := slices.Clone(in.Models)
	slices.SortFunc(models, func(a, b Model) int { return cmp.Compare(a.Name, b.Name) })
	for i := range models {
		p.model(&models[i])
	}
	return p.Plan
}

// plan is a Plan in the making.
type plan struct {
	Plan
	in *Input
}

// again says that the plan must be made anew by then.
func (p *plan) again(at time.Time) {
	if at.After(p.in.Now) {
		p.Next = sooner(p.Next, at)
	}
}

// wish is how many backends of a model should be on their GPUs, and why.
type wish struct {
	awake int
	rule  Rule
	why   string
	ahead bool // it is the policy's wish, not people's
}

// model plans the backends of one model.
func (p *plan) model(m *Model) {
	backends := slices.Clone(m.Backends)
	slices.SortFunc(backends, m.preferred)
	w := p.wish(m)
	for i := range backends {
		b := &backends[i]
		p.Items = append(p.Items, p.item(m, b, w, i < w.awake))
	}
	slices.SortFunc(p.Items[len(p.Items)-len(backends):], func(a, b Item) int { return cmp.Compare(a.Backend, b.Backend) })
}

// preferred orders backends of one model by which should be awake first.
func (m *Model) preferred(a, b Backend) int {
	pinned := func(b Backend) int {
		if m.Rules.Pin == "" || b.Node == m.Rules.Pin {
			return 0
		}
		return 1
	}
	return cmp.Or(
		cmp.Compare(pinned(a), pinned(b)),
		-cmp.Compare(a.Tier, b.Tier),
		cmp.Compare(a.Wake[a.Tier], b.Wake[b.Tier]),
		cmp.Compare(a.ID, b.ID),
	)
}

// item is what should become of one backend.
func (p *plan) item(m *Model, b *Backend, w wish, awake bool) Item {
	it := Item{
		Model: m.Name, Backend: b.ID, Node: b.Node, Now: b.Tier, Want: b.Tier, Chance: m.Decision.Chance, Next: m.Decision.Next,
		Rule: w.rule, Why: w.why,
	}
	switch {
	case b.Moving:
		it.Rule, it.Why = RuleMoving, "it is on its way"
	case awake:
		it.Want = router.OnGPU
	case b.Tier == router.OnGPU && m.Busy:
		it.Rule, it.Why = RuleBusy, "requests are in flight"
	case b.Tier == router.OnGPU && b.CannotSleep:
		it.Rule, it.Why = RuleFixed, "nobody can take it off its GPU"
	case b.Tier == router.OnGPU && b.Host > 0:
		it.Want = router.OnHost
	case b.Tier == router.OnGPU && !b.CannotStop:
		it.Want = router.OnDisk
	}
	if it.Want != it.Now {
		it.At, it.Ahead = p.in.Now, it.Want == router.OnGPU && w.ahead
	}
	return it
}

// wish asks people's rules, then the policy.
func (p *plan) wish(m *Model) wish {
	r := &m.Rules
	awake := 0
	for _, b := range m.Backends {
		if b.Tier == router.OnGPU {
			awake++
		}
	}
	w := p.demand(m)
	switch {
	case r.NeverSleep && awake >= w.awake:
		w = wish{awake: max(1, awake), rule: RuleNeverSleep, why: "never_sleep"}
	case w.awake < r.Min:
		w = wish{awake: r.Min, rule: RuleMin, why: fmt.Sprintf("min: %d", r.Min)}
	}
	if r.Max > 0 && w.awake > r.Max {
		w.awake, w.rule, w.why = r.Max, RuleMax, fmt.Sprintf("max: %d", r.Max)
	}
	return w
}

// demand is what is wished beyond min and never_sleep.
func (p *plan) demand(m *Model) wish {
	now, d := p.in.Now, m.Decision
	if m.Busy || m.Waiting > 0 {
		return wish{awake: 1, rule: RuleBusy, why: "requests are in flight or wait"}
	}
	window, opens, change := m.Rules.window(now)
	p.again(change)
	if window != nil && window.Asleep {
		return wish{rule: RuleSchedule, why: fmt.Sprintf("asleep by schedule %s until %s", window.Name, change.Format(time.DateTime))}
	}
	if window != nil {
		return wish{awake: 1, rule: RuleSchedule, why: fmt.Sprintf("awake by schedule %s", window.Name)}
	}
	if ahead := opens.Add(-m.soonest()); !opens.IsZero() {
		p.again(ahead)
		if !now.Before(ahead) {
			return wish{awake: 1, rule: RuleSchedule, why: fmt.Sprintf("a schedule begins at %s", opens.Format(time.DateTime))}
		}
	}
	if m.Rules.IdleTime > 0 {
		return p.fixed(m)
	}
	p.again(d.Until)
	if d.Warm {
		return wish{awake: 1, rule: RuleForecast, why: d.Why, ahead: true}
	}
	return wish{rule: RuleForecast, why: d.Why}
}

// fixed keeps a model awake for its idle time.
func (p *plan) fixed(m *Model) wish {
	until := m.Idle.Add(m.Rules.IdleTime)
	if m.Idle.IsZero() || !p.in.Now.Before(until) {
		return wish{rule: RuleIdleTime, why: fmt.Sprintf("idle for %s", m.Rules.IdleTime)}
	}
	p.again(until)
	awake := 0
	for _, b := range m.Backends {
		if b.Tier == router.OnGPU {
			awake = 1
		}
	}
	return wish{awake: awake, rule: RuleIdleTime, why: fmt.Sprintf("idle_time %s, until %s", m.Rules.IdleTime, until.Format(time.TimeOnly))}
}

// soonest is how long the quickest wake of any of the model's backends takes.
func (m *Model) soonest() (wake time.Duration) {
	for i, b := range m.Backends {
		if is := b.Wake[b.Tier]; i == 0 || is < wake {
			wake = is
		}
	}
	return wake
}
