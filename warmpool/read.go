package warmpool

import (
	"context"
	"time"

	"pilotlight/probe"
	"pilotlight/router"
)

const (
	readPause = 250 * time.Millisecond // between two readings of one engine
	readOn    = 2 * time.Second        // for so long after its last request an engine is still read
	readTime  = time.Second            // that an engine may take to answer
)

// A Reader is a Launcher that can say what its backend's engine is doing. It may be asked at any time.
type Reader interface {
	Read(ctx context.Context, addr string) probe.Reading
}

// read has the engines that are in use say what they do, once for all edges, and says when to do so again; the zero time: when
// something happens. A model server that nobody uses is left in peace.
func (k *Keeper) read(now time.Time) (next time.Time) {
	ready := false
	for _, u := range k.units {
		_, can := u.launcher.(Reader)
		ready = ready || can && u.state == router.Ready
	}
	if !ready {
		return time.Time{}
	}
	if next = k.readAt.Add(readPause); now.Before(next) {
		return next
	}
	k.readAt = now
	for _, u := range k.units {
		if r, can := u.launcher.(Reader); can && u.state == router.Ready && u.op == nothing && !u.reading {
			if use := k.edge.Use(u.id); use.InFlight > 0 || now.Sub(use.Last) < readOn {
				k.readOne(u, r)
			}
		}
	}
	return now.Add(readPause)
}

// readOne asks one engine and tells the edges. A slow one is not asked twice at once.
func (k *Keeper) readOne(u *unit, r Reader) {
	if k.isClosing() {
		return
	}
	u.reading = true
	id, addr := u.id, u.up.Addr
	k.ops.Go(func() {
		ctx, cancel := context.WithTimeout(context.Background(), readTime)
		defer cancel()
		reading := r.Read(ctx, addr)
		k.do(func() {
			u.reading = false
			if u.state == router.Ready && u.up.Addr == addr {
				k.edge.Read(k.node.Name, router.Readings{Backends: map[string]probe.Reading{id: reading}})
			}
		})
	})
}
