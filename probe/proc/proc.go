// Package proc reads what Linux says of processes under /proc, or wherever the host's is mounted. It knows nothing of what
// they are for.
package proc

import (
	"errors"
	"os"
	"path/filepath"
	"strconv"
	"strings"
)

// Dir is where a procfs is mounted. Which processes are there, and their numbers, are those of the PID namespace that it was
// mounted in.
type Dir string

// Stat is what we need of /proc/<pid>/stat.
type Stat struct {
	Name   string
	State  byte
	Parent int
	Group  int
	Born   uint64 // clock ticks since boot
}

// Dead processes are there until somebody asks how they ended.
func (s Stat) Dead() bool { return s.State == 'Z' || s.State == 'X' }

// Stat reads that of one process.
func (d Dir) Stat(pid int) (Stat, error) {
	data, err := os.ReadFile(d.path(pid, "stat"))
	if err != nil {
		return Stat{}, err
	}
	return ParseStat(string(data))
}

func (d Dir) path(pid int, file string) string {
	return filepath.Join(string(d), strconv.Itoa(pid), file)
}

var errStat = errors.New("/proc/<pid>/stat is not what we know")

// ParseStat reads the text of a stat. The command's name may itself hold blanks and parentheses.
func ParseStat(data string) (Stat, error) {
	open, end := strings.IndexByte(data, '('), strings.LastIndexByte(data, ')')
	fields := strings.Fields(data[end+1:])
	if open < 0 || end < open || len(fields) < 20 || len(fields[0]) != 1 {
		return Stat{}, errStat
	}
	parent, parentErr := strconv.Atoi(fields[1])
	group, groupErr := strconv.Atoi(fields[2])
	born, bornErr := strconv.ParseUint(fields[19], 10, 64)
	if errors.Join(parentErr, groupErr, bornErr) != nil {
		return Stat{}, errStat
	}
	return Stat{Name: data[open+1 : end], State: fields[0][0], Parent: parent, Group: group, Born: born}, nil
}

// Self is our own PID there, 0 where we are not.
func (d Dir) Self() int {
	link, err := os.Readlink(filepath.Join(string(d), "self"))
	if err != nil {
		return 0
	}
	pid, err := strconv.Atoi(link)
	if err != nil {
		return 0
	}
	return pid
}

// maxDepth is how many ancestors of a process are looked at.
const maxDepth = 64

// Lineage is the process and its ancestors, the nearest first, up to the first process of its namespace.
func (d Dir) Lineage(pid int) []int {
	var line []int
	for pid > 0 && len(line) < maxDepth {
		s, err := d.Stat(pid)
		if err != nil {
			break
		}
		line = append(line, pid)
		pid = s.Parent
	}
	return line
}

// Cgroup is the path of the process's control group: of the unified hierarchy, else the longest of the others. Empty where
// it is the root, or not known.
func (d Dir) Cgroup(pid int) string {
	data, err := os.ReadFile(d.path(pid, "cgroup"))
	if err != nil {
		return ""
	}
	longest := ""
	for line := range strings.Lines(string(data)) {
		fields := strings.SplitN(strings.TrimSuffix(line, "\n"), ":", 3)
		if len(fields) != 3 || fields[2] == "/" {
			continue
		}
		if fields[0] == "0" {
			return fields[2]
		}
		if len(fields[2]) > len(longest) {
			longest = fields[2]
		}
	}
	return longest
}

// Numbers are the PIDs of one process: the first is that of the namespace of d, each further one that of a namespace inside the
// one before. Nil where the kernel does not say (before Linux 4.1), or the process is not there.
func (d Dir) Numbers(pid string) []int {
	data, err := os.ReadFile(filepath.Join(string(d), pid, "status"))
	if err != nil {
		return nil
	}
	for line := range strings.Lines(string(data)) {
		list, found := strings.CutPrefix(line, "NSpid:")
		if !found {
			continue
		}
		var numbers []int
		for field := range strings.FieldsSeq(list) {
			n, err := strconv.Atoi(field)
			if err != nil {
				return nil
			}
			numbers = append(numbers, n)
		}
		return numbers
	}
	return nil
}

// Namespace names the PID namespace of a process; "self" is ours. Empty where that may not be seen.
func (d Dir) Namespace(pid string) string {
	name, err := os.Readlink(filepath.Join(string(d), pid, "ns/pid"))
	if err != nil {
		return ""
	}
	return name
}

// InitNamespace is the name of the PID namespace of the host itself: PROC_PID_INIT_INO of the kernel's include/linux/proc_ns.h.
const InitNamespace = "pid:[4026531836]"
