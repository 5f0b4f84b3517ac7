// Package report writes down what a simulation found: as text, as JSON, as a picture, and as a page of HTML that needs nothing else.
package report

import (
	"encoding/json"
	"fmt"
	"io"
	"strconv"
	"strings"
	"text/tabwriter"

	"pilotlight/warmpool/simulate"
)

// Report is what a simulation found.
type Report struct {
	Title    string
	Command  string
	Settings [][2]string // a word on what was simulated, and its name
	Ours     string      // the kind of policy that others are compared with
	Rows     []Row
	Pool     []PoolRow // where memory is fixed, instead of Rows
}

// Row is what one policy would have cost.
type Row struct {
	Policy string // as it was named
	Bound  bool   // it knows the future
	*simulate.Result
}

// kind is a policy without its settings, and the settings' values.
func kind(spec string) (name, values string) {
	name, rest, _ := strings.Cut(spec, ":")
	var all []string
	for one := range strings.FieldsFuncSeq(rest, func(r rune) bool { return r == ':' || r == ',' }) {
		_, value, _ := strings.Cut(one, "=")
		all = append(all, value)
	}
	return name, strings.Join(all, " ")
}

// Table is a part of a report.
type Table struct {
	Title string
	Head  []string // the first column is of words, the others are of numbers
	Rows  [][]string
	Note  string
}

// Tables are all of it.
func (p *Report) Tables() []Table {
	if p.Pool != nil {
		return []Table{p.pool()}
	}
	all := []Table{p.costs()}
	if t := p.equal(); len(t.Rows) > 0 {
		all = append(all, t)
	}
	return all
}

func (p *Report) costs() Table {
	t := Table{
		Title: "What each policy would have cost",
		Head:  []string{"policy", "cold starts", "cold %", "p50 %", "p75 %", "p90 %", "mean delay", "idle h", "loading h", "cost"},
		Note: "Cold % is of requests, and p50, p75 and p90 are those of the models' own. Delay is of all requests. Idle and loading are hours in which a model " +
			"holds its GPU memory without work.",
	}
	for _, r := range p.Rows {
		t.Rows = append(t.Rows, []string{
			r.Policy, strconv.FormatInt(r.Starts, 10), share(r.ColdPercent()), share(r.P50), share(r.P75), share(r.P90), seconds(r.Delay.Seconds()),
			hours(r.Idle.Hours()), hours(r.Loads.Hours()), fmt.Sprintf("%.0f", r.Money()),
		})
	}
	return t
}

// equal compares others with what our policy needs for as many cold starts, and with how many it has for the same waste.
func (p *Report) equal() Table {
	t := Table{
		Title: p.Ours + " against others",
		Head:  []string{"policy", "cold starts", "waste h", "ours at equal cold starts", "", "ours at equal waste", ""},
		Note:  "Waste is idle and loading hours. Between two settings of ours it is read off a line, over the logarithm of cold starts; beyond them, not at all.",
	}
	ours := p.frontier(func(r Row) bool { name, _ := kind(r.Policy); return name == p.Ours })
	for _, r := range p.Rows {
		at := r.Point()
		waste, ok := simulate.WasteAt(ours, at.Starts)
		if name, _ := kind(r.Policy); name == p.Ours || r.Bound || !ok {
			continue
		}
		row := []string{r.Policy, strconv.FormatInt(r.Starts, 10), hours(at.Waste), hours(waste), change(waste, at.Waste), "", ""}
		if starts, ok := simulate.StartsAt(ours, at.Waste); ok {
			row[5], row[6] = fmt.Sprintf("%.0f", starts), change(starts, at.Starts)
		}
		t.Rows = append(t.Rows, row)
	}
	return t
}

func (p *Report) frontier(of func(Row) bool) []simulate.Point {
	var points []simulate.Point
	for _, r := range p.Rows {
		if of(r) {
			points = append(points, r.Point())
		}
	}
	return simulate.Frontier(points)
}

func change(is, was float64) string {
	if was == 0 {
		return ""
	}
	return fmt.Sprintf("%+.1f %%", 100*(is/was-1))
}

func share(percent float64) string {
	if percent > 0 && percent < 10 {
		return fmt.Sprintf("%.2f", percent)
	}
	return fmt.Sprintf("%.1f", percent)
}

func seconds(s float64) string {
	if s < 1 {
		return fmt.Sprintf("%.0f ms", 1000*s)
	}
	return fmt.Sprintf("%.1f s", s)
}

func hours(h float64) string {
	if h < 10 {
		return fmt.Sprintf("%.1f", h)
	}
	return fmt.Sprintf("%.0f", h)
}

// Text writes it for a terminal.
func (p *Report) Text(w io.Writer) error {
	fmt.Fprintf(w, "%s\n", p.Title)
	for _, s := range p.Settings {
		fmt.Fprintf(w, "  %s: %s\n", s[0], s[1])
	}
	for _, t := range p.Tables() {
		fmt.Fprintln(w)
		if err := t.text(w); err != nil {
			return err
		}
	}
	return nil
}

// text writes a table, words to the left and numbers to the right.
func (t *Table) text(w io.Writer) error {
	widest := len(t.Head[0])
	for _, row := range t.Rows {
		widest = max(widest, len(row[0]))
	}
	out := tabwriter.NewWriter(w, 0, 0, 2, ' ', tabwriter.AlignRight)
	line := func(row []string) {
		fmt.Fprintf(out, "%-*s\t%s\t\n", widest, row[0], strings.Join(row[1:], "\t"))
	}
	line(upper(t.Head))
	for _, row := range t.Rows {
		line(row)
	}
	return out.Flush()
}

func upper(words []string) (all []string) {
	for _, w := range words {
		all = append(all, strings.ToUpper(w))
	}
	return all
}

// JSON writes one object for each policy.
func (p *Report) JSON(w io.Writer) error {
	out := json.NewEncoder(w)
	out.SetIndent("", "  ")
	if p.Pool != nil {
		all := []poolObject{}
		for i := range p.Pool {
			all = append(all, p.Pool[i].object())
		}
		return out.Encode(all)
	}
	type object struct {
		Policy string  `json:"policy"`
		Starts int64   `json:"cold_starts"`
		Cold   float64 `json:"cold_pct"`
		P75    float64 `json:"p75_cold_pct"`
		Idle   float64 `json:"idle_hours"`
		Loads  float64 `json:"load_hours"`
		Asked  int64   `json:"requests"`
	}
	all := []object{}
	for _, r := range p.Rows {
		all = append(all, object{r.Policy, r.Starts, r.ColdPercent(), r.P75, r.Idle.Hours(), r.Loads.Hours(), r.Requests})
	}
	return out.Encode(all)
}
