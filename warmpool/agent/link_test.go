package agent

import (
	"context"
	"errors"
	"log/slog"
	"reflect"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"pilotlight/config"
	"pilotlight/router"
)

func TestAnEdgeLearnsOfAChangeInTheTimeThatAMessageTakes(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		l := newLab(t, 2)
		l.node.set("n/m-0", router.Waking)
		time.Sleep(way)
		synctest.Wait()
		for _, e := range l.edges {
			if got := e.state("n/m-0"); got != router.Waking {
				t.Errorf("an edge sees %s, want waking", got)
			}
		}
	})
}

func TestAnEdgeKnowsHowLongAMessageTakes(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		l := newLab(t, 1)
		time.Sleep(5 * time.Second)
		if n := l.edges[0].links.Nodes()[0]; n.Way != 0.5 || n.Offset != 0 {
			t.Errorf("a message takes %v ms, and the clock is %v ms ahead; want 0.5 and 0", n.Way, n.Offset)
		}
	})
}

func TestALinkOnWhichMessagesTakeLongIsSaidToBeSlow(t *testing.T) {
	var log strings.Builder
	l := &Link{log: slog.New(slog.NewTextHandler(&log, nil))}
	for range 40 {
		l.gauge(60*time.Millisecond, 60*time.Millisecond+time.Second)
	}
	if l.way < 59*time.Millisecond || (l.offset+time.Second).Abs() > time.Millisecond || strings.Count(log.String(), "messages are long on their way") != 1 {
		t.Errorf("a message takes %s, the clock is %s ahead, and it says %q", l.way, l.offset, &log)
	}
	for range 40 {
		l.gauge(time.Millisecond, 0)
	}
	if strings.Count(log.String(), "messages are no longer long on their way") != 1 || l.slow {
		t.Errorf("it says %q", &log)
	}
}

func TestARequestAtAnyEdgeWakesABackendOnce(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		l := newLab(t, 3)
		began := time.Now()
		var all sync.WaitGroup
		for _, e := range l.edges {
			all.Go(func() {
				r, err := e.ask(t.Context())
				if err != nil {
					t.Error(err)
					return
				}
				time.Sleep(time.Second)
				r.end()
			})
		}
		all.Wait()
		// one wake, and two slots for three
		if took, least := time.Since(began), 3*time.Second; took < least || took > least+2*turn {
			t.Errorf("three requests took %s, want hardly more than %s", took, least)
		}
		for _, id := range l.node.woken {
			if id != "n/m-0" {
				t.Errorf("%s was woken", id)
			}
		}
	})
}

func TestAWakeIsCalledOffWhenTheLastWhoWaitsHasLeft(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		l := newLab(t, 1)
		ctx, cancel := context.WithTimeoutCause(t.Context(), 500*time.Millisecond, router.ErrLeft)
		defer cancel()
		if _, err := l.edges[0].ask(ctx); !errors.Is(err, router.ErrLeft) {
			t.Errorf("got %v, want that the client left", err)
		}
		time.Sleep(5 * way)
		if got := l.edges[0].state("n/m-0"); got != router.Stopped {
			t.Errorf("the backend is %s, want stopped", got)
		}
	})
}

func TestABackendIsNotPutToSleepWhileAnyEdgeUsesIt(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		l := newLab(t, 2)
		r, err := l.edges[0].ask(t.Context())
		if err != nil {
			t.Fatal(err)
		}
		time.AfterFunc(20*time.Second, r.end)
		began := time.Now()
		if err := l.node.sleep(t.Context(), "n/m-0"); err != nil {
			t.Fatal(err)
		}
		if took := time.Since(began); took < 20*time.Second || took > 20*time.Second+10*way {
			t.Errorf("it slept after %s, want 20s and the time of some messages", took)
		}
	})
}

// An edge is cut off with a request in flight, which goes on for ten minutes.
func TestABackendIsNotPutToSleepWhileAnEdgeThatWasCutOffUsesIt(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		l := newLab(t, 2)
		r, err := l.edges[0].ask(t.Context())
		if err != nil {
			t.Fatal(err)
		}
		l.edges[0].sever(true)
		began := time.Now()
		time.AfterFunc(10*time.Minute, r.end)
		if err := l.node.sleep(t.Context(), "n/m-0"); err != nil {
			t.Fatal(err)
		}
		if took := time.Since(began); took < 10*time.Minute || took > 10*time.Minute+2*lookEvery {
			t.Errorf("it slept after %s, want 10m and a look", took)
		}
	})
}

// The engine does not say what it does, so the longest answer is waited for.
func TestWhereAnEngineIsSilentTheLongestAnswerIsWaitedFor(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		l := newLab(t, 2)
		l.node.silent = true
		r, err := l.edges[0].ask(t.Context())
		if err != nil {
			t.Fatal(err)
		}
		l.edges[0].sever(true)
		began := time.Now()
		time.AfterFunc(19*time.Minute, r.end)
		if err := l.node.sleep(t.Context(), "n/m-0"); err != nil {
			t.Fatal(err)
		}
		if took := time.Since(began); took < 20*time.Minute {
			t.Errorf("it slept after %s, want no less than 20m", took)
		}
	})
}

