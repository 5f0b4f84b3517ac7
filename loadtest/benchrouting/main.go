// Command benchrouting compares ways to pick a backend by the time to the first token, in virtual time.
//
//	go run ./loadtest/benchrouting [--trace FILE] [--seeds 5]
//
// Six replicas of a model stand on four nodes of two GPUs each, which they share with other tenants (fleet.go says how). The
// requests are recorded ones: when they came, and how long their prompts and answers were. The decisions are router.Pick's own, and
// it sees what probes would have shown it by then, no more.
package main

import (
	_ "embed"
	"errors"
	"flag"
	"fmt"
	"io"
	"os"
	"slices"
	"strings"
	"text/tabwriter"
	"time"

	"pilotlight/config"
)

// excerpt is the beginning of a recording; testdata/LICENSE.md says whose.
//
//go:embed testdata/azure-llm-2023-conv.csv
var excerpt string

func main() {
	file := flag.String("trace", "", "a recording in the form of the Azure LLM inference trace 2023: TIMESTAMP,ContextTokens,GeneratedTokens; by default the first 10 minutes of it")
	seeds := flag.Uint64("seeds", 5, "how many fleets to try: each seed places tenants and probes differently")
	flag.Parse()
	if err := run(os.Stdout, *file, *seeds); err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
}

// policies are the ones that are compared, ours first.
func policies() []config.RoutingPolicy {
	return []config.RoutingPolicy{config.Scored, config.RoundRobin, config.Random, config.LeastConnections, config.PowerOfTwo}
}

func run(w io.Writer, file string, seeds uint64) error {
	text := excerpt
	if file != "" {
		read, err := os.ReadFile(file)
		if err != nil {
			return fmt.Errorf("read the trace: %w", err)
		}
		text = string(read)
	}
	trace, err := parse(strings.NewReader(text))
	if err != nil {
		return err
	}
	if seeds == 0 {
		return errors.New("--seeds is 0; at least one fleet is needed")
	}
	pooled := map[config.RoutingPolicy][]time.Duration{}
	p99 := map[config.RoutingPolicy][]time.Duration{}
	for seed := range seeds {
		for _, p := range policies() {
			times := simulate(seed, p, trace)
			pooled[p] = append(pooled[p], times...)
			p99[p] = append(p99[p], quantile(times, 0.99))
		}
	}
	fmt.Fprintf(w, "%d requests in %s, on %d fleets; time to the first token:\n\n", len(trace), trace[len(trace)-1].at.Round(time.Second), seeds)
	out := tabwriter.NewWriter(w, 0, 0, 2, ' ', tabwriter.AlignRight)
	fmt.Fprintln(out, "policy\tp50\tp90\tp99\tp99 by fleet\t")
	for _, p := range policies() {
		fmt.Fprintf(out, "%s\t%s\t%s\t%s\t%s\t\n", p, short(quantile(pooled[p], 0.5)), short(quantile(pooled[p], 0.9)), short(quantile(pooled[p], 0.99)), list(p99[p]))
	}
	if err := out.Flush(); err != nil {
		return err
	}
	best, name := time.Duration(0), config.RoutingPolicy("")
	for _, p := range policies()[1:] {
		if t := quantile(pooled[p], 0.99); name == "" || t < best {
			best, name = t, p
		}
	}
	ours := quantile(pooled[config.Scored], 0.99)
	_, err = fmt.Fprintf(w, "\np99 of %s is %.0f %% below that of %s, the best of the others; fleet by fleet: %s\n",
		config.Scored, 100*(1-float64(ours)/float64(best)), name, fleetByFleet(p99))
	return err
}

// fleetByFleet says how far below the best of the others ours is.
func fleetByFleet(p99 map[config.RoutingPolicy][]time.Duration) string {
	var all []string
	for i, ours := range p99[config.Scored] {
		best := time.Duration(0)
		for _, p := range policies()[1:] {
			if t := p99[p][i]; best == 0 || t < best {
				best = t
			}
		}
		all = append(all, fmt.Sprintf("%.0f %%", 100*(1-float64(ours)/float64(best))))
	}
	return strings.Join(all, ", ")
}

func list(times []time.Duration) string {
	var all []string
	for _, t := range times {
		all = append(all, short(t))
	}
	return strings.Join(all, " ")
}

func short(d time.Duration) string { return d.Round(time.Millisecond).String() }

// quantile is the time below which a share of them is.
func quantile(times []time.Duration, share float64) time.Duration {
	sorted := slices.Sorted(slices.Values(times))
	return sorted[min(int(share*float64(len(sorted))), len(sorted)-1)]
}
