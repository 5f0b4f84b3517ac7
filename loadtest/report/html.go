package report

import (
	_ "embed"
	"fmt"
	"html/template"
	"io"
	"math"
	"slices"
	"strings"
)

//go:embed page.html
var page string

// HTML writes a page that asks nobody for anything else.
func (p *Report) HTML(w io.Writer) error {
	t, err := template.New("report").Funcs(template.FuncMap{"plot": Plot.svg}).Parse(page)
	if err != nil {
		return fmt.Errorf("make a page of the report: %w", err)
	}
	return t.Execute(w, map[string]any{"R": p, "Summary": p.summary(), "Tables": p.tables(), "Plots": p.allPlots(), "Curve": p.curvePlot()})
}

// allPlots are those over time.
func (p *Report) allPlots() []Plot {
	if len(p.Timeline) == 0 {
		return nil
	}
	names := []string{"sent", "ok", "refused", "left", "broken"}
	rates, some := make([]Series, len(names)), make([]bool, len(names))
	open := Series{Name: "open requests"}
	p50, p99 := Series{Name: "p50"}, Series{Name: "p99"}
	for _, t := range p.coarse() {
		for i, n := range []int64{t.Sent, t.OK, t.No, t.Left, t.Broken} {
			rates[i].Name = names[i]
			rates[i].Points = append(rates[i].Points, Point{t.Second, float64(n) / t.Length})
			some[i] = some[i] || n > 0
		}
		open.Points = append(open.Points, Point{t.Second, float64(t.Open)})
		if t.TTFT99 > 0 {
			p50.Points = append(p50.Points, Point{t.Second, t.TTFT50})
			p99.Points = append(p99.Points, Point{t.Second, t.TTFT99})
		}
	}
	var seen []Series
	for i, s := range rates {
		if some[i] {
			seen = append(seen, s)
		}
	}
	all := []Plot{
		{"Requests in a second", "/s", seen},
		{"Open requests", "", []Series{open}},
		{"Time to the first token, by when the request was to begin", "ms", []Series{p50, p99}},
	}
	return append(all, p.plots...)
}

// maxPoints is how many a line over time has.
const maxPoints = 120

// coarse is the timeline in no more parts than a plot can show. Times to the first token are the longest of the parts that are put together.
func (p *Report) coarse() (all []Part) {
	for some := range slices.Chunk(p.Timeline, (len(p.Timeline)+maxPoints-1)/maxPoints) {
		sum := some[0]
		for _, t := range some[1:] {
			sum.Length += t.Length
			sum.Sent, sum.OK, sum.No, sum.Left, sum.Broken = sum.Sent+t.Sent, sum.OK+t.OK, sum.No+t.No, sum.Left+t.Left, sum.Broken+t.Broken
			sum.Open, sum.Tokens = t.Open, sum.Tokens+t.Tokens
			sum.TTFT50, sum.TTFT99 = max(sum.TTFT50, t.TTFT50), max(sum.TTFT99, t.TTFT99)
		}
		all = append(all, sum)
	}
	return all
}

// curvePlot are the distributions.
func (p *Report) curvePlot() Plot {
	plot := Plot{Title: "Times by percentile", Unit: "ms"}
	names := map[string]string{"ttft": "to the first token", "gap": "between tokens", "total": "to the end"}
	for _, c := range p.curves {
		plot.Series = append(plot.Series, Series{names[c.name], c.points})
	}
	return plot
}

func pow10(x float64) float64 { return math.Pow(10, x) }

// The measures of a plot, in its own units.
const (
	plotWidth, plotHeight         = 760.0, 260.0
	marginLeft, marginRight       = 64.0, 12.0
	marginTop, marginBottom       = 30.0, 28.0
	maxColours                    = 6
	innerWidth                    = plotWidth - marginLeft - marginRight
	innerHeight                   = plotHeight - marginTop - marginBottom
	percentiles                   = "Times by percentile"
	legendStep, legendDotDistance = 150.0, 10.0
)

