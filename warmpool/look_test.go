package warmpool

import (
	"context"
	"errors"
	"log/slog"
	"math/rand/v2"
	"reflect"
	"slices"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"pilotlight/config"
	"pilotlight/probe"
	"pilotlight/router"
)

// look is what the driver says of the GPUs: the truth, times what it is off by.
func (s *site) look(off float64) probe.GPUs {
	s.mu.Lock()
	defer s.mu.Unlock()
	times := func(m config.Size) config.Size { return config.Size(float64(m) * off) }
	look := probe.GPUs{At: time.Now()}
	for i, g := range s.node.GPUs {
		used := min(times(s.used[i]), g.Memory)
		gpu := probe.GPU{Index: i, Total: g.Memory, Used: used, Free: g.Memory - used, Health: s.ill[i]}
		if gpu.Health != probe.Healthy {
			gpu.Reason = "Xid 79"
		}
		for _, server := range s.servers {
			if server.pid != 0 && slices.Contains(server.on, i) {
				gpu.Processes = append(gpu.Processes, probe.Process{PID: server.pid, Group: server.pid, Used: times(server.each)})
			}
		}
		if s.others[i] > 0 {
			gpu.Processes = append(gpu.Processes, probe.Process{PID: 99999, Group: 99999, Used: times(s.others[i])})
		}
		look.GPUs = append(look.GPUs, gpu)
	}
	return look
}

// watch has the keeper see the GPUs, every so often, until the test or what it returns ends it.
func (s *site) watch(every time.Duration, off func() float64) (stop func()) {
	s.t.Helper()
	ctx, stop := context.WithCancel(s.t.Context())
	done := make(chan struct{})
	go func() {
		defer close(done)
		for ctx.Err() == nil {
			s.keeper.See(s.look(off()))
			select {
			case <-time.After(every):
			case <-ctx.Done():
			}
		}
	}()
	s.t.Cleanup(func() { stop(); <-done })
	synctest.Wait()
	return stop
}

func truly() float64 { return 1 }

// tenant is somebody else who takes memory of a GPU, or gives it back.
func (s *site) tenant(gpu int, takes config.Size) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.used[gpu] += takes - s.others[gpu]
	s.others[gpu] = takes
}

// falls makes a GPU sick, or what else.
func (s *site) falls(gpu int, to probe.Health) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.ill[gpu] = to
}

// backend is one as the edges see it.
func (s *site) backend(id string) router.Backend {
	s.t.Helper()
	synctest.Wait()
	for _, m := range s.Fleet().Models {
		for _, b := range m.Backends {
			if b.ID == id {
				return *b
			}
		}
	}
	s.t.Fatalf("no backend is called %s", id)
	return router.Backend{}
}

// refused is why a model is not to be had.
func (s *site) refused(model string) string {
	s.t.Helper()
	lease, err := s.Acquire(s.t.Context(), router.Request{Model: model})
	if r, ok := errors.AsType[*router.Refusal](err); ok {
		return r.Reason
	}
	lease.Release(router.OK)
	s.t.Errorf("%s: got %v, want a refusal", model, err)
	return ""
}

