package forecast

import (
	"bytes"
	"fmt"
	"math"
	"math/rand/v2"
	"strings"
	"testing"
	"time"
)

var monday = time.Date(2026, 11, 2, 0, 0, 0, 0, time.UTC)

// use says that a model was busy once.
func use(f *Forecast, model string, at time.Time, lasts time.Duration) {
	f.Arrived(model, at, 1)
	f.Ended(model, at.Add(lasts))
}

// lived is a fleet some days old: each model comes at random at its own rate, more by day, and job every hour on the hour.
func lived(models, days int) *Forecast {
	f := New()
	rng := rand.New(rand.NewPCG(1, 2))
	for m := range days * day {
		at := monday.Add(time.Duration(m) * time.Minute)
		if m%60 == 0 {
			use(f, "job", at, 30*time.Second)
		}
		for i := range models {
			rate := 0.05 / float64(i+1)
			if h := at.Hour(); h < 8 || h > 18 {
				rate /= 30
			}
			if rng.Float64() < rate {
				use(f, fmt.Sprintf("model-%d", i), at.Add(time.Duration(rng.IntN(20))*time.Second), 20*time.Second)
			}
		}
	}
	f.Refit(monday.AddDate(0, 0, days))
	return f
}

func TestWhatWasLearned(t *testing.T) {
	f := lived(4, 7)
	t.Run("is said", func(t *testing.T) { saysWhy(t, f) })
	t.Run("is the same when it was saved", func(t *testing.T) { savesTheSame(t, f) })
	t.Run("is saved in as little as there is room for", func(t *testing.T) { savesWithinALimit(t, f) })
	t.Run("is calibrated and knows the time of day", func(t *testing.T) { isCalibrated(t, f) })
}

func isCalibrated(t *testing.T, f *Forecast) {
	t.Helper()
	rng := rand.New(rand.NewPCG(3, 4))
	expected, came, byDay, byNight := 0.0, 0.0, 0.0, 0.0
	for m := 7 * day; m < 8*day; m++ {
		at := monday.Add(time.Duration(m) * time.Minute)
		for i := range 4 {
			model := fmt.Sprintf("model-%d", i)
			p, learned := f.Minute(model, at, 0)
			if !learned {
				t.Fatalf("nothing was learned of %s at %s", model, at)
			}
			rate := 0.05 / float64(i+1)
			if h := at.Hour(); h < 8 || h > 18 {
				rate /= 30
				byNight += p
			} else {
				byDay += p
			}
			expected += p
			if rng.Float64() < rate {
				came++
				use(f, model, at.Add(time.Duration(rng.IntN(20))*time.Second), 20*time.Second)
			}
		}
	}
	if expected < came*.75 || expected > came*1.25 {
		t.Errorf("%.0f arrivals were expected, %.0f came", expected, came)
	}
	if byDay < 8*byNight {
		t.Errorf("%.1f arrivals were expected by day, %.1f by night", byDay, byNight)
	}
}

func TestATimerIsExpectedWhenItIsDue(t *testing.T) {
	f := lived(2, 3)
	due := monday.AddDate(0, 0, 3)
	use(f, "job", due, 30*time.Second)
	at := func(after time.Duration) float64 {
		p, _ := f.Minute("job", due.Add(30*time.Second).Add(after-Slack), 0)
		return p
	}
	if p := at(59 * time.Minute); p < 0.5 {
		t.Errorf("it is due, and its chance is %v", p)
	}
	if p := at(30 * time.Minute); p > 0.05 {
		t.Errorf("it is not due for half an hour, and its chance is %v", p)
	}
	if next := f.Next("job", due.Add(5*time.Minute)); next.Sub(due) < 50*time.Minute || next.Sub(due) > 70*time.Minute {
		t.Errorf("it is expected at %s, an hour after %s", next, due)
	}
	if p := f.Chance("job", due.Add(54*time.Minute), 12*time.Minute); p < 0.5 {
		t.Errorf("within the quarter in which it is due its chance is %v", p)
	}
}

func TestBeforeAnythingIsLearnedTheForecastIsPlain(t *testing.T) {
	f := New()
	if p, learned := f.Minute("m", monday, time.Hour); p != 0 || learned {
		t.Errorf("a model nobody knows has a chance of %v", p)
	}
	use(f, "m", monday, time.Minute)
	if p, learned := f.Minute("m", monday.Add(10*time.Minute), time.Hour); p != 0.1 || learned {
		t.Errorf("after 9 minutes its chance is %v, learned: %v", p, learned)
	}
	f.Refit(monday.Add(time.Hour))
	if _, learned := f.Minute("m", monday.Add(61*time.Minute), time.Hour); learned {
		t.Error("it learned from one use")
	}
	f.Ended("m", monday)
	f.Ended("never", monday)
	if why := f.Why("m", monday.Add(time.Hour)); !strings.Contains(why, "too little is known") {
		t.Error(why)
	}
}

// A model that stops doing what it did is forecast plainly once that has cost enough.
func TestTheGuardFallsBackToAFixedTime(t *testing.T) {
	var g guard
	for range 30 {
		g.add(0.9, 100, false, 60) // kept for an hour in vain
		g.add(1e-6, 1, true, 1)    // and let go when somebody came
	}
	if !g.fails(60) {
		t.Error("a forecast that is always wrong is trusted")
	}
	g = guard{}
	for range 30 {
		g.add(1e-6, 100, false, 60)
		g.add(0.9, 1, true, 1)
	}
	if g.fails(60) || g.fails(4) {
		t.Error("a forecast that is always right is not trusted")
	}
}

