package consul

import (
	"testing"

	"github.com/hashicorp/consul/api"

	"pilotlight/config"
	"pilotlight/router"
)

func instance(meta map[string]string, checks ...*api.HealthCheck) *api.ServiceEntry {
	return &api.ServiceEntry{
		Node:    &api.Node{Node: "c1", Address: "10.0.0.1"},
		Service: &api.AgentService{ID: "n1/llama-0", Service: "llama", Port: 8000, Meta: meta},
		Checks:  checks,
	}
}

func check(id, status, output string) *api.HealthCheck {
	c := &api.HealthCheck{CheckID: id, Status: status, Output: output, ServiceID: "n1/llama-0"}
	if id == "serfHealth" || id == nodeMaintenance {
		c.ServiceID = ""
	}
	return c
}

func TestARegistrationIsReadInFull(t *testing.T) {
	e := instance(map[string]string{
		metaModel: "llama, gpt-4", metaEngine: "vllm", metaGPUs: "2", metaMemory: "40GiB", metaSlots: "64", metaNode: "n1", metaAgent: "n1",
		metaWake: "process", metaServedAs: "meta/llama",
	}, check("service:n1/llama-0", api.HealthPassing, "ready"))
	got, wrong := read(e, nil)
	if wrong != "" || len(got) != 2 {
		t.Fatalf("got %d backends, wrong: %s", len(got), wrong)
	}
	b := got[1]
	if b.ID != "n1/llama-0:gpt-4" || b.Model != "gpt-4" || b.Node != "n1" || b.Agent != "n1" || b.Addr != "10.0.0.1:8000" || b.Engine != config.VLLM ||
		b.Slots != 64 || b.Width != 2 || b.Memory != 40*config.GiB || b.State != router.Ready || b.Tier != router.OnGPU ||
		b.Wake != "process" || b.ServedAs != "meta/llama" {
		t.Errorf("got %+v", b)
	}
}

func TestARegistrationThatNobodyOwnsIsKnownByItsNodeAndService(t *testing.T) {
	got, wrong := read(instance(nil), map[string]string{"llama": "llama-70b"})
	if wrong != "" || len(got) != 1 || got[0].ID != "c1/n1/llama-0" || got[0].Model != "llama-70b" || got[0].Node != "c1" || got[0].State != router.Ready || got[0].Slots != 8 {
		t.Errorf("got %+v, wrong: %s", got, wrong)
	}
	if got, _ := read(instance(nil), nil); len(got) != 0 {
		t.Errorf("a service that serves no model is a backend: %+v", got)
	}
}

func TestWhatIsWrongWithARegistrationIsSaid(t *testing.T) {
	for key, value := range map[string]string{metaEngine: "vlm", metaGPUs: "a,b", metaMemory: "lots", metaSlots: "0"} {
		got, wrong := read(instance(map[string]string{metaModel: "llama", key: value}), nil)
		if wrong == "" || len(got) != 1 || got[0].Slots != 8 || got[0].Engine != config.HTTP || got[0].State != router.Ready {
			t.Errorf("%s %q: wrong %q, got %+v", key, value, wrong, got)
		}
	}
	e := instance(map[string]string{metaModel: "llama"})
	e.Service.Port = 0
	if got, wrong := read(e, nil); wrong == "" || got[0].State != router.Failed {
		t.Errorf("without a port: wrong %q, got %+v", wrong, got)
	}
}