func TestFree(t *testing.T) {
	now := time.Now()
	mine := func(used config.Size) []probe.Process { return []probe.Process{{PID: 7, Used: used}} }
	for name, c := range map[string]struct {
		promised config.Size // to backend 7, which is on its way
		nameless bool
		age      time.Duration // of the look; negative: there is none
		used     config.Size
		by       []probe.Process
		free     config.Size
	}{
		"nobody has looked":                             {10 * g, false, -1, 0, nil, 13 * g},
		"an old look is not believed":                   {10 * g, false, lookAge, 20 * g, nil, 13 * g},
		"a wake that has not begun holds its promise":   {10 * g, false, 0, 0, nil, 13 * g},
		"one that is halfway counts once":               {10 * g, false, 0, 5 * g, mine(5 * g), 13 * g},
		"one that is there counts once":                 {10 * g, false, 0, 10 * g, mine(10 * g), 13 * g},
		"one that takes more counts as what it takes":   {10 * g, false, 0, 12 * g, mine(12 * g), 11 * g},
		"others count besides":                          {10 * g, false, 0, 5 * g, nil, 8 * g},
		"others and one that is halfway":                {10 * g, false, 0, 8 * g, mine(5 * g), 10 * g},
		"one that should be gone counts until it is":    {0, false, 0, 9 * g, mine(9 * g), 14 * g},
		"what nobody can tell apart is the promise's":   {10 * g, true, 0, 5 * g, nil, 13 * g},
		"and the rest is others'":                       {10 * g, true, 0, 14 * g, nil, 9 * g},
		"a driver that does not say who takes how much": {10 * g, false, 0, 14 * g, mine(-1), 9 * g},
		"overcommitted":                                 {20 * g, false, 0, 9 * g, nil, -6 * g},
	} {
		l := NewLedger(config.Node{GPUs: []config.GPU{{Memory: 24 * g}}, Headroom: g})
		if c.promised > 0 {
			l.Commit("b7", Commitment{GPUs: []int{0}, Each: c.promised, Nameless: c.nameless})
		}
		if c.age >= 0 {
			look := probe.GPUs{At: now.Add(-c.age), GPUs: []probe.GPU{{Used: c.used, Free: 24*g - c.used, Processes: c.by}}}
			l.See(look, func(probe.Process) string { return "b7" })
		}
		if got := l.Free(0, now); got != c.free {
			t.Errorf("%s: %s free, want %s", name, got, c.free)
		}
	}
}

func TestGPUsThatAreNearAreChosen(t *testing.T) {
	// Two sockets; GPUs 0 and 2, and 1 and 3, are joined by NVLink.
	const nv, far = probe.LinkNVLink, probe.LinkSystem
	links := [][]probe.Link{{0, far, nv, far}, {far, 0, far, nv}, {nv, far, 0, far}, {far, nv, far, 0}}
	for name, c := range map[string]struct {
		links [][]probe.Link
		taken map[int]config.Size
		n     int
		want  []int
	}{
		"joined ones":                          {links, nil, 2, []int{0, 2}},
		"joined ones before tighter ones":      {links, map[int]config.Size{0: 10 * g, 1: 5 * g}, 2, []int{0, 2}},
		"the other pair where one has no room": {links, map[int]config.Size{0: 24 * g}, 2, []int{1, 3}},
		"far ones where there is nothing else": {links, map[int]config.Size{0: 24 * g, 1: 24 * g}, 2, []int{2, 3}},
		"neighbours where links are not known": {nil, map[int]config.Size{1: 24 * g}, 2, []int{2, 3}},
		"three":                                {links, nil, 3, []int{0, 1, 2}},
		"one is where it is tightest, as ever": {links, map[int]config.Size{3: 5 * g}, 1, []int{3}},
		"four are all":                         {links, nil, 4, []int{0, 1, 2, 3}},
	} {
		l := NewLedger(gpus(24*g, 24*g, 24*g, 24*g))
		look := probe.GPUs{At: time.Now(), Links: c.links}
		for i := range 4 {
			used := c.taken[i]
			look.GPUs = append(look.GPUs, probe.GPU{Index: i, Used: used, Free: 24*g - used})
		}
		l.See(look, func(probe.Process) string { return "" })
		if got, _, ok := l.Fit(time.Now(), 8*g, c.n, nil, nil); !ok || !slices.Equal(got, c.want) {
			t.Errorf("%s: got %v, want %v", name, got, c.want)
		}
	}
}

