//go:build linux

package main_test

import (
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"

	"github.com/hashicorp/consul/api"

	"pilotlight/loadtest/realconsul"
	"pilotlight/warmpool/planner"
)

// shownPlan is what of a plan the tests look at.
type shownPlan struct {
	Acts bool         `json:"acts"`
	Plan planner.Plan `json:"plan"`
}

// A pin counts whichever edge is asked for it: the one that plans acts on it, all of them know it, and it outlives the one that was asked.
func TestAPinAtAnEdgeThatDoesNotPlanCounts(t *testing.T) {
	t.Parallel()
	c := startConsul(t)
	consul := "pool: {policy: 'fixed:idle=1s'}\n" + inConsul(c)
	keepNode(t, t.TempDir(), freeAddr(t), consul+nodeOf(t, "a", sim{name: "org/m", model: "weight: 1", backend: "sleep: engine, slots: 8", args: "--load 50ms"}))
	edge := func(name string) *pilotlight {
		e := serve(t, t.TempDir(), "node: {name: "+name+"}\n"+consul)
		eventually(t, "the edge knows the model", func() bool { return e.linked(t) == 1 })
		return e
	}
	first := edge("first")
	eventually(t, "the first edge plans", func() bool { s, _ := first.plan(t, "org/m"); return s.Acts })
	second := edge("second")
	if s, _ := second.plan(t, "org/m"); s.Acts {
		t.Fatal("both edges plan")
	}
	pinned := func(e *pilotlight) bool { return e.model(t, "org/m").Pinned != nil }
	second.run(t, "pin", "org/m")
	eventually(t, "the other edge knows of the pin", func() bool { return pinned(first) })
	first.await(t, "org/m", "ready")
	second.end(t, syscall.SIGTERM)
	third := edge("third")
	eventually(t, "an edge that comes later knows of it", func() bool { return pinned(third) })
	if got := first.backend(t, "org/m").State; got != "ready" {
		t.Errorf("the pinned backend is %s", got)
	}
	third.run(t, "unpin", "org/m")
	eventually(t, "the pin is gone everywhere", func() bool { return !pinned(first) && !pinned(third) })
	first.await(t, "org/m", "asleep")
	third.run(t, "pin", "org/m", "--for", "1s")
	first.await(t, "org/m", "ready")
	eventually(t, "the pin ends by itself", func() bool { return !pinned(first) && !pinned(third) })
	first.await(t, "org/m", "asleep")
	if _, err := c.API(0).KV().Put(&api.KVPair{Key: "pilotlight/pins/x", Value: []byte("nonsense")}, nil); err != nil {
		t.Fatal(err)
	}
	eventually(t, "a bad pin is said", func() bool {
		return strings.Contains(string(first.run(t, "status")), "the pin at pins/x is not taken over")
	})
}

// plan is an edge's plan of a model's first backend.
func (p *pilotlight) plan(t *testing.T, model string) (shownPlan, planner.Item) {
	t.Helper()
	var s shownPlan
	if err := p.admin.Plan(t.Context(), &s); err != nil {
		t.Fatal(err)
	}
	for _, it := range s.Plan.Items {
		if it.Model == model {
			return s, it
		}
	}
	return s, planner.Item{}
}

func TestThePlanIsFollowedAndExplained(t *testing.T) {
	t.Parallel()
	p := serve(t, t.TempDir(), "pool: {policy: 'fixed:idle=1s'}\n"+simulated(t,
		sim{name: "m", model: "weight: 1", backend: "sleep: engine, slots: 8", args: "--load 50ms"},
		sim{name: "n", model: "never_sleep: true", backend: "sleep: engine, slots: 8", args: "--load 50ms"}))
	p.wantOK(t, chat("m", "Hello."))
	p.wantOK(t, chat("n", "Hello."))
	b := p.await(t, "m", "asleep")
	if b.Reason != "idle for 1s" {
		t.Errorf("it sleeps since %q", b.Reason)
	}
	eventually(t, "the plan knows where it is", func() bool {
		_, it := p.plan(t, "m")
		return it.Rule == planner.RuleForecast && it.Now == it.Want
	})
	table, said := string(p.run(t, "plan")), string(p.run(t, "explain", "m"))
	for _, want := range []string{"m-0 ", "n-0 ", "idle for 1s", "never_sleep", "by fixed:idle=1s"} {
		if !strings.Contains(table, want) {
			t.Errorf("the plan does not say %q:\n%s", want, table)
		}
	}
	for _, want := range []string{"m-0 is", "and stays, by forecast: idle for 1s.", "It wakes when"} {
		if !strings.Contains(said, want) {
			t.Errorf("explain does not say %q:\n%s", want, said)
		}
	}

	try := filepath.Join(t.TempDir(), "try.yaml")
	if err := os.WriteFile(try, []byte("models: {m: {min: 1}}\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	if said := string(p.run(t, "plan", "--what-if", try)); !strings.Contains(said, "min: 1") || !strings.Contains(said, "1 of 2 backends would be elsewhere") {
		t.Errorf("with min: 1 it would be\n%s", said)
	}
	if p.backend(t, "m").State != "asleep" {
		t.Error("what only was asked about was done")
	}
}

// Two edges learn how a fleet is used. The one that plans is killed: the other plans at once when Consul says that it may, and has lost nothing, nor has one
// that is started afterwards.
func TestAPlannerThatIsKilledLeavesWhatItLearned(t *testing.T) {
	t.Parallel()
	c, err := realconsul.Start(t.Context(), realconsul.Options{Dir: t.TempDir()})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = c.Close() })
	consul := "pool: {policy: 'predictive:k=20m'}\nconsul: {address: '" + c.Servers[0].Addr + "'}\n"
	keepNode(t, t.TempDir(), freeAddr(t), consul+nodeOf(t, "a", sim{name: "m", model: "weight: 1", backend: "sleep: engine, slots: 8", args: "--load 50ms"}))
	edge := func(name string) *pilotlight {
		e := serve(t, t.TempDir(), "node: {name: "+name+"}\nlimits: {body_time: 1s}\n"+consul)
		eventually(t, "the edge knows the model", func() bool { return e.linked(t) == 1 })
		return e
	}
	first := edge("first")
	eventually(t, "the first edge plans", func() bool { s, _ := first.plan(t, "m"); return s.Acts })
	second := edge("second")
	knows := func(e *pilotlight) func() bool {
		return func() bool {
			_, it := e.plan(t, "m")
			return strings.Contains(it.Why, "idle for less than 20m")
		}
	}
	first.wantOK(t, chat("m", "Hello."))
	eventually(t, "the edge that plans has learned of the request", knows(first))
	eventually(t, "so has the other", knows(second))
	if s, _ := second.plan(t, "m"); s.Acts {
		t.Error("both edges plan")
	}
	first.kill(t)
	eventually(t, "the second edge plans", func() bool { s, _ := second.plan(t, "m"); return s.Acts }) // after twice a session of 10 s at most
	eventually(t, "it knows how the model was used", knows(second))                                    // once the agent is sure that nothing of the first is in flight
	third := edge("third")
	eventually(t, "one that is started then knows as much", knows(third))
}
