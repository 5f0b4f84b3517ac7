package planner

import (
	"testing"
	"time"

	"pilotlight/router"
)

// daily begins at an hour of every day, UTC.
type daily int

func (h daily) Next(after time.Time) time.Time {
	at := time.Date(after.Year(), after.Month(), after.Day(), int(h), 0, 0, 0, time.UTC)
	if !at.After(after) {
		at = at.AddDate(0, 0, 1)
	}
	return at
}

var (
	noon  = time.Date(2026, 11, 26, 12, 0, 0, 0, time.UTC)
	wakes = map[router.Tier]time.Duration{router.OnDisk: 30 * time.Second, router.OnHost: 2 * time.Second}
)

func one(tier router.Tier, change func(*Model)) *Input {
	m := Model{
		Name: "m", Idle: noon.Add(-10 * time.Minute), Decision: Decision{Chance: -1, Why: "unlikely"},
		Backends: []Backend{{ID: "m/0", Node: "n", Tier: tier, GPU: 8 << 30, Host: 8 << 30, Wake: wakes}},
	}
	change(&m)
	return &Input{Now: noon, Models: []Model{m}}
}

func TestRulesComeBeforeTheForecast(t *testing.T) {
	likely := Decision{Warm: true, Chance: 0.3, Why: "asked for at 12:00 on the last 5 days"}
	for name, c := range map[string]struct {
		tier   router.Tier
		change func(*Model)
		want   router.Tier
		rule   Rule
		next   time.Time
	}{
		"the policy lets it sleep": {router.OnGPU, func(*Model) {}, router.OnHost, RuleForecast, time.Time{}},
		"the policy wakes it":      {router.OnHost, func(m *Model) { m.Decision = likely }, router.OnGPU, RuleForecast, time.Time{}},
		"and is asked again":       {router.OnGPU, func(m *Model) { m.Decision = likely; m.Decision.Until = noon.Add(time.Minute) }, router.OnGPU, RuleForecast, noon.Add(time.Minute)},
		"min":                      {router.OnDisk, func(m *Model) { m.Rules.Min = 1 }, router.OnGPU, RuleMin, time.Time{}},
		"never_sleep":              {router.OnGPU, func(m *Model) { m.Rules.NeverSleep = true }, router.OnGPU, RuleNeverSleep, time.Time{}},
		"busy":                     {router.OnGPU, func(m *Model) { m.Busy = true }, router.OnGPU, RuleBusy, time.Time{}},
		"idle_time has not passed": {router.OnGPU, func(m *Model) { m.Rules.IdleTime = 15 * time.Minute }, router.OnGPU, RuleIdleTime, noon.Add(5 * time.Minute)},
		"idle_time has passed":     {router.OnGPU, func(m *Model) { m.Rules.IdleTime, m.Decision = 10*time.Minute, likely }, router.OnHost, RuleIdleTime, time.Time{}},
		"idle_time wakes nothing":  {router.OnHost, func(m *Model) { m.Rules.IdleTime = 15 * time.Minute }, router.OnHost, RuleIdleTime, noon.Add(5 * time.Minute)},
		"within a window":          {router.OnHost, func(m *Model) { m.Rules.Schedule = []Window{{"9-17", daily(9), 8 * time.Hour, false}} }, router.OnGPU, RuleSchedule, noon.Add(5 * time.Hour)},
		"a window opens later":     {router.OnHost, func(m *Model) { m.Rules.Schedule = []Window{{"13-14", daily(13), time.Hour, false}} }, router.OnHost, RuleForecast, noon.Add(time.Hour - 2*time.Second)},
		"quiet hours": {router.OnGPU, func(m *Model) {
			m.Rules.Schedule = []Window{{"quiet", daily(12), time.Hour, true}}
			m.Decision = likely
		}, router.OnHost, RuleSchedule, noon.Add(time.Hour)},
		"nobody can take it off":      {router.OnGPU, func(m *Model) { m.Backends[0].CannotSleep = true }, router.OnGPU, RuleFixed, time.Time{}},
		"what moves is left alone":    {router.OnGPU, func(m *Model) { m.Backends[0].Moving = true }, router.OnGPU, RuleMoving, time.Time{}},
		"what cannot sleep is halted": {router.OnGPU, func(m *Model) { m.Backends[0].Host = 0 }, router.OnDisk, RuleForecast, time.Time{}},
	} {
		t.Run(name, func(t *testing.T) {
			p := Make(one(c.tier, c.change))
			it := p.Items[0]
			if it.Want != c.want || it.Rule != c.rule || !p.Next.Equal(c.next) {
				t.Errorf("got %s by %s (%s), again at %s; want %s by %s, again at %s", it.Want, it.Rule, it.Why, p.Next, c.want, c.rule, c.next)
			}
			if it.Why == "" || it.At.IsZero() != (it.Want == it.Now) {
				t.Errorf("why %q, at %s", it.Why, it.At)
			}
		})
	}
}

func TestPinnedBackendsAreAwakeFirst(t *testing.T) {
	in := one(router.OnHost, func(m *Model) {
		m.Rules = Rules{Min: 1, Pin: "far"}
		m.Backends = append(m.Backends, Backend{ID: "m/1", Node: "far", Tier: router.OnDisk, Wake: wakes})
	})
	p := Make(in)
	if p.Items[0].Want != router.OnHost || p.Items[1].Want != router.OnGPU {
		t.Errorf("%+v", p.Items)
	}
}
