package simulate

import (
	"math"
	"slices"
	"time"
)

// Result is what a policy would have cost.
type Result struct {
	Requests  int64
	Cold      int64   // of them, those that waited for a load
	Starts    int64   // cold starts: rows whose requests waited
	Models    int     // that were asked for in the time that counts
	P50       float64 // per cent of its requests that are cold, of the median model
	P75       float64
	P90       float64
	Delay     time.Duration // that a request waited, on average over all
	Idle      time.Duration // that models were warm for nothing
	Loads     time.Duration // that loads took, whoever waited
	MoneyGPU  float64
	MoneyWait float64
}

// Waste is memory that was held without work.
func (r *Result) Waste() time.Duration { return r.Idle + r.Loads }

// Money is what it cost in all.
func (r *Result) Money() float64 { return r.MoneyGPU + r.MoneyWait }

// ColdPercent is the share of requests that waited for a load.
func (r *Result) ColdPercent() float64 { return percent(r.Cold, r.Requests) }

func percent(part, whole int64) float64 {
	if whole == 0 {
		return 0
	}
	return 100 * float64(part) / float64(whole)
}

// result adds up what was counted.
func (w *world) result() *Result {
	r := &Result{}
	var shares []float64
	var delay, waited float64
	for i := range w.models {
		t := &w.models[i].tally
		if t.requests == 0 {
			continue
		}
		r.Models++
		r.Requests += t.requests
		r.Cold += t.cold
		r.Starts += t.starts
		r.Idle += t.idled
		r.Loads += t.loads
		delay += t.delay
		waited += t.waited.Seconds()
		shares = append(shares, percent(t.cold, t.requests))
	}
	slices.Sort(shares)
	r.P50, r.P75, r.P90 = quantile(shares, 0.5), quantile(shares, 0.75), quantile(shares, 0.9)
	if r.Requests > 0 {
		r.Delay = time.Duration(delay / float64(r.Requests) * float64(time.Second))
	}
	r.MoneyGPU = r.Waste().Hours() * w.Prices.GPU
	r.MoneyWait = waited * w.Prices.Wait
	return r
}

// quantile is that of sorted values, with what lies between two of them by how near each is.
func quantile(sorted []float64, q float64) float64 {
	if len(sorted) == 0 {
		return 0
	}
	at := q * float64(len(sorted)-1)
	low := int(math.Floor(at))
	high := min(low+1, len(sorted)-1)
	return sorted[low] + (at-float64(low))*(sorted[high]-sorted[low])
}
