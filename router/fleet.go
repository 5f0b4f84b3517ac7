package router

import (
	"slices"
	"strings"
	"time"

	"pilotlight/config"
	"pilotlight/probe"
)

// State is where a backend is in its life. Only the keeper of its node moves it; warmpool/life.go has the table.
type State uint8

// The states.
const (
	Stopped  State = iota // no process, weights on disk at best
	Asleep                // the process lives, the GPU memory is given back
	Waking                // on the way to ready
	Ready                 // admits requests
	Draining              // admits none, finishes what it has
	Failed                // fell over, rests
)

func (s State) String() string {
	return [...]string{"stopped", "asleep", "waking", "ready", "draining", "failed"}[s]
}

// Tier is where the weights are.
type Tier uint8

// The tiers, farthest first.
const (
	OnDisk Tier = iota
	OnHost
	OnGPU
)

func (t Tier) String() string { return [...]string{"disk", "host", "gpu"}[t] }

// Backend is one model server as its keeper last reported it. It is a value and never changes.
type Backend struct {
	ID       string // unique in the fleet
	Model    string
	Node     string
	Addr     string // host:port; empty while nothing listens
	PID      int    // of the process that we started; 0 where there is none
	Engine   config.Engine
	Slots    int   // concurrent requests it can serve, at least 1
	GPUs     []int // indices on its node
	Memory   config.Size
	State    State
	Tier     Tier
	Since    time.Time     // when it came to State
	WakeTime time.Duration // how long a wake from here takes, learned; 0 when ready
	Reason   string        // why it is where it is, for people
	Rested   time.Time     // Failed only: when it may be woken again
	Reading  probe.Reading
}

// ReadyAt is when the backend is expected to be ready if it is asked for now.
func (b *Backend) ReadyAt(now time.Time) time.Time {
	switch b.State {
	case Ready:
		return now
	case Waking:
		if at := b.Since.Add(b.WakeTime); at.After(now) {
			return at
		}
		return now // overdue: any moment
	case Failed:
		if b.Rested.After(now) {
			return b.Rested.Add(b.WakeTime)
		}
	case Stopped, Asleep, Draining:
	}
	return now.Add(b.WakeTime)
}

// Model is a name that clients ask for, and what serves it. It is a value of one fleet and never changes.
type Model struct {
	Name     string
	Config   config.Model
	Backends []*Backend // in the order of their IDs
	line     *line      // shared by all fleets that know the model
}

// State is the state of the model's most wakeful backend; Stopped where it has none.
func (m *Model) State() State {
	best := Stopped
	for i, b := range m.Backends {
		if i == 0 || wakefulness[b.State] > wakefulness[best] {
			best = b.State
		}
	}
	return best
}

// wakefulness orders states by how close to an answer they are.
var wakefulness = [...]int{Failed: 0, Stopped: 1, Asleep: 2, Draining: 3, Waking: 4, Ready: 5}

// Fleet is the edge's picture of all models and backends at one moment. It never changes.
type Fleet struct {
	Models    []*Model          // in the order of their names
	byName    map[string]*Model // names and aliases
	byBackend map[string]*Model // backends' IDs, those of models that are gone included
}

// Model finds a model by its name or an alias.
func (f *Fleet) Model(name string) (*Model, bool) {
	m, ok := f.byName[name]
	return m, ok
}

// newFleet puts models and backends together, after the fleet was. Backends of unknown models serve nobody: their keeper
// has not heard of the new configuration yet, or lets them finish what was in flight on their former model.
func newFleet(models []*Model, backends map[string][]Backend, was *Fleet) *Fleet {
	f := &Fleet{byName: make(map[string]*Model, len(models)), byBackend: map[string]*Model{}}
	for _, known := range models {
		m := &Model{Name: known.Name, Config: known.Config, line: known.line}
		f.Models = append(f.Models, m)
		f.byName[m.Name] = m
		for _, alias := range m.Config.Aliases {
			f.byName[alias] = m
		}
	}
	for _, ofNode := range backends {
		for _, b := range ofNode {
			if m, ok := f.byName[b.Model]; ok && m.Name == b.Model {
				m.Backends = append(m.Backends, &b)
				f.byBackend[b.ID] = m
			} else if former, ok := was.byBackend[b.ID]; ok {
				f.byBackend[b.ID] = former
			}
		}
	}
	for _, m := range f.Models {
		slices.SortFunc(m.Backends, func(a, b *Backend) int { return strings.Compare(a.ID, b.ID) })
	}
	slices.SortFunc(f.Models, func(a, b *Model) int { return strings.Compare(a.Name, b.Name) })
	return f
}
