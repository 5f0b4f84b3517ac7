package scenario

import (
	"bufio"
	"context"
	"fmt"
	"io"
	"math/rand/v2"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"strings"
	"testing"
	"time"

	"pilotlight/loadtest"
	"pilotlight/probe/proc"
)

func TestATimelineIsReadOrRefused(t *testing.T) {
	f, err := parseFaults([]byte("every: 1m\ntimeline:\n  - {at: 5s, do: slow loads, for: 2s}\n  - {at: 1s, do: kill edge}\n"))
	if err != nil {
		t.Fatal(err)
	}
	if f.Every != time.Minute || f.Timeline[0].Do != "kill edge" || f.Timeline[1].Factor != 5 || f.Timeline[1].For != 2*time.Second {
		t.Errorf("%+v", f)
	}
	for text, want := range map[string]string{
		"":                                      "has no fault",
		"timeline: [{at: 1s, do: explode}]":     "say kill backend",
		"timeline: [{at: 1s, do: freeze edge}]": "say for how long",
		"timeline: [{at: -1s, do: kill edge}]":  "negative",
		"every: 2s\ntimeline: [{at: 1s, do: freeze edge, for: 1s}]":       "begins anew after 2s",
		"timeline: [{at: 1s, do: kill edge, how: badly}]":                 "how",
		"timeline: [{at: soon, do: kill edge}]":                           "soon",
		"timeline: [{at: 1s, do: kill edge}, {at: 2s, do: fill gpu}]":     "fault 2",
		"timeline: [{at: 1s, do: fill gpu, for: 1s, gib: 3, factor: -1}]": "negative",
	} {
		if _, err := parseFaults([]byte(text)); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%q: the error is %v, want one with %q", text, err, want)
		}
	}
}

func TestFaultsThatAFleetCannotHaveAreRefused(t *testing.T) {
	alone := &fleet{}
	alone.newProcess("edge-0", anEdge, "", "")
	for do, want := range map[string]string{
		"kill agent": "that of soak has", "freeze consul": "that of soak has", "drop link": "no links", "fill gpu": "does not look", "kill edge": "", "kill backend": "",
	} {
		err := (&Faults{Timeline: []Fault{{Do: do, For: time.Second}}}).fits(alone)
		if (err == nil) != (want == "") || err != nil && !strings.Contains(err.Error(), want) {
			t.Errorf("%s: %v", do, err)
		}
	}
}

func TestAProcessIsFrozenKilledAndStartedAgain(t *testing.T) {
	sleeper, err := exec.LookPath("sleep")
	if err != nil {
		t.Fatal(err)
	}
	f := &fleet{dir: t.TempDir()}
	p := f.newProcess("edge-0", anEdge, sleeper, "", "1h")
	if err := p.start(); err != nil {
		t.Fatal(err)
	}
	first := p.pid()
	random := rand.New(rand.NewPCG(1, 1))
	if err := (Fault{Do: "freeze edge", For: time.Millisecond}).happen(t.Context(), f, random); err != nil || p.gone() {
		t.Errorf("frozen: %v", err)
	}
	if err := (Fault{Do: "kill edge", For: time.Millisecond}).happen(t.Context(), f, random); err != nil || p.pid() == first || p.gone() {
		t.Errorf("killed, and started again: %v", err)
	}
	if alive := survivors([]int{first, p.pid()}); len(alive) != 1 || alive[0] != p.pid() {
		t.Errorf("of %d and %d there are %v", first, p.pid(), alive)
	}
	if err := f.end(); err == nil || !strings.Contains(err.Error(), "interrupt") {
		t.Errorf("it is told to end as by Ctrl-C, and ends of it: %v", err)
	}
	if alive := survivors([]int{p.pid()}); len(alive) != 0 {
		t.Errorf("%v is left", alive)
	}
}

func TestARelayPassesDropsAndRefuses(t *testing.T) {
	server, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer server.Close()
	go func() {
		for {
			c, err := server.Accept()
			if err != nil {
				return
			}
			go func() { defer c.Close(); _, _ = io.Copy(c, c) }()
		}
	}()
	ports, err := proc.FreePorts(1)
	if err != nil {
		t.Fatal(err)
	}
	r, err := newRelay(fmt.Sprintf("127.0.0.1:%d", ports[0]), server.Addr().String())
	if err != nil {
		t.Fatal(err)
	}
	echo := func(c net.Conn) error {
		if _, err := fmt.Fprintln(c, "hello"); err != nil {
			return err
		}
		_, err := bufio.NewReader(c).ReadString('\n')
		return err
	}
	dial := func() net.Conn {
		t.Helper()
		c, err := net.DialTimeout("tcp", r.addr, time.Minute)
		if err != nil {
			t.Fatal(err)
		}
		_ = c.SetDeadline(time.Now().Add(time.Minute))
		return c
	}
	c := dial()
	defer c.Close()
	if err := echo(c); err != nil {
		t.Fatalf("nothing passes: %v", err)
	}
	r.drop()
	if err := echo(c); err == nil {
		t.Error("what was there is not cut off")
	}
	silent := dial() // accepted, and nothing is heard
	defer silent.Close()
	for held := 0; held == 0; runtime.Gosched() {
		r.mu.Lock()
		held = len(r.conns)
		r.mu.Unlock()
	}
	r.restore()
	if err := echo(silent); err == nil {
		t.Error("who waited in vain is not told to begin afresh")
	}
	again := dial()
	defer again.Close()
	if err := echo(again); err != nil {
		t.Errorf("nothing passes afterwards: %v", err)
	}
	r.close()
	if c, err := net.DialTimeout("tcp", r.addr, time.Minute); err == nil {
		c.Close()
		t.Error("it does not refuse when the agent is gone")
	}
	if err := r.open(); err != nil {
		t.Fatal(err)
	}
	last := dial()
	defer last.Close()
	if err := echo(last); err != nil {
		t.Errorf("it does not open again: %v", err)
	}
	r.close()
}

func TestWhatAKilledEdgeTookWithItIsBounded(t *testing.T) {
	result := loadtest.NewResult()
	loadtest.Run(t.Context(), func(context.Context, *loadtest.Request) loadtest.Answer {
		return loadtest.Answer{Outcome: loadtest.OK, Sent: time.Now(), Ended: time.Now()}
	}, loadtest.Load{Most: 1, Requests: func(yield func(loadtest.Request) bool) {
		for range 10 {
			yield(loadtest.Request{})
		}
	}}, result)
	kill := deed{at: time.Now(), edge: true}
	for _, c := range []struct {
		logged int64
		done   []deed
		well   bool
	}{{10, nil, true}, {9, nil, false}, {11, nil, false}, {9, []deed{kill}, true}, {0, []deed{kill}, true}, {11, []deed{kill}, false}} {
		if err := accountsInLogs(result, map[string]int64{"ok": c.logged}, c.done); (err == nil) != c.well {
			t.Errorf("%d of 10 are in the log, %d edges were killed: %v", c.logged, len(c.done), err)
		}
	}
}

func TestFilledMemoryIsSaidAsSimulatedGPUsReadIt(t *testing.T) {
	f := &fleet{others: filepath.Join(t.TempDir(), "others.json")}
	if err := f.fill(Fault{GPU: 1, GiB: 2.5}); err != nil {
		t.Fatal(err)
	}
	text, err := os.ReadFile(f.others)
	if err != nil || string(text) != `["0B","2.5GiB"]` {
		t.Errorf("%s (%v)", text, err)
	}
}
