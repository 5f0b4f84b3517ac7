//go:build linux && cgo

package nvml

import (
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"slices"
	"strings"
	"syscall"
	"testing"
	"time"

	"pilotlight/config"
	"pilotlight/probe"
)

func TestWhatTheDriverSaysIsRead(t *testing.T) {
	now := time.Now().UnixMicro()
	f := watched(t, "libnvidia-ml.so.1", two+fmt.Sprintf(`
proc 0 %d %d
proc 0 999999 -1
busy 0 %d 40
sm 0 %d %d 30
remap 0 1 2 0 0
throttle 1 4
`, os.Getpid(), 18*gib, now, os.Getpid(), now))
	r := f.await("a GPU is busy", func(r probe.GPUs) bool {
		return len(r.GPUs) == 2 && r.GPUs[0].Busy == 0.4 && len(r.GPUs[0].Processes) == 2
	})
	a, b := r.GPUs[0], r.GPUs[1]
	if r.Driver != "580.95.05" || r.Problem != "" || r.Foreign || r.HostTotal <= r.HostFree || r.HostFree <= 0 {
		t.Errorf("of the node it reads %+v", r)
	}
	if a.UUID != "GPU-aaa" || a.Name != "NVIDIA H100 80GB HBM3" || a.Bus != "0000:00:00.0" || a.Index != 0 || b.Index != 1 {
		t.Errorf("the GPUs are %+v and %+v", a, b)
	}
	if a.Total != 80*config.GiB || a.Used != 20*config.GiB || a.Reserved != config.GiB/2 || a.Free != 80*config.GiB-20*config.GiB-config.GiB/2 {
		t.Errorf("memory: %+v", a)
	}
	if a.Energy != 1000 || a.Power != 350 || a.Heat != 40 || a.Clock != 1980 || a.Remapped != 3 || a.ECC != 0 || a.Recovery != probe.RecoveryNone {
		t.Errorf("GPU 0: %+v", a)
	}
	if b.Throttled != probe.PowerCap || a.Health != probe.Healthy || b.Health != probe.Healthy { // a power cap is how GPUs run
		t.Errorf("GPU 1 is throttled by %q, the GPUs are %s and %s", b.Throttled, a.Health, b.Health)
	}
	if want := [][]probe.Link{{probe.LinkSelf, probe.LinkNVLink}, {probe.LinkNVLink, probe.LinkSelf}}; !slices.EqualFunc(r.Links, want, slices.Equal) {
		t.Errorf("links: %v, want %v", r.Links, want)
	}
	us, gone := a.Processes[0], a.Processes[1]
	if us.PID != os.Getpid() || us.Used != 18*config.GiB || us.Born == 0 || us.Lineage[0] != os.Getpid() || us.Lineage[1] != os.Getppid() || us.Name == "" {
		t.Errorf("our process: %+v", us)
	}
	if owner := probe.NewOwners(map[string]int{"m-0": os.Getppid()}).Of(us); owner != "m-0" {
		t.Errorf("a child of a model server is %q's", owner)
	}
	if gone.Used != -1 || gone.Name != "" {
		t.Errorf("a process that has ended, and of which the driver says nothing: %+v", gone)
	}
	f.await("what its process had of the GPU is known", func(r probe.GPUs) bool { return r.GPUs[0].Processes[0].Busy == 0.3 || time.Now().UnixMicro() > now+5e6 })
}

func TestBusyTimeIsCountedFromTheDriversSamples(t *testing.T) {
	begin := time.Now().UnixMicro()
	f := watched(t, "libnvidia-ml.so.1", two+fmt.Sprintf("busy 0 %d 100\n", begin))
	f.await("the first sample is read", func(r probe.GPUs) bool { return len(r.GPUs) == 2 && r.GPUs[0].Busy == 1 })
	f.set(two + fmt.Sprintf("busy 0 %d 100\nbusy 0 %d 50\nbusy 0 %d 25\nbusy 0 %d 300\n", begin, begin+100_000, begin+300_000, begin+400_000))
	r := f.await("the next are", func(r probe.GPUs) bool { return r.GPUs[0].Ran > 0 })
	if want := 100 * time.Millisecond; r.GPUs[0].Ran != want { // half of 100 ms and a quarter of 200 ms; 300 % is no share
		t.Errorf("kernels ran for %v, want %v", r.GPUs[0].Ran, want)
	}
	if got, want := r.GPUs[0].Busy, 1.0/3; got < want-1e-9 || got > want+1e-9 {
		t.Errorf("the GPU was busy for %v of the time, want %v", got, want)
	}
}

