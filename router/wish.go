package router

import "time"

// Wish is what the planner wants of one backend. Its keeper does it where it can, and forgets it when it is not fresh any more: a fleet whose
// planner is gone does as each keeper sees fit.
type Wish struct {
	Tier  Tier      // where it should be
	Made  time.Time // a request that came later than that goes before the wish
	Until time.Time // it counts until then
	Why   string
	Worth float64 // of its GPU memory: money per hour and GiB that is lost if it is not on its GPU. Those worth least make room first
}

// Fresh says whether the wish counts.
func (w Wish) Fresh(now time.Time) bool { return now.Before(w.Until) }
