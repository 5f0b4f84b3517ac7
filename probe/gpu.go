package probe

import (
	"context"
	"strings"
	"time"

	"pilotlight/config"
)

// Watch looks at the GPUs of a node until ctx ends. It calls see with the first look as soon as there is one, with each later
// one, some per second, and also when it has not been able to look for so long that the GPUs are Unknown. It never calls
// see twice at once, and a see that is slow misses looks but holds up nobody else. An error other than ctx's means that
// looking is over for good.
type Watch func(ctx context.Context, see func(GPUs)) error

// SimulatedDriver is the version of a driver of GPUs that are simulated.
const SimulatedDriver = "simulated"

// GPUs is one look at all GPUs of a node.
type GPUs struct {
	At      time.Time // when it was taken, by the node's clock; the zero time: never
	Driver  string    // the driver's version; empty where there is none
	Problem string    // why nothing is known of the GPUs, for people; empty where something is
	Foreign bool      // the PIDs are the host's and we are in a container that cannot see those

	HostTotal config.Size // host memory; 0 where the node does not say
	HostFree  config.Size // what programs could still take of it without swapping

	GPUs  []GPU    // GPUs[i] has the index i
	Links [][]Link // how GPUs[i] and GPUs[j] are joined; nil where that is not known
}

// GPU is what a probe saw of one GPU, or of one MIG instance. What a driver does not say is -1, or empty.
type GPU struct {
	Index  int    // its place among the node's, which it keeps: the driver's own number, until a GPU is lost or is divided by MIG
	UUID   string // of the GPU, or of its MIG instance; CUDA_VISIBLE_DEVICES takes it
	Parent string // the UUID of the GPU that it is a MIG instance of; empty for a GPU
	Name   string
	Bus    string // PCI address, as in 0000:1b:00.0
	NUMA   int    // the node of the host's memory that it is near to

	Total    config.Size
	Used     config.Size // by whomever
	Free     config.Size // what the driver would still give out; less than Total − Used where it reserves some
	Reserved config.Size // what the driver keeps for itself

	Busy   float64       // share of the time since the look before in which a kernel ran, 0 to 1
	Ran    time.Duration // for how long a kernel has run since the watch began; differences lose nothing where looks are missed
	RanAt  time.Time     // up to when Ran is counted; the zero time: the driver does not say
	Energy int64         // millijoules since the driver was loaded
	Power  float64       // watts, averaged by the driver over about a second
	Heat   int           // degrees Celsius
	Clock  int           // of its multiprocessors, MHz

	Throttled Throttle // why it runs slower than it could
	ECC       int64    // errors that could not be corrected, since the driver was loaded
	Remapped  int      // rows of its memory that spares stand in for
	// RemapPending says that a row awaits the next reset to be replaced, RemapFailed that none is left to replace one.
	RemapPending, RemapFailed bool
	Xids                      []Xid    // errors that the driver has reported since the watch began, the newest last; a few
	Recovery                  Recovery // what the driver asks for before it is used again

	Health Health
	Reason string   // why it is not Healthy, for people
	Silent []string // what the driver does not say of it, for people, as in "utilisation: not supported with MIG"

	Processes []Process
}

// Process is one process that holds memory of a GPU.
type Process struct {
	PID  int         // on the host
	Used config.Size // -1 where the driver does not say
	Busy float64     // its share of the GPU's time since the look before, 0 to 1; -1 where it does not say

	// What this host knows of the process; empty where GPUs.Foreign, or where it has ended.

	Name    string
	Born    uint64 // when it started, in clock ticks since boot: a PID that is used again has another; 0: not known
	Lineage []int  // its own PID as we count, its parent's, and so on
	Group   int    // its process group
	Cgroup  string // the path of its control group
}

// Xid is an error that a driver reported of a GPU.
type Xid struct {
	At   time.Time
	Code int
}

// Link is how two GPUs are joined, the nearest first.
type Link uint8

// The links. All but NVLink are PCIe, by what stands between the two.
const (
	LinkSelf       Link = iota // both are on one board, or are one
	LinkNVLink                 // direct, or through NVSwitch
	LinkSwitch                 // one PCIe switch
	LinkSwitches               // several
	LinkHostBridge             // the CPU's PCIe bridge
	LinkNUMA                   // bridges of one NUMA node
	LinkSystem                 // what joins the host's NUMA nodes
	LinkUnknown
)

func (l Link) String() string {
	return [...]string{"self", "nvlink", "switch", "switches", "host bridge", "numa node", "system", "unknown"}[l]
}

// Throttle is the set of reasons for which a GPU runs slower than it could, with the driver's own bits.
type Throttle uint64

// The reasons that mean something is wrong, or at its limit. Others, such as being idle, are not among them.
const (
	PowerCap     Throttle = 0x4
	HardwareSlow Throttle = 0x8
	SoftwareHeat Throttle = 0x20
	HardwareHeat Throttle = 0x40
	PowerBrake   Throttle = 0x80
)

// Degrading is what makes a GPU Degraded. A power cap does not: it is how most GPUs run under load.
const Degrading = HardwareSlow | SoftwareHeat | HardwareHeat | PowerBrake

func (t Throttle) String() string {
	var reasons []string
	for _, r := range []struct {
		bit  Throttle
		name string
	}{
		{PowerCap, "power cap"},
		{HardwareSlow, "hardware slowdown"},
		{SoftwareHeat, "too hot (driver)"},
		{HardwareHeat, "too hot (hardware)"},
		{PowerBrake, "power brake"},
	} {
		if t&r.bit != 0 {
			reasons = append(reasons, r.name)
		}
	}
	return strings.Join(reasons, ", ")
}

// Recovery is what the driver asks for before a GPU is used again: nvmlDeviceGpuRecoveryAction_t.
type Recovery int8

// The recoveries.
const (
	RecoveryUnknown Recovery = iota - 1
	RecoveryNone
	RecoveryReset
	RecoveryReboot
	RecoveryDrainP2P
	RecoveryDrainReset
	RecoveryIMEX
	RecoveryBusReset
	RecoverySystemReboot
)

func (r Recovery) String() string {
	names := [...]string{
		"unknown", "none", "reset the GPU", "reboot the node", "drain peer-to-peer traffic", "drain and reset the GPU", "restart IMEX", "reset its bus",
		"reboot the system",
	}
	if i := int(r) + 1; i >= 0 && i < len(names) {
		return names[i]
	}
	return "an action that this version does not know"
}

// Health says what may be asked of a GPU.
type Health uint8

// The healths, the best first.
const (
	Healthy  Health = iota
	Degraded        // it works, but slowly: see Degrading
	Sick            // nothing new is placed on it, and what is there leaves
	Unknown         // nobody could look for a while: nothing new is placed on it, and what is there stays
)

func (h Health) String() string { return [...]string{"healthy", "degraded", "sick", "unknown"}[h] }
