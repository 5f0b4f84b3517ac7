package warmpool

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"math/rand/v2"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"pilotlight/config"
	"pilotlight/probe"
	"pilotlight/router"
)

// server is a model server that exists only as times and states. Its zero value wakes and sleeps at once.
type server struct {
	site  *site
	id    string
	spec  config.Backend
	wakes time.Duration
	naps  time.Duration // how long it takes to go to sleep
	fails error
	busy  int  // how often its engine is busy when it is to sleep
	stuck int  // how often it does not stop
	late  bool // it comes up in the moment in which it is called off
	found Found

	real    config.Size   // what it takes of its GPUs, over all of them; 0: what its spec says
	returns time.Duration // how long the memory takes to come back when it goes to sleep
	oom     int           // how often its wakes run out of memory, whatever there is

	reads func(context.Context) probe.Reading // what its engine says; nil: nobody can ask it

	mu    sync.Mutex
	pid   int
	on    []int       // GPUs whose memory it holds
	each  config.Size // how much of each
	awake bool
	log   []string
	gone  chan error
}

func (s *server) note(what string) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.log = append(s.log, what)
}

func (s *server) said() string {
	s.mu.Lock()
	defer s.mu.Unlock()
	return strings.Join(s.log, " ")
}

func (s *server) Find(context.Context) (Found, error) {
	if s.found.State == router.Ready {
		s.hold(s.found.Up.GPUs)
	}
	return s.found, nil
}

// takes is what it takes of each of so many GPUs while ready.
func (s *server) takes(gpus int) config.Size {
	if s.real > 0 {
		return Spread(s.real, gpus)
	}
	return Spread(s.spec.Memory, gpus)
}

// hold takes memory, in place of what it held. It says whether there was enough: where it runs out, that is a failure of
// the test unless readings lie.
func (s *server) hold(gpus []int) bool {
	s.site.mu.Lock()
	defer s.site.mu.Unlock()
	s.keep(0)
	s.awake, s.on, s.each = true, gpus, s.takes(len(gpus))
	enough := s.oom == 0
	for _, g := range gpus {
		if s.site.used[g] += s.each; s.site.used[g] > s.site.node.GPUs[g].Memory {
			if enough = false; !s.site.lies {
				s.site.t.Errorf("GPU %d holds %d when %s wakes", g, s.site.used[g], s.id)
			}
		}
	}
	if !enough && (s.site.lies || s.oom > 0) {
		s.oom = max(0, s.oom-1)
		s.keep(0)
		s.awake = false
		return false
	}
	return true
}

// keep makes what it holds of each GPU less. The site's mu is held.
func (s *server) keep(each config.Size) {
	for _, g := range s.on {
		s.site.used[g] += each - s.each
	}
	if s.each = each; each == 0 {
		s.on = nil
	}
}

// letGo gives memory back, but for what it keeps asleep.
func (s *server) letGo(asleep config.Size) {
	s.site.mu.Lock()
	defer s.site.mu.Unlock()
	if u := s.site.Use(s.id); s.awake && u.InFlight > 0 && s.fails == nil && !s.site.sick(s.on) {
		s.site.t.Errorf("%s leaves its GPU with %d in flight", s.id, u.InFlight)
	}
	s.awake = false
	each := Spread(asleep, len(s.on))
	if s.returns == 0 || asleep == 0 {
		s.keep(each)
		return
	}
	on := s.on
	time.AfterFunc(s.returns, func() {
		s.site.mu.Lock()
		defer s.site.mu.Unlock()
		if !s.awake && len(s.on) > 0 && len(on) > 0 && &s.on[0] == &on[0] {
			s.keep(each)
		}
	})
}

// PID implements Starter.
func (s *server) PID() int {
	s.site.mu.Lock()
	defer s.site.mu.Unlock()
	return s.pid
}

