package main

import (
	"context"
	"maps"
	"slices"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"golang.org/x/sync/errgroup"

	"pilotlight/config"
	"pilotlight/router"
	"pilotlight/router/consul"
	"pilotlight/warmpool/agent"
)

const (
	// firstWord is how long an edge waits at its start for Consul to say what there is.
	firstWord = 10 * time.Second
	// saveEvery is how often an edge saves what it has learned.
	saveEvery = 5 * time.Minute
	// maxServed bounds the models that are known because some registration named them.
	maxServed = 10_000
)

// discovery is what an edge does with Consul. A nil one does nothing.
type discovery struct {
	*consul.Client
	site  site
	name  string // of this edge
	pool  *lives
	edge  *consul.Registration
	known chan struct{} // closed when the first catalogue has come
	seen  consul.History
	plans *planning
}

// discover makes the discovery of the edge called name.
func (s site) discover(name string, pool *lives, registry prometheus.Registerer) (*discovery, error) {
	c, err := consul.New(*s.cfg.Consul, s.log, registry)
	if err != nil {
		return nil, err
	}
	pool.shared = &sharedPins{c, name, map[string]bool{}}
	edge := c.RegisterEdge(consul.Edge{Name: name, Admin: s.cfg.Admin, Version: version()})
	return &discovery{Client: c, site: s, name: name, pool: pool, edge: edge, known: make(chan struct{})}, nil
}

// status is what the admin port shows.
func (d *discovery) status() *consul.Status {
	if d == nil {
		return nil
	}
	return new(d.Status())
}

// await waits until Consul has said what there is, for a while: an edge may start while Consul is away.
func (d *discovery) await(ctx context.Context) {
	if d == nil {
		return
	}
	select {
	case <-d.known:
	case <-time.After(firstWord):
		d.site.log.Warn("serving without having heard from Consul what there is")
	case <-ctx.Done():
	}
}

// run follows Consul until ctx ends.
func (d *discovery) run(ctx context.Context) error {
	g, ctx := errgroup.WithContext(ctx)
	ending := func(follow func() error) func() error {
		return func() error { _ = follow(); return nil } // they end when ctx does, and else never
	}
	g.Go(ending(func() error { return d.remember(ctx) }))
	g.Go(ending(func() error { return d.edge.Run(ctx) }))
	g.Go(ending(func() error { return d.Models(ctx, d.pool.fleet.setLive) }))
	g.Go(ending(func() error { return d.pool.followPins(ctx) }))
	g.Go(ending(func() error { return d.Lock(ctx, "planner", d.name, d.plan) }))
	g.Go(ending(func() error {
		first := true
		return d.Watch(ctx, func(next *consul.Catalogue) {
			news := d.pool.fleet.discover(next)
			d.pool.links.Set(d.pool.agents())
			for link, node := range news {
				d.pool.links.Suggest(link, node)
			}
			if first {
				close(d.known)
			}
			first = false
		})
	}))
	return g.Wait()
}

// client is Consul's; nil: it is not used.
func (d *discovery) client() *consul.Client {
	if d == nil {
		return nil
	}
	return d.Client
}

// recall begins with what planners have learned before. An edge may start while Consul is away, and goes on with what it saved itself.
func (d *discovery) recall(ctx context.Context) {
	if d != nil {
		d.await(ctx)
		d.plans.loadConsul(ctx, d.Client)
	}
}

// plan is what the one edge does that holds the planner's lock.
func (d *discovery) plan(ctx context.Context) {
	d.plans.acts.Store(true)
	defer d.plans.acts.Store(false)
	d.plans.save(ctx, d.Client) // for those who start later
	for {
		if err := d.ForgetEdges(ctx); err != nil && ctx.Err() == nil {
			d.site.log.Warn("old histories stay", "error", err)
		}
		if err := d.pool.shared.forgetPins(ctx); err != nil && ctx.Err() == nil {
			d.site.log.Warn("old pins stay", "error", err)
		}
		select {
		case <-time.After(time.Hour):
		case <-ctx.Done():
			return
		}
	}
}

// remember begins with what edges saved before, and saves what this one learns.
func (d *discovery) remember(ctx context.Context) error {
	for {
		all, own, err := d.LoadHistory(ctx, d.name)
		if err == nil {
			d.seen = own
			d.pool.fleet.setHistory(all)
			break
		}
		if !wait(ctx, 5*time.Second) {
			return context.Cause(ctx)
		}
	}
	counted := map[string]int64{}
	for more := true; more; {
		more = wait(ctx, saveEvery)
		now := time.Now()
		for model, n := range d.pool.fleet.Granted() {
			d.seen.Count(model, n-counted[model], now)
			counted[model] = n
		}
		d.seen.Wakes = d.pool.fleet.wakeTimes()
		saving, cancel := context.WithTimeout(context.WithoutCancel(ctx), 3*time.Second)
		if err := d.SaveHistory(saving, d.name, d.seen); err != nil {
			d.site.log.Warn("what was learned is not saved", "error", err)
		}
		cancel()
	}
	return context.Cause(ctx)
}

