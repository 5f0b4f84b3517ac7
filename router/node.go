package router

import (
	"time"

	"pilotlight/config"
	"pilotlight/probe"
)

// Node is a host with GPUs as its keeper last reported it: its backends, and the room that Place may count on. It is a value and
// never changes. The keeper alone decides what becomes of its memory: this is what it expects.
type Node struct {
	Name      string
	GPUs      []Room         // by index; empty: memory is not counted there, and every backend fits
	Links     [][]probe.Link // how GPUs i and j are joined; nil where that is not known
	Host      config.Size    // what more may be held of its memory by those that sleep; negative where it is overcommitted
	Evictable []Evictable    // who would leave GPUs for another, the first to go first
	Wakes     []Wake         // that were asked for and are not ready, in the order in which they were
	Backends  []Backend
}

// Room is what there is of one GPU.
type Room struct {
	Free   config.Size // that may be given out now: neither used nor promised to a wake, nor headroom. Negative where it is overcommitted
	Health probe.Health
}

// Evictable is a backend that would leave its GPUs for another.
type Evictable struct {
	Backend string
	GPUs    []int
	Frees   config.Size   // on each of GPUs, if it sleeps; 0: it cannot
	Stopped config.Size   // likewise if it is stopped; 0: it cannot be
	Host    config.Size   // that sleeping takes of the host's memory
	Busy    bool          // it has requests in flight: those that are idle go first
	From    time.Time     // when it may be told to leave: at the end of its turn, if that is to come
	Takes   time.Duration // from then until the memory is expected to be back
}

// Wake is one that was asked for.
type Wake struct {
	Backend string
	GPUs    []int     // where; nil: it waits for room
	Tier    Tier      // where it began, or is to begin
	Ready   time.Time // when it is expected to be ready
}

// Readings are what probes have seen on a node. What is not among them stays as it was.
type Readings struct {
	GPUs     *probe.GPUs              // nil: nobody has looked
	Backends map[string]probe.Reading // by ID
}

// serving are the node's backends by the models that they serve: by their places in f. Backends of unknown models serve nobody:
// their keeper has not heard of the new configuration yet, or lets them finish what was in flight on their former model.
func (n *Node) serving(f *Fleet) map[int][]*Backend {
	by := make(map[int][]*Backend, len(n.Backends))
	for j := range n.Backends {
		b := &n.Backends[j]
		if i, ok := f.index(b.Model); ok {
			by[i] = append(by[i], b)
		}
	}
	return by
}
