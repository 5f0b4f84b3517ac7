package agent

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"pilotlight/config"
	"pilotlight/probe"
	"pilotlight/probe/meter"
	"pilotlight/router"
)

// way is how long a message is on its way in a lab.
const way = 500 * time.Microsecond

// lab is an agent and some edges in virtual time: real hubs, links and routers, on a network that a test can cut.
type lab struct {
	t     *testing.T
	node  *node
	edges []*testEdge
	file  string
	ends  sync.WaitGroup // the agent's, of all streams
	hub   atomic.Pointer[Hub]
	meter *meter.Meter
}

// node is a keeper without a pool: its backends are what the test says they are.
type node struct {
	mu       sync.Mutex
	lab      *lab
	backends map[string]router.Backend
	woken    []string
	running  map[string]map[*router.Lease]bool // what the engines work on, whoever sent it
	silent   bool                              // engines do not say what they do
	wishes   map[string]router.Wish
}

type testEdge struct {
	*router.Router
	lab   *lab
	links *Links
	stop  func()

	mu    sync.Mutex
	gpu   map[uint64]time.Duration // by flight, as the agent settled it
	kinds map[string]time.Duration // of accounts
	cut   bool                     // messages are lost, both ways, and nobody answers
	pipes []*pipe
}

// newLab makes one in a bubble, with a backend of two slots, n/m-0, and what else the test names.
func newLab(t *testing.T, edges int, backends ...router.Backend) *lab {
	l := &lab{t: t, file: t.TempDir() + "/edges.json", meter: meter.New("")}
	t.Cleanup(l.ends.Wait)
	if len(backends) == 0 {
		backends = []router.Backend{{ID: "n/m-0", Model: "m", Slots: 2}}
	}
	l.node = &node{lab: l, backends: map[string]router.Backend{}, running: map[string]map[*router.Lease]bool{}}
	for _, b := range backends {
		b.Since, b.Engine = time.Now(), config.VLLM
		l.node.backends[b.ID] = b
	}
	l.startAgent()
	for i := range edges {
		l.edges = append(l.edges, l.newEdge(fmt.Sprintf("e%d", i)))
	}
	time.Sleep(10 * way)
	return l
}

func testModels() map[string]config.Model {
	m := config.DefaultModel("m")
	m.Line = config.Line{Requests: 1000, Bytes: config.GiB, MaxWait: config.Duration(time.Hour)}
	m.Answer.Total = config.Duration(20 * time.Minute)
	return map[string]config.Model{"m": m}
}

// startAgent is what an agent does when it starts: what it finds running it says to be so.
func (l *lab) startAgent() {
	hub := NewHub(Options{
		Node: config.Node{Name: "n"}, Models: testModels(), Keeper: func() Keeper { return l.node }, File: l.file, Log: slog.New(slog.DiscardHandler),
		Meter: l.meter,
		Look: func(_ context.Context, _ string, _ config.Backend, addr string) probe.Reading {
			return l.node.look(addr)
		},
	})
	ctx, stop := context.WithCancel(l.t.Context())
	done := make(chan struct{})
	go func() { defer close(done); _ = hub.Run(ctx) }()
	l.hub.Store(hub)
	l.node.publish()
	l.t.Cleanup(func() { stop(); <-done; hub.Close() })
}

// killAgent ends the agent on the spot: its host says that nobody listens.
func (l *lab) killAgent() {
	l.hub.Store(nil)
	for _, e := range l.edges {
		e.breakPipes()
	}
}

func (l *lab) newEdge(id string) *testEdge {
	e := &testEdge{lab: l, gpu: map[uint64]time.Duration{}, kinds: map[string]time.Duration{}}
	log := slog.New(slog.DiscardHandler)
	e.links = NewLinks(Edge{ID: id, Life: id, Name: id, Reach: time.Minute}, e, e.dial, log)
	e.Router = router.New(testModels(), e.links, log)
	e.Stir = e.links.Stir
	e.links.Set([]string{"n"})
	ctx, stop := context.WithCancel(l.t.Context())
	done := make(chan struct{})
	go func() { defer close(done); _ = e.links.Run(ctx) }()
	e.stop = sync.OnceFunc(func() { stop(); <-done })
	l.t.Cleanup(func() { e.Close(); e.stop(); e.breakPipes() })
	return e
}

