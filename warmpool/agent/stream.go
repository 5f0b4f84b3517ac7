package agent

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"time"

	"pilotlight/probe"
	"pilotlight/probe/meter"
	"pilotlight/router"
)

// Stream is an agent's end of a stream of messages, as gRPC has it. Send and Recv may be called at the same time, each by one
// goroutine.
type Stream interface {
	Send(*Down) error
	Recv() (*Up, error)
}

// stream is a link while it lasts. What it holds is guarded by the hub's mutex.
type stream struct {
	edge    *edge
	kicked  chan struct{} // capacity 1: there is something to say
	end     context.CancelFunc
	heard   uint64                  // Up.Count of the last message
	version uint64                  // of the node as it was told
	slots   map[string]router.Grant // as they were told
	told    map[uint64]bool         // asks that were answered
	seen    *router.Readings
	uses    map[string]router.Use // as they were told
}

// read takes in readings that the edge is to hear.
func (s *stream) read(r router.Readings) {
	if s.seen == nil {
		s.seen = &router.Readings{Backends: map[string]probe.Reading{}}
	}
	if r.GPUs != nil {
		s.seen.GPUs = r.GPUs
	}
	maps.Copy(s.seen.Backends, r.Backends)
	s.kick()
}

// kick lets the stream say what there is to say. It never blocks.
func (s *stream) kick() {
	select {
	case s.kicked <- struct{}{}:
	default:
	}
}

// Serve speaks with one edge until the stream or ctx ends. The error says why the stream ended, to the edge too.
func (h *Hub) Serve(ctx context.Context, to Stream) error {
	first, err := to.Recv()
	if err != nil {
		return fmt.Errorf("wait for an edge to say who it is: %w", err)
	}
	if first.Edge == nil || first.Edge.ID == "" {
		return errors.New("an edge must say first who it is")
	}
	ctx, end := context.WithCancel(ctx)
	s, err := h.enter(first, end)
	if err != nil {
		end()
		return err
	}
	done := make(chan struct{})
	go func() {
		defer close(done)
		defer end()
		if err := h.speak(ctx, s, to); err != nil {
			h.o.Log.Debug("a message to an edge is lost", "edge", first.Edge.Name, "error", err)
		}
	}()
	defer func() {
		end()
		h.left(s)
		<-done
	}()
	for {
		up, err := to.Recv()
		if err != nil {
			return fmt.Errorf("hear the edge %s: %w", first.Edge.Name, err)
		}
		if ctx.Err() != nil {
			return fmt.Errorf("the edge %s is linked anew", first.Edge.Name)
		}
		h.hear(s, up)
	}
}

// speak tells the edge what there is to say, and something every beat.
func (h *Hub) speak(ctx context.Context, s *stream, to Stream) error {
	tick := time.NewTicker(beat)
	defer tick.Stop()
	due := true
	for {
		if m := h.message(s, due); m != nil {
			if err := to.Send(m); err != nil {
				return fmt.Errorf("tell the edge %s: %w", s.edge.Name, err)
			}
		}
		due = false
		select {
		case <-ctx.Done():
			return nil
		case <-s.kicked:
		case <-tick.C:
			due = true
		}
	}
}

// message is what there is to say; nil: nothing, unless it is due.
func (h *Hub) message(s *stream, due bool) *Down {
	h.mu.Lock()
	defer h.mu.Unlock()
	e := s.edge
	if e.stream != s {
		return nil
	}
	now := time.Now()
	m := &Down{Heard: s.heard, Held: now.Sub(e.heard), At: now, Lease: LeaseTime}
	if s.version != h.version {
		m.Node = new(h.node)
	}
	if s.slots == nil || !maps.Equal(s.slots, e.given) {
		m.Slots = e.given
	}
	for id, a := range e.asks {
		if a.answer != nil && !s.told[id] {
			m.Answers = append(m.Answers, *a.answer)
			s.told[id] = true
		}
	}
	if due {
		m.Uses = h.uses(s)
	}
	m.Settled, m.Book = e.tell(e.seq+1), h.books.book(e, e.seq+1)
	if m.Node == nil && m.Slots == nil && m.Answers == nil && s.seen == nil && m.Settled == nil && m.Book == nil && !due {
		return nil
	}
	m.Read, s.seen = s.seen, nil
	e.seq++
	m.Seq = e.seq
	s.version = h.version
	if m.Slots != nil {
		s.slots = m.Slots
		e.sent = append(e.sent, sent{seq: m.Seq, slots: m.Slots})
	}
	return m
}

// enter takes up the link of an edge. An edge whose process was started anew has nothing in flight: its state directory is one
// process's at a time.
func (h *Hub) enter(first *Up, end context.CancelFunc) (*stream, error) {
	who := *first.Edge
	h.mu.Lock()
	e, known := h.edges[who.ID]
	if !known && len(h.edges) >= maxEdges {
		h.mu.Unlock()
		return nil, fmt.Errorf("%s knows %d edges already, and no more", h.node.Name, maxEdges)
	}
	if known && e.stream != nil {
		e.stream.end()
	}
	fresh := !known || e.Life != who.Life
	if fresh {
		if known {
			e.callOff()
			h.remember(e)
			h.part(e, time.Now())
		}
		e = newEdge(who)
		h.edges[who.ID] = e
	}
	h.mu.Unlock()
	if fresh {
		h.save() // before it may have any slot
	}

	h.mu.Lock()
	defer h.mu.Unlock()
	h.edges[who.ID] = e // its lease may have ended meanwhile
	s := &stream{edge: e, kicked: make(chan struct{}, 1), end: end, told: map[uint64]bool{}, uses: map[string]router.Use{}}
	e.Edge, e.stream, e.unknown, e.lapsed, e.owes = who, s, false, time.Time{}, nil
	e.sent, e.had, e.given = nil, maps.Clone(first.Held), map[string]router.Grant{}
	for i := range e.settled {
		e.settled[i].seq = 0
	}
	if e.ID == h.books.keeper {
		h.books.seq = 0
	}
	for id, n := range first.Held {
		if b := h.backends[id]; b != nil && b.State == router.Ready {
			e.given[id], e.target[id] = n, n.Slots
		}
	}
	h.o.Log.Info("an edge is linked", "edge", e.Name, "version", e.Version)
	h.take(s, first)
	return s, nil
}