func TestEdgesHearHowGPUsAreJoined(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		edge := deaf{make(chan router.Node, 1)}
		learned, _ := LoadLearned("")
		k := New(gpus(24*g, 24*g), nil, edge, nil, learned, slog.New(slog.DiscardHandler))
		ctx, stop := context.WithCancel(t.Context())
		done := make(chan error)
		go func() { done <- k.Run(ctx) }()
		links := [][]probe.Link{{0, probe.LinkNVLink}, {probe.LinkNVLink, 0}}
		k.See(probe.GPUs{At: time.Now(), Links: links, GPUs: []probe.GPU{{Free: 24 * g}, {Index: 1, Free: 24 * g}}})
		synctest.Wait()
		if got := (<-edge.heard).Links; !reflect.DeepEqual(got, links) {
			t.Errorf("edges hear of %v, want %v", got, links)
		}
		stop()
		if err := <-done; err != nil {
			t.Error(err)
		}
	})
}

func TestASlowGPUIsTakenLast(t *testing.T) {
	l := NewLedger(gpus(24*g, 24*g))
	l.See(probe.GPUs{At: time.Now(), GPUs: []probe.GPU{
		{Used: 10 * g, Free: 14 * g, Health: probe.Degraded, Reason: "too hot"}, {Index: 1, Free: 24 * g},
	}}, func(probe.Process) string { return "" })
	for _, want := range []int{1, 0} {
		got, _, ok := l.Fit(time.Now(), 14*g, 1, nil, nil)
		if !ok || got[0] != want {
			t.Errorf("got %v, want %d", got, want)
		}
		l.Commit("a", Commitment{GPUs: got, Each: 14 * g})
	}
}

func TestWhatOthersHoldOfAGPUIsTheirs(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := newSite(t, gpus(24*g), map[string]config.Model{"small": model("small", 10*g), "big": model("big", 14*g)}, nil)
		s.tenant(0, 12*g)
		s.watch(time.Second, truly)
		s.use("small", time.Second)
		if why := s.refused("big"); !strings.Contains(why, "what others hold, leaves less") {
			t.Errorf("refused because %s", why)
		}
		s.tenant(0, 0)
		time.Sleep(10 * time.Second)
		s.use("big", time.Second)
		s.wants("small-0", "ready") // both fit now
	})
}

// A look that is taken while a backend goes to sleep may show its memory and not its process: nobody else has taken that.
func TestALookOfTwoMindsFailsNoWake(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := newSite(t, gpus(20*g), map[string]config.Model{"a": model("a", 16*g, sleeper), "b": model("b", 3*g)}, nil)
		s.watch(time.Second, truly)
		s.use("a", 1500*time.Millisecond)
		if err := s.keeper.Dismiss(t.Context(), "a", false); err != nil {
			t.Fatal(err)
		}
		torn := s.look(1)
		torn.GPUs[0].Used, torn.GPUs[0].Free, torn.GPUs[0].Processes = 16*g, 4*g, nil
		s.keeper.See(torn)
		began := time.Now()
		s.use("a", time.Second)
		if took := time.Since(began); took != time.Second {
			t.Errorf("it waited for %s", took-time.Second)
		}

		time.Sleep(10 * time.Second)
		torn.At = time.Now() // long after the last move: it seems to be true
		torn.GPUs[0].Used, torn.GPUs[0].Free, torn.GPUs[0].Processes = 19*g, g, nil
		s.keeper.See(torn)
		began = time.Now()
		s.use("b", time.Second)
		if took := time.Since(began); took > 2*time.Second+lookForRoom {
			t.Errorf("it waited for %s, not for the next look", took-time.Second)
		}
	})
}

func TestAWakeBeginsWhenTheMemoryIsBack(t *testing.T) {
	for returns, want := range map[time.Duration]time.Duration{
		0:                       500 * time.Millisecond, // that of the next look
		1700 * time.Millisecond: 2 * time.Second,
	} {
		synctest.Test(t, func(t *testing.T) {
			s := newSite(t, gpus(20*g), map[string]config.Model{"a": model("a", 16*g, sleeper), "b": model("b", 16*g, sleeper)}, func(all map[string]*server) {
				all["a-0"].returns = returns
			})
			s.watch(500*time.Millisecond, truly)
			s.use("a", 600*time.Millisecond)
			time.Sleep(400*time.Millisecond + time.Nanosecond)
			began := time.Now()
			lease := s.ask("b") // at any time but this, the server of b finds too little memory
			if took := time.Since(began); took.Round(lookForRoom) != want {
				t.Errorf("memory that comes back after %s is used after %s, want %s", returns, took, want)
			}
			s.wants("a-0", "asleep")
			lease.Release(router.OK)
		})
	}
}