func (s *server) Wake(ctx context.Context, gpus []int) (Up, error) {
	s.note("wake")
	s.site.mu.Lock()
	if s.pid == 0 {
		s.site.pids++
		s.pid = s.site.pids
	}
	pid := s.pid
	s.site.mu.Unlock()
	if !s.hold(gpus) {
		s.site.ooms.Add(1)
		s.ended()
		return Up{}, fmt.Errorf("it exited with status 1: %w", ErrOutOfMemory)
	}
	select {
	case <-time.After(s.wakes):
	case <-ctx.Done():
		if !s.late {
			return Up{}, context.Cause(ctx)
		}
	}
	if s.fails != nil {
		return Up{}, s.fails
	}
	if s.gone == nil {
		s.gone = make(chan error, 1)
	}
	return Up{Addr: "127.0.0.1:1", PID: pid, GPUs: gpus, Gone: s.gone}, nil
}

func (s *server) Sleep(context.Context) (router.Tier, error) {
	s.note("sleep")
	if s.spec.Sleep != config.SleepEngine {
		return router.OnGPU, ErrCannotSleep
	}
	time.Sleep(s.naps)
	if s.busy--; s.busy >= 0 {
		return router.OnGPU, ErrBusy
	}
	s.letGo(max(s.spec.AsleepMemory, 1))
	return router.OnHost, nil
}

func (s *server) Stop(context.Context) error {
	s.note("stop")
	if s.stuck--; s.stuck >= 0 {
		return errors.New("permission denied")
	}
	s.letGo(0)
	s.ended()
	return nil
}

// ended is the end of its process.
func (s *server) ended() {
	s.site.mu.Lock()
	defer s.site.mu.Unlock()
	s.gone, s.pid = nil, 0
}

// readable is a server whose engine can be asked.
type readable struct{ *server }

func (s readable) Read(ctx context.Context, _ string) probe.Reading { return s.reads(ctx) }

func (s *server) Close() { s.note("close") }

// site is a node in virtual time: a real router and a real keeper over servers that do not exist.
type site struct {
	*router.Router
	t       *testing.T
	node    config.Node
	keeper  *Keeper
	servers map[string]*server

	lies bool         // what the driver says need not be true, so wakes may run out of memory
	ooms atomic.Int32 // how many did

	mu     sync.Mutex
	used   map[int]config.Size // in truth, by everybody
	others map[int]config.Size // by those that are not ours
	ill    map[int]probe.Health
	pids   int
}

func newSite(t *testing.T, node config.Node, models map[string]config.Model, prepare func(map[string]*server)) *site {
	s := &site{t: t, node: node, servers: map[string]*server{}, used: map[int]config.Size{}, others: map[int]config.Size{}, ill: map[int]probe.Health{}}
	log := slog.New(slog.DiscardHandler)
	s.Router = router.New(models, wakerFunc(func(ctx context.Context, id string) error { return s.keeper.Wake(ctx, id) }), log)
	for _, m := range models {
		for _, b := range m.Backends {
			s.servers[b.Name] = &server{site: s, id: b.Name, spec: b}
		}
	}
	if prepare != nil {
		prepare(s.servers)
	}
	learned, _ := LoadLearned("")
	s.keeper = New(node, models, s.Router, func(_ string, _ config.Model, b config.Backend) Launcher {
		if s.servers[b.Name] == nil || s.servers[b.Name].spec.Memory != b.Memory {
			s.servers[b.Name] = &server{site: s, id: b.Name, spec: b}
		}
		if server := s.servers[b.Name]; server.reads != nil {
			return readable{server}
		}
		return s.servers[b.Name]
	}, learned, log)
	ctx, stop := context.WithCancel(context.Background())
	done := make(chan struct{})
	go func() {
		defer close(done)
		if err := s.keeper.Run(ctx); err != nil {
			t.Error(err)
		}
	}()
	t.Cleanup(func() {
		s.Close()
		stop()
		<-done
	})
	synctest.Wait()
	return s
}

