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

// An agent that was started anew hears what the planner wants, and the planner of before takes back nothing that the next one said.
func TestWishesOutliveAnAgentAndAPlanner(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		l := newLab(t, 2)
		wish := func(e *testEdge, why string) {
			e.links.Wish(map[string]router.Wish{"n/m-0": {Tier: router.OnHost, Made: time.Now(), Until: time.Now().Add(time.Minute), Why: why}})
		}
		wants := func(why string) {
			t.Helper()
			time.Sleep(10 * way)
			if got := l.node.wished()["n/m-0"].Why; got != why {
				t.Errorf("the keeper goes by %q, want %q", got, why)
			}
		}
		wish(l.edges[0], "the first planner's")
		wants("the first planner's")
		l.killAgent()
		l.node.Wish(nil)
		l.startAgent()
		time.Sleep(2 * maxPause)
		wants("the first planner's")
		wish(l.edges[1], "the next one's")
		wants("the next one's")
		l.edges[0].links.Wish(nil)
		wants("the next one's")
		l.edges[1].links.Wish(nil)
		wants("")
	})
}
