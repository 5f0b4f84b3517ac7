//go:build linux

package main_test

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"maps"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"
)

// Here the whole product runs with simulated model servers, over real connections: what only many processes and real signals
// can show. Rules of timing have their tests in bubbles, in the packages that make the rules.

func TestOneWakeServesFiveHundredClientsInOrder(t *testing.T) {
	t.Parallel()
	const came, left = 500, 300
	leaves := func(i int) bool { return i%5 >= 2 } // three of five
	gate := filepath.Join(t.TempDir(), "gate")
	if err := syscall.Mkfifo(gate, 0o600); err != nil {
		t.Fatal(err)
	}
	p := serve(t, t.TempDir(), simulated(t, sim{name: "m", backend: "slots: 1", args: "--load 100ms --step 1ms --answer 2", gate: gate}))
	before := measure(t, p)

	prompt := func(i int) string { return fmt.Sprintf("number %03d", i) }
	wantLine := func(waiting int) {
		t.Helper()
		p.awaitWaiting(t, "m", waiting)
		bytes := int64(waiting * len(chatBody("m", prompt(0))))
		if got := p.model(t, "m"); got.State != "waking" || got.Line.Bytes != bytes {
			t.Errorf("got %+v, want it waking and %d bytes held", got, bytes)
		}
	}
	callers := make([]*caller, came)
	for i := range callers {
		callers[i] = p.call(t, chat("m", prompt(i)))
		p.awaitWaiting(t, "m", i+1) // so that the order of arrival is certain
	}
	wantLine(came)
	for i, c := range callers {
		if leaves(i) {
			c.Close()
		}
	}
	wantLine(came - left)

	if err := os.WriteFile(gate, []byte("open\n"), 0); err != nil {
		t.Fatal(err)
	}
	next := 0
	for i, c := range callers {
		if leaves(i) {
			continue
		}
		next++
		wantNext(t, c.reply(t), i, next)
		c.Close()
	}
	p.wantModelServers(t, p.await(t, "m", "ready").PID)
	wakes := slices.DeleteFunc(p.logged("backend moved"), func(l logLine) bool { return l.Event != "wanted" })
	if len(wakes) != 1 {
		t.Errorf("got the wakes %+v, want one", wakes)
	}

	ends := map[string]int{}
	for _, outcome := range p.outcomes(t) {
		ends[outcome]++
	}
	if want := map[string]int{"left": left, "ok": came - left}; !maps.Equal(ends, want) {
		t.Errorf("got the outcomes %v, want %v", ends, want)
	}
	wantNothingKept(t, p, before)
}

// wantNext wants the answer that a model server gave to its n-th request: it counts them in the answers' IDs.
func wantNext(t *testing.T, got reply, client, n int) {
	t.Helper()
	var answer struct {
		ID    string
		Usage struct {
			Completion int `json:"completion_tokens"`
		}
	}
	if err := json.Unmarshal([]byte(got.body), &answer); err != nil || got.status != 200 {
		t.Fatalf("client %d: got %d %s, want an answer", client, got.status, got.body)
	}
	if want := fmt.Sprintf("chatcmpl-%d", n); answer.ID != want || answer.Usage.Completion != 2 {
		t.Errorf("client %d: got %+v, want %s with 2 tokens", client, answer, want)
	}
}

// footprint is what a pilotlight holds: bytes of memory are those of its heap after a collection, because the race detector has the
// process keep what is free.
type footprint struct{ goroutines, files, memory int }

func measure(t *testing.T, p *pilotlight) (f footprint) {
	t.Helper()
	if err := get(t.Context(), "http://"+p.admin.Addr+"/debug/pprof/heap?gc=1", new(bytes.Buffer)); err != nil {
		t.Fatal(err)
	}
	f.goroutines = goroutines(t, p)
	f.files = int(metric(t, p.admin.Addr, "process_open_fds"))
	f.memory = int(metric(t, p.admin.Addr, "go_memstats_heap_alloc_bytes"))
	return f
}

// goroutines counts those of pilotlight, without the workers that fasthttp keeps for 10 s after a crowd.
func goroutines(t *testing.T, p *pilotlight) (sum int) {
	t.Helper()
	var profile bytes.Buffer
	if err := get(t.Context(), "http://"+p.admin.Addr+"/debug/pprof/goroutine?debug=1", &profile); err != nil {
		t.Fatal(err)
	}
	_, groups, _ := strings.Cut(profile.String(), "\n")
	for group := range strings.SplitSeq(groups, "\n\n") {
		isIdle := strings.Contains(group, ".workerFunc+") && !strings.Contains(group, ".serveConn+")
		if number, _, ok := strings.Cut(group, " @"); ok && !isIdle {
			n, err := strconv.Atoi(number)
			if err != nil {
				t.Fatalf("goroutine profile: %v", err)
			}
			sum += n
		}
	}
	return sum
}

