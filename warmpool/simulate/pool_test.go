package simulate

import (
	"strings"
	"testing"
	"time"

	"pilotlight/warmpool/policy"
)

// memory is for models of 10 each, of which so many fit: a load takes 20 s from disk and 2 s from the host's memory.
func memory(gpu, host int64) Memory {
	return Memory{
		GPU: 10 * gpu, Host: 10 * host, Size: func(string) int64 { return 10 },
		Disk: func(int64) time.Duration { return 20 * time.Second }, Wake: func(int64) time.Duration { return 2 * time.Second },
	}
}

func pooled(t *testing.T, d *Demand, p policy.Policy, m Memory) *PoolResult {
	t.Helper()
	r, err := RunPool(t.Context(), d, p.(policy.Ranker), m)
	if err != nil {
		t.Fatal(err)
	}
	return r
}

func parsed(t *testing.T, spec string) policy.Policy {
	t.Helper()
	p, err := policy.ParseRecorded(spec)
	if err != nil {
		t.Fatal(err)
	}
	return p
}

func TestPool(t *testing.T) {
	for name, c := range map[string]struct {
		gpu, host int64
		rows      []string
		want      string // where rows found their models: d disk, h host, g GPU; how many were late, and the delay of all
		late      int64
		delay     time.Duration
	}{
		"what fits stays":                             {2, 0, []string{"a,0,1,1", "b,100,1,1", "a,9000,1,1", "b,9100,1,1"}, "ddgg", 2, 40 * time.Second},
		"who was used least recently goes to disk":    {2, 0, []string{"a,0,1,1", "b,100,1,1", "c,200,1,1", "b,300,1,1", "a,400,1,1"}, "dddgd", 4, 80 * time.Second},
		"or to the host":                              {2, 1, []string{"a,0,1,1", "b,100,1,1", "c,200,1,1", "b,300,1,1", "a,400,1,1"}, "dddgh", 3, 62 * time.Second},
		"from which the oldest goes to disk":          {1, 1, []string{"a,0,1,1", "b,100,1,1", "c,200,1,1", "b,300,1,1", "a,400,1,1"}, "dddhd", 4, 82 * time.Second},
		"who comes while it loads waits for the rest": {1, 0, []string{"a,0,1,1", "a,12,1,1", "a,16,1,1"}, "dgg", 2, 32 * time.Second},
		"a row is as many requests as it says":        {1, 0, []string{"a,0,1,3", "a,100,1,5"}, "dddggggg", 3, 60 * time.Second},
		// b waits for a's end at 120, and then for its load. c comes behind b, whose session it waits for.
		"who finds no room waits in order": {1, 0, []string{"a,0,100,1", "b,50,10,1", "c,60,1,1", "b,70,10,1"}, "dddd", 4, 20*time.Second + 90*time.Second + 110*time.Second + 70*time.Second},
	} {
		r := pooled(t, table(t, c.rows...), parsed(t, "lru"), memory(c.gpu, c.host))
		disk, host := int64(strings.Count(c.want, "d")), int64(strings.Count(c.want, "h"))
		if r.Disk != disk || r.Host != host || r.Requests != int64(len(c.want)) || r.Late != c.late {
			t.Errorf("%s: %+v, want %s, %d late", name, r, c.want, c.late)
		}
		if got := time.Duration(r.Requests) * r.Delay; (got - c.delay).Abs() > time.Millisecond {
			t.Errorf("%s: requests waited for %s in all, want %s", name, got, c.delay)
		}
	}
}

// hunch is a policy that says for each model, and each minute of the recording, what it is worth.
type hunch struct {
	policy.Policy
	worth func(model string, minute int) float64
	began time.Time
}

func (*hunch) Arrived(string, time.Time, int)        {}
func (*hunch) Ended(string, time.Time)               {}
func (*hunch) Evicted(policy.Holding, float64, bool) {}
func (*hunch) Ahead() bool                           { return true }
func (h *hunch) Worth(of policy.Holding) float64 {
	return h.worth(of.Model, int(of.Now.Sub(h.began)/time.Minute)) * of.Miss.Seconds()
}