func TestADriverWithoutNewFunctionsSaysLessAndEndsNothing(t *testing.T) {
	f := watched(t, "old.so", two)
	r := f.await("it reads", func(r probe.GPUs) bool { return len(r.GPUs) == 2 && r.GPUs[0].Total > 0 })
	g := r.GPUs[0]
	if g.Used != 20*config.GiB+config.GiB/2 || g.Reserved != -1 || g.Energy != -1 || g.ECC != -1 || g.Recovery != probe.RecoveryUnknown || g.Health != probe.Healthy {
		t.Errorf("GPU 0: %+v", g)
	}
	for _, what := range []string{"energy", "memory errors", "remapped rows", "recovery action", "reasons for being slow"} {
		if !slices.Contains(g.Silent, what+": this driver is too old for it") {
			t.Errorf("it does not say that %s is not told: %q", what, g.Silent)
		}
	}
	if r.Links[0][1] != probe.LinkSwitches {
		t.Errorf("the GPUs are joined by %v", r.Links[0][1])
	}
}

func TestWithoutALibraryTheWatchIsOver(t *testing.T) {
	f := watched(t, "nowhere.so", two)
	r := f.await("there is a reading", func(probe.GPUs) bool { return true })
	err := <-f.ended
	f.ended = nil
	if !errors.Is(err, ErrNoLibrary) || !strings.Contains(err.Error(), "nowhere.so cannot be loaded") || r.Problem != err.Error() {
		t.Errorf("it ended with %q, and said %q", err, r.Problem)
	}
}

func TestWhatKeepsADriverFromStartingIsSaidUntilItStarts(t *testing.T) {
	for code, want := range map[int]string{
		9:  "the driver is not loaded",
		18: "the driver and its library are of different versions",
		4:  "it needs more rights",
	} {
		t.Run(fmt.Sprint(code), func(t *testing.T) {
			t.Parallel()
			f := watched(t, "libnvidia-ml.so.1", fmt.Sprintf("init %d\n", code))
			f.await("it says why", func(r probe.GPUs) bool { return strings.Contains(r.Problem, want) })
			f.set(two)
			f.health(1, probe.Healthy, "")
		})
	}
}

func TestANodeWithoutGPUsSaysSo(t *testing.T) {
	f := watched(t, "libnvidia-ml.so.1", "driver 580.95.05\n")
	r := f.await("it says so", func(r probe.GPUs) bool { return r.Problem != "" })
	if r.Problem != "the NVIDIA driver finds no GPU" || len(r.GPUs) != 0 {
		t.Errorf("it says %q, of %d GPUs", r.Problem, len(r.GPUs))
	}
}

func TestALibraryThatIsNoneEndsItsOwnProcessOnly(t *testing.T) {
	f := watched(t, "empty.so", two)
	f.await("it says why", func(r probe.GPUs) bool { return strings.Contains(r.Problem, "symbol lookup error") })
}

func TestALostGPUIsSickAndItsNeighbourIsNot(t *testing.T) {
	for code, want := range map[int]string{15: "the driver has lost the GPU", 16: "the GPU needs a reset"} {
		t.Run(fmt.Sprint(code), func(t *testing.T) {
			t.Parallel()
			f := watched(t, "libnvidia-ml.so.1", two)
			f.health(0, probe.Healthy, "")
			f.set(two + fmt.Sprintf("fail DeviceGetMemoryInfo_v2 0 %d\n", code))
			r := f.health(0, probe.Sick, want)
			if r.GPUs[1].Health != probe.Healthy {
				t.Errorf("its neighbour is %s: %s", r.GPUs[1].Health, r.GPUs[1].Reason)
			}
			f.set(two)
			f.health(0, probe.Healthy, "")
		})
	}
}