func TestTheEndOfAProcessIsSureSignThatItsMemoryIsBack(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := newSite(t, gpus(20*g), map[string]config.Model{"a": model("a", 16*g), "b": model("b", 16*g)}, nil)
		s.watch(time.Second, truly)
		s.use("a", 1500*time.Millisecond)
		began := time.Now()
		s.use("b", time.Second)
		if took := time.Since(began); took != time.Second {
			t.Errorf("b waited for %s", took-time.Second)
		}
	})
}

func TestMemoryThatDoesNotComeBackIsNotWaitedForForEver(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := newSite(t, gpus(20*g), map[string]config.Model{"a": model("a", 16*g, sleeper), "b": model("b", 16*g, sleeper)}, func(all map[string]*server) {
			all["a-0"].returns, all["b-0"].real, all["b-0"].wakes = time.Hour, 2*g, time.Second
		})
		s.watch(time.Second, truly)
		s.use("a", time.Second)
		began := time.Now()
		woke := make(chan error, 1)
		go func() { woke <- s.keeper.Wake(t.Context(), "b-0") }()
		time.Sleep(returnTime + lookForRoom)
		if b := s.backend("b-0"); b.State != router.Waking || !strings.Contains(b.Reason, "that others freed for it had not come back after 5s") {
			t.Errorf("it is %s: %s", b.State, b.Reason)
		}
		if err := <-woke; err != nil || time.Since(began) > returnTime+time.Second+lookForRoom {
			t.Errorf("b was up after %s, %v", time.Since(began), err)
		}
	})
}

func TestMemoryThatSomebodyElseTakesInBetweenIsNotCountedOn(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := newSite(t, gpus(20*g, 20*g), map[string]config.Model{
			"a": model("a", 16*g, sleeper), "b": model("b", 16*g, sleeper), "c": model("c", 16*g, sleeper),
		}, func(all map[string]*server) { all["a-0"].returns = 2100 * time.Millisecond })
		s.watch(500*time.Millisecond, truly)
		s.use("a", time.Second)
		s.use("c", time.Second) // the idlest is a
		go func() {
			time.Sleep(2200 * time.Millisecond)
			s.tenant(0, 18*g)
		}()
		s.use("b", time.Second) // on GPU 1 in the end, where c makes room
		if got := s.backend("b-0").GPUs; !slices.Equal(got, []int{1}) {
			t.Errorf("b is on GPUs %v", got)
		}
		s.wants("c-0", "asleep")
	})
}

func TestAWakeThatRunsOutOfMemoryIsTriedOnceMoreWithMoreRoom(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := newSite(t, gpus(20*g), map[string]config.Model{"a": model("a", 8*g), "b": model("b", 8*g)}, func(all map[string]*server) {
			all["b-0"].real = 13 * g // more than anybody knows
			all["b-0"].site.lies = true
		})
		s.watch(500*time.Millisecond, truly)
		s.use("a", time.Second)
		s.use("b", 2*time.Second)
		s.wants("a-0", "stopped") // it made room for the second try
		if s.ooms.Load() != 1 {
			t.Errorf("%d wakes ran out of memory, want 1", s.ooms.Load())
		}
		if b := s.backend("b-0"); b.Memory != 13*g || b.Configured != 8*g {
			t.Errorf("it needs %s as measured, %s as configured", b.Memory, b.Configured)
		}
		time.Sleep(2 * time.Minute)
		s.use("a", time.Second)
		s.use("b", time.Second) // a must go again, and b knows it now
		if s.ooms.Load() != 1 {
			t.Errorf("%d wakes ran out of memory, want 1: the real need was known", s.ooms.Load())
		}
	})
}

