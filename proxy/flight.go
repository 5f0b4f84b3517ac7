package proxy

import (
	"bytes"
	"sync"
	"sync/atomic"
	"time"

	"pilotlight/probe/meter"
	"pilotlight/router"
)

// Flight is a request that has a slot of a backend, as whoever divides GPU time has to know it.
type Flight struct {
	meter.Flight
	Number        uint64 // of its Visit
	Model, Tenant string
	Width         int // how many GPUs its backend takes; 0: none
}

// flight is one while it goes on. Its visit's goroutine counts, and Flights reads that.
type flight struct {
	first  atomic.Int64 // when the first of the answer came, after began, ns; 0: not yet
	pieces atomic.Int64 // of the answer that have come

	// What follows is guarded by the shard's mutex.

	flown
	next, prev *flight
	told       bool  // Flights has told of it,
	toldPieces int64 // with so many pieces
}

// flown is a flight as it is kept until it is told: small, since every request has one.
type flown struct {
	number, id             uint64
	backend                *router.Backend
	model                  *router.Model
	tenant                 string
	began                  time.Time
	first, took            time.Duration // since began; 0: not yet
	prompt, pieces, tokens int64
	whole                  bool
}

// flight is what is told of it.
func (f *flown) flight() Flight {
	is := Flight{
		Flight: meter.Flight{ID: f.id, Backend: f.backend.ID, Began: f.began, Prompt: int(f.prompt), Pieces: int(f.pieces), Tokens: int(f.tokens), Whole: f.whole},
		Number: f.number, Model: f.model.Name, Tenant: f.tenant, Width: width(f.model, f.backend),
	}
	if f.first > 0 {
		is.First = f.began.Add(f.first)
	}
	if f.took > 0 {
		is.Ended = f.began.Add(f.took)
	}
	return is
}

// shards is how many parts flights have, so that requests do not wait for one another.
const shards = 16

// maxLanded bounds the flights of a shard that have ended and were not asked for, keptLanded the room that is kept for them.
const maxLanded, keptLanded = 10_000, 1 << 10

// flights are those of an edge.
type flights struct {
	shards  [shards]shard
	dropped atomic.Int64
}

type shard struct {
	mu     sync.Mutex // guards what follows, and what flights say it does
	open   *flight    // the first of a list
	landed []flown
	_      [24]byte // two shards share no cache line
}

// take begins a flight.
func (s *flights) take(f *flight) {
	of := &s.shards[f.number%shards]
	of.mu.Lock()
	defer of.mu.Unlock()
	f.next = of.open
	if f.next != nil {
		f.next.prev = f
	}
	of.open = f
}

// land ends one.
func (s *flights) land(f *flight, took time.Duration, prompt, tokens int64) {
	of := &s.shards[f.number%shards]
	of.mu.Lock()
	defer of.mu.Unlock()
	if f.next != nil {
		f.next.prev = f.prev
	}
	if f.prev != nil {
		f.prev.next = f.next
	} else {
		of.open = f.next
	}
	f.next, f.prev = nil, nil
	if len(of.landed) >= maxLanded {
		s.dropped.Add(1)
		return
	}
	is := f.now()
	is.took, is.tokens = max(1, took), tokens
	if prompt > 0 {
		is.prompt = prompt
	}
	of.landed = append(of.landed, is)
}

// now is the flight as it is. The shard's mutex is held.
func (f *flight) now() flown {
	is := f.flown
	is.first, is.pieces = time.Duration(f.first.Load()), f.pieces.Load()
	return is
}

// width is how many GPUs a backend takes, where nobody counts memory by what the configuration says.
func width(m *router.Model, b *router.Backend) int {
	if n := len(b.GPUs); n > 0 {
		return n
	}
	if b.Width > 0 {
		return b.Width
	}
	for i := range m.Config.Backends {
		if c := &m.Config.Backends[i]; c.Name == b.ID {
			return c.GPUs
		}
	}
	return 0
}

// Flights appends what has changed since it was last called: flights that have begun, of which something has come, or that have ended. It is for one
// caller, who measures what they take; where Options.Metered is false there are none.
func (e *Edge) Flights(changed []Flight) []Flight {
	if e.flights == nil {
		return changed
	}
	for i := range e.flights.shards {
		s := &e.flights.shards[i]
		s.mu.Lock()
		for j := range s.landed {
			changed = append(changed, s.landed[j].flight())
		}
		clear(s.landed)
		if s.landed = s.landed[:0]; cap(s.landed) > keptLanded {
			s.landed = nil
		}
		for f := s.open; f != nil; f = f.next {
			pieces := f.pieces.Load()
			if f.told && f.toldPieces == pieces {
				continue
			}
			f.told, f.toldPieces = true, pieces
			is := f.now()
			changed = append(changed, is.flight())
		}
		s.mu.Unlock()
	}
	return changed
}

// Landed is how many flights have ended that Flights has not told of.
func (e *Edge) Landed() (n int) {
	if e.flights == nil {
		return 0
	}
	for i := range e.flights.shards {
		s := &e.flights.shards[i]
		s.mu.Lock()
		n += len(s.landed)
		s.mu.Unlock()
	}
	return n
}

// attempts is above which bit a flight's ID says which of its request's attempts it is: edges number visits below that.
const attempts = 60

// takes begins the flight of a request that has a slot now.
func (v *visit) takes() {
	if v.edge.flights == nil || width(v.lease.Model, v.lease.Backend) == 0 { // what uses no GPU takes no time of one
		return
	}
	f := &v.flight
	f.first.Store(0)
	f.pieces.Store(0)
	const bytesOfToken = 4 // of English text, more or less; the engine will say
	f.flown = flown{
		number: v.id, id: v.id | uint64(v.attempts)<<attempts, backend: v.lease.Backend, model: v.lease.Model, tenant: v.Tenant, began: time.Now(),
		prompt: v.BytesIn / bytesOfToken, whole: !v.ask.stream,
	}
	f.told, f.toldPieces = false, 0
	v.attempts++
	v.edge.flights.take(f)
}

// gives ends it.
func (v *visit) gives() {
	if f := &v.flight; f.backend != nil {
		v.edge.flights.land(f, time.Since(f.began), v.PromptTokens, v.Tokens)
		f.backend = nil
	}
}

// came notes a part of the answer.
func (v *visit) came(data []byte) {
	f := &v.flight
	if f.backend == nil {
		return
	}
	if f.first.Load() == 0 {
		f.first.Store(max(1, int64(time.Since(f.began))))
	}
	if !f.whole {
		f.pieces.Add(int64(max(1, bytes.Count(data, []byte("\n\n"))))) // events, or lines of which each came by itself
	}
}
