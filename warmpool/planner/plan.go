package planner

import (
	"time"

	"pilotlight/router"
)

// Plan says for every backend where it should be, and why.
type Plan struct {
	Made      time.Time   `json:"made"`
	Items     []Item      `json:"items"` // by model, then by backend
	Next      time.Time   `json:"next"`  // make another then at the latest; zero: when something happens
	ColdStart float64     `json:"cold_start"`
	Loads     []time.Time `json:"loads,omitempty"` // speculative ones that were begun within the budget's time
	DryRun    bool        `json:"dry_run,omitempty"`
}

// Item is what should become of one backend.
type Item struct {
	Model   string      `json:"model"`
	Backend string      `json:"backend"`
	Node    string      `json:"node"`
	Now     router.Tier `json:"now"`
	Want    router.Tier `json:"want"`
	At      time.Time   `json:"at"` // when to begin; zero: it stays where it is
	Rule    Rule        `json:"rule"`
	Why     string      `json:"why"`
	Chance  float64     `json:"chance"`          // of an arrival in the next minute; -1: not known
	Next    time.Time   `json:"next"`            // of the next expected request; zero: not known
	Ahead   bool        `json:"ahead,omitempty"` // a wake before anybody asked, that counts against the budget

	KeepCost  float64 `json:"keep_cost"`  // money over the next hour if it is on its GPU
	SleepCost float64 `json:"sleep_cost"` // and if it is not
}

// Rule names what decided an Item.
type Rule string

// The rules, as people write them where they are theirs.
const (
	RuleBusy       Rule = "busy"   // requests are in flight or wait
	RuleMoving     Rule = "moving" // it is on its way
	RuleNeverSleep Rule = "never_sleep"
	RuleMin        Rule = "min"
	RuleMax        Rule = "max"
	RuleSchedule   Rule = "schedule"
	RuleIdleTime   Rule = "idle_time"
	RulePin        Rule = "pin"
	RuleForecast   Rule = "forecast" // the policy's word
	RulePrices     Rule = "prices"   // host memory costs more, or less, than the waits it spares
	RuleMemory     Rule = "memory"   // others are worth more of what memory there is
	RuleBudget     Rule = "budget"   // enough is being loaded ahead
	RuleFixed      Rule = "fixed"    // nobody can move it
)
