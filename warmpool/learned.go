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

// Learned is what was measured of backends: how long wakes took, and how much GPU memory they hold. It lasts over restarts in
// one small file. It belongs to one goroutine.
type Learned struct {
	file  string
	known map[string]*lesson // by backend
}

// lesson is what was learned of one backend, by tier: the one from which a wake began, and the one in which memory was held.
type lesson struct {
	Wake   map[string]time.Duration `json:"wake_ns,omitempty"`
	Memory map[string]config.Size   `json:"memory_bytes,omitempty"` // over all its GPUs
}

// learnedFile is the file. The first version had the wake times alone, by backend and tier, and no number.
type learnedFile struct {
	Version  int                `json:"version"`
	Backends map[string]*lesson `json:"backends"`
}

const learnedVersion = 2

// LoadLearned reads what was learned before. A file that is not there is an empty one; one that cannot be read is an error, and what
// is learned from now on replaces it.
func LoadLearned(file string) (*Learned, error) {
	l := &Learned{file: file, known: map[string]*lesson{}}
	text, err := os.ReadFile(file)
	switch {
	case os.IsNotExist(err):
		return l, nil
	case err != nil:
		return l, fmt.Errorf("read what was learned: %w", err)
	}
	if l.known, err = parseLearned(text); err != nil {
		return l, fmt.Errorf("read what was learned in %s: %w", file, err)
	}
	return l, nil
}

// parseLearned reads the file, in either version. It always gives something to go on with.
func parseLearned(text []byte) (map[string]*lesson, error) {
	known := map[string]*lesson{}
	var f learnedFile
	if err := json.Unmarshal(text, &f); err == nil && f.Version == learnedVersion {
		for id, was := range f.Backends {
			if was != nil {
				known[id] = was
			}
		}
		return known, nil
	}
	var first map[string]map[string]time.Duration
	if err := json.Unmarshal(text, &first); err != nil {
		return known, err
	}
	for id, times := range first {
		known[id] = &lesson{Wake: times}
	}
	return known, nil
}

// of is what is known of a backend.
func (l *Learned) of(backend string) *lesson {
	if was := l.known[backend]; was != nil {
		return was
	}
	is := &lesson{}
	l.known[backend] = is
	return is
}

// What a wake is taken to need before one was seen: an engine's start, and its weights at what a PCIe link or a disk gives.
const (
	startTime = 15 * time.Second
	wakeTime  = 300 * time.Millisecond
	hostRate  = 20 << 30 // bytes per second
	diskRate  = 2 << 30
)

// Seen is how long wakes from tier took, if there was one.
func (l *Learned) Seen(backend string, tier router.Tier) (took time.Duration, seen bool) {
	if was := l.known[backend]; was != nil {
		took, seen = was.Wake[tier.String()]
	}
	return took, seen
}

// Expect is how long a wake from tier takes.
func (l *Learned) Expect(backend string, tier router.Tier, memory config.Size) time.Duration {
	if took, seen := l.Seen(backend, tier); seen {
		return took
	}
	if tier == router.OnHost {
		return wakeTime + time.Duration(float64(memory)/hostRate*float64(time.Second))
	}
	return startTime + time.Duration(float64(memory)/diskRate*float64(time.Second))
}

// Learn takes a wake into account, half by half with what was known.
func (l *Learned) Learn(backend string, tier router.Tier, took time.Duration) error {
	is := l.of(backend)
	if was, ok := is.Wake[tier.String()]; ok {
		took = (was + took) / 2
	}
	if is.Wake == nil {
		is.Wake = map[string]time.Duration{}
	}
	is.Wake[tier.String()] = took
	return l.save()
}

// Memory is what a backend was seen to hold of its GPUs in a tier; 0 where nobody has seen it.
func (l *Learned) Memory(backend string, tier router.Tier) config.Size {
	if was := l.known[backend]; was != nil {
		return was.Memory[tier.String()]
	}
	return 0
}

// LearnMemory notes what a backend holds of its GPUs in a tier. Differences of less than a hundredth are no news.
func (l *Learned) LearnMemory(backend string, tier router.Tier, holds config.Size) error {
	was := l.Memory(backend, tier)
	if differs := max(was-holds, holds-was); differs <= was/100 {
		return nil
	}
	is := l.of(backend)
	if is.Memory == nil {
		is.Memory = map[string]config.Size{}
	}
	is.Memory[tier.String()] = holds
	return l.save()
}

// Keep forgets all backends but those named.
func (l *Learned) Keep(named map[string]bool) {
	for id := range l.known {
		if !named[id] {
			delete(l.known, id)
		}
	}
}

// save replaces the file in one step.
func (l *Learned) save() error {
	if l.file == "" {
		return nil
	}
	text, err := json.Marshal(learnedFile{learnedVersion, l.known})
	if err != nil {
		return fmt.Errorf("save what was learned: %w", err)
	}
	if err := os.MkdirAll(filepath.Dir(l.file), 0o755); err != nil {
		return fmt.Errorf("save what was learned: %w", err)
	}
	temp := l.file + ".new"
	if err := os.WriteFile(temp, text, 0o644); err != nil {
		return fmt.Errorf("save what was learned: %w", err)
	}
	if err := os.Rename(temp, l.file); err != nil {
		return fmt.Errorf("save what was learned: %w", err)
	}
	return nil
}
