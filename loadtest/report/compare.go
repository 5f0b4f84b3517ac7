package report

import (
	"errors"
	"fmt"
	"slices"
)

// Rival is one of those that got the same load, and the reports of its turns.
type Rival struct {
	Name  string
	Turns []*Report
}

// column is a figure that is compared.
type column struct {
	title string
	of    func(*Report) float64
	write func(float64) string
}

func columns() []column {
	number := func(f float64) string { return fmt.Sprintf("%.1f", f) }
	notOK := func(p *Report) float64 { return float64(p.Requests - p.Outcomes["ok"]) }
	all := []column{{"ok/s", func(p *Report) float64 { return p.Rate }, number}, {"not ok", notOK, number}}
	for _, t := range []struct{ title, what string }{{"first token", "ttft"}, {"between tokens", "gap"}, {"to the end", "total"}} {
		all = append(all,
			column{t.title + " p50", func(p *Report) float64 { return p.times(t.what).P50 }, short},
			column{t.title + " p99", func(p *Report) float64 { return p.times(t.what).P99 }, short})
	}
	return all
}

// times are those of a name, or none.
func (p *Report) times(what string) Times {
	if i := slices.IndexFunc(p.Times, func(t Times) bool { return t.What == what }); i >= 0 {
		return p.Times[i]
	}
	return Times{}
}

// Compare is the report of several that got the same load in turns: the first one's last turn, and a table with the medians of
// all. Ratios are medians of the rounds' ratios, in which what else the machine did counts for both alike. The thresholds
// have to hold in every turn of the first.
func Compare(title string, rivals []Rival) (*Report, error) {
	first := rivals[0].Turns
	if len(first) == 0 {
		return nil, errors.New("it was stopped before anything could be compared")
	}
	p := *first[len(first)-1]
	p.Title, p.SLOs = title, nil
	for round, turn := range first {
		for _, s := range turn.SLOs {
			s.SLO = fmt.Sprintf("%s (round %d)", s.SLO, round+1)
			p.SLOs = append(p.SLOs, s)
		}
	}
	medians := Table{Title: fmt.Sprintf("Medians of %d rounds", len(first)), Columns: []string{""}}
	ratios := Table{Title: rivals[0].Name + " against the others: medians of the rounds' ratios", Columns: []string{""}}
	for _, c := range columns() {
		medians.Columns, ratios.Columns = append(medians.Columns, c.title), append(ratios.Columns, c.title)
	}
	for i, r := range rivals {
		medians.Rows = append(medians.Rows, row(r.Name, func(c column) string { return r.median(c) }))
		if i > 0 {
			ratios.Rows = append(ratios.Rows, row(r.Name, func(c column) string { return ratio(rivals[0], r, c) }))
		}
	}
	p.Tables = append(p.Tables, medians, ratios)
	p.Note("Above is the last turn of %s.", rivals[0].Name)
	return &p, nil
}

func row(name string, cell func(column) string) []string {
	cells := []string{name}
	for _, c := range columns() {
		cells = append(cells, cell(c))
	}
	return cells
}

func (r Rival) median(c column) string {
	if len(r.Turns) == 0 {
		return "–"
	}
	var all []float64
	for _, t := range r.Turns {
		all = append(all, c.of(t))
	}
	return c.write(Median(all))
}

// ratio is how a figure of one relates to that of another.
func ratio(a, b Rival, c column) string {
	var all []float64
	for i := range min(len(a.Turns), len(b.Turns)) {
		if of := c.of(b.Turns[i]); of != 0 {
			all = append(all, c.of(a.Turns[i])/of)
		}
	}
	if len(all) == 0 {
		return "–"
	}
	return fmt.Sprintf("%.2f", Median(all))
}
