package main

import (
	"cmp"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"os"
	"slices"
	"strings"
	"text/tabwriter"
	"time"

	"pilotlight/proxy/admin"
	"pilotlight/router"
	"pilotlight/warmpool/planner"
)

type planCmd struct {
	remote
	WhatIf string `type:"existingfile" placeholder:"FILE" help:"Show the plan that another policy would make now: a file with the keys of pool, and of models, that are to be otherwise."`
}

// Help is what kong prints below the usage of plan.
func (planCmd) Help() string {
	return `Shows where every backend should be, and why, as the planner of the fleet sees it now.

  pilotlight plan                      the plan that is followed
  pilotlight plan --what-if try.yaml   the plan with, say, pool: {policy: "predictive:k=60m"} in try.yaml; nothing is moved`
}

func (c planCmd) Run(ctx context.Context) error {
	client := c.client()
	var p, is planned
	if err := client.Plan(ctx, &is); err != nil {
		return err
	}
	if c.WhatIf == "" {
		p = is
	} else {
		text, err := os.ReadFile(c.WhatIf)
		if err != nil {
			return fmt.Errorf("read the policy: %w", err)
		}
		if err := client.WhatIf(ctx, text, &p); err != nil {
			return err
		}
	}
	if c.JSON {
		e := json.NewEncoder(os.Stdout)
		e.SetIndent("", "  ")
		return e.Encode(p)
	}
	if c.WhatIf != "" {
		return p.differences(os.Stdout, &is.Plan)
	}
	return p.show(os.Stdout)
}

// show prints the plan as a table.
func (p *planned) show(w io.Writer) error {
	fmt.Fprintf(w, "Plan of %s by %s%s; the next one at %s at the latest.\n\n", clock(p.Plan.Made), p.Policy, p.role(), clock(p.Plan.Next))
	t := tabwriter.NewWriter(w, 0, 0, 2, ' ', 0)
	fmt.Fprintln(t, "MODEL\tBACKEND\tNODE\tIS ON\tSHOULD BE ON\tRULE\tCHANCE\tNEXT\tKEPT\tASLEEP\tWHY")
	for i := range p.Plan.Items {
		it := &p.Plan.Items[i]
		fmt.Fprintf(t, "%s\t%s\t%s\t%s\t%s\t%s\t%s\t%s\t%.4f\t%.4f\t%s\n", it.Model, it.Backend, it.Node, it.Now, it.Want, it.Rule, chance(it.Chance), clock(it.Next), it.KeepCost, it.SleepCost, it.Why)
	}
	if err := t.Flush(); err != nil {
		return err
	}
	_, err := fmt.Fprintln(w, "\nCHANCE: of a request within a minute. KEPT, ASLEEP: what the next hour is expected to cost either way, in the money of the pool's prices.")
	return err
}

// role says whether the plan is followed.
func (p *planned) role() string {
	switch {
	case p.DryRun:
		return ", a dry run"
	case !p.Acts:
		return ", which another edge follows"
	}
	return ""
}

// differences prints what would be otherwise than in a plan.
func (p *planned) differences(w io.Writer, than *planner.Plan) error {
	t := tabwriter.NewWriter(w, 0, 0, 2, ' ', 0)
	n := 0
	for i := range p.Plan.Items {
		it := &p.Plan.Items[i]
		at := slices.IndexFunc(than.Items, func(other planner.Item) bool { return other.Backend == it.Backend })
		if at >= 0 && than.Items[at].Want == it.Want {
			continue
		}
		if n++; n == 1 {
			fmt.Fprintln(t, "MODEL\tBACKEND\tIS ON\tPLANNED\tWOULD BE\tRULE\tWHY")
		}
		was := "-"
		if at >= 0 {
			was = than.Items[at].Want.String()
		}
		fmt.Fprintf(t, "%s\t%s\t%s\t%s\t%s\t%s\t%s\n", it.Model, it.Backend, it.Now, was, it.Want, it.Rule, it.Why)
	}
	if err := t.Flush(); err != nil {
		return err
	}
	_, err := fmt.Fprintf(w, "%d of %d backends would be elsewhere.\n", n, len(p.Plan.Items))
	return err
}

