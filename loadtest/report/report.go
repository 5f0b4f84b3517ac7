// Package report writes down what a load found: for the terminal, as JSON, as CSV, and as a page of HTML that needs nothing else.
package report

import (
	"cmp"
	"encoding/csv"
	"encoding/json"
	"fmt"
	"io"
	"slices"
	"strconv"
	"strings"
	"text/tabwriter"
	"time"

	"pilotlight/loadtest"
)

// Report is what a load found. Times are in milliseconds.
type Report struct {
	Title    string    `json:"title"`
	Command  string    `json:"command,omitempty"`
	Settings []Setting `json:"settings,omitempty"`
	Began    time.Time `json:"began"`
	Seconds  float64   `json:"seconds"` // without the warm-up
	Stopped  bool      `json:"stopped,omitempty"`

	Requests int64            `json:"requests"`
	WarmUp   int64            `json:"warm_up_requests"`
	Most     int64            `json:"most_at_once"`
	Outcomes map[string]int64 `json:"outcomes"`
	Kinds    []Kind           `json:"kinds,omitempty"`
	Rate     float64          `json:"ok_per_second"`
	Tokens   int64            `json:"tokens"`
	Bytes    int64            `json:"bytes"`
	Times    []Times          `json:"times"`
	Models   []Model          `json:"models,omitempty"`
	Timeline []Part           `json:"timeline,omitempty"`
	SLOs     []SLO            `json:"slos,omitempty"`
	Tables   []Table          `json:"tables,omitempty"`
	Notes    []string         `json:"notes,omitempty"`

	curves []curve
	plots  []Plot
}

// Setting is a word on what was run.
type Setting struct {
	Name  string `json:"name"`
	Value string `json:"value"`
}

// Kind is a way in which requests ended other than well.
type Kind struct {
	Outcome string `json:"outcome"`
	Kind    string `json:"kind"`
	Count   int64  `json:"count"`
}

// Times is a distribution of times.
type Times struct {
	What  string  `json:"what"`
	Count int64   `json:"count"`
	Mean  float64 `json:"mean_ms"`
	P50   float64 `json:"p50_ms"`
	P90   float64 `json:"p90_ms"`
	P99   float64 `json:"p99_ms"`
	P999  float64 `json:"p999_ms"`
	Max   float64 `json:"max_ms"`
}

// Model is the part of one model.
type Model struct {
	Name     string           `json:"name"`
	Outcomes map[string]int64 `json:"outcomes"`
	TTFT     Times            `json:"ttft"`
	Total    Times            `json:"total"`
}

// Part is what happened in one part of the time.
type Part struct {
	Second float64 `json:"second"` // when it began
	Length float64 `json:"length_seconds"`
	Sent   int64   `json:"sent"`
	OK     int64   `json:"ok"`
	No     int64   `json:"refused"`
	Left   int64   `json:"left"`
	Broken int64   `json:"broken"`
	Open   int64   `json:"open"` // at its end
	Tokens int64   `json:"tokens"`
	TTFT50 float64 `json:"ttft_p50_ms"` // of requests that were to begin in it; 0: none got a token
	TTFT99 float64 `json:"ttft_p99_ms"`
}

// SLO is what became of a threshold.
type SLO struct {
	SLO  string `json:"slo"`
	Got  string `json:"got"`
	Held bool   `json:"held"`
}

// Table is for what a kind of load finds beyond the above.
type Table struct {
	Title   string     `json:"title"`
	Columns []string   `json:"columns"`
	Rows    [][]string `json:"rows"`
}

// curve is a distribution as a plot shows it.
type curve struct {
	name   string
	points []Point
}

