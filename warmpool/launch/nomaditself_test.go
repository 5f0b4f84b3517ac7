package launch

import (
	"bytes"
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strings"
	"sync"
	"testing"
	"time"

	"pilotlight/config"
	"pilotlight/probe/proc"
	"pilotlight/router"
)

// realNomad is a server and a client of Nomad in one process on loopback, with ACLs. Its tasks are processes of the test binary.
type realNomad struct {
	t     *testing.T
	url   string
	token string // of the management
}

// TestNomadItself holds what fakeNomad says to the real API, and the policy of docs/wakers.md to what is asked. `make nomad-check` builds what it runs.
func TestNomadItself(t *testing.T) {
	n := startNomad(t)
	policy := documentedPolicy(t)
	allowed, reader := n.user("allowed", policy), n.user("reader", strings.Replace(policy, `"scale-job", `, "", 1))
	on := func(job, token string, change ...func(*config.Backend)) *Launcher {
		t.Helper()
		b := config.Backend{
			Engine: config.HTTP, Ready: "/health", Stall: config.Duration(time.Minute),
			Nomad: &config.Nomad{Job: job, Count: 1, Address: n.url, Namespace: "models", TokenFile: token},
		}
		for _, change := range change {
			change(&b)
		}
		return newLauncher(t, t.TempDir(), b)
	}
	short := func(b *config.Backend) { b.Stall = config.Duration(8 * time.Second) }

	n.run("my/llama", "slow", nil)
	l := on("my/llama", allowed)
	mustFind(t, l, router.Stopped, router.OnDisk)
	up := mustRaise(t, l)
	if !strings.HasPrefix(up.Addr, "127.0.0.1:") {
		t.Errorf("it is at %s", up.Addr)
	}
	mustFind(t, on("my/llama", allowed), router.Ready, router.OnGPU)
	if err := l.Stop(t.Context()); err != nil {
		t.Error(err)
	}
	mustFind(t, l, router.Stopped, router.OnDisk)

	up = mustRaise(t, l)
	n.await("it can be scaled by hand, since no deployment of it is active", func() bool {
		return n.ask(http.MethodPost, "/v1/job/my%2Fllama/scale?namespace=models", object{"Count": 0, "Target": object{"Group": "server"}, "Message": "by hand"}, nil) == nil
	})
	mustMiss(t, up, "somebody scaled group server of job my/llama to 0")
	up = mustRaise(t, l)
	n.do(http.MethodDelete, "/v1/job/my%2Fllama?namespace=models", nil, nil)
	mustMiss(t, up, "somebody stopped job my/llama")
	n.do(http.MethodDelete, "/v1/job/my%2Fllama?namespace=models&purge=true", nil, nil)
	if err := l.Stop(t.Context()); err != nil {
		t.Errorf("stopping what is gone: %v", err)
	}

	n.run("huge", "slow", func(task object) {
		task["Resources"] = object{"CPU": 10, "MemoryMB": 64, "Devices": []object{{"Name": "nvidia/gpu", "Count": 8}}}
	})
	n.run("crashes", "crash", nil)
	n.run("plain", "slow", nil)
	wrong := filepath.Join(t.TempDir(), "wrong")
	write(t, wrong, "00000000-0000-0000-0000-000000000000")
	var failing sync.WaitGroup
	for name, test := range map[string]struct {
		l    *Launcher
		want string
	}{
		"no room":    {on("huge", allowed, short), `no progress for 8s; it is away: Nomad cannot place it: of 1 nodes 1 were filtered and 0 exhausted ("missing devices" filtered 1 nodes)`},
		"it crashes": {on("crashes", allowed), `is failed; task server: Terminated: Exit Code: 3`},
		"forbidden":  {on("plain", reader), `Nomad answered 403 to POST /v1/job/plain/scale: Permission denied; it takes a token in ` + reader + ` that has scale-job in namespace models`},
		"unknown":    {on("plain", wrong), `Nomad answered 403 to GET /v1/job/plain: Permission denied; it takes a token in ` + wrong + ` that has read-job in namespace models`},
		"gone":       {on("none", allowed), `Nomad answered 404 to GET /v1/job/none: job not found`},
	} {
		failing.Go(func() {
			_, err := test.l.Wake(t.Context(), nil)
			if err == nil || !strings.Contains(err.Error(), test.want) {
				t.Errorf("%s: got  %v\nwant %s", name, err, test.want)
			} else {
				t.Logf("%s: %v", name, err)
			}
		})
	}
	failing.Wait()
}

// documentedPolicy is that of docs/wakers.md.
func documentedPolicy(t *testing.T) string {
	t.Helper()
	text, err := os.ReadFile("../../docs/wakers.md")
	if err != nil {
		t.Fatal(err)
	}
	block := regexp.MustCompile("(?s)```hcl\n(namespace \"models\" .*?)```").FindSubmatch(text)
	if block == nil {
		t.Fatal("docs/wakers.md has no policy of the namespace models")
	}
	return string(block[1])
}