func TestAWakeThatAlwaysRunsOutOfMemoryIsRefusedAndRests(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := newSite(t, gpus(20*g), map[string]config.Model{"a": model("a", 8*g)}, func(all map[string]*server) { all["a-0"].oom = 1000 })
		for range 20 {
			if why := s.refused("a"); !strings.Contains(why, "out of GPU memory") && !strings.Contains(why, "rests after a failure") {
				t.Errorf("refused because %s", why)
			}
			time.Sleep(time.Minute)
		}
		if n := s.ooms.Load(); n > 30 {
			t.Errorf("%d wakes in 20 minutes", n)
		}
		if b := s.backend("a-0"); b.Memory > 20*g {
			t.Errorf("it is thought to need %s of a GPU of 20 GiB", b.Memory)
		}
	})
}

func TestAGPUThatFallsSickIsLeftAndUsedAgainWhenItIsWell(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := newSite(t, gpus(20*g, 20*g), map[string]config.Model{
			"a": model("a", 16*g), "b": model("b", 16*g, sleeper),
		}, func(all map[string]*server) { all["a-0"].wakes = 10 * time.Second })
		stop := s.watch(500*time.Millisecond, truly)
		go func() {
			time.Sleep(5 * time.Second)
			s.falls(0, probe.Sick) // in the middle of the wake
		}()
		began := time.Now()
		s.use("a", time.Second)
		if got := s.backend("a-0"); !slices.Equal(got.GPUs, []int{1}) || time.Since(began) < 15*time.Second {
			t.Errorf("a is on GPUs %v after %s", got.GPUs, time.Since(began))
		}
		s.use("b", time.Second) // a must leave: there is no other GPU
		s.wants("a-0", "stopped")
		s.falls(0, probe.Healthy)
		time.Sleep(cleanLooks*500*time.Millisecond - time.Second)
		s.falls(1, probe.Sick) // while the first is not trusted yet
		time.Sleep(600 * time.Millisecond)
		s.wants("b-0", "stopped")
		if why := s.refused("b"); !strings.Contains(why, "GPU 0 is sick: Xid 79; since then ") || !strings.Contains(why, "GPU 1 is sick: Xid 79") {
			t.Errorf("refused because %s", why)
		}
		time.Sleep(10 * time.Second)
		s.use("b", time.Second)
		if got := s.backend("b-0").GPUs; !slices.Equal(got, []int{0}) {
			t.Errorf("b is on GPUs %v", got)
		}
		stop()
	})
}

func TestABackendThatServesLeavesAGPUThatFallsSick(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := newSite(t, gpus(20*g, 20*g), map[string]config.Model{
			"busy": model("busy", 16*g, func(m *config.Model) { m.Min = 1 }), "asleep": model("asleep", 16*g, sleeper),
		}, nil)
		s.watch(500*time.Millisecond, truly)
		s.use("asleep", time.Second)
		time.Sleep(2 * time.Minute)
		s.wants("asleep-0", "asleep")
		lease := s.ask("busy")
		on := s.backend("busy-0").GPUs[0]
		s.falls(on, probe.Sick)
		s.falls(s.backend("asleep-0").GPUs[0], probe.Sick)
		time.Sleep(time.Second)
		if b := s.backend("busy-0"); b.State != router.Draining || !strings.Contains(b.Reason, "is sick: Xid 79") {
			t.Errorf("it is %s: %s", b.State, b.Reason)
		}
		s.wants("asleep-0", "stopped")
		lease.Release(router.Broken)
	})
}

