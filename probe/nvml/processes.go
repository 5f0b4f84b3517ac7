package nvml

import (
	"cmp"
	"fmt"
	"os"
	"slices"
	"strconv"
	"strings"

	"pilotlight/config"
	"pilotlight/probe"
	"pilotlight/probe/proc"
)

// processes finds out what this host knows of the PIDs that a driver names. Those are the host's, whatever container asks
// (NVIDIA/nvidia-docker#179).
type processes struct {
	dir     proc.Dir
	foreign bool   // nothing in dir can be matched to them
	ours    string // our PID namespace
	depth   int    // which of a process's numbers is the one that we use
}

// procDir is where the host's processes are: $HOST_PROC where a container has the host's procfs mounted there, as exporters
// call it, or /proc.
func procDir() proc.Dir { return proc.Dir(cmp.Or(os.Getenv("HOST_PROC"), "/proc")) }

// seen begins with a procfs. It is of use if its numbers are the host's: if we are in the host's own namespace, or if the
// host's kernel threads are in it.
func seen(dir proc.Dir) processes {
	p := processes{dir: dir, ours: proc.Dir("/proc").Namespace("self")}
	if p.ours == proc.InitNamespace {
		return p
	}
	threads, err := dir.Stat(2)
	p.foreign = err != nil || threads.Name != "kthreadd"
	p.depth = max(len(dir.Numbers("self"))-1, 0)
	return p
}

// describe fills in what is known of a process.
func (p *processes) describe(about *probe.Process) {
	if p.foreign {
		return
	}
	s, err := p.dir.Stat(about.PID)
	if err != nil {
		return
	}
	about.Name, about.Born, about.Group, about.Cgroup = s.Name, s.Born, p.number(s.Group), p.dir.Cgroup(about.PID)
	for _, pid := range p.dir.Lineage(about.PID) {
		if n := p.number(pid); n != 0 {
			about.Lineage = append(about.Lineage, n)
		}
	}
}

// number is how we count a process that the host counts as pid; 0 where it is not in our namespace.
func (p *processes) number(pid int) int {
	if p.depth == 0 {
		return pid
	}
	numbers := p.dir.Numbers(strconv.Itoa(pid))
	inside := len(numbers) > p.depth && slices.ContainsFunc(p.dir.Lineage(pid), func(pid int) bool {
		return p.dir.Namespace(strconv.Itoa(pid)) == p.ours
	})
	if !inside {
		return 0
	}
	return numbers[p.depth]
}

// hostMemory is what the host has of memory, and what of it programs could still take; 0 where it does not say.
func hostMemory() (total, free config.Size) {
	text, err := os.ReadFile("/proc/meminfo")
	if err != nil {
		return 0, 0
	}
	for line := range strings.Lines(string(text)) {
		var kib config.Size
		if n, _ := fmt.Sscanf(line, "MemTotal: %d kB", &kib); n == 1 {
			total = kib * config.KiB
		}
		if n, _ := fmt.Sscanf(line, "MemAvailable: %d kB", &kib); n == 1 {
			free = kib * config.KiB
		}
	}
	return total, free
}
