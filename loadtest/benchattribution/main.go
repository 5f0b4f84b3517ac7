// Command benchattribution compares the GPU time that package meter gives each request with the true one, in virtual time, and prints one line of JSON.
//
//	go run ./loadtest/benchattribution [--seconds 600] [--seeds 5] [--way 50ms]
//
// The truth is that of modelsim: the Shapley values of the engine's steps. Beside meter stand the two rules that people use: equal shares for all who are in
// flight, and a price per token. Each rule divides the same windows, so that all of them give out the same sum.
package main

import (
	"encoding/json"
	"flag"
	"fmt"
	"math"
	"math/rand/v2"
	"os"
	"slices"
	"time"

	"pilotlight/probe/meter"
)

// every is how often NVML samples, and known how much later than its end a window is divided: what has happened by then helps.
const (
	every = time.Second / 6
	known = 3 * time.Second
)

// result is what one load showed. Errors are in percent, the means over requests, and all numbers the means over the seeds.
type result struct {
	Rate     float64 `json:"requests_per_second"`
	Requests float64 `json:"requests"`
	Busy     float64 `json:"busy_percent"`
	InFlight float64 `json:"in_flight"`
	Error    float64 `json:"error_percent"`
	P90      float64 `json:"error_p90_percent"`
	Equal    float64 `json:"equal_share_error_percent"`
	Tokens   float64 `json:"per_token_error_percent"`
	Rest     float64 `json:"unattributed_ns"`
	Missing  float64 `json:"missing_ns"` // measured, less what was given out and the rest: 0
}

func main() {
	seconds := flag.Int("seconds", 600, "how long requests come, in virtual time")
	seeds := flag.Uint64("seeds", 5, "how many times each load is simulated, with other arrivals each time")
	way := flag.Duration("way", 0, "how long what an edge says is on its way to the node, which takes it for what happens then")
	flag.Parse()
	if *seconds < 10 || *seeds < 1 {
		fmt.Fprintln(os.Stderr, "--seconds must be 10 or more, and --seeds 1 or more")
		os.Exit(2)
	}
	var results []result
	for _, rate := range []float64{0.26, 2, 5, 9} {
		results = append(results, average(rate, time.Duration(*seconds)*time.Second, *way, *seeds))
	}
	if err := json.NewEncoder(os.Stdout).Encode(map[string]any{"samples_per_second": 6, "seconds": *seconds, "seeds": *seeds, "way_ms": way.Milliseconds(), "loads": results}); err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
}

// average measures one load with every seed.
func average(rate float64, long, way time.Duration, seeds uint64) (mean result) {
	fields := func(r *result) []*float64 {
		return []*float64{&r.Rate, &r.Requests, &r.Busy, &r.InFlight, &r.Error, &r.P90, &r.Equal, &r.Tokens, &r.Rest, &r.Missing}
	}
	for seed := range seeds {
		one := measure(rate, long, way, seed+1)
		for i, f := range fields(&one) {
			*fields(&mean)[i] += *f / float64(seeds)
		}
	}
	for _, f := range fields(&mean) {
		*f = round(*f)
	}
	return mean
}

// measure simulates one load and divides it by each rule.
func measure(rate float64, long, way time.Duration, seed uint64) result {
	line := arrivals(rate, long, rngOf(seed))
	r := result{Rate: rate, Requests: float64(len(line))}
	ws := windows(simulate(line), every)
	for _, q := range line {
		q.delay(way)
	}
	ours, equal, tokens := make([]float64, len(line)), make([]float64, len(line)), make([]float64, len(line))
	var learner meter.Learner
	var busy, given time.Duration
	var inFlight float64
	for _, w := range ws {
		requests := during(line, w)
		shares, rest := meter.Split(w, requests, learner.Weights(), w.To.Add(known))
		learner.Learn(w, requests, w.To.Add(known))
		for _, s := range shares {
			ours[s.ID] += float64(s.GPU)
			given += s.GPU
		}
		add(equal, w, requests, func(q *meter.Request) float64 { return seconds(q, w) })
		add(tokens, w, requests, func(q *meter.Request) float64 { return count(q, w) })
		busy, r.Rest = busy+w.Busy, r.Rest+float64(rest)
		for i := range requests {
			inFlight += seconds(&requests[i], w)
		}
	}
	r.Missing = float64(busy-given) - r.Rest
	wall := float64(len(ws)) * every.Seconds()
	r.Busy, r.InFlight = 100*busy.Seconds()/wall, inFlight/wall
	r.Error, r.P90 = errors(line, ours)
	r.Equal, _ = errors(line, equal)
	r.Tokens, _ = errors(line, tokens)
	return r
}

// delay has all of it be told so much later than it happens.
func (q *sequence) delay(way time.Duration) {
	q.Began, q.First, q.Ended = q.Began.Add(way), q.First.Add(way), q.Ended.Add(way)
	for i := range q.Ticks {
		q.Ticks[i].At = q.Ticks[i].At.Add(way)
	}
}

// during is who was in flight in the window, as it was known when the window is divided.
func during(line []*sequence, w meter.Window) (requests []meter.Request) {
	seen := w.To.Add(known)
	for _, q := range line {
		if !q.Began.Before(w.To) {
			break
		}
		if !q.Ended.After(w.From) {
			continue
		}
		r := q.Request
		if r.First.After(seen) {
			r.First = time.Time{}
		}
		if r.Ended.After(seen) {
			r.Ended = time.Time{}
		}
		requests = append(requests, r)
	}
	return requests
}

// add divides a window by a rule.
func add(to []float64, w meter.Window, requests []meter.Request, rule func(*meter.Request) float64) {
	weights, sum := make([]float64, len(requests)), 0.0
	for _, rule := range []func(*meter.Request) float64{rule, func(q *meter.Request) float64 { return seconds(q, w) }} {
		if sum > 0 {
			break
		}
		for i := range requests {
			weights[i] = rule(&requests[i])
			sum += weights[i]
		}
	}
	for i, part := range meter.Apportion(w.Busy, weights) {
		to[requests[i].ID] += float64(part)
	}
}

// seconds is how long q was in flight within the window.
func seconds(q *meter.Request, w meter.Window) float64 { return share(w, q.Began, q.Ended) }

// share is how much of the window lies between the times, in seconds. A zero end is none yet.
func share(w meter.Window, from, to time.Time) float64 {
	if to.IsZero() || to.After(w.To) {
		to = w.To
	}
	if from.Before(w.From) {
		from = w.From
	}
	return max(to.Sub(from).Seconds(), 0)
}

// count is how many tokens of q, of prompt and answer alike, fall into the window.
func count(q *meter.Request, w meter.Window) (n float64) {
	first := q.First
	if first.IsZero() {
		first = w.To.Add(known)
	}
	n = float64(q.Prompt) * share(w, q.Began, first) / first.Sub(q.Began).Seconds()
	for _, t := range q.Ticks {
		if t.At.After(w.From) && !t.At.After(w.To) {
			n++
		}
	}
	return n
}

// errors are the mean and the 90th percentile of how far each request's time is from the true one, in percent of that.
func errors(line []*sequence, got []float64) (mean, p90 float64) {
	off := make([]float64, len(line))
	for i, q := range line {
		off[i] = 100 * math.Abs(got[i]-q.truth) / q.truth
		mean += off[i] / float64(len(line))
	}
	slices.Sort(off)
	return mean, off[len(off)*9/10]
}

func round(x float64) float64 { return math.Round(100*x) / 100 }

func rngOf(seed uint64) *rand.Rand { return rand.New(rand.NewPCG(seed, 1)) }
