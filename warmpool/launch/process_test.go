package launch

import (
	"context"
	"errors"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"pilotlight/config"
	"pilotlight/router"
	"pilotlight/warmpool"
)

// process makes a Launcher for a fake model server of a given behaviour, and ends what is left of it after the test.
func process(t *testing.T, stateDir, behaviour string) *Launcher {
	t.Helper()
	binary, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	l := newLauncher(t, stateDir, config.Backend{
		Engine: config.VLLM, Sleep: config.SleepEngine, Stall: config.Duration(time.Minute),
		Process: &config.Process{
			Command:  []string{binary, "{port}"},
			Env:      map[string]string{"FAKE_SERVER": behaviour, "PORT": "{port}/{gpus}"},
			StopTime: config.Duration(10 * time.Second),
		},
	})
	t.Cleanup(func() {
		if err := l.Stop(context.Background()); err != nil {
			t.Error(err)
		}
	})
	return l
}

func wake(t *testing.T, l *Launcher) warmpool.Up {
	t.Helper()
	up, err := l.Wake(t.Context(), []int{0, 2})
	if err != nil {
		t.Fatal(err)
	}
	return up
}

func logOf(t *testing.T, l *Launcher) string {
	t.Helper()
	text, err := os.ReadFile(l.path("logs", ".log"))
	if err != nil {
		t.Fatal(err)
	}
	return string(text)
}

