package config

import (
	"bytes"
	"context"
	"errors"
	"log/slog"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"
)

// A watched file, in a bubble: time is virtual, the file is real.
type watched struct {
	watcher *Watcher
	hup     chan os.Signal

	mu      sync.Mutex // guards what follows
	changes []string   // the data port of each configuration that was handed on
	refuse  error      // what the receiver of changes answers
	log     bytes.Buffer
}

func (w *watched) changed(c *Config) error {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.changes = append(w.changes, strings.TrimPrefix(c.Listen, "127.0.0.1:"))
	return w.refuse
}

// Write takes the log.
func (w *watched) Write(p []byte) (int, error) {
	w.mu.Lock()
	defer w.mu.Unlock()
	return w.log.Write(p)
}

func (w *watched) logged() string {
	w.mu.Lock()
	defer w.mu.Unlock()
	return w.log.String()
}

// watch runs f with a Watcher of file, which holds a configuration that listens on port.
func watch(t *testing.T, file, port string, f func(w *watched)) {
	t.Helper()
	synctest.Test(t, func(t *testing.T) {
		inUse, err := Parse(file, []byte(listensOn(port)))
		if err != nil {
			t.Fatal(err)
		}
		w := &watched{hup: make(chan os.Signal)}
		w.watcher = NewWatcher(file, inUse, slog.New(slog.NewTextHandler(w, nil)))
		ctx, stop := context.WithCancel(t.Context())
		go w.watcher.Run(ctx, w.hup, w.changed)
		f(w)
		stop()
		synctest.Wait()
	})
}

func listensOn(port string) string { return "listen: 127.0.0.1:" + port + "\n" + small }

// pass lets the watcher look a few times.
func (w *watched) pass() {
	time.Sleep(3*lookEvery + lookEvery/2)
	synctest.Wait()
}

func (w *watched) errors() int { return strings.Count(w.logged(), "level=ERROR") }

func write(t *testing.T, file, text string) {
	t.Helper()
	if err := os.WriteFile(file, []byte(text), 0o644); err != nil {
		t.Fatal(err)
	}
}

func must(t *testing.T, errs ...error) {
	t.Helper()
	if err := errors.Join(errs...); err != nil {
		t.Fatal(err)
	}
}

func wantChanges(t *testing.T, w *watched, want ...string) {
	t.Helper()
	w.mu.Lock()
	defer w.mu.Unlock()
	if got := strings.Join(w.changes, " "); got != strings.Join(want, " ") {
		t.Errorf("changes are %q, want %q", got, strings.Join(want, " "))
	}
}

func TestAChangedFileIsReloadedHoweverItWasChanged(t *testing.T) {
	for how, change := range map[string]func(t *testing.T, dir, file string){
		"written in place": func(t *testing.T, _, file string) {
			write(t, file, listensOn("9002")+"\n# longer\n")
		},
		"renamed over": func(t *testing.T, dir, file string) {
			write(t, filepath.Join(dir, "new"), listensOn("9002"))
			must(t, os.Rename(filepath.Join(dir, "new"), file))
		},
		"link swapped": func(t *testing.T, dir, _ string) {
			must(t, os.Mkdir(filepath.Join(dir, "v2"), 0o755))
			write(t, filepath.Join(dir, "v2", "pilotlight.yaml"), listensOn("9002"))
			must(t, os.Symlink("v2", filepath.Join(dir, "..tmp")), os.Rename(filepath.Join(dir, "..tmp"), filepath.Join(dir, "..data")))
		},
	} {
		t.Run(how, func(t *testing.T) {
			dir := t.TempDir()
			file := filepath.Join(dir, "pilotlight.yaml")
			if how == "link swapped" { // as Kubernetes lays out a ConfigMap
				must(t, os.Mkdir(filepath.Join(dir, "v1"), 0o755), os.Symlink("v1", filepath.Join(dir, "..data")))
				must(t, os.Symlink(filepath.Join("..data", "pilotlight.yaml"), file))
			}
			write(t, file, listensOn("9001"))
			watch(t, file, "9001", func(w *watched) {
				old := w.watcher.Status()
				w.pass()
				wantChanges(t, w)
				change(t, dir, file)
				w.pass()
				wantChanges(t, w, "9002")
				now := w.watcher.Status()
				if !now.LastReloadSuccessful || now.Hash == old.Hash || !now.At.After(old.At) {
					t.Errorf("status was %+v and is %+v", old, now)
				}
				w.pass()
				wantChanges(t, w, "9002")
			})
		})
	}
}

