//go:build linux

package main

import (
	"encoding/json"
	"fmt"
	"math"
	"os"
	"slices"
	"strings"
	"text/tabwriter"
)

// column is one of a table: a figure, and with how many decimals it is shown.
type column struct {
	title, what string
	decimals    int
}

type table struct {
	title   string
	columns []column
}

func (b *bench) tables() []table {
	return []table{
		{
			fmt.Sprintf("%d connections that are kept; a small JSON request, an answer of 1 KiB; then the same at %d requests/s", b.options.connections, b.options.rate),
			[]column{
				{"requests/s", "req/s", 0},
				{"of its core", "req core", 0},
				{"CPU µs/request", "req µs", 2},
				{"paced: p50 µs", "paced p50", 0},
				{"p99 µs", "paced p99", 0},
				{"CPU µs/request", "paced µs", 1},
			},
		},
		{
			fmt.Sprintf("%d streams × %d tokens/s", b.options.streams, b.options.tokens),
			[]column{{"tokens/s", "token/s", 0}, {"CPU µs/token", "token µs", 2}, {"p50 µs", "token p50", 0}, {"p99 µs", "token p99", 0}},
		},
		{fmt.Sprintf("%d streams that idle", b.idle), []column{{"KiB/stream", "KiB/stream", 1}}},
	}
}

// report prints medians, and as its last line JSON.
func (b *bench) report() error {
	for _, t := range b.tables() {
		if !slices.ContainsFunc(t.columns, func(c column) bool {
			return slices.ContainsFunc(b.names, func(n string) bool { return b.median(n, c.what) > 0 })
		}) {
			continue
		}
		fmt.Printf("\n%s\n", t.title)
		w := tabwriter.NewWriter(os.Stdout, 0, 0, 2, ' ', tabwriter.AlignRight)
		fmt.Fprint(w, "proxy\t")
		for _, c := range t.columns {
			fmt.Fprint(w, c.title+"\t")
		}
		fmt.Fprintln(w)
		for _, name := range b.names {
			fmt.Fprint(w, name+"\t")
			for _, c := range t.columns {
				if b.figures[name][c.what] == nil {
					fmt.Fprint(w, "–\t")
				} else {
					fmt.Fprintf(w, "%.*f\t", c.decimals, b.median(name, c.what))
				}
			}
			fmt.Fprintln(w)
		}
		w.Flush()
	}
	return b.summary()
}

// summary prints how the edge compares: the medians of the rounds' ratios, in which what else the machine had to do counts
// for both alike.
func (b *bench) summary() error {
	found := map[string]float64{}
	put := func(key string, figure float64) {
		if figure > 0 && !math.IsInf(figure, 0) {
			found[key] = math.Round(figure*100) / 100
		}
	}
	for _, rival := range b.names {
		if rival == "pilotlight" || rival == direct {
			continue
		}
		vs := "_vs_" + strings.ReplaceAll(rival, "/", "")
		put(vs[1:]+"_cpu", b.ratio("req µs", rival))
		put("paced_cpu"+vs, b.ratio("paced µs", rival))
		put("token_cpu"+vs, b.ratio("token µs", rival))
		for _, p := range []string{"p50", "p99"} {
			put("delay_"+p+vs, b.added("paced "+p, rival))
			put("token_delay_"+p+vs, b.added("token "+p, rival))
		}
	}
	put("cpu_us_per_request", b.median("pilotlight", "req µs"))
	put("requests_per_s", b.median("pilotlight", "req/s"))
	put("cpu_us_per_token", b.median("pilotlight", "token µs"))
	put("kib_per_stream", b.median("pilotlight", "KiB/stream"))
	fmt.Println()
	return json.NewEncoder(os.Stdout).Encode(found)
}

func (b *bench) median(name, what string) float64 { return median(b.figures[name][what]) }

// ratio is the edge's figure to a rival's.
func (b *bench) ratio(what, rival string) float64 {
	var all []float64
	ours, theirs := b.figures["pilotlight"][what], b.figures[rival][what]
	for i := range min(len(ours), len(theirs)) {
		all = append(all, ours[i]/theirs[i])
	}
	return median(all)
}

// added is the ratio of what the edge and a rival add to the time without a proxy.
func (b *bench) added(what, rival string) float64 {
	none := b.median(direct, what)
	return (b.median("pilotlight", what) - none) / (b.median(rival, what) - none)
}

func median(all []float64) float64 {
	if len(all) == 0 {
		return 0
	}
	all = slices.Sorted(slices.Values(all))
	return all[len(all)/2]
}
