package warmpool

import (
	"slices"
	"testing"
	"time"

	"pilotlight/config"
	"pilotlight/router"
)

func TestPlan(t *testing.T) {
	now := time.Date(2026, 1, 2, 3, 4, 5, 0, time.UTC)
	ago := func(d time.Duration) time.Time { return now.Add(-d) }
	policy := config.Model{IdleTime: config.Duration(time.Minute), StopAfter: config.Duration(time.Hour)}
	with := func(change func(*config.Model)) config.Model { m := policy; change(&m); return m }
	for name, c := range map[string]struct {
		seen  Seen
		event event
		why   string // empty: nothing to do
		next  time.Duration
	}{
		"idle for long enough":             {Seen{State: router.Ready, Since: ago(time.Hour), Use: router.Use{Last: ago(time.Minute)}, Policy: policy}, dismissed, "idle for 1m", 0},
		"not yet idle for long enough":     {Seen{State: router.Ready, Since: ago(time.Hour), Use: router.Use{Last: ago(50 * time.Second)}, Policy: policy}, 0, "", 10 * time.Second},
		"never used since it woke":         {Seen{State: router.Ready, Since: ago(20 * time.Second), Use: router.Use{Last: ago(time.Hour)}, Policy: policy}, 0, "", 40 * time.Second},
		"busy":                             {Seen{State: router.Ready, Since: ago(time.Hour), Use: router.Use{InFlight: 1, Last: ago(time.Hour)}, Policy: policy}, 0, "", look},
		"waited for":                       {Seen{State: router.Ready, Since: ago(time.Hour), Use: router.Use{Waiting: 1, Last: ago(time.Hour)}, Policy: policy}, 0, "", look},
		"idle but never sleeps":            {Seen{State: router.Ready, Since: ago(time.Hour), Policy: with(func(m *config.Model) { m.NeverSleep = true })}, 0, "", 0},
		"idle but the last that min wants": {Seen{State: router.Ready, Since: ago(time.Hour), Policy: with(func(m *config.Model) { m.Min = 1 })}, 0, "", 0},
		"idle but nobody can move it":      {Seen{State: router.Ready, Since: ago(time.Hour), Policy: policy, Stays: true}, 0, "", 0},
		"wanted by min":                    {Seen{State: router.Stopped, Policy: with(func(m *config.Model) { m.Min = 1 })}, wanted, "min: 1", 0},
		"stopped":                          {Seen{State: router.Stopped, Policy: policy}, 0, "", 0},
		"asleep":                           {Seen{State: router.Asleep, Since: ago(time.Minute), Policy: policy}, 0, "", 59 * time.Minute},
		"asleep for very long":             {Seen{State: router.Asleep, Since: ago(time.Hour), Policy: policy}, halted, "asleep for 1h", 0},
		"asleep, and nobody can stop it":   {Seen{State: router.Asleep, Since: ago(time.Hour), Policy: policy, Sleeps: true}, 0, "", 0},
		"resting":                          {Seen{State: router.Failed, Rested: now.Add(time.Second)}, 0, "", time.Second},
		"has rested":                       {Seen{State: router.Failed, Rested: now}, rested, "has rested", 0},
		"waking":                           {Seen{State: router.Waking, Since: ago(time.Hour), Policy: policy}, 0, "", 0},
	} {
		c.seen.ID, c.seen.Model = "a-0", "a"
		steps, next := Plan(now, []Seen{c.seen})
		var want []Step
		if c.why != "" {
			want = []Step{{ID: "a-0", Event: c.event, Why: c.why}}
		}
		if !slices.Equal(steps, want) {
			t.Errorf("%s: got %v, want %v", name, steps, want)
		}
		if c.next == 0 && !next.IsZero() || c.next != 0 && next != now.Add(c.next) {
			t.Errorf("%s: looks again at %s, want in %s", name, next, c.next)
		}
	}
}

