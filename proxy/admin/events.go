package admin

import (
	"bytes"
	"encoding/json"
	"fmt"
	"math"
	"net/http"
	"slices"
	"sync"
	"time"
)

const (
	lookEvery   = 500 * time.Millisecond // how often the fleet is looked at while somebody watches
	beatEvery   = 15 * time.Second       // how often somebody who watches hears something, at least
	costEvery   = 10 * time.Second       // how often the ledger is asked
	maxWatchers = 32
	maxBehind   = 8                // how many messages a watcher may be behind before it is sent away, to come again
	writeTime   = 20 * time.Second // how long one write to a watcher may take
	showRecent  = 100              // requests that are shown
)

// watch looks at the fleet for all who watch it, and not at all while nobody does.
type watch struct {
	options *Options

	mu       sync.Mutex // guards what follows
	watchers map[chan []byte]bool
	looking  bool // run does
	last     picture
	states   map[string]string // of backends, at the last look
	changes  []Change
	cost     *Cost
	costAt   time.Time
}

// picture is what is shown, in parts that are told when they change.
type picture struct {
	models, nodes map[string]json.RawMessage
	plan, cost    json.RawMessage
	recent        map[string]json.RawMessage // by ID
	order         []string                   // of recent, the latest first
}

// Message is one event: everything at first, then what changed.
type Message struct {
	At       time.Time                  `json:"at"`
	Snapshot bool                       `json:"snapshot,omitempty"`
	Models   map[string]json.RawMessage `json:"models,omitempty"`
	Gone     []string                   `json:"gone,omitempty"` // models
	Nodes    map[string]json.RawMessage `json:"nodes,omitempty"`
	Lost     []string                   `json:"lost,omitempty"` // nodes
	Plan     json.RawMessage            `json:"plan,omitempty"`
	Cost     json.RawMessage            `json:"cost,omitempty"`
	Recent   []json.RawMessage          `json:"recent,omitempty"` // new ones, or known ones of which more is known; the latest first
	Changes  []Change                   `json:"changes,omitempty"`
}

// events answers GET /api/events.
func (o *Options) events(w http.ResponseWriter, r *http.Request) {
	to, ok := o.watch.join()
	if !ok {
		w.Header().Set("Retry-After", "10")
		reply(w, http.StatusServiceUnavailable, Problem{fmt.Sprintf("%d watch already, and more may not", maxWatchers)})
		return
	}
	defer o.watch.leave(to)
	out := http.NewResponseController(w)
	w.Header().Set("Content-Type", asEvents)
	w.Header().Set("X-Accel-Buffering", "no")
	beat := time.NewTicker(beatEvery)
	defer beat.Stop()
	for {
		text := []byte(": still here\n\n")
		select {
		case <-r.Context().Done():
			return
		case <-o.Ending:
			return
		case <-beat.C:
		case event, more := <-to:
			if !more {
				return
			}
			text = event
		}
		_ = out.SetWriteDeadline(time.Now().Add(writeTime)) // a server that has none waits longer
		if _, err := w.Write(text); err != nil || out.Flush() != nil {
			return
		}
	}
}

// join begins to watch. The first message is a snapshot.
func (w *watch) join() (chan []byte, bool) {
	w.mu.Lock()
	defer w.mu.Unlock()
	if len(w.watchers) >= maxWatchers {
		return nil, false
	}
	if len(w.watchers) == 0 {
		w.watchers = map[chan []byte]bool{}
		w.look()
	}
	if !w.looking {
		w.looking = true
		go w.run() // until nobody watches
	}
	to := make(chan []byte, maxBehind)
	to <- w.snapshot()
	w.watchers[to] = true
	return to, true
}

func (w *watch) leave(to chan []byte) {
	w.mu.Lock()
	defer w.mu.Unlock()
	delete(w.watchers, to)
}

// run looks until nobody watches.
func (w *watch) run() {
	tick := time.NewTicker(lookEvery)
	defer tick.Stop()
	for range tick.C {
		if !w.step() {
			return
		}
	}
}

