package advise

import (
	"fmt"
	"iter"
	"math/rand/v2"
	"slices"
	"time"

	"pilotlight/config"
)

// Model is a model and its demand.
type Model struct {
	Name  string
	Uses  []Use         // in the order of time
	Slots int           // of a replica
	GPUs  int           // of a replica
	Idle  time.Duration // how long a replica is kept awake after its last request
	Load  time.Duration // how long a cold start takes
}

// Options are the same for all models.
type Options struct {
	Length time.Duration // of the recording
	Prices *config.Prices
	GPU    string // whose price counts
	// Wait is what a second is worth in which requests wait for a cold start, by however many. 0: nothing.
	Wait float64
	// First says how long a policy would have kept a model's first replica awake without use; it gets the times of use, in order. If nil, it stays for the model's
	// Idle after each, as those above it do in any case.
	First func(m *Model, uses iter.Seq2[time.Duration, time.Duration]) (Kept, error)
}

// Kept is what a policy makes of a replica, beside its uses.
type Kept struct {
	Idle, Loads time.Duration
	Starts      int64 // that somebody waited for
}

// Way is a way to have a model.
type Way string

// The ways.
const (
	AlwaysOn   Way = "always on"
	Sleeping   Way = "scaled to zero"
	Serverless Way = "serverless"
)

// Advice is what a model's demand would cost, over the whole recording, and what is best.
type Advice struct {
	Model    string `json:"model"`
	Requests int64  `json:"requests"`
	Replicas int    `json:"replicas"` // at its peak

	Use        float64 `json:"use"`         // of the time of all replicas that were always on, how much they would be in use
	AlwaysOn   float64 `json:"always_on"`   // all of them
	Sleeping   float64 `json:"sleeping"`    // each sleeps when it was idle for long enough, and costs nothing then; -1: there is no such price
	Serverless float64 `json:"serverless"`  // -1: there is no such price
	ColdStarts int64   `json:"cold_starts"` // of those that sleep
	ColdThere  int64   `json:"cold_starts_serverless"`

	Best Way `json:"best"` // of the three, for the replicas that are not kept on
	Keep int `json:"keep"` // replicas that are cheaper always on; the others had better be Best
	// Mixed is what that costs. Saving is of it against always on, from 0 to 1; it is certain to nine in ten between Low and High, as far as days differ.
	Mixed  float64 `json:"mixed"`
	Saving float64 `json:"saving"`
	Low    float64 `json:"saving_low"`
	High   float64 `json:"saving_high"`

	points       []Point
	daily, spent []float64 // always on and Mixed, by the day
}

// Point is one replica: how much of the time it is in use, and what the best of those that scale to zero costs of what always on does.
type Point struct{ Use, Sleeping, Serverless float64 }

// prices are those of a replica.
type prices struct {
	on, paid, there float64 // a second: always on, on demand, serverless; 0: not to be had
	server          config.Serverless
}

func (o *Options) prices(gpus int) (p prices, err error) {
	gpu, known := o.Prices.Of(o.GPU)
	if !known {
		return p, fmt.Errorf("the prices know no GPU %q, and no default", o.GPU)
	}
	p.on = float64(gpu.AlwaysOn()) * float64(gpus) / 3600
	p.paid = float64(gpu.OnDemand) * float64(gpus) / 3600
	if s := o.Prices.Serverless; s != nil {
		p.server, p.there = *s, s.PerSecond(gpus)
	}
	return p, nil
}

// Advise counts what a model costs.
func Advise(m Model, o Options) (Advice, error) {
	p, err := o.prices(m.GPUs)
	if err != nil {
		return Advice{}, err
	}
	a := Advice{Model: m.Name, Sleeping: -1, Serverless: -1}
	for _, u := range m.Uses {
		a.Requests += u.Requests
	}
	levels := replicas(changes(m.Uses, m.shortest(p)), m.Slots, o.Length)
	a.Replicas = len(levels)
	if err := a.fill(levels, m, o, p); err != nil {
		return a, err
	}
	a.Saving = saving(a.daily, a.spent)
	a.Low, a.High = bootstrap(a.daily, a.spent)
	return a, nil
}

// shortest is the shortest time for which an idle replica is kept.
func (m *Model) shortest(p prices) time.Duration {
	if p.there > 0 {
		return min(m.Idle, p.server.Window.Std())
	}
	return m.Idle
}

// cost is money, by the day.
func cost(t *tally, perSecond, perCold float64) (all float64, daily []float64) {
	for _, d := range t.daily {
		daily = append(daily, d.Seconds()*perSecond+perCold*float64(t.cold)/float64(len(t.daily)))
	}
	return sum(daily), daily
}

func sum(all []float64) (s float64) {
	for _, x := range all {
		s += x
	}
	return s
}

