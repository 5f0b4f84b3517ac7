package launch

import (
	"encoding/json"
	"flag"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"pilotlight/config"
	"pilotlight/router"
)

// fakeNomad answers as Nomad does, and takes nothing that Nomad would not: every request is held to method, path, query, header and
// body. Its answers have the fields of github.com/hashicorp/nomad/api, which deploy/nomad holds them to.
type fakeNomad struct {
	t     *testing.T
	model string // host:port of the model server that it "runs"

	mu      sync.Mutex // guards what follows
	index   uint64
	changed chan struct{} // closed and replaced at each change
	count   int
	stopped bool
	gone    bool
	denied  string // part of the path that is forbidden
	noRoom  bool   // nothing can be placed
	fails   bool   // what is placed fails
	blocked int    // scales that are refused, as a deployment is active
	raced   int    // scales before which somebody else changes the job
	ports   string // JSON of the allocation's; empty: the model's
	allocs  []fakeAlloc
	scales  []string // what was asked for
	stale   bool     // the index goes back once
}

type fakeAlloc struct {
	id, desired, client string
	created             uint64
}

func newFakeNomad(t *testing.T) *fakeNomad {
	model := httptest.NewServer(http.HandlerFunc(func(http.ResponseWriter, *http.Request) {}))
	t.Cleanup(model.Close)
	return &fakeNomad{t: t, model: model.Listener.Addr().String(), index: 10, changed: make(chan struct{})}
}

// launcher makes the launcher of a backend that the fake runs.
func (f *fakeNomad) launcher(t *testing.T, change func(*config.Backend)) *Launcher {
	t.Helper()
	server := httptest.NewServer(f)
	t.Cleanup(server.Close) // after the launcher's Close, which ends its queries
	token := filepath.Join(t.TempDir(), "token")
	if err := os.WriteFile(token, []byte("s3cret\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	b := config.Backend{
		Engine: config.HTTP, Ready: "/health", Stall: config.Duration(time.Minute),
		Nomad: &config.Nomad{Job: "my/llama", Count: 1, Address: server.URL, Namespace: "ml", Region: "eu", TokenFile: token},
	}
	if change != nil {
		change(&b)
	}
	return newLauncher(t, t.TempDir(), b)
}

// change changes what the fake has, and wakes blocking queries. f.mu is held.
func (f *fakeNomad) change() {
	f.index++
	close(f.changed)
	f.changed = make(chan struct{})
}

// by makes a change as if somebody else did.
func (f *fakeNomad) by(change func(f *fakeNomad)) {
	f.mu.Lock()
	defer f.mu.Unlock()
	change(f)
	f.change()
}

func (f *fakeNomad) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	q := r.URL.Query()
	if q.Get("namespace") != "ml" || q.Get("region") != "eu" || r.Header.Get("X-Nomad-Token") != "s3cret" {
		f.t.Errorf("%s %s comes from %q in %q of %q", r.Method, r.URL, r.Header.Get("X-Nomad-Token"), q.Get("namespace"), q.Get("region"))
	}
	q.Del("namespace")
	q.Del("region")
	request := r.Method + " " + r.URL.EscapedPath()
	f.mu.Lock()
	defer f.mu.Unlock()
	switch {
	case f.denied != "" && strings.Contains(request, f.denied):
		http.Error(w, "Permission denied", http.StatusForbidden)
	case f.gone:
		http.Error(w, "job not found", http.StatusNotFound)
	case request == "GET /v1/job/my%2Fllama" && len(q) == 0:
		f.answer(w, f.job())
	case request == "GET /v1/job/my%2Fllama/allocations":
		f.block(r, q.Get("index"), q.Get("wait"))
		f.answer(w, f.allocations())
	case request == "GET /v1/job/my%2Fllama/evaluations" && len(q) == 0:
		f.answer(w, f.evaluations())
	case strings.HasPrefix(request, "GET /v1/allocation/") && len(q) == 0:
		f.answer(w, f.allocation(strings.TrimPrefix(r.URL.Path, "/v1/allocation/")))
	case request == "POST /v1/job/my%2Fllama/scale" && len(q) == 0:
		f.scale(w, r)
	case strings.HasPrefix(request, "GET /v1/client/fs/logs/a") && q.Get("origin") == "end" && q.Get("plain") == "true" && q.Get("task") == "server":
		if q.Get("type") == "stderr" {
			_, _ = io.WriteString(w, "RuntimeError: CUDA out of memory\n")
		}
	default:
		f.t.Errorf("nobody would ask Nomad %s?%s", request, r.URL.RawQuery)
		http.Error(w, "Invalid method", http.StatusMethodNotAllowed)
	}
}

