package report

import (
	"cmp"
	"fmt"
	"image/color"
	"io"
	"math"
	"slices"

	"gonum.org/v1/plot"
	"gonum.org/v1/plot/font"
	"gonum.org/v1/plot/plotter"
	"gonum.org/v1/plot/text"
	"gonum.org/v1/plot/vg"
	"gonum.org/v1/plot/vg/draw"
	"gonum.org/v1/plot/vg/vgimg"
	"gonum.org/v1/plot/vg/vgsvg"

	"pilotlight/warmpool/simulate"
)

// The picture's size.
const (
	width  = 24 * vg.Centimeter
	height = 14 * vg.Centimeter
)

// look is the colours of a picture.
type look struct {
	paper, ink, dim, rule, best color.Color
	kinds                       []color.Color
}

func light() look {
	return look{
		paper: rgb(0xffffff), ink: rgb(0x1c1e21), dim: rgb(0x5f6670), rule: rgb(0xe3e6ea), best: rgb(0xd6e4ff),
		kinds: []color.Color{rgb(0x2563eb), rgb(0xd97706), rgb(0x0f9d58), rgb(0x8b5cf6), rgb(0xdc2626), rgb(0x0891b2)},
	}
}

func dark() look {
	return look{
		paper: rgb(0x1d2024), ink: rgb(0xe6e8eb), dim: rgb(0x9aa2ad), rule: rgb(0x343a41), best: rgb(0x2b3d5f),
		kinds: []color.Color{rgb(0x6ea0ff), rgb(0xf5b14c), rgb(0x45c98a), rgb(0xb39dfb), rgb(0xff7b7b), rgb(0x4fd0e6)},
	}
}

func rgb(hex uint32) color.Color {
	return color.NRGBA{R: uint8(hex >> 16), G: uint8(hex >> 8), B: uint8(hex), A: 0xff}
}

// SVG draws the frontier, in light colours.
func (p *Report) SVG(w io.Writer) error { return p.svg(w, light()) }

func (p *Report) svg(w io.Writer, l look) error {
	pic, err := p.picture(l)
	if err != nil {
		return err
	}
	canvas := vgsvg.New(width, height)
	pic.Draw(within(canvas))
	_, err = canvas.WriteTo(w)
	return err
}

// PNG draws the same.
func (p *Report) PNG(w io.Writer) error {
	pic, err := p.picture(light())
	if err != nil {
		return err
	}
	const dpi = 144
	canvas := vgimg.NewWith(vgimg.UseWH(width, height), vgimg.UseDPI(dpi))
	pic.Draw(within(canvas))
	_, err = vgimg.PngCanvas{Canvas: canvas}.WriteTo(w)
	return err
}

// within leaves a margin.
func within(c vg.CanvasSizer) draw.Canvas {
	const margin = vg.Length(8)
	return draw.Crop(draw.New(c), margin, -margin, margin, -margin)
}

// series is a kind of policy: one point for each of its settings.
type series struct {
	name   string
	bound  bool
	points []labelled
}

type labelled struct {
	simulate.Point
	label string
}

// series are the kinds in their order, ours first.
func (p *Report) series() (all []series) {
	for _, r := range p.Rows {
		name, values := kind(r.Policy)
		i := slices.IndexFunc(all, func(s series) bool { return s.name == name })
		if i < 0 {
			i = len(all)
			all = append(all, series{name: name, bound: r.Bound})
		}
		all[i].points = append(all[i].points, labelled{r.Point(), values})
	}
	for _, s := range all {
		slices.SortFunc(s.points, func(a, b labelled) int { return cmp.Compare(a.Starts, b.Starts) })
	}
	slices.SortStableFunc(all, func(a, b series) int { return cmp.Compare(p.rank(a), p.rank(b)) })
	return all
}

func (p *Report) rank(s series) int {
	switch {
	case s.name == p.Ours:
		return 0
	case s.bound:
		return 2
	}
	return 1
}

// picture is cold starts against waste: further down and to the left is better.
func (p *Report) picture(l look) (*plot.Plot, error) {
	pic := l.plot()
	pic.Title.Text = p.Title
	pic.X.Label.Text, pic.Y.Label.Text = "cold starts", "idle and loading hours"
	logarithmic(&pic.X, p.Rows)
	linear(&pic.Y, p.Rows)
	grid := plotter.NewGrid()
	grid.Vertical.Color, grid.Horizontal.Color = l.rule, l.rule
	pic.Add(grid)
	best, err := plotter.NewLine(xys(p.frontier(func(r Row) bool { return !r.Bound })))
	if err != nil {
		return nil, fmt.Errorf("draw the frontier: %w", err)
	}
	best.Width, best.Color = vg.Points(9), l.best
	pic.Add(best)
	pic.Legend.Add(wide("frontier"), best)
	var labels placed
	pic.Add(&dots{p.Rows, &labels})
	for i, s := range p.series() {
		c := l.kinds[i%len(l.kinds)]
		if s.bound {
			c = l.dim
		}
		if err := s.draw(pic, c, &labels); err != nil {
			return nil, err
		}
	}
	return pic, nil
}

