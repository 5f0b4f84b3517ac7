package policy

import (
	"strings"
	"testing"
	"time"
)

var noon = time.Date(2026, 11, 26, 12, 0, 0, 0, time.UTC)

// parsed is a policy that must be a good one.
func parsed(t *testing.T, spec string) Policy {
	t.Helper()
	p, err := ParseRecorded(spec)
	if err != nil {
		t.Fatal(err)
	}
	return p
}

func TestWhatIsNoPolicyIsRefused(t *testing.T) {
	for spec, want := range map[string]string{
		"":                     `there is no policy ""; there are fixed:idle=60m`,
		"fix":                  `there is no policy "fix"`,
		"fixed:keep=5m":        `it has no setting "keep=5m"; it is written like fixed:idle=60m`,
		"fixed:idle":           `it has no setting "idle"`,
		"fixed:idle=5":         "idle=5 is no time",
		"fixed:idle=-5m":       "idle=-5m is no time",
		"fixed:idle=0s":        "idle=0s is no time",
		"fixed:idle=99999h":    "is no time between 0 and a year",
		"fixed:idle=5m:idle=x": "idle=x is no time",
	} {
		if _, err := Parse(spec); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%q: the error is %v, want one with %q", spec, err, want)
		}
	}
	for _, spec := range []string{"fixed", "fixed:idle=0.5d", " fixed:idle=90s "} {
		if _, err := Parse(spec); err != nil {
			t.Error(err)
		}
	}
}

func TestFixedKeepsAModelForItsTime(t *testing.T) {
	p := parsed(t, "fixed:idle=10m")
	for _, c := range []struct {
		idle time.Duration
		warm bool
	}{{0, true}, {9 * time.Minute, true}, {10 * time.Minute, false}, {time.Hour, false}} {
		d := p.Decide(Question{Model: "m", Now: noon.Add(c.idle), Idle: noon, Warm: true})
		if d.Warm != c.warm || d.Why == "" || d.Chance != -1 || c.warm && !d.Until.Equal(noon.Add(10*time.Minute)) {
			t.Errorf("after %s: %+v", c.idle, d)
		}
	}
	if d := p.Decide(Question{Model: "new", Now: noon}); d.Warm {
		t.Errorf("a model that was never used: %+v", d)
	}
}

// used tells a policy of uses of 10 s each, with these gaps between them, and gives the end of the last.
func used(p Policy, model string, gaps ...time.Duration) time.Time {
	at := noon
	for _, gap := range append(gaps, -1) {
		p.Arrived(model, at, 1)
		at = at.Add(10 * time.Second)
		p.Ended(model, at)
		if gap >= 0 {
			at = at.Add(gap)
		}
	}
	return at
}

// windows is when in an hour of idle time a policy has the model warm, by the minute: w warm, . not.
func windows(p Policy, model string, idle time.Time) string {
	var b strings.Builder
	warm := false
	for i := range 60 {
		now := idle.Add(time.Duration(i) * time.Minute)
		if warm = p.Decide(Question{Model: model, Now: now, Idle: idle, Warm: warm, Load: 30 * time.Second}).Warm; warm {
			b.WriteByte('w')
		} else {
			b.WriteByte('.')
		}
	}
	return b.String()
}

func repeated(gap time.Duration, n int) (gaps []time.Duration) {
	for range n {
		gaps = append(gaps, gap)
	}
	return gaps
}

func TestHybrid(t *testing.T) {
	for name, c := range map[string]struct {
		gaps []time.Duration
		want string
	}{
		"nothing is known: as long as the histogram is": {nil, strings.Repeat("w", 30) + strings.Repeat(".", 30)},
		// 20 min: the load ends 10 % earlier, at 18 min, and it is kept until 21 min and 10 % more.
		"a timer":              {repeated(20*time.Minute, 9), strings.Repeat(".", 18) + strings.Repeat("w", 6) + strings.Repeat(".", 36)},
		"gaps of seconds":      {repeated(20*time.Second, 9), "ww" + strings.Repeat(".", 58)},
		"out of range: series": {repeated(50*time.Minute, 9), strings.Repeat(".", 42) + strings.Repeat("w", 16) + ".."},
		"spread evenly": {
			[]time.Duration{5 * time.Minute, 0, 6 * time.Minute, 7 * time.Minute, 8 * time.Minute, 9 * time.Minute, 10 * time.Minute, 11 * time.Minute, 12 * time.Minute, 13 * time.Minute, 14 * time.Minute},
			strings.Repeat("w", 30) + strings.Repeat(".", 30),
		},
	} {
		p := parsed(t, "hybrid:range=30m")
		if got := windows(p, "m", used(p, "m", c.gaps...)); got != c.want {
			t.Errorf("%s:\n%s, want\n%s", name, got, c.want)
		}
	}
}

