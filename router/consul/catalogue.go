package consul

import (
	"pilotlight/router"
)

// The services by which parts of the fleet find one another.
const (
	AgentService = "pilotlight-agent"
	EdgeService  = "pilotlight-edge"
	LockService  = "pilotlight-lock" // whoever holds a lock, or waits for one
)

// The meta of a registration.
const (
	metaModel    = "pilotlight-model"     // comma-separated
	metaEngine   = "pilotlight-engine"    // as in the configuration
	metaGPUs     = "pilotlight-gpus"      // how many it spreads over
	metaMemory   = "pilotlight-memory"    // of the GPUs, while ready
	metaSlots    = "pilotlight-slots"     // requests at once
	metaWake     = "pilotlight-wake"      // how it is woken; empty: nobody can
	metaNode     = "pilotlight-node"      // our name of the node; default: Consul's
	metaAgent    = "pilotlight-agent"     // the node whose agent owns it; empty: nobody's does
	metaServedAs = "pilotlight-served-as" // the model's name for the model server itself
	metaLink     = "pilotlight-link"      // of an agent: host:port of its link
	metaAdmin    = "pilotlight-admin"     // of an edge: host:port of its admin port
	metaEdge     = "pilotlight-edge"      // of an edge: its name
	metaVersion  = "pilotlight-version"   // of an agent or an edge
)

// Catalogue is what Consul says of the fleet at one moment. It never changes.
type Catalogue struct {
	Agents  map[string]Agent     // by node
	Edges   map[string]Edge      // by name
	Nodes   map[string][]Backend // by node, in the order of their IDs
	Changed []string             // the nodes whose backends differ from those of the catalogue before; all in the first
}

// Node is what the catalogue says of a node, for the router.
func (c *Catalogue) Node(name string) router.Node {
	n := router.Node{Name: name}
	for _, b := range c.Nodes[name] {
		n.Backends = append(n.Backends, b.Backend)
	}
	return n
}

// Agent owns the backends of one node.
type Agent struct {
	Node    string
	Link    string // host:port of its link
	Version string
	Alive   bool
	Reason  string // why it is not

	dc string
}

// Edge answers clients.
type Edge struct {
	Name    string
	Admin   string // host:port of its admin port
	Version string
	Alive   bool
	Reason  string // why it is not

	dc string
}

// Backend is one model server, and one model that it serves, as its registration and its checks say.
type Backend struct {
	router.Backend        // without WakeTime, which Consul does not know; Since is when we saw it
	ServedAs       string // the model's name for the model server; empty: the model's own
	Agent          string // the node whose agent owns it; empty: nobody's
	Wake           string // how it is woken; empty: it cannot be
	Silent         bool   // State is the last word of an agent that has not been heard since
	Hold           string // why nothing may be routed to it, whatever its agent says: maintenance. Empty nearly always
}
