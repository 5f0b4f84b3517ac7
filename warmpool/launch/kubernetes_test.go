package launch

import (
	"encoding/base64"
	"encoding/json"
	"encoding/pem"
	"fmt"
	"io"
	"log"
	"net/http"
	"net/http/httptest"
	"net/url"
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

// fakeKube answers as an API server of Kubernetes does for one Deployment, and takes nothing that one would not: every request is held
// to method, path, query, header and body. TestKubernetesItself does the same with the real one.
type fakeKube struct {
	t     *testing.T
	model string // port of the model server that its pods "run"

	mu       sync.Mutex // guards what follows
	version  int
	changed  chan struct{}
	token    string
	replicas int
	gone     bool
	denied   string // part of the request that is forbidden
	raced    int    // writes before which somebody else writes
	pod      func(name string) object
	pods     []object
	events   []object
	scales   []string
	expired  bool // the next watch is too late
}

func newFakeKube(t *testing.T) *fakeKube {
	model := httptest.NewServer(http.HandlerFunc(func(http.ResponseWriter, *http.Request) {}))
	t.Cleanup(model.Close)
	u, err := url.Parse(model.URL)
	if err != nil {
		t.Fatal(err)
	}
	return &fakeKube{t: t, model: u.Port(), version: 100, changed: make(chan struct{}), token: "s3cret", pod: runs}
}

// The pods that a fake makes.
func runs(name string) object {
	return status(name, object{
		"phase": "Running", "podIP": "127.0.0.1", "conditions": []object{{"type": "PodScheduled", "status": "True"}},
		"containerStatuses": []object{{"name": "server", "containerID": "containerd://" + name, "restartCount": 0, "state": object{"running": object{"startedAt": "2026-11-01T00:00:00Z"}}}},
	})
}

func unschedulable(name string) object {
	return status(name, object{"phase": "Pending", "conditions": []object{{
		"type": "PodScheduled", "status": "False", "reason": "Unschedulable",
		"message": "0/3 nodes are available: 3 Insufficient nvidia.com/gpu. preemption: 0/3 nodes are available: 3 No preemption victims found for incoming pod.",
	}}})
}

func waits(reason, message string, last object) func(string) object {
	return func(name string) object {
		return status(name, object{
			"phase": "Pending", "podIP": "127.0.0.1", "conditions": []object{{"type": "PodScheduled", "status": "True"}},
			"containerStatuses": []object{{
				"name": "server", "restartCount": 1, "state": object{"waiting": object{"reason": reason, "message": message}}, "lastState": last,
			}},
		})
	}
}

func none(string) object { return nil }

func status(name string, status object) object {
	return object{
		"metadata": object{"name": name, "uid": "uid-" + name, "creationTimestamp": "2026-11-01T00:00:00Z"}, "status": status,
		"spec": object{"containers": []object{{"name": "server", "ports": []object{{"name": "http", "containerPort": 0}}}}},
	}
}

// launcher makes the launcher of a backend that the fake runs.
func (f *fakeKube) launcher(t *testing.T, change func(*config.Backend)) *Launcher {
	t.Helper()
	server := httptest.NewUnstartedServer(f)
	server.Config.ErrorLog = log.New(io.Discard, "", 0) // of handshakes that are called off
	server.StartTLS()
	t.Cleanup(server.Close)
	dir := t.TempDir()
	write(t, filepath.Join(dir, "token"), "s3cret\n")
	ca := base64.StdEncoding.EncodeToString(pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: server.Certificate().Raw}))
	write(t, filepath.Join(dir, "config"), `{"current-context": "there", "contexts": [{"name": "there", "context": {"cluster": "c", "user": "u", "namespace": "ml"}}],
		"clusters": [{"name": "c", "cluster": {"server": "`+server.URL+`", "certificate-authority-data": "`+ca+`"}}],
		"users": [{"name": "u", "user": {"tokenFile": "token"}}]}`)
	b := config.Backend{
		Engine: config.HTTP, Ready: "/health", Stall: config.Duration(time.Minute),
		Kubernetes: &config.Kubernetes{Deployment: "llama", Count: 1, Kubeconfig: filepath.Join(dir, "config")},
	}
	if change != nil {
		change(&b)
	}
	return newLauncher(t, t.TempDir(), b)
}

func write(t *testing.T, path, text string) {
	t.Helper()
	if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
}

// by makes a change as if somebody else did.
func (f *fakeKube) by(change func(f *fakeKube)) {
	f.mu.Lock()
	defer f.mu.Unlock()
	change(f)
	f.change()
}

