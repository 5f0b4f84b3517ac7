package agent

import (
	"context"
	"crypto/rand"
	"log/slog"
	"maps"
	"net"
	"slices"
	"strconv"
	"strings"
	"sync"
	"time"

	"pilotlight/config"
	"pilotlight/probe"
	"pilotlight/probe/meter"
	"pilotlight/router"
)

const (
	// LeaseTime is how long an agent counts on an edge that it has heard. An edge counts on that for leaseMargin less, and
	// admits nothing to the node's backends afterwards: their clocks may run at rates that differ by as much.
	LeaseTime   = 10 * time.Second
	leaseMargin = LeaseTime / 10
	// beat is how often either side says something if there is nothing to say.
	beat = time.Second
	// turn is how long slots that several edges want stay where they are.
	turn = 100 * time.Millisecond
	// maxEdges bounds the edges that an agent knows.
	maxEdges = 1000
)

// Keeper is what edges may ask for: *warmpool.Keeper.
type Keeper interface {
	Wake(ctx context.Context, backend string) error
	Dismiss(ctx context.Context, model string, stop bool) error
	Wish(wishes map[string]router.Wish)
}

// Options are what a Hub needs.
type Options struct {
	Node    config.Node
	Version string
	Host    string // by which edges reach the node, in place of loopback addresses; empty: those
	Models  map[string]config.Model
	Keeper  func() Keeper // asked once edges can be heard
	// Look says what a backend's engine does now. It is asked of backends that an edge which was cut off may still use.
	Look func(ctx context.Context, servedAs string, b config.Backend, addr string) probe.Reading
	// Meter settles what requests took of the GPUs; it is told of looks by others. If nil, nobody does.
	Meter *meter.Meter
	File  string // where the edges that have slots are noted, so that a restart counts on them; empty: nowhere
	Log   *slog.Logger
}

// Hub is the agent's end of its links. It implements warmpool.Edge. All its methods may be called from any goroutine.
type Hub struct {
	o      Options
	works  sync.WaitGroup // what edges asked for, and looks at engines
	saving sync.Mutex     // guards the file
	wishes sync.Mutex     // held while the keeper is told what is wished

	mu       sync.Mutex // guards what follows
	models   map[string]config.Model
	node     Node   // what edges are told
	version  uint64 // of node
	backends map[string]*backend
	edges    map[string]*edge       // by Edge.ID
	wished   map[string]router.Wish // by the planner, last
	wisher   string                 // the ID of that planner's edge
	began    time.Time
	books    books
	closed   time.Time     // when GPU time was last settled
	changed  chan struct{} // closed, and replaced, when something has changed that Drained waits for
}

// backend is one of the node's, as far as the hub has a part in it.
type backend struct {
	router.Backend
	woken  bool      // it was seen waking since the hub began: nobody has slots of it from before that
	probed time.Time // when its engine was last asked what it does
	before int64     // slots that edges granted which are gone
}

// NewHub makes the hub of a node. The edges of before are counted on for one lease.
func NewHub(o Options) *Hub {
	h := &Hub{o: o, backends: map[string]*backend{}, edges: map[string]*edge{}, began: time.Now(), changed: make(chan struct{})}
	h.models, h.books = o.Models, books{life: rand.Text(), open: map[string]*meter.Account{}}
	h.node = Node{Node: router.Node{Name: o.Node.Name}, Version: o.Version, Models: public(o.Models)}
	for _, g := range o.Node.GPUs {
		h.node.Memory = append(h.node.Memory, g.Memory)
	}
	h.version = 1
	known, err := load(o.File)
	if err != nil {
		o.Log.Error("which edges had slots is lost; none is counted on", "error", err)
	}
	for _, k := range known {
		e := newEdge(k)
		e.unknown, e.lease = true, time.Now().Add(LeaseTime)
		h.edges[k.ID] = e
	}
	return h
}

// public are models without what only their node needs: an edge must not learn commands, environments and tokens.
func public(models map[string]config.Model) map[string]config.Model {
	all := make(map[string]config.Model, len(models))
	for name, m := range models {
		m.Backends = slices.Clone(m.Backends)
		for i := range m.Backends {
			b := &m.Backends[i]
			b.Process, b.Hooks, b.Nomad, b.Kubernetes, b.Docker = nil, nil, nil, nil, nil
		}
		all[name] = m
	}
	return all
}

// Close waits for what edges asked for. It is called once the keeper and the links have ended.
func (h *Hub) Close() { h.works.Wait() }

// Run lets time pass for the edges until ctx ends: leases end, turns end.
func (h *Hub) Run(ctx context.Context) error {
	tick := time.NewTicker(turn)
	defer tick.Stop()
	for {
		select {
		case <-ctx.Done():
			return nil
		case <-tick.C:
		}
		h.pass(ctx, time.Now())
	}
}