func TestTTLTakesTheCheapestIdleTime(t *testing.T) {
	p := parsed(t, "ttl:k=10m")
	if got, want := windows(p, "m", used(p, "m")), strings.Repeat("w", 10)+strings.Repeat(".", 50); got != want {
		t.Errorf("before there is a gap: %s", got)
	}
	// Gaps of 4 min are worth bridging, those of 40 min are not.
	p = parsed(t, "ttl:k=10m")
	idle := used(p, "m", 4*time.Minute, 40*time.Minute, 4*time.Minute, 4*time.Minute, 40*time.Minute, 4*time.Minute)
	if got := windows(p, "m", idle); !strings.HasPrefix(got, "wwww") || strings.Contains(got[8:], "w") {
		t.Errorf("short and long gaps: %s", got)
	}
	// And where gaps are all long it lets go at once, but for what others' gaps say.
	if got := windows(p, "rare", used(p, "rare", repeated(50*time.Minute, 40)...)); strings.Contains(got[2:], "w") {
		t.Errorf("long gaps: %s", got)
	}
}

func TestWhatIsWorthLeastGoesFirst(t *testing.T) {
	p := parsed(t, "gdsf").(Ranker)
	hold := func(model string, size int64, miss time.Duration) float64 {
		return p.Worth(Holding{Model: model, Now: noon, Idle: noon, Size: size << 30, Miss: miss})
	}
	used(p, "often", repeated(time.Minute, 9)...)
	used(p, "once")
	if often, once := hold("often", 8, 20*time.Second), hold("once", 8, 20*time.Second); often != 25 || once != 2.5 {
		t.Errorf("ten uses are worth %v, one %v", often, once)
	}
	if hold("once", 4, 20*time.Second) != 5 || hold("once", 8, 40*time.Second) != 5 {
		t.Error("what is half as large, or takes twice as long to load, is not worth twice as much")
	}
	p.Evicted(Holding{Model: "often"}, 25, true)
	used(p, "new")
	if got := hold("often", 8, 20*time.Second); got != 0 {
		t.Errorf("what is on disk is worth %v", got)
	}
	if got := hold("new", 8, 20*time.Second); got != 27.5 {
		t.Errorf("after an eviction a new one is worth %v: the clock has not moved", got)
	}
	l := parsed(t, "lru").(Ranker)
	if l.Worth(Holding{Now: noon, Idle: noon.Add(-time.Hour)}) >= l.Worth(Holding{Now: noon, Idle: noon.Add(-time.Minute)}) {
		t.Error("what was used an hour ago is worth more than what was used a minute ago")
	}
}

func TestClairvoyantsAreForRecordedTraffic(t *testing.T) {
	if _, err := Parse("oracle"); err == nil {
		t.Error("a policy that must know the future may be chosen live")
	}
	next := noon.Add(30 * time.Minute)
	for spec, want := range map[string]string{
		"clairvoyant:keep=30m": strings.Repeat("w", 31) + strings.Repeat(".", 29),
		"clairvoyant:keep=29m": strings.Repeat(".", 60),
		"oracle":               strings.Repeat(".", 30) + "w" + strings.Repeat(".", 29),
	} {
		p := parsed(t, spec).(Clairvoyant)
		p.Foresee(func(_ string, at time.Time) time.Time {
			if at.After(next) {
				return time.Time{}
			}
			return next
		})
		if got := windows(p, "m", noon); got != want {
			t.Errorf("%s:\n%s, want\n%s", spec, got, want)
		}
	}
}
