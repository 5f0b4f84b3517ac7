package admin

import (
	"slices"
	"sync"
	"time"

	"pilotlight/proxy"
)

// Machine is a node as the dashboard shows it.
type Machine struct {
	Name string       `json:"name"`
	Why  string       `json:"why,omitempty"` // nothing is heard of it
	GPUs []MachineGPU `json:"gpus"`
}

// MachineGPU is one GPU, and who has its memory. What is not known is -1.
type MachineGPU struct {
	Index  int       `json:"index"`
	Name   string    `json:"name,omitempty"`
	Total  int64     `json:"memory_bytes"`
	Free   int64     `json:"free_bytes"`
	Others int64     `json:"others_bytes"` // of programs that are no backends
	Busy   float64   `json:"busy"`         // 0 to 1
	Health string    `json:"health,omitempty"`
	Held   []Holding `json:"held"`
}

// Holding is what a backend has of a GPU's memory: what it was promised, asleep too.
type Holding struct {
	Backend string `json:"backend"`
	Model   string `json:"model"`
	State   string `json:"state"`
	Bytes   int64  `json:"bytes"`
}

// Expectation is what the plan says of a model.
type Expectation struct {
	Next   time.Time `json:"next,omitzero"` // of the next expected request
	Chance float64   `json:"chance"`        // of one within a minute; -1: not known
	Rule   string    `json:"rule,omitempty"`
	Why    string    `json:"why,omitempty"`
}

// Cost is what was paid for the GPU memory that was held, beside what it would have cost to have one backend of each model on its GPUs all the time.
type Cost struct {
	Since    time.Time `json:"since"`
	Currency string    `json:"currency"`
	Paid     float64   `json:"paid"`
	AlwaysOn float64   `json:"always_on"`
}

// Request is one that has ended.
type Request struct {
	ID      string    `json:"id"`
	At      time.Time `json:"at"`
	Model   string    `json:"model"`
	Tenant  string    `json:"tenant,omitempty"`
	Backend string    `json:"backend,omitempty"`
	Status  int       `json:"status"`
	Outcome string    `json:"outcome"`
	Reason  string    `json:"reason,omitempty"`
	Cold    bool      `json:"cold,omitempty"`
	Waited  float64   `json:"waited_ms"`
	Total   float64   `json:"total_ms"`
	GPU     float64   `json:"gpu_ms"` // -1: not settled yet, or nobody measures it
}

// RequestsOf are visits, up to most of them, with what of GPU time is settled.
func RequestsOf(visits []proxy.Visit, gpu *GPUTimes, most int) []Request {
	settled := gpu.all()
	all := []Request{}
	for i := range visits[:min(len(visits), most)] {
		v := &visits[i]
		r := Request{
			ID: v.ID, At: v.At, Model: v.Model, Tenant: v.Tenant, Backend: v.Backend, Status: v.Status, Outcome: v.Outcome.String(), Reason: v.Reason, Cold: v.Cold,
			Waited: v.Waited.Seconds() * 1000, Total: v.Total.Seconds() * 1000, GPU: -1,
		}
		if t, ok := settled[v.ID]; ok {
			r.GPU = t.Seconds() * 1000
		}
		all = append(all, r)
	}
	return all
}

// GPUTimes remembers what the last requests took of GPUs. It is a proxy.Listener.
type GPUTimes struct {
	mu   sync.Mutex // guards what follows
	last [512]struct {
		id  uint64
		gpu time.Duration
	}
	next int
}

// Settled notes a share. Shares of one request are added up.
func (g *GPUTimes) Settled(s *proxy.Share) {
	g.mu.Lock()
	defer g.mu.Unlock()
	at := g.next % len(g.last)
	g.last[at].id, g.last[at].gpu = s.ID, s.GPU
	g.next++
}

// Ended says nothing to it.
func (*GPUTimes) Ended(*proxy.Visit) {}

// Accounted says nothing to it.
func (*GPUTimes) Accounted(*proxy.Account) {}

func (g *GPUTimes) all() map[string]time.Duration {
	if g == nil {
		return nil
	}
	g.mu.Lock()
	last := g.last
	g.mu.Unlock()
	sums := map[string]time.Duration{}
	for _, s := range last {
		if s.id != 0 {
			sums[proxy.VisitID(s.id)] += s.gpu
		}
	}
	return sums
}

// Change is that a backend came to a state, for the timeline.
type Change struct {
	At      time.Time `json:"at"`
	Model   string    `json:"model"`
	Backend string    `json:"backend"`
	Node    string    `json:"node"`
	From    string    `json:"from,omitempty"`
	To      string    `json:"to"`
	Why     string    `json:"why,omitempty"`
}

// maxChanges bounds the timeline.
const maxChanges = 1000

// changed notes where backends are now that were elsewhere before.
func (w *watch) changed(models []ModelStatus) (fresh []Change) {
	now := map[string]string{}
	for i := range models {
		for j := range models[i].Backends {
			b := &models[i].Backends[j]
			now[b.ID] = b.State
			if was := w.states[b.ID]; was != b.State {
				fresh = append(fresh, Change{At: b.Since, Model: models[i].Name, Backend: b.ID, Node: b.Node, From: was, To: b.State, Why: b.Reason})
			}
		}
	}
	w.states = now
	slices.SortFunc(fresh, func(a, b Change) int { return a.At.Compare(b.At) })
	w.changes = append(w.changes, fresh...)
	if over := len(w.changes) - maxChanges; over > 0 {
		w.changes = slices.Delete(w.changes, 0, over)
	}
	return fresh
}