// pass is what follows from the time.
func (h *Hub) pass(ctx context.Context, now time.Time) {
	h.mu.Lock()
	lapsed := false
	for id, e := range h.edges {
		if e.lapsed.IsZero() && now.After(e.lease) {
			h.lapse(e)
			lapsed = true
		}
		if !e.lapsed.IsZero() && len(e.owes) == 0 {
			h.remember(e)
			delete(h.edges, id)
			lapsed = true
		}
	}
	for id, b := range h.backends {
		if b.State == router.Ready {
			h.divide(id, true)
		}
		if h.owed(id) {
			h.look(ctx, b, now)
		}
	}
	h.settle(now)
	if now.Sub(h.began) < LeaseTime+2*turn {
		h.kick() // Drained may wait for nothing else
	}
	h.mu.Unlock()
	if lapsed {
		h.save()
	}
}

// Update takes over the models of a new configuration. The keeper is told of it too.
func (h *Hub) Update(models map[string]config.Model) {
	h.mu.Lock()
	defer h.mu.Unlock()
	h.models, h.node.Models = models, public(models)
	h.version++
	h.kick()
}

// Observe implements warmpool.Edge: it tells every edge what the node and its backends are now.
func (h *Hub) Observe(n router.Node) {
	n.Backends = slices.Clone(n.Backends)
	h.mu.Lock()
	defer h.mu.Unlock()
	h.node.Node = n
	h.version++
	now := make(map[string]*backend, len(n.Backends))
	for i := range n.Backends {
		n.Backends[i].Shared = true
		n.Backends[i].Addr = h.Reached(n.Backends[i].Addr)
		is := n.Backends[i]
		b := h.backends[is.ID]
		if b == nil {
			b = &backend{}
		}
		b.Backend = is
		b.woken = b.woken || is.State == router.Waking
		now[is.ID] = b
	}
	h.backends = now
	for _, e := range h.edges {
		e.keep(h.backends)
	}
	for id := range h.backends {
		h.divide(id, false)
	}
	h.kick()
}

// Reached is an address on this host as edges reach it.
func (h *Hub) Reached(addr string) string {
	host := h.o.Host
	at, port, err := net.SplitHostPort(addr)
	if ip := net.ParseIP(at); host == "" || err != nil || at != "localhost" && !ip.IsLoopback() {
		return addr
	}
	return net.JoinHostPort(host, port)
}

// Advertised is the address of a port of this host as edges reach it.
func (h *Hub) Advertised(port net.Addr) string {
	at := port.(*net.TCPAddr)
	if h.o.Host == "" {
		return at.String()
	}
	return net.JoinHostPort(h.o.Host, strconv.Itoa(at.Port))
}

// Read tells every edge what probes have seen on the node. Where an edge is slow to hear it, the latest counts.
func (h *Hub) Read(_ string, seen router.Readings) {
	h.mu.Lock()
	defer h.mu.Unlock()
	for _, e := range h.edges {
		if e.stream != nil {
			e.stream.read(seen)
		}
	}
}

// Use implements warmpool.Edge. An edge that was cut off and may still use the backend counts as one that does.
func (h *Hub) Use(id string) router.Use {
	h.mu.Lock()
	defer h.mu.Unlock()
	return h.use(id)
}

// use is Use. h.mu is held.
func (h *Hub) use(id string) router.Use {
	var all router.Use
	if b := h.backends[id]; b != nil {
		all.Granted = b.before
	}
	for _, e := range h.edges {
		u := e.uses[id]
		if e.owes[id] || e.mayHave(h.backends[id]) {
			u.InFlight = max(u.InFlight, 1)
		}
		if e.lapsed.IsZero() {
			all.Waiting += u.Waiting
			all.Bytes += u.Bytes
		}
		all.InFlight += u.InFlight
		all.Granted += u.Granted
		if u.Last.After(all.Last) {
			all.Last = u.Last
		}
	}
	return all
}

// Drained implements warmpool.Edge: it returns when every edge has let go of the slots of a backend that has none for anybody, since
// it drains, and has nothing in flight there. For an edge that was cut off see edge.owes.
func (h *Hub) Drained(ctx context.Context, id string) error {
	h.mu.Lock()
	for {
		free := h.settled(id)
		for _, e := range h.edges {
			free = free && h.free(e, id)
		}
		changed := h.changed
		h.mu.Unlock()
		if free {
			return nil
		}
		select {
		case <-changed:
		case <-ctx.Done():
			return context.Cause(ctx)
		}
		h.mu.Lock()
	}
}

// settled says that an edge which nobody has noted would have been heard by now: one that has never been linked and goes on routing
// to what an agent left behind that is gone. h.mu is held.
func (h *Hub) settled(id string) bool {
	b := h.backends[id]
	return b == nil || b.woken || time.Since(h.began) >= LeaseTime
}

// free says whether an edge has nothing in flight on a backend that has no slots for anybody, and will admit nothing. h.mu is held.
func (h *Hub) free(e *edge, id string) bool {
	if !e.lapsed.IsZero() {
		return !e.owes[id]
	}
	return e.held(id) == 0 && !e.mayHave(h.backends[id])
}

