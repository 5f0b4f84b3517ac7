package router

import (
	"slices"
	"strings"
	"time"

	"pilotlight/config"
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
	ID         string // unique in the fleet
	Model      string
	Node       string
	Addr       string // host:port; empty while nothing listens
	PID        int    // of the process that we started; 0 where there is none
	Engine     config.Engine
	Slots      int         // concurrent requests it can serve, at least 1
	Shared     bool        // its agent divides its slots among edges: see Router.Grant
	Width      int         // how many GPUs it spreads over, evenly; 0: it uses none
	GPUs       []int       // where it is, asleep too: indices on its node; nil while it is nowhere
	Memory     config.Size // that it takes of all its GPUs while ready: what the configuration says, or what was measured if that is more
	Configured config.Size // of that, what the configuration says
	Residual   config.Size // that it still takes of them while asleep
	Host       config.Size // that it takes of the host's memory while asleep
	State      State
	Tier       Tier
	Since      time.Time     // when it came to State
	WakeTime   time.Duration // how long a wake from here takes, learned; 0 when ready
	Wakes      Wakes
	Woken      Woken     // its last wake
	Stays      bool      // nobody can take it off its GPUs
	NoSleep    bool      // it has no way to sleep: off its GPUs it is stopped
	NoStop     bool      // nobody can stop it
	Reason     string    // why it is where it is, for people
	Rested     time.Time // Failed only: when it may be woken again

	node *Node // that it was observed with
}

// Woken is how a wake went, or goes. A time that is zero has not come, or nobody saw it: the wakes of model servers that outlived their keeper are not
// seen from the beginning.
type Woken struct {
	From     Tier      // where the weights were
	Wanted   time.Time // it was asked for
	Evicted  []string  `json:",omitempty"` // backends that made room for it
	Left     time.Time // the last of them had left its GPUs
	Room     time.Time // its GPU memory was there, and its launcher began
	Answered time.Time // its model server first answered a probe
	Ready    time.Time // its engine said that it can answer
}

// Wakes are how long wakes take by the tier they begin from, learned.
type Wakes struct{ Disk, Host time.Duration }

// Grant is what an edge may use of a Shared backend's slots.
type Grant struct {
	Slots int
	Short bool // more are wanted than there are: Router.Stir is told whenever one is free
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
	Models []*Model       // in the order of their names
	byName map[string]int // in Models, by names and aliases; shared by all fleets of one configuration
}

// Model finds a model by its name or an alias.
func (f *Fleet) Model(name string) (*Model, bool) {
	i, ok := f.byName[name]
	if !ok {
		return nil, false
	}
	return f.Models[i], true
}

// index finds a model by its own name.
func (f *Fleet) index(name string) (int, bool) {
	i, ok := f.byName[name]
	return i, ok && f.Models[i].Name == name
}

// newFleet is the fleet of these models.
func newFleet(models []*Model) *Fleet {
	f := &Fleet{Models: models, byName: make(map[string]int, len(models))}
	slices.SortFunc(f.Models, func(a, b *Model) int { return strings.Compare(a.Name, b.Name) })
	for i, m := range f.Models {
		f.byName[m.Name] = i
		for _, alias := range m.Config.Aliases {
			f.byName[alias] = i
		}
	}
	return f
}

// with is the fleet with other models in the place of some.
func (f *Fleet) with(changed map[int]*Model) *Fleet {
	next := &Fleet{Models: slices.Clone(f.Models), byName: f.byName}
	for i, m := range changed {
		next.Models[i] = m
	}
	return next
}

// with is the model with these backends in place of those that it has on a node.
func (m *Model) with(node string, backends []*Backend) *Model {
	next := &Model{Name: m.Name, Config: m.Config, line: m.line}
	next.Backends = make([]*Backend, 0, len(m.Backends)+len(backends))
	for _, b := range m.Backends {
		if b.Node != node {
			next.Backends = append(next.Backends, b)
		}
	}
	next.Backends = append(next.Backends, backends...)
	slices.SortFunc(next.Backends, func(a, b *Backend) int { return strings.Compare(a.ID, b.ID) })
	return next
}
