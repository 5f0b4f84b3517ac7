package router

import "time"

// Load is how much a model is asked for at this moment, and what there is to serve it.
type Load struct {
	Model    string
	Waiting  int   // requests in its line
	Bytes    int64 // of their bodies
	Backends []BackendLoad
}

// BackendLoad is one backend of a model.
type BackendLoad struct {
	ID       string
	State    State
	InFlight int
	Slots    int       // that requests of this edge may have; 0 unless it is ready
	Read     time.Time // when its engine was last seen; zero: never
}

// Loads are those of all models, by name.
func (r *Router) Loads() []Load {
	models := r.Fleet().Models
	all := make([]Load, 0, len(models))
	for _, m := range models {
		all = append(all, m.line.load())
	}
	return all
}

func (l *line) load() Load {
	l.mu.Lock()
	defer l.mu.Unlock()
	now := Load{Model: l.name, Waiting: l.waiters.Len(), Bytes: l.bytes}
	for _, c := range l.candidates {
		b := BackendLoad{ID: c.ID, State: c.State, InFlight: c.InFlight, Read: c.Reading.At}
		if c.State == Ready {
			b.Slots = c.limit()
		}
		now.Backends = append(now.Backends, b)
	}
	return now
}