func (f *fakeNomad) answer(w http.ResponseWriter, object any) {
	index := f.index
	if f.stale {
		index, f.stale = 3, false
	}
	w.Header().Set("X-Nomad-Index", strconv.FormatUint(index, 10))
	if err := json.NewEncoder(w).Encode(object); err != nil {
		f.t.Error(err)
	}
}

// block waits until there is something newer than the index, as a blocking query does. f.mu is held, but not meanwhile.
func (f *fakeNomad) block(r *http.Request, index, wait string) {
	if index == "" && wait == "" {
		return
	}
	n, err := strconv.ParseUint(index, 10, 64)
	if _, e := time.ParseDuration(wait); err != nil || e != nil {
		f.t.Errorf("a query waits for index %q, %q long", index, wait)
	}
	for n > 0 && f.index <= n && r.Context().Err() == nil {
		changed := f.changed
		f.mu.Unlock()
		select {
		case <-changed:
		case <-r.Context().Done():
		}
		f.mu.Lock()
	}
}

func (f *fakeNomad) job() object {
	return object{
		"ID": "my/llama", "Namespace": "ml", "Region": "eu", "Type": "service", "Stop": f.stopped, "Status": "running",
		"JobModifyIndex": f.index, "TaskGroups": []object{{"Name": "server", "Count": f.count}},
	}
}

func (f *fakeNomad) scale(w http.ResponseWriter, r *http.Request) {
	var body struct {
		Count          *int
		Target         map[string]string
		Message        string
		JobModifyIndex uint64
	}
	d := json.NewDecoder(r.Body)
	d.DisallowUnknownFields()
	err := d.Decode(&body)
	if err != nil || body.Count == nil || body.Target["Job"] != "my/llama" || body.Target["Group"] != "server" || body.Message == "" ||
		r.Header.Get("Content-Type") != "application/json" {
		f.t.Errorf("the scale is %+v, %v", body, err)
		http.Error(w, "bad request", http.StatusBadRequest)
		return
	}
	switch {
	case f.blocked > 0:
		f.blocked--
		http.Error(w, "job scaling blocked due to active deployment", http.StatusBadRequest)
		return
	case f.raced > 0:
		f.raced--
		f.change()
	}
	if body.JobModifyIndex != f.index {
		http.Error(w, fmt.Sprintf("Enforcing job modify index %d: job exists with conflicting job modify index: %d", body.JobModifyIndex, f.index), http.StatusConflict)
		return
	}
	f.scales = append(f.scales, strconv.Itoa(*body.Count))
	f.count = *body.Count
	f.place()
	f.change()
	f.answer(w, object{"EvalID": "e1", "EvalCreateIndex": f.index, "JobModifyIndex": f.index, "Warnings": "", "Index": f.index, "LastContact": 0, "KnownLeader": false})
}

// place does what the scheduler does. f.mu is held.
func (f *fakeNomad) place() {
	for i := range f.allocs {
		if f.count == 0 {
			f.allocs[i].desired = "stop"
			if f.allocs[i].client != "failed" {
				f.allocs[i].client = "complete"
			}
		}
	}
	if f.count == 0 || f.noRoom {
		return
	}
	a := fakeAlloc{id: fmt.Sprintf("a%d", len(f.allocs)), desired: "run", client: "running", created: f.index}
	if f.fails {
		a.client = "failed"
	}
	f.allocs = append(f.allocs, a)
}

func (f *fakeNomad) allocations() []object {
	list := []object{}
	for _, a := range f.allocs {
		list = append(list, f.stub(a))
	}
	return list
}

func (f *fakeNomad) stub(a fakeAlloc) object {
	events := []object{{"Type": "Started", "DisplayMessage": "Task started by client", "Time": 1}}
	if a.client == "failed" {
		events = append(
			events,
			object{"Type": "Terminated", "DisplayMessage": "Exit Code: 1, Exit Message: \"Docker container exited with non-zero exit code: 1\"", "Time": 2},
			object{"Type": "Not Restarting", "DisplayMessage": "Exceeded allowed attempts 2 in interval 30m0s and mode is \"fail\"", "Time": 3},
		)
	}
	return object{
		"ID": a.id, "JobID": "my/llama", "TaskGroup": "server", "NodeName": "gpu-1", "DesiredStatus": a.desired, "ClientStatus": a.client,
		"CreateIndex": a.created, "NextAllocation": "",
		"TaskStates": object{"server": object{"State": "running", "Failed": a.client == "failed", "Restarts": 0, "Events": events}},
	}
}

