package agent

import (
	"context"
	"encoding/json"
	"fmt"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"pilotlight/config"
	"pilotlight/router"
)

// edge is what an agent knows of one edge. It is guarded by the hub's mutex.
type edge struct {
	Edge
	stream *stream   // nil: there is no link now
	heard  time.Time // last
	lease  time.Time // until when the agent counts on it; it counts on that for less long itself
	lapsed time.Time // when that ended; zero: it has not

	// unknown: it had slots before the agent was started anew, and has not been heard since.
	unknown bool
	// owes are the backends that an edge which was cut off may still use. No request has begun there since its lease ended, so
	// that it is over once an engine has nothing to do after the longest time that a request can be on its way to it. Where an
	// engine does not say what it does, it is over when the longest answer is.
	owes map[string]bool

	seq    uint64                  // of the last message to it
	sent   []sent                  // not acknowledged yet
	had    map[string]router.Grant // slots that it said it goes by
	given  map[string]router.Grant // slots that it is to be told
	target map[string]int          // likewise, once others have let go
	credit map[string]float64
	uses   map[string]router.Use
	asks   map[uint64]*asked

	settled []owed // GPU time that it is to be told
}

// sent are the slots of a message that is not acknowledged.
type sent struct {
	seq   uint64
	slots map[string]router.Grant
}

// asked is an ask under way, or done.
type asked struct {
	cancel context.CancelFunc
	answer *Answer // nil: under way
}

func newEdge(who Edge) *edge {
	return &edge{
		Edge: who, had: map[string]router.Grant{}, given: map[string]router.Grant{}, target: map[string]int{}, credit: map[string]float64{},
		uses: map[string]router.Use{}, asks: map[uint64]*asked{},
	}
}

// mayHave says that the edge may have slots of a backend from before the agent was started anew.
func (e *edge) mayHave(b *backend) bool {
	return e.unknown && e.lapsed.IsZero() && b != nil && !b.woken && up(b)
}

// up says that requests may be in flight on a backend.
func up(b *backend) bool { return b.State == router.Ready || b.State == router.Draining }

// held is how many slots of a backend the edge may be using: what it goes by now, or will when it has read what is on the way. At 0
// nothing is in flight there from the edge, and nothing will be.
func (e *edge) held(id string) int {
	held := max(e.had[id].Slots, e.given[id].Slots, e.uses[id].InFlight)
	for _, s := range e.sent {
		held = max(held, s.slots[id].Slots)
	}
	return held
}

// give changes what the edge is to be told. The link says it with its next message.
func (e *edge) give(id string, g router.Grant) {
	if e.given[id] == g {
		return
	}
	e.given = maps.Clone(e.given) // messages hold the former one
	e.given[id] = g
	if e.stream != nil {
		e.stream.kick()
	}
}

// acknowledge notes that the edge acts on a message, and that its use was counted after that.
func (e *edge) acknowledge(seq uint64) {
	for len(e.sent) > 0 && e.sent[0].seq <= seq {
		e.had, e.sent = e.sent[0].slots, e.sent[1:]
	}
	told := slices.IndexFunc(e.settled, func(s owed) bool { return s.seq == 0 || s.seq > seq })
	if told < 0 {
		told = len(e.settled)
	}
	e.settled = slices.Delete(e.settled, 0, told)
}

// keep forgets what is about backends that are gone, and slots of those that admit nothing.
func (e *edge) keep(backends map[string]*backend) {
	for id := range e.uses {
		if backends[id] == nil {
			delete(e.uses, id)
		}
	}
	for id := range e.owes {
		if b := backends[id]; b == nil || !up(b) {
			delete(e.owes, id) // its process is gone, and what was in flight with it
		}
	}
	for id := range e.target {
		if b := backends[id]; b == nil || b.State != router.Ready {
			e.given = maps.Clone(e.given) // messages hold the former one
			delete(e.given, id)
			delete(e.target, id)
			delete(e.credit, id)
		}
	}
}

// callOff ends what the edge asked for.
func (e *edge) callOff() {
	for id, a := range e.asks {
		a.cancel()
		delete(e.asks, id)
	}
}

