package agent

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"maps"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"pilotlight/config"
	"pilotlight/probe/meter"
	"pilotlight/router"
)

// Links are an edge's links to all agents. It implements router.Waker.
type Links struct {
	self  Edge
	fleet Fleet
	dial  Dial
	log   *slog.Logger

	owners sync.Map      // *Link by the ID of a backend
	models sync.Map      // []*Link, never changed, by the name of a model
	wanted chan struct{} // capacity 1: addrs have changed
	ending atomic.Bool

	mu    sync.Mutex // guards what follows
	addrs []string
	links map[string]*Link
	hints map[string]Node // by address: what somebody else says
}

// NewLinks makes an edge's links. There are none until Set and Run.
func NewLinks(self Edge, fleet Fleet, dial Dial, log *slog.Logger) *Links {
	return &Links{self: self, fleet: fleet, dial: dial, log: log, wanted: make(chan struct{}, 1), links: map[string]*Link{}, hints: map[string]Node{}}
}

// Set says where the agents are: host:port of each. An edge that has no link to a node's agent any more goes on with the
// node as with one that was cut off.
func (s *Links) Set(addrs []string) {
	s.mu.Lock()
	s.addrs = slices.Compact(slices.Sorted(slices.Values(addrs)))
	s.mu.Unlock()
	select {
	case s.wanted <- struct{}{}:
	default:
	}
}

// Suggest says what somebody else, Consul, knows of the node whose agent is at addr, one of those of Set. It counts until that agent is heard.
func (s *Links) Suggest(addr string, n Node) {
	s.mu.Lock()
	s.hints[addr] = n
	l := s.links[addr]
	s.mu.Unlock()
	if l != nil {
		l.suggest(n)
	}
}

// Run keeps the links until ctx ends, and then tells the agents that the edge has ended: nothing may be in flight any more.
func (s *Links) Run(ctx context.Context) error {
	linking, end := context.WithCancel(context.WithoutCancel(ctx))
	var running sync.WaitGroup
	defer running.Wait()
	defer end()
	stops := map[string]context.CancelFunc{}
	for {
		s.mu.Lock()
		for _, addr := range s.addrs {
			if stops[addr] == nil {
				l := newLink(addr, s.ending.Load, s.self, nil, s.dial, s.log)
				l.fleet = &view{s, l}
				s.links[addr] = l
				ctx, stop := context.WithCancel(linking)
				stops[addr] = stop
				hint, hinted := s.hints[addr]
				running.Go(func() {
					if hinted {
						l.suggest(hint)
					}
					l.run(ctx)
				})
			}
		}
		for addr, stop := range stops {
			if !slices.Contains(s.addrs, addr) {
				stop()
				delete(stops, addr)
				delete(s.links, addr)
				delete(s.hints, addr)
			}
		}
		s.mu.Unlock()
		select {
		case <-s.wanted:
		case <-ctx.Done():
			s.ending.Store(true)
			return nil
		}
	}
}

// view is the fleet as one link sees it. It notes whose the backends are.
type view struct {
	*Links
	link *Link
}

func (v *view) Observe(n Node) {
	serves := map[string]bool{}
	for i := range n.Backends {
		v.owners.Store(n.Backends[i].ID, v.link)
		serves[n.Backends[i].Model] = true
	}
	v.mu.Lock()
	for model := range serves {
		all, _ := v.models.Load(model)
		links, _ := all.([]*Link)
		if !slices.Contains(links, v.link) {
			v.models.Store(model, append(slices.Clone(links), v.link))
		}
	}
	v.mu.Unlock()
	v.fleet.Observe(n)
}

func (v *view) Grant(backend string, g router.Grant)   { v.fleet.Grant(backend, g) }
func (v *view) Read(node string, seen router.Readings) { v.fleet.Read(node, seen) }
func (v *view) Use(backend string) router.Use          { return v.fleet.Use(backend) }

func (v *view) Metered(node string, settled []meter.Settled, accounts []meter.Account) {
	v.fleet.Metered(node, settled, accounts)
}

// of are the links to agents that have, or had, backends of a model.
func (s *Links) of(model string) []*Link {
	all, _ := s.models.Load(model)
	links, _ := all.([]*Link)
	return links
}

// Stir tells the agents of a model that its use has changed. It waits for nobody, and may be called under a line's mutex.
func (s *Links) Stir(model string) {
	for _, l := range s.of(model) {
		l.stir(model)
	}
}

// Has says whether an agent has, or had, the backend.
func (s *Links) Has(backend string) bool {
	_, ok := s.owners.Load(backend)
	return ok
}

// Wake implements router.Waker.
func (s *Links) Wake(ctx context.Context, backend string) error {
	l, ok := s.owners.Load(backend)
	if !ok {
		return fmt.Errorf("no agent has a backend %q", backend)
	}
	return l.(*Link).ask(ctx, Wake, backend)
}