func TestAGPUThatNobodyCanSeeKeepsWhatItHasAndGetsNothingNew(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := newSite(t, gpus(40*g), map[string]config.Model{"a": model("a", 16*g), "b": model("b", 16*g)}, nil)
		stop := s.watch(time.Second, truly)
		lease := s.ask("a")
		stop()
		time.Sleep(time.Minute)
		s.wants("a-0", "ready")
		s.use("a", time.Second)
		if why := s.refused("b"); !strings.Contains(why, "GPU 0 is unknown: nobody could look at it for") {
			t.Errorf("refused because %s", why)
		}
		s.falls(0, probe.Unknown) // which a probe says in so many words
		stop = s.watch(time.Second, truly)
		time.Sleep(time.Minute)
		if why := s.refused("b"); !strings.Contains(why, "GPU 0 is unknown: Xid 79") {
			t.Errorf("refused because %s", why)
		}
		stop()
		synctest.Wait()
		s.keeper.See(probe.GPUs{}) // nobody will look any more
		time.Sleep(time.Minute)
		s.use("b", time.Second)
		lease.Release(router.OK)
	})
}

func TestNobodySleepsInMemoryThatTheHostDoesNotHave(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := newSite(t, gpus(24*g), map[string]config.Model{"a": model("a", 8*g, sleeper)}, nil)
		look := probe.GPUs{HostTotal: 64 * g, HostFree: 7 * g}
		see := func() {
			look.At = time.Now()
			s.keeper.See(look)
		}
		sleeps := func(want, why string) {
			t.Helper()
			s.use("a", time.Second)
			see()
			if err := s.keeper.Dismiss(t.Context(), "a", false); err != nil {
				t.Fatal(err)
			}
			if b := s.backend("a-0"); b.State.String() != want || !strings.Contains(b.Reason, why) {
				t.Errorf("with %s free it is %s: %s", look.HostFree, b.State, b.Reason)
			}
		}
		sleeps("stopped", "asleep it takes 8GiB of host memory and 7GiB is free")
		look.HostFree = 9 * g
		sleeps("asleep", "told to")
		look.HostFree = g // that which it slept in may still be its own
		sleeps("asleep", "told to")
	})
}

func TestWhatIsMeasuredIsLearnedAndLasts(t *testing.T) {
	file := t.TempDir() + "/learned.json"
	l, err := LoadLearned(file)
	if err != nil {
		t.Fatal(err)
	}
	if err := errors.Join(l.LearnMemory("a", router.OnGPU, 12*g), l.LearnMemory("a", router.OnGPU, 12*g+g/100), l.LearnMemory("a", router.OnHost, g)); err != nil {
		t.Fatal(err)
	}
	if again, err := LoadLearned(file); err != nil || again.Memory("a", router.OnGPU) != 12*g || again.Memory("a", router.OnHost) != g {
		t.Errorf("%+v, %v", again, err)
	}
	first, err := parseLearned([]byte(`{"a":{"disk":42000000000},"version":{"host":1}}`)) // as it was before
	if err != nil || first["a"].Wake["disk"] != 42*time.Second || first["version"].Wake["host"] != 1 {
		t.Errorf("the first version is read as %v, %v", first, err)
	}
	synctest.Test(t, func(t *testing.T) {
		s := newSite(t, gpus(40*g), map[string]config.Model{"a": model("a", 16*g, sleeper)}, func(all map[string]*server) {
			all["a-0"].real = 20 * g
			all["a-0"].spec.AsleepMemory = 3 * g
		})
		s.watch(time.Second, truly)
		s.use("a", 3*time.Second)
		if b := s.backend("a-0"); b.Memory != 20*g || b.Residual != 0 {
			t.Errorf("ready it holds %s, asleep %s", b.Memory, b.Residual)
		}
		time.Sleep(5 * time.Minute)
		if b := s.backend("a-0"); b.State != router.Asleep || b.Residual != 3*g {
			t.Errorf("it is %s and holds %s", b.State, b.Residual)
		}
	})
}

