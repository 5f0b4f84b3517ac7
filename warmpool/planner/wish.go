package planner

import (
	"fmt"
	"time"

	"pilotlight/router"
)

// wish is how many backends of a model should be on their GPUs, and why.
type wish struct {
	awake int
	rule  Rule
	why   string
	ahead bool // the policy alone wishes it
}

// wish asks people's rules, then the policy.
func (p *plan) wish(m *Model) wish {
	r := &m.Rules
	w := p.demand(m)
	switch awake := m.awake(); {
	case r.NeverSleep && awake >= w.awake:
		w = wish{awake: max(1, awake), rule: RuleNeverSleep, why: "never_sleep"}
	case w.awake < r.Min || w.ahead && w.awake == r.Min:
		w = wish{awake: r.Min, rule: RuleMin, why: fmt.Sprintf("min: %d", r.Min)}
	}
	if r.Max > 0 && max(w.awake, m.awake()) > r.Max {
		w = wish{awake: r.Max, rule: RuleMax, why: fmt.Sprintf("max: %d", r.Max)}
	}
	return w
}

// awake is how many backends are on their GPUs, or on the way there.
func (m *Model) awake() (n int) {
	for i := range m.Backends {
		if m.Backends[i].Tier == router.OnGPU {
			n++
		}
	}
	return n
}

// demand is what is wished beyond min and never_sleep.
func (p *plan) demand(m *Model) wish {
	if m.Busy || m.Waiting > 0 {
		return wish{awake: 1, rule: RuleBusy, why: "requests are in flight or wait"}
	}
	if w, decided := p.schedule(m); decided {
		return w
	}
	if m.Rules.IdleTime > 0 {
		return p.fixed(m)
	}
	d := &m.Decision
	p.again(d.Until)
	if d.Warm {
		return wish{awake: 1, rule: RuleForecast, why: d.Why, ahead: true}
	}
	return wish{rule: RuleForecast, why: d.Why}
}

// schedule is what windows say, if they say anything now.
func (p *plan) schedule(m *Model) (w wish, decided bool) {
	window, opens, change := m.Rules.window(p.in.Now)
	p.again(change)
	if window != nil && window.Asleep {
		return wish{rule: RuleSchedule, why: fmt.Sprintf("asleep by schedule %s until %s", window.Name, change.Format(time.DateTime))}, true
	}
	if window != nil {
		return wish{awake: 1, rule: RuleSchedule, why: "awake by schedule " + window.Name}, true
	}
	if opens.IsZero() {
		return wish{}, false
	}
	ahead := opens.Add(-m.soonest())
	p.again(ahead)
	if p.in.Now.Before(ahead) {
		return wish{}, false
	}
	return wish{awake: 1, rule: RuleSchedule, why: "a schedule begins at " + opens.Format(time.DateTime)}, true
}

// fixed keeps a model awake for its idle time, and wakes nothing.
func (p *plan) fixed(m *Model) wish {
	until := m.Idle.Add(m.Rules.IdleTime)
	if m.Idle.IsZero() || !p.in.Now.Before(until) {
		return wish{rule: RuleIdleTime, why: fmt.Sprintf("idle for %s", m.Rules.IdleTime)}
	}
	p.again(until)
	return wish{
		awake: min(1, m.awake()), rule: RuleIdleTime, why: fmt.Sprintf("idle_time %s, until %s", m.Rules.IdleTime, until.Format(time.TimeOnly)),
	}
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
