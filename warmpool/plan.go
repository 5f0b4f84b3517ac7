package warmpool

import (
	"fmt"
	"time"

	"pilotlight/config"
	"pilotlight/router"
)

// Seen is one backend as the plan sees it.
type Seen struct {
	ID     string
	Model  string
	State  router.State
	Since  time.Time
	Rested time.Time // Failed only: until when it rests
	Use    router.Use
	Policy config.Model
	Slots  int
	Load   load // of the model

	Wish router.Wish // of the planner; Plan sees whether it is fresh

	WakeTime  time.Duration // from where it is
	WakeAgain time.Duration // Ready: from where it would go

	Tier   router.Tier // where it is
	Rests  router.Tier // where it goes from its GPU unless it is stopped
	Stays  bool        // nobody can take it off its GPU
	Sleeps bool        // nobody can stop it
}

// Step is one thing to do, and why.
type Step struct {
	ID    string
	Event event // wanted, dismissed, halted (what sleeps is to be stopped) or rested
	Why   string

	Replica bool // wanted besides others that are ready: nobody who is busy makes room for it
	Ahead   bool // wanted before anybody asked: nobody makes room for it but those that the planner wants elsewhere
	Stop    bool // dismissed to be stopped, not to sleep
}

// look is how often a busy backend is looked at again.
const look = time.Second

// Plan says what to do now on one node, and when to look again (the zero time: when something happens). It looks at nothing but its
// arguments. What a request asks for is no matter of the plan; it says what happens when nobody asks:
// failures rest, min backends of each model stay ready and more if the load asks for them, the others are where the planner of the fleet wants them;
// where there is none, or it says nothing, they sleep after their idle time and stop long after.
func Plan(now time.Time, seen []Seen) (steps []Step, next time.Time) {
	again := func(at time.Time) {
		if next.IsZero() || at.Before(next) {
			next = at
		}
	}
	awake := map[string]int{}
	for _, s := range seen {
		if s.State == router.Ready || s.State == router.Waking {
			awake[s.Model]++
		}
	}
	moved := map[string]bool{}
	for _, backends := range byModel(seen) {
		step, at := replicas(now, backends, backends[0].Load, awake[backends[0].Model])
		switch {
		case step.Why != "":
			steps = append(steps, step)
			moved[step.ID] = true
			if step.Event == wanted {
				awake[backends[0].Model]++
			} else {
				awake[backends[0].Model]--
			}
		case !at.IsZero():
			again(at)
		}
	}
	for _, s := range seen {
		if moved[s.ID] {
			continue
		}
		step, at := s.step(now, awake[s.Model])
		switch {
		case step.Why != "":
			step.ID = s.ID
			steps = append(steps, step)
			if step.Event == wanted {
				awake[s.Model]++
			} else if step.Event == dismissed {
				awake[s.Model]--
			}
		case !at.IsZero():
			again(at)
		}
	}
	return steps, next
}

// step is what to do with one backend now, or when to look at it again. awake counts the backends of its model that are
// ready or on the way.
func (s *Seen) step(now time.Time, awake int) (Step, time.Time) {
	switch s.State {
	case router.Failed:
		if now.Before(s.Rested) {
			return Step{}, s.Rested
		}
		return Step{Event: rested, Why: "has rested"}, time.Time{}
	case router.Stopped, router.Asleep:
		if awake < s.Policy.Min {
			return Step{Event: wanted, Why: fmt.Sprintf("min: %d", s.Policy.Min)}, time.Time{}
		}
		if s.Wish.Fresh(now) {
			return s.down(now, awake)
		}
		if s.State == router.Stopped || s.Sleeps {
			return Step{}, time.Time{}
		}
		at := s.Since.Add(s.Policy.StopAfter.Std())
		if now.Before(at) {
			return Step{}, at
		}
		return Step{Event: halted, Why: fmt.Sprintf("asleep for %s", s.Policy.StopAfter)}, time.Time{}
	case router.Ready:
		if s.Policy.NeverSleep || s.Stays || awake <= s.Policy.Min {
			return Step{}, time.Time{}
		}
		if s.Wish.Fresh(now) {
			return s.up(now)
		}
		return s.idle(now)
	case router.Waking, router.Draining:
	}
	return Step{}, time.Time{}
}

// idle is the first policy: a fixed idle time.
func (s *Seen) idle(now time.Time) (Step, time.Time) {
	after := s.Policy.IdleTime.Std()
	if s.Use.InFlight > 0 || s.Use.Waiting > 0 {
		return Step{}, now.Add(min(max(after, time.Millisecond), look))
	}
	from := s.Since
	if s.Use.Last.After(from) {
		from = s.Use.Last
	}
	if at := from.Add(after); now.Before(at) {
		return Step{}, at
	}
	return Step{Event: dismissed, Why: fmt.Sprintf("idle for %s", s.Policy.IdleTime)}, time.Time{}
}

// down is what to do with one that is stopped or asleep as the planner wants it.
func (s *Seen) down(now time.Time, awake int) (Step, time.Time) {
	switch {
	case s.Wish.Tier == router.OnGPU && (s.Policy.Max == 0 || awake < s.Policy.Max) && s.Wish.Made.After(s.Since):
		return Step{Event: wanted, Why: s.Wish.Why, Ahead: true}, time.Time{}
	case s.Wish.Tier < s.Tier && s.Wish.Tier < s.Rests && !s.Sleeps:
		return Step{Event: halted, Why: s.Wish.Why}, time.Time{}
	}
	return Step{}, s.Wish.Until
}

// up is what to do with one that is ready as the planner wants it. What was used since the wish was made waits for the next one.
func (s *Seen) up(now time.Time) (Step, time.Time) {
	switch {
	case s.Use.InFlight > 0 || s.Use.Waiting > 0:
		return Step{}, now.Add(look)
	case s.Wish.Tier == router.OnGPU || s.Use.Last.After(s.Wish.Made) || s.Since.After(s.Wish.Made):
		return Step{}, s.Wish.Until
	}
	return Step{Event: dismissed, Why: s.Wish.Why, Stop: s.Wish.Tier < s.Rests}, time.Time{}
}
