package warmpool

import (
	"context"
	"errors"
	"log/slog"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"pilotlight/config"
	"pilotlight/router"
)

// memoryLock is a lock like that of Consul's sessions: whoever is cut off keeps it until its session's TTL is over, and knows.
type memoryLock struct {
	ttl  time.Duration
	free chan struct{} // capacity 1: holds a token while nobody holds the lock

	mu  sync.Mutex
	cut map[string]context.CancelFunc // by who holds it
}

func newMemoryLock(ttl time.Duration) *memoryLock {
	l := &memoryLock{ttl: ttl, free: make(chan struct{}, 1), cut: map[string]context.CancelFunc{}}
	l.free <- struct{}{}
	return l
}

func (l *memoryLock) Lock(ctx context.Context, _, who string, hold func(context.Context)) error {
	for {
		select {
		case <-l.free:
		case <-ctx.Done():
			return context.Cause(ctx)
		}
		held, lose := context.WithCancel(ctx)
		l.mu.Lock()
		l.cut[who] = func() { time.AfterFunc(l.ttl, lose) }
		l.mu.Unlock()
		hold(held)
		<-held.Done()
		lose()
		l.free <- struct{}{}
		<-time.After(time.Millisecond) // the other has its turn
	}
}

// cutOff takes Consul away from who holds the lock.
func (l *memoryLock) cutOff(who string) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.cut[who]()
}

// job is what an orchestrator runs: it is there for every launcher that asks.
type job struct {
	mu     sync.Mutex
	up     bool
	raised []string // by whom
}

// jobLauncher is an owner's hand on it.
type jobLauncher struct {
	job *job
	who string
}

func (l *jobLauncher) Find(context.Context) (Found, error) {
	l.job.mu.Lock()
	defer l.job.mu.Unlock()
	if l.job.up {
		return Found{State: router.Ready, Tier: router.OnGPU, Up: Up{Addr: "10.0.0.1:80"}}, nil
	}
	return Found{State: router.Stopped}, nil
}

func (l *jobLauncher) Wake(context.Context, []int) (Up, error) {
	l.job.mu.Lock()
	defer l.job.mu.Unlock()
	l.job.up = true
	l.job.raised = append(l.job.raised, l.who)
	return Up{Addr: "10.0.0.1:80"}, nil
}

func (l *jobLauncher) Sleep(context.Context) (router.Tier, error) { return 0, ErrCannotSleep }
func (l *jobLauncher) Stop(context.Context) error                 { return nil }
func (l *jobLauncher) Close()                                     {}

// deaf is an edge that hears everything and uses nothing.
type deaf struct{ heard chan router.Node }

func (d deaf) Observe(n router.Node) {
	select {
	case <-d.heard:
	default:
	}
	d.heard <- n
}
func (deaf) Use(string) router.Use                 { return router.Use{} }
func (deaf) Drained(context.Context, string) error { return nil }
func (deaf) Read(string, router.Readings)          {}

func TestOneOfTwoAgentsOwnsABackendAndTheOtherTakesOverWithinTheTTL(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		const ttl = 15 * time.Second
		lock, it := newMemoryLock(ttl), &job{}
		models := map[string]config.Model{"m": {IdleTime: config.Duration(time.Hour), Backends: []config.Backend{{Name: "m-0", Nomad: &config.Nomad{Job: "m"}, Slots: 1}}}}
		owners := make(chan string, 8)
		keepers := map[string]*Keeper{}
		var mu sync.Mutex
		ctx, stop := context.WithCancel(t.Context())
		var agents sync.WaitGroup
		for _, who := range []string{"a", "b"} {
			agents.Go(func() {
				err := Elect(ctx, lock, "nodes/shared", who, func(ctx context.Context) error {
					learned, err := LoadLearned(t.TempDir() + "/learned.json")
					if err != nil {
						return err
					}
					k := New(config.Node{Name: "shared"}, models, deaf{make(chan router.Node, 1)}, func(string, config.Model, config.Backend) Launcher {
						return &jobLauncher{it, who}
					}, learned, slog.New(slog.DiscardHandler))
					mu.Lock()
					keepers[who] = k
					mu.Unlock()
					owners <- who
					return k.Run(ctx)
				})
				if err != nil {
					t.Error(err)
				}
			})
		}
		first := <-owners
		synctest.Wait()
		if err := keepers[first].Wake(ctx, "m-0"); err != nil {
			t.Fatal(err)
		}
		if len(owners) != 0 {
			t.Fatalf("%s is an owner, too", <-owners)
		}
		began := time.Now()
		lock.cutOff(first)
		second := <-owners
		if took := time.Since(began); second == first || took > ttl+time.Second {
			t.Errorf("%s took over from %s after %v", second, first, took)
		}
		synctest.Wait()
		if err := keepers[first].Wake(ctx, "m-0"); err == nil {
			t.Error("an owner that is none any more still wakes")
		}
		if err := keepers[second].Wake(ctx, "m-0"); err != nil {
			t.Error(err)
		}
		stop()
		agents.Wait()
		if len(it.raised) != 1 || it.raised[0] != first {
			t.Errorf("it was woken by %v, want by %s alone: the next owner finds it running", it.raised, first)
		}
	})
}

func TestAnOwnerThatFailsEndsTheElection(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		broken := errors.New("the port is taken")
		err := Elect(t.Context(), newMemoryLock(time.Second), "nodes/shared", "a", func(context.Context) error { return broken })
		if !errors.Is(err, broken) {
			t.Errorf("got %v", err)
		}
	})
}

func TestWhatSomebodyElseStartsIsFoundWhileItCountsAsStopped(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		it, edge := &job{}, deaf{make(chan router.Node, 1)}
		models := map[string]config.Model{"m": {IdleTime: config.Duration(time.Hour), Backends: []config.Backend{{Name: "m-0", Docker: &config.Docker{Container: "m"}, Slots: 1}}}}
		learned, err := LoadLearned(t.TempDir() + "/learned.json")
		if err != nil {
			t.Fatal(err)
		}
		k := New(config.Node{Name: "n"}, models, edge, func(string, config.Model, config.Backend) Launcher { return &jobLauncher{it, "us"} }, learned, slog.New(slog.DiscardHandler))
		ctx, stop := context.WithCancel(t.Context())
		var running sync.WaitGroup
		running.Go(func() { _ = k.Run(ctx) })
		synctest.Wait()
		if n := <-edge.heard; n.Backends[0].State != router.Stopped {
			t.Fatalf("it is %v at first", n.Backends[0].State)
		}
		it.mu.Lock()
		it.up = true
		it.mu.Unlock()
		time.Sleep(lookAnew + time.Millisecond)
		synctest.Wait()
		if n := <-edge.heard; n.Backends[0].State != router.Ready || n.Backends[0].Reason != "found running" {
			t.Errorf("it is %v: %s", n.Backends[0].State, n.Backends[0].Reason)
		}
		stop()
		running.Wait()
	})
}