// sick says whether one of the GPUs is. s.mu is held.
func (s *site) sick(gpus []int) bool {
	return slices.ContainsFunc(gpus, func(g int) bool { return s.ill[g] == probe.Sick })
}

type wakerFunc func(context.Context, string) error

func (f wakerFunc) Wake(ctx context.Context, id string) error { return f(ctx, id) }

// ask gets a slot of a model, or fails the test.
func (s *site) ask(model string) router.Lease {
	s.t.Helper()
	lease, err := s.Acquire(s.t.Context(), router.Request{Model: model})
	if err != nil {
		s.t.Fatalf("ask for %s: %v", model, err)
	}
	return lease
}

// use asks a model for something that takes a while.
func (s *site) use(model string, takes time.Duration) {
	s.t.Helper()
	lease := s.ask(model)
	time.Sleep(takes)
	lease.Release(router.OK)
}

// state is where a backend is.
func (s *site) state(id string) string {
	synctest.Wait()
	for _, m := range s.Fleet().Models {
		for _, b := range m.Backends {
			if b.ID == id {
				return b.State.String()
			}
		}
	}
	return "unknown"
}

// wants checks where a backend is.
func (s *site) wants(id, state string) {
	s.t.Helper()
	if got := s.state(id); got != state {
		s.t.Errorf("%s is %s, want %s", id, got, state)
	}
}

// model is a model with one backend that is a process of ours.
func model(name string, memory config.Size, change ...func(*config.Model)) config.Model {
	m := config.Model{
		Line:      config.Line{Requests: 100, Bytes: config.GiB, MaxWait: config.Duration(time.Hour)},
		IdleTime:  config.Duration(time.Minute),
		StopAfter: config.Duration(24 * time.Hour),
		Backends:  []config.Backend{{Name: name + "-0", Process: &config.Process{}, Memory: memory, GPUs: 1, Slots: 4}},
	}
	for _, c := range change {
		c(&m)
	}
	return m
}

func sleeper(m *config.Model) {
	m.Backends[0].Sleep, m.Backends[0].HostMemory = config.SleepEngine, m.Backends[0].Memory
}

func gpus(memory ...config.Size) (n config.Node) {
	n.Name, n.HostMemory = "n", 100*config.GiB
	for _, m := range memory {
		n.GPUs = append(n.GPUs, config.GPU{Memory: m})
	}
	return n
}

const g = config.GiB

func TestItWakesOnDemandAndSleepsWhenIdle(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := newSite(t, gpus(24*g), map[string]config.Model{"a": model("a", 10*g, sleeper)}, func(all map[string]*server) {
			all["a-0"].wakes = 20 * time.Second
		})
		began := time.Now()
		lease := s.ask("a")
		if took := time.Since(began); took != 20*time.Second {
			t.Errorf("ready was noticed %s after the ask, the server took 20s", took)
		}
		s.wants("a-0", "ready")
		time.Sleep(10 * time.Minute)
		s.wants("a-0", "ready") // busy
		lease.Release(router.OK)
		time.Sleep(time.Minute - time.Millisecond)
		s.wants("a-0", "ready")
		time.Sleep(time.Second + time.Millisecond)
		s.wants("a-0", "asleep")
		s.use("a", time.Second)
		s.wants("a-0", "ready")
		time.Sleep(25 * time.Hour)
		s.wants("a-0", "stopped")
		if got := s.servers["a-0"].said(); got != "wake sleep wake sleep stop" {
			t.Errorf("the launcher was told to %s", got)
		}
	})
}

func TestItLearnsHowLongAWakeTakes(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := newSite(t, gpus(24*g), map[string]config.Model{"a": model("a", 10*g, sleeper)}, func(all map[string]*server) {
			all["a-0"].wakes = 42 * time.Second
		})
		s.use("a", time.Second)
		if err := s.keeper.Dismiss(t.Context(), "a", true); err != nil {
			t.Fatal(err)
		}
		synctest.Wait()
		if got := s.Fleet().Models[0].Backends[0].WakeTime; got != 42*time.Second {
			t.Errorf("expects %s", got)
		}
	})
}