func (f *fakeKube) change() {
	f.version++
	close(f.changed)
	f.changed = make(chan struct{})
}

// settle does what the controllers do. f.mu is held.
func (f *fakeKube) settle() {
	if f.replicas == 0 {
		f.pods = nil
		return
	}
	if p := f.pod("llama-" + strconv.Itoa(f.version)); p != nil && len(f.pods) == 0 {
		f.pods = []object{p}
	}
}

func (f *fakeKube) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	f.mu.Lock()
	defer f.mu.Unlock()
	if got := r.Header.Get("Authorization"); got != "Bearer "+f.token {
		f.refuse(w, http.StatusUnauthorized, "Unauthorized", "Unauthorized")
		return
	}
	const apps, core = "/apis/apps/v1/namespaces/ml/deployments", "/api/v1/namespaces/ml/"
	request := r.Method + " " + r.URL.Path
	q := r.URL.Query()
	watched := q.Get("watch") == "true"
	switch {
	case f.denied != "" && strings.Contains(request, f.denied):
		f.refuse(w, http.StatusForbidden, "Forbidden", `deployments.apps "llama" is forbidden: User "pilotlight" cannot `+strings.ToLower(r.Method)+` resource`)
	case f.gone && strings.HasPrefix(r.URL.Path, apps+"/llama"):
		f.refuse(w, http.StatusNotFound, "NotFound", `deployments.apps "llama" not found`)
	case request == "GET "+apps+"/llama/scale" && len(q) == 0:
		f.answer(w, f.scale())
	case request == "PUT "+apps+"/llama/scale" && len(q) == 0:
		f.rescale(w, r)
	case request == "GET "+apps+"/llama" && len(q) == 0:
		f.answer(w, object{"kind": "Deployment", "status": object{"conditions": []object{{
			"type": "ReplicaFailure", "status": "True", "reason": "FailedCreate",
			"message": `pods "llama-1" is forbidden: exceeded quota: gpus, requested: requests.nvidia.com/gpu=1, used: requests.nvidia.com/gpu=4, limited: requests.nvidia.com/gpu=4`,
		}}}})
	case request == "GET "+apps && q.Get("fieldSelector") == "metadata.name=llama", request == "GET "+core+"pods" && q.Get("labelSelector") == "app=llama":
		if watched {
			f.watch(w, r)
		} else {
			f.answer(w, object{"kind": "List", "metadata": object{"resourceVersion": strconv.Itoa(f.version)}, "items": f.pods})
		}
	case request == "GET "+core+"events" && strings.HasPrefix(q.Get("fieldSelector"), "type=Warning,involvedObject.name=llama"):
		f.answer(w, object{"kind": "EventList", "items": f.events})
	case request == "GET "+core+"services/llama" && len(q) == 0:
		port, _ := strconv.Atoi(f.model)
		f.answer(w, object{"kind": "Service", "spec": object{"clusterIP": "127.0.0.1", "ports": []object{{"name": "http", "port": port}}}})
	case strings.HasPrefix(request, "GET "+core+"pods/llama-") && strings.HasSuffix(request, "/log") && q.Get("container") == "server" && q.Get("tailLines") != "":
		if q.Get("previous") == "true" {
			_, _ = w.Write([]byte("RuntimeError: CUDA out of memory\n"))
		}
	default:
		f.t.Errorf("nobody would ask Kubernetes %s?%s", request, r.URL.RawQuery)
		f.refuse(w, http.StatusMethodNotAllowed, "MethodNotAllowed", "the server does not allow this method on the requested resource")
	}
}

func (f *fakeKube) answer(w http.ResponseWriter, o object) {
	w.Header().Set("Content-Type", "application/json")
	if err := json.NewEncoder(w).Encode(o); err != nil {
		f.t.Error(err)
	}
}

func (f *fakeKube) refuse(w http.ResponseWriter, code int, reason, message string) {
	w.Header().Set("Content-Type", "application/json")
	w.WriteHeader(code)
	f.answer(w, object{"kind": "Status", "apiVersion": "v1", "metadata": object{}, "status": "Failure", "reason": reason, "message": message, "code": code})
}

func (f *fakeKube) scale() object {
	return object{
		"kind": "Scale", "apiVersion": "autoscaling/v1",
		"metadata": object{"name": "llama", "namespace": "ml", "uid": "u", "resourceVersion": strconv.Itoa(f.version)},
		"spec":     object{"replicas": f.replicas}, "status": object{"replicas": len(f.pods), "selector": "app=llama"},
	}
}