// Of is the report of a load that has ended.
func Of(title string, r *loadtest.Result, slos []loadtest.SLO) *Report {
	p := &Report{
		Title: title, Began: r.Began, Seconds: r.Took().Seconds(), Requests: r.Requests(), WarmUp: r.Warm(), Most: r.Most(),
		Outcomes: map[string]int64{}, Tokens: r.Tokens(), Bytes: r.Bytes(),
	}
	for _, o := range loadtest.Outcomes() {
		p.Outcomes[string(o)] = r.Count(o)
	}
	p.Rate = float64(r.Count(loadtest.OK)) / p.Seconds
	for _, k := range r.Kinds() {
		p.Kinds = append(p.Kinds, Kind{string(k.Outcome), k.Kind.Kind, k.Count})
	}
	for _, t := range []struct {
		what  string
		times loadtest.Times
	}{{"ttft", r.TTFT}, {"gap", r.Gaps}, {"total", r.Total}, {"late", r.Late}} {
		if t.times.Count() == 0 {
			continue
		}
		p.Times = append(p.Times, timesOf(t.what, t.times))
		if t.what != "late" {
			p.curves = append(p.curves, curveOf(t.what, t.times))
		}
	}
	for _, m := range r.Models() {
		outcomes := map[string]int64{}
		for o, n := range m.Outcomes {
			outcomes[string(o)] = n
		}
		p.Models = append(p.Models, Model{m.Name, outcomes, timesOf("ttft", m.TTFT), timesOf("total", m.Total)})
	}
	p.readTimeline(r)
	for _, s := range slos {
		p.SLOs = append(p.SLOs, SLO(s.Check(r)))
	}
	return p
}

func ms(d time.Duration) float64 { return float64(d) / float64(time.Millisecond) }

func timesOf(what string, t loadtest.Times) Times {
	return Times{what, t.Count(), ms(t.Mean()), ms(t.At(50)), ms(t.At(90)), ms(t.At(99)), ms(t.At(99.9)), ms(t.Max())}
}

// curveOf takes a distribution at nines: 0 %, 90 %, 99 %, 99.9 % are as far from one another.
func curveOf(name string, t loadtest.Times) curve {
	c := curve{name: name}
	for nines := 0.0; nines <= 4.001; nines += 0.05 {
		percent := 100 * (1 - pow10(-nines))
		if float64(t.Count())*pow10(-nines) < 1 {
			break // there are not so many that one could say
		}
		c.points = append(c.points, Point{nines, ms(t.At(percent))})
	}
	return c
}

func (p *Report) readTimeline(r *loadtest.Result) {
	every, parts := r.Timeline()
	open := int64(0)
	for i, part := range parts {
		open += part.Sent
		for _, n := range part.Ended {
			open -= n
		}
		p.Timeline = append(p.Timeline, Part{
			Second: float64(i) * every.Seconds(), Length: every.Seconds(), Sent: part.Sent, OK: part.Ended[loadtest.OK], No: part.Ended[loadtest.Refused],
			Left: part.Ended[loadtest.Left], Broken: part.Ended[loadtest.Broken], Open: open, Tokens: part.Tokens,
			TTFT50: ms(part.TTFT.At(50)), TTFT99: ms(part.TTFT.At(99)),
		})
	}
}

// Held says whether every threshold was.
func (p *Report) Held() bool {
	return !slices.ContainsFunc(p.SLOs, func(s SLO) bool { return !s.Held })
}

// Set adds a word on what was run.
func (p *Report) Set(name, format string, args ...any) {
	p.Settings = append(p.Settings, Setting{name, fmt.Sprintf(format, args...)})
}

// Note adds a sentence for the reader.
func (p *Report) Note(format string, args ...any) {
	p.Notes = append(p.Notes, fmt.Sprintf(format, args...))
}

// JSON writes all of it.
func (p *Report) JSON(w io.Writer) error {
	out := json.NewEncoder(w)
	out.SetIndent("", "  ")
	return out.Encode(p)
}

// CSV writes the timeline.
func (p *Report) CSV(w io.Writer) error {
	out := csv.NewWriter(w)
	header := []string{"second", "length_seconds", "sent", "ok", "refused", "left", "broken", "open", "tokens", "ttft_p50_ms", "ttft_p99_ms"}
	if err := out.Write(header); err != nil {
		return err
	}
	for _, t := range p.Timeline {
		row := []string{decimal(t.Second), decimal(t.Length)}
		for _, n := range []int64{t.Sent, t.OK, t.No, t.Left, t.Broken, t.Open, t.Tokens} {
			row = append(row, strconv.FormatInt(n, 10))
		}
		if err := out.Write(append(row, decimal(t.TTFT50), decimal(t.TTFT99))); err != nil {
			return err
		}
	}
	out.Flush()
	return out.Error()
}

func decimal(f float64) string { return strconv.FormatFloat(f, 'f', -1, 64) }

// maxModelRows is how many models the text shows.
const maxModelRows = 12

