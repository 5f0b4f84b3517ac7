package launch

import (
	"bytes"
	"io"
	"os"
	"slices"
	"strings"
)

const (
	probeBytes = 1 << 10  // that a server may read because of one probe of ours
	idleBytes  = 64 << 10 // that it may read for other reasons, and still be idle
)

// activity sees whether a process does something: does it log, does it read. That it answers our probes is nothing.
type activity struct {
	log    string
	offset int64    // up to where the log was looked at
	ours   []string // paths of our probes, which an access log repeats
	group  int
	read   int64 // bytes that the group had read when it was last seen to work; -1: nobody has looked yet
	probes int   // since then
}

func (l *Launcher) activity(c *child) *activity {
	a := &activity{log: c.log, ours: l.engine.Paths(), group: c.pid, read: -1}
	if info, err := os.Stat(c.log); err == nil {
		a.offset = info.Size()
	}
	return a
}

// since reports whether the process did anything since the last call, during which it was probed so often.
func (a *activity) since(probes int) bool {
	a.probes += probes
	read := groupRead(a.group)
	loaded := read-a.read > int64(a.probes)*probeBytes+idleBytes
	if loaded || read < a.read || a.read < 0 { // less: one of them has ended
		a.read, a.probes = read, 0
	}
	return a.logged() || loaded
}

// logged reports whether there are new lines that are not about our probes.
func (a *activity) logged() bool {
	log, err := os.Open(a.log)
	if err != nil {
		return false
	}
	defer log.Close() //nolint:errcheck // it was only read
	info, err := log.Stat()
	if err != nil {
		return false
	}
	switch size := info.Size(); {
	case size < a.offset: // trimmed
		a.offset = 0
	case size-a.offset > logTail:
		a.offset = size
		return true
	}
	text, err := io.ReadAll(io.NewSectionReader(log, a.offset, logTail))
	if err != nil {
		return false
	}
	whole := bytes.LastIndexAny(text, "\r\n") + 1 // the rest is looked at when its line is complete
	a.offset += int64(whole)
	for line := range bytes.FieldsFuncSeq(text[:whole], func(r rune) bool { return r == '\n' || r == '\r' }) {
		if !aboutUs(line, a.ours) {
			return true
		}
	}
	return false
}

// aboutUs reports whether a line is one of an access log about one of our probes: it has its path as a word.
func aboutUs(line []byte, probes []string) bool {
	words := strings.FieldsFuncSeq(string(line), func(r rune) bool { return r == ' ' || r == '\t' || r == '"' || r == '\'' })
	for word := range words {
		if slices.Contains(probes, word) {
			return true
		}
	}
	return false
}
