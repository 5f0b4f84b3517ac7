package router

import (
	"testing"
	"time"
)

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
		if id := idOf(got); id != c.want || got == nil && why.Why == "" {
			t.Errorf("%s: got %q (%v), want %q", name, id, why, c.want)
		}
	}
}
