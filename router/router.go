package router

import (
	"cmp"
	"context"
	"log/slog"
	"maps"
	"slices"
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
	// Stir is told when a request joins a model's line, or a slot is free that its agent could give to another edge. It may be nil, must
	// not wait, and is set before the first request.
	Stir func(model string)
	// Woke is told of each wake of the fleet that has ended: its backend's Woken says how. It may be nil, must not wait, and is set before the first
	// observation.
	Woke func(*Backend)

	waker Waker
	log   *slog.Logger
	fleet atomic.Pointer[Fleet]
	wakes sync.WaitGroup
	held  atomic.Int64 // bytes of bodies in all lines
	lines sync.Map     // *line by the ID of a backend that it has, or had: its model may be gone
	nodes sync.Map     // *Node by name, as last observed

	mu sync.Mutex // serialises the making of fleets
}

// New makes a router that knows the models and no backends yet.
func New(models map[string]config.Model, waker Waker, log *slog.Logger) *Router {
	r := &Router{waker: waker, log: log}
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
	next := make([]*Model, 0, len(models))
	for name, cfg := range models {
		m := &Model{Name: name, Config: cfg}
		if i, ok := old.index(name); ok {
			m.line = old.Models[i].line
		} else {
			m.line = newLine(r, m)
		}
		next = append(next, m)
	}
	f := newFleet(next)
	for _, n := range r.nodes.Range {
		for i, backends := range n.(*Node).serving(f) {
			f.Models[i] = f.Models[i].with(n.(*Node).Name, backends)
		}
	}
	r.publish(f, f.Models)
	for _, m := range old.Models {
		if _, stays := models[m.Name]; !stays {
			m.line.close(unknownModel(m.Name))
		}
	}
}

// Observe replaces what is known of a node. It is called by its keeper, or the link to it, on every change, and costs
// what the models of its backends cost. A node without backends is forgotten.
func (r *Router) Observe(n Node) {
	n.Backends = slices.Clone(n.Backends)
	for i := range n.Backends {
		n.Backends[i].Node, n.Backends[i].node = n.Name, &n
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	old := r.Fleet()
	here := n.serving(old)
	if was, ok := r.nodes.Load(n.Name); ok {
		r.tellWakes(was.(*Node), &n)
		r.forget(was.(*Node), &n)
		for i := range was.(*Node).serving(old) {
			if _, still := here[i]; !still {
				here[i] = nil
			}
		}
	}
	if r.nodes.Store(n.Name, &n); len(n.Backends) == 0 {
		r.nodes.Delete(n.Name)
	}
	changed := map[int]*Model{}
	var models []*Model
	for _, i := range slices.Sorted(maps.Keys(here)) {
		changed[i] = old.Models[i].with(n.Name, here[i])
		models = append(models, changed[i])
	}
	r.publish(old.with(changed), models)
}

// forget drops the backends that a node has no more. r.mu is held.
func (r *Router) forget(was, is *Node) {
	stays := make(map[string]bool, len(is.Backends))
	for i := range is.Backends {
		stays[is.Backends[i].ID] = true
	}
	for i := range was.Backends {
		if id := was.Backends[i].ID; !stays[id] {
			r.lines.Delete(id)
		}
	}
}

// Grant says which slots of a Shared backend this edge may use from now on: none until it is called. If more are in use, nothing is
// admitted until there are fewer.
func (r *Router) Grant(backend string, g Grant) {
	if l, ok := r.line(backend); ok {
		l.grant(backend, g)
	}
}

// publish stores a new fleet and tells the lines of the models that changed, which then serve whom they can. r.mu is held.
func (r *Router) publish(f *Fleet, changed []*Model) {
	r.fleet.Store(f)
	for _, m := range changed {
		for _, b := range m.Backends {
			if l, ok := r.line(b.ID); !ok || l != m.line {
				r.lines.Store(b.ID, m.line)
			}
		}
		m.line.observe(m)
	}
}

// Read takes in what probes have seen on a node. It changes no fleet. Readings' times are by this edge's clock: whoever
// brings them from another host sets them by their age.
func (r *Router) Read(node string, seen Readings) {
	for id, reading := range seen.Backends {
		if l, ok := r.line(id); ok {
			l.read(id, reading)
		}
	}
	n, ok := r.nodes.Load(node)
	if !ok || seen.GPUs == nil {
		return
	}
	for i := range n.(*Node).Backends {
		id := n.(*Node).Backends[i].ID
		if l, ok := r.line(id); ok {
			l.readGPUs(id, seen.GPUs)
		}
	}
}

// line finds the line that a backend serves.
func (r *Router) line(backend string) (*line, bool) {
	l, ok := r.lines.Load(backend)
	if !ok {
		return nil, false
	}
	return l.(*line), true
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

// Nodes are those that have backends, as last observed, by name.
func (r *Router) Nodes() []*Node {
	var all []*Node
	for _, n := range r.nodes.Range {
		all = append(all, n.(*Node))
	}
	slices.SortFunc(all, func(a, b *Node) int { return cmp.Compare(a.Name, b.Name) })
	return all
}

// Use says how much a backend is used through this edge. A backend that is not known is not used.
func (r *Router) Use(backend string) Use {
	if l, ok := r.line(backend); ok {
		return l.use(backend)
	}
	return Use{}
}

// Drained waits until nothing is in flight on a backend. That lasts only while the backend admits nothing: it
// must have been observed as Draining before.
func (r *Router) Drained(ctx context.Context, backend string) error {
	if l, ok := r.line(backend); ok {
		return l.drained(ctx, backend)
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
