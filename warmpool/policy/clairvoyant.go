package policy

import "time"

// clairvoyant knows when each model is asked for next. It keeps those that are, within a time; and, if it may, wakes others ahead, each so that its load
// ends just then.
type clairvoyant struct {
	keep  time.Duration // 0: as long as a load takes
	ahead bool
	next  func(model string, at time.Time) time.Time
}

func newKeeping(s *settings) Policy { return &clairvoyant{keep: s.duration("keep")} }

func newOracle(*settings) Policy { return &clairvoyant{ahead: true} }

// Foresee is told the future.
func (c *clairvoyant) Foresee(next func(model string, at time.Time) time.Time) { c.next = next }

func (*clairvoyant) Arrived(string, time.Time, int) {}
func (*clairvoyant) Ended(string, time.Time)        {}
func (*clairvoyant) Day(time.Time)                  {}
func (*clairvoyant) Evicted(Holding, float64, bool) {}

func (c *clairvoyant) Decide(q Question) Decision {
	next := c.next(q.Model, q.Now)
	switch gap := next.Sub(q.Idle); {
	case next.IsZero():
		return Decision{Chance: 0, Why: "it is never asked for again"}
	case c.ahead:
		return within(q, gap, gap+1, "so is the future")
	case gap <= c.keep:
		return Decision{Warm: true, Chance: -1, Next: next, Why: "so is the future"}
	default:
		return Decision{Chance: -1, Next: next, Why: "so is the future"}
	}
}

// Worth is what a miss costs, by size and by how far off it is, as Belady would have it.
func (c *clairvoyant) Worth(h Holding) float64 {
	next := c.next(h.Model, h.Now)
	if next.IsZero() || h.Size <= 0 {
		return 0
	}
	return h.Miss.Seconds() / float64(h.Size) / (next.Sub(h.Now).Seconds() + 1)
}
