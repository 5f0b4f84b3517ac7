package admin

import (
	"time"

	"pilotlight/proxy/jwt"
	"pilotlight/router"
	"pilotlight/router/consul"
)

// Status is the fleet as the admin API and `pilotlight status` show it.
type Status struct {
	Models []ModelStatus  `json:"models"`
	Consul *consul.Status `json:"consul,omitempty"`
	Plan   *PlanStatus    `json:"plan,omitempty"`
	// Issuers are those whose tokens count, and how it is with their keys.
	Issuers []jwt.IssuerStatus `json:"issuers,omitempty"`
}

// PlanStatus is how planning goes, and what became of wakes ahead since the start.
type PlanStatus struct {
	Policy         string    `json:"policy"` // the pool's
	Acts           bool      `json:"acts"`   // this edge tells keepers what it plans
	DryRun         bool      `json:"dry_run"`
	Made           time.Time `json:"made,omitzero"`
	Next           time.Time `json:"next,omitzero"`
	Used           int       `json:"used"`   // somebody asked once it was ready
	Late           int       `json:"late"`   // somebody asked before that
	Wasted         int       `json:"wasted"` // nobody asked
	WastedGPUHours float64   `json:"wasted_gpu_hours"`
}

// ModelStatus is one model, its line and its backends.
type ModelStatus struct {
	Name     string          `json:"name"`
	Aliases  []string        `json:"aliases,omitempty"`
	State    string          `json:"state"`
	Pinned   *PinStatus      `json:"pinned,omitempty"`
	Line     LineStatus      `json:"line"`
	Backends []BackendStatus `json:"backends"`
}

// LineStatus is who waits for a slot of a model.
type LineStatus struct {
	Waiting int   `json:"waiting"`
	Bytes   int64 `json:"bytes"`
}

// BackendStatus is one backend.
type BackendStatus struct {
	ID         string     `json:"id"`
	Node       string     `json:"node"`
	State      string     `json:"state"`
	Tier       string     `json:"tier"`
	Since      time.Time  `json:"since"`
	Reason     string     `json:"reason,omitempty"`
	Addr       string     `json:"addr,omitempty"`
	PID        int        `json:"pid,omitempty"`
	GPUs       []int      `json:"gpus,omitempty"`
	Memory     int64      `json:"memory_bytes"`            // that it needs: as configured, or as measured where that is more
	Configured int64      `json:"memory_configured_bytes"` // what the configuration says of it
	InFlight   int        `json:"in_flight"`
	Slots      int        `json:"slots"`
	WakeTimeMS int64      `json:"wake_time_ms"`
	Rested     *time.Time `json:"rests_until,omitempty"`
}

func statusOf(r *router.Router, m *router.Model) ModelStatus {
	s := ModelStatus{Name: m.Name, Aliases: m.Config.Aliases, State: m.State().String(), Backends: []BackendStatus{}}
	for _, b := range m.Backends {
		use := r.Use(b.ID)
		s.Line = LineStatus{Waiting: use.Waiting, Bytes: use.Bytes}
		backend := BackendStatus{
			ID: b.ID, Node: b.Node, State: b.State.String(), Tier: b.Tier.String(), Since: b.Since, Reason: b.Reason, Addr: b.Addr,
			PID: b.PID, GPUs: b.GPUs, Memory: int64(b.Memory), Configured: int64(b.Configured), InFlight: use.InFlight, Slots: b.Slots, WakeTimeMS: b.WakeTime.Milliseconds(),
		}
		if b.State == router.Failed {
			backend.Rested = &b.Rested
		}
		s.Backends = append(s.Backends, backend)
	}
	return s
}
