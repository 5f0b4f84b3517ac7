package simulate

import (
	"context"
	"errors"
	"fmt"
	"math"
	"os"
	"slices"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"pilotlight/loadtest/trace"
	"pilotlight/warmpool/policy"
)

// demand reads recorded demand.
func demand(t testing.TB, read func() (*trace.Trace, error)) *Demand {
	t.Helper()
	recorded, err := read()
	if err != nil {
		t.Fatal(err)
	}
	d, err := NewDemand(recorded.Began, func(yield func(Use) bool) {
		for u := range recorded.Uses() {
			if !yield(Use{Model: u.Client, At: u.At, Took: u.Took, Requests: u.Requests}) {
				return
			}
		}
	})
	if err != nil {
		t.Fatal(err)
	}
	return d
}

func excerpt(t testing.TB) *Demand {
	return demand(t, func() (*trace.Trace, error) { return trace.Open("testdata/servegen-excerpt.csv.gz") })
}

// firstDay is the beginning of a demand.
func firstDay(t testing.TB, d *Demand) *Demand {
	short, err := NewDemand(d.Began, func(yield func(Use) bool) {
		for _, u := range d.uses {
			if u.at < 24*time.Hour && !yield(Use{d.Models[u.model], u.at, u.took, u.requests}) {
				return
			}
		}
	})
	if err != nil {
		t.Fatal(err)
	}
	return short
}

func table(t testing.TB, rows ...string) *Demand {
	return demand(t, func() (*trace.Trace, error) {
		return trace.Read(strings.NewReader("model,start_s,duration_s,requests\n" + strings.Join(rows, "\n")))
	})
}

func run(t testing.TB, d *Demand, spec string, o Options) *Result {
	t.Helper()
	p, err := policy.ParseRecorded(spec)
	if err != nil {
		t.Fatal(err)
	}
	r, err := Run(t.Context(), d, p, o)
	if err != nil {
		t.Fatal(err)
	}
	return r
}

// TestFixedIdleTimesCostWhatTheyDo: the figures are those of another program, of thirty lines of Python, that knows the rules and nothing of
// virtual time. On the whole of the recording it gives 9450, 6919, 2493 and 1150 cold starts, and 2157, 2833, 6045 and 10762 h.
func TestFixedIdleTimesCostWhatTheyDo(t *testing.T) {
	d := excerpt(t)
	for _, c := range []struct {
		minutes        int
		starts, cold   int64
		idle, loadings float64 // seconds
	}{
		{5, 882, 63786043, 625509, 26460},
		{10, 697, 57115471, 873714, 20910},
		{60, 318, 29023986, 2179683, 9540},
		{240, 174, 5032265, 4542387, 5220},
	} {
		r := run(t, d, fmt.Sprintf("fixed:idle=%dm", c.minutes), Options{Load: 30 * time.Second, From: 96 * time.Hour})
		if r.Starts != c.starts || r.Cold != c.cold || r.Requests != 116173491 || r.Idle.Seconds() != c.idle || r.Loads.Seconds() != c.loadings {
			t.Errorf("fixed %d min: %+v, want %+v", c.minutes, r, c)
		}
	}
}

// TestWholeRecordings holds the same on the recording that the excerpt is from, where there is one; make sim says where.
func TestWholeRecordings(t *testing.T) {
	dir := os.Getenv("TRACES")
	if dir == "" {
		t.Skip("TRACES says where recordings are; make sim sets it")
	}
	d := demand(t, func() (*trace.Trace, error) { return trace.Open(dir + "/servegen/servegen_sessions_merge60s.csv.gz") })
	for minutes, want := range map[int]Point{5: {9450, 2157}, 10: {6919, 2833}, 60: {2493, 6045}, 240: {1150, 10762}} {
		r := run(t, d, fmt.Sprintf("fixed:idle=%dm", minutes), Options{Load: 30 * time.Second, From: 96 * time.Hour})
		if got := r.Point(); math.Abs(got.Starts/want.Starts-1) > 0.01 || math.Abs(got.Waste/want.Waste-1) > 0.01 {
			t.Errorf("fixed %d min: %+v, want %+v", minutes, got, want)
		}
	}
}

// at is a policy that has one answer for each time of a model's idle time.
type at struct {
	policy.Policy // for what is not asked of it
	windows       [][2]time.Duration

	told []string
}

func (a *at) Arrived(m string, when time.Time, n int) { a.tell("%s+%d", m, n, when) }
func (a *at) Ended(m string, when time.Time)          { a.tell("%s-%d", m, 0, when) }
func (a *at) Day(when time.Time)                      { a.tell("%s%d", "day", 0, when) }