func (f *fakeKube) rescale(w http.ResponseWriter, r *http.Request) {
	var s scale
	d := json.NewDecoder(r.Body)
	d.DisallowUnknownFields()
	err := d.Decode(&s)
	if err != nil || s.Kind != "Scale" || s.APIVersion != "autoscaling/v1" || s.Metadata.Name != "llama" || s.Metadata.Namespace != "ml" ||
		r.Header.Get("Content-Type") != "application/json" {
		f.t.Errorf("the scale is %+v, %v", s, err)
	}
	if f.raced > 0 {
		f.raced--
		f.change()
	}
	if s.Metadata.ResourceVersion != strconv.Itoa(f.version) {
		f.refuse(w, http.StatusConflict, "Conflict", `Operation cannot be fulfilled on deployments.apps "llama": the object has been modified; please apply your changes to the latest version and try again`)
		return
	}
	f.scales = append(f.scales, strconv.Itoa(s.Spec.Replicas))
	f.replicas = s.Spec.Replicas
	f.settle()
	f.change()
	f.answer(w, f.scale())
}

// watch tells of all changes since a version. f.mu is held, but not while it waits.
func (f *fakeKube) watch(w http.ResponseWriter, r *http.Request) {
	q := r.URL.Query()
	version, err := strconv.Atoi(q.Get("resourceVersion"))
	if err != nil || q.Get("allowWatchBookmarks") != "true" || q.Get("timeoutSeconds") == "" || q.Get("limit") != "" {
		f.t.Errorf("a watch has the query %s", r.URL.RawQuery)
	}
	w.WriteHeader(http.StatusOK)
	if f.expired {
		f.expired = false
		f.answer(w, object{"type": "ERROR", "object": object{"kind": "Status", "code": 410, "reason": "Expired", "message": "too old resource version: 1 (100)"}})
		return
	}
	for ; r.Context().Err() == nil; version = f.version {
		if f.version > version {
			f.answer(w, object{"type": "MODIFIED", "object": object{"metadata": object{"name": "llama"}}})
		}
		_ = http.NewResponseController(w).Flush()
		changed := f.changed
		version = f.version
		f.mu.Unlock()
		select {
		case <-changed:
		case <-r.Context().Done():
		}
		f.mu.Lock()
		if f.version > version {
			f.answer(w, object{"type": "MODIFIED", "object": object{"metadata": object{"name": "llama"}}})
		}
	}
}

// onPort says which port it is, since that of the model server is not known before it runs.
func (f *fakeKube) onPort(b *config.Backend) { b.Kubernetes.Port = f.model }

func TestKubernetesScalesADeploymentFromZeroAndBack(t *testing.T) {
	f := newFakeKube(t)
	l := f.launcher(t, f.onPort)
	mustFind(t, l, router.Stopped, router.OnDisk)
	if up := mustRaise(t, l); up.Addr != "127.0.0.1:"+f.model {
		t.Errorf("it is at %s, want 127.0.0.1:%s", up.Addr, f.model)
	}
	mustFind(t, f.launcher(t, f.onPort), router.Ready, router.OnGPU)
	mustRaise(t, l)
	if err := l.Stop(t.Context()); err != nil {
		t.Error(err)
	}
	mustFind(t, l, router.Stopped, router.OnDisk)
	if want := []string{"1", "0"}; !slices.Equal(f.scales, want) {
		t.Errorf("it was scaled to %v, want %v", f.scales, want)
	}
	mustRaise(t, f.launcher(t, func(b *config.Backend) { b.Kubernetes.Service = "llama" }))
}