// wantNothingKept wants no request of model m to be left, and pilotlight to come back to about what it held before: a
// connection or two to its model server may stay.
func wantNothingKept(t *testing.T, p *pilotlight, before footprint) {
	t.Helper()
	p.awaitInFlight(t, "m", 0)
	if line := p.model(t, "m").Line; line.Waiting != 0 || line.Bytes != 0 {
		t.Errorf("got %+v at the end, want an empty line", line)
	}
	const few, memory = 12, 4 << 20
	var now footprint
	eventually(t, "goroutines, files and memory are about what they were", func() bool {
		now = measure(t, p)
		return now.goroutines <= before.goroutines+few && now.files <= before.files+few && now.memory <= before.memory+memory
	})
	t.Logf("before %+v, after %+v", before, now)
}

func TestAModelServerThatIsKilledBreaksTheStreamAndWakesForTheNext(t *testing.T) {
	t.Parallel()
	p := serve(t, t.TempDir(), simulated(t, sim{name: "m", args: "--load 50ms --answer 60000"}))
	stream := p.call(t, chat("m", "go on", streamed)).beginStream(t)
	first := p.model(t, "m").Backends[0].PID
	kill(t, first)
	if _, err := io.ReadAll(stream.Body); !errors.Is(err, io.ErrUnexpectedEOF) {
		t.Errorf("the stream ended with %v, want %v", err, io.ErrUnexpectedEOF)
	}
	eventually(t, "the request's outcome is broken", func() bool { return p.lastOutcome(t) == "broken" })

	p.await(t, "m", "stopped") // what is sent to it while it dies is broken too: it may have been read
	p.wantOK(t, chat("m", "again", `"max_tokens":1`))
	second := p.await(t, "m", "ready").PID
	if second == first {
		t.Errorf("got pid %d again, want another process", second)
	}
	p.wantModelServers(t, second)
}

func TestModelServersOutlivePilotlight(t *testing.T) {
	t.Parallel()
	state := t.TempDir()
	models := simulated(t, sim{name: "awake", args: "--load 50ms"}, sim{name: "dozes", backend: "sleep: engine", args: "--load 50ms"})
	p := serve(t, state, models)
	for _, model := range []string{"awake", "dozes"} {
		p.wantOK(t, chat(model, "hello", `"max_tokens":1`))
	}
	p.run(t, "sleep", "dozes")
	awake, dozes := p.await(t, "awake", "ready").PID, p.await(t, "dozes", "asleep").PID

	for _, end := range []func(){
		func() { p.kill(t) },
		func() { p.end(t, syscall.SIGTERM) },
	} {
		end()
		p.wantModelServers(t, awake, dozes)
		p = serve(t, state, models)
		if got := p.await(t, "awake", "ready").PID; got != awake {
			t.Errorf("awake: got pid %d, want %d as before", got, awake)
		}
		if got := p.await(t, "dozes", "asleep").PID; got != dozes {
			t.Errorf("dozes: got pid %d, want %d as before", got, dozes)
		}
		p.wantModelServers(t, awake, dozes)
	}

	second := exec.Command(binary(t), "serve", "-c", p.file, "--listen", "127.0.0.1:0", "--admin", "127.0.0.1:0")
	second.Env = append(os.Environ(), raceOptions, p.mark())
	out, err := second.CombinedOutput()
	want := "another pilotlight uses the state directory " + filepath.Join(state, "pilotlight") + "; stop it, or give this one a node.state_dir of its own\n"
	if err == nil || string(out) != want {
		t.Errorf("a second pilotlight: got %v, %s, want it to say %s", err, out, want)
	}

	for _, model := range []string{"awake", "dozes"} {
		p.wantOK(t, chat(model, "hello", `"max_tokens":1`))
	}
	p.wantModelServers(t, awake, dozes)
	p.end(t, os.Interrupt)
	p.wantModelServers(t)
}

