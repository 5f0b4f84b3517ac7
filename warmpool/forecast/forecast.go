package forecast

import (
	"math"
	"slices"
	"time"
)

// The bounds of what is remembered.
const (
	maxModels   = 20000
	maxSessions = 1 << 20              // over all models
	leastKept   = 128                  // sessions of a model, whatever the others have
	mostKept    = 8192                 // sessions of a model
	remembered  = 21 * day * minute    // seconds of history
	firstRefit  = 60 * minute          // seconds after the first arrival
	laterRefit  = 24 * 60 * minute     // at the latest so long after the one before
	gone        = remembered + 86400*9 // a model that was not used for so long is forgotten
)

// Forecast learns when models are used. Times may be virtual, but must not go back by more than a little. It is not safe for concurrent use.
type Forecast struct {
	tracks   map[string]*track
	order    []*track // as they came
	moment   moment
	experts  [experts]expert
	all      guard // of all experts together
	sessions int
	fitted   int64 // when Refit was last called, seconds; 0: never
	next     int64 // when it is due, seconds; 0: nothing came yet
}

// New knows nothing.
func New() *Forecast {
	return &Forecast{tracks: map[string]*track{}, moment: moment{platform: &platform{}}}
}

// Arrived says that so many requests of a model came. While it is busy they only count as requests. It refits now and then while little is known, which
// takes less than a second.
func (f *Forecast) Arrived(model string, at time.Time, requests int) {
	now := at.Unix()
	t := f.tracks[model]
	if t == nil {
		if len(f.order) >= maxModels {
			return
		}
		t = &track{name: model}
		f.tracks[model], f.order = t, append(f.order, t)
	}
	if f.moment.born == 0 {
		f.moment.born, f.next = now/minute, now+firstRefit
	}
	if !t.busy {
		f.moment.platform.arrived(now)
	}
	t.arrived(now, requests)
	if now >= f.next {
		f.Refit(at)
	}
}

// Ended says that a model is idle again. One that was not busy stays as it was.
func (f *Forecast) Ended(model string, at time.Time) {
	t := f.tracks[model]
	if t == nil || !t.busy {
		return
	}
	now := max(at.Unix(), t.start)
	t.history = append(t.history, session{t.start, int32(min(now-t.start, math.MaxInt32)), int32(min(t.requests, math.MaxInt32))})
	if f.sessions++; f.sessions > maxSessions && len(t.history) > leastKept || len(t.history) > mostKept {
		n := len(t.history) / 8
		t.history = append(t.history[:0], t.history[n:]...)
		f.sessions -= n
	}
	t.ended(now)
}

// Minute is the chance that an idle model is asked for in the minute that begins at a time, if nobody asks before. Where what was learned did worse than
// a fixed time, for cold starts that are worth so much idle memory, or nothing was learned yet, it is the plain forecast, and learned is false.
// A model that is busy at that time, or was never used, has no chance: it is 0.
func (f *Forecast) Minute(model string, from time.Time, worth time.Duration) (chance float64, learned bool) {
	t := f.tracks[model]
	if t == nil || t.idle == 0 {
		return 0, false
	}
	at := max(from.Unix()+slack, t.idle)
	age := t.age(at)
	e := &f.experts[expertOf(age)]
	if !e.trained || !f.trusts(e, t, worth.Minutes()) {
		return plain(age), false
	}
	var r row
	f.moment.features(t, t.idle+age*minute, &r) // as those that were learned from
	return e.chance(&r), true
}

// trusts says whether an expert has done well of late: by what it has seen, or else all experts; and for this model. Where worth is 0 nothing depends on it.
func (f *Forecast) trusts(e *expert, t *track, worth float64) bool {
	if worth <= 0 {
		return true
	}
	g := &e.guard
	if g.arrivals < enough {
		g = &f.all
	}
	return g.arrivals >= enough && !g.fails(worth) && !t.guard.fails(worth)
}

// Chance is that of an arrival within a time from now, whatever it is forecast by. It looks at no more than 12 minutes of that time.
func (f *Forecast) Chance(model string, now time.Time, within time.Duration) float64 {
	none := 1.0
	steps := min(12, int64(math.Ceil(within.Minutes())))
	each := within / time.Duration(max(1, steps))
	for i := range steps {
		p, _ := f.Minute(model, now.Add(time.Duration(i)*each), 0)
		none *= math.Pow(1-p, each.Minutes())
	}
	return 1 - none
}

// Next is when a request is to be expected: the time until which one is as likely as not, within two days. Zero: none is.
func (f *Forecast) Next(model string, now time.Time) time.Time {
	none := 1.0
	for passed := time.Duration(0); passed < 48*time.Hour; {
		step := time.Minute
		if passed >= 3*time.Hour {
			step = 5 * time.Minute
		}
		p, _ := f.Minute(model, now.Add(passed), 0)
		if none *= math.Pow(1-p, step.Minutes()); none < 0.5 {
			return now.Add(passed + step/2)
		}
		passed += step
	}
	return time.Time{}
}

// Known is since when a model is known; zero: it is not.
func (f *Forecast) Known(model string) time.Time {
	t := f.tracks[model]
	if t == nil {
		return time.Time{}
	}
	return time.Unix(t.born*minute, 0)
}

// UsualRate is the median of all models' Rate; 0 where there is none.
func (f *Forecast) UsualRate(now time.Time) float64 {
	if len(f.order) == 0 {
		return 0
	}
	rates := make([]float64, len(f.order))
	for i, t := range f.order {
		rates[i] = t.rate(now.Unix() / minute)
	}
	slices.Sort(rates)
	return rates[len(rates)/2]
}

// Rate is how much a model is in use, in minutes per hour over about the last three days.
func (f *Forecast) Rate(model string, now time.Time) float64 {
	t := f.tracks[model]
	if t == nil {
		return 0
	}
	return t.rate(now.Unix() / minute)
}

func (t *track) rate(m int64) float64 {
	const i = 4
	half := halfLives[i]
	known := float64(max(60, m-t.born))
	return 60 * (t.rates[i]*math.Exp2(-float64(max(0, m-t.at))/half) + 0.1) / (half * math.Log2E * (1 - math.Exp2(-known/half)))
}

// Idle is since when a model is idle; zero where it is busy or was never used.
func (f *Forecast) Idle(model string) time.Time {
	t := f.tracks[model]
	if t == nil || t.busy || t.idle == 0 {
		return time.Time{}
	}
	return time.Unix(t.idle, 0)
}
