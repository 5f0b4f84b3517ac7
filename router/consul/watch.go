package consul

import (
	"context"
	"maps"
	"math/rand/v2"
	"net"
	"strings"
	"sync"
	"time"

	"github.com/hashicorp/consul/api"
	"golang.org/x/sync/errgroup"
)

// The rhythm of discovery.
const (
	together  = 20 * time.Millisecond  // what changes within this time comes as one catalogue
	changesIn = 100 * time.Millisecond // at most one look at the changed keys in this time
	namesIn   = 500 * time.Millisecond // likewise at the names of services
	fetchers  = 16                     // services asked for at once
	hintWait  = time.Second            // how long a service whose key was touched may take to change: the key may come first
	turn      = 2 * time.Second        // of a service that others registered, where there are more of these than queries
	lookSoon  = 15 * time.Second       // at a service that had not changed though its key was touched
	lookAgain = 10 * time.Minute       // at a service whose key does not move, or that has no backends: nothing is believed for ever
	settle    = time.Minute            // how long those who registered have to do so again, after Consul was away or lost its data
)

// serviceKey is a service of a datacentre; an empty one is the Consul agent's own.
type serviceKey struct{ dc, name string }

// service is what was last seen of one service.
type service struct {
	index     uint64               // of the last answer; 0: none yet
	instances map[string][]Backend // by Consul's node and service ID
	listed    bool                 // it is among the names of services
	foreign   bool                 // some of it was registered by nobody of ours, so no key is touched when it changes
	touched   bool                 // its key was, since it was last asked for
	fetching  bool
	failures  int
}

// A watch is one following of Consul.
type watch struct {
	c      *Client
	near   *queue // services to ask for
	others *queue // services that others registered, to wait on

	mu        sync.Mutex // guards what follows
	agents    map[string]Agent
	edges     map[string]Edge
	services  map[serviceKey]*service
	touched   map[serviceKey]uint64 // ModifyIndex of its key
	nodes     map[string][]Backend  // as last published
	dirty     map[string]bool       // nodes that changed since
	first     int                   // answers that must be there before all is known
	answers   map[string]bool       // those that are
	published bool
	last      *Catalogue
	forgetful time.Time // until when what is missing may only not be registered again yet
	kick      chan struct{}
}

// Watch follows Consul until ctx ends, and calls changed with each new catalogue: one call at a time, once for what changes together. The
// first comes when Consul has told all, never before: what it does not answer is not known to be gone. The error is ctx's.
func (c *Client) Watch(ctx context.Context, changed func(*Catalogue)) error {
	w := &watch{
		c: c, near: newQueue(), others: newQueue(),
		agents: map[string]Agent{}, edges: map[string]Edge{}, services: map[serviceKey]*service{}, touched: map[serviceKey]uint64{},
		nodes: map[string][]Backend{}, dirty: map[string]bool{}, answers: map[string]bool{}, kick: make(chan struct{}, 1),
	}
	g, ctx := errgroup.WithContext(ctx)
	dcs := c.cfg.Datacenters
	if len(dcs) == 0 {
		dcs = []string{""}
	}
	for _, dc := range dcs {
		for _, q := range []query{w.queryAgents(dc), w.queryEdges(dc), w.queryNames(dc), w.queryChanges(dc)} {
			w.first++
			q.dc, q.lost, q.wait = dc, w.lost, w.patience
			g.Go(func() error { c.poll(ctx, q); return nil })
		}
	}
	g.Go(func() error { w.near.run(ctx, fetchers, func(key serviceKey) { w.fetch(ctx, key) }); return nil })
	g.Go(func() error {
		w.others.run(ctx, c.cfg.Watches, func(key serviceKey) { w.follow(ctx, key) })
		return nil
	})
	g.Go(func() error { w.publish(ctx, changed); return nil })
	_ = g.Wait()
	return context.Cause(ctx)
}

// heard notes that one of the first answers is there, and has publish look. w.mu is held.
func (w *watch) heard(what, dc string) {
	w.answers[what+" "+dc] = true
	w.wake()
}

