package main

import (
	"cmp"
	"context"
	"encoding/csv"
	"encoding/json"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"text/tabwriter"
	"time"

	"pilotlight/proxy/admin"
	"pilotlight/proxy/ledger"
)

type usageCmd struct {
	By    string   `default:"tenant,model" placeholder:"LIST" help:"What to tell apart: tenant, model, backend, edge, and one of minute, hour, day (of UTC), with commas (${default})."`
	Since string   `default:"24h" placeholder:"TIME" help:"From when on: how long ago, as in 24h or 30d, or a time, as in 2026-11-01 or 2026-11-01T08:00:00Z (${default})."`
	Until string   `placeholder:"TIME" help:"Until when, likewise. Default: now."`
	Admin []string `sep:"none" placeholder:"ADDR" help:"The admin port of an edge; once for each edge, whose usage is added up. Default: PILOTLIGHT_ADMIN or 127.0.0.1:8081, unless files are given."`
	JSON  bool     `xor:"form" help:"Print JSON in place of a table. Costs are in billionths of the currency."`
	CSV   bool     `xor:"form" help:"Print comma-separated values in place of a table."`
	Files []string `arg:"" optional:"" type:"existingfile" name:"FILE" help:"Ledgers of edges, as node.state_dir has them (ledger.db), also of those that do not run."`
}

// Help says what the columns mean.
func (usageCmd) Help() string {
	return `GPU is time on GPUs, summed over GPUs. Below the requests stands what belongs to none: wake, idle, unattributed (who used it is not
known), others (programs that are not ours); all rows together are what was measured.

COST is the price of that time. HELD is a share of the price of the memory that the backends held, busy or not: a backend with half of a
GPU's memory costs half of the GPU, and its requests bear that by the GPU time they took. Prices are those of the time (prices in the
configuration).`
}

func (c usageCmd) Run(ctx context.Context) error {
	q, err := c.query(time.Now())
	if err != nil {
		return err
	}
	book, err := booksOf(ctx, c.Admin, c.Files, q)
	if err != nil {
		return err
	}
	t := book.Table(q.By)
	switch {
	case c.JSON:
		e := json.NewEncoder(os.Stdout)
		e.SetIndent("", "  ")
		return e.Encode(t)
	case c.CSV:
		return usageCSV(os.Stdout, &t)
	}
	return usageTable(os.Stdout, &t, q.By)
}

func (c usageCmd) query(now time.Time) (q ledger.Query, err error) {
	if q.By, err = ledger.ParseBy(c.By); err != nil {
		return q, err
	}
	if q.Since, err = moment(c.Since, now); err != nil {
		return q, fmt.Errorf("--since: %w", err)
	}
	if c.Until != "" {
		if q.Until, err = moment(c.Until, now); err != nil {
			return q, fmt.Errorf("--until: %w", err)
		}
		if !q.Until.After(q.Since) {
			return q, fmt.Errorf("--until %s is not after --since %s", c.Until, c.Since)
		}
	}
	return q, nil
}

// moment is a time, or one that was so long ago.
func moment(text string, now time.Time) (time.Time, error) {
	if days, ok := strings.CutSuffix(text, "d"); ok {
		if n, err := strconv.Atoi(days); err == nil && n >= 0 {
			return now.AddDate(0, 0, -n), nil
		}
	}
	if ago, err := time.ParseDuration(text); err == nil && ago >= 0 {
		return now.Add(-ago), nil
	}
	for _, form := range []string{time.RFC3339, "2006-01-02T15:04", time.DateOnly} {
		if t, err := time.Parse(form, text); err == nil {
			return t, nil
		}
	}
	return time.Time{}, fmt.Errorf("%q is neither how long ago, as in 24h or 30d, nor a time, as in 2026-11-01 or 2026-11-01T08:00:00Z", text)
}

// booksOf asks edges and reads files.
func booksOf(ctx context.Context, edges, files []string, q ledger.Query) (ledger.Book, error) {
	if len(edges) == 0 && len(files) == 0 {
		edges = []string{cmp.Or(os.Getenv("PILOTLIGHT_ADMIN"), "127.0.0.1:8081")}
	}
	var books []ledger.Book
	for _, addr := range edges {
		b, err := admin.Client{Addr: addr}.Usage(ctx, q)
		if err != nil {
			return ledger.Book{}, err
		}
		books = append(books, b)
	}
	for _, file := range files {
		b, err := ledger.Read(ctx, file, q)
		if err != nil {
			return ledger.Book{}, err
		}
		if b.Edges[0] == "" {
			b.Edges[0], _ = filepath.Abs(file)
		}
		books = append(books, b)
	}
	return ledger.Merge(books...)
}

