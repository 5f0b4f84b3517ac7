//go:build linux && cgo

package nvml

import (
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"strings"

	"github.com/NVIDIA/go-nvml/pkg/nvml"

	"pilotlight/probe"
)

// inventory finds out which GPUs and MIG instances there are. What is known of those that stay is kept.
func (l *looker) inventory() error {
	var count int
	r := l.ask(func() (r nvml.Return) { count, r = l.DeviceGetCount(); return r }, "nvmlDeviceGetCount_v2", "nvmlDeviceGetCount")
	if r != nvml.SUCCESS {
		return fmt.Errorf("count the GPUs: %s", say(r))
	}
	known := map[string]*device{}
	for _, d := range l.devices {
		known[d.gpu.UUID] = d
	}
	var found []*device
	for i := range count {
		found = append(found, l.board(i)...)
	}
	changed := len(found) != len(l.devices)
	for i, d := range found {
		if old := known[d.gpu.UUID]; old != nil && d.gpu.UUID != "" {
			old.handle, old.board, old.gpu.Index = d.handle, d.board, d.gpu.Index
			found[i] = old
		}
		changed = changed || l.devices[i] != found[i]
	}
	l.devices = found
	if changed {
		l.links = l.topology()
	}
	return nil
}

// board is one GPU, or in its place the MIG instances into which it is divided.
func (l *looker) board(i int) []*device {
	d := newDevice(i)
	if d.failed = l.ask(func() (r nvml.Return) { d.handle, r = l.DeviceGetHandleByIndex(i); return r },
		"nvmlDeviceGetHandleByIndex_v2", "nvmlDeviceGetHandleByIndex"); d.failed != nvml.SUCCESS {
		d.handle = nil
		return []*device{d}
	}
	d.identify(l.library)
	var on int
	if l.ask(func() (r nvml.Return) { on, _, r = d.handle.GetMigMode(); return r }, "nvmlDeviceGetMigMode") != nvml.SUCCESS || on == nvml.DEVICE_MIG_DISABLE {
		return []*device{d}
	}
	d.mig = true
	instances := l.instances(d)
	if len(instances) == 0 {
		d.unusable = "MIG is on and no instance has been made: nothing can run here"
		return []*device{d}
	}
	return instances
}

// instances are those of a GPU with MIG.
func (l *looker) instances(d *device) []*device {
	var most int
	l.ask(func() (r nvml.Return) { most, r = d.handle.GetMaxMigDeviceCount(); return r }, "nvmlDeviceGetMaxMigDeviceCount")
	var instances []*device
	for n := range most {
		inst := newDevice(d.gpu.Index)
		if l.ask(func() (r nvml.Return) { inst.handle, r = d.handle.GetMigDeviceHandleByIndex(n); return r }, "nvmlDeviceGetMigDeviceHandleByIndex") != nvml.SUCCESS {
			continue // places are numbered with gaps
		}
		inst.board, inst.mig = d.handle, true
		inst.identify(l.library)
		inst.gpu.Parent, inst.gpu.Bus, inst.gpu.NUMA = d.gpu.UUID, d.gpu.Bus, d.gpu.NUMA
		instances = append(instances, inst)
	}
	return instances
}

// identify reads what never changes of a device.
func (d *device) identify(l *library) {
	d.call(l, "", func() (r nvml.Return) { d.gpu.UUID, r = d.handle.GetUUID(); return r }, "nvmlDeviceGetUUID")
	d.call(l, "", func() (r nvml.Return) { d.gpu.Name, r = d.handle.GetName(); return r }, "nvmlDeviceGetName")
	var pci nvml.PciInfo
	d.call(l, "", func() (r nvml.Return) { pci, r = d.handle.GetPciInfo(); return r }, "nvmlDeviceGetPciInfo_v3", "nvmlDeviceGetPciInfo_v2", "nvmlDeviceGetPciInfo")
	d.gpu.Bus = bus(pci.BusId[:])
	d.gpu.NUMA = numaNode(d.gpu.Bus)
}

// bus is a PCI address as Linux writes it: NVML gives the domain four digits more.
func bus(id []int8) string {
	var b strings.Builder
	for _, c := range id {
		if c == 0 {
			break
		}
		b.WriteByte(byte(c))
	}
	s := strings.ToLower(b.String())
	if domain, rest, found := strings.Cut(s, ":"); found && len(domain) == 8 {
		return domain[4:] + ":" + rest
	}
	return s
}

// numaNode is the node of the host's memory that a PCI device is near to, -1 where the host has one only or does not say.
func numaNode(bus string) int {
	text, err := os.ReadFile(filepath.Join("/sys/bus/pci/devices", filepath.Base(bus), "numa_node"))
	if err != nil {
		return -1
	}
	n, err := strconv.Atoi(strings.TrimSpace(string(text)))
	if err != nil {
		return -1
	}
	return n
}

// topology is how each pair of devices is joined; nil for one alone.
func (l *looker) topology() [][]probe.Link {
	if len(l.devices) < 2 {
		return nil
	}
	links := make([][]probe.Link, len(l.devices))
	for i := range links {
		links[i] = make([]probe.Link, len(l.devices))
	}
	for i, a := range l.devices {
		for j, b := range l.devices[:i] {
			link := l.link(a, b)
			links[i][j], links[j][i] = link, link
		}
	}
	return links
}

func (l *looker) link(a, b *device) probe.Link {
	if a.gpu.Bus != "" && a.gpu.Bus == b.gpu.Bus {
		return probe.LinkSelf
	}
	if a.handle == nil || b.handle == nil || a.mig || b.mig {
		return probe.LinkUnknown
	}
	var p2p nvml.GpuP2PStatus
	if r := l.ask(func() (r nvml.Return) { p2p, r = a.handle.GetP2PStatus(b.handle, nvml.P2P_CAPS_INDEX_NVLINK); return r },
		"nvmlDeviceGetP2PStatus"); r == nvml.SUCCESS && p2p == nvml.P2P_STATUS_OK {
		return probe.LinkNVLink
	}
	var level nvml.GpuTopologyLevel
	if l.ask(func() (r nvml.Return) { level, r = a.handle.GetTopologyCommonAncestor(b.handle); return r },
		"nvmlDeviceGetTopologyCommonAncestor") != nvml.SUCCESS {
		return probe.LinkUnknown
	}
	switch level {
	case nvml.TOPOLOGY_INTERNAL:
		return probe.LinkSelf
	case nvml.TOPOLOGY_SINGLE:
		return probe.LinkSwitch
	case nvml.TOPOLOGY_MULTIPLE:
		return probe.LinkSwitches
	case nvml.TOPOLOGY_HOSTBRIDGE:
		return probe.LinkHostBridge
	case nvml.TOPOLOGY_NODE:
		return probe.LinkNUMA
	case nvml.TOPOLOGY_SYSTEM:
		return probe.LinkSystem
	default:
		return probe.LinkUnknown
	}
}