// wake has publish look.
func (w *watch) wake() {
	select {
	case w.kick <- struct{}{}:
	default:
	}
}

// lost is called where Consul was away, or its past is not what it was: it was restarted without its data, or restored. Whoever registered
// will do it again; until then what is missing stays as it was.
func (w *watch) lost() {
	w.mu.Lock()
	defer w.mu.Unlock()
	if w.published && w.remembers() {
		w.forgetful = time.Now().Add(settle)
		w.c.log.Info("Consul was away or has lost some of its past; what is missing in it stays as it was for now", "until", w.forgetful)
	}
}

// remembers says whether an answer that lacks something may be believed. w.mu is held.
func (w *watch) remembers() bool { return time.Now().After(w.forgetful) }

// patience is how long an answer may be held back: not beyond the time when it is believed.
func (w *watch) patience() time.Duration {
	w.mu.Lock()
	defer w.mu.Unlock()
	if rest := time.Until(w.forgetful); rest > 0 {
		return rest + time.Second
	}
	return waitTime
}

// jittered is a time from now on, anywhere within spread behind after.
func jittered(after, spread time.Duration) time.Time {
	return time.Now().Add(after + time.Duration(rand.Float64()*float64(spread)))
}

// queryNames waits for services to come and go. One with a new name is asked for at once.
func (w *watch) queryNames(dc string) query {
	q := query{request: request{"look for services", "service:read and node:read for all services with backends"}, every: namesIn}
	q.ask = func(opts *api.QueryOptions) (*api.QueryMeta, func(), error) {
		found, meta, err := w.c.api.Catalog().Services(opts)
		return meta, func() {
			w.mu.Lock()
			defer w.mu.Unlock()
			for name := range found {
				if name != AgentService && name != EdgeService && name != LockService && name != "consul" {
					w.know(serviceKey{dc, name})
				}
			}
			for key, s := range w.services {
				if _, there := found[key.name]; !there && key.dc == dc {
					s.listed = false
					w.near.add(key, time.Now()) // whether it is gone is for its own answer to say
				}
			}
			w.heard("names", dc)
		}, err
	}
	return q
}

// know makes a service that is to be asked for, if it is new. w.mu is held.
func (w *watch) know(key serviceKey) {
	s, ok := w.services[key]
	if !ok {
		s = &service{instances: map[string][]Backend{}}
		w.services[key] = s
		w.near.add(key, time.Now())
	}
	s.listed = true
}

// drop forgets a service without backends. w.mu is held.
func (w *watch) drop(key serviceKey) {
	delete(w.services, key)
	w.near.remove(key)
	w.others.remove(key)
	w.c.note("service "+key.name, "")
}

// changedPrefix is where the keys of services are that those who register backends touch.
func (c *Client) changedPrefix() string { return c.cfg.Prefix + "/changed/" }

// queryChanges waits for the keys of services to be touched, and asks for those whose was.
func (w *watch) queryChanges(dc string) query {
	prefix := w.c.changedPrefix()
	q := query{request: request{"look for changes", `key:read for "` + prefix + `"`}, every: changesIn}
	q.ask = func(opts *api.QueryOptions) (*api.QueryMeta, func(), error) {
		pairs, meta, err := w.c.api.KV().List(prefix, opts)
		return meta, func() {
			w.mu.Lock()
			defer w.mu.Unlock()
			touched := make(map[serviceKey]uint64, len(pairs))
			for _, pair := range pairs {
				key := serviceKey{dc, strings.TrimPrefix(pair.Key, prefix)}
				touched[key] = pair.ModifyIndex
				if w.answers["changes "+dc] && w.touched[key] != pair.ModifyIndex && w.services[key] != nil {
					w.services[key].touched = true
					w.near.add(key, time.Now())
				}
			}
			maps.DeleteFunc(w.touched, func(key serviceKey, _ uint64) bool { return key.dc == dc })
			maps.Copy(w.touched, touched)
			w.heard("changes", dc)
		}, err
	}
	return q
}

