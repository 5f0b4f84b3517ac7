package router

import (
	"time"

	"pilotlight/probe"
)

// Candidate is a backend as Pick and Place see it: what was observed of it and what is promised on it.
type Candidate struct {
	*Backend
	InFlight int   // leases given and not yet released
	Granted  Grant // Shared only
	Reading  probe.Reading
	Others   int         // requests in its engine that are not ours, as of Reading
	NodeGPUs *probe.GPUs // as last seen on its node; nil: never
	Ejected  time.Time   // it broke requests; until then others come first
	Avoid    time.Time   // it was asked to wake and could not; until then it is not asked again

	wake    *wake         // asked for by this line, and under way
	last    time.Time     // when a request on it last began or ended
	broke   int           // requests broken in a row
	drained chan struct{} // closed when nothing is in flight; nil: nobody asked
}

// Why says what a decision was made by, for people.
type Why struct {
	Rule  string
	Score float64 // lower is better
}

// readingAge is how old a reading may be before it has no vote.
const readingAge = time.Second

// Pick says which candidate serves a request: of the ready ones with a free slot, the one whose load after taking it is the
// smallest share of its slots. Ejected ones come last, and those that were tried before even later, but they come. It gives nil
// where no slot is free. Equal loads go to the first, so that the others can idle and sleep.
func Pick(candidates []*Candidate, now time.Time, tried Tried) (*Candidate, Why) {
	var best *Candidate
	var score float64
	for _, c := range candidates {
		if c.State != Ready || c.InFlight >= c.limit() {
			continue
		}
		s := c.load(now)
		if tried != (Tried{}) && (c.ID == tried[0] || c.ID == tried[1]) {
			s += 2 * ejected
		}
		if best == nil || s < score {
			best, score = c, s
		}
	}
	if best == nil {
		return nil, Why{Rule: "no free slot"}
	}
	return best, Why{Rule: "least loaded", Score: score}
}

// limit is how many requests may be in flight there from this edge.
func (c *Candidate) limit() int {
	if c.Shared {
		return min(c.Granted.Slots, c.Slots)
	}
	return c.Slots
}

// ejected is added to the load of an ejected backend: more than any load can be.
const ejected = 1 << 20

// load is the share of its slots that would be taken with one more request. What the engine has from other clients than us
// counts too.
func (c *Candidate) load(now time.Time) float64 {
	busy := c.InFlight + 1
	if now.Sub(c.Reading.At) < readingAge {
		busy += c.Others
	}
	load := float64(busy) / float64(c.Slots)
	if c.Ejected.After(now) {
		load += ejected
	}
	return load
}

// Place says which candidate to wake: the one that would be ready first, one that is on the way for somebody else's sake
// included. Those that are ready, asked already or at rest after a failure are not asked. It gives nil where nobody is left to ask.
func Place(candidates []*Candidate, now time.Time) (*Candidate, Why) {
	var best *Candidate
	var at time.Time
	for _, c := range candidates {
		if c.State == Ready || c.wake != nil || c.Avoid.After(now) || c.State == Failed && c.Rested.After(now) {
			continue
		}
		if t := c.ReadyAt(now); best == nil || t.Before(at) {
			best, at = c, t
		}
	}
	if best == nil {
		return nil, Why{Rule: "nobody to wake"}
	}
	return best, Why{Rule: "ready first", Score: at.Sub(now).Seconds()}
}
