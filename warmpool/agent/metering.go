package agent

import (
	"cmp"
	"maps"
	"slices"
	"time"

	"pilotlight/probe/meter"
	"pilotlight/router"
)

// settles is how often GPU time is settled.
const settles = time.Second

// maxOwed bounds what an edge is not told yet of GPU time; what is beyond that is accounted for as unattributed.
const maxOwed = 100_000

// owed is GPU time that an edge is to be told, until it says that it has been.
type owed struct {
	meter.Settled
	seq uint64 // Down.Seq of the message; 0: it was not told on this link
}

// books is GPU time that belongs to no request, on its way to one edge. It is guarded by the hub's mutex.
type books struct {
	life   string
	number uint64 // of the last book
	keeper string // the ID of the edge that is told
	open   map[string]*meter.Account
	told   *Book  // until the keeper has acknowledged it
	seq    uint64 // Down.Seq of the message; 0: it was not told on this link
}

func (b *books) add(a meter.Account) {
	key := a.Backend + "\x00" + a.Kind + "\x00" + a.Method
	if sum := b.open[key]; sum != nil {
		sum.Add(a)
	} else {
		b.open[key] = &a
	}
}

// book is what the edge is to be told now, if it is the one.
func (b *books) book(e *edge, seq uint64) *Book {
	if e.ID != b.keeper || b.told != nil && b.seq > 0 {
		return nil
	}
	if b.told == nil {
		if len(b.open) == 0 {
			return nil
		}
		b.number++
		b.told = &Book{Life: b.life, Number: b.number}
		for _, key := range slices.Sorted(maps.Keys(b.open)) {
			b.told.Accounts = append(b.told.Accounts, *b.open[key])
		}
		clear(b.open)
	}
	b.seq = seq
	return b.told
}

// acknowledge notes that an edge acts on a message.
func (b *books) acknowledge(e *edge, seq uint64) {
	if e.ID == b.keeper && b.told != nil && b.seq > 0 && b.seq <= seq {
		b.told = nil
	}
}

// Metered is a backend as its meter has to know it.
func Metered(b *router.Backend) meter.Backend {
	is := meter.Backend{ID: b.ID, Model: b.Model, GPUs: b.GPUs, Width: b.Width, PID: b.PID, Waking: b.State == router.Waking}
	switch b.State {
	case router.Waking, router.Ready, router.Draining:
		is.Memory = int64(b.Memory)
	case router.Asleep:
		is.Memory = int64(b.Residual)
	case router.Stopped, router.Failed:
	}
	return is
}

// settle settles GPU time, and puts it down for the edges. h.mu is held.
func (h *Hub) settle(now time.Time) {
	if h.o.Meter == nil || now.Sub(h.closed) < settles {
		return
	}
	h.closed = now
	backends := make([]meter.Backend, 0, len(h.backends))
	for _, b := range h.backends {
		backends = append(backends, Metered(&b.Backend))
	}
	h.o.Meter.Know(backends)
	r := h.o.Meter.Settle(now)
	for _, a := range r.Accounts {
		h.books.add(a)
	}
	for id, all := range r.Settled {
		h.owe(h.edges[id], all)
	}
	h.choose()
	for _, e := range h.edges {
		if e.stream != nil && (len(e.settled) > 0 || e.ID == h.books.keeper) {
			e.stream.kick()
		}
	}
}

// owe puts down what an edge is to be told; nil: one that is gone. h.mu is held.
func (h *Hub) owe(e *edge, all []meter.Settled) {
	for _, s := range all {
		if e == nil || len(e.settled) >= maxOwed {
			h.books.add(meter.Account{Kind: meter.Unattributed, Method: s.Method, From: s.At, To: s.At, GPU: s.GPU, Joules: s.Joules})
			continue
		}
		e.settled = append(e.settled, owed{Settled: s})
	}
}

// choose says which edge is told what belongs to no request: always the same, as long as the agent counts on it. What one was told last that is gone without a word, the
// next is told too: it may count twice, and is not lost. h.mu is held.
func (h *Hub) choose() {
	if e := h.edges[h.books.keeper]; e != nil && e.lapsed.IsZero() {
		return
	}
	h.books.keeper, h.books.seq = "", 0
	for id, e := range h.edges {
		if e.stream != nil && (h.books.keeper == "" || cmp.Less(id, h.books.keeper)) {
			h.books.keeper = id
		}
	}
}

// part is what an edge that is gone was owed. h.mu is held.
func (h *Hub) part(e *edge, now time.Time) {
	if h.o.Meter == nil {
		return
	}
	h.o.Meter.Forget(e.ID, now)
	for _, s := range e.settled {
		h.owe(nil, []meter.Settled{s.Settled})
	}
	e.settled = nil
}

// tell is what an edge has not been told on this link, as part of the message of that number. h.mu is held.
func (e *edge) tell(seq uint64) (all []meter.Settled) {
	for i := range e.settled {
		if s := &e.settled[i]; s.seq == 0 {
			s.seq = seq
			all = append(all, s.Settled)
		}
	}
	return all
}
