package jwt

import (
	"context"
	"errors"
	"log/slog"
	"math/rand/v2"
	"sync"
	"sync/atomic"
	"time"

	"pilotlight/config"
	"pilotlight/proxy/keys"
	"pilotlight/router"
)

// issuer is one whose tokens count, and what its keys are now.
type issuer struct {
	*config.JWT
	log    *slog.Logger
	gauges *gauges
	read   func(context.Context) ([]byte, error) // of the set as it stands now
	keys   atomic.Pointer[keySet]                // nil: they were never had
	asked  chan struct{}                         // has the keys be read now

	mu      sync.Mutex    // guards what follows
	done    chan struct{} // closed when the reading that goes on, or is about to, has ended; nil: there is none
	began   time.Time     // when one last began
	seen    time.Time     // when the keys were last good
	problem string        // why they are not
}

// How often and how long.
const (
	renewEvery = 10 * time.Second // at most once in this time are keys read because a token names one that is not known
	renewWait  = 2 * time.Second  // such a token waits so long
	tryAgain   = 2 * time.Second  // after a failure, and then twice as long each time, up to how often they are read anyway
	fileEvery  = 250 * time.Millisecond
)

func newIssuer(c *config.JWT, log *slog.Logger, g *gauges) (*issuer, error) {
	is := &issuer{JWT: c, log: log.With("issuer", c.Issuer), gauges: g, asked: make(chan struct{}, 1)}
	if err := checkLimits(c); err != nil {
		return nil, err
	}
	g.fresh.WithLabelValues(c.Issuer).Set(0)
	if !c.Remote() {
		is.read = func(context.Context) ([]byte, error) { return readFile(c.JWKS) }
		return is, is.take(context.Background())
	}
	client, err := newClient(c)
	if err != nil {
		return nil, err
	}
	is.read = func(ctx context.Context) ([]byte, error) { return get(ctx, client, c.JWKS) }
	is.done = make(chan struct{}) // run begins with it
	return is, nil
}

// find are the set that counts and the keys in it that a token may be signed with. Where there are none the issuer may have changed them just now.
func (is *issuer) find(id, algorithm string) (*keySet, []any, *router.Refusal) {
	set := is.keys.Load()
	public := set.find(id, algorithm)
	if len(public) == 0 && is.renewed() {
		set = is.keys.Load()
		public = set.find(id, algorithm)
	}
	switch {
	case set == nil:
		return nil, nil, &router.Refusal{
			Status: 503, Code: router.IssuerUnknown, RetryAfter: tryAgain,
			Reason: "the keys of " + is.Issuer + " could not be had yet, so that no token of it can be checked",
		}
	case len(public) == 0 && id == "":
		return nil, nil, refuse("it names no key of %s, which has several or none for %s", is.Issuer, algorithm)
	case len(public) == 0:
		return nil, nil, refuse("%s has no key %.100q for %s", is.Issuer, id, algorithm)
	}
	return set, public, nil
}

// renewed waits until the keys have been read, if they just are or it is time to; if not it says false at once.
func (is *issuer) renewed() bool {
	if !is.Remote() {
		return false // the file is looked at all the time
	}
	is.mu.Lock()
	if is.done == nil {
		if time.Since(is.began) < renewEvery {
			is.mu.Unlock()
			return false
		}
		is.done = make(chan struct{})
		is.asked <- struct{}{}
	}
	done := is.done
	is.mu.Unlock()
	select {
	case <-done:
	case <-time.After(renewWait):
	}
	return true
}

// run reads the keys again and again until ctx ends.
func (is *issuer) run(ctx context.Context) {
	if !is.Remote() {
		keys.FollowFile(ctx, is.JWKS, fileEvery, func() bool { return is.take(ctx) == nil })
		return
	}
	failed := 0
	for {
		wait := is.Refresh.Std()
		if err := is.take(ctx); err != nil {
			wait = min(wait, tryAgain<<min(failed, 16))
			failed++
		} else {
			failed = 0
		}
		wait += time.Duration(rand.Int64N(int64(wait)/10 + 1)) // edges that were started together part
		timer := time.NewTimer(wait)
		select {
		case <-timer.C:
		case <-is.asked:
		case <-ctx.Done():
		}
		timer.Stop()
		if ctx.Err() != nil {
			return
		}
	}
}

// take reads the keys and has them count, if they are good.
func (is *issuer) take(ctx context.Context) error {
	is.begin()
	text, err := is.read(ctx)
	var set *keySet
	if err == nil {
		set, err = parseSet(text)
	}
	is.mu.Lock()
	defer is.mu.Unlock()
	if is.done != nil {
		defer func() { close(is.done); is.done = nil }()
	}
	select {
	case <-is.asked: // by one who would have had it begin
	default:
	}
	if err != nil {
		is.failed(ctx, err)
		return err
	}
	if is.problem != "" {
		is.log.Info("the issuer's keys are good again")
	}
	is.seen, is.problem = time.Now(), ""
	is.gauges.fresh.WithLabelValues(is.Issuer).Set(1)
	is.gauges.read.WithLabelValues(is.Issuer).Set(float64(is.seen.Unix()))
	is.gauges.keys.WithLabelValues(is.Issuer).Set(float64(len(set.all)))
	if before := is.keys.Load(); before == nil || before.text != set.text {
		is.keys.Store(set)
		is.log.Info("the issuer's keys are taken over", "jwks", is.JWKS, "keys", len(set.all), "ignored", set.other)
	}
	return nil
}

// begin says that the keys are being read.
func (is *issuer) begin() {
	is.mu.Lock()
	defer is.mu.Unlock()
	is.began = time.Now()
	if is.done == nil {
		is.done = make(chan struct{})
	}
}

// failed notes why keys could not be read. is.mu is held.
func (is *issuer) failed(ctx context.Context, err error) {
	if errors.Is(err, context.Canceled) && ctx.Err() != nil {
		return
	}
	is.gauges.fresh.WithLabelValues(is.Issuer).Set(0)
	if is.problem != err.Error() {
		is.problem = err.Error()
		is.log.Error("the issuer's keys are not taken over; those of before count", "jwks", is.JWKS, "error", err, "keys", is.count())
	}
}

func (is *issuer) count() int {
	if set := is.keys.Load(); set != nil {
		return len(set.all)
	}
	return 0
}

func (is *issuer) status() IssuerStatus {
	is.mu.Lock()
	defer is.mu.Unlock()
	return IssuerStatus{Issuer: is.Issuer, JWKS: is.JWKS, Keys: is.count(), Read: is.seen, Problem: is.problem}
}
