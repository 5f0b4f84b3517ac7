package live

import (
	"time"

	"pilotlight/config"
	"pilotlight/router"
	"pilotlight/warmpool/planner"
)

// fresh is how long a wish counts. Plans are made more often than that, and told again before.
const fresh = 3 * time.Minute

// Wishes are what a plan asks of keepers, who know by themselves what people's rules ask for. Now is the keepers' time. A dry run wishes nothing.
func Wishes(plan *planner.Plan, fleet *router.Fleet, now time.Time) map[string]router.Wish {
	all := map[string]router.Wish{}
	if plan.DryRun {
		return all
	}
	sizes := map[string]config.Size{}
	for _, m := range fleet.Models {
		for _, b := range m.Backends {
			sizes[b.ID] = b.Memory
		}
	}
	for i := range plan.Items {
		it := &plan.Items[i]
		switch it.Rule {
		case planner.RuleSchedule, planner.RuleForecast, planner.RulePrices, planner.RuleMemory, planner.RulePin, planner.RuleBudget:
		case planner.RuleBusy, planner.RuleMoving, planner.RuleNeverSleep, planner.RuleMin, planner.RuleMax, planner.RuleIdleTime, planner.RuleFixed:
			continue
		}
		w := router.Wish{Tier: it.Want, Made: now, Until: now.Add(fresh), Why: it.Why}
		if gib := float64(sizes[it.Backend]) / float64(config.GiB); gib > 0 {
			w.Worth = (it.SleepCost - it.KeepCost) / gib
		}
		all[it.Backend] = w
	}
	return all
}
