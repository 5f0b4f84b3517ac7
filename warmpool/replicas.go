package warmpool

import (
	"cmp"
	"fmt"
	"slices"
	"time"

	"pilotlight/router"
)

// A model with several backends has as many ready as the load asks for. One more wakes when somebody has waited for as long as a wake
// takes, less the time in which nobody did: had it woken when the line began, it would be ready now. (An edge that sees a line which will take longer
// than a wake asks for one at once.) One fewer stays when the others would have been busy to no more than fewerShare of their
// slots for spare, or twice a wake if that is more, but no longer than the model's idle time. Both are far enough apart
// that a steady load does not make them alternate.
const (
	spare      = time.Minute
	fewerShare = 0.7
)

// load is how the load of a model has developed, looked at once per second while it is in use.
type load struct {
	at     time.Time     // when it was last looked at
	ready  int           // backends
	waits  bool          // somebody does
	waited time.Duration // for so long somebody has waited, less for how long nobody has
	fewer  time.Time     // since when one backend fewer would do; zero: it would not
}

// observe takes in what is so now.
func (l *load) observe(now time.Time, backends []Seen) {
	ready, slots, least, busy, waiting := 0, 0, 0, 0, 0
	for _, s := range backends {
		waiting = s.Use.Waiting
		if s.State == router.Ready {
			if ready++; ready == 1 || s.Slots < least {
				least = s.Slots
			}
			slots += s.Slots
			busy += s.Use.InFlight
		}
	}
	passed := min(now.Sub(l.at), 2*look)
	switch {
	case ready == 0 || ready != l.ready:
		l.waited = 0
	case l.waits && waiting > 0:
		l.waited += passed
	case !l.waits && waiting == 0:
		l.waited = max(0, l.waited-passed)
	}
	switch {
	case ready < 2 || ready != l.ready || float64(busy+waiting) > fewerShare*float64(slots-least):
		l.fewer = time.Time{}
	case l.fewer.IsZero():
		l.fewer = now
	}
	l.at, l.ready, l.waits = now, ready, waiting > 0
}

// replicas is what to do about how many backends of one model are ready, or when to look again. up counts those that are ready or
// on the way.
func replicas(now time.Time, backends []Seen, l load, up int) (Step, time.Time) {
	policy := backends[0].Policy
	most := len(backends)
	if policy.Max > 0 {
		most = min(most, policy.Max)
	}
	more := l.ready > 0 && up == l.ready && up < most
	if more && l.waits {
		return another(now, backends, l)
	}
	if l.ready > max(1, policy.Min) && !policy.NeverSleep {
		return oneFewer(now, backends, l)
	}
	if more { // nobody says when a line begins
		return Step{}, now.Add(look)
	}
	return Step{}, time.Time{}
}

// another wakes the backend that is up first, once somebody has waited for as long as that takes.
func another(now time.Time, backends []Seen, l load) (Step, time.Time) {
	var first *Seen
	for i := range backends {
		s := &backends[i]
		if (s.State == router.Stopped || s.State == router.Asleep) && (first == nil || s.WakeTime < first.WakeTime) {
			first = s
		}
	}
	if first == nil {
		return Step{}, time.Time{}
	}
	if l.waited < first.WakeTime {
		return Step{}, now.Add(min(look, first.WakeTime-l.waited))
	}
	return Step{
		ID: first.ID, Event: wanted, Replica: true,
		Why: fmt.Sprintf("requests have waited for %s, as long as its wake takes", l.waited.Round(time.Second)),
	}, time.Time{}
}

// oneFewer dismisses the least used backend, of equals the last.
func oneFewer(now time.Time, backends []Seen, l load) (Step, time.Time) {
	var last *Seen
	for i := range backends {
		s := &backends[i]
		if s.State == router.Ready && !s.Stays && (last == nil || s.Use.InFlight <= last.Use.InFlight) {
			last = s
		}
	}
	if last == nil {
		return Step{}, time.Time{}
	}
	if l.fewer.IsZero() {
		return Step{}, now.Add(look)
	}
	after := min(max(spare, 2*last.WakeAgain), last.Policy.IdleTime.Std())
	if at := l.fewer.Add(after); now.Before(at) {
		return Step{}, minTime(at, now.Add(look))
	}
	return Step{ID: last.ID, Event: dismissed, Why: fmt.Sprintf("the load has fitted %d of %d backends for %s", l.ready-1, l.ready, after)}, time.Time{}
}

func minTime(a, b time.Time) time.Time {
	if a.Before(b) {
		return a
	}
	return b
}

// byModel are the backends of each model, in the order of the models' names.
func byModel(seen []Seen) [][]Seen {
	all := slices.Clone(seen)
	slices.SortStableFunc(all, func(a, b Seen) int { return cmp.Compare(a.Model, b.Model) })
	var groups [][]Seen
	for len(all) > 0 {
		n := 1
		for n < len(all) && all[n].Model == all[0].Model {
			n++
		}
		groups, all = append(groups, all[:n]), all[n:]
	}
	return groups
}