// For two hours of random demand with other tenants who come and go, and memory that takes its time to come back: with truthful
// readings no wake runs out of memory; with readings that lie by a tenth some may, and those are tried again or
// refused, nothing hangs.
func TestNoWakeRunsOutOfMemoryWhereReadingsAreTrue(t *testing.T) {
	for name, off := range map[string]func(*rand.Rand) float64{
		"truthful":    func(*rand.Rand) float64 { return 1 },
		"a tenth off": func(r *rand.Rand) float64 { return 0.9 + 0.2*r.Float64() },
		"too little":  func(*rand.Rand) float64 { return 0.9 },
		"too much":    func(*rand.Rand) float64 { return 1.1 },
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				r := rand.New(rand.NewPCG(1, 2))
				models := map[string]config.Model{}
				for i := range 6 {
					id := string(rune('a' + i))
					models[id] = model(id, config.Size(3+r.IntN(8))*g, func(m *config.Model) {
						if i%2 == 0 {
							sleeper(m)
							m.Backends[0].AsleepMemory = g
						}
						m.IdleTime = config.Duration(1+r.IntN(120)) * config.Duration(time.Second)
					})
				}
				node := gpus(16*g, 16*g)
				node.HostMemory = 30 * g
				s := newSite(t, node, models, func(all map[string]*server) {
					for _, id := range []string{"a", "b", "c", "d", "e", "f"} {
						server := all[id+"-0"]
						server.site.lies = name != "truthful"
						server.wakes, server.returns = time.Duration(r.IntN(20))*time.Second, time.Duration(r.IntN(3000))*time.Millisecond
					}
				})
				lie := rand.New(rand.NewPCG(3, 4))
				stop := s.watch(time.Second, func() float64 { return off(lie) })
				over := time.After(2 * time.Hour)
				var all sync.WaitGroup
				all.Go(func() { // it looks what is free before it takes it, as we do
					t := rand.New(rand.NewPCG(5, 6))
					for {
						select {
						case <-over:
							s.tenant(0, 0)
							return
						case <-time.After(time.Duration(60+t.IntN(300)) * time.Second):
						}
						takes := config.Size(t.IntN(10)) * g
						room := make(chan config.Size, 1)
						s.keeper.do(func() { room <- s.keeper.ledger.Free(0, time.Now()) + s.othersOn(0) })
						if takes <= <-room {
							s.tenant(0, takes)
						}
					}
				})
				served, refusals := 0, 0
				var mu sync.Mutex
				for range 200 {
					id, after, takes := string(rune('a'+r.IntN(6))), time.Duration(r.IntN(7000))*time.Second, time.Duration(r.IntN(40))*time.Second
					all.Go(func() {
						time.Sleep(after)
						lease, err := s.Acquire(t.Context(), router.Request{Model: id})
						mu.Lock()
						defer mu.Unlock()
						if _, ok := errors.AsType[*router.Refusal](err); ok {
							refusals++
							return
						}
						served++
						mu.Unlock()
						time.Sleep(takes)
						mu.Lock()
						lease.Release(router.OK)
					})
				}
				all.Wait()
				stop()
				if name == "truthful" && s.ooms.Load() > 0 {
					t.Errorf("%d wakes ran out of memory", s.ooms.Load())
				}
				if served < 150 {
					t.Errorf("only %d of 200 requests were served", served)
				}
				t.Logf("%d served, %d refused, %d wakes out of memory", served, refusals, s.ooms.Load())
			})
		})
	}
}

// othersOn is what others hold of a GPU.
func (s *site) othersOn(gpu int) config.Size {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.others[gpu]
}

// TestALookFromBeforeItSleptRefusesNobody: whoever asks between a backend's falling asleep and the next look waits for that look.
func TestALookFromBeforeItSleptRefusesNobody(t *testing.T) {
	for after := range 40 { // tenths of a second, around when it has idled for a minute
		synctest.Test(t, func(t *testing.T) {
			s := newSite(t, gpus(24*g), map[string]config.Model{
				"a": model("a", 18*g, sleeper), "b": model("b", 18*g, sleeper),
			}, slow(50*time.Millisecond))
			stop := s.watch(time.Second, truly)
			s.use("b", time.Second)
			s.use("a", time.Second)
			time.Sleep(time.Minute - time.Second + time.Duration(after)*100*time.Millisecond)
			s.use("a", time.Second)
			stop()
		})
	}
}
