package router

import (
	"context"
	"log/slog"
	"sync"
	"sync/atomic"
	"time"

	"pilotlight/config"
)

// Waker asks the owner of a backend's life to make it ready: the embedded keeper, or the link to an agent.
type Waker interface {
	// Wake returns when the backend is ready, and has been observed to be. The error, a *Refusal where the client may
	// read it, says why it will not be. A context that ends says that nobody waits any more; the owner decides
	// what becomes of the wake.
	Wake(ctx context.Context, backend string) error
}

// Router gives requests their slots. All its methods may be called from any goroutine.
type Router struct {
	// Held bounds the bytes of request bodies that all lines hold together; 0: nothing does. It is set before the first
	// request.
	Held config.Size

	waker Waker
	log   *slog.Logger
	fleet atomic.Pointer[Fleet]
	wakes sync.WaitGroup
	held  atomic.Int64 // bytes of bodies in all lines

	mu       sync.Mutex           // guards what follows, and serialises the making of fleets
	backends map[string][]Backend // by node, as last observed
}

// New makes a router that knows the models and no backends yet.
func New(models map[string]config.Model, waker Waker, log *slog.Logger) *Router {
	r := &Router{waker: waker, log: log, backends: map[string][]Backend{}}
	r.fleet.Store(&Fleet{})
	r.Update(models)
	return r
}

// Fleet is the current picture. It is immutable.
func (r *Router) Fleet() *Fleet { return r.fleet.Load() }

// Model finds a model by its name or an alias.
func (r *Router) Model(name string) (*Model, bool) { return r.Fleet().Model(name) }

// Update changes the models to those of a new configuration. Requests that wait for a model which is no longer there
// are refused; those in flight go on.
func (r *Router) Update(models map[string]config.Model) {
	r.mu.Lock()
	defer r.mu.Unlock()
	old := r.Fleet()
	var next []*Model
	for name, cfg := range models {
		m := &Model{Name: name, Config: cfg}
		if was, ok := old.Model(name); ok && was.Name == name {
			m.line = was.line
		} else {
			m.line = newLine(r, m)
		}
		next = append(next, m)
	}
	r.publish(next)
	for _, m := range old.Models {
		if _, stays := models[m.Name]; !stays {
			m.line.close(unknownModel(m.Name))
		}
	}
}

// Observe replaces what is known of a node's backends. It is called by their keeper, or the link to it, on every change.
func (r *Router) Observe(node string, backends []Backend) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.backends[node] = backends
	r.publish(r.Fleet().Models)
}

// publish stores a new fleet and tells the lines, which then serve whom they can. r.mu is held.
func (r *Router) publish(models []*Model) {
	f := newFleet(models, r.backends, r.Fleet())
	r.fleet.Store(f)
	for _, m := range f.Models {
		m.line.observe(m)
	}
}

// TryAcquire takes a free slot at once, or says ErrWait. Anything else is a *Refusal. A lease must be released.
func (r *Router) TryAcquire(req Request) (Lease, error) {
	m, ok := r.Model(req.Model)
	if !ok {
		return Lease{}, unknownModel(req.Model)
	}
	return m.line.try(req)
}

// Acquire takes a slot, in line behind those who came before and waking a backend if need be. It ends with a
// lease, a *Refusal, ErrOverflow, or the context's error when the client has left. A lease must be released.
func (r *Router) Acquire(ctx context.Context, req Request) (Lease, error) {
	m, ok := r.Model(req.Model)
	if !ok {
		return Lease{}, unknownModel(req.Model)
	}
	lease, err := m.line.acquire(ctx, req)
	if req.Overflow && overflows(m.Config.Overflow, err) {
		err = ErrOverflow
	}
	return lease, err
}

func unknownModel(name string) *Refusal {
	return refuse(404, UnknownModel, 0, "no model is called %q; GET /v1/models lists those there are", name)
}

// Use says how much a backend is used through this edge. A backend that is not known is not used.
func (r *Router) Use(backend string) Use {
	if m, ok := r.Fleet().byBackend[backend]; ok {
		return m.line.use(backend)
	}
	return Use{}
}

// Drained waits until nothing is in flight on a backend. That lasts only while the backend admits nothing: it
// must have been observed as Draining before.
func (r *Router) Drained(ctx context.Context, backend string) error {
	if m, ok := r.Fleet().byBackend[backend]; ok {
		return m.line.drained(ctx, backend)
	}
	return nil
}

// Close refuses everybody who waits and returns when the last wake has been called off. Leases stay valid.
func (r *Router) Close() {
	r.mu.Lock()
	for _, m := range r.Fleet().Models {
		m.line.close(refuse(503, ShuttingDown, time.Second, "this edge is shutting down; ask again"))
	}
	r.mu.Unlock()
	r.wakes.Wait()
}
