package agent

import (
	"testing"
	"testing/synctest"
	"time"

	"pilotlight/router"
)

func TestEveryEdgeKnowsWhatAllOfThemUse(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		l := newLab(t, 2)
		ask := func(e *testEdge, times int) {
			for range times {
				r, err := e.ask(t.Context())
				if err != nil {
					t.Fatal(err)
				}
				r.end()
			}
		}
		wants := func(granted int64) {
			t.Helper()
			time.Sleep(2*beat + 10*way)
			for i, e := range l.edges {
				if u, told := e.links.Use("n/m-0"); !told || u.Granted != granted || u.InFlight != 0 {
					t.Errorf("edge %d knows %+v, %t; want %d granted", i, u, told, granted)
				}
			}
		}
		ask(l.edges[0], 3)
		ask(l.edges[1], 2)
		wants(5)
		gone := l.edges[1]
		l.edges = l.edges[:1]
		gone.stop()
		wants(5) // what it granted counts on
		ask(l.edges[0], 1)
		wants(6)
	})
}

func TestWishesReachTheKeeper(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		l := newLab(t, 2)
		made := time.Now()
		want := router.Wish{Tier: router.OnHost, Made: made, Until: made.Add(time.Minute), Why: "nobody asks at night", Worth: 2}
		l.edges[0].links.Wish(map[string]router.Wish{"n/m-0": want, "elsewhere/m-0": want})
		time.Sleep(10 * way)
		wishes := l.node.wished()
		got := wishes["n/m-0"]
		if late := got.Made.Sub(made); late < 0 || late > 10*way || got.Until.Sub(got.Made) != time.Minute {
			t.Errorf("it is taken to be made %s later, and to count for %s", late, got.Until.Sub(got.Made))
		}
		got.Made, got.Until = want.Made, want.Until
		if got != want || len(wishes) != 1 {
			t.Errorf("the keeper heard %+v", wishes)
		}
		l.edges[0].links.Wish(nil)
		time.Sleep(10 * way)
		if wishes := l.node.wished(); len(wishes) != 0 {
			t.Errorf("the keeper goes on with %+v", wishes)
		}
	})
}