// startNomad runs it, for the length of the test.
func startNomad(t *testing.T) *realNomad {
	t.Helper()
	binary, err := filepath.Abs(filepath.Join("..", "..", "bin", "nomad"))
	if err != nil {
		t.Fatal(err)
	}
	if _, err := os.Stat(binary); err != nil || os.Geteuid() != 0 {
		t.Skip("bin/nomad is not there, which `make nomad-check` builds, or we are not root; what it answers is held by the other tests alone")
	}
	ports, err := proc.FreePorts(3)
	if err != nil {
		t.Fatal(err)
	}
	dir := t.TempDir()
	nobody := object{"auto_advertise": false, "client_auto_join": false, "server_auto_join": false, "checks_use_advertise": false}
	text, err := json.Marshal(object{
		"ports": object{"http": ports[0], "rpc": ports[1], "serf": ports[2]}, "acl": object{"enabled": true}, "disable_update_check": true, "consul": nobody,
		"client": object{"options": object{"fingerprint.denylist": "env_aws,env_gce,env_azure,env_digitalocean,consul,vault"}},
	})
	if err != nil {
		t.Fatal(err)
	}
	write(t, dir+"/nomad.json", string(text))
	log, err := os.Create(dir + "/log")
	if err != nil {
		t.Fatal(err)
	}
	defer log.Close()
	cmd := exec.Command(binary, "agent", "-dev", "-config", dir+"/nomad.json")
	cmd.Stdout, cmd.Stderr, cmd.Env = log, log, append(os.Environ(), "TMPDIR="+shortDir(t))
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		_ = cmd.Process.Signal(os.Interrupt) // in dev mode it ends its tasks
		_ = cmd.Wait()
		if text, err := os.ReadFile(log.Name()); t.Failed() && err == nil {
			t.Logf("Nomad's log ends: %s", text[max(0, len(text)-4000):])
		}
	})
	n := &realNomad{t: t, url: fmt.Sprintf("http://127.0.0.1:%d", ports[0])}
	var management struct{ SecretID string }
	n.await("Nomad has a leader", func() bool { return n.ask(http.MethodPost, "/v1/acl/bootstrap", nil, &management) == nil })
	n.token = management.SecretID
	n.await("its client is ready", func() bool {
		var nodes []struct{ Status string }
		return n.ask(http.MethodGet, "/v1/nodes", nil, &nodes) == nil && len(nodes) == 1 && nodes[0].Status == "ready"
	})
	n.do(http.MethodPost, "/v1/namespace/models", object{"Name": "models"}, nil)
	return n
}

func (n *realNomad) await(what string, is func() bool) {
	n.t.Helper()
	limit := time.After(time.Minute)
	tick := time.NewTicker(50 * time.Millisecond)
	defer tick.Stop()
	for !is() {
		select {
		case <-tick.C:
		case <-limit:
			n.t.Fatalf("after a minute it is not so that %s", what)
		}
	}
}

// ask speaks to the API as the management.
func (n *realNomad) ask(method, path string, body, into any) error {
	text, err := json.Marshal(body)
	if err != nil {
		return err
	}
	r, err := http.NewRequestWithContext(n.t.Context(), method, n.url+path, bytes.NewReader(text))
	if err != nil {
		return err
	}
	r.Header.Set("X-Nomad-Token", n.token)
	answer, err := http.DefaultClient.Do(r)
	if err != nil {
		return err
	}
	defer answer.Body.Close()
	said, err := io.ReadAll(answer.Body)
	if err != nil {
		return err
	}
	if answer.StatusCode != http.StatusOK {
		return fmt.Errorf("%s %s: %s: %s", method, path, answer.Status, said)
	}
	if into == nil {
		return nil
	}
	return json.Unmarshal(said, into)
}

func (n *realNomad) do(method, path string, body, into any) {
	n.t.Helper()
	if err := n.ask(method, path, body, into); err != nil {
		n.t.Fatal(err)
	}
}

// user makes a token that may do what the rules say, and the file that has it.
func (n *realNomad) user(name, rules string) (file string) {
	n.t.Helper()
	n.do(http.MethodPost, "/v1/acl/policy/"+name, object{"Name": name, "Rules": rules}, nil)
	var token struct{ SecretID string }
	n.do(http.MethodPost, "/v1/acl/token", object{"Name": name, "Type": "client", "Policies": []string{name}}, &token)
	file = filepath.Join(n.t.TempDir(), name)
	write(n.t, file, token.SecretID)
	return file
}

// run registers a job of no allocations, whose task behaves as serveFake knows.
func (n *realNomad) run(id, behaviour string, change func(task object)) {
	n.t.Helper()
	task := object{
		"Name": "server", "Driver": "raw_exec", "Config": object{"command": os.Args[0], "args": []string{"${NOMAD_PORT_http}"}}, "Env": object{"FAKE_SERVER": behaviour},
		"Resources": object{"CPU": 10, "MemoryMB": 64},
	}
	if change != nil {
		change(task)
	}
	second := int64(time.Second)
	n.do(http.MethodPost, "/v1/jobs", object{"Job": object{
		"ID": id, "Name": id, "Namespace": "models", "Type": "service", "Datacenters": []string{"dc1"},
		"Update": object{"MaxParallel": 1, "HealthCheck": "task_states", "MinHealthyTime": second, "HealthyDeadline": 60 * second, "ProgressDeadline": 120 * second}, "TaskGroups": []object{{
			"Name": "server", "Count": 0, "Networks": []object{{"DynamicPorts": []object{{"Label": "http"}}}}, "Tasks": []object{task},
			"RestartPolicy": object{"Attempts": 0, "Interval": 10 * second, "Delay": second, "Mode": "fail"}, "ReschedulePolicy": object{"Attempts": 0, "Unlimited": false},
		}},
	}}, nil)
}
