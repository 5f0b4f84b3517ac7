package policy

import (
	"fmt"
	"time"
)

// fixed keeps every model warm for the same time after its last request, as most platforms do.
type fixed struct{ idle time.Duration }

func newFixed(s *settings) Policy { return fixed{s.duration("idle")} }

func (fixed) Arrived(string, time.Time, int) {}
func (fixed) Ended(string, time.Time)        {}
func (fixed) Day(time.Time)                  {}

func (f fixed) Decide(q Question) Decision {
	if q.Idle.IsZero() {
		return Decision{Chance: -1, Why: "it was never used"}
	}
	until := q.Idle.Add(f.idle)
	if !q.Now.Before(until) {
		return Decision{Chance: -1, Why: fmt.Sprintf("idle for %s", f.idle)}
	}
	return Decision{Warm: true, Until: until, Chance: -1, Why: fmt.Sprintf("idle for less than %s", f.idle)}
}
