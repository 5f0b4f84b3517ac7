package meter

import (
	"cmp"
	"math"
	"slices"
	"time"
)

// Window is how long a backend kept its GPUs busy between two times: one interval of the driver's samples, summed over the GPUs.
type Window struct {
	From, To time.Time
	Busy     time.Duration // 0 or more; with several GPUs it may be more than To - From
}

// Share is what a request took of a window.
type Share struct {
	ID  uint64
	GPU time.Duration
}

// Split shares a window among the requests that were in flight in it, in the order in which they are given. Rest belongs to none of them: it is all of the
// window if nobody was in flight, else 0. The shares and rest add up to w.Busy.
// Known is until when the requests are known, w.To or later: what they did after the window tells how far they were in it.
func Split(w Window, requests []Request, weights Weights, known time.Time) (shares []Share, rest time.Duration) {
	did := make([]work, len(requests))
	for i := range requests {
		did[i] = requests[i].in(w, known, weights)
	}
	cost := weights.of(did)
	if sum(cost) <= 0 { // nobody is seen to do anything
		for i, d := range did {
			cost[i] = d.inFlight
		}
	}
	if sum(cost) <= 0 {
		return nil, w.Busy
	}
	for i, part := range Apportion(w.Busy, cost) {
		if did[i].inFlight > 0 {
			shares = append(shares, Share{ID: requests[i].ID, GPU: part})
		}
	}
	return shares, 0
}

// Apportion divides a whole in proportion to the weights, in nanoseconds, such that the parts add up to it: by largest remainder, the earlier of equals
// first. Weights are 0 or more; if all are 0 the first gets everything. Without weights there are no parts.
func Apportion(whole time.Duration, weights []float64) []time.Duration {
	if len(weights) == 0 {
		return nil
	}
	all := sum(weights)
	parts, missing := make([]time.Duration, len(weights)), whole
	left := make([]float64, len(weights))
	order := make([]int, len(weights))
	for i, w := range weights {
		order[i] = i
		if all <= 0 {
			continue
		}
		exact := float64(whole) * (w / all)
		floor := min(max(time.Duration(math.Floor(exact)), 0), missing)
		parts[i], left[i], missing = floor, exact-float64(floor), missing-floor
	}
	slices.SortStableFunc(order, func(a, b int) int { return cmp.Compare(left[b], left[a]) })
	each := missing / time.Duration(len(parts)) // 0, unless the whole is beyond what a float64 holds exactly
	for n, i := range order {
		parts[i] += each
		if time.Duration(n) < missing%time.Duration(len(parts)) {
			parts[i]++
		}
	}
	if all <= 0 {
		clear(parts)
		parts[0] = whole
	}
	return parts
}

func sum(xs []float64) (s float64) {
	for _, x := range xs {
		s += x
	}
	return s
}
