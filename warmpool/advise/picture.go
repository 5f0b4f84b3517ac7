package advise

import (
	"fmt"
	"image/color"
	"io"

	"gonum.org/v1/plot"
	"gonum.org/v1/plot/font"
	"gonum.org/v1/plot/plotter"
	"gonum.org/v1/plot/text"
	"gonum.org/v1/plot/vg"
	"gonum.org/v1/plot/vg/draw"
	"gonum.org/v1/plot/vg/vgimg"
	"gonum.org/v1/plot/vg/vgsvg"
)

// The picture's size, and how many replicas it shows of each way: more make a large file, and hide one another.
const (
	width  = 24 * vg.Centimeter
	height = 14 * vg.Centimeter
	shown  = 800
)

// SVG draws what replicas cost that scale to zero, as a part of what always on costs, by how much they are in use: below 100 % they are cheaper. Limits are where
// a way's price is as high as always on if so much of the time is paid for.
func SVG(w io.Writer, title string, points []Point, limits map[Way]float64) error {
	pic, err := picture(title, points, limits)
	if err != nil {
		return err
	}
	canvas := vgsvg.New(width, height)
	pic.Draw(within(canvas))
	_, err = canvas.WriteTo(w)
	return err
}

// PNG draws the same.
func PNG(w io.Writer, title string, points []Point, limits map[Way]float64) error {
	pic, err := picture(title, points, limits)
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

func picture(title string, points []Point, limits map[Way]float64) (*plot.Plot, error) {
	pic := plot.New()
	pic.Title.Text = title
	pic.X.Label.Text, pic.Y.Label.Text = "in use, % of the time", "cost, % of always on"
	for _, s := range []*text.Style{&pic.Title.TextStyle, &pic.X.Label.TextStyle, &pic.Y.Label.TextStyle, &pic.X.Tick.Label, &pic.Y.Tick.Label, &pic.Legend.TextStyle} {
		s.Font = font.Font{Typeface: "Liberation", Variant: "Sans", Size: vg.Points(11)}
	}
	pic.X.Min, pic.X.Max, pic.Y.Min, pic.Y.Max = 0, 100, 0, 160
	pic.Legend.Top, pic.Legend.Left, pic.Legend.XOffs, pic.Legend.YOffs = true, true, vg.Points(8), vg.Points(-8)
	grid := plotter.NewGrid()
	grid.Vertical.Color, grid.Horizontal.Color = color.Gray{Y: 0xe3}, color.Gray{Y: 0xe3}
	pic.Add(grid)
	if err := line(pic, "always on", color.Black, nil, plotter.XYs{{X: 0, Y: 100}, {X: 100, Y: 100}}); err != nil {
		return nil, err
	}
	for _, way := range []struct {
		name  Way
		color color.Color
		of    func(Point) float64
	}{
		{Sleeping, color.NRGBA{R: 0x25, G: 0x63, B: 0xeb, A: 0xff}, func(p Point) float64 { return p.Sleeping }},
		{Serverless, color.NRGBA{R: 0xd9, G: 0x77, B: 0x06, A: 0xff}, func(p Point) float64 { return p.Serverless }},
	} {
		if err := scatter(pic, way.name, way.color, some(points, way.of)); err != nil {
			return nil, err
		}
		if at, known := limits[way.name]; known && at <= 1 {
			label := fmt.Sprintf("%s as dear as always on: %.1f %%", way.name, 100*at)
			if err := line(pic, label, way.color, []vg.Length{vg.Points(5), vg.Points(4)}, plotter.XYs{{X: 100 * at, Y: 0}, {X: 100 * at, Y: 160}}); err != nil {
				return nil, err
			}
		}
	}
	return pic, nil
}

// some are at most so many points as are shown, of all uses.
func some(points []Point, of func(Point) float64) (all plotter.XYs) {
	step := max(1, len(points)/shown)
	for i := 0; i < len(points); i += step {
		if p := points[i]; of(p) >= 0 && of(p) <= 1.6 {
			all = append(all, plotter.XY{X: 100 * p.Use, Y: 100 * of(p)})
		}
	}
	return all
}

func scatter(pic *plot.Plot, name Way, c color.Color, points plotter.XYs) error {
	if len(points) == 0 {
		return nil
	}
	s, err := plotter.NewScatter(points)
	if err != nil {
		return fmt.Errorf("draw %s: %w", name, err)
	}
	s.GlyphStyle = draw.GlyphStyle{Color: c, Radius: vg.Points(1.8), Shape: draw.CircleGlyph{}}
	pic.Add(s)
	pic.Legend.Add(string(name), s)
	return nil
}

func line(pic *plot.Plot, name string, c color.Color, dashes []vg.Length, points plotter.XYs) error {
	l, err := plotter.NewLine(points)
	if err != nil {
		return fmt.Errorf("draw %s: %w", name, err)
	}
	l.Color, l.Dashes = c, dashes
	pic.Add(l)
	pic.Legend.Add(name, l)
	return nil
}
