// Package live plans for a fleet that runs: it learns from how its backends are used, asks the policy and warmpool/planner at each step what should
// become of them, and keeps the score of what was woken ahead. It moves nothing: its wishes go to the keepers. It never looks at the clock, so that
// a fleet can be driven by recorded traffic, faster than it came.
package live