// usageTable prints what people look at.
func usageTable(w io.Writer, t *ledger.Table, by []ledger.By) error {
	until := "now"
	if !t.Until.IsZero() {
		until = t.Until.Local().Format("2006-01-02 15:04")
	}
	fmt.Fprintf(w, "From %s until %s, by %s.\n\n", t.Since.Local().Format("2006-01-02 15:04"), until, strings.Join(t.Edges, ", "))
	tw := tabwriter.NewWriter(w, 0, 0, 2, ' ', tabwriter.AlignRight)
	head := []string{}
	for _, b := range by {
		head = append(head, strings.ToUpper(string(b)))
	}
	head = append(head, "REQUESTS", "REFUSED", "BROKEN", "COLD", "PROMPT", "OUTPUT", "GPU", "ENERGY")
	if t.Currency != "" {
		head = append(head, "COST "+t.Currency, "HELD "+t.Currency)
	}
	fmt.Fprintln(tw, strings.Join(head, "\t")+"\t")
	for i := range t.Rows {
		if r := &t.Rows[i]; r.Kind != ledger.KindRequest && r.GPU == 0 && r.Microjoules == 0 && r.Allocated == 0 {
			continue // what was held is with those who used it
		}
		fmt.Fprintln(tw, strings.Join(append(names(&t.Rows[i], by), numbersOf(&t.Rows[i], t.Currency)...), "\t")+"\t")
	}
	total := append(slices.Repeat([]string{""}, max(0, len(by)-1)), "total")
	if len(by) == 0 {
		total = nil
	}
	fmt.Fprintln(tw, strings.Join(append(total, numbersOf(&t.Total, t.Currency)...), "\t")+"\t")
	if err := tw.Flush(); err != nil {
		return err
	}
	if t.Total.Estimated > 0 {
		fmt.Fprintf(w, "\n%.1f %% of the GPU time is an estimate: no driver measured it.\n", 100*float64(t.Total.Estimated)/float64(t.Total.GPU))
	}
	if t.Dropped > 0 {
		fmt.Fprintf(w, "\n%d times something could not be written down, because too much was waiting for that; it is missing above.\n", t.Dropped)
	}
	return nil
}

// names are what a row is about.
func names(r *ledger.Row, by []ledger.By) (all []string) {
	for _, b := range by {
		switch b {
		case ledger.ByTenant:
			all = append(all, nobody(r, r.Tenant))
		case ledger.ByModel:
			all = append(all, nobody(r, r.Model))
		case ledger.ByBackend:
			all = append(all, nobody(r, r.Backend))
		case ledger.ByEdge:
			all = append(all, r.Edge)
		case ledger.ByMinute, ledger.ByHour:
			all = append(all, r.Time.Format("2006-01-02 15:04"))
		case ledger.ByDay:
			all = append(all, r.Time.Format(time.DateOnly))
		}
	}
	return all
}

// nobody is the name, with the kind of what belongs to no request.
func nobody(r *ledger.Row, name string) string {
	switch {
	case name != "" && r.Kind == ledger.KindRequest:
		return name
	case name != "":
		return name + " (" + r.Kind + ")"
	case r.Kind == ledger.KindRequest:
		return "-"
	}
	return "(" + r.Kind + ")"
}

func numbersOf(r *ledger.Row, currency string) []string {
	all := []string{
		strconv.FormatInt(r.Requests, 10), strconv.FormatInt(r.Refused, 10), strconv.FormatInt(r.Broken, 10), strconv.FormatInt(r.Cold, 10),
		strconv.FormatInt(r.Prompt, 10), strconv.FormatInt(r.Output, 10),
		fmt.Sprintf("%.3fs", r.GPU.Seconds()), fmt.Sprintf("%.1fJ", float64(r.Microjoules)/1e6),
	}
	if currency != "" {
		all = append(all, money(r.Cost), money(r.Allocated))
	}
	return all
}

// money is an amount in the currency's own unit.
func money(nano int64) string { return strconv.FormatFloat(float64(nano)/1e9, 'f', 6, 64) }

// usageCSV prints every number that there is, one row a line.
func usageCSV(w io.Writer, t *ledger.Table) error {
	out := csv.NewWriter(w)
	_ = out.Write([]string{ // Flush says what went wrong
		"time", "edge", "tenant", "model", "backend", "kind", "requests", "ok", "refused", "left", "broken", "cold_starts", "prompt_tokens", "output_tokens",
		"served_ms", "waited_ms", "gpu_ms", "gpu_estimated_ms", "joules", "cost", "held_cost", "currency",
	})
	for i := range t.Rows {
		r := &t.Rows[i]
		at := ""
		if r.Time != nil {
			at = r.Time.Format(time.RFC3339)
		}
		row := []string{at, r.Edge, r.Tenant, r.Model, r.Backend, r.Kind}
		for _, n := range []int64{r.Requests, r.OK, r.Refused, r.Left, r.Broken, r.Cold, r.Prompt, r.Output} {
			row = append(row, strconv.FormatInt(n, 10))
		}
		for _, d := range []time.Duration{r.Served, r.Waited, r.GPU, r.Estimated} {
			row = append(row, strconv.FormatFloat(float64(d)/1e6, 'f', 6, 64))
		}
		_ = out.Write(append(row, strconv.FormatFloat(float64(r.Microjoules)/1e6, 'f', 6, 64), money9(r.Cost), money9(r.Allocated), t.Currency))
	}
	out.Flush()
	return out.Error()
}

// money9 is an amount in the currency's own unit, exactly.
func money9(nano int64) string { return strconv.FormatFloat(float64(nano)/1e9, 'f', 9, 64) }