func saysWhy(t *testing.T, f *Forecast) {
	t.Helper()
	at := monday.AddDate(0, 0, 7)
	for model, want := range map[string]string{"model-0": "around", "job": "", "nobody": "never used"} {
		var all []string
		for h := range 24 {
			why := f.Why(model, at.Add(time.Duration(h)*time.Hour))
			if why == "" {
				t.Errorf("nothing is said of %s at %d", model, h)
			}
			all = append(all, why)
		}
		if !strings.Contains(strings.Join(all, "\n"), want) {
			t.Errorf("of %s:\n%s", model, strings.Join(all, "\n"))
		}
	}
}

func savesTheSame(t *testing.T, f *Forecast) {
	t.Helper()
	blob, err := f.Save(384 << 10)
	if err != nil {
		t.Fatal(err)
	}
	g, err := Load(blob)
	if err != nil {
		t.Fatal(err)
	}
	for i := range 4 {
		for h := range 48 {
			model, at := fmt.Sprintf("model-%d", i), monday.AddDate(0, 0, 7).Add(time.Duration(h)*time.Hour)
			p, _ := f.Minute(model, at, time.Hour)
			if q, _ := g.Minute(model, at, time.Hour); math.Abs(p-q) > 1e-6*p {
				t.Fatalf("%s at %s: %v, and %v after it was saved", model, at, p, q)
			}
		}
	}
	again, err := g.Save(384 << 10)
	if err != nil || !bytes.Equal(blob, again) {
		t.Errorf("saved again it differs: %v", err)
	}
}

func savesWithinALimit(t *testing.T, f *Forecast) {
	t.Helper()
	whole, err := f.Save(0)
	if err != nil {
		t.Fatal(err)
	}
	blob, err := f.Save(len(whole) * 2 / 3)
	if err != nil || len(blob) > len(whole)*2/3 {
		t.Fatalf("%d bytes of %d, %v", len(blob), len(whole), err)
	}
	g, err := Load(blob)
	if err != nil || len(g.order) != len(f.order) || g.sessions >= f.sessions || !g.Idle("model-3").Equal(f.Idle("model-3")) {
		t.Errorf("%v", err)
	}
	if _, err := f.Save(100); err == nil {
		t.Error("it was saved in 100 bytes")
	}
}

func FuzzLoad(f *testing.F) {
	l := lived(2, 2)
	blob, err := l.Save(0)
	if err != nil {
		f.Fatal(err)
	}
	f.Add(blob)
	f.Add([]byte{})
	f.Add(blob[:len(blob)/2])
	f.Fuzz(func(t *testing.T, text []byte) {
		g, err := Load(text)
		if err != nil {
			return
		}
		for _, tr := range g.order {
			if p, _ := g.Minute(tr.name, time.Unix(tr.idle+600, 0), time.Hour); !(p >= 0 && p <= 1) {
				t.Errorf("a chance of %v", p)
			}
		}
	})
}

func TestHistoryIsBounded(t *testing.T) {
	f := New()
	at := monday
	for range 3 * mostKept {
		use(f, "busy", at, time.Second)
		at = at.Add(20 * time.Second)
	}
	if n := len(f.tracks["busy"].history); n > mostKept+1 {
		t.Errorf("%d sessions of one model are kept", n)
	}
	use(f, "rare", at, time.Second)
	f.Refit(at.AddDate(0, 0, 60))
	if len(f.order) != 0 || len(f.tracks) != 0 {
		t.Errorf("%d models are kept that nobody has used for two months", len(f.order))
	}
}

func TestUsedCountsMinutes(t *testing.T) {
	var u used
	set := map[int64]bool{}
	rng := rand.New(rand.NewPCG(5, 6))
	at := int64(20_000_000)
	for range 2000 {
		at += int64(rng.IntN(40))
		to := at + int64(rng.IntN(200))/20*int64(rng.IntN(10))
		u.mark(at, to)
		for ; at < to; at++ {
			set[at] = true
		}
		set[at] = true
		at++
	}
	for range 5000 {
		from := u.until - int64(rng.IntN(ring-200))
		to := min(from+int64(rng.IntN(800)), u.until+3)
		n, w := 0, uint64(0)
		for m := from; m < to; m++ {
			if set[m] {
				n++
			}
		}
		for m := range int64(64) {
			if set[from+m] {
				w |= 1 << m
			}
		}
		if got := u.count(from, to); got != n {
			t.Fatalf("count(%d, %d): %d, want %d", from-u.until, to-u.until, got, n)
		}
		if got := u.word(from); got != w {
			t.Fatalf("word(%d): %b, want %b", from-u.until, got, w)
		}
	}
}

func TestFastFunctionsAreCloseEnough(t *testing.T) {
	for v := 1e-6; v < 1e9; v *= 1.003 {
		if got, want := float64(fastLog(v)), math.Log(v); math.Abs(got-want) > 2e-5*max(1, math.Abs(want)) {
			t.Fatalf("log %v: %v, want %v", v, got, want)
		}
	}
	for v := 0.0; v > -140; v -= 0.013 {
		if got, want := fastExp2(v), math.Exp2(v); math.Abs(got-want) > 1e-5*want+1e-36 {
			t.Fatalf("2^%v: %v, want %v", v, got, want)
		}
	}
}

func TestAllFeaturesAreOfAKind(t *testing.T) {
	f := lived(2, 1)
	var r row
	f.moment.features(f.tracks["job"], f.tracks["job"].idle+60, &r)
	if r.n > dense || r.n < dense-3 {
		t.Errorf("%d features are put, there is room for %d", r.n, dense)
	}
	for i := range r.n {
		if k := kindOf(i); k >= kinds || math.IsNaN(float64(r.x[i])) || math.IsInf(float64(r.x[i]), 0) {
			t.Errorf("feature %d is %v, of kind %d", i, r.x[i], k)
		}
	}
}
