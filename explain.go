package main

import (
	"context"
	"fmt"
	"io"
	"os"
	"strings"
	"text/tabwriter"

	"pilotlight/router"
)

type explainCmd struct {
	remote
	Model string `arg:"" placeholder:"MODEL" help:"The model, or an alias of it."`
}

func (c explainCmd) Run(ctx context.Context) error {
	e, err := c.client().Route(ctx, c.Model)
	if err != nil {
		return err
	}
	if c.JSON {
		return c.show(e)
	}
	if err := explain(os.Stdout, &e); err != nil {
		return err
	}
	var p planned
	if err := c.client().Plan(ctx, &p); err != nil {
		return err
	}
	explainPlan(os.Stdout, &p, e.Model)
	return nil
}

// explain prints what would be decided, and a table of who could be picked and one of who could be woken.
func explain(w io.Writer, e *router.Explanation) error {
	switch {
	case e.Picked == "":
		fmt.Fprintf(w, "A request for %s would wait: %s.\n", e.Model, e.Rule)
	case e.Waiting > 0:
		fmt.Fprintf(w, "The next slot of %s goes to the head of its line, on %s (%s).\n", e.Model, e.Picked, e.Rule)
	default:
		fmt.Fprintf(w, "A request for %s would go to %s (%s).\n", e.Model, e.Picked, e.Rule)
	}
	fmt.Fprintf(w, "Policy %s; %d in line.\n\n", e.Policy, e.Waiting)
	t := tabwriter.NewWriter(w, 0, 0, 2, ' ', 0)
	fmt.Fprintln(t, "BACKEND\tNODE\tSTATE\tSLOTS\tOTHERS\tSCORE\tLOAD\tQUEUE\tCACHE\tPROMPTS\tGPU\tMEMORY\tFAILURES\tREAD\tWHY NOT")
	for i := range e.Candidates {
		v := &e.Candidates[i]
		fmt.Fprintf(t, "%s\t%s\t%s\t%d/%d\t%d\t%s\t%s\t%s\n", v.Backend, v.Node, v.State, v.InFlight, v.Slots, v.Others, scores(v), read(v), v.Lost)
	}
	if e.Policy == "scored" {
		fmt.Fprintf(t, "\t\t\t\t\tweights\t%s\t\t\n", numbers(&e.Weights))
	}
	if err := t.Flush(); err != nil {
		return err
	}
	return explainWakes(w, e)
}

// explainWakes prints what a wake now would come to.
func explainWakes(w io.Writer, e *router.Explanation) error {
	fmt.Fprintln(w)
	if e.Placed == "" {
		_, err := fmt.Fprintf(w, "If a wake were needed now: %s.\n", e.NoPlace)
		return err
	}
	fmt.Fprintf(w, "If a wake were needed now, it would be that of %s.\n\n", e.Placed)
	t := tabwriter.NewWriter(w, 0, 0, 2, ' ', 0)
	fmt.Fprintln(t, "BACKEND\tNODE\tSTATE\tTIER\tREADY IN\tQUEUE\tEVICTION\tWAKE\tGPUS\tWHY NOT")
	for i := range e.Candidates {
		v := &e.Candidates[i]
		if k := v.Wake; k != nil {
			fmt.Fprintf(t, "%s\t%s\t%s\t%s\t%s\t%s\t%s\t%s\t%s\t%s\n", v.Backend, v.Node, v.State, v.Tier,
				seconds(k.Left), seconds(k.Queue), seconds(k.Evict), seconds(k.Wake), strings.Trim(strings.ReplaceAll(fmt.Sprint(k.GPUs), " ", ","), "[]"), k.Lost)
		}
	}
	return t.Flush()
}

// scores are the score and the factors of one that could be picked.
func scores(v *router.Verdict) string {
	if v.Factors == nil {
		return strings.Repeat("-\t", 7) + "-"
	}
	return fmt.Sprintf("%.3f\t%s", v.Score, numbers(v.Factors))
}

func numbers(f *router.Factors) string {
	return fmt.Sprintf("%.3g\t%.3g\t%.3g\t%.3g\t%.3g\t%.3g\t%.3g", f.Load, f.Queue, f.Cache, f.Prompts, f.GPU, f.Memory, f.Failures)
}

// read is how old readings of engine and GPUs are.
func read(v *router.Verdict) string {
	text := func(age float64) string {
		if age < 0 {
			return "never"
		}
		return seconds(age)
	}
	s := "engine " + text(v.EngineAge) + ", GPUs " + text(v.GPUAge)
	if v.Stale {
		s += " (too old)"
	}
	return s
}

func seconds(ms float64) string { return fmt.Sprintf("%.1fs", ms/1000) }