func TestTheIdlestMakesRoom(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := newSite(t, gpus(20*g), map[string]config.Model{"a": model("a", 8*g), "b": model("b", 8*g), "c": model("c", 10*g)}, nil)
		s.use("b", time.Second)
		s.use("a", time.Second)
		busy := s.ask("b") // b came first, but is used now
		s.use("c", time.Second)
		s.wants("a-0", "stopped")
		s.wants("b-0", "ready")
		s.wants("c-0", "ready")
		busy.Release(router.OK)
	})
}

func TestABusyBackendKeepsItsGPUUntilItIsIdleOrItsTurnIsOver(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := newSite(t, gpus(10*g), map[string]config.Model{"a": model("a", 8*g), "b": model("b", 8*g)}, nil)
		lease := s.ask("a")
		began := time.Now()
		var all sync.WaitGroup
		all.Go(func() { s.use("b", time.Second) })
		time.Sleep(3 * time.Second)
		s.wants("a-0", "ready")
		lease.Release(router.OK)
		all.Wait()
		if took := time.Since(began); took > 4*time.Second+lookForRoom {
			t.Errorf("b came after %s, a was idle after 3s", took)
		}

		// a is never idle: its turn ends, what it has in flight does not.
		stop := make(chan struct{})
		for i := range 2 {
			all.Go(func() {
				time.Sleep(time.Duration(i) * time.Second)
				for {
					select {
					case <-stop:
						return
					default:
						s.use("a", 2*time.Second)
					}
				}
			})
		}
		time.Sleep(5 * time.Second)
		began = time.Now()
		s.use("b", time.Second)
		if took := time.Since(began); took > 30*time.Second {
			t.Errorf("b waited %s for a model that is always busy", took)
		}
		close(stop)
		all.Wait()
	})
}

func TestAWakeThatNobodyWaitsForGoesOnUnlessItsMemoryIsNeeded(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := newSite(t, gpus(10*g), map[string]config.Model{"a": model("a", 8*g), "b": model("b", 8*g)}, func(all map[string]*server) {
			all["a-0"].wakes = time.Minute
		})
		leave := func(after time.Duration) {
			ctx, cancel := context.WithTimeout(t.Context(), after)
			defer cancel()
			if _, err := s.Acquire(ctx, router.Request{Model: "a"}); err == nil {
				t.Fatal("a was ready too soon")
			}
		}
		leave(time.Second)
		time.Sleep(time.Minute)
		s.wants("a-0", "ready")
		time.Sleep(2 * time.Minute)
		s.wants("a-0", "stopped")
		leave(time.Second)
		s.wants("a-0", "waking")
		began := time.Now()
		s.use("b", time.Second)
		if took := time.Since(began); took != time.Second {
			t.Errorf("b waited %s for a wake that nobody wanted", took-time.Second)
		}
		s.wants("a-0", "stopped")
	})
}

func TestWhoeverWaitsForRoomAndLeavesIsForgotten(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := newSite(t, gpus(10*g), map[string]config.Model{"a": model("a", 8*g), "b": model("b", 8*g)}, nil)
		busy := s.ask("a")
		ctx, cancel := context.WithTimeout(t.Context(), time.Second)
		defer cancel()
		if _, err := s.Acquire(ctx, router.Request{Model: "b"}); err == nil {
			t.Fatal("b got memory that a holds")
		}
		time.Sleep(time.Second)
		s.wants("b-0", "stopped")
		s.wants("a-0", "ready")
		busy.Release(router.OK)
		if said := s.servers["b-0"].said(); said != "" {
			t.Errorf("b was told to %s", said)
		}
	})
}