func TestABadFileChangesNothingAndIsLoggedOnce(t *testing.T) {
	file := filepath.Join(t.TempDir(), "pilotlight.yaml")
	write(t, file, listensOn("9001"))
	watch(t, file, "9001", func(w *watched) {
		good := w.watcher.Status()
		for i, bad := range []string{"lsiten: 1", "lsiten: 10"} {
			write(t, file, bad)
			for touch := range 3 {
				must(t, os.Chtimes(file, time.Time{}, time.Unix(int64(touch), 0)))
				w.pass()
			}
			if got := w.errors(); got != i+1 {
				t.Errorf("%d errors are logged, want %d:\n%s", got, i+1, w.logged())
			}
			if s := w.watcher.Status(); s.LastReloadSuccessful || s.Hash != good.Hash || s.At != good.At {
				t.Errorf("status is %+v; want the old one, without success", s)
			}
		}
		if !strings.Contains(w.logged(), "did you mean") {
			t.Errorf("the log does not say what is wrong:\n%s", w.logged())
		}
		write(t, file, listensOn("9001"))
		w.pass()
		if s := w.watcher.Status(); s != good {
			t.Errorf("status is %+v after the file was mended, want %+v", s, good)
		}
		wantChanges(t, w)
	})
}

func TestAFileThatVanishesChangesNothing(t *testing.T) {
	file := filepath.Join(t.TempDir(), "pilotlight.yaml")
	write(t, file, listensOn("9001"))
	watch(t, file, "9001", func(w *watched) {
		w.pass()
		must(t, os.Remove(file))
		w.pass()
		w.pass()
		if s := w.watcher.Status(); s.LastReloadSuccessful || w.errors() != 1 {
			t.Errorf("status is %+v with %d errors logged; want no success and 1", s, w.errors())
		}
		write(t, file, listensOn("9002"))
		w.pass()
		wantChanges(t, w, "9002")
	})
}

func TestAHangupReloadsAtOnceAndAnswersEachTime(t *testing.T) {
	file := filepath.Join(t.TempDir(), "pilotlight.yaml")
	write(t, file, "lsiten: 1")
	watch(t, file, "9001", func(w *watched) {
		start := time.Now()
		for range 2 {
			w.hup <- os.Interrupt
			synctest.Wait()
		}
		if got := w.errors(); got != 2 {
			t.Errorf("%d errors are logged, want one for each hangup:\n%s", got, w.logged())
		}
		write(t, file, listensOn("9002"))
		w.hup <- os.Interrupt
		synctest.Wait()
		wantChanges(t, w, "9002")
		if d := time.Since(start); d != 0 {
			t.Errorf("it took %v, want no time", d)
		}
		w.pass()
		wantChanges(t, w, "9002")
	})
}

func TestAConfigurationThatIsRefusedLaterCountsAsBad(t *testing.T) {
	file := filepath.Join(t.TempDir(), "pilotlight.yaml")
	write(t, file, listensOn("9001"))
	watch(t, file, "9001", func(w *watched) {
		good := w.watcher.Status()
		w.mu.Lock()
		w.refuse = errors.New("listen cannot change while running")
		w.mu.Unlock()
		write(t, file, listensOn("19002"))
		w.pass()
		w.pass()
		wantChanges(t, w, "19002")
		if s := w.watcher.Status(); s.LastReloadSuccessful || s.Hash != good.Hash || w.errors() != 1 {
			t.Errorf("status is %+v with %d errors logged", s, w.errors())
		}
	})
}

func TestAFileThatIsStillBeingWrittenIsLeftAlone(t *testing.T) {
	file := filepath.Join(t.TempDir(), "pilotlight.yaml")
	write(t, file, listensOn("9001"))
	watch(t, file, "9001", func(w *watched) {
		w.pass()
		for n := range 5 {
			write(t, file, listensOn("9002")+strings.Repeat("\n#", n))
			time.Sleep(lookEvery)
		}
		synctest.Wait()
		wantChanges(t, w)
		w.pass()
		wantChanges(t, w, "9002")
	})
}

func TestAChangeBetweenLoadingAndWatchingIsNotMissed(t *testing.T) {
	file := filepath.Join(t.TempDir(), "pilotlight.yaml")
	write(t, file, listensOn("9002"))
	watch(t, file, "9001", func(w *watched) {
		w.pass()
		wantChanges(t, w, "9002")
	})
}
