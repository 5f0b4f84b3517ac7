package warmpool

import (
	"context"
	"fmt"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"pilotlight/config"
	"pilotlight/probe"
	"pilotlight/router"
)

// several makes a model have so many backends alike.
func several(name string, n int) func(*config.Model) {
	return func(m *config.Model) {
		one := m.Backends[0]
		m.Backends = nil
		for i := range n {
			one.Name = fmt.Sprintf("%s-%d", name, i)
			m.Backends = append(m.Backends, one)
		}
		m.IdleTime = config.Duration(10 * time.Minute)
	}
}

// crowd is so many clients of a model who ask for one thing of 5 s after the other.
func (s *site) crowd(model string, n int) (stop func()) {
	over := make(chan struct{})
	var all sync.WaitGroup
	for i := range n {
		all.Go(func() {
			time.Sleep(300*time.Millisecond + time.Duration(i)*5*time.Second/time.Duration(n))
			for {
				select {
				case <-over:
					return
				default:
					s.use(model, 5*time.Second)
				}
			}
		})
	}
	return func() { close(over); all.Wait() }
}

// ready counts the ready backends of a model.
func (s *site) ready(model string) (n int) {
	synctest.Wait()
	m, _ := s.Model(model)
	for _, b := range m.Backends {
		if b.State == router.Ready {
			n++
		}
	}
	return n
}

func (s *site) hasReady(model string, want int, when string) {
	s.t.Helper()
	if got := s.ready(model); got != want {
		s.t.Errorf("%s: %d backends of %s are ready, want %d", when, got, model, want)
	}
}

// wakes counts how often backends were woken.
func (s *site) wakes() (n int) {
	for _, server := range s.servers {
		server.mu.Lock()
		for _, what := range server.log {
			if what == "wake" {
				n++
			}
		}
		server.mu.Unlock()
	}
	return n
}

func slow(wakes time.Duration) func(map[string]*server) {
	return func(all map[string]*server) {
		for _, s := range all {
			s.wakes = wakes
		}
	}
}

func TestAsManyBackendsAreReadyAsTheLoadAsksFor(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := newSite(t, gpus(40*g), map[string]config.Model{"a": model("a", 10*g, several("a", 4))}, slow(20*time.Second))
		s.use("a", time.Second)
		leave := s.crowd("a", 5) // on 4 slots
		time.Sleep(15 * time.Second)
		s.hasReady("a", 1, "before the line has lasted for a wake")
		time.Sleep(50 * time.Second)
		s.hasReady("a", 2, "once it has")
		time.Sleep(time.Hour)
		s.hasReady("a", 2, "under the same load for an hour")
		if n := s.wakes(); n != 2 {
			t.Errorf("%d wakes under a steady load, want 2", n)
		}
		more := s.crowd("a", 5) // 10 on 8
		time.Sleep(time.Minute)
		s.hasReady("a", 3, "when more come")
		more()
		time.Sleep(40 * time.Second)
		s.hasReady("a", 3, "soon after they have left")
		time.Sleep(2 * time.Minute)
		s.hasReady("a", 2, "when the load has fitted two for a while")
		leave()
		quiet := s.crowd("a", 2)
		time.Sleep(3 * time.Minute)
		s.hasReady("a", 1, "for one request or two at a time")
		quiet()
		time.Sleep(20 * time.Minute)
		s.hasReady("a", 0, "when nobody asks")
	})
}

// TestWhatWakesInAMomentIsExpectedOfAllThatAreAlike: how long the first took tells of the others, which nobody has seen wake.
func TestWhatWakesInAMomentIsExpectedOfAllThatAreAlike(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := newSite(t, gpus(40*g), map[string]config.Model{"a": model("a", 10*g, several("a", 2))}, slow(2*time.Second))
		leave := s.crowd("a", 8)     // on 4 slots
		time.Sleep(10 * time.Second) // a backend of 10 GiB that nobody has seen wake is taken to need twice as long
		s.hasReady("a", 2, "when the line has lasted for two wakes and a look")
		leave()
	})
}

// A load that just goes up and down around what one backend can do must not make the second come and go with it.
func TestReplicasDoNotFlap(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := newSite(t, gpus(40*g), map[string]config.Model{"a": model("a", 10*g, several("a", 2))}, slow(20*time.Second))
		base := s.crowd("a", 3)
		for range 60 {
			extra := s.crowd("a", 3)
			time.Sleep(40 * time.Second)
			extra()
			time.Sleep(15 * time.Second)
		}
		base()
		if n := s.wakes(); n != 2 {
			t.Errorf("%d wakes in an hour, want 2", n)
		}
	})
}

func TestMaxBoundsReplicasAndMinKeepsThem(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := newSite(t, gpus(80*g), map[string]config.Model{"a": model("a", 10*g, several("a", 4), func(m *config.Model) {
			m.Min, m.Max = 2, 3
		})}, slow(20*time.Second))
		leave := s.crowd("a", 30)
		time.Sleep(10 * time.Minute)
		s.hasReady("a", 3, "whatever comes")
		leave()
		time.Sleep(time.Hour)
		s.hasReady("a", 2, "when nobody comes")
	})
}

func TestNobodyWhoIsBusyMakesRoomForAReplica(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := newSite(t, gpus(20*g), map[string]config.Model{"a": model("a", 10*g, several("a", 2)), "b": model("b", 10*g)}, slow(5*time.Second))
		b := s.crowd("b", 2)
		time.Sleep(time.Minute)
		a := s.crowd("a", 6)
		time.Sleep(2 * time.Minute) // turns are long over; both of b end at the same moment, and ask again
		s.hasReady("b", 1, "busy")
		s.hasReady("a", 1, "beside a busy other")
		b()
		time.Sleep(time.Minute)
		s.hasReady("a", 2, "beside an idle other")
		a()
	})
}

func TestEnginesInUseAreRead(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var mu sync.Mutex
		asked, hangs := 0, false
		s := newSite(t, gpus(20*g), map[string]config.Model{"a": model("a", 10*g)}, func(all map[string]*server) {
			all["a-0"].reads = func(ctx context.Context) probe.Reading {
				mu.Lock()
				asked++
				hang := hangs
				mu.Unlock()
				if hang {
					<-ctx.Done()
				}
				return probe.Reading{At: time.Now(), Status: probe.Ready, Waiting: 3}
			}
		})
		during := func(d time.Duration) int {
			mu.Lock()
			was := asked
			mu.Unlock()
			time.Sleep(d)
			mu.Lock()
			defer mu.Unlock()
			return asked - was
		}
		lease := s.ask("a")
		if n := during(10 * time.Second); n < 39 || n > 41 {
			t.Errorf("read %d times in 10s of use, want 4 per second", n)
		}
		mu.Lock()
		hangs = true
		mu.Unlock()
		if n := during(10 * time.Second); n > 11 {
			t.Errorf("an engine that hangs is asked %d times in 10s, want once per second", n)
		}
		lease.Release(router.OK)
		time.Sleep(readOn + readTime)
		if n := during(30 * time.Second); n != 0 {
			t.Errorf("read %d times although nobody uses it", n)
		}
	})
}
