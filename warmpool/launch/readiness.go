package launch

import (
	"context"
	"errors"
	"fmt"
	"net"
	"sync"
	"time"

	"pilotlight/probe"
	"pilotlight/warmpool"
)

const (
	probeTime   = 2 * time.Second // one probe; a server that hangs must not stop the loop
	firstPause  = 2 * time.Millisecond
	nearPause   = 10 * time.Millisecond  // longest pause between two probes of this host
	remotePause = 100 * time.Millisecond // and of another
	busyTime    = 5 * time.Second        // that an engine may need to see that its last request has ended
	workPause   = time.Second            // longest pause between two looks at what a process does
)

// errEnded says that the process ended during the wait.
var errEnded = errors.New("the process ended")

// readiness is one wait for a server to become ready. It is where the time between a model server's readiness and
// our noticing it is lost, so it looks often: one probe at a time, each soon after the one before.
type readiness struct {
	status   func(context.Context) (probe.Status, string)
	rouse    func(context.Context) error // has a sleeping engine wake up; nil where there is no way
	atOnce   bool                        // rouse it unasked: it cannot say that it sleeps
	ended    <-chan struct{}             // closed when the process has ended; nil where there is none
	worked   func(probes int) bool       // did the process do anything since it was last asked, and probed so often? May be nil
	stall    time.Duration               // without any progress
	maxPause time.Duration
}

// await returns nil the moment the server says that it is ready, errEnded when its process ends, and warmpool.ErrStalled when
// nothing new was seen for too long: no other answer, no line in the log, nothing read from disk.
func (r readiness) await(ctx context.Context) error {
	ctx, cancel := context.WithCancelCause(ctx)
	var helpers sync.WaitGroup
	defer helpers.Wait()
	defer cancel(nil)
	helpers.Go(func() {
		select {
		case <-r.ended:
			cancel(errEnded)
		case <-ctx.Done():
		}
	})

	roused := make(chan error, 1)
	rousing, awake := false, false
	rouse := func() {
		rousing = true
		helpers.Go(func() { roused <- r.rouse(ctx) })
	}
	if r.atOnce {
		rouse()
	}
	began := time.Now()
	seen := progress{worked: r.worked, at: began, looked: began, every: min(workPause, r.stall/4)}
	for {
		status, said := r.status(ctx)
		now := time.Now()
		switch {
		case ctx.Err() != nil:
			return context.Cause(ctx)
		case status == probe.Ready && (awake || !rousing):
			return nil
		case status == probe.Asleep && r.rouse != nil && !rousing:
			rouse()
		}
		if still := seen.still(now, status, said); still >= r.stall {
			return fmt.Errorf("%w for %v; it is %v: %s", warmpool.ErrStalled, r.stall, status, said)
		}
		pause := r.pause(now.Sub(began))
		if rousing && !awake {
			pause = seen.every // its answer to that is what tells us
		}
		select {
		case err := <-roused:
			if err != nil {
				return err
			}
			awake = true // what it says from now on is true
		case <-ctx.Done():
			return context.Cause(ctx)
		case <-time.After(pause):
		}
	}
}

// pause before the next probe: a small share of the time waited already, so that the delay it adds is one nobody feels.
func (r readiness) pause(waited time.Duration) time.Duration {
	return min(max(waited/400, firstPause), r.maxPause)
}

// progress tells a wait that gets somewhere from one that does not.
type progress struct {
	worked func(probes int) bool
	every  time.Duration // between two looks at the process
	status probe.Status
	said   string
	probes int // since the last look
	looked time.Time
	at     time.Time // of the last progress
}

// still says for how long nothing has happened.
func (p *progress) still(now time.Time, status probe.Status, said string) time.Duration {
	p.probes++
	if status != p.status || said != p.said {
		p.status, p.said, p.at = status, said, now
	}
	if p.worked != nil && now.Sub(p.looked) >= p.every {
		if p.worked(p.probes) {
			p.at = now
		}
		p.looked, p.probes = now, 0
	}
	return now.Sub(p.at)
}

// awaitReady waits until the backend is ready, rousing its engine if it sleeps.
func (l *Launcher) awaitReady(ctx context.Context) error {
	from := l.asleepTier()
	slept := l.record.Slept != nil
	l.answered = time.Time{}
	r := readiness{
		status: func(ctx context.Context) (probe.Status, string) {
			status, said := l.status(ctx)
			if status != probe.Away && l.answered.IsZero() {
				l.answered = time.Now()
			}
			return status, said
		},
		stall:    l.spec.Backend.Stall.Std(),
		maxPause: remotePause,
	}
	if isLoopback(l.addr()) || l.spec.Backend.Docker != nil {
		r.maxPause = nearPause
	}
	switch checkpointed := l.record.Checkpointed; {
	case len(checkpointed) > 0:
		r.rouse = func(ctx context.Context) error { return l.checkpointer.wake(ctx, checkpointed) }
		r.atOnce = true
	case l.mode.canWake():
		r.rouse = func(ctx context.Context) error { return l.mode.wake(ctx, l.addr(), from) }
		r.atOnce = slept && !l.mode.says() || l.mode.byHook() && l.child == nil && l.remote == nil
	}
	c := l.child
	if c != nil {
		r.ended = c.ended
		r.worked = l.activity(c).since
	}
	if l.out != nil {
		r.ended = l.out.fell
		r.worked = l.news()
	}
	err := r.await(ctx)
	switch {
	case errors.Is(err, errEnded) && c == nil:
		return l.withLog(ctx, l.out.ended())
	case errors.Is(err, warmpool.ErrStalled) && l.out != nil:
		return l.withLog(ctx, err)
	case errors.Is(err, errEnded):
		return c.why
	case errors.Is(err, warmpool.ErrStalled) && c != nil:
		if line := causeIn(c.log, c.logFrom); line != "" {
			return fmt.Errorf("%w; the last it logged: %s", err, line)
		}
	}
	return err
}

// awaitIdle waits until the engine says that it has nothing to do, or does not say: but not for long, for we have
// nothing in flight there, so it works for somebody else.
func (l *Launcher) awaitIdle(ctx context.Context) error {
	ctx, cancel := context.WithTimeoutCause(ctx, busyTime, warmpool.ErrBusy)
	defer cancel()
	for pause := firstPause; ; pause = min(2*pause, remotePause) {
		reading, _ := l.read(ctx)
		if ctx.Err() == nil && reading.Running <= 0 && reading.Waiting <= 0 {
			return nil
		}
		select {
		case <-ctx.Done():
			return fmt.Errorf("its engine still works on %d requests and has %d waiting: %w",
				max(reading.Running, 0), max(reading.Waiting, 0), context.Cause(ctx))
		case <-time.After(pause):
		}
	}
}

func (l *Launcher) read(ctx context.Context) (probe.Reading, string) {
	ctx, cancel := context.WithTimeout(ctx, probeTime)
	defer cancel()
	return l.engine.Read(ctx, l.client, l.addr())
}

// awaitStatus waits until the server says that it is what it was told to be.
func (l *Launcher) awaitStatus(ctx context.Context, want probe.Status) error {
	for pause := firstPause; ; pause = min(2*pause, remotePause) {
		status, said := l.status(ctx)
		if status == want {
			return nil
		}
		select {
		case <-ctx.Done():
			return fmt.Errorf("it was told to and is still %v (%s): %w", status, said, context.Cause(ctx))
		case <-time.After(pause):
		}
	}
}

func isLoopback(addr string) bool {
	host, _, err := net.SplitHostPort(addr)
	return err == nil && (host == "localhost" || net.ParseIP(host).IsLoopback())
}