func TestAGPUThatFallsOffTheBusKeepsItsPlaceAndSoDoTheOthers(t *testing.T) {
	f := watched(t, "libnvidia-ml.so.1", two)
	f.health(1, probe.Healthy, "")
	f.set(strings.Replace(two, "gpu 0", "# gpu 0", 1)) // the driver counts GPU 1 as 0 now
	r := f.health(0, probe.Sick, "the driver no longer lists it")
	if r.GPUs[0].UUID != "GPU-aaa" || r.GPUs[1].UUID != "GPU-bbb" || r.GPUs[1].Index != 1 || r.GPUs[1].Health != probe.Healthy {
		t.Errorf("the GPUs are %+v and %+v", r.GPUs[0], r.GPUs[1])
	}
	f.set(two)
	f.health(0, probe.Healthy, "")
}

func TestAnErrorOfTheGPUMakesItSickAndOneOfAProgramDoesNot(t *testing.T) {
	f := watched(t, "libnvidia-ml.so.1", two)
	f.health(0, probe.Healthy, "")
	f.set(two + "xid 0 13\n")
	r := f.await("the first is read", func(r probe.GPUs) bool { return len(r.GPUs[0].Xids) == 1 })
	if r.GPUs[0].Health != probe.Healthy || r.GPUs[0].Xids[0].Code != 13 {
		t.Errorf("after Xid 13 it is %s: %s", r.GPUs[0].Health, r.GPUs[0].Reason)
	}
	f.set(two + "xid 0 13\nxid 0 79\nrecovery 0 1\n")
	f.health(0, probe.Sick, "Xid 79: it has fallen off the bus")
	f.health(0, probe.Sick, "the driver asks to reset the GPU: Xid 79")
	f.set(two + "xid 0 13\nxid 0 79\n") // it was reset, and is on trial
	f.health(0, probe.Sick, "Xid 79: it has fallen off the bus")
}

func TestMemoryThatBreaksMakesAGPUDegradedOrSick(t *testing.T) {
	f := watched(t, "libnvidia-ml.so.1", two+"remap 0 0 1 1 0\nremap 1 0 8 0 1\n")
	f.health(0, probe.Degraded, "replaced at the next reset")
	f.health(1, probe.Sick, "it must be replaced")
}

func TestAHotGPUIsDegraded(t *testing.T) {
	f := watched(t, "libnvidia-ml.so.1", two+"throttle 0 44\n")
	f.health(0, probe.Degraded, "too hot (hardware)")
}

func TestInstancesOfMIGStandInPlaceOfTheirGPU(t *testing.T) {
	f := watched(t, "libnvidia-ml.so.1", two+fmt.Sprintf("mig 0 0 MIG-x %d %d\nmig 0 2 MIG-y %d 0\nproc 102 77 5\nmig 1 none\n", 10*gib, gib, 10*gib))
	r := f.await("there are three", func(r probe.GPUs) bool { return len(r.GPUs) == 3 && r.GPUs[0].Total > 0 })
	x, y, other := r.GPUs[0], r.GPUs[1], r.GPUs[2]
	if x.UUID != "MIG-x" || x.Parent != "GPU-aaa" || x.Total != 10*config.GiB || x.Used != config.GiB || y.UUID != "MIG-y" || y.Index != 1 {
		t.Errorf("the instances are %+v and %+v", x, y)
	}
	for _, what := range []string{"utilisation", "energy", "power"} {
		if !slices.Contains(x.Silent, what+": not supported by this GPU or its mode") {
			t.Errorf("it does not say that %s is not told: %q", what, x.Silent)
		}
	}
	if x.Busy != -1 || len(y.Processes) != 1 || y.Processes[0].Busy != -1 || r.Links[0][1] != probe.LinkSelf {
		t.Errorf("the instances are %+v and %+v, joined by %v", x, y, r.Links[0][1])
	}
	if other.Health != probe.Sick || !strings.Contains(other.Reason, "no instance has been made") {
		t.Errorf("a divided GPU without instances is %s: %s", other.Health, other.Reason)
	}
}