// Wish tells the agents what the planner wants of their backends, in place of what it wanted before.
func (s *Links) Wish(wishes map[string]router.Wish) {
	theirs := map[*Link]map[string]router.Wish{}
	for _, l := range s.all() {
		theirs[l] = map[string]router.Wish{}
	}
	for id, w := range wishes {
		if l, ok := s.owners.Load(id); ok && theirs[l.(*Link)] != nil {
			theirs[l.(*Link)][id] = w
		}
	}
	for l, all := range theirs {
		l.want(all)
	}
}

// Use says how much a backend is used over all edges, as its agent said last, which it does every second. It is false of a backend that no agent
// has spoken of.
func (s *Links) Use(backend string) (router.Use, bool) {
	l, ok := s.owners.Load(backend)
	if !ok {
		return router.Use{}, false
	}
	return l.(*Link).use(backend)
}

// Dismiss has the agents of a model put its backends to sleep, or stop them, and waits until that is done.
func (s *Links) Dismiss(ctx context.Context, model string, stop bool) error {
	verb := Sleep
	if stop {
		verb = Stop
	}
	links := s.of(model)
	errs := make([]error, len(links))
	var all sync.WaitGroup
	for i, l := range links {
		all.Go(func() { errs[i] = l.ask(ctx, verb, model) })
	}
	all.Wait()
	return errors.Join(errs...)
}

// all are the links there are now. Theirs is the first mutex to be locked, and s.mu the second.
func (s *Links) all() []*Link {
	s.mu.Lock()
	defer s.mu.Unlock()
	return slices.Collect(maps.Values(s.links))
}

// Show hands all nodes to the fleet again, which has forgotten what slots the edge has.
func (s *Links) Show() {
	for _, l := range s.all() {
		l.mu.Lock()
		l.show()
		l.mu.Unlock()
	}
}

// Await waits until every agent has been heard, or has been tried in vain.
func (s *Links) Await(ctx context.Context) {
	tick := time.NewTicker(10 * time.Millisecond)
	defer tick.Stop()
	for !s.told() {
		select {
		case <-tick.C:
		case <-ctx.Done():
			return
		}
	}
}

func (s *Links) told() bool {
	s.mu.Lock()
	made := len(s.links) == len(s.addrs)
	s.mu.Unlock()
	if !made {
		return false
	}
	for _, l := range s.all() {
		l.mu.Lock()
		told := l.node != nil && !l.guessed || l.why != nil
		l.mu.Unlock()
		if !told {
			return false
		}
	}
	return true
}

// Nodes are what the edge knows of its agents, by name.
func (s *Links) Nodes() []NodeStatus {
	links := s.all()
	all := make([]NodeStatus, 0, len(links))
	for _, l := range links {
		all = append(all, l.status())
	}
	slices.SortFunc(all, func(a, b NodeStatus) int { return strings.Compare(a.Name+"\x00"+a.Addr, b.Name+"\x00"+b.Addr) })
	return all
}

// NodeStatus is a node as an edge knows it.
type NodeStatus struct {
	Name     string         `json:"name"` // empty: nobody has said it yet
	Addr     string         `json:"addr"` // of its agent
	Link     LinkState      `json:"link"`
	Why      string         `json:"why,omitempty"` // there is no link
	Heard    time.Time      `json:"heard,omitzero"`
	Version  string         `json:"version,omitempty"`
	GPUs     []GPUStatus    `json:"gpus"`
	Backends map[string]int `json:"backends"`  // how many, by their state
	Way      float64        `json:"way_ms"`    // how long a message to it takes, about
	Offset   float64        `json:"offset_ms"` // by how much its clock is ahead of the edge's, about
}

func (l *Link) status() NodeStatus {
	l.mu.Lock()
	defer l.mu.Unlock()
	s := NodeStatus{Addr: l.addr, Link: l.state, Heard: l.heard, Backends: map[string]int{}, GPUs: []GPUStatus{}, Way: millis(l.way), Offset: millis(l.offset)}
	if l.why != nil {
		s.Why = l.why.Error()
	}
	if l.node == nil {
		return s
	}
	s.Name, s.Version = l.node.Name, l.node.Version
	for i, total := range l.node.Memory {
		g := GPUStatus{Memory: total}
		if i < len(l.node.GPUs) {
			g.Free = new(l.node.GPUs[i].Free)
			g.Health = l.node.GPUs[i].Health.String()
		}
		s.GPUs = append(s.GPUs, g)
	}
	for i := range l.node.Backends {
		s.Backends[l.node.Backends[i].State.String()]++
	}
	return s
}

// GPUStatus is a GPU as an edge knows it.
type GPUStatus struct {
	Memory config.Size  `json:"memory"`
	Free   *config.Size `json:"free,omitempty"` // what may be given out now; nil: the agent does not say
	Health string       `json:"health,omitempty"`
}

func millis(d time.Duration) float64 { return float64(d) / float64(time.Millisecond) }
