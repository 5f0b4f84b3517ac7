package simulate

import (
	"container/heap"
	"context"
	"fmt"
	"sync/atomic"
	"time"

	"pilotlight/warmpool/policy"
)

// Options say how demand is replayed.
type Options struct {
	Load    time.Duration // how long a load takes
	Host    time.Duration // how long it takes for a model that was loaded before, and sleeps in the host's memory; 0: as long as Load
	From    time.Duration // what arrives earlier is learned from and not counted
	Prices  Prices
	Handled *atomic.Int64 // counts uses as they are handled, for whoever shows progress; nil: nobody does
}

// Prices are in any one unit of money.
type Prices struct {
	Wait float64 // of a second in which a load is waited for, by however many
	GPU  float64 // of an hour in which one model holds its GPU memory without work
}

// Run replays demand against one policy, which must be a new one. It ends early, with an error, when ctx does.
func Run(ctx context.Context, d *Demand, p policy.Policy, o Options) (*Result, error) {
	if o.From < 0 || o.From >= d.Length {
		return nil, fmt.Errorf("the recording is %s long: nothing is left to measure from %s on", d.Length, o.From)
	}
	if seer, is := p.(policy.Clairvoyant); is {
		seer.Foresee(d.foresee())
	}
	w := &world{Options: o, policy: p, began: d.Began, day: 24 * time.Hour, models: make([]model, len(d.Models))}
	for i, name := range d.Models {
		w.models[i] = model{name: name, place: -1, number: i}
	}
	err := d.each(ctx, o.Handled, func(u use) {
		w.until(u.at)
		w.arrive(&w.models[u.model], u)
	})
	return w.result(), err
}

// model is one model of the world.
type model struct {
	name   string
	number int
	known  bool // it was asked for before

	busy   bool
	end    time.Duration // of what is in flight, or was last
	warm   bool          // on its GPU, or on its way there
	loaded time.Duration // when its last load ended, or will
	idle   time.Duration // since when it is warm for nothing

	// Of the gap that it is in.
	idled, loads time.Duration

	due   time.Duration // its next end or decision
	place int           // in the agenda; -1: it is not in it

	tally
}

// tally is what is counted of a model.
type tally struct {
	requests, cold int64
	starts         int64 // cold ones
	waited         time.Duration
	delay          float64 // seconds, of all requests
	idled, loads   time.Duration
}

// world is demand and a policy in virtual time.
type world struct {
	Options
	policy policy.Policy
	began  time.Time
	day    time.Duration // the next end of a day
	models []model
	agenda agenda
}

// until lets pass all that is due before a time.
func (w *world) until(at time.Duration) {
	for len(w.agenda) > 0 && w.agenda[0].due < at {
		m := w.agenda[0]
		w.days(m.due)
		if m.busy {
			m.busy, m.idle = false, m.end
			w.policy.Ended(m.name, w.began.Add(m.end))
		}
		w.decide(m, m.due)
	}
	w.days(at)
}

// days lets the policy learn from the days that have passed.
func (w *world) days(now time.Duration) {
	for ; w.day <= now; w.day += 24 * time.Hour {
		w.policy.Day(w.began.Add(w.day))
	}
}

// decide asks the policy about an idle model, and does what it says.
func (w *world) decide(m *model, now time.Duration) {
	load := w.load(m)
	d := w.policy.Decide(policy.Question{Model: m.name, Now: w.began.Add(now), Idle: w.began.Add(m.end), Warm: m.warm, Load: load, Brief: true})
	switch {
	case d.Warm && !m.warm:
		m.warm, m.loaded, m.idle = true, now+load, now+load
		m.loads += load
	case !d.Warm && m.warm:
		m.warm = false
		m.idled += max(0, now-m.idle)
	}
	next := d.Until.Sub(w.began)
	if d.Until.IsZero() || next <= now { // a policy that wants to be asked at once, again and again, is asked no more
		w.agenda.remove(m)
		return
	}
	w.agenda.at(m, next)
}

// load is how long the model's next load takes.
func (w *world) load(m *model) time.Duration {
	if m.known && w.Host > 0 {
		return w.Host
	}
	return w.Load
}

// arrive handles one use.
func (w *world) arrive(m *model, u use) {
	if !m.busy && m.known {
		w.gap(m, u.at)
	}
	cold := !m.warm || u.at < m.loaded
	started := u.at >= m.loaded // no load is under way
	load := w.load(m)
	if cold && started {
		m.loaded = u.at + load
	}
	if u.at >= w.From {
		m.requests += u.requests
		if cold {
			m.starts++
			m.cold += u.requests
			m.waited += m.loaded - u.at
			m.delay += (m.loaded - u.at).Seconds() * float64(u.requests)
		}
		if cold && started {
			m.tally.loads += load
		}
	}
	m.end = max(m.end, u.at+u.took)
	m.known, m.busy, m.warm = true, true, true
	w.policy.Arrived(m.name, w.began.Add(u.at), int(u.requests))
	w.agenda.at(m, m.end)
}

// gap ends the gap that the model was in, and counts what it cost.
func (w *world) gap(m *model, now time.Duration) {
	if m.warm {
		m.idled += max(0, now-m.idle)
	}
	if now >= w.From {
		m.tally.idled += m.idled
		m.tally.loads += m.loads
	}
	m.idled, m.loads = 0, 0
}

// agenda is a heap of models by when something is due.
type agenda []*model

// at puts a model where it belongs.
func (a *agenda) at(m *model, due time.Duration) {
	m.due = due
	if m.place < 0 {
		heap.Push(a, m)
		return
	}
	heap.Fix(a, m.place)
}

func (a *agenda) remove(m *model) {
	if m.place >= 0 {
		heap.Remove(a, m.place)
		m.place = -1
	}
}

func (a agenda) Len() int { return len(a) }

func (a agenda) Less(i, j int) bool {
	if a[i].due != a[j].due {
		return a[i].due < a[j].due
	}
	return a[i].number < a[j].number
}

func (a agenda) Swap(i, j int) {
	a[i], a[j] = a[j], a[i]
	a[i].place, a[j].place = i, j
}

func (a *agenda) Push(x any) {
	m := x.(*model)
	m.place = len(*a)
	*a = append(*a, m)
}

func (a *agenda) Pop() any {
	last := (*a)[len(*a)-1]
	*a = (*a)[:len(*a)-1]
	last.place = -1
	return last
}