func TestAChangedFileIsTakenOverAndABrokenOneIsNot(t *testing.T) {
	t.Parallel()
	const good = "pilotlight_config_last_reload_successful"
	kept := sim{name: "kept", args: "--load 50ms"}
	p := serve(t, t.TempDir(), simulated(t, kept))
	hello := func(model string) string { return chat(model, "hello", `"max_tokens":1`) }
	p.wantOK(t, hello("kept"))
	wantMetric := func(want float64) {
		t.Helper()
		eventually(t, fmt.Sprintf("%s is %v", good, want), func() bool { return metric(t, p.admin.Addr, good) == want })
	}
	hup := func() {
		t.Helper()
		asked := len(p.logged("a reload was asked for"))
		if err := p.cmd.Process.Signal(syscall.SIGHUP); err != nil {
			t.Fatal(err)
		}
		eventually(t, "SIGHUP is heard", func() bool { return len(p.logged("a reload was asked for")) > asked })
	}
	hup() // for nothing
	wantMetric(1)

	p.configure(t, "models: {kept: {idle_time: soon}}\n")
	wantMetric(0)
	p.wantOK(t, hello("kept"))

	kept.model = "idle_time: 100ms"
	p.configure(t, simulated(t, kept))
	wantMetric(1)
	p.await(t, "kept", "stopped")
	if got := p.logged("the configuration stays as it was"); len(got) != 1 {
		t.Errorf("the broken file was logged %d times, want once", len(got))
	}

	added := sim{name: "added", args: "--load 50ms --answer 200"}
	p.configure(t, simulated(t, kept, added))
	hup()
	eventually(t, "the new model is listed", func() bool {
		var list struct{ Data []struct{ ID string } }
		if err := get(t.Context(), p.base+"/v1/models", &list); err != nil {
			t.Fatal(err)
		}
		return len(list.Data) == 2 && list.Data[0].ID == "added"
	})
	stream := p.call(t, chat("added", "hello", streamed))
	answer := stream.beginStream(t)

	p.configure(t, simulated(t, kept))
	hup()
	eventually(t, "a removed model is not known", func() bool { return p.call(t, hello("added")).reply(t).status == 404 })
	if body, err := io.ReadAll(answer.Body); err != nil || !strings.HasSuffix(string(body), "data: [DONE]\n\n") {
		t.Errorf("the answer under way ended with %v after %q, want it whole", err, body)
	}
	eventually(t, "its model server is gone", func() bool { return len(p.modelServers(t)) == 0 })
	if got := p.logged("the configuration has changed"); len(got) != 3 {
		t.Errorf("%d changes were taken over, want 3", len(got))
	}
}

func TestAClientThatLeavesIsForgottenInEveryPhase(t *testing.T) {
	t.Parallel()
	p := serve(t, t.TempDir(), simulated(t,
		sim{name: "talks", backend: "slots: 1", args: "--load 50ms --answer 60000"},
		sim{name: "thinks", args: "--load 50ms --step 1h"},
		sim{name: "wakes", args: "--load 1h"},
	))
	talking := p.call(t, chat("talks", "go on", streamed))
	talking.beginStream(t)
	inLine := p.call(t, chat("talks", "me too"))
	p.awaitWaiting(t, "talks", 1)
	waking := p.call(t, chat("wakes", "hello"))
	p.awaitWaiting(t, "wakes", 1)
	thinking := p.call(t, chat("thinks", "hello"))
	p.awaitRunning(t, "thinks")

	aborted := func(model string) bool {
		got := metric(t, p.model(t, model).Backends[0].Addr,
			fmt.Sprintf(`vllm:request_success_total{engine="0",finished_reason="abort",model_name="%s"}`, model))
		return got == 1 && p.running(t, model) == 0 && p.model(t, model).Backends[0].InFlight == 0
	}
	forgotten := func(model string) bool { line := p.model(t, model).Line; return line.Waiting == 0 && line.Bytes == 0 }
	for _, phase := range []struct {
		name   string
		client *caller
		gone   func() bool
	}{
		{"in line", inLine, func() bool { return forgotten("talks") }},
		{"during the wake", waking, func() bool { return forgotten("wakes") }},
		{"before the first byte", thinking, func() bool { return aborted("thinks") }},
		{"in the middle of a stream", talking, func() bool { return aborted("talks") }},
	} {
		left := time.Now()
		phase.client.Close()
		eventually(t, "nothing is left of the client that left "+phase.name, phase.gone)
		took := time.Since(left)
		t.Logf("%s: noticed everywhere after %v", phase.name, took.Round(100*time.Microsecond))
		if took > 2*time.Second {
			t.Errorf("%s: it took %v, want about none", phase.name, took)
		}
	}
	for phase, want := range map[string]float64{"line": 2, "first_byte": 1, "stream": 1} {
		if got := metric(t, p.admin.Addr, fmt.Sprintf(`pilotlight_departures_total{phase="%s"}`, phase)); got != want {
			t.Errorf("departures in %s: got %v, want %v", phase, got, want)
		}
	}
}

func kill(t *testing.T, pid int) {
	t.Helper()
	if err := syscall.Kill(pid, syscall.SIGKILL); err != nil {
		t.Fatalf("kill process %d: %v", pid, err)
	}
}