// fill counts each replica in each way.
func (a *Advice) fill(levels [][]span, m Model, o Options, p prices) error {
	inUse, days := time.Duration(0), int((o.Length+day-1)/day)
	on := o.Length.Seconds() * p.on
	sleep, there := make([][]float64, len(levels)), make([][]float64, len(levels))
	sleeping, serverless := newTally(o.Length), newTally(o.Length)
	for i, uses := range levels {
		busy := time.Duration(0)
		for _, u := range uses {
			busy += u.end - u.begin
		}
		inUse += busy
		point := Point{Use: busy.Seconds() / o.Length.Seconds(), Sleeping: -1, Serverless: -1}
		if p.paid > 0 {
			t, err := o.sleeps(i, &m, uses)
			if err != nil {
				return fmt.Errorf("%s: %w", m.Name, err)
			}
			sleeping.add(&t)
			var c float64
			c, sleep[i] = cost(&t, p.paid, o.Wait*m.Load.Seconds())
			point.Sleeping = c / on
		}
		if p.there > 0 {
			t := terms{keep: p.server.Window.Std(), load: m.Load, round: p.server.Round.Std()}.count(uses, o.Length)
			serverless.add(&t)
			var c float64
			c, there[i] = cost(&t, p.there, o.Wait*m.Load.Seconds())
			point.Serverless = c / on
		}
		a.points = append(a.points, point)
	}
	a.Use = inUse.Seconds() / (o.Length.Seconds() * float64(max(1, len(levels))))
	a.AlwaysOn = on * float64(len(levels))
	a.daily, a.spent = make([]float64, days), make([]float64, days)
	for d := range days {
		a.daily[d] = min(day, o.Length-time.Duration(d)*day).Seconds() * p.on * float64(len(levels))
	}
	if p.paid > 0 {
		a.Sleeping, a.ColdStarts = sum(slices.Concat(sleep...)), sleeping.cold
	}
	if p.there > 0 {
		a.Serverless, a.ColdThere = sum(slices.Concat(there...)), serverless.cold
	}
	a.choose(sleep, there, on)
	return nil
}

// sleeps is what a model's i-th replica is paid for where it sleeps when it is idle.
func (o *Options) sleeps(i int, m *Model, uses []span) (tally, error) {
	if o.First == nil || i > 0 {
		return terms{keep: m.Idle, load: m.Load}.count(uses, o.Length), nil
	}
	kept, err := o.First(m, func(yield func(begin, end time.Duration) bool) {
		for _, u := range uses {
			if !yield(u.begin, u.end) {
				return
			}
		}
	})
	if err != nil {
		return tally{}, err
	}
	t := terms{}.count(uses, o.Length)
	busy := t.paid
	t.cold, t.paid = kept.Starts, busy+kept.Idle+kept.Loads
	for d := range t.daily { // where in the time it was kept is not known: where it was used
		t.daily[d] = time.Duration(float64(t.daily[d]) / float64(busy) * float64(t.paid))
	}
	return t, nil
}

// choose takes the way that is cheapest once the first replicas are always on. A replica further up is in use less, so those that had better be on come first.
func (a *Advice) choose(sleep, there [][]float64, on float64) {
	a.Best, a.Keep, a.Mixed = AlwaysOn, len(sleep), a.AlwaysOn
	best := [][]float64(nil)
	for _, way := range []struct {
		name  Way
		daily [][]float64
		known bool
	}{{Sleeping, sleep, a.Sleeping >= 0}, {Serverless, there, a.Serverless >= 0}} {
		if !way.known {
			continue
		}
		others := 0.0 // of those from keep on
		for keep, daily := range slices.Backward(way.daily) {
			others += sum(daily)
			if c := float64(keep)*on + others; c < a.Mixed*(1-1e-9) {
				a.Mixed, a.Keep, a.Best, best = c, keep, way.name, way.daily
			}
		}
	}
	for d := range a.spent {
		if len(sleep) > 0 {
			a.spent[d] = a.daily[d] * float64(a.Keep) / float64(len(sleep))
		}
		for i := a.Keep; i < len(best); i++ {
			a.spent[d] += best[i][d]
		}
	}
}

func saving(on, spent []float64) float64 {
	if all := sum(on); all > 0 {
		return 1 - sum(spent)/all
	}
	return 0
}

// draws is how often days are drawn.
const draws = 2000

// bootstrap draws as many days as there were, again and again, and says between what nine in ten of the savings lie (Efron, 1979). Days of a week differ,
// and a recording of a few days knows little of that: less than a week says nothing of weekends.
func bootstrap(on, spent []float64) (low, high float64) {
	random := rand.New(rand.NewPCG(1, 1))
	all := make([]float64, draws)
	for i := range all {
		a, s := 0.0, 0.0
		for range on {
			d := random.IntN(len(on))
			a += on[d]
			s += spent[d]
		}
		if a > 0 {
			all[i] = 1 - s/a
		}
	}
	slices.Sort(all)
	return all[draws/20], all[draws-1-draws/20]
}

// Total is what several models come to together. Use is weighed by replicas, and Keep is of all.
func Total(all []Advice) Advice {
	var t Advice
	inUse := 0.0
	for i := range all {
		a := &all[i]
		t.Requests += a.Requests
		t.Replicas += a.Replicas
		t.AlwaysOn += a.AlwaysOn
		t.Sleeping += a.Sleeping
		t.Serverless += a.Serverless
		t.ColdStarts += a.ColdStarts
		t.ColdThere += a.ColdThere
		t.Mixed += a.Mixed
		t.Keep += a.Keep
		inUse += a.Use * float64(a.Replicas)
		if t.daily == nil {
			t.daily, t.spent = make([]float64, len(a.daily)), make([]float64, len(a.daily))
		}
		for d := range a.daily {
			t.daily[d] += a.daily[d]
			t.spent[d] += a.spent[d]
		}
	}
	if t.Replicas > 0 {
		t.Use = inUse / float64(t.Replicas)
		t.Saving = saving(t.daily, t.spent)
		t.Low, t.High = bootstrap(t.daily, t.spent)
	}
	return t
}
