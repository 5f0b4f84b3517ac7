package policy

import (
	"math"
	"time"
)

// regretTime is how long it takes until a third is left of what wakes ahead have cost for nothing.
const regretTime = 3 * day

// regret is what wakes ahead of one model have cost beyond what they saved. Forecasts of a small fleet have little to learn from, and may be wrong for
// long: what they cost a model is bounded by this.
type regret struct {
	woken time.Time     // when it was last woken ahead, and neither asked for nor let sleep since; zero: it was not
	ready time.Time     // when that was to be done
	worth time.Duration // of a cold start
	debt  time.Duration
	at    time.Time // when that was reckoned
}

// add reckons.
func (r *regret) add(more time.Duration, now time.Time) {
	if r.debt > 0 {
		r.debt = time.Duration(float64(r.debt) * math.Exp(-float64(now.Sub(r.at))/float64(regretTime)))
	}
	r.debt, r.at = max(0, r.debt+more), now
}

// arrived ends a wake ahead that was of use, or would have been, had it begun sooner.
func (r *regret) arrived(now time.Time) {
	if !r.woken.IsZero() && !now.Before(r.ready) {
		r.add(-r.worth, now)
	}
	r.woken = time.Time{}
}

// decide takes in what is about to be decided for an idle model, and says whether it is regretted: no wake ahead.
func (r *regret) decide(q *Question, warm bool, worth time.Duration) (no bool) {
	switch {
	case warm && !q.Warm:
		if r.add(0, q.Now); r.debt > worth {
			return true
		}
		r.woken, r.ready, r.worth = q.Now, q.Now.Add(q.Load), worth
	case !warm && !r.woken.IsZero():
		r.add(q.Now.Sub(r.woken), q.Now)
		r.woken = time.Time{}
	}
	return false
}
