package live

import (
	"cmp"
	"iter"
	"maps"
	"slices"
	"strings"
	"time"

	"pilotlight/warmpool/policy"
)

// Use is a recorded use of a model.
type Use struct {
	Model    string
	At       time.Duration // since the recording began
	Took     time.Duration
	Requests int64
}

// Teach lets the planner learn from recorded uses, in the order of time, of a recording that began then and is so long. It is called before the first step.
func (p *Planner) Teach(began time.Time, long time.Duration, uses iter.Seq[Use]) {
	p.mu.Lock()
	defer p.mu.Unlock()
	pupils := slices.Collect(maps.Values(p.policies))
	if pool := string(p.pool.Policy); pool != fixedForIdleTime && !strings.HasPrefix(pool, predictive) {
		if other, _, err := p.policyOf(pool, true); err == nil {
			pupils = append(pupils, other)
		}
	}
	t := teaching{pupils, began.Add(24 * time.Hour), map[string]time.Time{}}
	for u := range uses {
		at := began.Add(u.At)
		t.until(at)
		for _, pupil := range pupils {
			pupil.Arrived(u.Model, at, int(u.Requests))
		}
		if end := at.Add(u.Took); end.After(t.ends[u.Model]) {
			t.ends[u.Model] = end
		}
	}
	t.until(began.Add(long))
	p.day = t.day
}

type teaching struct {
	pupils []policy.Policy
	day    time.Time
	ends   map[string]time.Time // of what is in use
}

// until lets pass what ends before a time.
func (t *teaching) until(at time.Time) {
	type end struct {
		model string
		at    time.Time
	}
	var over []end
	for model, e := range t.ends {
		if e.Before(at) {
			over = append(over, end{model, e})
			delete(t.ends, model)
		}
	}
	slices.SortFunc(over, func(a, b end) int { return cmp.Or(a.at.Compare(b.at), cmp.Compare(a.model, b.model)) })
	for _, e := range over {
		t.days(e.at)
		for _, pupil := range t.pupils {
			pupil.Ended(e.model, e.at)
		}
	}
	t.days(at)
}

func (t *teaching) days(now time.Time) {
	for ; !now.Before(t.day); t.day = t.day.Add(24 * time.Hour) {
		for _, pupil := range t.pupils {
			pupil.Day(t.day)
		}
	}
}