func TestWhatOthersDoToADeploymentIsNoticed(t *testing.T) {
	f := newFakeKube(t)
	f.by(func(f *fakeKube) { f.replicas = 1; f.settle() }) // a person scaled it up
	l := f.launcher(t, f.onPort)
	mustFind(t, l, router.Ready, router.OnGPU)
	up := mustRaise(t, l)
	f.by(func(f *fakeKube) { f.replicas = 0; f.settle() })
	mustMiss(t, up, "somebody scaled llama to 0")

	f.by(func(f *fakeKube) { f.expired = true })
	up = mustRaise(t, l)
	f.by(func(f *fakeKube) { f.pods = []object{runs("llama-other")} }) // it was drained off its node
	mustMiss(t, up, "another has taken its place")

	up = mustRaise(t, l)
	f.by(func(f *fakeKube) {
		f.pods = []object{waits("CrashLoopBackOff", "back-off 10s restarting failed container", object{"terminated": object{"exitCode": 137, "reason": "OOMKilled"}})("llama-x")}
	})
	mustMiss(t, up, "its pod llama-x is Pending; container server: CrashLoopBackOff: back-off 10s restarting failed container (it exited with code 137: OOMKilled)")

	f.by(func(f *fakeKube) { f.pods = []object{runs("llama-y")} })
	up = mustRaise(t, l)
	f.by(func(f *fakeKube) { f.gone = true })
	mustMiss(t, up, `Kubernetes answered 404 to GET /apis/apps/v1/namespaces/ml/deployments/llama/scale: deployments.apps "llama" not found`)
	if err := l.Stop(t.Context()); err != nil {
		t.Errorf("stopping what is gone: %v", err)
	}
}

func TestAScaleOfKubernetesIsTriedAgainWhereOthersWereFaster(t *testing.T) {
	f := newFakeKube(t)
	f.raced = 3
	mustRaise(t, f.launcher(t, f.onPort))
	if want := []string{"1"}; !slices.Equal(f.scales, want) {
		t.Errorf("it was scaled to %v, want %v", f.scales, want)
	}
}

func TestATokenThatIsExchangedIsReadAgain(t *testing.T) {
	f := newFakeKube(t)
	l := f.launcher(t, f.onPort)
	mustRaise(t, l)
	f.by(func(f *fakeKube) { f.token = "new" })
	if _, err := l.Find(t.Context()); !isStatus(err, http.StatusUnauthorized) {
		t.Errorf("with the old token it gives %v", err)
	}
	write(t, filepath.Join(filepath.Dir(l.spec.Backend.Kubernetes.Kubeconfig), "token"), "new")
	mustFind(t, l, router.Ready, router.OnGPU)
}

func TestWhatKubernetesCannotDoIsSaidInItsWords(t *testing.T) {
	short := func(f *fakeKube, b *config.Backend) { b.Stall = config.Duration(time.Second); f.onPort(b) }
	onPort := func(f *fakeKube, b *config.Backend) { f.onPort(b) }
	for name, test := range map[string]struct {
		set    func(*fakeKube)
		change func(*fakeKube, *config.Backend)
		want   string
	}{
		"no room": {
			func(f *fakeKube) { f.pod = unschedulable }, short,
			"no progress for 1s; it is away: its pod llama-100 is Pending: Unschedulable: 0/3 nodes are available: 3 Insufficient nvidia.com/gpu.",
		},
		"no quota": {
			func(f *fakeKube) { f.pod = none }, short,
			`no progress for 1s; it is away: it has no pod yet; FailedCreate: pods "llama-1" is forbidden: exceeded quota: gpus`,
		},
		"no volume": {
			func(f *fakeKube) {
				f.pod = waits("ContainerCreating", "", nil)
				f.events = []object{
					{"reason": "FailedMount", "message": `Unable to attach or mount volumes: unmounted volumes=[weights]`, "lastTimestamp": "2026-11-01T00:00:01Z"},
					{"reason": "BackOff", "message": "earlier", "lastTimestamp": "2026-11-01T00:00:00Z", "eventTime": nil},
				}
			}, short,
			"no progress for 1s; it is away: its pod llama-100 is Pending; container server: ContainerCreating; FailedMount: Unable to attach or mount volumes: unmounted volumes=[weights]",
		},
		"no image": {
			func(f *fakeKube) {
				f.pod = waits("ImagePullBackOff", `Back-off pulling image "vllm/vllm-opnai:v1"`, nil)
			}, onPort,
			`its pod llama-100 is Pending; container server: ImagePullBackOff: Back-off pulling image "vllm/vllm-opnai:v1"`,
		},
		"it crashes": {
			func(f *fakeKube) {
				f.pod = waits("CrashLoopBackOff", "back-off 10s restarting failed container", object{"terminated": object{"exitCode": 1, "reason": "Error"}})
			}, onPort,
			"its pod llama-100 is Pending; container server: CrashLoopBackOff: back-off 10s restarting failed container (it exited with code 1: Error); the last it logged: RuntimeError: CUDA out of memory",
		},
		"forbidden": {
			func(f *fakeKube) { f.denied = "PUT" }, onPort,
			`Kubernetes answered 403 to PUT /apis/apps/v1/namespaces/ml/deployments/llama/scale: deployments.apps "llama" is forbidden: User "pilotlight" cannot put resource`,
		},
		"forbidden to see pods": {
			func(f *fakeKube) { f.denied = "/pods" }, onPort, "Kubernetes answered 403 to GET /api/v1/namespaces/ml/pods:",
		},
		"unknown": {
			func(f *fakeKube) { f.token = "other" }, onPort,
			"Kubernetes answered 401 to GET /apis/apps/v1/namespaces/ml/deployments/llama/scale: Unauthorized; it does not know our token or certificate",
		},
		"gone": {
			func(f *fakeKube) { f.gone = true }, onPort,
			`Kubernetes answered 404 to GET /apis/apps/v1/namespaces/ml/deployments/llama/scale: deployments.apps "llama" not found`,
		},
		"no such port": {
			func(*fakeKube) {}, func(_ *fakeKube, b *config.Backend) { b.Kubernetes.Port = "grpc" },
			"its address is not known: container server of pod llama-100 has the ports [http:0]; say which one by kubernetes.port",
		},
		"not in a pod": {
			func(*fakeKube) {}, func(_ *fakeKube, b *config.Backend) { b.Kubernetes.Kubeconfig = "" },
			"we do not run in a pod of Kubernetes (KUBERNETES_SERVICE_HOST is not set); name a kubeconfig",
		},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			f := newFakeKube(t)
			test.set(f)
			l := f.launcher(t, func(b *config.Backend) { test.change(f, b) })
			_, err := l.Wake(t.Context(), nil)
			if want := "wake m-0: " + test.want; err == nil || !strings.HasPrefix(err.Error(), want) {
				t.Errorf("got  %v\nwant %s", err, want)
			}
		})
	}
}

