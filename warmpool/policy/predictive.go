package policy

import (
	"math"
	"time"

	"pilotlight/warmpool/forecast"
)

// What the decisions of predictive rest on beside the forecast.
const (
	shortSleep = time.Minute      // a sleep should last for so much longer than the load after it
	loadPart   = 0.6              // of its load time must be won before a model is woken ahead, since most stay awake for more than a minute
	mostAhead  = 40               // minutes that are looked at
	relook     = 10 * time.Minute // while nothing is learned
	knownFor   = 48 * time.Hour   // before rates are known well enough for alpha
)

// predictive keeps a model for as long as the chance of an arrival is worth it, by the learned forecast, and wakes it so that its load ends in time.
//
// A minute of idle memory is well spent if chance × K > 1 minute, where K is what a cold start is worth. As each wake takes a load, which is
// idle memory too, a model sleeps only if by the time that it would be woken again more is saved than the load and a minute, and is woken only if more is won. Where
// nothing is learned yet it is kept for K, which never costs more than twice what whoever knew the future would have paid.
type predictive struct {
	k        time.Duration
	alpha    float64
	forecast *forecast.Forecast
	usual    float64 // the median model's rate; 0: not known
	regrets  map[string]*regret
}

func newPredictive(s *settings) Policy {
	return &predictive{k: s.duration("k"), alpha: s.number("alpha", 0, 1), forecast: forecast.New(), regrets: map[string]*regret{}}
}

// Predictive is the policy predictive with a forecast that exists, such as one that was saved.
func Predictive(k time.Duration, alpha float64, f *forecast.Forecast) Policy {
	return &predictive{k: k, alpha: alpha, forecast: f, regrets: map[string]*regret{}}
}

func (p *predictive) Arrived(model string, at time.Time, requests int) {
	p.forecast.Arrived(model, at, requests)
	if r := p.regrets[model]; r != nil {
		r.arrived(at)
	}
}

func (p *predictive) Ended(model string, at time.Time) { p.forecast.Ended(model, at) }

func (p *predictive) Day(now time.Time) {
	p.forecast.Refit(now)
	if p.alpha > 0 {
		p.usual = p.forecast.UsualRate(now)
	}
}

func (p *predictive) Decide(q Question) Decision {
	if q.Idle.IsZero() {
		return Decision{Chance: -1, Why: "it was never used"}
	}
	k := p.worth(q)
	first := q.Now
	if !q.Warm {
		first = first.Add(q.Load)
	}
	chance, learned := p.forecast.Minute(q.Model, first, k)
	if !learned {
		d := fixed{k}.Decide(q)
		if later := q.Now.Add(relook); d.Until.IsZero() || d.Until.After(later) {
			d.Until = later // by then it may know better
		}
		return d
	}
	d := Decision{Chance: chance}
	if q.Warm {
		var minutes int64
		if d.Warm, minutes = p.stays(q, k, chance); d.Warm {
			d.Until = q.begins(minutes)
		}
	} else if d.Warm = p.wakes(q, k, chance); d.Warm {
		d.Until, d.Next = first, first
	}
	regretted := false
	if !q.Trial {
		regretted = p.regret(q.Model).decide(&q, d.Warm, k)
		d.Warm = d.Warm && !regretted
	}
	if !d.Warm {
		for d.Until = q.begins(1).Add(-q.Load); !d.Until.After(q.Now); d.Until = d.Until.Add(time.Minute) {
		}
	}
	if !q.Brief {
		d.Why = p.forecast.Why(q.Model, first)
		if regretted {
			d.Why = "its last wakes ahead were for nothing; " + d.Why
		}
	}
	return d
}

// regret is that of a model.
func (p *predictive) regret(model string) *regret {
	if p.regrets[model] == nil {
		p.regrets[model] = &regret{}
	}
	return p.regrets[model]
}

// worth is how long this model's idle memory may be held for one cold start, in whole seconds.
func (p *predictive) worth(q Question) time.Duration {
	k := p.k
	if q.K > 0 {
		k = q.K
	}
	if p.alpha == 0 || p.usual == 0 || q.Now.Sub(p.forecast.Known(q.Model)) < knownFor {
		return k
	}
	times := math.Pow(p.usual/p.forecast.Rate(q.Model, q.Now), p.alpha)
	return time.Duration(min(float64(k)*times, float64(365*day))).Round(time.Second)
}

// begins is when a minute of idle time begins next, the one after that for 2, and so on. They begin a little early, so that what comes exactly every so many
// minutes comes within one.
func (q Question) begins(n int64) time.Time {
	const early = forecast.Slack
	passed := int64((q.Now.Sub(q.Idle) + early) / time.Minute)
	return q.Idle.Add(time.Duration(passed+n)*time.Minute - early)
}

// stays says whether to keep it awake, and for how many minutes, where chance is that of the minute that begins now.
func (p *predictive) stays(q Question, k time.Duration, chance float64) (stays bool, minutes int64) {
	saved, most := 0.0, (q.Load + shortSleep).Minutes()
	for i := range int64(mostAhead) {
		if i > 0 {
			chance, _ = p.forecast.Minute(q.Model, q.begins(i), k)
		}
		switch saved += 1 - chance*k.Minutes(); {
		case saved > most:
			return false, 0
		case saved < 0:
			return true, i + 1
		}
	}
	return false, 0
}

// wakes says whether to begin its load now, where chance is that of the minute that begins when it ends.
func (p *predictive) wakes(q Question, k time.Duration, chance float64) bool {
	won, least, learned := 0.0, loadPart*q.Load.Minutes(), true
	for i := range mostAhead {
		if i > 0 {
			chance, learned = p.forecast.Minute(q.Model, q.Now.Add(q.Load+time.Duration(i)*time.Minute), k)
		}
		switch won += chance*k.Minutes() - 1; {
		case !learned, won < 0:
			return false
		case won > least:
			return true
		}
	}
	return false
}
