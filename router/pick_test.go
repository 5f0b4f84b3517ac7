package router

import (
	"math/rand/v2"
	"testing"
	"time"

	"pilotlight/probe"
)

func candidate(id string, s State, inFlight, slots int) *Candidate {
	return &Candidate{Backend: &Backend{ID: id, State: s, Slots: slots}, InFlight: inFlight}
}

func TestPick(t *testing.T) {
	now := time.Now()
	queued := candidate("queued", Ready, 0, 4)
	queued.Reading, queued.Others = probe.Reading{At: now, Waiting: 3}, 3
	stale := candidate("stale", Ready, 0, 4)
	stale.Reading, stale.Others = probe.Reading{At: now.Add(-time.Minute), Waiting: 3}, 3
	bad := candidate("bad", Ready, 0, 4)
	bad.Ejected = now.Add(time.Second)
	for name, c := range map[string]struct {
		from  []*Candidate
		tried Tried
		want  string
	}{
		"nobody":                               {nil, Tried{}, ""},
		"only ready ones":                      {[]*Candidate{candidate("a", Waking, 0, 4), candidate("b", Ready, 3, 4)}, Tried{}, "b"},
		"only those with a free slot":          {[]*Candidate{candidate("a", Ready, 4, 4)}, Tried{}, ""},
		"the smallest share":                   {[]*Candidate{candidate("a", Ready, 1, 2), candidate("b", Ready, 2, 8)}, Tried{}, "b"},
		"the first of equals":                  {[]*Candidate{candidate("a", Ready, 0, 4), candidate("b", Ready, 0, 4)}, Tried{}, "a"},
		"what others ask of the engine counts": {[]*Candidate{queued, candidate("b", Ready, 1, 4)}, Tried{}, "b"},
		"an old reading has no vote":           {[]*Candidate{stale, candidate("b", Ready, 1, 4)}, Tried{}, "stale"},
		"ejected ones come last":               {[]*Candidate{bad, candidate("b", Ready, 3, 4)}, Tried{}, "b"},
		"but never is everything barred":       {[]*Candidate{bad}, Tried{}, "bad"},
		"nor is one that was tried":            {[]*Candidate{candidate("a", Ready, 0, 4), bad, candidate("b", Ready, 3, 4)}, Tried{"a"}, "b"},
		"one that was tried comes last":        {[]*Candidate{candidate("a", Ready, 0, 4), bad}, Tried{"a"}, "bad"},
		"and two come, in the end":             {[]*Candidate{candidate("a", Ready, 3, 4), candidate("b", Ready, 0, 4)}, Tried{"a", "b"}, "b"},
	} {
		got, why := Pick(c.from, now, c.tried)
		if id := idOf(got); id != c.want || why.Rule == "" {
			t.Errorf("%s: got %q (%v), want %q", name, id, why, c.want)
		}
	}
}

func TestPlace(t *testing.T) {
	now := time.Now()
	with := func(c *Candidate, wake time.Duration) *Candidate {
		c.WakeTime, c.Since = wake, now.Add(-10*time.Second)
		return c
	}
	resting := with(candidate("resting", Failed, 0, 1), time.Second)
	resting.Rested = now.Add(time.Minute)
	rested := with(candidate("rested", Failed, 0, 1), time.Second)
	avoided := with(candidate("avoided", Stopped, 0, 1), 0)
	avoided.Avoid = now.Add(time.Second)
	asked := with(candidate("asked", Waking, 0, 1), 0)
	asked.wake = &wake{}
	for name, c := range map[string]struct {
		from []*Candidate
		want string
	}{
		"nobody":                     {nil, ""},
		"the soonest":                {[]*Candidate{with(candidate("disk", Stopped, 0, 1), time.Minute), with(candidate("host", Asleep, 0, 1), time.Second)}, "host"},
		"one on the way counts":      {[]*Candidate{with(candidate("host", Asleep, 0, 1), 3*time.Second), with(candidate("waking", Waking, 0, 1), 12*time.Second)}, "waking"},
		"not one that was asked":     {[]*Candidate{asked, with(candidate("disk", Stopped, 0, 1), time.Minute)}, "disk"},
		"not while it rests":         {[]*Candidate{resting}, ""},
		"but after that":             {[]*Candidate{rested}, "rested"},
		"not one that has just said": {[]*Candidate{avoided}, ""},
		"not one that is ready":      {[]*Candidate{candidate("ready", Ready, 1, 1)}, ""},
	} {
		got, why := Place(c.from, now)
		if id := idOf(got); id != c.want || why.Rule == "" {
			t.Errorf("%s: got %q (%v), want %q", name, id, why, c.want)
		}
	}
}

// Pick never gives a full or unready backend, and always the same one.
func FuzzPick(f *testing.F) {
	f.Add(uint64(1))
	f.Fuzz(func(t *testing.T, seed uint64) {
		r := rand.New(rand.NewPCG(seed, 0))
		now := time.Now()
		var from []*Candidate
		free := false
		for i := range r.IntN(10) {
			c := candidate(string(rune('a'+i)), State(r.IntN(6)), r.IntN(5), 1+r.IntN(4))
			free = free || c.State == Ready && c.InFlight < c.Slots
			from = append(from, c)
		}
		got, _ := Pick(from, now, Tried{})
		again, _ := Pick(from, now, Tried{})
		if got != again || (got != nil) != free || got != nil && (got.State != Ready || got.InFlight >= got.Slots) {
			t.Errorf("Pick of %v gave %v, then %v", from, got, again)
		}
	})
}

func idOf(c *Candidate) string {
	if c == nil {
		return ""
	}
	return c.ID
}