func (a *at) tell(format, m string, n int, when time.Time) {
	a.told = append(a.told, fmt.Sprintf(format, m, n)+"@"+when.Format("2T15:04:05"))
}

func (a *at) Decide(q policy.Question) (d policy.Decision) {
	idle := q.Now.Sub(q.Idle)
	for _, w := range a.windows {
		if idle < w[0] {
			d.Until = q.Idle.Add(w[0])
			return d
		}
		if idle < w[1] {
			return policy.Decision{Warm: true, Until: q.Idle.Add(w[1])}
		}
	}
	return d
}

func TestAccounting(t *testing.T) {
	const s = time.Second
	type cost struct {
		requests, cold, starts int64
		idle, loads, delay     time.Duration // delay: of all requests together
	}
	for name, c := range map[string]struct {
		rows    []string
		windows [][2]time.Duration
		from    time.Duration
		host    time.Duration
		want    cost
	}{
		"the first request is cold, and so is one after a gap without warmth": {
			rows: []string{"m,0,10,1", "m,100,10,1"}, want: cost{2, 2, 2, 0, 60 * s, 60 * s},
		},
		"a request within the window is warm": {
			rows: []string{"m,0,10,1", "m,100,10,1"}, windows: [][2]time.Duration{{0, 200 * s}}, want: cost{2, 1, 1, 90 * s, 30 * s, 30 * s},
		},
		"so is one at its end": {
			rows: []string{"m,0,10,1", "m,100,10,1"}, windows: [][2]time.Duration{{0, 90 * s}}, want: cost{2, 1, 1, 90 * s, 30 * s, 30 * s},
		},
		"after the window it is cold, and the window is paid for": {
			rows: []string{"m,0,10,1", "m,100,10,1"}, windows: [][2]time.Duration{{0, 50 * s}}, want: cost{2, 2, 2, 50 * s, 60 * s, 60 * s},
		},
		"a row is as many requests that find the model as it does": {
			rows: []string{"m,0,10,7", "m,100,10,5"}, windows: [][2]time.Duration{{0, 200 * s}}, want: cost{12, 7, 1, 90 * s, 30 * s, 210 * s},
		},
		"who comes while a load runs waits for the rest of it, and starts none": {
			rows: []string{"m,0,10,1", "m,5,40,1", "m,40,1,1"}, want: cost{3, 2, 2, 0, 30 * s, 55 * s},
		},
		"also when it has been idle": {
			rows: []string{"m,0,10,1", "m,20,10,1"}, want: cost{2, 2, 2, 0, 30 * s, 40 * s},
		},
		"a load ahead that has ended": {
			rows: []string{"m,0,10,1", "m,100,10,1"}, windows: [][2]time.Duration{{40 * s, 200 * s}}, want: cost{2, 1, 1, 20 * s, 60 * s, 30 * s},
		},
		"one that ends just then": {
			rows: []string{"m,0,10,1", "m,100,10,1"}, windows: [][2]time.Duration{{60 * s, 200 * s}}, want: cost{2, 1, 1, 0, 60 * s, 30 * s},
		},
		"one that is late": {
			rows: []string{"m,0,10,1", "m,100,10,1"}, windows: [][2]time.Duration{{65 * s, 200 * s}}, want: cost{2, 2, 2, 0, 60 * s, 35 * s},
		},
		"one that was for nothing": {
			rows: []string{"m,0,10,1", "m,200,10,1"}, windows: [][2]time.Duration{{20 * s, 60 * s}}, want: cost{2, 2, 2, 10 * s, 90 * s, 60 * s},
		},
		"what overlaps is one time of work": {
			rows: []string{"m,0,100,1", "m,50,10,1", "m,130,10,1"}, windows: [][2]time.Duration{{0, 200 * s}}, want: cost{3, 1, 1, 30 * s, 30 * s, 30 * s},
		},
		"what came earlier is learned from": {
			rows: []string{"m,0,10,1", "m,100,10,1", "m,250,10,1"}, windows: [][2]time.Duration{{0, 100 * s}}, from: 200 * s, want: cost{1, 1, 1, 100 * s, 30 * s, 30 * s},
		},
		"a gap is its end's": {
			rows: []string{"m,0,10,1", "m,100,110,1", "n,250,1,1"}, windows: [][2]time.Duration{{0, 100 * s}}, from: 100 * s, want: cost{2, 1, 1, 90 * s, 30 * s, 30 * s},
		},
		"who was loaded sleeps nearer": {
			rows: []string{"m,0,10,1", "m,100,10,1"}, host: 2 * s, want: cost{2, 2, 2, 0, 32 * s, 32 * s},
		},
		"rows in any order, ties as they stand": {
			rows: []string{"m,100,10,5", "m,0,10,1", "m,100,10,2"}, want: cost{8, 8, 3, 0, 60 * s, 240 * s},
		},
	} {
		t.Run(name, func(t *testing.T) {
			r, err := Run(t.Context(), table(t, c.rows...), &at{windows: c.windows}, Options{Load: 30 * s, From: c.from, Host: c.host})
			if err != nil {
				t.Fatal(err)
			}
			delay := time.Duration(math.Round(r.Delay.Seconds() * float64(r.Requests) * 1e9)).Round(time.Millisecond)
			if got := (cost{r.Requests, r.Cold, r.Starts, r.Idle, r.Loads, delay}); got != c.want {
				t.Errorf("got %+v, want %+v", got, c.want)
			}
		})
	}
}

