package nvml

import (
	"cmp"
	"slices"
	"time"
)

// sample is one entry of a driver's ring: for which share of the period that ends at a kernel ran.
type sample struct {
	at    uint64 // microseconds since 1970, by the driver's clock
	share float64
}

// ring follows the driver's ring of samples, so that each counts once. The zero ring has seen nothing.
type ring struct {
	newest uint64
	busy   float64
	ran    time.Duration
	heard  time.Time // when there was last something new
}

const (
	longest = uint64(time.Second / time.Microsecond) // period of a driver's samples; what a gap hides is not made up
	mute    = 2 * time.Second                        // without anything new, what was read last is old
	deaf    = 5 * time.Second                        // the same: has the clock been set back?
)

// quiet says that the ring has had nothing new for so long that it says nothing of now.
func (r *ring) quiet(now time.Time) bool { return now.Sub(r.heard) > mute }

// since is what to ask for: samples that are newer. After a long silence it is all, lest a clock that was set back silence
// the ring for as long.
func (r *ring) since(now time.Time) uint64 {
	if !r.heard.IsZero() && now.Sub(r.heard) > deaf {
		return 0
	}
	return r.newest
}

// add takes in what the driver answered at now. Busy is the share of the time since the samples before, or what it was where
// nothing is new; -1 before anything is known. Ran is for how long a kernel has run since the first call.
func (r *ring) add(samples []sample, now time.Time) (busy float64, ran time.Duration) {
	slices.SortFunc(samples, func(a, b sample) int { return cmp.Compare(a.at, b.at) })
	if len(samples) > 0 && now.Sub(r.heard) > deaf && samples[len(samples)-1].at < r.newest {
		r.newest = 0
	}
	if len(samples) > 0 && r.newest == 0 { // the beginning: of the past only the last sample counts
		last := samples[len(samples)-1]
		r.newest, r.busy, r.heard = last.at, last.share, now
		return r.busy, r.ran
	}
	var sum, over float64
	for _, s := range samples {
		if s.at <= r.newest {
			continue
		}
		period := float64(min(s.at-r.newest, longest))
		sum, over = sum+period*s.share, over+period
		r.newest = s.at
	}
	if over > 0 {
		r.busy, r.heard = sum/over, now
		r.ran += time.Duration(sum * float64(time.Microsecond))
	}
	if r.newest == 0 {
		return -1, r.ran
	}
	return r.busy, r.ran
}

// use is the share of a GPU's time that a process had when it was last seen.
type use struct {
	share float64
	at    time.Time
}

// now is that share at t. Who has not been seen at work for a second is idle: drivers list only who worked.
func (u use) now(t time.Time) float64 {
	if t.Sub(u.at) > time.Second {
		return 0
	}
	return u.share
}
