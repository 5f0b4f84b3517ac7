package consul

import (
	"context"
	"fmt"
	"slices"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/hashicorp/consul/api"

	"pilotlight/config"
	"pilotlight/router"
)

// followed keeps what Watch says.
type followed struct {
	all []*Catalogue
}

func (w *followed) last(t *testing.T) *Catalogue {
	t.Helper()
	if len(w.all) == 0 {
		t.Fatal("there is no catalogue")
	}
	return w.all[len(w.all)-1]
}

// states are the backends of a node, as in "llama-0 ready".
func (w *followed) states(t *testing.T, node string) string {
	t.Helper()
	var all []string
	for _, b := range w.last(t).Nodes[node] {
		_, name, _ := strings.Cut(b.ID, "/")
		all = append(all, name+" "+b.State.String())
	}
	return strings.Join(all, ", ")
}

// withWatch runs test in a bubble beside a Watch of f.
func withWatch(t *testing.T, f *fake, change func(*config.Consul), test func(c *Client, w *followed)) {
	t.Helper()
	synctest.Test(t, func(t *testing.T) {
		f.changed = make(chan struct{}) // of this bubble
		c := f.client(t, change)
		ctx, cancel := context.WithCancel(t.Context())
		w := &followed{}
		done := make(chan struct{})
		go func() {
			defer close(done)
			_ = c.Watch(ctx, func(next *Catalogue) { w.all = append(w.all, next) })
		}()
		pass(5 * time.Second)
		test(c, w)
		cancel()
		<-done
	})
}

// pass lets time go by in a bubble.
func pass(d time.Duration) {
	time.Sleep(d)
	synctest.Wait()
}

// owned is an instance that node's agent registered.
func owned(node, name, status, output string) *api.ServiceEntry {
	id := node + "/" + name
	return &api.ServiceEntry{
		Node:    &api.Node{Node: "c-" + node, Address: "10.0.0.1"},
		Service: &api.AgentService{ID: id, Port: 8000, Meta: map[string]string{metaModel: "llama", metaNode: node, metaAgent: node}},
		Checks:  api.HealthChecks{{CheckID: checkOf(id), ServiceID: id, Status: status, Output: output}},
	}
}

func agentEntry(node, status string) *api.ServiceEntry {
	e := owned(node, "agent", status, "")
	e.Service.Meta = map[string]string{metaNode: node, metaLink: "10.0.0.1:7000"}
	return e
}

func TestTheFirstCatalogueIsWhole(t *testing.T) {
	f := newFake()
	f.set(AgentService, agentEntry("n1", api.HealthPassing))
	for i := range 40 {
		f.set(fmt.Sprintf("llama-%d", i), owned("n1", fmt.Sprintf("llama-%02d", i), api.HealthPassing, "ready"))
	}
	withWatch(t, f, nil, func(_ *Client, w *followed) {
		if first := w.all[0]; len(first.Nodes["n1"]) != 40 || !first.Agents["n1"].Alive || !slices.Equal(first.Changed, []string{"n1"}) {
			t.Errorf("got %d backends, %+v, changed %q", len(first.Nodes["n1"]), first.Agents, first.Changed)
		}
		if len(w.all) != 1 {
			t.Errorf("nothing changed, and there are %d catalogues", len(w.all))
		}
	})
}

func TestAChangeCostsOneQueryForItsServiceAndIdlingCostsNone(t *testing.T) {
	f := newFake()
	for i := range 100 {
		f.set(fmt.Sprintf("llama-%d", i), owned("n1", fmt.Sprintf("llama-%02d", i), api.HealthPassing, "ready"))
	}
	withWatch(t, f, nil, func(_ *Client, w *followed) {
		f.counted("")
		f.set("llama-7", owned("n1", "llama-07", api.HealthWarning, "asleep: idle"))
		f.touch("llama-7")
		pass(time.Second)
		if got := w.states(t, "n1"); !strings.Contains(got, "llama-07 asleep, llama-08 ready") {
			t.Errorf("got %s", got)
		}
		f.mu.Lock()
		asked := slices.Clone(f.asked)
		f.mu.Unlock()
		if len(asked) > 3 {
			t.Errorf("one change cost %d queries: %q", len(asked), asked)
		}
		f.counted("")
		pass(4 * time.Minute)
		f.mu.Lock()
		defer f.mu.Unlock()
		if len(f.asked) > 4 {
			t.Errorf("four idle minutes cost %d queries: %q", len(f.asked), f.asked)
		}
	})
}

