package warmpool

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"slices"
	"sync"
	"time"

	"pilotlight/config"
	"pilotlight/router"
)

// Edge is what the keeper tells and asks the edges: *router.Router where it is embedded, the link to them otherwise.
type Edge interface {
	// Observe tells every edge what the node and its backends are now. An edge in the same process admits nothing to a backend that
	// is not Ready from then on; others have heard it when Drained returns.
	Observe(n router.Node)
	// Use says how much a backend is used, over all edges.
	Use(backend string) router.Use
	// Drained returns when nothing is in flight on a Draining backend, and nothing more will be.
	Drained(ctx context.Context, backend string) error
	// Read brings what was seen on the node, some times per second: it must not block for long.
	Read(node string, seen router.Readings)
}

// Launch makes the launcher of a backend.
type Launch func(model string, m config.Model, b config.Backend) Launcher

// Keeper owns the lives of one node's backends. Everything it knows belongs to the goroutine of Run: what others ask, and what
// launchers report, comes to it as a function on calls.
type Keeper struct {
	node    config.Node
	edge    Edge
	launch  Launch
	learned *Learned
	log     *slog.Logger

	models map[string]config.Model // to begin with

	calls   chan func()
	closing chan struct{} // closed when Run is about to return
	stopped chan struct{} // closed when it has
	ops     sync.WaitGroup

	units   map[string]*unit
	ledger  *Ledger
	queue   []*unit         // waking, but without room yet, in order
	loads   map[string]load // by model
	wishes  map[string]router.Wish
	readAt  time.Time     // when engines were last read
	changed bool          // something the edges have not been told
	told    []router.Room // what they were told of the GPUs
}

// New makes the keeper of a node. It does nothing until Run is called.
func New(node config.Node, models map[string]config.Model, edge Edge, launch Launch, learned *Learned, log *slog.Logger) *Keeper {
	k := &Keeper{
		node: node, edge: edge, launch: launch, learned: learned, log: log.With("node", node.Name),
		calls: make(chan func()), closing: make(chan struct{}), stopped: make(chan struct{}),
		units: map[string]*unit{}, ledger: NewLedger(node), models: models,
	}
	return k
}

// Run keeps the backends until ctx ends. Model servers are left running: Halt stops them.
func (k *Keeper) Run(ctx context.Context) error {
	defer close(k.stopped)
	k.take(k.models)
	timer := time.NewTimer(0)
	defer timer.Stop()
	for {
		select {
		case f := <-k.calls:
			f()
		case <-timer.C:
		case <-ctx.Done():
			k.wind()
			return nil
		}
		now := time.Now()
		if next := k.settle(now); next.IsZero() {
			timer.Stop()
		} else {
			timer.Reset(next.Sub(now))
		}
	}
}

// isClosing says that Run is about to return.
func (k *Keeper) isClosing() bool {
	select {
	case <-k.closing:
		return true
	default:
		return false
	}
}

// wind calls off what launchers do and waits for them.
func (k *Keeper) wind() {
	close(k.closing)
	for _, u := range k.units {
		if u.cancel != nil {
			u.cancel()
		}
		u.answer(errStopped)
	}
	done := make(chan struct{})
	go func() { k.ops.Wait(); close(done) }()
	for {
		select {
		case f := <-k.calls:
			f()
		case <-done:
			return
		}
	}
}

// Halt stops every backend that runs. It may be called once Run has returned.
func (k *Keeper) Halt(ctx context.Context) error {
	<-k.stopped
	errs := make([]error, len(k.units))
	var stops sync.WaitGroup
	for i, u := range k.inOrder() {
		stops.Go(func() {
			if err := u.launcher.Stop(ctx); err != nil && !errors.Is(err, ErrCannotStop) {
				errs[i] = fmt.Errorf("stop %s: %w", u.id, err)
			}
		})
	}
	stops.Wait()
	return errors.Join(errs...)
}

// do runs f on the keeper's goroutine and says whether it will.
func (k *Keeper) do(f func()) bool {
	select {
	case k.calls <- f:
		return true
	case <-k.stopped:
		return false
	}
}

// errStopped is what a keeper that has stopped says.
var errStopped = &router.Refusal{Status: 503, Code: router.ShuttingDown, Reason: "pilotlight is shutting down", RetryAfter: time.Second}

// Wake implements router.Waker.
func (k *Keeper) Wake(ctx context.Context, backend string) error {
	w := &wait{done: make(chan error, 1)}
	var u *unit
	if !k.do(func() {
		if u = k.units[backend]; u == nil {
			w.done <- fmt.Errorf("no backend is called %q on %s", backend, k.node.Name)
			return
		}
		k.want(u, w, time.Now())
	}) {
		return errStopped
	}
	select {
	case err := <-w.done:
		return err
	case <-k.stopped:
		return errStopped
	case <-ctx.Done():
		k.do(func() {
			if u != nil {
				u.waits = slices.DeleteFunc(u.waits, func(other *wait) bool { return other == w })
			}
		})
		return context.Cause(ctx)
	}
}

// WakeModel wakes one more backend of a model, if there is one that is not ready, and waits for it.
func (k *Keeper) WakeModel(ctx context.Context, model string) error {
	found := make(chan string, 1)
	if !k.do(func() {
		var id string
		for _, u := range k.inOrder() {
			if u.model == model && u.state != router.Ready {
				id = u.id
				break
			}
		}
		found <- id
	}) {
		return errStopped
	}
	if id := <-found; id != "" {
		return k.Wake(ctx, id)
	}
	return nil
}

// Dismiss puts every backend of a model to sleep, or stops it, and waits until that is done. What they have in flight
// is finished first; a wake under way is called off, and those who wait for it are refused.
func (k *Keeper) Dismiss(ctx context.Context, model string, stop bool) error {
	var waits []*wait
	ready := make(chan struct{})
	if !k.do(func() {
		defer close(ready)
		for _, u := range k.inOrder() {
			if u.model == model {
				waits = append(waits, k.dismissByHand(u, stop))
			}
		}
	}) {
		return errStopped
	}
	<-ready
	var errs []error
	for _, w := range waits {
		select {
		case err := <-w.done:
			errs = append(errs, err)
		case <-k.stopped:
			return errStopped
		case <-ctx.Done():
			return context.Cause(ctx)
		}
	}
	return errors.Join(errs...)
}

// Wish takes over what the planner wants of the node's backends, in place of what it wanted before. What it does not name is as the keeper sees fit.
func (k *Keeper) Wish(wishes map[string]router.Wish) {
	k.do(func() { k.wishes = wishes })
}

// Update takes over the models of a new configuration. A backend whose own description has changed is stopped once it has
// finished what it has in flight, and so is one that is gone from the file. The edge has heard of new ones when it returns.
func (k *Keeper) Update(models map[string]config.Model) {
	said := make(chan struct{})
	if k.do(func() { k.take(models); k.publish(); close(said) }) {
		<-said
	}
}
