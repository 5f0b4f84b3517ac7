package main

import (
	"cmp"
	"context"
	"errors"
	"log/slog"
	"maps"
	"reflect"
	"slices"
	"sync"
	"time"

	"pilotlight/config"
	"pilotlight/router"
	"pilotlight/warmpool"
	"pilotlight/warmpool/agent"
)

// fleet is where an edge's picture is put together: what its own file says of models, and what agents say of theirs and of their
// nodes. It implements agent.Fleet.
type fleet struct {
	*router.Router
	log *slog.Logger

	mu    sync.Mutex // guards what follows, and serialises changes of the router's models
	file  map[string]config.Model
	nodes map[string]map[string]config.Model // by node; those of agents that are gone too: a model stays known
}

func newFleet(r *router.Router, file map[string]config.Model, log *slog.Logger) *fleet {
	return &fleet{Router: r, log: log, file: file, nodes: map[string]map[string]config.Model{}}
}

// Update takes over the models of a new file.
func (f *fleet) Update(file map[string]config.Model) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.file = file
	f.Router.Update(merge(f.file, f.nodes, f.log))
}

// Observe takes over what an agent says of its node.
func (f *fleet) Observe(n agent.Node) {
	f.mu.Lock()
	defer f.mu.Unlock()
	if was, ok := f.nodes[n.Name]; !ok || !reflect.DeepEqual(was, n.Models) {
		f.nodes[n.Name] = n.Models
		f.Router.Update(merge(f.file, f.nodes, f.log))
	}
	f.Router.Observe(n.Node)
}

// merge puts models together. What the edge's own file says of a model counts, else what the first node says that has it, by name. A
// model's backends are those of all. An alias that somebody else has is left out.
func merge(file map[string]config.Model, nodes map[string]map[string]config.Model, log *slog.Logger) map[string]config.Model {
	all := maps.Clone(file)
	if all == nil {
		all = map[string]config.Model{}
	}
	for _, node := range slices.Sorted(maps.Keys(nodes)) {
		for name, m := range nodes[node] {
			known, ok := all[name]
			if !ok {
				known = m
				known.Backends = nil
			}
			known.Backends = slices.Concat(known.Backends, m.Backends)
			all[name] = known
		}
	}
	taken := map[string]string{}
	for _, name := range slices.Sorted(maps.Keys(all)) {
		m := all[name]
		m.Aliases = slices.DeleteFunc(slices.Clone(m.Aliases), func(alias string) bool {
			_, named := all[alias]
			other, aliased := taken[alias]
			if named || aliased {
				log.Warn("an alias is left out: it names another model", "alias", alias, "model", name, "other", cmp.Or(other, alias))
				return true
			}
			taken[alias] = name
			return false
		})
		all[name] = m
	}
	return all
}

// lives are those of all backends that the edge knows: its own, if it has any, and those of agents. It implements router.Waker
// and admin.Lives.
type lives struct {
	fleet  *fleet
	keeper *warmpool.Keeper // nil: there are none
	links  *agent.Links     // nil: likewise
}

func (l *lives) Wake(ctx context.Context, backend string) error {
	switch {
	case l.links != nil && l.links.Has(backend):
		return l.links.Wake(ctx, backend)
	case l.keeper != nil:
		return l.keeper.Wake(ctx, backend)
	}
	return errors.New("nobody here can wake " + backend)
}

// WakeModel wakes one more backend of a model, the one that would be ready first, and waits for it.
func (l *lives) WakeModel(ctx context.Context, model string) error {
	m, ok := l.fleet.Model(model)
	if !ok {
		return nil
	}
	now := time.Now()
	var first *router.Backend
	for _, b := range m.Backends {
		if b.State != router.Ready && (first == nil || b.ReadyAt(now).Before(first.ReadyAt(now))) {
			first = b
		}
	}
	if first == nil {
		return nil
	}
	return l.Wake(ctx, first.ID)
}

func (l *lives) Dismiss(ctx context.Context, model string, stop bool) error {
	var errs []error
	if l.links != nil {
		errs = append(errs, l.links.Dismiss(ctx, model, stop))
	}
	if l.keeper != nil {
		errs = append(errs, l.keeper.Dismiss(ctx, model, stop))
	}
	return errors.Join(errs...)
}

// await waits until it is known what there is: own says that of the edge's own backends.
func (l *lives) await(ctx context.Context, own <-chan struct{}) {
	if l.keeper != nil {
		select {
		case <-own:
		case <-ctx.Done():
		}
	}
	if l.links != nil {
		l.links.Await(ctx)
	}
}

// update takes over a new file.
func (l *lives) update(next *config.Config) error {
	if l.keeper == nil && hasBackends(next) {
		return errors.New("the first backend of an edge's own needs a restart")
	}
	l.fleet.Update(next.Models)
	if l.keeper != nil {
		l.keeper.Update(next.Models)
	}
	if l.links != nil {
		l.links.Set(next.Agents)
		l.links.Show()
	}
	return nil
}

// Nodes are those of the agents.
func (l *lives) Nodes() []agent.NodeStatus {
	if l.links == nil {
		return []agent.NodeStatus{}
	}
	return l.links.Nodes()
}
