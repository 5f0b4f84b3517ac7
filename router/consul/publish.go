package consul

import (
	"cmp"
	"context"
	"maps"
	"slices"
	"strings"
)

// publish makes a catalogue of what has changed, when nothing more comes for a moment.
func (w *watch) publish(ctx context.Context, changed func(*Catalogue)) {
	for {
		select {
		case <-w.kick:
		case <-ctx.Done():
			return
		}
		if !pause(ctx, together) {
			return
		}
		if next := w.catalogue(); next != nil {
			changed(next)
		}
	}
}

// catalogue is a new one, or nil where nothing has changed or not all has been heard yet.
func (w *watch) catalogue() *Catalogue {
	w.mu.Lock()
	defer w.mu.Unlock()
	if !w.complete() {
		return nil
	}
	next := &Catalogue{Agents: maps.Clone(w.agents), Edges: maps.Clone(w.edges)}
	if len(w.dirty) > 0 || !w.published {
		w.rebuild()
	}
	next.Nodes = w.nodes
	next.Changed = slices.Sorted(maps.Keys(w.dirty))
	w.count()
	unchanged := len(w.dirty) == 0 && w.published && maps.Equal(w.last.Agents, next.Agents) && maps.Equal(w.last.Edges, next.Edges)
	clear(w.dirty)
	w.published = true
	if unchanged {
		return nil
	}
	w.last = next
	return next
}

// complete says whether all has been heard once: who is there, and what every service has. A service that cannot be asked for does not
// keep the others back. w.mu is held.
func (w *watch) complete() bool {
	if w.published {
		return true
	}
	for _, s := range w.services {
		if s.index == 0 && s.failures == 0 {
			return false
		}
	}
	return len(w.answers) == w.first
}

// rebuild makes the nodes that have changed anew. w.mu is held.
func (w *watch) rebuild() {
	w.nodes = maps.Clone(w.nodes)
	fresh := make(map[string][]Backend, len(w.dirty))
	for _, s := range w.services {
		for _, backends := range s.instances {
			for _, b := range backends {
				if w.dirty[b.Node] {
					fresh[b.Node] = append(fresh[b.Node], w.heardOf(b))
				}
			}
		}
	}
	for node := range w.dirty {
		backends := fresh[node]
		if len(backends) == 0 {
			delete(w.nodes, node)
			continue
		}
		slices.SortFunc(backends, func(a, b Backend) int { return cmp.Or(strings.Compare(a.ID, b.ID), boolCompare(a.Silent, b.Silent)) })
		w.nodes[node] = slices.CompactFunc(backends, func(a, b Backend) bool { return a.ID == b.ID })
	}
}

// boolCompare puts what is not before what is.
func boolCompare(a, b bool) int {
	switch {
	case a == b:
		return 0
	case b:
		return -1
	}
	return 1
}

// heardOf is the backend, silent where its agent is. w.mu is held.
func (w *watch) heardOf(b Backend) Backend {
	if b.Agent != "" && !w.agents[b.Agent].Alive {
		b.Silent = true
	}
	return b
}

// count is for status. w.mu is held.
func (w *watch) count() {
	n := counts{agents: len(w.agents), edges: len(w.edges)}
	for _, s := range w.services {
		if len(s.instances) > 0 {
			n.services++
		}
	}
	for _, backends := range w.nodes {
		n.backends += len(backends)
	}
	w.c.mu.Lock()
	defer w.c.mu.Unlock()
	w.c.counts = n
}

// same says whether nothing about the backends has changed.
func same(a, b []Backend) bool {
	return slices.EqualFunc(a, b, func(a, b Backend) bool {
		return a.Width == b.Width && a.ServedAs == b.ServedAs && a.Agent == b.Agent && a.Wake == b.Wake && a.Silent == b.Silent && a.Hold == b.Hold &&
			a.ID == b.ID && a.Model == b.Model && a.Node == b.Node && a.Addr == b.Addr && a.Engine == b.Engine && a.Slots == b.Slots &&
			a.Memory == b.Memory && a.State == b.State && a.Tier == b.Tier && a.Reason == b.Reason
	})
}