func TestAnEdgeThatIsCutOffAdmitsNothingOnceItsLeaseEnds(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		l := newLab(t, 1)
		r, err := l.edges[0].ask(t.Context())
		if err != nil {
			t.Fatal(err)
		}
		r.end()
		l.edges[0].sever(true)
		cut := time.Now()
		for {
			lease, err := l.edges[0].TryAcquire(router.Request{Model: "m"})
			if err != nil {
				break
			}
			l.edges[0].begin(lease).end()
			time.Sleep(10 * time.Millisecond)
		}
		if took := time.Since(cut); took > LeaseTime-leaseMargin || took < LeaseTime-leaseMargin-2*beat {
			t.Errorf("it admitted for %s, want hardly less than %s", took, LeaseTime-leaseMargin)
		}
		if err := l.node.sleep(t.Context(), "n/m-0"); err != nil {
			t.Fatal(err)
		}
		if took := time.Since(cut); took < LeaseTime+time.Minute {
			t.Errorf("it slept after %s, want the lease and the edge's reach first", took)
		}
		l.edges[0].sever(false)
		time.Sleep(silence + maxPause + maxPause)
		if r, err = l.edges[0].ask(t.Context()); err != nil {
			t.Fatalf("after it was healed: %v", err)
		}
		r.end()
	})
}

func TestAnEdgeThatComesBackSaysWhatIsInFlight(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		l := newLab(t, 1)
		r, err := l.edges[0].ask(t.Context())
		if err != nil {
			t.Fatal(err)
		}
		l.edges[0].sever(true)
		time.Sleep(10 * time.Minute)
		l.edges[0].sever(false)
		began := time.Now()
		time.AfterFunc(20*time.Second, r.end)
		if err := l.node.sleep(t.Context(), "n/m-0"); err != nil {
			t.Fatal(err)
		}
		if took := time.Since(began); took < 20*time.Second || took > 20*time.Second+10*way {
			t.Errorf("it slept after %s, want 20s and the time of some messages", took)
		}
	})
}

func TestAnAgentThatIsKilledLeavesItsBackendsServing(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		l := newLab(t, 2, router.Backend{ID: "n/m-0", Model: "m", Slots: 4})
		e := l.edges[0]
		long, err := e.ask(t.Context())
		if err != nil {
			t.Fatal(err)
		}
		l.killAgent()
		for range 500 { // five minutes
			lease, err := e.TryAcquire(router.Request{Model: "m"})
			if err != nil {
				t.Fatalf("without an agent: %v", err)
			}
			r := e.begin(lease)
			time.Sleep(600 * time.Millisecond)
			r.end()
		}
		l.startAgent()
		slept := make(chan error, 1)
		go func() { slept <- l.node.sleep(t.Context(), "n/m-0") }()
		time.AfterFunc(time.Minute, long.end)
		began := time.Now()
		if err := <-slept; err != nil {
			t.Fatal(err)
		}
		if took := time.Since(began); took < time.Minute || took > time.Minute+10*way {
			t.Errorf("it slept after %s, want a minute", took)
		}
	})
}

// An edge is cut off while its agent is started anew: the agent remembers that there was one.
func TestAnAgentThatIsStartedAnewCountsOnTheEdgesOfBefore(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		l := newLab(t, 2)
		r, err := l.edges[0].ask(t.Context())
		if err != nil {
			t.Fatal(err)
		}
		l.killAgent()
		l.edges[0].sever(true)
		l.startAgent()
		began := time.Now()
		time.AfterFunc(5*time.Minute, r.end)
		if err := l.node.sleep(t.Context(), "n/m-0"); err != nil {
			t.Fatal(err)
		}
		if took := time.Since(began); took < 5*time.Minute {
			t.Errorf("it slept after %s, with a request in flight for 5m", took)
		}
	})
}

func TestAWakeWithoutAnAgentIsRefused(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		l := newLab(t, 1)
		l.killAgent()
		began := time.Now()
		_, err := l.edges[0].ask(t.Context())
		refusal, ok := errors.AsType[*router.Refusal](err)
		if !ok || refusal.Status != 503 || refusal.Reason != "the agent of n is away" {
			t.Errorf("got %v, want a refusal that says that the agent is away", err)
		}
		if took := time.Since(began); took > patience+2*beat {
			t.Errorf("it came after %s", took)
		}
	})
}

func TestNoEdgeStarves(t *testing.T) {
	for _, slots := range []int{1, 3, 8} {
		synctest.Test(t, func(t *testing.T) {
			l := newLab(t, 3, router.Backend{ID: "n/m-0", Model: "m", Slots: slots})
			began := time.Now()
			var all sync.WaitGroup
			last := make([]time.Duration, 3)
			var mu sync.Mutex
			const takes = 40 * time.Millisecond
			for i := range 500 {
				from := min(i%7, 2) // two edges with few, one with many
				e := l.edges[from]
				all.Go(func() {
					r, err := e.ask(t.Context())
					if err != nil {
						t.Error(err)
						return
					}
					time.Sleep(takes)
					r.end()
					mu.Lock()
					defer mu.Unlock()
					last[from] = max(last[from], time.Since(began))
				})
			}
			all.Wait()
			best := time.Second + 500*takes/time.Duration(slots)
			for i, took := range last {
				if took > best*5/4 || took < best*3/5 {
					t.Errorf("%d slots: the line of edge %d was served after %s; the whole took %s, and could have taken %s", slots, i, took, last, best)
				}
			}
		})
	}
}

