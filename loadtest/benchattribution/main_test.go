package main

import (
	"testing"
	"time"
)

// The goals are those of docs/gpu-time.md.
func TestSharesAreNearTheTruth(t *testing.T) {
	for _, c := range []struct {
		rate, most float64
		seeds      uint64
	}{{0.26, 2, 5}, {2, 5, 1}, {5, 8, 1}} {
		r := average(c.rate, 600*time.Second, 0, c.seeds)
		if r.Error > c.most {
			t.Errorf("at %v requests per second, %.0f %% busy, shares are %v %% off; at most %v %% is promised", c.rate, r.Busy, r.Error, c.most)
		}
		if r.InFlight >= 2 && (r.Equal < 2*r.Error || r.Tokens < 2*r.Error) {
			t.Errorf("with %v in flight shares are %v %% off, equal ones %v %%, those per token %v %%; half of either is promised", r.InFlight, r.Error, r.Equal, r.Tokens)
		}
		if r.Missing != 0 {
			t.Errorf("at %v requests per second %v ns are neither given out nor left", c.rate, r.Missing)
		}
	}
}

func TestTheTruthAddsUpToWhatTheGPUWasBusy(t *testing.T) {
	line := arrivals(5, time.Minute, rngOf(3))
	var busy time.Duration
	for _, s := range simulate(line) {
		busy += s.to.Sub(s.from)
	}
	truth := 0.0
	for _, q := range line {
		truth += q.truth
		if q.Ended.IsZero() || q.made != q.want {
			t.Fatalf("request %d has %d of %d tokens", q.ID, q.made, q.want)
		}
	}
	if off := truth - float64(busy); off > 1e3 || off < -1e3 {
		t.Errorf("the true shares add up to %.0f ns, the GPU was busy for %d ns", truth, busy)
	}
}
