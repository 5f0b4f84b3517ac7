package admin

import (
	"time"

	"pilotlight/config"
	"pilotlight/probe"
)

// GPUsStatus is a node's GPUs as the admin API and `pilotlight gpus` show them. What is not known of a GPU is -1, or empty.
type GPUsStatus struct {
	Node       string      `json:"node"`
	At         *time.Time  `json:"at,omitempty"` // when the driver was last read
	Driver     string      `json:"driver,omitempty"`
	Problem    string      `json:"problem,omitempty"` // why nothing is known of the GPUs
	HostMemory int64       `json:"host_memory_bytes,omitempty"`
	HostFree   int64       `json:"host_free_bytes,omitempty"`
	Foreign    bool        `json:"foreign_pids,omitempty"` // PIDs cannot be matched to backends
	GPUs       []GPUStatus `json:"gpus"`
	Links      [][]string  `json:"links,omitempty"` // how gpus[i] and gpus[j] are joined
}

// GPUStatus is one GPU.
type GPUStatus struct {
	Index     int             `json:"index"`
	UUID      string          `json:"uuid,omitempty"`
	Parent    string          `json:"mig_of,omitempty"`
	Name      string          `json:"name,omitempty"`
	Bus       string          `json:"pci,omitempty"`
	NUMA      int             `json:"numa_node"`
	Total     int64           `json:"memory_bytes"`
	Used      int64           `json:"used_bytes"`
	Ours      int64           `json:"backends_bytes"` // of Used, what backends hold
	Others    int64           `json:"others_bytes"`   // of Used, what anybody else holds
	Free      int64           `json:"free_bytes"`
	Reserved  int64           `json:"reserved_bytes"`
	Busy      float64         `json:"busy"` // 0 to 1
	Ran       float64         `json:"ran_seconds"`
	Energy    int64           `json:"energy_millijoules"`
	Power     float64         `json:"power_watts"`
	Heat      int             `json:"celsius"`
	Clock     int             `json:"sm_mhz"`
	Throttled string          `json:"throttled,omitempty"`
	ECC       int64           `json:"uncorrected_errors"`
	Remapped  int             `json:"remapped_rows"`
	Xids      []XidStatus     `json:"xids,omitempty"`
	Recovery  string          `json:"recovery_action"`
	Health    string          `json:"health"`
	Reason    string          `json:"reason,omitempty"`
	Silent    []string        `json:"not_told,omitempty"`
	Processes []ProcessStatus `json:"processes"`
}

// XidStatus is an error that the driver reported.
type XidStatus struct {
	At   time.Time `json:"at"`
	Code int       `json:"code"`
}

// ProcessStatus is a process that holds memory of a GPU.
type ProcessStatus struct {
	PID     int     `json:"pid"`
	Name    string  `json:"name,omitempty"`
	Backend string  `json:"backend,omitempty"`
	Used    int64   `json:"used_bytes"`
	Busy    float64 `json:"busy"`
}

// GPUsOf shows a look at the GPUs of a node. Owner says whose backend's a process is, the empty string if nobody's.
func GPUsOf(node string, look probe.GPUs, owner func(probe.Process) string) GPUsStatus {
	s := GPUsStatus{
		Node: node, Driver: look.Driver, Problem: look.Problem, Foreign: look.Foreign,
		HostMemory: int64(look.HostTotal), HostFree: int64(look.HostFree), GPUs: []GPUStatus{},
	}
	if !look.At.IsZero() {
		s.At = &look.At
	}
	for _, g := range look.GPUs {
		s.GPUs = append(s.GPUs, gpuOf(g, owner))
	}
	for _, row := range look.Links {
		var names []string
		for _, l := range row {
			names = append(names, l.String())
		}
		s.Links = append(s.Links, names)
	}
	return s
}

func gpuOf(g probe.GPU, owner func(probe.Process) string) GPUStatus {
	s := GPUStatus{
		Index: g.Index, UUID: g.UUID, Parent: g.Parent, Name: g.Name, Bus: g.Bus, NUMA: g.NUMA,
		Total: int64(g.Total), Used: int64(g.Used), Free: int64(g.Free), Reserved: int64(g.Reserved),
		Busy: g.Busy, Ran: g.Ran.Seconds(), Energy: g.Energy, Power: g.Power, Heat: g.Heat, Clock: g.Clock, Throttled: g.Throttled.String(),
		ECC: g.ECC, Remapped: g.Remapped, Recovery: g.Recovery.String(), Health: g.Health.String(), Reason: g.Reason, Silent: g.Silent,
		Processes: []ProcessStatus{},
	}
	for _, x := range g.Xids {
		s.Xids = append(s.Xids, XidStatus(x))
	}
	ours, known := config.Size(0), g.Used >= 0
	for _, p := range g.Processes {
		backend := owner(p)
		s.Processes = append(s.Processes, ProcessStatus{PID: p.PID, Name: p.Name, Backend: backend, Used: int64(p.Used), Busy: p.Busy})
		if backend != "" {
			known = known && p.Used >= 0
			ours += p.Used
		}
	}
	s.Ours, s.Others = -1, -1
	if known {
		s.Ours, s.Others = int64(ours), int64(max(0, g.Used-ours))
	}
	return s
}