func TestPlanKeepsExactlyMin(t *testing.T) {
	now := time.Now()
	var seen []Seen
	for _, s := range []router.State{router.Ready, router.Ready, router.Asleep, router.Ready} {
		seen = append(seen, Seen{ID: string(rune('a' + len(seen))), Model: "m", State: s, Since: now.Add(-time.Minute), Policy: config.Model{Min: 2, IdleTime: config.Duration(time.Second), StopAfter: config.Duration(time.Hour)}})
	}
	steps, _ := Plan(now, seen)
	if len(steps) != 1 || steps[0].ID != "a" || steps[0].Event != dismissed {
		t.Errorf("got %v, want one of three dismissed", steps)
	}
}

func TestFit(t *testing.T) {
	l := NewLedger(config.Node{GPUs: []config.GPU{{Memory: 24 * g}, {Memory: 24 * g}, {Memory: 80 * g}}, Headroom: g})
	l.Commit("a", Commitment{GPUs: []int{0}, Each: 10 * g})
	l.Commit("b", Commitment{GPUs: []int{1}, Each: 20 * g})
	l.Commit("c", Commitment{GPUs: []int{2}, Each: 70 * g})
	may := []Evictable{{"c", []int{2}, 70 * g}, {"b", []int{1}, 18 * g}, {"a", []int{0}, 10 * g}}
	for name, c := range map[string]struct {
		each    config.Size
		n       int
		on      []int
		gpus    []int
		victims []string
		ok      bool
	}{
		"the tightest that has room":     {8 * g, 1, nil, []int{2}, nil, true},
		"room after all":                 {13 * g, 1, nil, []int{0}, nil, true},
		"two that have room":             {9 * g, 2, nil, []int{0, 2}, nil, true},
		"one must leave":                 {23 * g, 1, nil, []int{2}, []string{"c"}, true},
		"what stays of a sleeper counts": {22 * g, 1, []int{1}, nil, nil, false},
		"all must leave":                 {14 * g, 3, nil, []int{0, 1, 2}, []string{"b", "a", "c"}, true},
		"never":                          {80 * g, 1, nil, nil, nil, false},
		"only where it sleeps":           {8 * g, 1, []int{0}, []int{0}, nil, true},
		"no GPU":                         {0, 0, nil, nil, nil, true},
	} {
		gpus, victims, ok := l.Fit(time.Now(), c.each, c.n, c.on, may)
		slices.Sort(victims)
		slices.Sort(c.victims)
		if !slices.Equal(gpus, c.gpus) || !slices.Equal(victims, c.victims) || ok != c.ok {
			t.Errorf("%s: got %v %v %v, want %v %v %v", name, gpus, victims, ok, c.gpus, c.victims, c.ok)
		}
	}
}

func TestRest(t *testing.T) {
	for n, want := range map[int]time.Duration{0: 0, 1: time.Second, 2: 2 * time.Second, 5: 16 * time.Second, 9: 256 * time.Second, 10: maxRest, 1000: maxRest} {
		if got := rest(n, 0.5); got != want {
			t.Errorf("after %d failures: %s, want %s", n, got, want)
		}
	}
	if low, high := rest(1, 0), rest(1, 1); low != 800*time.Millisecond || high != 1200*time.Millisecond {
		t.Errorf("jitter from %s to %s", low, high)
	}
}

func TestLearnedTimesLast(t *testing.T) {
	file := t.TempDir() + "/state/learned.json"
	l, err := LoadLearned(file)
	if err != nil {
		t.Fatal(err)
	}
	if got := l.Expect("a", router.OnDisk, 20*g); got != 25*time.Second {
		t.Errorf("expects %s of 20 GiB from disk before it has seen one", got)
	}
	if got := l.Expect("a", router.OnHost, 20*g); got != 1300*time.Millisecond {
		t.Errorf("expects %s of 20 GiB from host memory before it has seen one", got)
	}
	for _, took := range []time.Duration{8 * time.Second, 4 * time.Second} {
		if err := l.Learn("a", router.OnDisk, took); err != nil {
			t.Fatal(err)
		}
	}
	again, err := LoadLearned(file)
	if got := again.Expect("a", router.OnDisk, 20*g); err != nil || got != 6*time.Second {
		t.Errorf("expects %s after a restart, %v", got, err)
	}
}
