package launch

import (
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"net/url"
	"os"
	"path/filepath"
	"time"

	"pilotlight/config"
	"pilotlight/router"
)

// record is what has to outlive us of a backend. It is a file: <state_dir>/backends/<id>.json.
type record struct {
	PID     int          `json:"pid,omitempty"`  // of the process, which leads its group; 0: none
	Born    string       `json:"born,omitempty"` // when it was, so that another process of that number is not taken for it
	Addr    string       `json:"addr,omitempty"`
	GPUs    []int        `json:"gpus,omitempty"`
	Command string       `json:"command,omitempty"` // hash of the configuration that it was started by
	Started time.Time    `json:"started,omitzero"`
	Slept   *router.Tier `json:"slept,omitempty"` // where the weights are since we put its engine to sleep; nil: we did not
	// Checkpointed are the processes of the group that sleep because cuda-checkpoint put them to it.
	Checkpointed []int `json:"checkpointed,omitempty"`
}

// readRecord reads the record. One that is not there is empty, and so is one that cannot be read: the host went down
// while it was written.
func (l *Launcher) readRecord() record {
	path := l.path("backends", ".json")
	data, err := os.ReadFile(path)
	if errors.Is(err, fs.ErrNotExist) {
		return record{}
	}
	var r record
	if err == nil {
		err = json.Unmarshal(data, &r)
	}
	if err != nil {
		l.log.Warn("a backend's record cannot be read and counts as none", "path", path, "error", err)
		return record{}
	}
	return r
}

// saveRecord replaces the file in one step.
func (l *Launcher) saveRecord() error {
	path := l.path("backends", ".json")
	data, err := json.Marshal(l.record)
	if err != nil {
		panic("BUG: a record has no JSON: " + err.Error())
	}
	if err := os.MkdirAll(filepath.Dir(path), 0o700); err != nil {
		return fmt.Errorf("keep its record: %w", err)
	}
	if err := os.WriteFile(path+".new", data, 0o600); err != nil {
		return fmt.Errorf("keep its record: %w", err)
	}
	if err := os.Rename(path+".new", path); err != nil {
		return fmt.Errorf("keep its record: %w", err)
	}
	return nil
}

// dropRecord forgets the backend.
func (l *Launcher) dropRecord() {
	l.record = record{}
	l.pid.Store(0)
	path := l.path("backends", ".json")
	if err := os.Remove(path); err != nil && !errors.Is(err, fs.ErrNotExist) {
		l.log.Warn("a stale record stays behind", "path", path, "error", err)
	}
}

// commandHash tells one configuration of a process from another.
func commandHash(p config.Process) string {
	data, err := json.Marshal(p)
	if err != nil {
		panic("BUG: a process has no JSON: " + err.Error())
	}
	sum := sha256.Sum256(data)
	return hex.EncodeToString(sum[:8])
}

// fileName makes any name one that can be a file's.
func fileName(name string) string { return url.PathEscape(name) }