// Observe is the edge's fleet.
func (e *testEdge) Observe(n Node) { e.Router.Observe(n.Node) }

// Metered is the edge's books.
func (e *testEdge) Metered(_ string, settled []meter.Settled, accounts []meter.Account) {
	e.mu.Lock()
	defer e.mu.Unlock()
	for _, s := range settled {
		if _, before := e.gpu[s.ID]; before {
			continue // an edge waits for each once
		}
		e.gpu[s.ID] = s.GPU
	}
	for _, a := range accounts {
		e.kinds[a.Kind] += a.GPU
	}
}

// Wake makes a backend ready after a second.
func (n *node) Wake(ctx context.Context, id string) error {
	n.mu.Lock()
	n.woken = append(n.woken, id)
	n.mu.Unlock()
	n.set(id, router.Waking)
	select {
	case <-time.After(time.Second):
	case <-ctx.Done():
		n.set(id, router.Stopped)
		return context.Cause(ctx)
	}
	n.set(id, router.Ready)
	return nil
}

func (n *node) Wish(wishes map[string]router.Wish) {
	n.mu.Lock()
	defer n.mu.Unlock()
	n.wishes = wishes
}

func (n *node) wished() map[string]router.Wish {
	n.mu.Lock()
	defer n.mu.Unlock()
	return n.wishes
}

func (n *node) Dismiss(context.Context, string, bool) error { return errors.New("not today") }

// set changes the state of a backend.
func (n *node) set(id string, s router.State) {
	n.mu.Lock()
	b := n.backends[id]
	b.State, b.Since = s, time.Now()
	n.backends[id] = b
	n.mu.Unlock()
	n.publish()
}

func (n *node) publish() {
	n.mu.Lock()
	defer n.mu.Unlock()
	is := router.Node{Name: "n"}
	for _, b := range n.backends {
		b.Addr = b.ID
		is.Backends = append(is.Backends, b)
	}
	n.lab.hub.Load().Observe(is)
}

// sleep does what a keeper does: it drains the backend and puts it to sleep. What is in flight then is a mistake.
func (n *node) sleep(ctx context.Context, id string) error {
	n.set(id, router.Draining)
	if err := n.lab.hub.Load().Drained(ctx, id); err != nil {
		n.set(id, router.Ready)
		return err
	}
	n.mu.Lock()
	if busy := len(n.running[id]); busy > 0 {
		n.lab.t.Errorf("%s is put to sleep with %d in flight", id, busy)
	}
	n.mu.Unlock()
	n.set(id, router.Asleep)
	return nil
}

func (n *node) look(id string) probe.Reading {
	n.mu.Lock()
	defer n.mu.Unlock()
	r := probe.Reading{At: time.Now(), Status: probe.Ready, Running: len(n.running[id])}
	if n.silent {
		r.Running, r.Waiting = -1, -1
	}
	return r
}

// request is one that its backend has.
type request struct {
	router.Lease
	edge *testEdge
}

// ask gets a slot and begins.
func (e *testEdge) ask(ctx context.Context) (*request, error) {
	lease, err := e.Acquire(ctx, router.Request{Model: "m"})
	if err != nil {
		return nil, err
	}
	return e.begin(lease), nil
}

