package warmpool

import (
	"encoding/json"
	"fmt"
	"os"
	"path/filepath"
	"time"

	"pilotlight/config"
	"pilotlight/router"
)

// Learned is how long wakes took, by backend and by the tier they began from. It lasts over restarts in one small
// file. It belongs to one goroutine.
type Learned struct {
	file  string
	times map[string]map[string]time.Duration
}

// LoadLearned reads what was learned before. A file that is not there is an empty one; one that cannot be read is an error, and what
// is learned from now on replaces it.
func LoadLearned(file string) (*Learned, error) {
	l := &Learned{file: file, times: map[string]map[string]time.Duration{}}
	text, err := os.ReadFile(file)
	switch {
	case os.IsNotExist(err):
		return l, nil
	case err != nil:
		return l, fmt.Errorf("read learned wake times: %w", err)
	}
	if err := json.Unmarshal(text, &l.times); err != nil {
		l.times = map[string]map[string]time.Duration{}
		return l, fmt.Errorf("read learned wake times in %s: %w", file, err)
	}
	return l, nil
}

// What a wake is taken to need before one was seen: an engine's start, and its weights at what a PCIe link or a disk gives.
const (
	startTime = 15 * time.Second
	wakeTime  = 300 * time.Millisecond
	hostRate  = 20 << 30 // bytes per second
	diskRate  = 2 << 30
)

// Expect is how long a wake from tier takes.
func (l *Learned) Expect(backend string, tier router.Tier, memory config.Size) time.Duration {
	if t, ok := l.times[backend][tier.String()]; ok {
		return t
	}
	if tier == router.OnHost {
		return wakeTime + time.Duration(float64(memory)/hostRate*float64(time.Second))
	}
	return startTime + time.Duration(float64(memory)/diskRate*float64(time.Second))
}

// Learn takes a wake into account, half by half with what was known.
func (l *Learned) Learn(backend string, tier router.Tier, took time.Duration) error {
	times := l.times[backend]
	if times == nil {
		times = map[string]time.Duration{}
		l.times[backend] = times
	}
	if was, ok := times[tier.String()]; ok {
		took = (was + took) / 2
	}
	times[tier.String()] = took
	return l.save()
}

// Keep forgets all backends but those named.
func (l *Learned) Keep(named map[string]bool) {
	for id := range l.times {
		if !named[id] {
			delete(l.times, id)
		}
	}
}

// save replaces the file in one step.
func (l *Learned) save() error {
	if l.file == "" {
		return nil
	}
	text, err := json.Marshal(l.times)
	if err != nil {
		return fmt.Errorf("save learned wake times: %w", err)
	}
	if err := os.MkdirAll(filepath.Dir(l.file), 0o755); err != nil {
		return fmt.Errorf("save learned wake times: %w", err)
	}
	temp := l.file + ".new"
	if err := os.WriteFile(temp, text, 0o644); err != nil {
		return fmt.Errorf("save learned wake times: %w", err)
	}
	if err := os.Rename(temp, l.file); err != nil {
		return fmt.Errorf("save learned wake times: %w", err)
	}
	return nil
}