func TestAListThatGrowsBetweenTwoCallsEndsNothing(t *testing.T) {
	now := time.Now().UnixMicro()
	f := watched(t, "libnvidia-ml.so.1", two+fmt.Sprintf("grow 3\nproc 0 77 5\nsm 0 77 %d 50\n", now))
	first := f.health(0, probe.Healthy, "")
	r := f.await("it is read again", func(r probe.GPUs) bool { return r.At.Sub(first.At) > time.Second })
	if len(r.GPUs[0].Processes) != 1 || r.GPUs[0].Processes[0].Busy != 0 {
		t.Errorf("processes: %+v", r.GPUs[0].Processes)
	}
	if pids := f.processes(); len(pids) != 1 {
		t.Errorf("the processes %v look", pids)
	}
}

func TestACallThatBlocksTurnsTheGPUsUnknownUntilItReturns(t *testing.T) {
	f := watched(t, "libnvidia-ml.so.1", two)
	before := f.health(0, probe.Healthy, "")
	f.set(two + "block DeviceGetMemoryInfo_v2 0\n")
	r := f.health(0, probe.Unknown, "the driver has not answered for")
	if r.GPUs[1].Health != probe.Unknown || r.GPUs[0].Used != 20*config.GiB || r.At.Before(before.At) {
		t.Errorf("meanwhile it reads %+v", r)
	}
	f.set(two)
	if r := f.health(0, probe.Healthy, ""); !r.At.After(before.At) {
		t.Errorf("it is healthy by a reading of %v", r.At)
	}
}

func TestAProcessThatIsKilledIsStartedAnew(t *testing.T) {
	f := watched(t, "libnvidia-ml.so.1", two+"xid 0 95\n")
	f.health(0, probe.Sick, "Xid 95")
	var first []string
	for len(first) != 1 {
		first = f.processes()
	}
	if err := exec.Command("kill", "-KILL", first[0]).Run(); err != nil {
		t.Fatal(err)
	}
	r := f.await("another one looks", func(probe.GPUs) bool {
		pids := f.processes()
		return len(pids) == 1 && pids[0] != first[0]
	})
	if r.GPUs[0].Health == probe.Healthy {
		t.Error("what the first one saw is forgotten")
	}
}

func TestAProcessThatWritesRubbishIsEnded(t *testing.T) {
	f := &fake{t: t, state: t.TempDir() + "/state"}
	f.watch(&Watcher{Command: []string{"env", "FAKE_NVML_STATE=" + f.state, "sh", "-c", "echo nonsense; exec sleep 600"}})
	f.await("it says so", func(r probe.GPUs) bool { return strings.Contains(r.Problem, "wrote what is no reading") })
}

func TestTheProcessEndsWithWhoeverStartedItEvenIfItIsStuck(t *testing.T) {
	dir, err := libraries()
	if err != nil {
		t.Fatal(err)
	}
	f := &fake{t: t, state: t.TempDir() + "/state"}
	f.set(two + "block Init -1\n")
	cmd := exec.Command(os.Args[0], "nvml", dir+"/libnvidia-ml.so.1")
	cmd.Env = append(os.Environ(), "FAKE_NVML_STATE="+f.state)
	in, err := cmd.StdinPipe()
	if err != nil {
		t.Fatal(err)
	}
	cmd.Stdout = io.Discard
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	ended := make(chan error, 1)
	go func() { ended <- cmd.Wait() }()
	_ = in.Close()
	select {
	case err := <-ended:
		if err != nil {
			t.Errorf("it ended with %v", err)
		}
	case <-time.After(patience):
		_ = cmd.Process.Signal(syscall.SIGKILL)
		t.Error("it goes on without us")
	}
}