// wait lets d pass. It is false where ctx has ended.
func wait(ctx context.Context, d time.Duration) bool {
	select {
	case <-time.After(d):
		return true
	case <-ctx.Done():
		return false
	}
}

// own takes over what this edge's own keeper says of its node.
func (f *fleet) own(n router.Node) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.said[n.Name] = agent.Node{Node: n}
	f.show(n.Name)
}

// setLive takes over the models of Consul's KV.
func (f *fleet) setLive(models map[string]config.Model) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.live = models
	f.update()
}

// setHistory takes over what edges have learned: models that were asked for stay known, and how long wakes took.
func (f *fleet) setHistory(h consul.History) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.wakes = h.Wakes
	for model, d := range h.Models {
		f.serve(model, d.ServedAs)
	}
	f.update()
}

// serve notes that a model is served. It says whether that is news. f.mu is held.
func (f *fleet) serve(model, as string) bool {
	if _, known := f.served[model]; known || len(f.served) >= maxServed {
		return false
	}
	m := config.DefaultModel(model)
	if as != "" {
		m.ServedAs = as
	}
	f.served[model] = m
	return true
}

// discover takes over a new catalogue. It costs what has changed. What of that is for agents to say it returns, by the addresses of their links.
func (f *fleet) discover(next *consul.Catalogue) (news map[string]agent.Node) {
	f.mu.Lock()
	defer f.mu.Unlock()
	changed := map[string]bool{}
	for _, node := range next.Changed {
		changed[node] = true
	}
	for node, a := range next.Agents {
		changed[node] = changed[node] || f.found.Agents[node].Link != a.Link
	}
	f.found = next
	more := false
	for node := range changed {
		for _, b := range next.Nodes[node] {
			more = f.serve(b.Model, b.ServedAs) || more
		}
	}
	if more {
		f.update()
	}
	news = map[string]agent.Node{}
	for _, node := range slices.Sorted(maps.Keys(changed)) {
		f.show(node)
		if link := next.Agents[node].Link; link != "" {
			news[link] = keptBy(node, next)
		}
	}
	return news
}

// keptBy are the backends that the agent of a node has, as Consul says.
func keptBy(node string, found *consul.Catalogue) agent.Node {
	n := agent.Node{Node: router.Node{Name: node}}
	for _, b := range found.Nodes[node] {
		if b.Agent == node {
			n.Backends = append(n.Backends, b.Backend)
		}
	}
	return n
}

// show hands a node to the router. f.mu is held.
func (f *fleet) show(node string) {
	said, heard := f.said[node]
	n := reconcile(node, said, heard, f.found)
	for i := range n.Backends {
		b := &n.Backends[i]
		if b.WakeTime == 0 && b.State != router.Ready {
			b.WakeTime = f.wakes[b.ID][b.Tier.String()]
		}
	}
	f.Router.Observe(n)
}

// reconcile puts together what an agent's link says of its node and what Consul says of it. The link knows the agent's backends best: it has heard the
// agent, or knows of Consul what that left behind, and whether anything may be sent there. Where there is no link yet nothing is:
// the agent does not know that we would use it, and may put it to sleep. Backends that nobody owns are as Consul says, and maintenance goes
// before all.
func reconcile(node string, said agent.Node, heard bool, found *consul.Catalogue) router.Node {
	n := said.Node
	n.Name = node
	n.Backends = slices.Clone(n.Backends)
	places := map[string]int{}
	for i := range n.Backends {
		places[n.Backends[i].ID] = i
	}
	for _, b := range found.Nodes[node] {
		i, told := places[b.ID]
		switch {
		case told && b.Hold != "" && n.Backends[i].State == router.Ready:
			n.Backends[i].State, n.Backends[i].Reason = router.Draining, b.Hold
		case told || heard && b.Agent == node: // what the agent does not name it does not have, whatever is registered yet
		case b.Agent != "" && b.State == router.Ready:
			b.State, b.Reason = router.Draining, "there is no link to the agent of "+b.Agent
			n.Backends = append(n.Backends, b.Backend)
		default:
			n.Backends = append(n.Backends, b.Backend)
		}
	}
	return n
}

// wakeTimes are how long wakes are expected to take, by backend and by the tier they begin from: those learned before, and those of now.
func (f *fleet) wakeTimes() map[string]map[string]time.Duration {
	all := map[string]map[string]time.Duration{}
	f.mu.Lock()
	before := f.wakes
	f.mu.Unlock()
	for _, m := range f.Fleet().Models {
		for _, b := range m.Backends {
			all[b.ID] = maps.Clone(before[b.ID])
			if all[b.ID] == nil {
				all[b.ID] = map[string]time.Duration{}
			}
			if b.WakeTime > 0 {
				all[b.ID][b.Tier.String()] = b.WakeTime
			}
		}
	}
	return all
}
