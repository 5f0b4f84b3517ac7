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
