package launch

import (
	"errors"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"pilotlight/config"
	"pilotlight/router"
	"pilotlight/warmpool"
)

// driver is what the stand-in for cuda-checkpoint works on.
type driver struct {
	t   *testing.T
	dir string
}

func newDriver(t *testing.T) driver {
	t.Helper()
	d := driver{t, t.TempDir()}
	program, err := os.ReadFile("testdata/cuda-checkpoint")
	if err != nil {
		t.Fatal(err)
	}
	d.set("cuda-checkpoint", string(program))
	if err := os.Chmod(d.binary(), 0o700); err != nil {
		t.Fatal(err)
	}
	return d
}

func (d driver) binary() string { return filepath.Join(d.dir, "cuda-checkpoint") }

func (d driver) set(file, text string) {
	d.t.Helper()
	if err := os.WriteFile(filepath.Join(d.dir, file), []byte(text), 0o600); err != nil {
		d.t.Fatal(err)
	}
}

// states are those of all CUDA processes.
func (d driver) states() (all []string) {
	files, err := filepath.Glob(filepath.Join(d.dir, "[0-9]*"))
	if err != nil {
		d.t.Fatal(err)
	}
	for _, file := range files {
		text, err := os.ReadFile(file)
		if err != nil {
			d.t.Fatal(err)
		}
		all = append(all, strings.TrimSpace(string(text)))
	}
	return all
}

func (d driver) wants(states string) {
	d.t.Helper()
	if got := strings.Join(d.states(), " "); got != states {
		d.t.Errorf("its processes are %s, want %s", got, states)
	}
}

// calls are the actions that the program did, in order, without those that only look.
func (d driver) calls() string {
	text, err := os.ReadFile(filepath.Join(d.dir, "calls"))
	if err != nil {
		d.t.Fatal(err)
	}
	var actions []string
	for line := range strings.Lines(string(text)) {
		if action, _, _ := strings.Cut(line, " "); action != "state" {
			actions = append(actions, action)
		}
	}
	return strings.Join(actions, " ")
}

// process makes a Launcher for a fake model server with a worker, both of which use CUDA.
func (d driver) process(stateDir string) *Launcher {
	l := process(d.t, stateDir, "family cuda="+d.dir)
	l.spec.Backend.Sleep, l.spec.Backend.Engine = config.SleepCheckpoint, config.VLLM
	l.spec.Backend.Process.StopTime = config.Duration(100 * time.Millisecond) // for its worker is stubborn
	l.checkpointer.binary = d.binary()
	l.mode.sleeps = config.SleepCheckpoint
	return l
}

// up wakes it, and waits until its worker uses CUDA, too.
func (d driver) up(l *Launcher) {
	d.t.Helper()
	if _, err := l.Wake(d.t.Context(), nil); err != nil {
		d.t.Fatal(err)
	}
	for len(d.states()) < 2 {
		if d.t.Context().Err() != nil {
			d.t.Fatal("its worker does not come up")
		}
		time.Sleep(time.Millisecond)
	}
}

func TestACUDAProcessSleepsWithoutItsCooperation(t *testing.T) {
	d, stateDir := newDriver(t), t.TempDir()
	l := d.process(stateDir)
	d.up(l)
	mustSleep(t, l, router.OnHost)
	d.wants("checkpointed checkpointed")
	if got, want := d.calls(), "lock lock checkpoint checkpoint"; got != want {
		t.Errorf("it did %s, want %s: the first must not go before the last is locked", got, want)
	}

	after := d.process(stateDir) // of a pilotlight that was started anew
	mustFind(t, after, router.Asleep, router.OnHost)
	pid := after.child.pid
	if _, err := after.Wake(t.Context(), nil); err != nil {
		t.Fatal(err)
	}
	d.wants("running running")
	if after.child.pid != pid {
		t.Error("it was started anew")
	}
	mustFind(t, after, router.Ready, router.OnGPU)
	if got, want := d.calls(), "lock lock checkpoint checkpoint restore restore unlock unlock"; got != want {
		t.Errorf("it did %s, want %s", got, want)
	}
}

func TestADriverBefore570Toggles(t *testing.T) {
	d := newDriver(t)
	d.set("old", "")
	l := d.process(t.TempDir())
	d.up(l)
	mustSleep(t, l, router.OnHost)
	d.wants("checkpointed checkpointed")
	if _, err := l.Wake(t.Context(), nil); err != nil {
		t.Fatal(err)
	}
	d.wants("running running")
}