func TestAFailureRestsLongerEachTimeAndIsTold(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := newSite(t, gpus(10*g), map[string]config.Model{"a": model("a", 8*g)}, func(all map[string]*server) {
			all["a-0"].fails = fmt.Errorf("it says nothing since 2m: %w", ErrStalled)
		})
		var rests []time.Duration
		for range 4 {
			_, err := s.Acquire(t.Context(), router.Request{Model: "a"})
			r, ok := errors.AsType[*router.Refusal](err)
			if !ok || r.Status != 503 || r.Code != router.WakeStalled || r.Reason != "a could not be woken: it says nothing since 2m: no progress" {
				t.Fatalf("got %#v", err)
			}
			rests = append(rests, r.RetryAfter)
			s.wants("a-0", "failed")
			_, err = s.Acquire(t.Context(), router.Request{Model: "a"})
			if r, ok := errors.AsType[*router.Refusal](err); !ok || r.Code != router.WakeFailed || !strings.Contains(r.Reason, "rests after a failure") {
				t.Fatalf("while it rests: %#v", err)
			}
			time.Sleep(r.RetryAfter)
		}
		for i := 1; i < len(rests); i++ {
			if rests[i] < rests[i-1]*4/3 {
				t.Errorf("rested %v", rests)
			}
		}
		s.servers["a-0"].fails = nil
		s.use("a", time.Second)
		s.wants("a-0", "ready")
	})
}

func TestAServerThatDiesIsWokenByTheNextRequest(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := newSite(t, gpus(10*g), map[string]config.Model{"a": model("a", 8*g, sleeper)}, nil)
		lease := s.ask("a")
		s.servers["a-0"].fails = errors.New("killed") // so that it may leave with a request in flight
		s.servers["a-0"].gone <- errors.New("signal: killed")
		synctest.Wait()
		lease.Release(router.Broken)
		s.servers["a-0"].fails = nil
		s.use("a", time.Second)
		s.wants("a-0", "ready")
		time.Sleep(2 * time.Minute)
		s.wants("a-0", "asleep")
		s.servers["a-0"].gone <- errors.New("signal: killed") // asleep
		synctest.Wait()
		s.use("a", time.Second)
		s.wants("a-0", "ready")
	})
}

func TestAnEngineThatWorksForOthersTooSleepsLater(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := newSite(t, gpus(10*g), map[string]config.Model{"a": model("a", 8*g, sleeper), "b": model("b", 8*g)}, func(all map[string]*server) { all["a-0"].busy = 2 })
		s.use("a", time.Second)
		time.Sleep(time.Minute + time.Second)
		s.wants("a-0", "ready") // idle, but its engine is not
		s.use("b", time.Second) // for which a leaves at the next try but one
		s.wants("a-0", "asleep")
		if got := s.servers["a-0"].said(); got != "wake sleep sleep sleep" {
			t.Errorf("the launcher was told to %s", got)
		}
	})
}

func TestAVictimThatComesUpInTheMomentItIsCalledOffLeavesAllTheSame(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := newSite(t, gpus(10*g), map[string]config.Model{"a": model("a", 8*g), "b": model("b", 8*g)}, func(all map[string]*server) {
			all["a-0"].wakes, all["a-0"].late = time.Minute, true
		})
		ctx, cancel := context.WithTimeout(t.Context(), time.Second)
		defer cancel()
		if _, err := s.Acquire(ctx, router.Request{Model: "a"}); err == nil {
			t.Fatal("a was ready too soon")
		}
		s.use("b", time.Second)
		s.wants("a-0", "stopped")
		s.wants("b-0", "ready")
	})
}

func TestABackendThatIsWantedWhileItDrainsStays(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := newSite(t, gpus(10*g), map[string]config.Model{"a": model("a", 8*g)}, nil)
		lease := s.ask("a")
		s.keeper.do(func() { s.keeper.dismiss(s.keeper.units["a-0"], "idle, it seems", false, false) })
		s.wants("a-0", "draining")
		s.use("a", time.Second)
		s.wants("a-0", "ready")
		lease.Release(router.OK)
		s.wants("a-0", "ready")
		if said := s.servers["a-0"].said(); said != "wake" {
			t.Errorf("it was told to %s", said)
		}
	})
}

