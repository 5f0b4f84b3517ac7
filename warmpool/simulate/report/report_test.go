package report

import (
	"bytes"
	"encoding/json"
	"encoding/xml"
	"errors"
	"image/png"
	"io"
	"slices"
	"strings"
	"testing"
	"time"

	"gonum.org/v1/plot/vg"

	"pilotlight/warmpool/simulate"
)

func result(starts int64, idle time.Duration) *simulate.Result {
	return &simulate.Result{Requests: 1000, Cold: 2 * starts, Starts: starts, Models: 3, P75: 12.5, Delay: 300 * time.Millisecond, Idle: idle, Loads: time.Hour, MoneyGPU: 7}
}

func sample() *Report {
	return &Report{
		Title: "Warm pool on <demand>", Command: "pilotlight simulate --trace '<demand>'", Ours: "predictive", Settings: [][2]string{{"loads", "30s"}},
		Rows: []Row{
			{"fixed:idle=10m", false, result(100, 99*time.Hour)},
			{"fixed:idle=60m", false, result(10, 199*time.Hour)},
			{"predictive:k=10m", false, result(100, 89*time.Hour)},
			{"predictive:k=60m", false, result(8, 199*time.Hour)},
			{"oracle", true, result(0, 0)},
		},
	}
}

func written(t *testing.T, write func(io.Writer) error) string {
	t.Helper()
	var b bytes.Buffer
	if err := write(&b); err != nil {
		t.Fatal(err)
	}
	return b.String()
}

func TestText(t *testing.T) {
	got := written(t, sample().Text)
	for _, want := range []string{
		"Warm pool on <demand>\n  loads: 30s\n",
		"POLICY            COLD STARTS  COLD %  P50 %  P75 %  P90 %  MEAN DELAY  IDLE H  LOADING H  COST\n",
		"fixed:idle=10m            100    20.0    0.0   12.5    0.0      300 ms      99        1.0     7\n",
		"fixed:idle=10m          100      100                         90  -10.0 %                   79  -20.5 %\n",
	} {
		if !strings.Contains(got, want) {
			t.Errorf("there is no %q in\n%s", want, got)
		}
	}
}

func TestJSONHasOneObjectForEachPolicy(t *testing.T) {
	var got []map[string]any
	if err := json.Unmarshal([]byte(written(t, sample().JSON)), &got); err != nil || len(got) != 5 {
		t.Fatalf("%v, %v", got, err)
	}
	var names []string
	for name := range got[0] {
		names = append(names, name)
	}
	slices.Sort(names)
	if strings.Join(names, " ") != "cold_pct cold_starts idle_hours load_hours p75_cold_pct policy requests" {
		t.Errorf("the fields are %v", names)
	}
	if o := got[0]; o["policy"] != "fixed:idle=10m" || o["cold_starts"] != 100.0 || o["cold_pct"] != 20.0 || o["idle_hours"] != 99.0 || o["load_hours"] != 1.0 {
		t.Errorf("%v", o)
	}
}

func TestPictures(t *testing.T) {
	if _, err := png.Decode(strings.NewReader(written(t, sample().PNG))); err != nil {
		t.Error(err)
	}
	text := written(t, sample().SVG)
	for in := xml.NewDecoder(strings.NewReader(text)); ; {
		if _, err := in.Token(); errors.Is(err, io.EOF) {
			break
		} else if err != nil {
			t.Fatal(err)
		}
	}
	for _, want := range []string{"predictive", "oracle", ">60m<", "cold starts"} {
		if !strings.Contains(text, want) {
			t.Errorf("there is no %q in it", want)
		}
	}
}

func TestThePageNeedsNothingElse(t *testing.T) {
	got := written(t, sample().HTML)
	for _, no := range []string{"<script", "src=", "@import", "url(", "<demand>", "<?xml"} {
		if strings.Contains(got, no) {
			t.Errorf("there is %q in it", no)
		}
	}
	if strings.Count(got, "<svg") != 2 || strings.Count(got, `<tr class="ours">`) != 2 || !strings.Contains(got, "&lt;demand&gt;") {
		t.Error("it lacks a picture, a row of ours or its title")
	}
}

// TestFewRows: whatever there is of rows, there is a report.
func TestFewRows(t *testing.T) {
	for n := range 3 {
		p := sample()
		p.Rows = p.Rows[len(p.Rows)-n:]
		for _, write := range []func(io.Writer) error{p.Text, p.JSON, p.HTML, p.SVG, p.PNG} {
			written(t, write)
		}
	}
}

func TestWordsAreNotWrittenOverOneAnother(t *testing.T) {
	var p placed
	box := func(x, y vg.Length) vg.Rectangle {
		return vg.Rectangle{Min: vg.Point{X: x, Y: y}, Max: vg.Point{X: x + 10, Y: y + 10}}
	}
	if !p.free(box(0, 0)) || p.free(box(9, 9)) || !p.free(box(10, 0)) || !p.free(box(0, 11)) {
		t.Error("a box is free where another is, or is not where none is")
	}
}