func TestAPolicyIsToldWhatHappensInOrder(t *testing.T) {
	p := &at{windows: [][2]time.Duration{{0, 5 * time.Minute}}}
	if _, err := Run(t.Context(), table(t, "a,0,60,2", "b,60,10,1", "a,86400,60,1", "b,180000,1,1"), p, Options{Load: time.Second}); err != nil {
		t.Fatal(err)
	}
	want := "a+2@1T00:00:00 b+1@1T00:01:00 a-0@1T00:01:00 b-0@1T00:01:10 day0@2T00:00:00 a+1@2T00:00:00 a-0@2T00:01:00 day0@3T00:00:00 b+1@3T02:00:00"
	if got := strings.Join(p.told, " "); got != want {
		t.Errorf("got  %s\nwant %s", got, want)
	}
}

func TestSharesOfModels(t *testing.T) {
	var rows []string
	for i := range 5 { // model i has i+1 cold requests of five
		for k, now := 0, 0; k < 5; k++ {
			rows = append(rows, fmt.Sprintf("m%d,%d,1,1", i, now))
			now += 100
			if k < i {
				now += 5000
			}
		}
	}
	r := run(t, table(t, rows...), "fixed:idle=1h", Options{Load: 30 * time.Second})
	if r.Models != 5 || r.P50 != 60 || r.P75 != 80 || math.Abs(r.P90-92) > 1e-9 || r.ColdPercent() != 60 {
		t.Errorf("%+v", r)
	}
	for q, want := range map[float64]float64{0: 1, 0.5: 3, 0.75: 4, 0.9: 4.6, 1: 5} {
		if got := quantile([]float64{1, 2, 3, 4, 5}, q); math.Abs(got-want) > 1e-9 {
			t.Errorf("quantile %v is %v, want %v", q, got, want)
		}
	}
}

func TestMoneyIsMemoryAndWaiting(t *testing.T) {
	d := table(t, "m,0,10,1", "m,3610,10,9")
	r := run(t, d, "fixed:idle=2h", Options{Load: 30 * time.Second, Prices: Prices{Wait: 0.1, GPU: 2}})
	if want := 2*(1+30.0/3600) + 3; math.Abs(r.Money()-want) > 1e-9 {
		t.Errorf("%v, want %v", r.Money(), want)
	}
}

// TestTheSameDemandCostsTheSame: nothing hangs on the order of a map.
func TestTheSameDemandCostsTheSame(t *testing.T) {
	d := firstDay(t, excerpt(t))
	for _, k := range slices.Concat(policy.Kinds(), policy.Clairvoyants()) {
		var handled atomic.Int64
		o := Options{Load: 30 * time.Second, From: 8 * time.Hour, Handled: &handled}
		if a, b := run(t, d, k.Spec, o), run(t, d, k.Spec, o); *a != *b || handled.Load() != int64(2*d.Rows()) {
			t.Errorf("%s: %+v, then %+v; %d rows handled", k.Spec, a, b, handled.Load())
		}
	}
}

func TestWhatCannotBeReplayed(t *testing.T) {
	d := table(t, "m,0,10,1")
	p, _ := policy.Parse("fixed")
	if _, err := Run(t.Context(), d, p, Options{From: 10 * time.Second}); err == nil || !strings.Contains(err.Error(), "nothing is left to measure") {
		t.Error(err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if _, err := Run(ctx, d, p, Options{}); !errors.Is(err, context.Canceled) {
		t.Error(err)
	}
	for _, uses := range [][]Use{nil, {{Model: "m", At: -1, Requests: 1}}, {{Model: "m"}}, {{Model: "m", At: math.MaxInt64, Took: math.MaxInt64, Requests: 1}}} {
		if _, err := NewDemand(time.Time{}, slices.Values(uses)); err == nil {
			t.Errorf("%v is demand", uses)
		}
	}
}