// kick lets every link say what there is to say, and Drained look again. h.mu is held.
func (h *Hub) kick() {
	close(h.changed)
	h.changed = make(chan struct{})
	for _, e := range h.edges {
		if e.stream != nil {
			e.stream.kick()
		}
	}
}

// divide gives the slots of a backend to the edges. Where one edge wants what another has and does not use, they move at once, as
// soon as the other says that it lets go; where all are in use they move when the turn ends. h.mu is held.
func (h *Hub) divide(id string, turnEnds bool) {
	b, ok := h.backends[id]
	if !ok || b.State != router.Ready {
		return
	}
	slots, sharing, claims := h.claims(b)
	if turnEnds {
		settle(slots, claims)
		for i, e := range sharing {
			e.credit[id] = claims[i].credit
		}
	}
	if turnEnds && wanted(claims) > slots || unjust(slots, claims) {
		for i, n := range share(slots, claims) {
			sharing[i].target[id] = n
		}
	}
	h.give(b, sharing, wanted(claims) > slots)
}

// claims are those of the edges that are linked, in the order of their IDs, and the slots that are theirs: all but those that
// others have, with whom nobody can speak now. h.mu is held.
func (h *Hub) claims(b *backend) (slots int, sharing []*edge, all []claim) {
	slots = b.Slots
	for _, key := range slices.Sorted(maps.Keys(h.edges)) {
		e := h.edges[key]
		u := e.uses[b.ID]
		switch {
		case !e.lapsed.IsZero():
			if e.owes[b.ID] {
				slots -= u.InFlight
			}
		case e.mayHave(b):
			slots = 0
		case e.stream == nil || e.unknown:
			slots -= e.held(b.ID)
		default:
			sharing = append(sharing, e)
			all = append(all, claim{wants: u.InFlight + u.Waiting, has: e.target[b.ID], had: max(e.given[b.ID].Slots, u.InFlight), credit: e.credit[b.ID]})
		}
	}
	return max(slots, 0), sharing, all
}

// unjust says that somebody lacks what another does not use, or nobody has.
func unjust(slots int, claims []claim) bool {
	lacks, spare, given := false, false, 0
	for _, c := range claims {
		lacks = lacks || c.wants > c.has
		spare = spare || c.wants < c.has
		given += c.has
	}
	return given != slots || lacks && spare
}

func wanted(claims []claim) (sum int) {
	for _, c := range claims {
		sum += c.wants
	}
	return sum
}

// give moves every edge towards its target: down at once, up only as far as the others have let go. h.mu is held.
func (h *Hub) give(b *backend, sharing []*edge, short bool) {
	for _, e := range sharing {
		e.give(b.ID, router.Grant{Slots: min(e.given[b.ID].Slots, e.target[b.ID]), Short: short})
	}
	free := b.Slots
	for _, e := range h.edges {
		switch {
		case e.mayHave(b):
			return
		case e.lapsed.IsZero():
			free -= e.held(b.ID)
		case e.owes[b.ID]:
			free -= e.uses[b.ID].InFlight
		}
	}
	for _, e := range sharing {
		held := e.held(b.ID)
		if n := min(e.target[b.ID], held+max(free, 0)); n > e.given[b.ID].Slots {
			free -= max(n-held, 0)
			e.give(b.ID, router.Grant{Slots: n, Short: short})
		}
	}
}

// owed says whether an edge that was cut off may still use the backend. h.mu is held.
func (h *Hub) owed(id string) bool {
	for _, e := range h.edges {
		if e.owes[id] {
			return true
		}
	}
	return false
}

// Edges are those that the agent knows, by name, for people.
func (h *Hub) Edges() []EdgeStatus {
	h.mu.Lock()
	defer h.mu.Unlock()
	var all []EdgeStatus
	for _, e := range h.edges {
		s := EdgeStatus{Name: e.Name, Version: e.Version, Heard: e.heard, Owes: slices.Sorted(maps.Keys(e.owes)), Slots: map[string]int{}}
		for id, g := range e.given {
			s.Slots[id] = g.Slots
		}
		switch {
		case !e.lapsed.IsZero():
			s.State = "cut off"
		case e.stream == nil:
			s.State = "not linked"
		default:
			s.State = "linked"
		}
		all = append(all, s)
	}
	slices.SortFunc(all, func(a, b EdgeStatus) int { return strings.Compare(a.Name, b.Name) })
	return all
}

// EdgeStatus is one edge as its agent sees it.
type EdgeStatus struct {
	Name    string         `json:"name"`
	Version string         `json:"version"`
	State   string         `json:"state"` // linked, not linked, or cut off: its lease has ended
	Heard   time.Time      `json:"heard"`
	Slots   map[string]int `json:"slots,omitempty"`
	Owes    []string       `json:"may_still_use,omitempty"` // cut off only: backends
}
