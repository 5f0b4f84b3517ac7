//go:build linux && cgo

package nvml

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"pilotlight/config"
	"pilotlight/probe"
)

// TestMain is also the process that looks: the tests start themselves for that, so that each library has a process of its
// own, as it must.
func TestMain(m *testing.M) {
	if len(os.Args) > 1 && os.Args[1] == "nvml" {
		if err := Child(context.Background(), os.Args[2], os.Stdin, os.Stdout); err != nil {
			fmt.Fprintln(os.Stderr, err)
			os.Exit(1)
		}
		return
	}
	code := m.Run()
	if dir, err := libraries(); err == nil {
		_ = os.RemoveAll(dir)
	}
	os.Exit(code)
}

// patience bounds every wait for what takes some seconds at most on a machine that is not busy.
const patience = 60 * time.Second

// libraries are the folder of the fake ones: libnvidia-ml.so.1; old.so, of a driver that lacks much; and empty.so, which is none.
var libraries = sync.OnceValues(func() (string, error) {
	dir, err := os.MkdirTemp("", "fakenvml")
	if err != nil {
		return "", err
	}
	header, err := exec.Command("go", "list", "-m", "-f", "{{.Dir}}", "github.com/NVIDIA/go-nvml").Output()
	if err != nil {
		return "", fmt.Errorf("find nvml.h: %w", err)
	}
	if err := os.WriteFile(filepath.Join(dir, "empty.c"), []byte("int nothing;\n"), 0o600); err != nil {
		return "", err
	}
	for out, args := range map[string][]string{
		"libnvidia-ml.so.1": {"testdata/fakenvml.c"},
		"old.so":            {"-DOLD", "testdata/fakenvml.c"},
		"empty.so":          {filepath.Join(dir, "empty.c")},
	} {
		args = append([]string{
			"-O1", "-Wall", "-Werror", "-shared", "-fPIC", "-fvisibility=hidden",
			"-I" + filepath.Join(strings.TrimSpace(string(header)), "pkg/nvml"), "-o", filepath.Join(dir, out),
		}, args...)
		if said, err := exec.Command("gcc", args...).CombinedOutput(); err != nil {
			return "", fmt.Errorf("the fake library needs gcc: %w\n%s", err, said)
		}
	}
	return dir, nil
})

// fake is a node with a fake library, and somebody who watches its GPUs.
type fake struct {
	t        *testing.T
	state    string // the file that says what the library answers
	library  string
	readings chan probe.GPUs
	ended    chan error
	stop     context.CancelFunc
}

const gib = int64(config.GiB)

// two are GPUs as they are when all is well: the first has 20 GiB used.
var two = fmt.Sprintf(`driver 580.95.05
gpu 0 GPU-aaa %d %d %d 1000 350000 NVIDIA H100 80GB HBM3
gpu 1 GPU-bbb %d %d 0 2000 70000 NVIDIA H100 80GB HBM3
link 0 1 20 1
`, 80*gib, gib/2, 20*gib, 80*gib, gib/2)

// watched begins to watch GPUs through a library of libraries whose state is given.
func watched(t *testing.T, library, state string) *fake {
	t.Helper()
	dir, err := libraries()
	if err != nil {
		t.Fatal(err)
	}
	f := &fake{t: t, state: filepath.Join(t.TempDir(), "state"), library: filepath.Join(dir, library)}
	f.set(state)
	f.watch(&Watcher{Command: []string{"env", "FAKE_NVML_STATE=" + f.state, os.Args[0], "nvml", f.library}})
	return f
}

// watch lets w watch until the test ends. Nothing may be left of it then.
func (f *fake) watch(w *Watcher) {
	w.Log = slog.New(slog.DiscardHandler)
	f.readings, f.ended = make(chan probe.GPUs, 1), make(chan error, 1)
	var ctx context.Context
	ctx, f.stop = context.WithCancel(f.t.Context())
	go func() {
		f.ended <- w.Watch(ctx, func(r probe.GPUs) {
			select {
			case <-f.readings:
			default:
			}
			f.readings <- r
		})
	}()
	f.t.Cleanup(func() {
		f.stop()
		if f.ended == nil {
			return
		}
		select {
		case <-f.ended:
		case <-time.After(patience):
			f.t.Error("the watch does not end")
		}
		if pids := f.processes(); len(pids) > 0 {
			f.t.Errorf("of the watch the processes %v are left", pids)
		}
	})
}

// set has the library answer something else from now on.
func (f *fake) set(state string) {
	f.t.Helper()
	if err := errors.Join(os.WriteFile(f.state+".new", []byte(state), 0o600), os.Rename(f.state+".new", f.state)); err != nil {
		f.t.Fatal(err)
	}
}

// await waits for a reading like that, and answers it.
func (f *fake) await(what string, like func(probe.GPUs) bool) probe.GPUs {
	f.t.Helper()
	var last probe.GPUs
	limit := time.After(patience)
	for {
		select {
		case last = <-f.readings:
			if like(last) {
				return last
			}
		case err := <-f.ended:
			f.ended = nil
			f.t.Fatalf("the watch ended before %s: %v", what, err)
		case <-limit:
			f.t.Fatalf("after %v it is not so that %s; the last reading is %+v", patience, what, last)
		}
	}
}

// health waits until a GPU has it, with a reason that says so.
func (f *fake) health(gpu int, want probe.Health, reason string) probe.GPUs {
	f.t.Helper()
	return f.await(fmt.Sprintf("GPU %d is %s with %q", gpu, want, reason), func(r probe.GPUs) bool {
		return len(r.GPUs) > gpu && r.GPUs[gpu].Health == want && strings.Contains(r.GPUs[gpu].Reason, reason)
	})
}

// processes are those that look for this test: they have its state file in their environment.
func (f *fake) processes() (pids []string) {
	files, _ := filepath.Glob("/proc/[0-9]*/environ")
	for _, file := range files {
		env, _ := os.ReadFile(file)
		if f.state != "" && strings.Contains(string(env), "FAKE_NVML_STATE="+f.state) {
			pids = append(pids, filepath.Base(filepath.Dir(file)))
		}
	}
	return pids
}
