package planner

import (
	"cmp"
	"math"
	"slices"
	"time"

	"pilotlight/router"
)

// What a price that follows a target begins with, and how far and how fast it goes.
const (
	firstPrice = 0.01 // of a second
	mostPrice  = 1e6
	enoughSeen = 100 // requests before their share tells anything
	mostStep   = 4   // times within an hour
)

func gib(bytes int64) float64 { return float64(bytes) / (1 << 30) }

// Worth is how long idle GPU memory may be held to spare a wait: K, by the prices. 0: they do not say.
func (p Prices) Worth(wait time.Duration, gpu int64, weight float64) time.Duration {
	hourly := p.GPU * gib(gpu)
	if p.ColdStart <= 0 || hourly <= 0 {
		return 0
	}
	return time.Duration(min(p.ColdStart*wait.Seconds()*cmp.Or(weight, 1)/hourly*float64(time.Hour), float64(365*24*time.Hour)))
}

// Follow is a price of waiting by which a target comes to be kept, from the one before and what requests have found since: where twice as many waited as
// should it doubles within an hour, where half as many did it halves.
func (t Target) Follow(before float64, seen Seen, passed time.Duration) float64 {
	if before <= 0 {
		before = firstPrice
	}
	if t.Share <= 0 || seen.Requests < enoughSeen {
		return before
	}
	ratio := min(max(float64(seen.Waited)/float64(seen.Requests)/t.Share, 1./mostStep), mostStep)
	return min(max(before*math.Pow(ratio, min(max(passed.Hours(), 0), 1)), 1/mostPrice), mostPrice)
}

// coldStart is what a second of waiting costs now.
func (in *Input) coldStart() float64 {
	if in.Prices.Target.Share <= 0 {
		return in.Prices.ColdStart
	}
	if in.Before == nil || in.Before.ColdStart <= 0 {
		return in.Prices.Target.Follow(in.Prices.ColdStart, Seen{}, 0)
	}
	return in.Prices.Target.Follow(in.Before.ColdStart, in.Seen, in.Now.Sub(in.Before.Made))
}

// usualRate is the median of the models' rates; 0 where Alpha does not need it.
func (in *Input) usualRate() float64 {
	if in.Prices.Alpha <= 0 {
		return 0
	}
	var rates []float64
	for i := range in.Models {
		if r := in.Models[i].Rate; r > 0 {
			rates = append(rates, r)
		}
	}
	if len(rates) == 0 {
		return 0
	}
	slices.Sort(rates)
	return rates[len(rates)/2]
}

// second is what one second of waiting for this model costs. Where no price is set it is 1, so that models still compare.
func (p *plan) second(m *Model) float64 {
	price := cmp.Or(p.ColdStart, 1) * cmp.Or(m.Rules.Weight, 1)
	if p.usual > 0 && m.Rate > 0 {
		price *= math.Pow(p.usual/m.Rate, p.in.Prices.Alpha)
	}
	return price
}

// knows says whether anything is known of when the model is asked for.
func (m *Model) knows() bool { return m.Chance != nil || m.Rate > 0 || m.Decision.Chance >= 0 }

// soon is how many times an hour the model is asked for, as far as is known for the next minutes.
func (m *Model) soon() float64 {
	switch {
	case m.Decision.Chance >= 0:
		return 60 * min(m.Decision.Chance, 1)
	case m.Chance != nil:
		return 6 * m.Chance(10*time.Minute)
	}
	return m.Rate
}

// hourly is that for the next hour, at most once: what comes later finds it awake.
func (m *Model) hourly() float64 {
	if m.Chance != nil {
		return m.Chance(time.Hour)
	}
	return 1 - math.Exp(-m.soon())
}

// worth is the money an hour that its being on its GPU is expected to spare, over where it would be else.
func (p *plan) worth(u *unit) float64 {
	from := u.b.Tier
	if from == router.OnGPU {
		from = u.b.rests()
	}
	return u.m.soon() * u.b.Wake[from].Seconds() * p.second(u.m)
}

// spares is the money an hour that the host's memory spares over the disk.
func (p *plan) spares(u *unit) float64 {
	return u.hourly(p) * max(0, u.b.Wake[router.OnDisk]-u.b.Wake[router.OnHost]).Seconds() * p.second(u.m)
}

// hourly asks a model's forecast once.
func (u *unit) hourly(p *plan) float64 {
	h, asked := p.hour[u.m]
	if !asked {
		h = u.m.hourly()
		p.hour[u.m] = h
	}
	return h
}

// keepCost is what an hour on its GPU costs.
func (p *plan) keepCost(b *Backend) float64 { return gib(b.GPU) * p.in.Prices.GPU }

// sleepCost is what an hour elsewhere is expected to cost: who comes waits, and the host's memory is held.
func (p *plan) sleepCost(u *unit) float64 {
	at := u.b.Tier
	if at == router.OnGPU {
		at = u.b.rests()
	}
	return u.hourly(p)*u.b.Wake[at].Seconds()*p.second(u.m) + gib(u.b.hosted(at))*p.in.Prices.Host
}