func TestLoadsAhead(t *testing.T) {
	d := table(t, "a,0,1,1", "b,60,1,1", "a,7200,1,1", "b,7300,1,1")
	for name, c := range map[string]struct {
		worth  func(model string, minute int) float64
		budget int
		disk   int64 // requests that found their model there, of four
		loads  float64
	}{
		"what is worth more is swapped in before it is asked for": {func(m string, minute int) float64 {
			if (m == "a") == (minute > 100) {
				return 10
			}
			return 1
		}, 1, 3, 1},
		"not without a budget": {func(m string, minute int) float64 {
			if (m == "a") == (minute > 100) {
				return 10
			}
			return 1
		}, 0, 4, 0},
		"not for a little": {func(m string, minute int) float64 {
			if (m == "a") == (minute > 100) {
				return 1.4
			}
			return 1
		}, 1, 4, 0},
	} {
		m := memory(1, 0)
		m.Ahead = c.budget
		r := pooled(t, d, &hunch{worth: c.worth, began: d.Began}, m)
		if got := (r.AheadDisk + r.AheadHost) * d.Length.Hours() / 24; r.Disk != c.disk || got < c.loads-1e-9 || got > c.loads+1e-9 {
			t.Errorf("%s: %+v, %v loads ahead", name, r, got)
		}
	}
}

// TestNoPoolIsOverfull: whatever the policy, memory is never given twice, and everybody is served.
func TestNoPoolIsOverfull(t *testing.T) {
	d, err := excerpt(t).Rarely(0.3, 0)
	if err != nil {
		t.Fatal(err)
	}
	whole := int64(0)
	for _, name := range d.Models {
		whole += HashSize(name)
	}
	for _, spec := range []string{"lru", "gdsf", "clairvoyant:keep=60m"} {
		m := Memory{GPU: max(whole/5, 68*gigabyte), Host: whole / 6, Size: HashSize, Disk: DiskTime, Wake: WakeTime}
		a, b := pooled(t, d, parsed(t, spec), m), pooled(t, d, parsed(t, spec), m)
		if *a != *b || a.Rows != int64(d.Rows()) || a.Disk+a.Host > a.Requests {
			t.Errorf("%s: %+v, then %+v", spec, a, b)
		}
		w := newPool(d, parsed(t, spec).(policy.Ranker), m)
		for _, u := range d.uses {
			w.until(u.at)
			w.arrive(&w.models[u.model], u)
			w.check(t)
		}
	}
}

// check adds up the memory of all models.
func (w *pool) check(t *testing.T) {
	gpu, host := w.gpu, w.host
	for i := range w.models {
		switch r := &w.models[i]; r.tier {
		case onGPU:
			gpu += r.size
		case onHost:
			host += r.size
		case onDisk:
		}
	}
	if gpu != w.Memory.GPU || host != w.Memory.Host || w.gpu < 0 || w.host < 0 {
		t.Fatalf("free %d and %d; of all %d of %d, and %d of %d", w.gpu, w.host, gpu, w.Memory.GPU, host, w.Memory.Host)
	}
}

func TestRarely(t *testing.T) {
	d := table(t, "a,0,10,1", "b,0,60,1", "b,90,10,1", "a,90,10,1")
	if got := d.Working(func(string) int64 { return 100 }, 0); got != 90 {
		t.Errorf("models of %d are busy, on average", got)
	}
	r, err := d.Rarely(0.5, 0)
	if err != nil || len(r.Models) != 1 || r.Models[0] != "a" || r.Rows() != 2 || r.Length != d.Length {
		t.Errorf("%+v, %v", r, err)
	}
	if _, err := d.Rarely(0.1, 0); err == nil {
		t.Error("there is demand of nobody")
	}
}

func TestAModelMustFit(t *testing.T) {
	if _, err := RunPool(t.Context(), table(t, "a,0,1,1", "b,9,1,1"), parsed(t, "lru").(policy.Ranker), memory(0, 5)); err == nil || !strings.Contains(err.Error(), "a takes") {
		t.Error(err)
	}
}