func TestAKeyThatComesBeforeItsChangeIsNoLoss(t *testing.T) {
	f := newFake()
	f.set("llama", owned("n1", "llama-0", api.HealthPassing, "ready"))
	withWatch(t, f, nil, func(_ *Client, w *followed) {
		f.touch("llama")
		pass(500 * time.Millisecond)
		f.set("llama", owned("n1", "llama-0", api.HealthCritical, "failed: no memory"))
		pass(100 * time.Millisecond)
		if got := w.states(t, "n1"); got != "llama-0 failed" {
			t.Errorf("got %s", got)
		}
	})
}

func TestWhatChangesTogetherComesTogether(t *testing.T) {
	f := newFake()
	for i := range 8 {
		f.set(fmt.Sprintf("llama-%d", i), owned("n1", fmt.Sprintf("llama-%d", i), api.HealthPassing, "ready"))
	}
	withWatch(t, f, nil, func(_ *Client, w *followed) {
		before := len(w.all)
		for i := range 8 {
			f.set(fmt.Sprintf("llama-%d", i), owned("n1", fmt.Sprintf("llama-%d", i), api.HealthWarning, "asleep"))
			f.touch(fmt.Sprintf("llama-%d", i))
		}
		pass(time.Second)
		if got := len(w.all) - before; got > 2 {
			t.Errorf("eight changes at once are %d catalogues", got)
		}
	})
}

func TestConsulsAbsenceChangesNothing(t *testing.T) {
	f := newFake()
	f.set(AgentService, agentEntry("n1", api.HealthPassing))
	f.set("llama", owned("n1", "llama-0", api.HealthPassing, "ready"))
	foreign := owned("n2", "vllm-0", api.HealthPassing, "")
	delete(foreign.Service.Meta, metaAgent)
	f.set("vllm", foreign)
	withWatch(t, f, nil, func(c *Client, w *followed) {
		before := len(w.all)
		f.do(func() { f.away = true })
		pass(10 * time.Minute)
		if got := len(w.all) - before; got != 0 || c.Status().Answers {
			t.Errorf("%d catalogues while Consul was away; answers: %t", got, c.Status().Answers)
		}
		asked := f.counted("/v1/catalog/services")
		if asked > 100 {
			t.Errorf("Consul was asked %d times for the same in ten minutes", asked)
		}
		f.do(func() { f.away = false })
		pass(lastRetry)
		if !c.Status().Answers || w.states(t, "n1") != "llama-0 ready" {
			t.Errorf("it is back: %+v, %s", c.Status(), w.states(t, "n1"))
		}
	})
}

// TestAConsulThatLostItsDataIsGivenTime holds that those who registered may do so again before what is missing counts as gone.
func TestAConsulThatLostItsDataIsGivenTime(t *testing.T) {
	f := newFake()
	f.set(AgentService, agentEntry("n1", api.HealthPassing))
	f.set("llama", owned("n1", "llama-0", api.HealthPassing, "ready"))
	f.set("qwen", owned("n1", "qwen-0", api.HealthPassing, "ready"))
	for range 50 {
		f.touch("llama")
	}
	withWatch(t, f, nil, func(_ *Client, w *followed) {
		f.do(func() { f.away = true })
		pass(20 * time.Second)
		f.do(func() {
			f.away, f.index, f.names, f.kv = false, 3, 3, 3
			f.services, f.indexes, f.keys = map[string][]*api.ServiceEntry{}, map[string]uint64{}, nil
		})
		pass(30 * time.Second)
		if got := w.states(t, "n1"); got != "llama-0 ready, qwen-0 ready" || !w.last(t).Agents["n1"].Alive {
			t.Errorf("half a minute later: %s, %+v", got, w.last(t).Agents)
		}
		f.set("llama", owned("n1", "llama-0", api.HealthPassing, "ready"))
		f.touch("llama")
		pass(2 * time.Minute)
		if got := w.states(t, "n1"); got != "llama-0 ready" || len(w.last(t).Agents) != 0 {
			t.Errorf("what was not registered again stays: %s, %+v", got, w.last(t).Agents)
		}
	})
}