// plot is an empty picture.
func (l look) plot() *plot.Plot {
	pic := plot.New()
	pic.BackgroundColor = l.paper
	face := font.Font{Typeface: "Liberation", Variant: "Sans"}
	styles := []*text.Style{
		&pic.Title.TextStyle, &pic.X.Label.TextStyle, &pic.Y.Label.TextStyle, &pic.X.Tick.Label, &pic.Y.Tick.Label, &pic.Legend.TextStyle,
	}
	for i, s := range styles {
		s.Color, s.Font = l.dim, face
		s.Font.Size = vg.Points(11)
		if i == 0 {
			s.Color, s.Font.Size = l.ink, vg.Points(13)
		}
	}
	for _, a := range []*plot.Axis{&pic.X, &pic.Y} {
		a.LineStyle.Color, a.Tick.LineStyle.Color = l.dim, l.dim
		a.Padding = 0
	}
	pic.Title.Padding, pic.X.Padding = vg.Points(10), vg.Points(4)
	pic.Legend.Top, pic.Legend.Padding, pic.Legend.XOffs, pic.Legend.YOffs = true, vg.Points(3), vg.Points(-8), vg.Points(-8)
	return pic
}

// xys are points as gonum has them. What is 0 cannot be drawn on a logarithmic axis: it is at half.
func xys(points []simulate.Point) (all plotter.XYs) {
	for _, p := range points {
		all = append(all, plotter.XY{X: max(p.Starts, 0.5), Y: p.Waste})
	}
	return all
}

// logarithmic makes an axis that holds all cold starts, with a line at 1, 2 and 5 of each power of ten.
func logarithmic(axis *plot.Axis, rows []Row) {
	least, most := math.Inf(1), 1.0
	for _, r := range rows {
		least, most = min(least, max(r.Point().Starts, 0.5)), max(most, r.Point().Starts)
	}
	axis.Scale, axis.Min, axis.Max = plot.LogScale{}, min(least, most)/1.25, most*1.25
	var marks plot.ConstantTicks
	for power := 1.0; power <= most*10; power *= 10 {
		for _, n := range []float64{1, 2, 5} {
			if at := n * power; at >= axis.Min && at <= axis.Max {
				marks = append(marks, plot.Tick{Value: at, Label: fmt.Sprintf("%.0f", at)})
			}
		}
	}
	axis.Tick.Marker = marks
}

// linear makes an axis from nothing to more than all waste, with about six marks.
func linear(axis *plot.Axis, rows []Row) {
	most := 0.1
	for _, r := range rows {
		most = max(most, r.Point().Waste)
	}
	step := math.Pow(10, math.Floor(math.Log10(most)))
	for _, n := range []float64{0.2, 0.5, 1} {
		if most/(n*step) <= 6 {
			step *= n
			break
		}
	}
	axis.Min, axis.Max = 0, most*1.06
	var marks plot.ConstantTicks
	for i := 0.0; i*step <= axis.Max; i++ {
		marks = append(marks, plot.Tick{Value: i * step, Label: fmt.Sprintf("%.6g", i*step)})
	}
	axis.Tick.Marker = marks
}

// wide leaves room behind a word of the legend, for browsers whose letters are wider.
func wide(word string) string { return word + "     " }

// draw adds a kind of policy, with the settings beside its points where there is room.
func (s *series) draw(pic *plot.Plot, c color.Color, labels *placed) error {
	var points []simulate.Point
	for _, p := range s.points {
		points = append(points, p.Point)
	}
	line, dots, err := plotter.NewLinePoints(xys(points))
	if err != nil {
		return fmt.Errorf("draw %s: %w", s.name, err)
	}
	line.Color, line.Width = c, vg.Points(1.6)
	dots.Color, dots.Shape, dots.Radius = c, draw.CircleGlyph{}, vg.Points(3)
	if s.bound {
		line.Dashes, dots.Shape = []vg.Length{vg.Points(4), vg.Points(3)}, draw.RingGlyph{}
	}
	pic.Add(line, dots)
	pic.Legend.Add(wide(s.name), line, dots)
	pic.Add(&names{points: s.points, color: c, labels: labels})
	return nil
}