// step tells all watchers what changed, and says whether there are any.
func (w *watch) step() bool {
	w.mu.Lock()
	defer w.mu.Unlock()
	if w.looking = len(w.watchers) > 0; !w.looking {
		return false
	}
	text := w.look()
	if text == nil {
		return true
	}
	for to := range w.watchers {
		select {
		case to <- text:
		default: // it does not read; when it does it begins anew
			close(to)
			delete(w.watchers, to)
		}
	}
	return true
}

// look takes a new picture and returns what is otherwise than in the last; nil: nothing. w.mu is held.
func (w *watch) look() []byte {
	before := w.last
	status := w.options.status()
	w.last = w.take(&status)
	m := Message{At: time.Now(), Changes: w.changed(status.Models)}
	m.Models, m.Gone = differences(before.models, w.last.models)
	m.Nodes, m.Lost = differences(before.nodes, w.last.nodes)
	if !bytes.Equal(before.plan, w.last.plan) {
		m.Plan = w.last.plan
	}
	if !bytes.Equal(before.cost, w.last.cost) {
		m.Cost = w.last.cost
	}
	for _, id := range w.last.order {
		if !bytes.Equal(before.recent[id], w.last.recent[id]) {
			m.Recent = append(m.Recent, w.last.recent[id])
		}
	}
	if len(m.Models)+len(m.Gone)+len(m.Nodes)+len(m.Lost)+len(m.Plan)+len(m.Cost)+len(m.Recent)+len(m.Changes) == 0 {
		return nil
	}
	return event("change", m)
}

// snapshot is all that is known. w.mu is held.
func (w *watch) snapshot() []byte {
	m := Message{At: time.Now(), Snapshot: true, Models: w.last.models, Nodes: w.last.nodes, Plan: w.last.plan, Cost: w.last.cost, Changes: slices.Clone(w.changes)}
	for _, id := range w.last.order {
		m.Recent = append(m.Recent, w.last.recent[id])
	}
	return event("snapshot", m)
}

// take makes a picture. w.mu is held.
func (w *watch) take(status *Status) picture {
	o, p := w.options, picture{models: map[string]json.RawMessage{}, nodes: map[string]json.RawMessage{}, recent: map[string]json.RawMessage{}}
	expected := map[string]Expectation{}
	if o.Expected != nil {
		expected = o.Expected()
	}
	for i := range status.Models {
		m := &status.Models[i]
		shown := struct {
			*ModelStatus
			Expected *Expectation `json:"expected,omitempty"`
		}{ModelStatus: m}
		if e, ok := expected[m.Name]; ok {
			e.Chance = math.Round(e.Chance*1000) / 1000
			shown.Expected = &e
		}
		p.models[m.Name] = encode(shown)
	}
	if o.Machines != nil {
		for _, n := range o.Machines() {
			for i := range n.GPUs {
				n.GPUs[i].Busy = math.Round(n.GPUs[i].Busy*100) / 100
			}
			p.nodes[n.Name] = encode(n)
		}
	}
	if status.Plan != nil {
		shown := *status.Plan
		shown.Made, shown.Next = time.Time{}, time.Time{} // they change with every plan
		p.plan = encode(shown)
	}
	if o.Cost != nil && time.Since(w.costAt) >= costEvery {
		w.cost, w.costAt = o.Cost(), time.Now()
	}
	if w.cost != nil {
		p.cost = encode(w.cost)
	}
	if o.Recent != nil {
		for _, r := range o.Recent(showRecent) {
			p.order = append(p.order, r.ID)
			p.recent[r.ID] = encode(r)
		}
	}
	return p
}

// differences are what is new or otherwise, and what is no more.
func differences(before, now map[string]json.RawMessage) (set map[string]json.RawMessage, gone []string) {
	set = map[string]json.RawMessage{}
	for name, text := range now {
		if !bytes.Equal(before[name], text) {
			set[name] = text
		}
	}
	for name := range before {
		if _, still := now[name]; !still {
			gone = append(gone, name)
		}
	}
	return set, gone
}

func encode(v any) json.RawMessage {
	text, err := json.Marshal(v)
	if err != nil {
		panic("BUG: what the dashboard shows cannot be encoded: " + err.Error())
	}
	return text
}

// event is a server-sent event. JSON has no line breaks.
func event(name string, m Message) []byte {
	return fmt.Appendf(nil, "event: %s\ndata: %s\n\n", name, encode(m))
}
