package simulate

import (
	"cmp"
	"errors"
	"fmt"
	"iter"
	"math"
	"slices"
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

// Rows is how many uses there are.
func (d *Demand) Rows() int { return len(d.uses) }

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