func TestChecksSayWhichStateABackendIsIn(t *testing.T) {
	const owned, foreign, wakeable = "n1", "", "nomad"
	serf := check("serfHealth", api.HealthPassing, "")
	for name, tt := range map[string]struct {
		agent, wake string
		checks      api.HealthChecks
		want        router.State
		reason      string
		silent      bool
		hold        string
	}{
		"ready":    {agent: owned, checks: api.HealthChecks{serf, check("service:n1/llama-0", api.HealthPassing, "ready")}, want: router.Ready},
		"asleep":   {agent: owned, checks: api.HealthChecks{serf, check("service:n1/llama-0", api.HealthWarning, "asleep: idle for 5m")}, want: router.Asleep, reason: "idle for 5m"},
		"failed":   {agent: owned, checks: api.HealthChecks{check("service:n1/llama-0", api.HealthCritical, "failed: no memory")}, want: router.Failed, reason: "no memory"},
		"just now": {agent: owned, checks: api.HealthChecks{check("service:n1/llama-0", api.HealthWarning, "")}, want: router.Stopped},
		"an output of before": {
			agent: owned, checks: api.HealthChecks{check("service:n1/llama-0", api.HealthPassing, "asleep: idle for 5m")}, want: router.Ready,
		},
		"a silent agent's ready backend": {
			agent: owned, checks: api.HealthChecks{check("service:n1/llama-0", api.HealthCritical, "TTL expired (last output before timeout follows): ready")},
			want: router.Ready, silent: true,
		},
		"a silent agent's sleeping backend": {
			agent: owned, checks: api.HealthChecks{check("service:n1/llama-0", api.HealthCritical, "TTL expired (last output before timeout follows): asleep: idle")},
			want: router.Asleep, silent: true, reason: "idle",
		},
		"an agent that never spoke": {
			agent: owned, checks: api.HealthChecks{check("service:n1/llama-0", api.HealthCritical, "TTL expired")},
			want: router.Stopped, silent: true, reason: "nothing is known of it: its agent is silent",
		},
		"the check of somebody else": {
			agent: owned, checks: api.HealthChecks{check("service:n1/llama-0", api.HealthPassing, "ready"), check("theirs", api.HealthCritical, "")}, want: router.Ready,
		},
		"a node that is down": {
			agent: owned, checks: api.HealthChecks{check("serfHealth", api.HealthCritical, "Agent not live"), check("service:n1/llama-0", api.HealthPassing, "ready")},
			want: router.Failed, reason: "its node fails the check serfHealth",
		},
		"a node in maintenance": {
			agent: owned, checks: api.HealthChecks{check(nodeMaintenance, api.HealthCritical, ""), check("service:n1/llama-0", api.HealthPassing, "ready")},
			want: router.Draining, reason: "in maintenance", hold: "in maintenance",
		},
		"a service in maintenance": {
			agent: foreign, checks: api.HealthChecks{{CheckID: serviceMaintenance + "n1/llama-0", Status: api.HealthCritical, ServiceID: "n1/llama-0", Notes: "new fans"}},
			want: router.Draining, reason: "in maintenance: new fans", hold: "in maintenance: new fans",
		},
		"nobody's, without checks": {agent: foreign, want: router.Ready},
		"nobody's, passing":        {agent: foreign, checks: api.HealthChecks{serf, check("http", api.HealthPassing, "200")}, want: router.Ready},
		"nobody's, with a warning": {agent: foreign, checks: api.HealthChecks{check("http", api.HealthWarning, "slow")}, want: router.Ready, reason: "slow"},
		"wakeable, with a warning": {agent: foreign, wake: wakeable, checks: api.HealthChecks{check("http", api.HealthWarning, "0 replicas")}, want: router.Asleep, reason: "0 replicas"},
		"nobody's, failing": {
			agent: foreign, checks: api.HealthChecks{check("ttl", api.HealthPassing, ""), check("http", api.HealthCritical, "refused")},
			want: router.Failed, reason: "it fails the check http: refused",
		},
	} {
		b := Backend{Agent: tt.agent, Wake: tt.wake}
		state, reason := b.judge(tt.checks)
		if state != tt.want || reason != tt.reason || b.Silent != tt.silent || b.Hold != tt.hold {
			t.Errorf("%s: %s because %q, silent %t, hold %q; want %s because %q, silent %t, hold %q",
				name, state, reason, b.Silent, b.Hold, tt.want, tt.reason, tt.silent, tt.hold)
		}
	}
}

func TestAServiceNameIsOneThatDNSCanCarry(t *testing.T) {
	for model, want := range map[string]string{
		"llama-8b": "llama-8b", "meta-llama/Llama-3.3-70B": "meta-llama-llama-3-3-70b", "日本": "model", ":tag": "tag",
	} {
		if got := ServiceName(model); got != want {
			t.Errorf("%q: got %q, want %q", model, got, want)
		}
	}
}

func FuzzEntry(f *testing.F) {
	f.Add("llama", "vllm", "2", "40GiB", "8", "passing", "ready: so")
	f.Fuzz(func(t *testing.T, model, engine, gpus, memory, slots, status, output string) {
		meta := map[string]string{metaModel: model, metaEngine: engine, metaGPUs: gpus, metaMemory: memory, metaSlots: slots, metaAgent: "n1"}
		got, _ := read(instance(meta, check("service:n1/llama-0", status, output)), nil)
		for _, b := range got {
			if b.Model == "" || b.Slots < 1 || b.State > router.Failed {
				t.Errorf("got %+v", b)
			}
		}
	})
}
