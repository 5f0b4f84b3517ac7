package router

import (
	"time"

	"pilotlight/config"
)

// ModelStatus is what a client may know of a model.
type ModelStatus struct {
	Name    string
	Aliases []string
	State   State
	Size    config.Size // GPU memory of one backend
	Since   time.Time   // when State came to be; the zero time while no backend is known
}

// Use is what an edge knows of a backend and of the model it serves.
type Use struct {
	InFlight int       // requests on the backend
	Waiting  int       // requests in the model's line
	Bytes    int64     // that those hold
	Last     time.Time // when a request on the backend last ended, or began
	Granted  int64     // slots of the backend that requests were given, since it was first known
}

// Granted is how many slots each model's requests were given since the start.
func (r *Router) Granted() map[string]int64 {
	all := map[string]int64{}
	for _, m := range r.Fleet().Models {
		m.line.mu.Lock()
		all[m.Name] = m.line.granted
		m.line.mu.Unlock()
	}
	return all
}

// Models lists every known model by name, whether or not a backend of it is up.
func (r *Router) Models() []ModelStatus {
	fleet := r.Fleet()
	all := make([]ModelStatus, 0, len(fleet.Models))
	for _, m := range fleet.Models {
		s := ModelStatus{Name: m.Name, Aliases: m.Config.Aliases, State: m.State()}
		for _, b := range m.Backends {
			if b.State == s.State && (s.Since.IsZero() || b.Since.Before(s.Since)) {
				s.Since = b.Since
			}
			s.Size = max(s.Size, b.Memory)
		}
		all = append(all, s)
	}
	return all
}
