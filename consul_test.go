//go:build linux

package main_test

import (
	"bytes"
	"fmt"
	"os"
	"slices"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/hashicorp/consul/api"

	"pilotlight/loadtest/realconsul"
)

// startConsul runs a real Consul of one server for the length of a test.
func startConsul(t *testing.T) *realconsul.Cluster {
	t.Helper()
	cluster, err := realconsul.Start(t.Context(), realconsul.Options{Dir: t.TempDir()})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = cluster.Close() })
	return cluster
}

// inConsul is the part of a configuration by which a process finds the others.
func inConsul(c *realconsul.Cluster) string {
	return fmt.Sprintf("consul: {address: %q}\n", c.Servers[0].Addr)
}

// Whatever becomes of an agent, what it left ready serves: through edges that know it and through one that comes later and has never heard it.
func TestWhatAnAgentLeftRunningServesLateEdgesOfAConsul(t *testing.T) {
	t.Parallel()
	consul := startConsul(t)
	node := inConsul(consul) + nodeOf(t, "a", sim{name: "m", args: "--load 100ms --step 1ms --answer 2"})
	a := keepNode(t, t.TempDir(), freeAddr(t), node)
	edge := func() *pilotlight { return serve(t, t.TempDir(), inConsul(consul)) }
	early := edge()
	eventually(t, "the edge is linked", func() bool { return early.linked(t) == 1 })
	early.wantOK(t, chat("m", "Hello."))
	left := a.modelServers(t)
	for _, end := range []struct {
		how string
		do  func()
	}{
		{"was told to end", func() { a.end(t, syscall.SIGTERM) }},
		{"was killed", func() { a.kill(t) }},
	} {
		end.do()
		late := edge()
		eventually(t, "Consul says that the agent has ended", func() bool {
			for _, e := range []*pilotlight{early, late} {
				if got := e.call(t, chat("m", "Hello again.")).reply(t); got.status != 200 {
					t.Fatalf("when the agent %s: %d %s", end.how, got.status, got.body)
				}
			}
			checks, _, err := consul.API(0).Health().Checks("pilotlight-agent", nil)
			return err == nil && len(checks) == 1 && checks[0].Status == api.HealthCritical
		})
		for range 10 { // and the edges have heard it
			early.wantOK(t, chat("m", "Hello."))
			late.wantOK(t, chat("m", "Hello."))
		}
		if got := late.linked(t); got != 0 {
			t.Errorf("the late edge is linked to %d agents that have ended", got)
		}
		a.start(t)
		for _, e := range []*pilotlight{early, late} {
			eventually(t, "the edge is linked again", func() bool { return e.linked(t) == 1 })
			e.wantOK(t, chat("m", "Hello."))
		}
	}
	a.wantModelServers(t, left...)
	a.end(t, os.Interrupt) // which stops the model servers too
	for _, service := range []string{"m", "pilotlight-agent"} {
		found, _, err := consul.API(0).Catalog().Service(service, "", nil)
		if err != nil || len(found) > 0 {
			t.Errorf("Consul goes on naming %s: %+v, %v", service, found, err)
		}
	}
}

func TestAKeyInConsulCountsOnEveryEdge(t *testing.T) {
	t.Parallel()
	consul := startConsul(t)
	kv := consul.API(0).KV()
	var edges []*pilotlight
	for range 2 {
		edges = append(edges, serve(t, t.TempDir(), inConsul(consul)+"keys: {consul: true}\n"))
	}
	line, secret, _ := bytes.Cut(run(t, "", nil, binary(t), "keys", "new", "-f", "none", "--json", "a"), []byte("\n"))
	ask := "GET /v1/models HTTP/1.1\r\nHost: p\r\nAuthorization: Bearer " + strings.TrimSpace(string(secret)) + "\r\n\r\n"
	await := func(what string, status int) {
		t.Helper()
		began := time.Now()
		for i, e := range edges {
			eventually(t, what, func() bool { return e.call(t, ask).reply(t).status == status })
			t.Logf("%s after %s on edge %d", what, time.Since(began), i)
		}
	}
	put := func(value []byte) {
		t.Helper()
		if _, err := kv.Put(&api.KVPair{Key: "pilotlight/keys/a", Value: value}, nil); err != nil {
			t.Fatal(err)
		}
	}
	problem := func(e *pilotlight, want bool) {
		t.Helper()
		eventually(t, fmt.Sprintf("a bad key is among the problems: %t", want), func() bool {
			return strings.Contains(string(e.run(t, "status")), "the API key at keys/a is not taken over") == want
		})
	}
	await("without it the key is refused", 401)
	put(line)
	await("the key counts", 200)
	put([]byte("{")) // which changes nothing, and is said
	for _, e := range edges {
		problem(e, true)
	}
	await("the key counts", 200)
	if _, err := kv.Delete("pilotlight/keys/a", nil); err != nil {
		t.Fatal(err)
	}
	await("the key is refused", 401)
	for _, e := range edges {
		problem(e, false)
	}
}

// planners are the edges that say of themselves that they plan.
func planners(t *testing.T, edges ...*pilotlight) (all []int) {
	t.Helper()
	for i, e := range edges {
		if metric(t, e.admin.Addr, "pilotlight_plan_acting") == 1 {
			all = append(all, i)
		}
	}
	return all
}

func TestAPlannerThatIsKilledIsFollowedByAnotherInConsul(t *testing.T) {
	t.Parallel()
	consul := startConsul(t)
	var edges []*pilotlight
	for range 3 {
		edges = append(edges, serve(t, t.TempDir(), inConsul(consul)))
	}
	for len(edges) > 1 {
		eventually(t, "one edge plans", func() bool { return len(planners(t, edges...)) == 1 })
		first := planners(t, edges...)[0]
		edges[first].kill(t)
		killed := time.Now()
		edges = slices.Delete(edges, first, first+1)
		eventually(t, "another plans", func() bool { return len(planners(t, edges...)) == 1 })
		t.Logf("another planned %s after the planner was killed", time.Since(killed).Round(time.Millisecond))
	}
}