func TestAProcessIsStartedWhereItIsTold(t *testing.T) {
	secret := filepath.Join(t.TempDir(), "secret")
	if err := os.WriteFile(secret, []byte("s3cret\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	l := process(t, t.TempDir(), "well")
	l.spec.Backend.Process.SecretEnv = map[string]string{"TOKEN": secret}
	mustFind(t, l, router.Stopped, router.OnDisk)
	up := wake(t, l)
	mustFind(t, l, router.Ready, router.OnGPU)

	_, port, _ := strings.Cut(up.Addr, ":")
	if want := "gpus 0,2 token s3cret port " + port + "/0,2\n"; !strings.HasPrefix(logOf(t, l), want) {
		t.Errorf("it logged %q, want %q", logOf(t, l), want)
	}
	pid := l.child.pid
	if l.PID() != pid {
		t.Errorf("its process is said to be %d, not %d", l.PID(), pid)
	}
	if err := l.Stop(t.Context()); err != nil {
		t.Fatal(err)
	}
	if l.PID() != 0 {
		t.Errorf("its process is said to be %d", l.PID())
	}
	if groupLives(pid) {
		t.Error("it outlived its stop")
	}
	mustFind(t, l, router.Stopped, router.OnDisk)
	select {
	case why := <-up.Gone:
		t.Errorf("it is said to be gone by itself: %v", why)
	default:
	}
}

func TestAProcessThatEndsDuringItsWakeSaysWhy(t *testing.T) {
	l := process(t, t.TempDir(), "crash")
	_, err := l.Wake(t.Context(), nil)
	if err == nil || !strings.HasPrefix(err.Error(), "wake m-0: it exited with status 3 after ") ||
		!strings.HasSuffix(err.Error(), "s: RuntimeError: CUDA out of memory") {
		t.Errorf("got %v", err)
	}
	mustFind(t, l, router.Stopped, router.OnDisk)
}

func TestACommandThatIsNotThereFailsTheWake(t *testing.T) {
	l := process(t, t.TempDir(), "well")
	l.spec.Backend.Process.Command = []string{"/no/such/llama-server"}
	_, err := l.Wake(t.Context(), nil)
	if err == nil || !strings.HasPrefix(err.Error(), "wake m-0: start /no/such/llama-server: ") {
		t.Errorf("got %v", err)
	}
}

func TestAPortThatIsTakenMeanwhileIsExchanged(t *testing.T) {
	wake(t, process(t, t.TempDir(), "taken="+filepath.Join(t.TempDir(), "once")))
}

func TestAWakeWithoutProgressStallsAndLeavesNothingBehind(t *testing.T) {
	l := process(t, t.TempDir(), "hang")
	l.spec.Backend.Stall = config.Duration(300 * time.Millisecond)
	_, err := l.Wake(t.Context(), nil)
	if !errors.Is(err, warmpool.ErrStalled) || !strings.Contains(err.Error(), "GET /health answered 503") {
		t.Errorf("got %v", err)
	}
	mustFind(t, l, router.Stopped, router.OnDisk)
}

func TestACancelledWakeLeavesNothingBehind(t *testing.T) {
	l := process(t, t.TempDir(), "hang family")
	l.spec.Backend.Process.StopTime = config.Duration(50 * time.Millisecond)
	left := errors.New("the last waiter left")
	ctx, cancel := context.WithCancelCause(t.Context())
	worker := make(chan int, 1)
	go func() {
		worker <- childOf(t, l)
		cancel(left)
	}()
	if _, err := l.Wake(ctx, nil); !errors.Is(err, left) {
		t.Errorf("got %v", err)
	}
	if pid := <-worker; lives(pid, mustBirth(pid)) {
		t.Errorf("process %d outlived the wake", pid)
	}
}

// childOf waits until the server has logged the number of its own child.
func childOf(t *testing.T, l *Launcher) int {
	for t.Context().Err() == nil {
		text, _ := os.ReadFile(l.path("logs", ".log"))
		_, after, _ := strings.Cut(string(text), "child ")
		if line, _, whole := strings.Cut(after, "\n"); whole {
			pid, err := strconv.Atoi(line)
			if err != nil {
				t.Error(err)
			}
			return pid
		}
		time.Sleep(time.Millisecond)
	}
	return 0
}

func mustBirth(pid int) string { born, _ := birth(pid); return born }

func TestAStubbornGroupIsKilledToItsLastProcess(t *testing.T) {
	l := process(t, t.TempDir(), "family stubborn")
	l.spec.Backend.Process.StopTime = config.Duration(50 * time.Millisecond)
	wake(t, l)
	leader, worker := l.child.pid, childOf(t, l)
	if !lives(worker, mustBirth(worker)) {
		t.Fatal("there is no family")
	}
	if err := l.Stop(t.Context()); err != nil {
		t.Fatal(err)
	}
	if groupLives(leader) || lives(worker, mustBirth(worker)) {
		t.Error("part of the group outlived the stop")
	}
}

func TestAServerThatDiesIsSaidToBeGoneAndTakesItsGroupAlong(t *testing.T) {
	l := process(t, t.TempDir(), "family")
	l.spec.Backend.Process.StopTime = config.Duration(50 * time.Millisecond) // for the next one's stubborn child
	up := wake(t, l)
	pid := l.child.pid
	if err := syscall.Kill(pid, syscall.SIGKILL); err != nil {
		t.Fatal(err)
	}
	why := <-up.Gone
	if !strings.HasPrefix(why.Error(), "it was ended by signal 9 (killed) after ") {
		t.Errorf("got %v", why)
	}
	for groupLives(pid) {
		time.Sleep(time.Millisecond) // it was killed, and takes a moment to end
	}
	mustFind(t, l, router.Stopped, router.OnDisk)
	if again := wake(t, l); again.Gone == up.Gone {
		t.Error("the new process has the Gone channel of the old one")
	}
}

func TestAProcessSleepsAndWakesWithoutBeingStartedAnew(t *testing.T) {
	l := process(t, t.TempDir(), "well")
	up := wake(t, l)
	pid := l.child.pid
	mustSleep(t, l, router.OnHost)
	again := wake(t, l)
	if l.child.pid != pid || again.Gone != up.Gone || again.Addr != up.Addr {
		t.Error("it is another process")
	}
}

func TestAProcessThatDiesAsleepIsGoneAndStartedAnew(t *testing.T) {
	l := process(t, t.TempDir(), "well")
	up := wake(t, l)
	mustSleep(t, l, router.OnHost)
	pid := l.child.pid
	if err := syscall.Kill(pid, syscall.SIGKILL); err != nil {
		t.Fatal(err)
	}
	<-up.Gone
	wake(t, l)
	if l.child.pid == pid {
		t.Error("it is the dead process")
	}
}

func TestAnEngineThatComesUpAsleepIsWoken(t *testing.T) {
	wake(t, process(t, t.TempDir(), "asleep"))
}

func TestTheNextLauncherAdoptsTheProcessAndSeesItEnd(t *testing.T) {
	stateDir := t.TempDir()
	first := process(t, stateDir, "well")
	up := wake(t, first)
	pid := first.child.pid

	// Even a wake that is asked for before anybody looked makes no second copy, and a configuration that has changed makes none either.
	second := process(t, stateDir, "well now")
	adopted := wake(t, second)
	if second.child.pid != pid || adopted.Addr != up.Addr || len(adopted.GPUs) != 2 {
		t.Fatalf("adopted %d at %+v, want %d at %+v", second.child.pid, adopted, pid, up)
	}
	if err := syscall.Kill(pid, syscall.SIGKILL); err != nil {
		t.Fatal(err)
	}
	if why := <-adopted.Gone; !strings.HasPrefix(why.Error(), "it ended after ") {
		t.Errorf("got %v", why)
	}
	mustFind(t, second, router.Stopped, router.OnDisk)
	if _, err := os.Stat(second.path("backends", ".json")); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("the record is still there: %v", err)
	}
}

func TestTheNextLauncherFindsAWakeThatWasUnderWay(t *testing.T) {
	stateDir := t.TempDir()
	first := process(t, stateDir, "hang")
	if err := first.start(nil); err != nil { // and pilotlight is killed
		t.Fatal(err)
	}
	second := process(t, stateDir, "hang")
	mustFind(t, second, router.Waking, router.OnDisk)
	if err := second.Stop(t.Context()); err != nil {
		t.Error(err)
	}
	if lives(first.child.pid, first.record.Born) {
		t.Error("it outlived its stop")
	}
}

func TestTheRecordOfAnotherProcessOfThatNumberIsStale(t *testing.T) {
	l := process(t, t.TempDir(), "well")
	l.record = record{PID: os.Getpid(), Born: "another boot/17", Addr: "127.0.0.1:1"}
	if err := l.saveRecord(); err != nil {
		t.Fatal(err)
	}
	mustFind(t, process(t, l.spec.StateDir, "well"), router.Stopped, router.OnDisk)
	l.record = record{}
}

func TestCloseLetsTheProcessLive(t *testing.T) {
	stateDir := t.TempDir()
	l := New(process(t, stateDir, "well").spec)
	wake(t, l)
	l.Close()
	again := process(t, stateDir, "well")
	mustFind(t, again, router.Ready, router.OnGPU)
}