// explainPlan prints why a model's backends are where they are, and what would change that.
func explainPlan(w io.Writer, p *planned, model string) {
	for i := range p.Plan.Items {
		it := &p.Plan.Items[i]
		if it.Model != model {
			continue
		}
		verb := "stays"
		if it.Want != it.Now {
			verb = "should go to " + tierName(it.Want)
		}
		fmt.Fprintf(w, "\n%s is %s and %s, by %s: %s.\n", it.Backend, onTier(it.Now), verb, it.Rule, strings.TrimSuffix(it.Why, "."))
		if it.Chance >= 0 {
			fmt.Fprintf(w, "  A request within a minute has a chance of %s.\n", chance(it.Chance))
		}
		if !it.Next.IsZero() {
			fmt.Fprintf(w, "  The next one is expected at %s.\n", clock(it.Next))
		}
		if it.KeepCost > 0 || it.SleepCost > 0 {
			fmt.Fprintf(w, "  The next hour costs %.4f if it is on its GPU and %.4f if not, as expected.\n", it.KeepCost, it.SleepCost)
		}
		fmt.Fprintf(w, "  %s\n", changes(it, p))
	}
}

// changes is what would change an item.
func changes(it *planner.Item, p *planned) string {
	next := "when something happens"
	if !p.Plan.Next.IsZero() {
		next = "at " + clock(p.Plan.Next)
	}
	switch it.Rule {
	case planner.RuleBusy:
		return "It changes when its requests have ended."
	case planner.RuleMoving:
		return "It changes when it has come to where it goes."
	case planner.RuleMin, planner.RuleMax, planner.RuleNeverSleep, planner.RulePin:
		return fmt.Sprintf("It changes with the model's %s in the configuration.", it.Rule)
	case planner.RuleSchedule:
		return "It changes with the schedule, or when somebody asks."
	case planner.RuleIdleTime:
		return "It changes when its idle_time has passed, or when somebody asks."
	case planner.RuleFixed:
		return "Nobody can move it."
	case planner.RuleMemory:
		return "It changes when others need less of the memory, or when somebody asks."
	case planner.RuleBudget:
		return "It changes when fewer models are being loaded, or when somebody asks."
	case planner.RuleForecast, planner.RulePrices:
	}
	if it.Want == router.OnGPU {
		return "It sleeps when a request is so unlikely that its memory is worth more; that is looked at again " + next + "."
	}
	return "It wakes when a request is likely enough to be worth its memory, or when somebody asks; that is looked at again " + next + "."
}

func tierName(t router.Tier) string {
	return [...]string{"disk", "the host's memory", "its GPU"}[t]
}

func onTier(t router.Tier) string {
	return "on " + strings.Replace(tierName(t), "the host's", "its host's", 1)
}

// showPlanned prints how planning goes, below a table.
func showPlanned(s *admin.PlanStatus) {
	if s == nil {
		return
	}
	what := "another edge plans"
	switch {
	case s.DryRun:
		what = "a dry run"
	case s.Acts:
		what = "this edge plans"
	}
	fmt.Printf("\nPool: %s, %s.", s.Policy, what)
	if n := s.Used + s.Late + s.Wasted; n > 0 {
		fmt.Printf(" Of %d wakes ahead %d were used (%.0f %%), %d too late, %d wasted (%.2f GPU-hours).", n, s.Used, 100*float64(s.Used)/float64(n), s.Late, s.Wasted, s.WastedGPUHours)
	}
	fmt.Println()
}

// chance is a chance in per cent; - where it is not known.
func chance(p float64) string {
	switch {
	case p < 0:
		return "-"
	case p < 0.01:
		return fmt.Sprintf("%.2g %%", 100*p)
	}
	return fmt.Sprintf("%.0f %%", 100*p)
}

// clock is a time of day, with the day where it is another than today.
func clock(at time.Time) string {
	if at.IsZero() {
		return "-"
	}
	at = at.Local()
	if now := time.Now(); at.YearDay() == now.YearDay() && at.Year() == now.Year() {
		return at.Format(time.TimeOnly)
	}
	return cmp.Or(at.Format("2006-01-02 15:04:05"), "-")
}
