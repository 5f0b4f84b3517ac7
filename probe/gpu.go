package probe

import (
	"time"

	"pilotlight/config"
)

// GPUs is one look at all GPUs of a node.
type GPUs struct {
	At      time.Time // when it was taken, by the node's clock; the zero time: never
	Driver  string    // the driver's version; empty where there is none
	Problem string    // why nothing is known of the GPUs, for people; empty where something is
	GPUs    []GPU     // in the order of their indices
}

// GPU is what a probe saw of one GPU. What a driver does not say is -1, or empty.
type GPU struct {
	Index  int    // on its node, as the driver counts
	UUID   string // of the GPU, or of its MIG instance
	Name   string
	Total  config.Size
	Used   config.Size // by whomever
	Free   config.Size // what the driver would still give out; less than Total − Used where it reserves some
	Busy   float64     // share of the time since the look before in which a kernel ran, 0 to 1; -1 where it does not say
	Health Health
	Reason string // why it is not Healthy, for people

	Processes []Process
}

// Process is one process that holds memory of a GPU.
type Process struct {
	PID  int         // on the host
	Used config.Size // -1 where the driver does not say
	Busy float64     // its share of the GPU's time since the look before, 0 to 1; -1 where it does not say
}

// Health says what may be asked of a GPU.
type Health uint8

// The healths, the best first.
const (
	Healthy  Health = iota
	Degraded        // it works, but slowly: too hot, or its power is capped
	Sick            // nothing new is placed on it, and what is there leaves
	Unknown         // nobody could look for a while: nothing new is placed on it, and what is there stays
)

func (h Health) String() string { return [...]string{"healthy", "degraded", "sick", "unknown"}[h] }