func TestPoliciesThatKeepABackendAwake(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := newSite(t, gpus(30*g), map[string]config.Model{
			"min":   model("min", 8*g, func(m *config.Model) { m.Min = 1 }),
			"never": model("never", 8*g, func(m *config.Model) { m.NeverSleep = true }),
			"big":   model("big", 20*g),
		}, nil)
		s.wants("min-0", "ready") // nobody asked
		s.wants("never-0", "stopped")
		s.use("never", time.Second)
		time.Sleep(time.Hour)
		s.wants("min-0", "ready")
		s.wants("never-0", "ready")
		_, err := s.Acquire(t.Context(), router.Request{Model: "big"})
		if r, ok := errors.AsType[*router.Refusal](err); !ok || !strings.Contains(r.Reason, "what never sleeps leaves less") {
			t.Errorf("got %v", err)
		}
		s.servers["min-0"].gone <- errors.New("killed")
		synctest.Wait()
		s.wants("min-0", "ready") // again
	})
}

func TestRunningServersAreAdopted(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		gone := make(chan error, 1)
		s := newSite(t, gpus(24*g), map[string]config.Model{"a": model("a", 8*g), "b": model("b", 8*g, sleeper), "c": model("c", 8*g)}, func(all map[string]*server) {
			all["a-0"].found = Found{State: router.Ready, Up: Up{Addr: "127.0.0.1:7", GPUs: []int{0}, Gone: gone}}
			all["b-0"].found = Found{State: router.Asleep, Tier: router.OnHost, Up: Up{Addr: "127.0.0.1:8", GPUs: []int{0}}}
			all["c-0"].found = Found{State: router.Waking, Up: Up{Addr: "127.0.0.1:9", GPUs: []int{0}}}
			all["c-0"].wakes = time.Second
		})
		s.wants("a-0", "ready")
		s.wants("b-0", "asleep")
		s.wants("c-0", "waking")
		time.Sleep(time.Second)
		s.wants("c-0", "ready")
		gone <- errors.New("killed")
		s.wants("a-0", "stopped")
		if said := s.servers["a-0"].said(); said != "stop" {
			t.Errorf("a was told to %s", said)
		}
	})
}

func TestSleepersMayHoldOnlySoMuchHostMemory(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		node := gpus(24 * g)
		node.HostMemory = 12 * g
		s := newSite(t, node, map[string]config.Model{"a": model("a", 8*g, sleeper), "b": model("b", 8*g, sleeper)}, nil)
		s.use("a", time.Second)
		time.Sleep(30 * time.Second)
		s.use("b", time.Second)
		time.Sleep(2 * time.Minute)
		s.wants("a-0", "asleep")
		s.wants("b-0", "stopped")
	})
}

func TestMovesByHand(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := newSite(t, gpus(24*g), map[string]config.Model{"a": model("a", 8*g, sleeper)}, func(all map[string]*server) { all["a-0"].wakes = time.Second })
		for _, step := range []struct {
			do   func() error
			want string
		}{
			{func() error { return s.keeper.WakeModel(t.Context(), "a") }, "ready"},
			{func() error { return s.keeper.Dismiss(t.Context(), "a", false) }, "asleep"},
			{func() error { return s.keeper.Dismiss(t.Context(), "a", false) }, "asleep"},
			{func() error { return s.keeper.WakeModel(t.Context(), "a") }, "ready"},
			{func() error { return s.keeper.Dismiss(t.Context(), "a", true) }, "stopped"},
			{func() error { return s.keeper.Dismiss(t.Context(), "a", true) }, "stopped"},
		} {
			if err := step.do(); err != nil {
				t.Fatal(err)
			}
			s.wants("a-0", step.want)
		}
		lease := s.ask("a")
		began := time.Now()
		go func() { time.Sleep(5 * time.Second); lease.Release(router.OK) }()
		if err := s.keeper.Dismiss(t.Context(), "a", true); err != nil || time.Since(began) != 5*time.Second {
			t.Errorf("stopped after %s with a request of 5s in flight, %v", time.Since(began), err)
		}
	})
}

