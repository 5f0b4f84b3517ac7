package report

import (
	"image/color"

	"gonum.org/v1/plot"
	"gonum.org/v1/plot/font"
	"gonum.org/v1/plot/text"
	"gonum.org/v1/plot/vg"
	"gonum.org/v1/plot/vg/draw"
)

// names writes settings beside their points, where none is over another.
type names struct {
	points []labelled
	color  color.Color
	labels *placed
}

// placed are the boxes of what has been written.
type placed []vg.Rectangle

// free takes the place of a box, unless something is there.
func (p *placed) free(box vg.Rectangle) bool {
	for _, b := range *p {
		if box.Min.X < b.Max.X && b.Min.X < box.Max.X && box.Min.Y < b.Max.Y && b.Min.Y < box.Max.Y {
			return false
		}
	}
	*p = append(*p, box)
	return true
}

// dots keeps the places of all points, so that no word is written over one.
type dots struct {
	rows   []Row
	labels *placed
}

// Plot is a plot.Plotter that draws nothing.
func (d *dots) Plot(c draw.Canvas, pic *plot.Plot) {
	x, y := pic.Transforms(&c)
	const half = vg.Length(4)
	for _, r := range d.rows {
		at := vg.Point{X: x(max(r.Point().Starts, 0.5)), Y: y(r.Point().Waste)}
		*d.labels = append(*d.labels, vg.Rectangle{Min: at.Sub(vg.Point{X: half, Y: half}), Max: at.Add(vg.Point{X: half, Y: half})})
	}
}

// Plot is a plot.Plotter.
func (n *names) Plot(c draw.Canvas, pic *plot.Plot) {
	style := text.Style{
		Color: n.color, Font: font.Font{Typeface: "Liberation", Variant: "Sans", Size: vg.Points(9)}, Handler: plot.DefaultTextHandler,
	}
	x, y := pic.Transforms(&c)
	for _, p := range n.points {
		at := vg.Point{X: x(max(p.Starts, 0.5)), Y: y(p.Waste)}
		const wide = 1.2 // as letters are in some browsers
		size := vg.Point{X: wide * style.Width(p.label), Y: style.Height(p.label)}
		const off = vg.Length(5)
		for _, from := range []vg.Point{
			{X: at.X + off, Y: at.Y + off},
			{X: at.X - off - size.X, Y: at.Y - off - size.Y},
			{X: at.X - off - size.X, Y: at.Y + off},
			{X: at.X + off, Y: at.Y - off - size.Y},
		} {
			if box := (vg.Rectangle{Min: from, Max: from.Add(size)}); p.label != "" && box.Max.X < c.Max.X && n.labels.free(box) {
				c.FillText(style, from, p.label)
				break
			}
		}
	}
}
