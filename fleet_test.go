//go:build linux

package main_test

import (
	"fmt"
	"io"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/Shopify/toxiproxy/v2"
	"github.com/rs/zerolog"

	"pilotlight/proxy/admin"
	"pilotlight/warmpool/agent"
)

// keeping is a running pilotlight agent.
type keeping struct {
	*pilotlight
	link string // where it waits for edges
}

// keepNode runs an agent of a node, which has no model server left at the end.
func keepNode(t *testing.T, state, link, config string) *keeping {
	t.Helper()
	k := &keeping{pilotlight: &pilotlight{file: filepath.Join(t.TempDir(), "agent.yaml"), state: state}, link: link}
	k.configure(t, config)
	t.Cleanup(func() { // whatever else goes wrong
		for _, m := range processes(t, k.mark()) {
			_ = syscall.Kill(m.pid, syscall.SIGKILL)
		}
	})
	k.start(t)
	return k
}

// start starts it, for the first time or anew.
func (k *keeping) start(t *testing.T) {
	t.Helper()
	p := start(t, []string{raceOptions, k.mark()}, binary(t), "agent", "-c", k.file, "--listen", k.link, "--admin", "127.0.0.1:0")
	k.process = p
	t.Cleanup(func() {
		if !p.ended() {
			p.end(t, os.Interrupt)
			k.wantModelServers(t)
		}
	})
	eventually(t, "the agent keeps its node", func() bool { return len(p.logged("keeping")) > 0 })
}

// edgeOf runs an edge that knows nothing but where agents are.
func edgeOf(t *testing.T, links ...string) *pilotlight {
	t.Helper()
	e := serve(t, t.TempDir(), "limits: {body_time: 1s}\nagents: ["+strings.Join(links, ", ")+"]\n")
	eventually(t, "the edge is linked to all agents", func() bool { return e.linked(t) == len(links) })
	return e
}

// linked counts the agents that an edge is linked to.
func (p *pilotlight) linked(t *testing.T) (n int) {
	t.Helper()
	var nodes []agent.NodeStatus
	if err := p.admin.Nodes(t.Context(), &nodes); err != nil {
		t.Fatal(err)
	}
	for _, node := range nodes {
		if node.Link == agent.Linked {
			n++
		}
	}
	return n
}

// nodeOf is a node's configuration with some simulated models.
func nodeOf(t *testing.T, name string, models ...sim) string {
	t.Helper()
	return "node: {name: " + name + "}\n" + simulated(t, models...)
}

func TestARequestToAnyEdgeWakesAModelOnAnotherNode(t *testing.T) {
	t.Parallel()
	links := []string{freeAddr(t), freeAddr(t)}
	keepNode(t, t.TempDir(), links[0], nodeOf(t, "a", sim{name: "m", args: "--load 100ms"}))
	keepNode(t, t.TempDir(), links[1], nodeOf(t, "b", sim{name: "n", args: "--load 100ms"}))
	var edges []*pilotlight
	for range 3 {
		edges = append(edges, edgeOf(t, links...))
	}
	edges[0].wantOK(t, chat("m", "Hello."))
	edges[1].wantOK(t, chat("n", "Hello."))
	for _, e := range edges[1:] {
		e.wantOK(t, chat("m", "Hello again."))
	}
	want := fleetSeen(t, edges[0])
	if !strings.Contains(want, "a/m-0 on a: ready") || !strings.Contains(want, "b/n-0 on b: ready") {
		t.Errorf("an edge sees\n%s, want both backends ready", want)
	}
	for _, e := range edges[1:] {
		eventually(t, "all edges say the same of the fleet", func() bool { return fleetSeen(t, e) == want })
	}
	edges[2].run(t, "sleep", "m") // an agent does what an edge is told
	if got := edges[0].await(t, "m", "stopped"); got.ID != "a/m-0" {
		t.Errorf("%s is stopped", got.ID)
	}
}

// fleetSeen is what an edge says of every backend, without what is its own.
func fleetSeen(t *testing.T, e *pilotlight) string {
	t.Helper()
	s, err := e.admin.Status(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	var b strings.Builder
	for _, m := range s.Models {
		slices.SortFunc(m.Backends, func(a, b admin.BackendStatus) int { return strings.Compare(a.ID, b.ID) })
		for _, x := range m.Backends {
			fmt.Fprintf(&b, "%s on %s: %s since %s at %s, %s\n", x.ID, x.Node, x.State, x.Since.UTC(), x.Addr, x.Reason)
		}
	}
	return b.String()
}

// An agent dies for longer than any lease. What it left ready serves, and it finds that again.
func TestAnAgentThatIsKilledLeavesItsModelServersServing(t *testing.T) {
	t.Parallel()
	a := keepNode(t, t.TempDir(), freeAddr(t), nodeOf(t, "a", sim{name: "m", args: "--load 100ms --step 1ms --answer 2"}))
	e := edgeOf(t, a.link)
	e.wantOK(t, chat("m", "Hello."))
	before := e.model(t, "m").Backends[0]
	a.kill(t)
	for end := time.Now().Add(agent.LeaseTime + 5*time.Second); time.Now().Before(end); {
		e.wantOK(t, chat("m", "Hello again."))
	}
	a.start(t)
	eventually(t, "the edge is linked again", func() bool { return e.linked(t) == 1 })
	if after := e.await(t, "m", "ready"); after.PID != before.PID {
		t.Errorf("the model server is process %d, and was %d", after.PID, before.PID)
	}
	e.wantOK(t, chat("m", "Hello."))
	e.run(t, "stop", "m")
	a.wantModelServers(t)
}

// An edge is cut off from an agent with an answer under way, for longer than its lease: the model is idle for its agent, as far as that
// hears, and is not put to sleep before the answer is complete.
func TestNoBusyBackendIsPutToSleepWhenAnEdgeIsCutOff(t *testing.T) {
	t.Parallel()
	a := keepNode(t, t.TempDir(), freeAddr(t), nodeOf(t, "a",
		sim{name: "m", model: "idle_time: 1s", backend: "sleep: engine, connect_time: 1s, slots: 4", args: "--load 100ms --step 100ms --answer 200"}))
	proxy := toxiproxy.NewProxy(toxiproxy.NewServer(toxiproxy.NewMetricsContainer(nil), zerolog.Nop()), t.Name(), "127.0.0.1:0", a.link)
	if err := proxy.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(proxy.Stop)
	cut, other := edgeOf(t, proxy.Listen), edgeOf(t, a.link)
	stream := cut.call(t, chat("m", "Tell me a lot.", streamed)) // 20 s
	answer := stream.beginStream(t)
	for _, way := range []string{"upstream", "downstream"} {
		toxic := fmt.Sprintf(`{"name":%q,"type":"timeout","stream":%[1]q,"attributes":{"timeout":0}}`, way)
		if _, err := proxy.Toxics.AddToxicJson(strings.NewReader(toxic)); err != nil {
			t.Fatal(err)
		}
	}
	body, err := io.ReadAll(answer.Body)
	if err != nil || !strings.Contains(string(body), "[DONE]") {
		t.Errorf("the answer ends with %v after %q", err, body)
	}
	if cut.linked(t) != 0 {
		t.Error("the edge was not cut off")
	}
	other.await(t, "m", "asleep")
	if got := cut.lastOutcome(t); got != "ok" {
		t.Errorf("the request ended %s, want ok", got)
	}
}
