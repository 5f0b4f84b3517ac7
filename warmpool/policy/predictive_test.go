package policy

import (
	"strings"
	"testing"
	"time"
)

// play replays uses of one minute each, and asks as often as it is told to. It gives how many began cold after a time, and how long the model
// was awake and idle since.
func play(t *testing.T, p Policy, from time.Time, uses []time.Time, load time.Duration) (cold int, idle time.Duration) {
	t.Helper()
	for i, use := range uses {
		p.Arrived("m", use, 1)
		end := use.Add(time.Minute)
		p.Ended("m", end)
		next := end.Add(24 * time.Hour)
		if i+1 < len(uses) {
			next = uses[i+1]
		}
		warm, ready, asked := true, end, 0
		for now := end; now.Before(next); asked++ {
			d := p.Decide(Question{Model: "m", Now: now, Idle: end, Warm: warm, Load: load, Brief: true})
			if d.Warm && !warm {
				ready = now.Add(load)
			}
			warm = d.Warm
			until := d.Until
			if until.IsZero() || until.After(next) {
				until = next
			}
			if !until.After(now) {
				t.Fatalf("at %s it wants to be asked again at %s", now, d.Until)
			}
			if warm && !end.Before(from) {
				idle += until.Sub(now)
			}
			now = until
		}
		if i+1 < len(uses) && !end.Before(from) && (!warm || ready.After(next)) {
			cold++
		}
		if asked > 2000 {
			t.Fatalf("it was asked %d times in one day", asked)
		}
	}
	return cold, idle
}

func TestPredictiveKeepsForItsWorthUntilItHasLearned(t *testing.T) {
	p := parsed(t, "predictive:k=20m")
	p.Arrived("m", noon, 1)
	p.Ended("m", noon.Add(time.Minute))
	for after, warm := range map[time.Duration]bool{0: true, 19 * time.Minute: true, 20 * time.Minute: false, 5 * time.Hour: false} {
		idle := noon.Add(time.Minute)
		d := p.Decide(Question{Model: "m", Now: idle.Add(after), Idle: idle, Warm: true, Load: 30 * time.Second})
		if d.Warm != warm || d.Chance != -1 || d.Until.IsZero() {
			t.Errorf("after %s: %+v", after, d)
		}
	}
}

func TestPredictiveLearnsATimerAndWakesAhead(t *testing.T) {
	p := parsed(t, "predictive:k=30m")
	var uses []time.Time
	for at := noon; at.Before(noon.Add(5 * 24 * time.Hour)); at = at.Add(47 * time.Minute) {
		uses = append(uses, at)
	}
	cold, idle := play(t, p, noon.Add(4*24*time.Hour), uses, 30*time.Second)
	if n := len(uses) / 5; cold > n/20 || idle > time.Duration(n)*8*time.Minute {
		t.Errorf("of %d uses %d began cold, and it was idle for %s", n, cold, idle)
	}
}

func TestPredictiveLearnsWorkingHours(t *testing.T) {
	p := parsed(t, "predictive:k=2h")
	var uses []time.Time
	for day := range 12 {
		for hour := 8; hour < 16; hour++ {
			at := noon.Truncate(24*time.Hour).AddDate(0, 0, day).Add(time.Duration(hour)*time.Hour + time.Duration((day*7+hour*13)%40)*time.Minute)
			uses = append(uses, at)
		}
	}
	cold, idle := play(t, p, noon.AddDate(0, 0, 8), uses, 30*time.Second)
	coldOnes, fixed := play(t, parsed(t, "fixed:idle=2h"), noon.AddDate(0, 0, 8), uses, 30*time.Second)
	if idle+time.Duration(cold)*2*time.Hour > (fixed+time.Duration(coldOnes)*2*time.Hour)*9/10 {
		t.Errorf("%d of 28 uses began cold, it was idle for %s; fixed: %d, %s", cold, idle, coldOnes, fixed)
	}
	idleSince := uses[len(uses)-1].Add(time.Minute)
	d := p.Decide(Question{Model: "m", Now: idleSince.Add(time.Hour), Idle: idleSince, Warm: true, Load: 30 * time.Second})
	if d.Chance < 0 || d.Chance > 1 || !strings.Contains(d.Why, " ") {
		t.Errorf("%+v", d)
	}
}

func TestAlphaFavoursRareModels(t *testing.T) {
	p := parsed(t, "predictive:k=60m:alpha=0.5").(*predictive)
	for i := range 72 * 6 {
		at := noon.Add(time.Duration(i) * 10 * time.Minute)
		models := []string{"often"}
		if i%6 == 0 {
			models = append(models, "usual")
		}
		if i%144 == 0 {
			models = append(models, "rare")
		}
		for _, m := range models {
			p.Arrived(m, at, 1)
			p.Ended(m, at.Add(time.Minute))
		}
	}
	now := noon.Add(72 * time.Hour)
	p.Day(now)
	worth := func(m string) time.Duration { return p.worth(Question{Model: m, Now: now}) }
	if !(worth("rare") > worth("usual") && worth("usual") > worth("often")) || worth("usual").Round(time.Minute) != time.Hour {
		t.Errorf("often %s, usual %s, rare %s", worth("often"), worth("usual"), worth("rare"))
	}
}
