package planner

import (
	"time"

	"pilotlight/router"
	"pilotlight/warmpool/policy"
)

// Input is all that a plan is made of. Make changes nothing of it.
type Input struct {
	Now    time.Time
	Prices Prices
	Budget Budget
	Models []Model // in any order; names are unique
	Nodes  []Node  // in any order; a backend whose node is not among them has endless memory
	Before *Plan   // the plan before this one, for hysteresis and what was spent of the budget; nil: there was none
	Seen   Seen    // what requests found lately, by which a target becomes a price
	DryRun bool    // the plan is looked at, not acted upon; Plan.DryRun says so to those who read it
}

// Prices say what waiting and memory cost, in any one unit of money.
type Prices struct {
	ColdStart float64 // of one second that somebody waits for a wake; where Target is set, only where it begins
	GPU       float64 // of a GiB of GPU memory for an hour
	Host      float64 // of a GiB of a host's memory for an hour
	Target    Target
	Alpha     float64 // how much more a cold start of a rarely used model counts: (the median model's rate / its own)^Alpha; 0: no more
}

// Target is a promise that the price of waiting is derived from: at most Share of requests wait more than Wait.
type Target struct {
	Share float64 // in (0, 1); 0: no target
	Wait  time.Duration
}

// Seen counts the requests of the last day or so, and those of them that waited for longer than the target allows.
type Seen struct{ Requests, Waited int64 }

// Budget bounds what is loaded before somebody asked, since every such load takes a disk's and a link's time from others. What min,
// never_sleep, a schedule or a waiting request ask for is not speculative.
type Budget struct {
	Loads int           // speculative loads that may begin within Per, fleet-wide; 0: any number
	Per   time.Duration // 0: a minute
	Swaps int           // of them, those for which another model leaves its GPU, per node; 0: 2
}

// Model is one model as the plan sees it.
type Model struct {
	Name     string
	Rules    Rules
	Decision Decision                           // of the policy, asked just now
	Chance   func(within time.Duration) float64 // of an arrival; nil: not known
	Rate     float64                            // times per hour that it becomes busy; 0: not known
	Idle     time.Time                          // since when; zero: never used
	Busy     bool                               // a request is in flight
	Waiting  int                                // requests in line
	Backends []Backend
}

// Decision is what a policy says of one idle model.
type Decision = policy.Decision

// Rules are what people have said of a model. Each overrides the forecast, in the order never_sleep, min, max, schedule, idle_time.
type Rules struct {
	Min, Max   int           // backends on GPUs; Max 0: as many as there are
	NeverSleep bool          // what is on its GPU stays there, and at least one is
	IdleTime   time.Duration // fixed; 0: the policy decides
	Schedule   []Window
	Pin        string        // the node whose backends are used first; others only where that has none
	Weight     float64       // how much a wait for it counts; 0: 1
	K          time.Duration // how long idle memory may be held to spare one cold start; 0: by the prices
}

// Window is a time that returns, such as 08:00 to 18:00 on working days in a place's own time.
type Window struct {
	Name   string // as people wrote it
	Begins Begins
	For    time.Duration
	Asleep bool // the model is not woken ahead in it; else it is kept awake
}

// Begins says when a Window begins next, strictly after a time. The schedules of cron parsers are such.
type Begins interface {
	Next(after time.Time) time.Time
}

// Backend is one model server.
type Backend struct {
	ID     string
	Node   string
	Tier   router.Tier                   // where its weights are, or are going while it moves
	Moving bool                          // a wake or a sleep is under way: it is left alone
	Since  time.Time                     // when it came there
	GPU    int64                         // bytes that it holds of GPU memory when ready
	Host   int64                         // bytes that it holds of the host's memory while asleep there; 0: it cannot sleep there
	Wake   map[router.Tier]time.Duration // how long one takes, from OnDisk and from OnHost

	// Residual is what it still holds of GPU memory while asleep on the host, bytes.
	Residual int64

	CannotSleep bool // nobody can take it off its GPU
	CannotStop  bool // nobody can take it off the host's memory
}

// Node is one host with GPUs. What is not free and not of the backends in Input is others', and is left to them.
type Node struct {
	Name           string
	GPU, GPUFree   int64 // bytes
	Host, HostFree int64
}