// lapse ends the lease of an edge. h.mu is held.
func (h *Hub) lapse(e *edge) {
	e.lapsed, e.owes = time.Now(), map[string]bool{}
	for id, b := range h.backends {
		if up(b) && (e.held(id) > 0 || e.unknown && !b.woken) {
			e.owes[id] = true
		}
	}
	e.callOff()
	h.part(e, e.lapsed)
	if e.stream != nil {
		e.stream.end()
		e.stream = nil
	}
	e.sent, e.had, e.given, e.target, e.credit = nil, map[string]router.Grant{}, map[string]router.Grant{}, map[string]int{}, map[string]float64{}
	h.o.Log.Warn("an edge is cut off", "edge", e.Name, "heard", e.heard, "may_still_use", slices.Sorted(maps.Keys(e.owes)))
	h.kick()
}

// lookEvery is how often the engine of a backend is asked that an edge may still use which was cut off.
const lookEvery = time.Second

// look asks a backend's engine whether it has nothing to do, which clears the edges that were cut off long enough ago. h.mu is held.
func (h *Hub) look(ctx context.Context, b *backend, now time.Time) {
	if now.Sub(b.probed) < lookEvery || !slices.ContainsFunc(slices.Collect(maps.Values(h.edges)), func(e *edge) bool { return h.due(e, b.Backend, now) }) {
		return
	}
	b.probed = now
	is, m := b.Backend, h.models[b.Model]
	h.works.Go(func() {
		ctx, cancel := context.WithTimeout(ctx, lookEvery)
		defer cancel()
		r := h.o.Look(ctx, m.ServedAs, configured(m, is.ID), is.Addr)
		h.mu.Lock()
		defer h.mu.Unlock()
		for _, e := range h.edges {
			idle := r.Running == 0 && r.Waiting <= 0
			if r.Running < 0 {
				idle = now.Sub(e.lapsed) >= h.longest(is.Model)
			}
			if idle && h.due(e, is, now) {
				h.o.Log.Info("an edge that was cut off has nothing in flight any more", "edge", e.Name, "backend", is.ID)
				delete(e.owes, is.ID)
			}
		}
		h.kick()
	})
}

// configured is what the file says of a backend.
func configured(m config.Model, id string) config.Backend {
	if i := slices.IndexFunc(m.Backends, func(b config.Backend) bool { return b.Name == id }); i >= 0 {
		return m.Backends[i]
	}
	return config.Backend{}
}

// due says that everything which the edge ever admitted to the backend has come to it by now.
func (h *Hub) due(e *edge, b router.Backend, now time.Time) bool {
	connecting := configured(h.models[b.Model], b.ID).ConnectTime.Std()
	return e.owes[b.ID] && !now.Before(e.lapsed.Add(connecting+e.Reach))
}

// longest is how long an answer of a model may take.
func (h *Hub) longest(model string) time.Duration {
	a := h.models[model].Answer
	return max(a.Total.Std(), a.Upgraded.Std())
}

// save notes which edges are counted on.
func (h *Hub) save() {
	h.saving.Lock()
	defer h.saving.Unlock()
	h.mu.Lock()
	all := make([]Edge, 0, len(h.edges))
	for _, e := range h.edges {
		all = append(all, e.Edge)
	}
	h.mu.Unlock()
	slices.SortFunc(all, func(a, b Edge) int { return strings.Compare(a.ID, b.ID) })
	if err := store(h.o.File, all); err != nil {
		h.o.Log.Error("which edges have slots is not saved; a restart would not count on them", "error", err)
	}
}

// load reads the edges of before. A file that is not there holds none.
func load(file string) ([]Edge, error) {
	if file == "" {
		return nil, nil
	}
	text, err := os.ReadFile(file)
	switch {
	case os.IsNotExist(err):
		return nil, nil
	case err != nil:
		return nil, fmt.Errorf("read the edges of before: %w", err)
	}
	var all []Edge
	if err := json.Unmarshal(text, &all); err != nil {
		return nil, fmt.Errorf("read the edges of before in %s: %w", file, err)
	}
	return all[:min(len(all), maxEdges)], nil
}

// store replaces the file in one step.
func store(file string, all []Edge) error {
	if file == "" {
		return nil
	}
	text, err := json.Marshal(all)
	if err != nil {
		return fmt.Errorf("save the edges: %w", err)
	}
	if err := os.MkdirAll(filepath.Dir(file), 0o755); err != nil {
		return fmt.Errorf("save the edges: %w", err)
	}
	if err := os.WriteFile(file+".new", text, 0o644); err != nil {
		return fmt.Errorf("save the edges: %w", err)
	}
	if err := os.Rename(file+".new", file); err != nil {
		return fmt.Errorf("save the edges: %w", err)
	}
	return nil
}
