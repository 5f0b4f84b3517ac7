package router

import (
	"log/slog"
	"testing"
	"testing/synctest"
	"time"

	"pilotlight/config"
)

func TestWakesThatHaveEndedAreToldOnce(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := New(map[string]config.Model{"m": {}}, nil, slog.New(slog.DiscardHandler))
		var told []State
		r.Woke = func(b *Backend) { told = append(told, b.State) }
		now := time.Now()
		observe := func(s State, w Woken) {
			r.Observe(Node{Name: "n", Backends: []Backend{{ID: "m-0", Model: "m", State: s, Since: time.Now(), Slots: 1, Woken: w}}})
		}
		late := Woken{Wanted: now.Add(-time.Hour), Ready: now.Add(-time.Hour)}
		observe(Asleep, Woken{})
		observe(Draining, late) // a link tells of what was long ago
		up := Woken{Wanted: now, Ready: now}
		for _, s := range []State{Waking, Ready, Ready, Draining, Asleep} {
			w := up
			if s == Waking {
				w.Ready = time.Time{}
			}
			observe(s, w)
		}
		again := Woken{Wanted: now.Add(time.Second)}
		for _, s := range []State{Waking, Failed, Failed, Stopped} {
			observe(s, again)
		}
		if len(told) != 2 || told[0] != Ready || told[1] != Failed {
			t.Errorf("told were %v, want ready and failed", told)
		}
	})
}