func (f *fakeNomad) allocation(id string) object {
	i := slices.IndexFunc(f.allocs, func(a fakeAlloc) bool { return a.id == id })
	if i < 0 {
		f.t.Errorf("there is no allocation %s", id)
		return nil
	}
	a := f.stub(f.allocs[i])
	host, port, _ := strings.Cut(f.model, ":")
	ports := f.ports
	if ports == "" {
		ports = fmt.Sprintf(`[{"Label":"http","Value":%s,"To":8000,"HostIP":%q}]`, port, host)
	}
	a["AllocatedResources"] = object{"Shared": object{"Ports": json.RawMessage(ports)}}
	return a
}

func (f *fakeNomad) evaluations() []object {
	if !f.noRoom {
		return []object{}
	}
	return []object{{
		"ID": "e1", "Status": "complete", "StatusDescription": "", "CreateIndex": f.index, "JobID": "my/llama", "BlockedEval": "e2",
		"FailedTGAllocs": object{"server": object{
			"NodesEvaluated": 3, "NodesFiltered": 2, "NodesExhausted": 1,
			"ConstraintFiltered": object{"${attr.kernel.name} = linux": 2}, "DimensionExhausted": object{"devices: no devices match request": 1},
		}},
	}}
}

func TestNomadScalesAGroupFromZeroAndBack(t *testing.T) {
	f := newFakeNomad(t)
	l := f.launcher(t, nil)
	mustFind(t, l, router.Stopped, router.OnDisk)
	if up := mustRaise(t, l); up.Addr != f.model {
		t.Errorf("it is at %s, want %s", up.Addr, f.model)
	}
	mustFind(t, f.launcher(t, nil), router.Ready, router.OnGPU)
	mustRaise(t, l) // it is no error that it runs
	if err := l.Stop(t.Context()); err != nil {
		t.Error(err)
	}
	mustFind(t, l, router.Stopped, router.OnDisk)
	if want := []string{"1", "0"}; !slices.Equal(f.scales, want) {
		t.Errorf("it was scaled to %v, want %v", f.scales, want)
	}
}

func TestWhatOthersDoToANomadJobIsNoticed(t *testing.T) {
	f := newFakeNomad(t)
	f.by(func(f *fakeNomad) { f.count = 1; f.place() }) // a person scaled it up
	l := f.launcher(t, nil)
	mustFind(t, l, router.Ready, router.OnGPU)
	up := mustRaise(t, l)
	f.by(func(f *fakeNomad) { f.stale = true }) // the servers were restored from a snapshot
	f.by(func(f *fakeNomad) { f.count = 0; f.place() })
	mustMiss(t, up, "somebody scaled group server of job my/llama to 0")

	up = mustRaise(t, l)
	f.by(func(f *fakeNomad) { f.allocs[len(f.allocs)-1].client = "failed" })
	mustMiss(t, up, `on gpu-1 is failed; task server: Terminated: Exit Code: 1, Exit Message: "Docker container exited with non-zero exit code: 1"`)

	f.by(func(f *fakeNomad) { f.count = 0; f.place() })
	up = mustRaise(t, l)
	f.by(func(f *fakeNomad) { // it was evicted, and placed elsewhere
		f.allocs[len(f.allocs)-1].desired, f.allocs[len(f.allocs)-1].client = "evict", "complete"
		f.place()
	})
	mustMiss(t, up, "another has taken its place")

	up = mustRaise(t, l)
	f.by(func(f *fakeNomad) { f.gone = true })
	mustMiss(t, up, "Nomad answered 404 to GET /v1/job/my%2Fllama: job not found")
	if err := l.Stop(t.Context()); err != nil {
		t.Errorf("stopping what is gone: %v", err)
	}
}

func TestANomadThatCannotBeAskedChangesNothing(t *testing.T) {
	f := newFakeNomad(t)
	l := f.launcher(t, nil)
	up := mustRaise(t, l)
	f.by(func(f *fakeNomad) { f.denied = "/v1" })
	for l.out.awaits() == "" || !strings.Contains(l.out.awaits(), "403") {
		<-time.After(10 * time.Millisecond)
	}
	f.by(func(f *fakeNomad) { f.denied = "" })
	select {
	case err := <-up.Gone:
		t.Errorf("it counts as gone: %v", err)
	default:
	}
}

