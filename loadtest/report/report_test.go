package report

import (
	"bytes"
	"context"
	"encoding/csv"
	"encoding/json"
	"encoding/xml"
	"io"
	"regexp"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"pilotlight/loadtest"
)

// load is the result of one in virtual time: each request gets a token after first, and the last of every ten is refused.
func load(t *testing.T, first time.Duration) *loadtest.Result {
	r := loadtest.NewResult()
	n := 0
	loadtest.Run(t.Context(), func(_ context.Context, q *loadtest.Request) loadtest.Answer {
		a := loadtest.Answer{Sent: time.Now(), Outcome: loadtest.OK, Tokens: 2}
		time.Sleep(first)
		a.First = time.Now()
		time.Sleep(time.Second)
		a.Ended, a.Gaps = time.Now(), []time.Duration{time.Second}
		if n++; n%10 == 0 {
			a.Outcome, a.Kind = loadtest.Refused, "429 <line_full>"
		}
		return a
	}, loadtest.Load{Most: 1, For: time.Hour, Requests: func(yield func(loadtest.Request) bool) {
		for i := range 20 {
			yield(loadtest.Request{At: time.Duration(i) * 5 * time.Second, Model: []string{"a", "b"}[i%2]})
		}
	}}, r)
	return r
}

func slo(t *testing.T, text string) loadtest.SLO {
	var s loadtest.SLO
	if err := s.UnmarshalText([]byte(text)); err != nil {
		t.Fatal(err)
	}
	return s
}

func write(t *testing.T, to func(io.Writer) error) string {
	var b bytes.Buffer
	if err := to(&b); err != nil {
		t.Fatal(err)
	}
	return b.String()
}

func TestAReportSaysTheSameInEveryForm(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		p := Of("Load on <x>", load(t, 2*time.Second), []loadtest.SLO{slo(t, "ttft.p99<500ms"), slo(t, "errors<=10%")})
		p.Plot("More", "GPUs", Series{"held", []Point{{0, 1}, {10, 2}}})
		if p.Held() {
			t.Error("a first token after 2 s is within 500 ms")
		}
		text := write(t, p.Text)
		for _, want := range []string{"20 requests", "18 ok, 2 refused", "2 × refused: 429 <line_full>", "FAILED ttft.p99<500ms: 2s", "held   errors<=10%: 10% (2 of 20)"} {
			if !strings.Contains(text, want) {
				t.Errorf("the text lacks %q:\n%s", want, text)
			}
		}
		var again Report
		if err := json.Unmarshal([]byte(write(t, p.JSON)), &again); err != nil || again.Outcomes["ok"] != 18 || len(again.Timeline) == 0 || len(again.Models) != 2 {
			t.Errorf("as JSON it is %+v (%v)", again, err)
		}
		rows, err := csv.NewReader(strings.NewReader(write(t, p.CSV))).ReadAll()
		if err != nil || len(rows) != len(p.Timeline)+1 {
			t.Errorf("as CSV it has %d rows (%v)", len(rows), err)
		}
	})
}

// TestThePageNeedsNothingElse: nothing in it makes a browser ask anybody, and its plots are well-formed.
func TestThePageNeedsNothingElse(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		p := Of("Load on <x>", load(t, 2*time.Second), nil)
		html := write(t, p.HTML)
		if found := regexp.MustCompile(`(?i)(https?:|src=|href=|url\(|@import|<script)`).FindString(html); found != "" {
			t.Errorf("the page holds %q", found)
		}
		plots := regexp.MustCompile(`(?s)<svg.*?</svg>`).FindAllString(html, -1)
		if len(plots) != 4 {
			t.Errorf("it has %d plots", len(plots))
		}
		for _, plot := range plots {
			for d := xml.NewDecoder(strings.NewReader(plot)); ; {
				_, err := d.Token()
				if err == io.EOF {
					break
				}
				if err != nil {
					t.Fatalf("%v in %s", err, plot)
				}
			}
			if strings.Contains(plot, "NaN") || strings.Contains(plot, "Inf") {
				t.Errorf("a plot leads nowhere: %s", plot)
			}
		}
		if !strings.Contains(html, "Load on &lt;x&gt;") || !strings.Contains(html, "prefers-color-scheme: dark") {
			t.Error("what is not ours must be escaped, and the page must be dark where that is wanted")
		}
	})
}

func TestALoadWithoutAnAnswerHasAReport(t *testing.T) {
	p := Of("Nothing", loadtest.NewResult(), []loadtest.SLO{slo(t, "ttft.p50<1s")})
	if html := write(t, p.HTML); strings.Contains(html, "NaN") || p.Held() {
		t.Errorf("it holds, or shows what is no number: %s", html)
	}
	_ = write(t, p.Text)
}

func TestComparedAreMediansAndRatios(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var ours, theirs Rival
		ours.Name, theirs.Name = "ours", "theirs"
		for _, first := range []time.Duration{1, 2, 3} {
			ours.Turns = append(ours.Turns, Of("", load(t, first*time.Second), []loadtest.SLO{slo(t, "ttft.p99<3s")}))
			theirs.Turns = append(theirs.Turns, Of("", load(t, 2*first*time.Second), nil))
		}
		p, err := Compare("Both", []Rival{ours, theirs})
		if err != nil {
			t.Fatal(err)
		}
		if len(p.SLOs) != 3 || !p.SLOs[1].Held || p.SLOs[2].Held {
			t.Errorf("the thresholds of three rounds: %v", p.SLOs)
		}
		medians, ratios := p.Tables[0], p.Tables[1]
		if medians.Rows[0][3] != "2s" || medians.Rows[1][3] != "4s" || ratios.Rows[0][3] != "0.50" || medians.Columns[3] != "first token p50" {
			t.Errorf("medians %v, ratios %v", medians, ratios)
		}
		if _, err := Compare("None", []Rival{{Name: "ours"}}); err == nil {
			t.Error("nothing can be compared")
		}
	})
}
