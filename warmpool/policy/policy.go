// Package policy holds the rules by which an idle model is kept on its GPU or made warm again: fixed idle times, those that researchers have
// published, and ours. A policy learns from arrivals and says what it would do. It moves nothing, knows nothing of memory, and does not read the
// clock, so that the same code decides live and on recorded traffic in virtual time.
package policy

import "time"

// Policy learns from what happened and says whether an idle model should be on its GPU. What it is told of comes in the order of time. It is not
// safe for concurrent use. It never looks at the clock: times may be virtual.
type Policy interface {
	// Arrived says that a model became busy, or was asked for again while it was: so many requests at once.
	Arrived(model string, at time.Time, requests int)
	// Ended says that a model became idle.
	Ended(model string, at time.Time)
	// Decide says what to do with an idle model. A later answer may depend on it, unless it is a trial.
	Decide(q Question) Decision
	// Day says that a day is over: the time for whatever takes longer, such as to fit a model anew.
	Day(now time.Time)
}

// Question is about one idle model.
type Question struct {
	Model string
	Now   time.Time
	Idle  time.Time     // since when it is idle; zero: it was never used
	Warm  bool          // it is on its GPU now, or being loaded
	Load  time.Duration // how long a wake takes from where it is, or would be if it slept
	K     time.Duration // how long idle memory may be held to spare one cold start; 0: as the policy was told
	Brief bool          // nobody reads Why: it may be empty
	Trial bool          // nobody does what the answer says
}

// Decision says where an idle model should be.
type Decision struct {
	Warm   bool      // it should be on its GPU now; if it is not, its load begins now
	Until  time.Time // ask again then, at the latest; zero: only after the next arrival
	Chance float64   // of an arrival in the next minute; -1: the policy does not know
	Next   time.Time // of the next expected request; zero: unknown
	Why    string    // one clause for a person: "asked for at 09:00 on the last 5 days"
}

// Clairvoyant is a policy that needs to know the future, so that it can only be simulated: a bound for all others.
type Clairvoyant interface {
	Policy
	// Foresee hands over what the policy may know: when a model is asked for next, at a time or after it. Zero: never again.
	Foresee(next func(model string, at time.Time) time.Time)
}
