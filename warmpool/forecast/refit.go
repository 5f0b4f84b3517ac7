package forecast

import (
	"math"
	"math/rand/v2"
	"sync"
	"time"
)

// How much one refit looks at, and how.
const (
	mostQuiet   = 15000            // minutes without an arrival, for each expert
	mostArrived = 10000            // minutes with one
	halfLife    = 7 * day * minute // seconds after which a minute counts half as much
	leastRows   = 60               // with fewer an expert learns nothing
	leastCame   = 30               // arrivals in any of the rows, likewise
)

// sample is one minute of the past, and what came of it.
type sample struct {
	row
	came   bool
	weight float64
}

// draw takes samples from history.
type draw struct {
	f       *Forecast
	now     int64
	quiet   [experts]float64 // the share of minutes without an arrival that is drawn
	arrived [experts]float64
	rng     *rand.Rand
	samples [experts][]sample
	came    int // of all samples
}

// Refit learns anew from history, and first sees how well what was learned before did since. Some hundred models take well under a second; for thousands the
// time grows by what it takes to walk through their history. The same history gives the same forecast.
func (f *Forecast) Refit(now time.Time) {
	at := now.Unix()
	f.forget(at)
	f.next = at + max(firstRefit, min(laterRefit, (at-f.moment.born*minute)/2))
	f.moment.platform.advance(at / minute)
	d := draw{f: f, now: at, rng: rand.New(rand.NewPCG(1, uint64(at)))}
	d.shares()
	for e := range f.experts {
		f.experts[e].guard.fade(at - f.fitted)
	}
	for _, t := range f.order {
		t.guard.fade(at - f.fitted)
		d.model(t)
	}
	f.prove()
	if d.came < leastCame {
		return
	}
	var learn sync.WaitGroup
	for e := range f.experts {
		learn.Go(func() { f.experts[e].learn(d.samples[e]) })
	}
	learn.Wait()
	f.fitted = at
}

// prove says which experts may be trusted: those that did no worse than the plain forecast would have. One that has seen too few arrivals is judged by what all
// have; as long as those are too few, nobody is.
func (f *Forecast) prove() {
	var all guard
	for e := range f.experts {
		all = all.plus(&f.experts[e].guard)
	}
	f.all = all
}

// forget lets go of history that is too old, and of models that were not used for long.
func (f *Forecast) forget(now int64) {
	kept := f.order[:0]
	f.sessions = 0
	for _, t := range f.order {
		if !t.busy && now-t.idle > gone {
			delete(f.tracks, t.name)
			continue
		}
		old := 0
		for old < len(t.history) && t.history[old].start < now-remembered {
			old++
		}
		t.history = append(t.history[:0], t.history[old:]...)
		f.sessions += len(t.history)
		kept = append(kept, t)
	}
	clear(f.order[len(kept):])
	f.order = kept
}

// shares counts all there is to draw from.
func (d *draw) shares() {
	var quiet, arrived [experts]float64
	for _, t := range d.f.order {
		for i, s := range t.history {
			idle := s.start + int64(s.lasted)
			to := d.now
			if i+1 < len(t.history) {
				to = t.history[i+1].start
				arrived[expertOf((to-idle+slack)/minute)]++
			} else if t.busy {
				continue
			}
			for e, from := 0, int64(0); e < experts; e++ {
				quiet[e] += float64(max(0, min((to-idle+slack)/minute, until(e))-from))
				from = until(e)
			}
		}
	}
	for e := range experts {
		d.quiet[e] = min(1, mostQuiet/max(1, quiet[e]))
		d.arrived[e] = min(1, mostArrived/max(1, arrived[e]))
		d.samples[e] = make([]sample, 0, int(1.05*(min(quiet[e], mostQuiet)+min(arrived[e], mostArrived)))+100)
	}
}

// model walks through the history of one model, as it was.
func (d *draw) model(is *track) {
	t := &track{name: is.name}
	for _, s := range is.history {
		if t.idle > 0 {
			d.idle(is, t, s.start, true)
		}
		t.arrived(s.start, int(s.requests))
		t.ended(s.start + int64(s.lasted))
	}
	if t.idle > 0 && !is.busy {
		d.idle(is, t, d.now, false)
	}
}

// idle draws from one idle time, that ends with an arrival or is still going on.
func (d *draw) idle(is, t *track, to int64, came bool) {
	last := (to - t.idle + slack) / minute
	for age := int64(0); age < last; age++ {
		e := expertOf(age)
		if share := d.quiet[e]; share < 1 {
			// As many minutes are passed over as would be if each were drawn by its share.
			age += int64(math.Log(1-d.rng.Float64()) / math.Log(1-share))
			if age >= min(last, until(e)) {
				age = min(last, until(e)) - 1
				continue
			}
		}
		d.take(is, t, age, false, 1/d.quiet[e])
	}
	if e := expertOf(last); came && d.rng.Float64() < d.arrived[e] {
		d.take(is, t, last, true, 1/d.arrived[e])
	}
}

// take draws one minute, which stands for so many.
func (d *draw) take(is, t *track, age int64, came bool, minutes float64) {
	e := expertOf(age)
	at := t.idle + age*minute
	d.samples[e] = append(d.samples[e], sample{came: came, weight: minutes * math.Exp2(-float64(d.now-at)/halfLife)})
	s := &d.samples[e][len(d.samples[e])-1]
	d.f.moment.features(t, at, &s.row)
	if came {
		d.came++
	}
	if expert := &d.f.experts[e]; expert.trained && at > d.f.fitted { // nobody has learned from it yet
		p := expert.chance(&s.row)
		expert.guard.add(p, age, came, minutes)
		is.guard.add(p, age, came, minutes)
	}
}
