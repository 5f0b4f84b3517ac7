package probe

import (
	"slices"

	"pilotlight/probe/proc"
)

// Owners says which model servers processes belong to. It is a snapshot: make one for each look.
type Owners struct {
	servers []server
	cgroup  string // ours
}

// server is one model server: its first process.
type server struct {
	backend string
	pid     int
	born    uint64
	cgroup  string
}

// NewOwners looks at the model servers' processes on this host: their PIDs by backend.
func NewOwners(pids map[string]int) Owners { return ownersIn("/proc", pids) }

func ownersIn(dir proc.Dir, pids map[string]int) Owners {
	o := Owners{cgroup: dir.Cgroup(dir.Self())}
	for backend, pid := range pids {
		if pid > 0 {
			s, _ := dir.Stat(pid) // of one that has just ended its number is all there is
			o.servers = append(o.servers, server{backend, pid, s.Born, dir.Cgroup(pid)})
		}
	}
	return o
}

// Of is the backend whose model server a process is, descends from, or was started by and has outlived (it is in its process group,
// or in a control group that we are not in). It is empty where there is none. A process that is older than the server
// was there before it, under a number that is used again.
func (o Owners) Of(p Process) (backend string) {
	line := p.Lineage
	if len(line) == 0 {
		line = []int{p.PID}
	}
	for _, pid := range line { // the nearest first: servers may start servers
		for _, s := range o.servers {
			if s.pid == pid && !p.before(s) {
				return s.backend
			}
		}
	}
	for _, s := range o.servers {
		if p.Group == s.pid && !p.before(s) {
			return s.backend
		}
	}
	i := slices.IndexFunc(o.servers, func(s server) bool {
		return p.Cgroup == s.cgroup && s.cgroup != "" && s.cgroup != o.cgroup && !p.before(s)
	})
	if i < 0 {
		return ""
	}
	return o.servers[i].backend
}

// before says that a process is older than a server.
func (p Process) before(s server) bool { return p.Born != 0 && p.Born < s.born }
