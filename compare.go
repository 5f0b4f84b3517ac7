package main

import (
	"context"
	"errors"
	"fmt"
	"iter"
	"os"
	"strings"

	"pilotlight/loadtest"
	"pilotlight/loadtest/report"
)

// rival is one of those that are compared.
type rival struct {
	name   string
	target *loadtest.Target
}

// rivals are the address of the load and those of --compare.
func (c *loadCmd) rivals(shape loadtest.Shape) (all []rival, err error) {
	for _, pair := range append([]string{c.URL + "=" + c.URL}, c.Compare...) {
		name, url, found := strings.Cut(pair, "=")
		if !found || name == "" || url == "" {
			return all, fmt.Errorf("--compare %q: say NAME=URL", pair)
		}
		target, err := loadtest.NewTarget(url, shape, c.Connections)
		if err != nil {
			return all, fmt.Errorf("--compare %s: %w", name, err)
		}
		all = append(all, rival{name, target})
	}
	return all, nil
}

// compare puts the same load on each in turn, again and again, each time beginning with another: what else the machine does meanwhile
// concerns all alike.
func (c *loadCmd) compare(ctx context.Context, shape loadtest.Shape, models []string, requests iter.Seq[loadtest.Request]) error {
	if c.Rounds < 1 {
		return errors.New("--rounds is at least 1")
	}
	all, err := c.rivals(shape)
	for _, r := range all {
		defer r.target.Close()
	}
	if err != nil {
		return err
	}
	turns := make([]report.Rival, len(all))
	for i, r := range all {
		turns[i].Name = r.name
	}
	for round := range c.Rounds {
		for i := range all {
			i = (i + round) % len(all)
			if ctx.Err() != nil {
				break
			}
			if !c.Quiet {
				fmt.Fprintf(os.Stderr, "round %d of %d: %s\n", round+1, c.Rounds, all[i].name)
			}
			turn := report.Of(all[i].name, c.measure(ctx, all[i].target, requests), c.SLO)
			if ctx.Err() == nil { // else it is not like the others
				turns[i].Turns = append(turns[i].Turns, turn)
			}
		}
	}
	p, err := report.Compare("Load on "+c.URL+", compared", turns)
	if err != nil {
		return err
	}
	c.describe(p, models)
	p.Stopped = ctx.Err() != nil
	return c.write(p)
}
