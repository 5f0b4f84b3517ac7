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
	"pilotlight/probe/meter"
	"pilotlight/router"
	"pilotlight/router/consul"
	"pilotlight/warmpool"
	"pilotlight/warmpool/agent"
)

// fleet is where an edge's picture is put together: what its own file says of models, and what agents say of theirs and of their
// nodes. It implements agent.Fleet.
type fleet struct {
	*router.Router
	log     *slog.Logger
	metered func(node string, settled []meter.Settled, accounts []meter.Account) // is told what agents settle; set before there is any link

	mu     sync.Mutex // guards what follows, and serialises changes of the router's models
	file   map[string]config.Model
	nodes  map[string]map[string]config.Model  // by node; those of agents that are gone too: a model stays known
	live   map[string]config.Model             // from Consul's KV
	served map[string]config.Model             // that some registration names, or has named, and nobody says more of
	said   map[string]agent.Node               // what agents, and our own keeper, last said of their nodes
	found  *consul.Catalogue                   // what Consul says
	pins   map[string]pin                      // models kept awake by hand
	wakes  map[string]map[string]time.Duration // how long wakes took before we started, by backend and tier
}

func newFleet(r *router.Router, file map[string]config.Model, log *slog.Logger) *fleet {
	return &fleet{Router: r, log: log, file: file, pins: map[string]pin{}, nodes: map[string]map[string]config.Model{}, served: map[string]config.Model{}, said: map[string]agent.Node{}, found: &consul.Catalogue{}}
}

// update hands the models to the router. f.mu is held.
func (f *fleet) update() {
	f.Router.Update(withPins(merge(f.file, f.nodes, f.live, f.served, f.log), f.pins))
}

// Observe takes over what an agent says of its node.
func (f *fleet) Observe(n agent.Node) {
	f.mu.Lock()
	defer f.mu.Unlock()
	if was, ok := f.nodes[n.Name]; n.Models != nil && (!ok || !reflect.DeepEqual(was, n.Models)) { // nil: its agent was not heard
		f.nodes[n.Name] = n.Models
		f.update()
	}
	f.said[n.Name] = n
	f.show(n.Name)
}

// Metered passes on what an agent settles of GPU time.
func (f *fleet) Metered(node string, settled []meter.Settled, accounts []meter.Account) {
	f.metered(node, settled, accounts)
}

// merge puts models together. What Consul's KV says of a model counts, else the edge's own file, else what the first node says that has
// it, by name, else that it is served. A model's backends are those of all. An alias that somebody else has is left out.
func merge(file map[string]config.Model, nodes map[string]map[string]config.Model, live, served map[string]config.Model, log *slog.Logger) map[string]config.Model {
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
	for name, m := range live {
		m.Backends = all[name].Backends
		all[name] = m
	}
	for name, m := range served {
		if _, known := all[name]; !known {
			all[name] = m
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
	named  []string         // agents that the file names; fleet.mu guards it

	shared    *sharedPins // nil: pins are this process's alone
	repinning sync.Mutex  // serialises what the keeper is told of models; guards unpins
	unpins    *time.Timer // when the next pin ends
}

// agents are those of the file, and those that Consul knows.
func (l *lives) agents() []string {
	l.fleet.mu.Lock()
	defer l.fleet.mu.Unlock()
	all := slices.Clone(l.named)
	for _, a := range l.fleet.found.Agents {
		if a.Link != "" {
			all = append(all, a.Link)
		}
	}
	return all
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
	l.fleet.mu.Lock()
	l.fleet.file, l.named = next.Models, next.Agents
	l.fleet.mu.Unlock()
	l.repin()
	if l.links != nil {
		l.links.Set(l.agents())
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