// Text writes it for the terminal.
func (p *Report) Text(w io.Writer) error {
	var b strings.Builder
	fmt.Fprintf(&b, "%s\n", p.Title)
	for _, s := range p.Settings {
		fmt.Fprintf(&b, "  %s: %s\n", s.Name, s.Value)
	}
	fmt.Fprintf(&b, "\n%s\n", p.summary())
	for _, k := range p.Kinds {
		fmt.Fprintf(&b, "  %d × %s: %s\n", k.Count, k.Outcome, k.Kind)
	}
	for _, t := range p.tables() {
		t.text(&b)
	}
	for _, n := range p.Notes {
		fmt.Fprintf(&b, "\n%s\n", n)
	}
	if len(p.SLOs) > 0 {
		b.WriteString("\n")
	}
	for _, s := range p.SLOs {
		fmt.Fprintf(&b, "%s %s: %s\n", map[bool]string{true: "held  ", false: "FAILED"}[s.Held], s.SLO, s.Got)
	}
	_, err := io.WriteString(w, b.String())
	return err
}

// summary is the outcomes in a sentence.
func (p *Report) summary() string {
	words := []string{}
	for _, o := range loadtest.Outcomes() {
		words = append(words, fmt.Sprintf("%d %s", p.Outcomes[string(o)], o))
	}
	s := fmt.Sprintf("%d requests in %s: %s. %.1f ok/s, %.0f tokens/s, %d at once at most.", p.Requests,
		loadtest.Short(time.Duration(p.Seconds*float64(time.Second))), strings.Join(words, ", "), p.Rate, float64(p.Tokens)/p.Seconds, p.Most)
	if p.WarmUp > 0 {
		s += fmt.Sprintf(" %d more in the warm-up do not count.", p.WarmUp)
	}
	if p.Stopped {
		s += " It was stopped before its end."
	}
	return s
}

// tables are all there are to show.
func (p *Report) tables() []Table {
	names := map[string]string{
		"ttft": "to the first token", "gap": "between tokens", "total": "to the end", "late": "sent late by",
	}
	times := Table{Title: "Times", Columns: []string{"", "mean", "p50", "p90", "p99", "p99.9", "max", "of"}}
	for _, t := range p.Times {
		times.Rows = append(times.Rows, append([]string{names[t.What]}, t.cells()...))
	}
	all := []Table{times}
	if len(p.Models) > 1 {
		models := Table{Title: "Models", Columns: []string{"", "requests", "not ok", "first token p50", "p99", "to the end p50", "p99"}}
		for i, m := range p.Models {
			if i == maxModelRows {
				models.Rows = append(models.Rows, []string{fmt.Sprintf("%d more", len(p.Models)-i), "", "", "", "", "", ""})
				break
			}
			n, ok := int64(0), m.Outcomes[string(loadtest.OK)]
			for _, of := range m.Outcomes {
				n += of
			}
			models.Rows = append(models.Rows, []string{
				m.Name, strconv.FormatInt(n, 10), strconv.FormatInt(n-ok, 10), short(m.TTFT.P50), short(m.TTFT.P99), short(m.Total.P50), short(m.Total.P99),
			})
		}
		all = append(all, models)
	}
	return append(all, p.Tables...)
}

func short(ms float64) string { return loadtest.Short(time.Duration(ms * float64(time.Millisecond))) }

func (t Times) cells() []string {
	return []string{short(t.Mean), short(t.P50), short(t.P90), short(t.P99), short(t.P999), short(t.Max), strconv.FormatInt(t.Count, 10)}
}

func (t Table) text(b *strings.Builder) {
	if len(t.Rows) == 0 {
		return
	}
	fmt.Fprintf(b, "\n%s\n", t.Title)
	w := tabwriter.NewWriter(b, 0, 0, 2, ' ', 0)
	for _, row := range append([][]string{t.Columns}, t.Rows...) {
		fmt.Fprintf(w, "  %s\n", strings.Join(row, "\t"))
	}
	w.Flush()
}

// Plot is one more plot of the page.
type Plot struct {
	Title  string
	Unit   string // of what is up
	Series []Series
}

// Series is one line of a plot.
type Series struct {
	Name   string
	Points []Point
}

// Point is a place in a plot.
type Point struct{ X, Y float64 }

// Plot adds one, over seconds.
func (p *Report) Plot(title, unit string, series ...Series) {
	p.plots = append(p.plots, Plot{title, unit, series})
}

// Median is the middle one, or the mean of the two in the middle. It needs at least one.
func Median(all []float64) float64 {
	sorted := slices.SortedFunc(slices.Values(all), cmp.Compare)
	n := len(sorted)
	return (sorted[(n-1)/2] + sorted[n/2]) / 2
}
