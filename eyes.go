package main

import (
	"context"
	"log/slog"
	"sync"
	"sync/atomic"
	"time"

	"pilotlight/config"
	"pilotlight/probe"
	"pilotlight/probe/nvml"
	"pilotlight/proxy/admin"
	"pilotlight/router"
)

// eyes are how serve sees its node's GPUs: the last look, and who is told of each.
type eyes struct {
	log   *slog.Logger
	watch probe.Watch // nil: nobody looks
	last  atomic.Pointer[probe.GPUs]
	once  sync.Once
	first chan struct{} // closed when the driver has first been heard, or will not be
	tell  atomic.Pointer[func(probe.GPUs)]
}

// eyes are those that the configuration wants. Dev brings its own.
func (s site) eyes() (*eyes, error) {
	e := &eyes{log: s.log, watch: s.gpus, first: make(chan struct{})}
	how := s.cfg.Node.NVML
	if e.watch == nil && how != config.NVMLOff && (how != config.NVMLAuto || nvml.Installed()) {
		path := ""
		if how != config.NVMLAuto {
			path = string(how)
		}
		watch, err := watchNVML(path, s.log)
		if err != nil {
			return nil, err
		}
		e.watch = watch
	}
	if e.watch == nil {
		e.close("")
	}
	return e, nil
}

// openEyes opens them, until stop is called.
func (s site) openEyes(ctx context.Context) (e *eyes, stop func(), err error) {
	if e, err = s.eyes(); err != nil {
		return nil, nil, err
	}
	looking, end := context.WithCancel(context.WithoutCancel(ctx))
	var looks sync.WaitGroup
	looks.Go(func() { e.run(looking) })
	return e, func() { end(); looks.Wait() }, nil
}

// close says that nothing will be seen, if nothing was, and why.
func (e *eyes) close(why string) {
	e.once.Do(func() { close(e.first) })
	if why != "" {
		e.see(probe.GPUs{Problem: why})
	}
}

// see takes in a look, and passes it on.
func (e *eyes) see(look probe.GPUs) {
	e.last.Store(&look)
	if !look.At.IsZero() { // else it only says that nothing has been heard yet
		e.once.Do(func() { close(e.first) })
	}
	if tell := e.tell.Load(); tell != nil {
		(*tell)(look)
	}
}

// run looks until ctx ends. Without GPUs, or when they can no longer be seen, pilotlight goes on by what the configuration says.
func (e *eyes) run(ctx context.Context) {
	if e.watch == nil {
		return
	}
	err := e.watch(ctx, e.see)
	if ctx.Err() == nil {
		e.log.Warn("nobody looks at the GPUs", "error", err)
		e.close(err.Error())
	}
}

// driverStart is how long a driver may take to say which GPUs there are, before serve begins without them.
const driverStart = 15 * time.Second

// tellTo has f called with each look from now on, one at a time.
func (e *eyes) tellTo(f func(probe.GPUs)) { e.tell.Store(&f) }

// discover fills in the GPUs of a node whose configuration names none.
func (e *eyes) discover(ctx context.Context, n config.Node) config.Node {
	if len(n.GPUs) > 0 {
		return n
	}
	select {
	case <-e.first:
	case <-ctx.Done():
	case <-time.After(driverStart):
		e.log.Warn("the GPU driver has not said which GPUs there are; their memory is not counted", "waited", driverStart.String())
	}
	look := e.last.Load()
	if look == nil {
		return n
	}
	var found []config.GPU
	for _, g := range look.GPUs {
		if g.Total <= 0 {
			e.log.Warn("the driver does not say how much memory a GPU has, so memory is not counted; say it in node.gpus", "gpu", g.Index, "name", g.Name)
			return n
		}
		found = append(found, config.GPU{Memory: g.Total})
		e.log.Info("found a GPU", "gpu", g.Index, "name", g.Name, "uuid", g.UUID, "memory", g.Total.String())
	}
	n.GPUs = found
	return n
}

// status is what the admin port shows.
func (e *eyes) status(node string, pids map[string]int) admin.GPUsStatus {
	look := e.last.Load()
	if look == nil {
		look = &probe.GPUs{Problem: "nobody looks: there is no sign of an NVIDIA driver here, or node.nvml is off"}
	}
	owner := probe.NewOwners(pids).Of
	if look.Foreign {
		owner = func(probe.Process) string { return "" }
	}
	return admin.GPUsOf(node, *look, owner)
}

// pids are the processes of a node's backends.
func pids(lines *router.Router, node string) map[string]int {
	all := map[string]int{}
	for _, m := range lines.Fleet().Models {
		for _, b := range m.Backends {
			if b.Node == node && b.PID != 0 {
				all[b.ID] = b.PID
			}
		}
	}
	return all
}