// queryAgents waits for agents to come, go, or fall silent.
func (w *watch) queryAgents(dc string) query {
	q := query{request: request{"look for agents", `service:read for "` + AgentService + `" and node:read`}, every: together}
	q.ask = func(opts *api.QueryOptions) (*api.QueryMeta, func(), error) {
		entries, meta, err := w.c.api.Health().Service(AgentService, "", false, opts)
		return meta, func() {
			found := map[string]Agent{}
			for _, e := range entries {
				a := Agent{Node: e.Service.Meta[metaNode], Link: e.Service.Meta[metaLink], Version: e.Service.Meta[metaVersion], dc: dc}
				a.Link = reachable(a.Link, e.Node.Address)
				a.Alive, a.Reason = alive(e.Checks)
				if a.Node != "" && (a.Alive || !found[a.Node].Alive) {
					found[a.Node] = a
				}
			}
			w.mu.Lock()
			defer w.mu.Unlock()
			w.takeAgents(dc, found, meta.ResultsFilteredByACLs)
			w.heard("agents", dc)
		}, err
	}
	return q
}

// reachable is an address with a host: that of its node where it listens on all of them.
func reachable(addr, node string) string {
	host, port, err := net.SplitHostPort(addr)
	if ip := net.ParseIP(host); err == nil && (host == "" || ip != nil && ip.IsUnspecified()) {
		return net.JoinHostPort(node, port)
	}
	return addr
}

// takeAgents takes in all agents of a datacentre. The services of those that came back or went are asked for: nobody may have touched
// their keys. w.mu is held.
func (w *watch) takeAgents(dc string, found map[string]Agent, filtered bool) {
	for node, was := range w.agents {
		if _, there := found[node]; !there && was.dc == dc && !filtered && w.remembers() {
			delete(w.agents, node)
			w.again(node)
		}
	}
	for node, a := range found {
		was, known := w.agents[node]
		w.agents[node] = a
		if known && was.Alive != a.Alive {
			w.again(node)
		}
	}
}

// again asks for the services of a node's backends. w.mu is held.
func (w *watch) again(node string) {
	w.dirty[node] = true
	for key, s := range w.services {
		if s.on(node) {
			w.near.add(key, jittered(0, time.Second))
		}
	}
}

func (s *service) on(node string) bool {
	for _, backends := range s.instances {
		for i := range backends {
			if backends[i].Node == node {
				return true
			}
		}
	}
	return false
}

// queryEdges waits for edges to come, go, or fall silent.
func (w *watch) queryEdges(dc string) query {
	q := query{request: request{"look for edges", `service:read for "` + EdgeService + `" and node:read`}, every: together}
	q.ask = func(opts *api.QueryOptions) (*api.QueryMeta, func(), error) {
		entries, meta, err := w.c.api.Health().Service(EdgeService, "", false, opts)
		return meta, func() {
			w.mu.Lock()
			defer w.mu.Unlock()
			if !meta.ResultsFilteredByACLs && w.remembers() {
				maps.DeleteFunc(w.edges, func(_ string, e Edge) bool { return e.dc == dc })
			}
			for _, e := range entries {
				edge := Edge{Name: e.Service.Meta[metaEdge], Admin: e.Service.Meta[metaAdmin], Version: e.Service.Meta[metaVersion], dc: dc}
				edge.Alive, edge.Reason = alive(e.Checks)
				w.edges[edge.Name] = edge
			}
			w.heard("edges", dc)
		}, err
	}
	return q
}

// alive says whether all checks pass, and if not, which does not.
func alive(checks api.HealthChecks) (bool, string) {
	for _, check := range checks {
		if check.Status == api.HealthCritical {
			reason, _, _ := strings.Cut(check.Output, " (last output") // what it said while it lived says nothing now
			return false, check.Name + ": " + reason
		}
	}
	return true, ""
}