// svg draws it.
func (p Plot) svg() template.HTML {
	var b strings.Builder
	fmt.Fprintf(&b, `<svg viewBox="0 0 %g %g" role="img" aria-label="%s">`, plotWidth, plotHeight, template.HTMLEscapeString(p.Title))
	right, top := p.bounds()
	x := func(v float64) float64 { return marginLeft + innerWidth*v/right }
	y := func(v float64) float64 { return marginTop + innerHeight*(1-v/top) }
	p.axes(&b, right, top, x, y)
	for i, s := range p.Series {
		colour := i % maxColours
		var path strings.Builder
		for j, at := range s.Points {
			fmt.Fprintf(&path, "%s%.1f %.1f", map[bool]string{true: "M", false: "L"}[j == 0], x(at.X), y(at.Y))
		}
		fmt.Fprintf(&b, `<path class="line c%d" d="%s"/>`, colour, path.String())
		if len(s.Points) == 1 {
			fmt.Fprintf(&b, `<circle class="dot c%d" cx="%.1f" cy="%.1f" r="3"/>`, colour, x(s.Points[0].X), y(s.Points[0].Y))
		}
		left := marginLeft + legendStep*float64(i%5)
		fmt.Fprintf(&b, `<circle class="dot c%d" cx="%.1f" cy="14" r="4"/><text x="%.1f" y="18">%s</text>`, colour, left, left+legendDotDistance,
			template.HTMLEscapeString(s.Name))
	}
	b.WriteString("</svg>")
	return template.HTML(b.String()) //nolint:gosec // what is not ours in it was escaped
}

// bounds are the largest of both directions, rounded up.
func (p Plot) bounds() (right, top float64) {
	for _, s := range p.Series {
		for _, at := range s.Points {
			right, top = max(right, at.X), max(top, at.Y)
		}
	}
	if right == 0 {
		right = 1
	}
	if top == 0 {
		top = 1
	}
	return right, math.Ceil(top/step(top)) * step(top)
}

// step is a round distance of which 3 to 7 fit.
func step(top float64) float64 {
	s := pow10(math.Floor(math.Log10(top)))
	switch {
	case top/s < 1.5:
		return s / 4
	case top/s < 3:
		return s / 2
	case top/s < 7:
		return s
	}
	return 2 * s
}

func (p Plot) axes(b *strings.Builder, right, top float64, x, y func(float64) float64) {
	for v := 0.0; v <= top*1.0001; v += step(top) {
		fmt.Fprintf(b, `<line class="grid" x1="%g" x2="%g" y1="%.1f" y2="%.1f"/>`, marginLeft, plotWidth-marginRight, y(v), y(v))
		fmt.Fprintf(b, `<text class="left" x="%g" y="%.1f">%s</text>`, marginLeft-6, y(v)+4, template.HTMLEscapeString(p.label(v)))
	}
	if p.Title == percentiles {
		for nines, label := range []string{"0%", "90%", "99%", "99.9%", "99.99%"} {
			if float64(nines) <= right {
				fmt.Fprintf(b, `<text class="below" x="%.1f" y="%g">%s</text>`, x(float64(nines)), plotHeight-8, label)
			}
		}
		return
	}
	for v := 0.0; v <= right*1.0001; v += step(right) {
		fmt.Fprintf(b, `<text class="below" x="%.1f" y="%g">%gs</text>`, x(v), plotHeight-8, math.Round(v*100)/100)
	}
}

// label is a value with its unit.
func (p Plot) label(v float64) string {
	switch {
	case p.Unit == "ms" && v >= 1000:
		return fmt.Sprintf("%gs", math.Round(v)/1000)
	case v >= 1e6:
		return fmt.Sprintf("%gM%s", v/1e6, p.Unit)
	}
	return fmt.Sprintf("%g%s", math.Round(v*1000)/1000, p.Unit)
}
