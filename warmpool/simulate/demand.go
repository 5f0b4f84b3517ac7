package simulate

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"iter"
	"math"
	"slices"
	"sync/atomic"
	"time"
)

// Use is one recorded use of a model: from an arrival until what it asked for has ended.
type Use struct {
	Model    string
	At       time.Duration // since the recording began
	Took     time.Duration
	Requests int64 // that arrive with it; at least 1
}

// Demand is recorded demand in the order of time.
type Demand struct {
	Models []string  // by their first use
	Began  time.Time // the recording; a made-up Monday, midnight UTC, where it does not say
	Length time.Duration

	uses []use
}

// use is Use with a number for its model.
type use struct {
	at, took time.Duration
	requests int64
	model    int32
}

// maxModels and maxUses bound what is held in memory: 32 bytes a use.
const (
	maxModels = 1_000_000
	maxUses   = 50_000_000
)

// NewDemand gathers uses, which may come in any order; those of the same time stay in theirs. The zero time is a recording that does not say when
// it began.
func NewDemand(began time.Time, all iter.Seq[Use]) (*Demand, error) {
	d := &Demand{Began: began}
	if began.IsZero() {
		d.Began = time.Date(2024, 1, 1, 0, 0, 0, 0, time.UTC)
	}
	numbers := map[string]int32{}
	for u := range all {
		n, known := numbers[u.Model]
		if !known {
			n = int32(len(d.Models))
			numbers[u.Model] = n
			d.Models = append(d.Models, u.Model)
		}
		if len(d.Models) > maxModels || len(d.uses) >= maxUses {
			return nil, fmt.Errorf("there are more than %d models or %d rows", maxModels, maxUses)
		}
		if u.At < 0 || u.Took < 0 || u.At > math.MaxInt64/4 || u.Took > math.MaxInt64/4 || u.Requests < 1 {
			return nil, fmt.Errorf("%s at %s for %s: neither may be negative, and there is a request at least", u.Model, u.At, u.Took)
		}
		d.uses = append(d.uses, use{u.At, u.Took, u.Requests, n})
		d.Length = max(d.Length, u.At+u.Took)
	}
	if len(d.uses) == 0 {
		return nil, errors.New("there is no demand in it")
	}
	slices.SortStableFunc(d.uses, func(a, b use) int { return cmp.Compare(a.at, b.at) })
	return d, nil
}

// each hands over all uses in order, unless ctx ends, and counts them.
func (d *Demand) each(ctx context.Context, handled *atomic.Int64, one func(use)) error {
	const often = 1 << 10
	for i, u := range d.uses {
		if i%often == 0 {
			if err := ctx.Err(); err != nil {
				return fmt.Errorf("the simulation was ended: %w", err)
			}
			if handled != nil {
				handled.Add(int64(min(often, len(d.uses)-i)))
			}
		}
		one(u)
	}
	return nil
}

// Uses are all of them, in the order of time.
func (d *Demand) Uses() iter.Seq[Use] {
	return func(yield func(Use) bool) {
		for _, u := range d.uses {
			if !yield(Use{Model: d.Models[u.model], At: u.at, Took: u.took, Requests: u.requests}) {
				return
			}
		}
	}
}

// Rows is how many uses there are.
func (d *Demand) Rows() int { return len(d.uses) }

// busy is for how long each model is busy from a time on.
func (d *Demand) busy(from time.Duration) []time.Duration {
	busy, end := make([]time.Duration, len(d.Models)), make([]time.Duration, len(d.Models))
	for _, u := range d.uses {
		begin := max(u.at, end[u.model], from)
		end[u.model] = max(end[u.model], u.at+u.took)
		busy[u.model] += max(0, end[u.model]-begin)
	}
	return busy
}

// Rarely is the demand for those models that are busy for less than a share of the time that begins with from.
func (d *Demand) Rarely(share float64, from time.Duration) (*Demand, error) {
	busy, most := d.busy(from), time.Duration(share*float64(d.Length-from))
	rarely, err := NewDemand(d.Began, func(yield func(Use) bool) {
		for _, u := range d.uses {
			if busy[u.model] < most && !yield(Use{d.Models[u.model], u.at, u.took, u.requests}) {
				return
			}
		}
	})
	if err != nil {
		return nil, fmt.Errorf("no model is busy for less than %.3g %% of the time: %w", 100*share, err)
	}
	rarely.Length = d.Length
	return rarely, nil
}

// Working is how much memory the models take that are busy, on average from a time on.
func (d *Demand) Working(size func(model string) int64, from time.Duration) int64 {
	sum := 0.0
	for i, busy := range d.busy(from) {
		sum += float64(size(d.Models[i])) * busy.Seconds()
	}
	return int64(sum / (d.Length - from).Seconds())
}

// arrivals are the times of each model's uses, in order: what a clairvoyant knows.
func (d *Demand) arrivals() map[string][]time.Duration {
	all := make(map[string][]time.Duration, len(d.Models))
	for _, u := range d.uses {
		name := d.Models[u.model]
		all[name] = append(all[name], u.at)
	}
	return all
}

// foresee is what a clairvoyant is told: the next arrival of a model at a time or after it.
func (d *Demand) foresee() func(model string, at time.Time) time.Time {
	all := d.arrivals()
	return func(model string, at time.Time) time.Time {
		times := all[model]
		i, _ := slices.BinarySearch(times, at.Sub(d.Began))
		if i == len(times) {
			return time.Time{}
		}
		return d.Began.Add(times[i])
	}
}