// left notes that a link has ended. The edge keeps what it has until its lease ends.
func (h *Hub) left(s *stream) {
	h.mu.Lock()
	defer h.mu.Unlock()
	if s.edge.stream == s {
		s.edge.stream = nil
		if h.o.Meter != nil {
			h.o.Meter.Lose(s.edge.ID, time.Now())
		}
		h.o.Log.Info("the link to an edge is gone", "edge", s.edge.Name)
	}
}

// hear takes in what an edge says.
func (h *Hub) hear(s *stream, up *Up) {
	h.mu.Lock()
	defer h.mu.Unlock()
	if s.edge.stream == s {
		h.take(s, up)
	}
}

// take is hear. h.mu is held.
func (h *Hub) take(s *stream, up *Up) {
	now := time.Now()
	e := s.edge
	e.heard, e.lease = now, now.Add(LeaseTime)
	s.heard = up.Count
	e.acknowledge(up.Ack)
	h.books.acknowledge(e, up.Ack)
	if h.o.Meter != nil {
		flights := make([]meter.Flight, len(up.Flights))
		for i := range up.Flights {
			flights[i] = up.Flights[i].heard(now)
		}
		h.o.Meter.Report(e.ID, now, flights)
	}
	for id, u := range up.Uses {
		if h.backends[id] != nil {
			e.uses[id] = router.Use{InFlight: u.InFlight, Waiting: u.Waiting, Bytes: u.Bytes, Last: now.Add(-u.Idle), Granted: u.Granted}
		}
	}
	if up.Asks != nil {
		h.ask(s, up.Asks)
	}
	if up.Wishes != nil {
		h.wish(e.ID, up.Wishes, now)
	}
	if up.Bye {
		e.callOff()
		h.remember(e)
		h.part(e, now)
		delete(h.edges, e.ID)
		s.end()
		h.o.Log.Info("an edge has ended", "edge", e.Name)
	}
	for id := range h.backends {
		h.divide(id, false)
	}
	close(h.changed)
	h.changed = make(chan struct{})
}

// uses are how much backends are used, as far as that has changed since the edge was told. h.mu is held.
func (h *Hub) uses(s *stream) map[string]Use {
	now := time.Now()
	var all map[string]Use
	for id := range h.backends {
		u := h.use(id)
		if s.uses[id] == u {
			continue
		}
		if s.uses[id] = u; all == nil {
			all = map[string]Use{}
		}
		all[id] = Use{InFlight: u.InFlight, Waiting: u.Waiting, Bytes: u.Bytes, Idle: now.Sub(u.Last), Granted: u.Granted}
	}
	return all
}

// remember keeps count of what an edge that is gone has granted. h.mu is held.
func (h *Hub) remember(e *edge) {
	for id, u := range e.uses {
		if b := h.backends[id]; b != nil {
			b.before += u.Granted
		}
	}
}

// wish hands on what the planner wants. An edge that has ceased to be it takes back its own wishes, and not those of the next. h.mu is held.
func (h *Hub) wish(edge string, all map[string]Wish, now time.Time) {
	if len(all) == 0 && h.wisher != edge {
		return
	}
	h.wisher = edge
	wishes := make(map[string]router.Wish, len(all))
	for id, w := range all {
		made := now.Add(-w.Age)
		wishes[id] = router.Wish{Tier: w.Tier, Made: made, Until: made.Add(w.For), Why: w.Why, Worth: w.Worth}
	}
	h.wished = wishes
	h.works.Go(func() { // the keeper may be waiting for h.mu
		h.wishes.Lock()
		defer h.wishes.Unlock()
		h.mu.Lock()
		latest := h.wished
		h.mu.Unlock()
		h.o.Keeper().Wish(latest)
	})
}

// ask begins what is asked for newly, and calls off what is no longer asked for. h.mu is held.
func (h *Hub) ask(s *stream, asks []Ask) {
	e := s.edge
	still := map[uint64]bool{}
	for _, a := range asks {
		still[a.ID] = true
		if e.asks[a.ID] != nil {
			continue
		}
		ctx, cancel := context.WithCancel(context.Background()) // it outlives a link that breaks
		under := &asked{cancel: cancel}
		e.asks[a.ID] = under
		h.works.Go(func() {
			defer cancel()
			err := h.do(ctx, a)
			h.mu.Lock()
			defer h.mu.Unlock()
			under.answer = new(answer(a.ID, err))
			if e.stream != nil {
				e.stream.kick()
			}
		})
	}
	for id, a := range e.asks {
		if !still[id] {
			a.cancel()
			delete(e.asks, id)
			delete(s.told, id)
		}
	}
}

// do is what an edge asks for.
func (h *Hub) do(ctx context.Context, a Ask) error {
	switch a.Verb {
	case Wake:
		return h.o.Keeper().Wake(ctx, a.Name)
	case Sleep:
		return h.o.Keeper().Dismiss(ctx, a.Name, false)
	case Stop:
		return h.o.Keeper().Dismiss(ctx, a.Name, true)
	}
	return fmt.Errorf("this agent does not know how to %s", a.Verb)
}