func TestANewConfigurationIsTakenOver(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		models := map[string]config.Model{"a": model("a", 8*g), "b": model("b", 8*g)}
		s := newSite(t, gpus(24*g), models, nil)
		lease := s.ask("a")
		s.use("b", time.Second)
		next := map[string]config.Model{"a": model("a", 9*g), "c": model("c", 1*g)}
		was := []*server{s.servers["a-0"], s.servers["b-0"]}
		s.Update(next)
		s.keeper.Update(next)
		s.wants("a-0", "draining")
		s.wants("b-0", "unknown")
		lease.Release(router.OK)
		s.wants("a-0", "stopped")
		s.use("a", time.Second)
		s.use("c", time.Second)
		synctest.Wait()
		for _, old := range was {
			if said := old.said(); said != "wake stop close" {
				t.Errorf("%s was told to %s", old.id, said)
			}
		}
		if got := s.Fleet().Models[0].Backends[0].Memory; got != 9*g {
			t.Errorf("a has %d", got)
		}
		s.mu.Lock()
		defer s.mu.Unlock()
		if s.used[0] != 10*g {
			t.Errorf("GPU 0 holds %d, want a's 9 GiB and c's 1", s.used[0])
		}
	})
}

// TestWhoGoesToSleepStopsWhereAllOfItsMemoryIsNeeded: that turns out while it is on its way, when its sleep can no longer be called off. It may also
// turn out that it cannot sleep just now; what it was told then still holds when it is told again.
func TestWhoGoesToSleepStopsWhereAllOfItsMemoryIsNeeded(t *testing.T) {
	for busy, told := range []string{"wake sleep stop", "wake sleep stop"} {
		synctest.Test(t, func(t *testing.T) {
			s := newSite(t, gpus(12*g), map[string]config.Model{
				"a": model("a", 3*g, sleeper, func(m *config.Model) {
					m.IdleTime, m.Backends[0].AsleepMemory = config.Duration(10*time.Second), g
				}),
				"b": model("b", 2*g, func(m *config.Model) { m.NeverSleep = true }),
				"c": model("c", 10*g),
			}, func(all map[string]*server) { all["a-0"].naps, all["a-0"].busy = 5*time.Second, busy })
			s.use("b", time.Second)
			s.use("a", time.Second)
			time.Sleep(12 * time.Second)
			s.wants("a-0", "draining")
			s.use("c", time.Second) // the GPU says how much it holds then
			s.wants("a-0", "stopped")
			if got := s.servers["a-0"].said(); got != told {
				t.Errorf("a's server, busy %d times, was told %q, want %q", busy, got, told)
			}
		})
	}
}

// What does not stop holds its memory, and nobody is woken into it. It is told again after it has rested.
func TestNobodyWakesIntoTheMemoryOfWhatDoesNotStop(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := newSite(t, gpus(12*g), map[string]config.Model{"a": model("a", 10*g), "b": model("b", 10*g)},
			func(all map[string]*server) { all["a-0"].stuck = 2 })
		s.use("a", time.Second)
		began := time.Now()
		s.use("b", time.Second) // server checks that there is room
		if got := time.Since(began); got < 2*maxRest || got > 2*maxRest+time.Minute {
			t.Errorf("b waited for %s, want until a was told twice more, %s apart", got, maxRest)
		}
		if got := s.servers["a-0"].said(); got != "wake stop stop stop" {
			t.Errorf("a's server was told %q", got)
		}
		s.use("a", time.Second)
	})
}