func TestWhatIsDeregisteredIsGoneAtOnce(t *testing.T) {
	f := newFake()
	f.set("llama", owned("n1", "llama-0", api.HealthPassing, "ready"), owned("n2", "llama-0", api.HealthPassing, "ready"))
	withWatch(t, f, nil, func(_ *Client, w *followed) {
		f.set("llama", owned("n2", "llama-0", api.HealthPassing, "ready"))
		f.touch("llama")
		pass(time.Second)
		if _, there := w.last(t).Nodes["n1"]; there || !slices.Equal(w.last(t).Changed, []string{"n1"}) {
			t.Errorf("got %+v", w.last(t))
		}
		f.set("llama")
		pass(3 * time.Second)
		if len(w.last(t).Nodes) != 0 {
			t.Errorf("got %+v", w.last(t))
		}
	})
}

func TestWhatATokenMayNotSeeIsNotGone(t *testing.T) {
	f := newFake()
	f.set("llama", owned("n1", "llama-0", api.HealthPassing, "ready"))
	withWatch(t, f, nil, func(c *Client, w *followed) {
		f.do(func() { f.filtered = true })
		f.set("llama")
		f.touch("llama")
		pass(10 * time.Second)
		if got := w.states(t, "n1"); got != "llama-0 ready" {
			t.Errorf("got %s", got)
		}
		if problems := strings.Join(c.Status().Problems, "\n"); !strings.Contains(problems, `look at service llama: the token may not see all that is there; it needs service:read for "llama" and node:read`) {
			t.Errorf("problems: %s", problems)
		}
	})
}

func TestAnAgentsSilenceIsKnownAndChangesNoState(t *testing.T) {
	f := newFake()
	f.set(AgentService, agentEntry("n1", api.HealthPassing))
	f.set("llama", owned("n1", "llama-0", api.HealthPassing, "ready"))
	withWatch(t, f, nil, func(_ *Client, w *followed) {
		f.set(AgentService, agentEntry("n1", api.HealthCritical))
		pass(3 * time.Second)
		if b := w.last(t).Nodes["n1"][0]; !b.Silent || b.State != router.Ready || w.last(t).Agents["n1"].Alive {
			t.Errorf("got %+v", b)
		}
		f.set(AgentService, agentEntry("n1", api.HealthPassing))
		pass(3 * time.Second)
		if b := w.last(t).Nodes["n1"][0]; b.Silent || b.State != router.Ready {
			t.Errorf("got %+v", b)
		}
	})
}

func TestServicesOfOthersAreWaitedOnAndTakeTurnsWhereTheyAreMany(t *testing.T) {
	for _, n := range []int{3, 20} {
		f := newFake()
		foreign := func(i int, status string) *api.ServiceEntry {
			e := owned("n1", fmt.Sprintf("vllm-%02d", i), status, "")
			delete(e.Service.Meta, metaAgent)
			return e
		}
		for i := range n {
			f.set(fmt.Sprintf("vllm-%d", i), foreign(i, api.HealthPassing))
		}
		withWatch(t, f, nil, func(_ *Client, w *followed) {
			f.set("vllm-2", foreign(2, api.HealthCritical))
			pass(time.Duration(1+n/4) * 3 * time.Second)
			if got := len(w.last(t).Nodes["n1"]); got != n {
				t.Errorf("of %d: %d backends", n, got)
			}
			for _, b := range w.last(t).Nodes["n1"] {
				if (b.State == router.Failed) != strings.HasSuffix(b.ID, "vllm-02") {
					t.Errorf("of %d: %s is %s", n, b.ID, b.State)
				}
			}
		})
	}
}

func TestPausesAfterFailuresGrowAndScatter(t *testing.T) {
	for n, want := range map[int][2]time.Duration{1: {time.Second / 8, time.Second}, 3: {time.Second / 2, 4 * time.Second}, 99: {lastRetry / 8, lastRetry}} {
		if got := retryAfter(n, func() float64 { return 0 }); got != want[0] {
			t.Errorf("failure %d: %s at least, want %s", n, got, want[0])
		}
		if got := retryAfter(n, func() float64 { return 1 }); got != want[1] {
			t.Errorf("failure %d: %s at most, want %s", n, got, want[1])
		}
	}
}

func TestAnIndexThatGoesBackStartsAfresh(t *testing.T) {
	for _, tt := range []struct {
		last, got, want uint64
		back            bool
	}{{0, 0, 1, false}, {5, 9, 9, false}, {5, 5, 5, false}, {9, 5, 0, true}} {
		if index, back := following(tt.last, tt.got); index != tt.want || back != tt.back {
			t.Errorf("%d after %d: %d, %t; want %d, %t", tt.got, tt.last, index, back, tt.want, tt.back)
		}
	}
}
