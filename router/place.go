package router

import (
	"time"
)

// Placement is what a wake of a candidate now would come to, in expectation.
type Placement struct {
	Fit   Fit
	Queue time.Duration // until the wakes before it are done that load through the same disk or link
	Evict time.Duration // until those who make room for it have left
	Wake  time.Duration // its own, as learned
	Left  time.Duration // until it is ready: what is left of a wake under way, or all of the above
	Why   string        // it cannot be asked to wake, for people; empty: it can
}

// near is how much later than the first another candidate may be ready and still be taken for other reasons: a
// twentieth, or what nobody notices.
func near(first time.Duration) time.Duration {
	return first + max(first/20, 20*time.Millisecond)
}

// Place says which candidate to wake: the one that would be ready first, one that is on the way for somebody else's sake
// included. It gives nil where nobody can be asked. Of those that would be ready at about the same time it prefers a node that has none
// of the model's backends awake, so that a node that falls over does not take them all; then the one for which the fewest
// must leave; then the first.
func Place(candidates []*Candidate, now time.Time) (*Candidate, Placement) {
	times := make([]time.Duration, len(candidates))
	first := time.Duration(-1)
	for i, c := range candidates {
		times[i] = -1
		if first >= 0 && c.soonest(now) > near(first) {
			continue
		}
		if p := c.placement(now); p.Why == "" {
			times[i] = p.Left
			if first < 0 || p.Left < first {
				first = p.Left
			}
		}
	}
	if first < 0 {
		return nil, Placement{Why: "nobody to wake"}
	}
	var best *Candidate
	var of Placement
	awake := awakeOn(candidates)
	for i, c := range candidates {
		if times[i] < 0 || times[i] > near(first) {
			continue
		}
		if p := c.placement(now); best == nil || awake[c.node] < awake[best.node] ||
			awake[c.node] == awake[best.node] && (p.Fit.Victims < of.Fit.Victims || p.Fit.Victims == of.Fit.Victims && p.Left < of.Left) {
			best, of = c, p
		}
	}
	return best, of
}

// awakeOn counts the candidates on each node that are ready or on the way.
func awakeOn(candidates []*Candidate) map[*Node]int {
	awake := map[*Node]int{}
	for _, c := range candidates {
		if c.State == Ready || c.wake != nil {
			awake[c.node]++
		}
	}
	return awake
}

// soonest is when the candidate would be ready if nothing were in its way.
func (c *Candidate) soonest(now time.Time) time.Duration { return c.ReadyAt(now).Sub(now) }

// placement is what waking the candidate now would come to.
func (c *Candidate) placement(now time.Time) Placement {
	p := Placement{Wake: c.WakeTime, Why: c.notAsked(now)}
	if p.Left = c.soonest(now); p.Why != "" || c.node == nil || c.State == Waking || c.State == Draining {
		return p // what is on its way has its place, in or out
	}
	fit, ok := c.node.Fit(c.Backend, now)
	if !ok {
		p.Why = "there is no room for it on its node, whoever leaves"
		return p
	}
	p.Fit, p.Evict = fit, fit.Takes
	p.Queue = c.node.queue(c.Tier, fit.GPUs, now)
	p.Left = max(p.Queue, p.Evict) + p.Wake // those before it go on loading while others leave
	return p
}

// notAsked says why the candidate cannot be asked to wake; empty: it can.
func (c *Candidate) notAsked(now time.Time) string {
	switch {
	case c.State == Ready:
		return "it is ready"
	case c.wake != nil:
		return "it was asked already"
	case c.Avoid.After(now):
		return "it would not wake when it was last asked"
	case c.State == Failed && c.Rested.After(now):
		return "it rests after a failure"
	}
	return ""
}

// queue is how long it takes until the wakes under way are done that share what a wake from tier loads through: the node's disk,
// or the links of the GPUs that are the same. They are taken to load one after the other, as ServerlessLLM's estimate does (Fu
// et al., OSDI 2024, section 5.1): sharing a link, they would be done no sooner.
func (n *Node) queue(from Tier, on gpuSet, now time.Time) (wait time.Duration) {
	for i := range n.Wakes {
		w := &n.Wakes[i]
		if rest := w.Ready.Sub(now); rest > 0 && w.Tier == from && (from == OnDisk || on&setOf(w.GPUs) != 0) {
			wait += rest
		}
	}
	return wait
}
