package launch

import (
	"bytes"
	"context"
	"crypto/rand"
	"crypto/rsa"
	"crypto/tls"
	"crypto/x509"
	"encoding/base64"
	"encoding/json"
	"encoding/pem"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strings"
	"sync"
	"testing"
	"time"

	"go.yaml.in/yaml/v4"

	"pilotlight/config"
	"pilotlight/probe/proc"
	"pilotlight/router"
)

// realKube is an API server of Kubernetes with its etcd, its scheduler and the controllers of what is scaled, each a process on loopback. There is no kubelet: the test
// plays it, for a node with one GPU that runs every pod as the label plays says.
type realKube struct {
	t    *testing.T
	dir  string
	url  string
	http *http.Client
	ca   []byte
}

// The users of the cluster, whose names are their tokens.
const (
	kubeAdmin   = "admin"
	kubeAllowed = "pilotlight" // may do what docs/wakers.md says
	kubeReader  = "reader"     // all of that but to scale
	kubeNobody  = "nobody"
)

// TestKubernetesItself holds what fakeKube says to the real API, and the Role of docs/wakers.md to what is asked. `make kube-check` builds what it runs.
func TestKubernetesItself(t *testing.T) {
	k := startKube(t)
	model := httptest.NewServer(http.HandlerFunc(func(http.ResponseWriter, *http.Request) {}))
	t.Cleanup(model.Close)
	port := model.Listener.Addr().String()[strings.LastIndex(model.Listener.Addr().String(), ":")+1:]
	on := func(name, user string, change ...func(*config.Backend)) *Launcher {
		t.Helper()
		return k.launcher(t, name, user, port, change...)
	}
	short := func(b *config.Backend) { b.Stall = config.Duration(8 * time.Second) }

	k.deploy("llama", "run", "")
	l := on("llama", kubeAllowed)
	mustFind(t, l, router.Stopped, router.OnDisk)
	up := mustRaise(t, l)
	if up.Addr != "127.0.0.1:"+port {
		t.Errorf("it is at %s, want 127.0.0.1:%s", up.Addr, port)
	}
	mustFind(t, on("llama", kubeAllowed), router.Ready, router.OnGPU)
	if err := l.Stop(t.Context()); err != nil {
		t.Error(err)
	}
	mustFind(t, l, router.Stopped, router.OnDisk)
	if n := k.replicas("deployments", "llama"); n != 0 {
		t.Errorf("it has %d replicas when it is stopped", n)
	}

	up = mustRaise(t, l)
	k.merge("/apis/apps/v1/namespaces/ml/deployments/llama/scale", object{"spec": object{"replicas": 0}})
	mustMiss(t, up, "somebody scaled llama to 0")
	k.busy("llama", func() { up = mustRaise(t, l) })
	k.do(http.MethodDelete, "/apis/apps/v1/namespaces/ml/deployments/llama", nil, nil)
	mustMiss(t, up, `Kubernetes answered 404 to GET /apis/apps/v1/namespaces/ml/deployments/llama/scale: deployments.apps "llama" not found`)
	if err := l.Stop(t.Context()); err != nil {
		t.Errorf("stopping what is gone: %v", err)
	}

	k.do(http.MethodPost, "/apis/apps/v1/namespaces/ml/statefulsets", k.workload("StatefulSet", "stateful", "run", ""), nil)
	stateful := on("stateful", kubeAllowed, func(b *config.Backend) { b.Kubernetes.Deployment, b.Kubernetes.StatefulSet = "", "stateful" })
	mustRaise(t, stateful)
	if err := stateful.Stop(t.Context()); err != nil {
		t.Error(err)
	}

	k.deploy("huge", "run", "8")
	k.deploy("crashes", "crash", "")
	k.deploy("typo", "pull", "")
	k.deploy("quota", "run", "")
	k.deploy("plain", "run", "")
	k.do(http.MethodPost, "/api/v1/namespaces/ml/resourcequotas", object{"metadata": object{"name": "pods"}, "spec": object{
		"hard":          object{"pods": "0"},
		"scopeSelector": object{"matchExpressions": []object{{"scopeName": "PriorityClass", "operator": "In", "values": []string{"quota"}}}},
	}}, nil)
	var failing sync.WaitGroup
	for name, test := range map[string]struct {
		l    *Launcher
		want string
	}{
		"it crashes":          {on("crashes", kubeAllowed), "CrashLoopBackOff: back-off 10s restarting failed container (it exited with code 1: Error)"},
		"no image":            {on("typo", kubeAllowed), `ImagePullBackOff: Back-off pulling image "vllm/vllm-opnai:v1"`},
		"no quota":            {on("quota", kubeAllowed, short), `is forbidden: exceeded quota: pods, requested: pods=1, used: pods=0, limited: pods=0`},
		"forbidden":           {on("plain", kubeReader), `Kubernetes answered 403 to PUT /apis/apps/v1/namespaces/ml/deployments/plain/scale: deployments.apps "plain" is forbidden: User "reader" cannot update resource "deployments/scale" in API group "apps" in the namespace "ml"`},
		"forbidden to see it": {on("plain", kubeNobody), `Kubernetes answered 403 to GET /apis/apps/v1/namespaces/ml/deployments/plain/scale: deployments.apps "plain" is forbidden: User "nobody" cannot get resource "deployments/scale"`},
		"unknown":             {on("plain", "who"), `Kubernetes answered 401 to GET /apis/apps/v1/namespaces/ml/deployments/plain/scale: Unauthorized; it does not know our token or certificate`},
		"gone":                {on("none", kubeAllowed), `Kubernetes answered 404 to GET /apis/apps/v1/namespaces/ml/deployments/none/scale: deployments.apps "none" not found`},
		"no room":             {on("huge", kubeAllowed, short), "is Pending: Unschedulable: 0/1 nodes are available: 1 Insufficient nvidia.com/gpu."},
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

// startKube runs it, for the length of the test.
func startKube(t *testing.T) *realKube {
	t.Helper()
	bin, err := filepath.Abs(filepath.Join("..", "..", "bin"))
	if err != nil {
		t.Fatal(err)
	}
	if _, err := os.Stat(filepath.Join(bin, "kube-apiserver")); err != nil {
		t.Skip("bin/kube-apiserver is not there, which `make kube-check` builds; what it answers is held by the other tests alone")
	}
	k := &realKube{t: t, dir: t.TempDir()}
	ports, err := proc.FreePorts(3)
	if err != nil {
		t.Fatal(err)
	}
	client, peer := fmt.Sprintf("http://127.0.0.1:%d", ports[0]), fmt.Sprintf("http://127.0.0.1:%d", ports[1])
	k.url = fmt.Sprintf("https://127.0.0.1:%d", ports[2])
	k.begin(bin, "etcd", "--data-dir="+k.dir+"/etcd", "--listen-client-urls="+client, "--advertise-client-urls="+client, "--listen-peer-urls="+peer,
		"--initial-advertise-peer-urls="+peer, "--initial-cluster=default="+peer, "--unsafe-no-fsync")
	key, err := rsa.GenerateKey(rand.Reader, 2048)
	if err != nil {
		t.Fatal(err)
	}
	write(t, k.dir+"/sa.key", string(pem.EncodeToMemory(&pem.Block{Type: "RSA PRIVATE KEY", Bytes: x509.MarshalPKCS1PrivateKey(key)})))
	write(t, k.dir+"/tokens.csv", fmt.Sprintf("%[1]s,%[1]s,1,system:masters\n%[2]s,%[2]s,2\n%[3]s,%[3]s,3\n%[4]s,%[4]s,4\n", kubeAdmin, kubeAllowed, kubeReader, kubeNobody))
	k.begin(bin, "kube-apiserver", "--etcd-servers="+client, "--bind-address=127.0.0.1", fmt.Sprintf("--secure-port=%d", ports[2]), "--cert-dir="+k.dir, "--advertise-address=10.0.0.1",
		"--endpoint-reconciler-type=none", "--service-account-issuer=https://kube.test", "--service-account-key-file="+k.dir+"/sa.key", "--service-account-signing-key-file="+k.dir+"/sa.key",
		"--token-auth-file="+k.dir+"/tokens.csv", "--authorization-mode=RBAC", "--service-cluster-ip-range=10.0.0.0/24", "--disable-admission-plugins=ServiceAccount,TaintNodesByCondition")
	k.await("the API server answers", k.ready)
	k.begin(bin, "kube-controller-manager", "--kubeconfig="+k.kubeconfig(kubeAdmin), "--leader-elect=false", "--secure-port=0",
		"--controllers=deployment-controller,replicaset-controller,statefulset-controller,resourcequota-controller")
	k.begin(bin, "kube-scheduler", "--kubeconfig="+k.kubeconfig(kubeAdmin), "--leader-elect=false", "--secure-port=0")
	k.furnish()
	return k
}

// begin runs a program until the test ends.
func (k *realKube) begin(bin, name string, args ...string) {
	k.t.Helper()
	log, err := os.Create(filepath.Join(k.dir, name+".log"))
	if err != nil {
		k.t.Fatal(err)
	}
	defer log.Close()
	cmd := exec.Command(filepath.Join(bin, name), args...)
	cmd.Stdout, cmd.Stderr = log, log
	if err := cmd.Start(); err != nil {
		k.t.Fatal(err)
	}
	k.t.Cleanup(func() {
		_ = cmd.Process.Kill()
		_ = cmd.Wait()
		if text, err := os.ReadFile(log.Name()); k.t.Failed() && err == nil {
			k.t.Logf("the log of %s ends: %s", name, text[max(0, len(text)-2000):])
		}
	})
}

// ready says whether the API server answers. It makes its certificate first.
func (k *realKube) ready() bool {
	ca, err := os.ReadFile(filepath.Join(k.dir, "apiserver.crt"))
	if err != nil {
		return false
	}
	pool := x509.NewCertPool()
	pool.AppendCertsFromPEM(ca)
	k.ca, k.http = ca, &http.Client{Timeout: 10 * time.Second, Transport: &http.Transport{TLSClientConfig: &tls.Config{RootCAs: pool}}}
	return k.ask(context.Background(), http.MethodGet, "/readyz", nil, nil) == nil
}

func (k *realKube) await(what string, is func() bool) {
	k.t.Helper()
	limit := time.After(time.Minute)
	tick := time.NewTicker(50 * time.Millisecond)
	defer tick.Stop()
	for !is() {
		select {
		case <-tick.C:
		case <-limit:
			k.t.Fatalf("after a minute it is not so that %s", what)
		}
	}
}

// kubeconfig writes one for a user.
func (k *realKube) kubeconfig(user string) string {
	file := filepath.Join(k.dir, user+".config")
	write(k.t, file, `{"apiVersion": "v1", "kind": "Config", "current-context": "there", "contexts": [{"name": "there", "context": {"cluster": "c", "user": "u", "namespace": "ml"}}],
		"clusters": [{"name": "c", "cluster": {"server": "`+k.url+`", "certificate-authority-data": "`+base64.StdEncoding.EncodeToString(k.ca)+`"}}],
		"users": [{"name": "u", "user": {"token": "`+user+`"}}]}`)
	return file
}

// ask speaks to the API as the admin.
func (k *realKube) ask(ctx context.Context, method, path string, body, into any) error {
	text, err := json.Marshal(body)
	if err != nil {
		return err
	}
	r, err := http.NewRequestWithContext(ctx, method, k.url+path, bytes.NewReader(text))
	if err != nil {
		return err
	}
	r.Header.Set("Authorization", "Bearer "+kubeAdmin)
	r.Header.Set("Content-Type", "application/json")
	if method == http.MethodPatch {
		r.Header.Set("Content-Type", "application/merge-patch+json")
	}
	answer, err := k.http.Do(r)
	if err != nil {
		return err
	}
	defer answer.Body.Close()
	said, err := io.ReadAll(answer.Body)
	if err != nil {
		return err
	}
	if answer.StatusCode >= 300 {
		return fmt.Errorf("%s %s: %s: %s", method, path, answer.Status, said)
	}
	if into == nil {
		return nil
	}
	return json.Unmarshal(said, into)
}

func (k *realKube) do(method, path string, body, into any) {
	k.t.Helper()
	if err := k.ask(k.t.Context(), method, path, body, into); err != nil {
		k.t.Fatal(err)
	}
}

func (k *realKube) merge(path string, patch object) {
	k.t.Helper()
	k.do(http.MethodPatch, path, patch, nil)
}

// furnish makes the namespace, the users' roles and the node.
func (k *realKube) furnish() {
	k.do(http.MethodPost, "/api/v1/namespaces", object{"metadata": object{"name": "ml"}}, nil)
	k.do(http.MethodPost, "/apis/scheduling.k8s.io/v1/priorityclasses", object{"metadata": object{"name": "quota"}, "value": 1}, nil)
	rules := documentedRules(k.t)
	var fewer []object
	for _, rule := range rules {
		if fmt.Sprint(rule["resources"]) == "[deployments/scale]" {
			rule = object{"apiGroups": rule["apiGroups"], "resources": rule["resources"], "verbs": []string{"get"}}
		}
		fewer = append(fewer, rule)
	}
	stateful := []object{
		{"apiGroups": []string{"apps"}, "resources": []string{"statefulsets"}, "verbs": []string{"get", "list", "watch"}},
		{"apiGroups": []string{"apps"}, "resources": []string{"statefulsets/scale"}, "verbs": []string{"get", "update"}},
	}
	for user, rules := range map[string][]object{kubeAllowed: append(rules, stateful...), kubeReader: fewer} {
		k.do(http.MethodPost, "/apis/rbac.authorization.k8s.io/v1/namespaces/ml/roles", object{"metadata": object{"name": user}, "rules": rules}, nil)
		k.do(http.MethodPost, "/apis/rbac.authorization.k8s.io/v1/namespaces/ml/rolebindings", object{
			"metadata": object{"name": user}, "roleRef": object{"apiGroup": "rbac.authorization.k8s.io", "kind": "Role", "name": user},
			"subjects": []object{{"kind": "User", "apiGroup": "rbac.authorization.k8s.io", "name": user}},
		}, nil)
	}
	k.do(http.MethodPost, "/api/v1/nodes", object{"metadata": object{"name": "gpu-1"}}, nil)
	has := object{"cpu": "8", "memory": "64Gi", "pods": "100", "nvidia.com/gpu": "1"}
	k.merge("/api/v1/nodes/gpu-1/status", object{"status": object{"capacity": has, "allocatable": has, "conditions": []object{{"type": "Ready", "status": "True"}}}})
	ctx, stop := context.WithCancel(context.Background())
	var playing sync.WaitGroup
	playing.Go(func() { k.play(ctx) })
	k.t.Cleanup(func() { stop(); playing.Wait() })
}

// documentedRules are those of the Role in docs/wakers.md.
func documentedRules(t *testing.T) []object {
	t.Helper()
	text, err := os.ReadFile("../../docs/wakers.md")
	if err != nil {
		t.Fatal(err)
	}
	var role struct{ Rules []object }
	block := regexp.MustCompile("(?s)```yaml\n(rules:.*?)```").FindSubmatch(text)
	if block == nil || yaml.Unmarshal(block[1], &role) != nil || len(role.Rules) != 6 {
		t.Fatalf("docs/wakers.md has no Role with six rules: %+v", role)
	}
	return role.Rules
}

// play does to the pods of the node what a kubelet would.
func (k *realKube) play(ctx context.Context) {
	tick := time.NewTicker(50 * time.Millisecond)
	defer tick.Stop()
	for {
		select {
		case <-tick.C:
		case <-ctx.Done():
			return
		}
		var pods struct {
			Items []struct {
				Metadata struct {
					Name              string
					Labels            map[string]string
					DeletionTimestamp string
				}
				Spec   struct{ NodeName string }
				Status struct{ PodIP string }
			}
		}
		err := k.ask(ctx, http.MethodGet, "/api/v1/namespaces/ml/pods", nil, &pods)
		for _, p := range pods.Items {
			path := "/api/v1/namespaces/ml/pods/" + p.Metadata.Name
			switch {
			case p.Metadata.DeletionTimestamp != "":
				err = errors.Join(err, k.ask(ctx, http.MethodDelete, path, object{"gracePeriodSeconds": 0}, nil))
			case p.Spec.NodeName != "" && p.Status.PodIP == "":
				err = errors.Join(err, k.ask(ctx, http.MethodPatch, path+"/status", object{"status": plays(p.Metadata.Labels["plays"])}, nil))
			}
		}
		if err != nil && ctx.Err() == nil && !strings.Contains(err.Error(), "404") {
			k.t.Errorf("the kubelet: %v", err)
			return
		}
	}
}

// plays is the status of a pod whose containers do what is said.
func plays(what string) object {
	container := object{"name": "server", "image": "x", "imageID": "x", "ready": false, "restartCount": 1, "state": object{"waiting": object{
		"reason": "CrashLoopBackOff", "message": "back-off 10s restarting failed container",
	}}, "lastState": object{"terminated": object{"exitCode": 1, "reason": "Error"}}}
	phase := "Pending"
	switch what {
	case "run":
		phase = "Running"
		container = object{"name": "server", "image": "x", "imageID": "x", "ready": true, "restartCount": 0, "containerID": "containerd://1", "state": object{"running": object{"startedAt": "2026-11-01T00:00:00Z"}}}
	case "pull":
		container["state"] = object{"waiting": object{"reason": "ImagePullBackOff", "message": `Back-off pulling image "vllm/vllm-opnai:v1"`}}
		delete(container, "lastState")
	}
	return object{"phase": phase, "podIP": "127.0.0.1", "podIPs": []object{{"ip": "127.0.0.1"}}, "containerStatuses": []object{container}}
}

// workload is a Deployment or a StatefulSet of no replicas.
func (k *realKube) workload(kind, name, plays, gpus string) object {
	container := object{"name": "server", "image": "x", "ports": []object{{"name": "http", "containerPort": 8000}}}
	if gpus != "" {
		container["resources"] = object{"limits": object{"nvidia.com/gpu": gpus}}
	}
	pod := object{"containers": []object{container}}
	if name == "quota" {
		pod["priorityClassName"] = name
	}
	labels := object{"app": name, "plays": plays}
	return object{
		"apiVersion": "apps/v1", "kind": kind, "metadata": object{"name": name},
		"spec": object{"replicas": 0, "selector": object{"matchLabels": object{"app": name}}, "template": object{"metadata": object{"labels": labels}, "spec": pod}},
	}
}

func (k *realKube) deploy(name, plays, gpus string) {
	k.t.Helper()
	k.do(http.MethodPost, "/apis/apps/v1/namespaces/ml/deployments", k.workload("Deployment", name, plays, gpus), nil)
}

func (k *realKube) replicas(resource, name string) int {
	k.t.Helper()
	var s scale
	k.do(http.MethodGet, "/apis/apps/v1/namespaces/ml/"+resource+"/"+name+"/scale", nil, &s)
	return s.Spec.Replicas
}

// busy has somebody change a Deployment while f runs, often, and not so long that its controllers could do nothing.
func (k *realKube) busy(name string, f func()) {
	ctx, stop := context.WithCancel(k.t.Context())
	var writing sync.WaitGroup
	writing.Go(func() {
		for i := 0; ctx.Err() == nil && i < 20; i++ {
			err := k.ask(ctx, http.MethodPatch, "/apis/apps/v1/namespaces/ml/deployments/"+name, object{"metadata": object{"annotations": object{"written": fmt.Sprint(i)}}}, nil)
			if err != nil && ctx.Err() == nil {
				k.t.Error(err)
			}
			select {
			case <-time.After(20 * time.Millisecond):
			case <-ctx.Done():
			}
		}
	})
	f()
	stop()
	writing.Wait()
}

// launcher makes the launcher of a Deployment's backend.
func (k *realKube) launcher(t *testing.T, name, user, port string, change ...func(*config.Backend)) *Launcher {
	t.Helper()
	b := config.Backend{
		Engine: config.HTTP, Ready: "/health", Stall: config.Duration(time.Minute),
		Kubernetes: &config.Kubernetes{Deployment: name, Count: 1, Port: port, Kubeconfig: k.kubeconfig(user)},
	}
	for _, change := range change {
		change(&b)
	}
	return newLauncher(t, t.TempDir(), b)
}