func TestACheckpointThatFailsLeavesTheProcessAsItWas(t *testing.T) {
	for name, c := range map[string]struct {
		prepare func(driver, *Launcher)
		says    string
	}{
		"there is no such program": {func(_ driver, l *Launcher) { l.checkpointer.binary = "no-such-cuda-checkpoint" }, "no-such-cuda-checkpoint is not in PATH; it is at github.com/NVIDIA/cuda-checkpoint, and node.cuda_checkpoint says where"},
		"the path is wrong":        {func(d driver, l *Launcher) { l.checkpointer.binary = d.dir + "/nothing" }, "no such file"},
		"it does not lock":         {func(d driver, _ *Launcher) { d.set("fail-lock", "timed out") }, "Could not lock PID"},
		"it does not checkpoint":   {func(d driver, _ *Launcher) { d.set("fail-checkpoint", "not supported") }, "not supported"},
		"the last does not lock": {func(d driver, l *Launcher) {
			d.set("fail-lock-"+filepath.Base(last(d)), "timed out")
		}, "timed out"},
		"the last does not checkpoint": {func(d driver, l *Launcher) {
			d.set("fail-checkpoint-"+filepath.Base(last(d)), "out of memory")
		}, "out of memory"},
		"nothing uses CUDA": {func(d driver, _ *Launcher) { d.set("fail-state", "invalid argument") }, "none of its 2 processes uses CUDA"},
	} {
		t.Run(name, func(t *testing.T) {
			d := newDriver(t)
			l := d.process(t.TempDir())
			d.up(l)
			c.prepare(d, l)
			_, err := l.Sleep(t.Context())
			if !errors.Is(err, warmpool.ErrCannotSleep) || !strings.Contains(err.Error(), c.says) {
				t.Errorf("got %v, want it to say %q", err, c.says)
			}
			d.wants("running running")
			mustFind(t, l, router.Ready, router.OnGPU)
		})
	}
}

// last is the file of the CUDA process that is asked last.
func last(d driver) string {
	files, err := filepath.Glob(filepath.Join(d.dir, "[0-9]*"))
	if err != nil || len(files) == 0 {
		d.t.Fatal("no process uses CUDA", err)
	}
	return files[len(files)-1]
}

func TestAProcessThatIsHalfCheckpointedIsSaidToBeLost(t *testing.T) {
	d := newDriver(t)
	l := d.process(t.TempDir())
	d.up(l)
	d.set("fail-checkpoint-"+filepath.Base(last(d)), "unknown error")
	d.set("fail-restore", "unknown error")
	if _, err := l.Sleep(t.Context()); err == nil || errors.Is(err, warmpool.ErrCannotSleep) {
		t.Errorf("got %v", err)
	}
}

func TestACheckpointThatDoesNotComeBackIsStartedAnew(t *testing.T) {
	d := newDriver(t)
	l := d.process(t.TempDir())
	d.up(l)
	mustSleep(t, l, router.OnHost)
	pid := l.child.pid
	d.set("fail-restore", "unknown error")
	if _, err := l.Wake(t.Context(), nil); err != nil {
		t.Fatal(err)
	}
	if l.child.pid == pid || groupLives(pid) {
		t.Errorf("process %d goes on", pid)
	}
	mustFind(t, l, router.Ready, router.OnGPU)
}

func TestACheckpointThatFindsNoMemorySaysSo(t *testing.T) {
	d := newDriver(t)
	l := d.process(t.TempDir())
	d.up(l)
	mustSleep(t, l, router.OnHost)
	d.set("fail-restore", "CUDA error: out of memory")
	if _, err := l.Wake(t.Context(), nil); !errors.Is(err, warmpool.ErrOutOfMemory) {
		t.Errorf("got %v", err)
	}
	mustFind(t, l, router.Stopped, router.OnDisk)
}

func TestAWakeThatFindsTooLittleGPUMemorySaysSo(t *testing.T) {
	for behaviour, want := range map[string]bool{"crash": true, "noise": false} {
		_, err := process(t, t.TempDir(), behaviour).Wake(t.Context(), nil)
		if got := errors.Is(err, warmpool.ErrOutOfMemory); err == nil || got != want {
			t.Errorf("%s: out of memory: %v, want %v: %v", behaviour, got, want, err)
		}
	}
	f := &fake{serve: func(f *fake, request, body string) (int, string) {
		if request == "POST /wake_up" {
			return 500, `{"error":"CUDA out of memory. Tried to allocate 2.00 GiB. GPU 0 has a total capacity of 79.11 GiB"}`
		}
		return vllm(f, request, body)
	}}
	l := f.at(t, config.Backend{Engine: config.VLLM, Sleep: config.SleepEngine})
	if _, err := l.Wake(t.Context(), nil); !errors.Is(err, warmpool.ErrOutOfMemory) {
		t.Errorf("a wake answer: %v", err)
	}
}

func TestOutOfMemoryIsToldFromOtherTrouble(t *testing.T) {
	for said, want := range map[string]bool{
		"torch.OutOfMemoryError: CUDA out of memory. Tried to allocate 1.50 GiB.":                                          true,
		"ggml_backend_cuda_buffer_type_alloc_buffer: allocating 9000.00 MiB on device 0: cudaMalloc failed: out of memory": true,
		"RuntimeError: CUDA error: out of memory":                                                                          true,
		"CUDA driver error: CUDA_ERROR_OUT_OF_MEMORY":                                                                      true,
		"ValueError: Free memory on device (7.1/79.1 GiB) on startup is less than desired GPU memory utilization (0.9":     true,
		"ValueError: No available memory for the cache blocks. Try increasing `gpu_memory_utilization`":                    true,
		"Memory cgroup out of memory: Killed process 4711 (python3)":                                                       false,
		"OSError: [Errno 12] Cannot allocate memory":                                                                       false,
		"KeyError: 'out_of_memory_policy'":                                                                                 false,
	} {
		if got := outOfMemory.MatchString(said); got != want {
			t.Errorf("%q: %v", said, got)
		}
	}
}
