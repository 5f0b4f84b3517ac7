package simulate

import (
	"slices"
	"time"

	"pilotlight/warmpool/policy"
)

// What holds loads back that nobody has asked for yet.
const (
	aheadGain = 1.5 // a model must be worth so much more than all that leave for it
	aheadAge  = 2   // and those must have been there for so many times their own load time

	aheadTurns = 5 // minutes after which a model is looked at again
)

// wakeAhead swaps in the models that are worth most, if those that leave for them are worth less.
func (w *pool) wakeAhead(now time.Duration) {
	if f, is := w.policy.(policy.Foresighted); !is || !f.Ahead() || len(w.line) > 0 {
		return
	}
	begun := 0
	for _, c := range w.candidates(now) {
		if begun == w.Ahead {
			return
		}
		victims, free := w.victims(c.size, now, func(r *resident) bool { return now >= r.loaded+aheadAge*w.Disk(r.size) })
		if free < c.size || c.worth*float64(c.size) <= aheadGain*w.lost(c, victims, now) {
			continue
		}
		if now >= w.From {
			w.ahead[c.tier]++
		}
		w.load(c.resident, victims, now)
		c.idle = c.end
		begun++
	}
}

// lost is what is lost when a model comes to its GPU and others leave: they go to the host's memory, and what is worth the least there goes to disk.
func (w *pool) lost(c valued, victims []valued, now time.Duration) (lost float64) {
	need := -w.host
	if c.tier == onHost {
		need -= c.size
	}
	var below []valued
	for _, v := range victims {
		lost += v.worth * float64(v.size)
		need += v.size
		below = append(below, valued{v.resident, w.worth(v.resident, now, onHost)})
	}
	if need <= 0 {
		return lost
	}
	for i := range w.models {
		if r := &w.models[i]; r.tier == onHost && r != c.resident {
			below = append(below, valued{r, w.worth(r, now, onHost)})
		}
	}
	slices.SortFunc(below, valued.compare)
	for _, v := range below {
		if need <= 0 {
			break
		}
		need -= v.size
		lost += v.worth * float64(v.size)
	}
	return lost
}

// candidates are those of the models whose turn it is that are worth the most where they are not, twice as many as may be loaded.
func (w *pool) candidates(now time.Duration) []valued {
	var all []valued
	for i := range w.models {
		r := &w.models[i]
		if r.tier == onGPU || !r.known || (now/time.Minute+time.Duration(i))%aheadTurns != 0 {
			continue
		}
		miss := w.Disk(r.size)
		if r.tier == onHost {
			miss = w.Wake(r.size)
		}
		if worth := w.policy.Worth(w.holding(r, now, onGPU, miss)); worth > 0 {
			all = append(all, valued{r, worth})
		}
	}
	slices.SortFunc(all, func(a, b valued) int { return b.compare(a) })
	return all[:min(len(all), 2*w.Ahead)]
}

// result adds up what was counted in a time.
func (w *pool) result(measured time.Duration) *PoolResult {
	r := w.counted
	if r.Requests > 0 {
		r.Delay = time.Duration(w.delay / float64(r.Requests) * float64(time.Second))
	}
	days := measured.Hours() / 24
	r.AheadDisk, r.AheadHost = float64(w.ahead[onDisk])/days, float64(w.ahead[onHost])/days
	return &r
}
