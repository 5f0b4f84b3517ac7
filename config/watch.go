package config

import (
	"context"
	"crypto/sha256"
	"log/slog"
	"os"
	"sync/atomic"
	"time"
)

// A Watcher follows the file while the program runs. A file with problems changes nothing: the configuration that is
// in use stays.
type Watcher struct {
	file   string
	log    *slog.Logger
	status atomic.Pointer[Status]

	refused [sha256.Size]byte // the content that was refused last; only Run uses it
}

// Status is what a Watcher knows of its file.
type Status struct {
	LastReloadSuccessful bool      // what the file holds is in use
	Hash                 string    // of the configuration in use
	At                   time.Time // since when that is in use
}

// NewWatcher follows file, from which inUse was loaded. It does nothing until Run.
func NewWatcher(file string, inUse *Config, log *slog.Logger) *Watcher {
	w := &Watcher{file: file, log: log}
	w.status.Store(&Status{LastReloadSuccessful: true, Hash: inUse.Hash(), At: time.Now()})
	return w
}

// Status may be asked for at any time.
func (w *Watcher) Status() Status { return *w.status.Load() }

// lookEvery is how often the file is looked at. A change counts once two looks in a row have seen the same file, so that
// one that is still being written is left alone.
const lookEvery = time.Second

// Run reloads the file when hup says so and when it has changed, until ctx ends. It hands a configuration that differs
// from the one in use to changed, one at a time; if changed returns an error the old one counts as still in use.
// Mistakes are logged: once for each content that is refused, and whenever hup asks.
func (w *Watcher) Run(ctx context.Context, hup <-chan os.Signal, changed func(*Config) error) {
	tick := time.NewTicker(lookEvery)
	defer tick.Stop()
	var loaded, seen os.FileInfo
	fresh := true // what changed between loading and Run is not missed
	for {
		select {
		case <-ctx.Done():
			return
		case <-hup:
			seen, _ = os.Stat(w.file)
			w.log.Info("a reload was asked for", "file", w.file)
			w.refused = [sha256.Size]byte{}
			w.reload(changed)
			loaded, fresh = seen, false
		case <-tick.C:
			now, _ := os.Stat(w.file)
			if settled := same(now, seen); settled && (fresh || !same(now, loaded)) {
				w.reload(changed)
				loaded, fresh = now, false
			}
			seen = now
		}
	}
}

// same tells whether a and b describe one unchanged file; a file that cannot be seen is nil. Stat follows links, so it
// notices a link that was swapped as well as a file that was renamed over.
func same(a, b os.FileInfo) bool {
	if a == nil || b == nil {
		return a == b
	}
	return os.SameFile(a, b) && a.Size() == b.Size() && a.ModTime().Equal(b.ModTime())
}

func (w *Watcher) reload(changed func(*Config) error) {
	status := w.Status()
	defer func() { w.status.Store(&status) }()
	text, err := read(w.file)
	var cfg *Config
	if err == nil {
		cfg, err = Parse(w.file, text)
	}
	if err == nil && cfg.Hash() == status.Hash {
		status.LastReloadSuccessful = true
		w.refused = [sha256.Size]byte{}
		w.log.Debug("the configuration file means what it did", "file", w.file, "hash", status.Hash)
		return
	}
	if err == nil {
		err = changed(cfg)
	}
	if err != nil {
		status.LastReloadSuccessful = false
		w.refuse(text, err, status.Hash)
		return
	}
	w.refused = [sha256.Size]byte{}
	status = Status{LastReloadSuccessful: true, Hash: cfg.Hash(), At: time.Now()}
	w.log.Info("the configuration has changed", "file", w.file, "hash", status.Hash)
}

// refuse says why the file is not used, unless it has said just that of this content already.
func (w *Watcher) refuse(text []byte, err error, inUse string) {
	content := sha256.Sum256(append(text, err.Error()...))
	if content == w.refused {
		return
	}
	w.refused = content
	w.log.Error("the configuration stays as it was", "file", w.file, "hash", inUse, "error", err)
}