func TestUnusedSlotsMoveAtOnce(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		l := newLab(t, 3, router.Backend{ID: "n/m-0", Model: "m", Slots: 8})
		l.node.set("n/m-0", router.Waking)
		l.node.set("n/m-0", router.Ready)
		time.Sleep(time.Second)
		began := time.Now()
		var all sync.WaitGroup
		for range 8 {
			all.Go(func() {
				r, err := l.edges[1].ask(t.Context())
				if err != nil {
					t.Error(err)
					return
				}
				if took := time.Since(began); took > 6*way+2*saying {
					t.Errorf("a free slot took %s", took)
				}
				time.Sleep(time.Second)
				r.end()
			})
		}
		all.Wait()
	})
}

// An edge is told that an agent is no longer one of its own, with a request in flight there.
func TestAnEdgeThatDropsALinkIsCutOffAndHasNotEnded(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		l := newLab(t, 1)
		r, err := l.edges[0].ask(t.Context())
		if err != nil {
			t.Fatal(err)
		}
		l.edges[0].links.Set(nil)
		time.Sleep(10 * way)
		if _, err := l.edges[0].TryAcquire(router.Request{Model: "m"}); err == nil {
			t.Error("it admits to a node without a link, and without a lease that anybody renews")
		}
		time.AfterFunc(5*time.Minute, r.end)
		began := time.Now()
		if err := l.node.sleep(t.Context(), "n/m-0"); err != nil {
			t.Fatal(err)
		}
		if took := time.Since(began); took < 5*time.Minute {
			t.Errorf("the backend slept after %s, with a request in flight for 5m", took)
		}
	})
}

// Consul knows of a backend whose agent this edge has never heard.
func TestWhatOthersSayOfANodeCountsWhereNobodyListens(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		l := newLab(t, 1)
		l.node.set("n/m-0", router.Waking)
		l.node.set("n/m-0", router.Ready)
		l.killAgent()
		late := l.newEdge("late")
		said := router.Node{Name: "n", Backends: []router.Backend{{ID: "n/m-0", Model: "m", Slots: 2, Engine: config.VLLM, State: router.Ready, Addr: "n/m-0"}}}
		late.links.Suggest("n", Node{Node: said})
		time.Sleep(maxPause)
		lease, err := late.TryAcquire(router.Request{Model: "m"})
		if err != nil {
			t.Fatalf("where nobody listens: %v", err)
		}
		r := late.begin(lease)
		l.startAgent()
		time.AfterFunc(2*time.Minute, r.end)
		began := time.Now()
		if err := l.node.sleep(t.Context(), "n/m-0"); err != nil {
			t.Fatal(err)
		}
		if took := time.Since(began); took < 2*time.Minute {
			t.Errorf("the backend slept after %s, with a request in flight for 2m", took)
		}
	})
}

// What is lacking is negative, and was no reason to write it in a form that nobody reads.
func TestANodeThatIsOvercommittedIsHeard(t *testing.T) {
	n := Node{Node: router.Node{Name: "n", GPUs: []router.Room{{Free: -3 * config.GiB}}, Host: -1}, Memory: []config.Size{24 * config.GiB}}
	text, err := codec{}.Marshal(&Down{Node: &n})
	if err != nil {
		t.Fatal(err)
	}
	var got Down
	if err := (codec{}).Unmarshal(text, &got); err != nil {
		t.Fatal(err)
	}
	if got.Node.GPUs[0].Free != -3*config.GiB || got.Node.Host != -1 || got.Node.Memory[0] != 24*config.GiB {
		t.Errorf("got %+v", got.Node)
	}
}

// What an agent says of its models must be readable, whatever its file says.
func TestEveryKeyOfAModelComesAcross(t *testing.T) {
	cfg, err := config.Load("../../config/testdata/every-key.yaml")
	if err != nil {
		t.Fatal(err)
	}
	models := public(cfg.Models)
	text, err := codec{}.Marshal(&Down{Node: &Node{Models: models}})
	if err != nil {
		t.Fatal(err)
	}
	var got Down
	if err := (codec{}).Unmarshal(text, &got); err != nil {
		t.Fatal(err)
	}
	if !reflect.DeepEqual(got.Node.Models, models) {
		t.Errorf("got %+v, want %+v", got.Node.Models, models)
	}
	for name, m := range got.Node.Models {
		for _, b := range m.Backends {
			if b.Process != nil || b.Hooks != nil || b.Nomad != nil || b.Kubernetes != nil || b.Docker != nil {
				t.Errorf("an edge learns how %s is started", name)
			}
		}
	}
}