func TestInAPodItsServiceAccountIsUsed(t *testing.T) {
	f := newFakeKube(t)
	server := httptest.NewUnstartedServer(f)
	server.Config.ErrorLog = log.New(io.Discard, "", 0) // of handshakes that are called off
	server.StartTLS()
	t.Cleanup(server.Close)
	host, port, _ := strings.Cut(server.Listener.Addr().String(), ":")
	t.Setenv("KUBERNETES_SERVICE_HOST", host)
	t.Setenv("KUBERNETES_SERVICE_PORT", port)
	dir := t.TempDir()
	write(t, filepath.Join(dir, "ca.crt"), string(pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: server.Certificate().Raw})))
	write(t, filepath.Join(dir, "namespace"), "ml")
	write(t, filepath.Join(dir, "token"), "s3cret")
	l := newLauncher(t, t.TempDir(), config.Backend{
		Engine: config.HTTP, Ready: "/health", Stall: config.Duration(time.Minute), Kubernetes: &config.Kubernetes{Deployment: "llama", Count: 1, Port: f.model},
	})
	l.remote.(*kubernetes).files = dir
	mustRaise(t, l)
}

func TestTheBestPodIsLookedAt(t *testing.T) {
	const at = "2026-11-01T00:00:0%dZ"
	make := func(name string, second int, change func(object) object) object {
		p := change(runs(name))
		p["metadata"].(object)["creationTimestamp"] = fmt.Sprintf(at, second)
		return p
	}
	asIs := func(p object) object { return p }
	ending := func(p object) object {
		p["metadata"].(object)["deletionTimestamp"] = fmt.Sprintf(at, 9)
		return p
	}
	pending := func(p object) object {
		p["status"].(object)["podIP"] = ""
		return p
	}
	evicted := func(p object) object {
		p["status"] = object{"phase": "Failed", "reason": "Evicted", "message": "The node was low on resource: memory."}
		return p
	}
	for want, pods := range map[string][]object{
		"old":     {make("new", 2, asIs), make("old", 1, asIs), make("older", 0, pending)},
		"running": {make("ending", 1, ending), make("running", 2, asIs)},
		"newer":   {make("old", 1, pending), make("newer", 2, pending), make("evicted", 3, evicted)},
		"evicted": {make("evicted", 1, evicted), make("ending", 2, ending)},
		"":        {make("ending", 1, ending)},
	} {
		text, err := json.Marshal(pods)
		if err != nil {
			t.Fatal(err)
		}
		var list []pod
		if err := json.Unmarshal(text, &list); err != nil {
			t.Fatal(err)
		}
		got := ""
		if p := best(list, func(*pod) string { return "server" }); p != nil {
			got = p.Metadata.Name
		}
		if got != want {
			t.Errorf("got %q, want %q", got, want)
		}
	}
}