func (e *testEdge) begin(lease router.Lease) *request {
	r := &request{lease, e}
	n, id := e.lab.node, lease.Backend.ID
	n.mu.Lock()
	defer n.mu.Unlock()
	if s := n.backends[id].State; s != router.Ready && s != router.Draining {
		e.lab.t.Errorf("a request comes to %s, which is %s", id, s)
	}
	if n.running[id] == nil {
		n.running[id] = map[*router.Lease]bool{}
	}
	n.running[id][&r.Lease] = true
	if n.lab.hub.Load() != nil && len(n.running[id]) > n.backends[id].Slots {
		e.lab.t.Errorf("%s has %d in flight, and %d slots", id, len(n.running[id]), n.backends[id].Slots)
	}
	return r
}

// end is the end of a request.
func (r *request) end() {
	n := r.edge.lab.node
	n.mu.Lock()
	delete(n.running[r.Backend.ID], &r.Lease)
	n.mu.Unlock()
	r.Release(router.OK)
}

// state is a backend as an edge sees it.
func (e *testEdge) state(id string) router.State {
	for _, b := range e.Fleet().Models[0].Backends {
		if b.ID == id {
			return b.State
		}
	}
	e.lab.t.Fatalf("the edge does not know %s", id)
	return 0
}

// sever cuts the edge off, or heals it.
func (e *testEdge) sever(cut bool) {
	e.mu.Lock()
	defer e.mu.Unlock()
	e.cut = cut
	for _, p := range e.pipes {
		if cut {
			p.lose()
		}
	}
}

func (e *testEdge) breakPipes() {
	e.mu.Lock()
	defer e.mu.Unlock()
	for _, p := range e.pipes {
		p.Close()
	}
	e.pipes = nil
}

func (e *testEdge) dial(ctx context.Context, _ string) (EdgeStream, error) {
	e.mu.Lock()
	cut := e.cut
	e.mu.Unlock()
	if cut {
		<-ctx.Done()
		return nil, context.Cause(ctx)
	}
	if e.lab.hub.Load() == nil {
		return nil, fmt.Errorf("dial: %w", syscall.ECONNREFUSED)
	}
	p := newPipe()
	e.mu.Lock()
	e.pipes = append(e.pipes, p)
	e.mu.Unlock()
	hub := e.lab.hub.Load()
	e.lab.ends.Go(func() {
		_ = hub.Serve(context.Background(), &agentEnd{p})
		p.Close()
	})
	return p, nil
}

// pipe is a stream whose messages take a while, and are written and read as on a real one. It is the edge's end.
type pipe struct {
	up, down chan letter
	done     chan struct{}
	close    func()

	mu   sync.Mutex
	lost bool
}

type letter struct {
	text []byte
	at   time.Time
}

func newPipe() *pipe {
	p := &pipe{up: make(chan letter, 10000), down: make(chan letter, 10000), done: make(chan struct{})}
	p.close = sync.OnceFunc(func() { close(p.done) })
	return p
}

func (p *pipe) Close() { p.close() }

// lose loses every message from now on. Either side notices that after a while.
func (p *pipe) lose() {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.lost = true
	time.AfterFunc(silence, p.close)
}

func (p *pipe) send(to chan letter, m any) error {
	p.mu.Lock()
	lost := p.lost
	p.mu.Unlock()
	text, err := codec{}.Marshal(m)
	if err != nil || lost {
		return err
	}
	select {
	case to <- letter{text, time.Now().Add(way)}:
		return nil
	case <-p.done:
		return io.ErrClosedPipe
	}
}

func (p *pipe) recv(from chan letter, m any) error {
	select {
	case l := <-from:
		time.Sleep(time.Until(l.at))
		return codec{}.Unmarshal(l.text, m)
	case <-p.done:
		return io.ErrClosedPipe
	}
}

func (p *pipe) Send(m *Up) error { return p.send(p.up, m) }

func (p *pipe) Recv() (*Down, error) {
	m := &Down{}
	return m, p.recv(p.down, m)
}

type agentEnd struct{ *pipe }

func (p *agentEnd) Send(m *Down) error { return p.send(p.down, m) }

func (p *agentEnd) Recv() (*Up, error) {
	m := &Up{}
	return m, p.recv(p.up, m)
}
