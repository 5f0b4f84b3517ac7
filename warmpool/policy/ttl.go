package policy

import (
	"fmt"
	"math"
	"time"
)

// ttl gives each model the idle time that would have been the cheapest for its own gaps so far, if a cold start is worth so much idle memory: the
// least of Σ min(gap, ttl) + k·[gap > ttl] over a list of them. Old gaps fade; a few gaps of the average model stand in until it has enough of its own.
type ttl struct {
	k      time.Duration
	times  []time.Duration
	models map[string]*costs
	all    costs
}

const (
	ttlTimes  = 31    // how many idle times there are to choose from, from 30 s to 7 days
	ttlFade   = 0.985 // of what is known of a model, with each gap
	ttlPooled = 5     // gaps of the average model that each begins with
)

// costs are what gaps would have cost, for each idle time that there is.
type costs struct {
	of   [ttlTimes]float64 // seconds
	gaps float64

	end  time.Time // of the last request; zero: it is busy
	best time.Duration
}

func newTTL(s *settings) Policy {
	t := &ttl{k: s.duration("k"), models: map[string]*costs{}}
	const least, most = 30 * time.Second, 7 * day
	for i := range ttlTimes {
		grown := math.Pow(float64(most)/float64(least), float64(i)/(ttlTimes-1))
		t.times = append(t.times, time.Duration(float64(least)*grown))
	}
	return t
}

func (t *ttl) Arrived(model string, at time.Time, _ int) {
	m := t.models[model]
	if m == nil {
		m = &costs{}
		t.models[model] = m
	}
	if !m.end.IsZero() {
		m.add(at.Sub(m.end), t.k, t.times, ttlFade)
		t.all.add(at.Sub(m.end), t.k, t.times, 1)
		m.end = time.Time{}
	}
}

func (c *costs) add(gap, k time.Duration, times []time.Duration, fade float64) {
	for i, kept := range times {
		cost := min(gap, kept).Seconds()
		if gap > kept {
			cost += k.Seconds()
		}
		c.of[i] = c.of[i]*fade + cost
	}
	c.gaps = c.gaps*fade + 1
}

func (t *ttl) Ended(model string, at time.Time) {
	m := t.models[model]
	if m == nil {
		return
	}
	m.end, m.best = at, t.k
	if t.all.gaps == 0 {
		return // keeping it for as long as a cold start is worth is never worse than twice the best
	}
	least := math.Inf(1)
	for i, kept := range t.times {
		if cost := m.of[i] + ttlPooled*t.all.of[i]/t.all.gaps; cost < least {
			least, m.best = cost, kept
		}
	}
}

func (*ttl) Day(time.Time) {}

func (t *ttl) Decide(q Question) Decision {
	m := t.models[q.Model]
	if m == nil || q.Idle.IsZero() {
		return Decision{Chance: -1, Why: "it was never used"}
	}
	return within(q, 0, m.best, fmt.Sprintf("an idle time of %s was the cheapest so far", m.best.Round(time.Second)))
}