// Over hours of random demand on models that do not fit together, with failures, the GPUs are never overcommitted and no
// busy backend is put to sleep (server checks both) unless its GPU is sick, nobody waits for ever, and in the end everything is at rest.
func TestChaos(t *testing.T) {
	for seed := range uint64(3) {
		looks := seed == 2 // somebody looks at the GPUs, which fall sick and get well again
		synctest.Test(t, func(t *testing.T) {
			r := rand.New(rand.NewPCG(seed, 7))
			models := map[string]config.Model{}
			for i := range 8 {
				name := string(rune('a' + i))
				models[name] = model(name, config.Size(2+r.IntN(10))*g, func(m *config.Model) {
					if r.IntN(2) == 0 {
						sleeper(m)
						m.Backends[0].AsleepMemory = g
					}
					m.Backends[0].GPUs = 1 + r.IntN(2)
					m.IdleTime = config.Duration(r.IntN(100)) * config.Duration(time.Second)
				})
			}
			node := gpus(12*g, 12*g)
			node.HostMemory = 30 * g
			s := newSite(t, node, models, func(all map[string]*server) {
				for _, server := range all {
					server.wakes = time.Duration(r.IntN(20)) * time.Second
				}
			})
			stop := func() {}
			if looks {
				stop = s.watch(time.Second, truly)
			}
			var all sync.WaitGroup
			for i := range 20 {
				if looks {
					all.Go(func() {
						time.Sleep(time.Duration(200*i) * time.Second)
						s.falls(i%2, probe.Sick)
						time.Sleep(time.Duration(40+i) * time.Second)
						s.falls(i%2, probe.Healthy)
					})
				}
			}
			for i := range 60 { // a planner that does not know what it does
				wishes := map[string]router.Wish{}
				for j := range 8 {
					if id := string(rune('a'+j)) + "-0"; r.IntN(2) == 0 {
						wishes[id] = router.Wish{Tier: []router.Tier{router.OnDisk, router.OnHost, router.OnGPU}[r.IntN(3)], Worth: r.Float64(), Why: "chance"}
					}
				}
				all.Go(func() {
					time.Sleep(time.Duration(i) * time.Minute)
					for id, w := range wishes {
						w.Made, w.Until = time.Now(), time.Now().Add(3*time.Minute)
						wishes[id] = w
					}
					s.keeper.Wish(wishes)
				})
			}
			refused := 0
			for i := range 150 {
				model, after, takes := string(rune('a'+r.IntN(8))), time.Duration(r.IntN(3600))*time.Second, time.Duration(r.IntN(60))*time.Second
				all.Go(func() {
					time.Sleep(after)
					ctx, cancel := context.WithTimeout(t.Context(), time.Hour)
					if i%5 == 0 { // impatient
						ctx, cancel = context.WithTimeout(t.Context(), time.Duration(i)*time.Second/10)
					}
					defer cancel()
					lease, err := s.Acquire(ctx, router.Request{Model: model})
					if err != nil {
						_, no := errors.AsType[*router.Refusal](err)
						s.mu.Lock()
						defer s.mu.Unlock()
						if refused++; i%5 != 0 && !(looks && no) {
							t.Errorf("seed %d: %s: %v", seed, model, err)
						}
						return
					}
					time.Sleep(takes)
					lease.Release(router.OK)
				})
			}
			all.Wait()
			stop()
			if refused > 75 {
				t.Errorf("seed %d: %d of 150 are refused", seed, refused)
			}
			time.Sleep(48 * time.Hour)
			synctest.Wait()
			for id := range s.servers {
				s.wants(id, "stopped")
			}
			s.mu.Lock()
			defer s.mu.Unlock()
			for gpu, used := range s.used {
				if used != 0 {
					t.Errorf("seed %d: GPU %d still holds %d", seed, gpu, used)
				}
			}
		})
	}
}