func TestAScaleOfNomadIsTriedAgainWhereOthersWereFaster(t *testing.T) {
	f := newFakeNomad(t)
	f.raced, f.blocked = 2, 1
	l := f.launcher(t, nil)
	mustRaise(t, l)
	f.by(func(f *fakeNomad) { f.blocked = 1 })
	if err := l.Stop(t.Context()); err != nil {
		t.Error(err)
	}
	if want := []string{"1", "0"}; !slices.Equal(f.scales, want) {
		t.Errorf("it was scaled to %v, want %v", f.scales, want)
	}
}

func TestWhatNomadCannotDoIsSaidInItsWords(t *testing.T) {
	short := func(b *config.Backend) { b.Stall = config.Duration(time.Second) }
	for name, test := range map[string]struct {
		set    func(*fakeNomad)
		change func(*config.Backend)
		want   string
	}{
		"no room": {
			func(f *fakeNomad) { f.noRoom = true }, short,
			`no progress for 1s; it is away: Nomad cannot place it: of 3 nodes 2 were filtered and 1 exhausted ("${attr.kernel.name} = linux" filtered 2 nodes, "devices: no devices match request" exhausted on 1 nodes)`,
		},
		"it fails": {
			func(f *fakeNomad) { f.fails = true }, nil,
			`its allocation a0 on gpu-1 is failed; task server: Terminated: Exit Code: 1, Exit Message: "Docker container exited with non-zero exit code: 1"; the last it logged: RuntimeError: CUDA out of memory`,
		},
		"forbidden to read": {
			func(f *fakeNomad) { f.denied = "GET /v1/job" }, nil, "Nomad answered 403 to GET /v1/job/my%2Fllama: Permission denied; it takes a token in TOKEN that has read-job in namespace ml",
		},
		"forbidden to scale": {
			func(f *fakeNomad) { f.denied = "/scale" }, nil, "Nomad answered 403 to POST /v1/job/my%2Fllama/scale: Permission denied; it takes a token in TOKEN that has scale-job in namespace ml",
		},
		"gone": {func(f *fakeNomad) { f.gone = true }, nil, "Nomad answered 404 to GET /v1/job/my%2Fllama: job not found"},
		"stopped": {
			func(f *fakeNomad) { f.stopped = true }, nil, "job my/llama of Nomad is stopped; it takes `nomad job run` or `nomad job start` to have it back",
		},
		"no such group": {
			func(*fakeNomad) {}, func(b *config.Backend) { b.Nomad.Group = "web" }, `its address is not known: job my/llama has no group "web"; it has server`,
		},
		"two ports": {
			func(f *fakeNomad) { f.ports = `[{"Label":"http","Value":1},{"Label":"grpc","Value":2}]` }, nil,
			"its address is not known: group server of job my/llama has the ports [http grpc]; say which one by nomad.port",
		},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			f := newFakeNomad(t)
			test.set(f)
			l := f.launcher(t, test.change)
			_, err := l.Wake(t.Context(), nil)
			want := "wake m-0: " + strings.ReplaceAll(test.want, "TOKEN", l.spec.Backend.Nomad.TokenFile)
			if err == nil || !strings.HasPrefix(err.Error(), want) {
				t.Errorf("got  %v\nwant %s", err, want)
			}
		})
	}
}

var update = flag.Bool("update", false, "write what the fakes answer into testdata")

// TestTheFakeNomadAnswersAsRecorded keeps a copy of what the fake answers, which deploy/nomad reads with Nomad's own client library.
func TestTheFakeNomadAnswersAsRecorded(t *testing.T) {
	f := newFakeNomad(t)
	f.model = "192.0.2.7:23456"
	f.noRoom, f.fails = true, true
	job, evaluations := f.job(), f.evaluations()
	f.noRoom, f.count = false, 1
	f.place()
	for name, object := range map[string]any{
		"job": job, "evaluations": evaluations, "allocations": f.allocations(), "allocation": f.allocation("a0"),
		"scale": object{"Count": 1, "Target": object{"Job": "my/llama", "Group": "server"}, "JobModifyIndex": 10, "Message": "pilotlight scales it to 1"},
	} {
		want, err := json.MarshalIndent(object, "", "  ")
		if err != nil {
			t.Fatal(err)
		}
		file := filepath.Join("testdata", "nomad", name+".json")
		if *update {
			if err := os.MkdirAll(filepath.Dir(file), 0o755); err != nil {
				t.Fatal(err)
			}
			if err := os.WriteFile(file, append(want, '\n'), 0o644); err != nil {
				t.Fatal(err)
			}
		}
		if got, err := os.ReadFile(file); err != nil || string(got) != string(want)+"\n" {
			t.Errorf("%s is stale (%v); make it anew by: go test ./warmpool/launch -run Recorded -update", file, err)
		}
	}
}
