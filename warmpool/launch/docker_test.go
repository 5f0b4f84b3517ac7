package launch

import (
	"archive/tar"
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"log/slog"
	"net/http"
	"net/http/httptest"
	"net/url"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"testing"
	"time"

	"pilotlight/config"
	"pilotlight/probe/proc"
	"pilotlight/router"
	"pilotlight/warmpool"
)

// containerEngine is one that a test has started.
type containerEngine struct {
	api   *api
	host  string
	image string
	ports map[string]int // of containers, by their names
}

// inEachEngine runs a test in Docker and in Podman, where root can start them.
func inEachEngine(t *testing.T, run func(t *testing.T, e *containerEngine)) {
	dir := t.TempDir()
	model := filepath.Join(dir, "model")
	build := exec.Command("go", "build", "-o", model, "./testdata/model")
	build.Env = append(os.Environ(), "CGO_ENABLED=0")
	if out, err := build.CombinedOutput(); err != nil {
		t.Fatalf("build a model server: %v\n%s", err, out)
	}
	for name, command := range map[string]func(dir, socket string) []string{
		"docker": func(dir, socket string) []string {
			return []string{
				"dockerd", "--data-root", dir + "/data", "--exec-root", dir + "/exec", "--pidfile", dir + "/pid", "--host", socket,
				"--iptables=false", "--ip6tables=false", "--bridge=none", "--storage-driver", "vfs",
			}
		},
		"podman": func(dir, socket string) []string {
			return []string{
				"podman", "--root", dir + "/root", "--runroot", dir + "/run", "--storage-driver", "vfs", "--events-backend", "file",
				"--cgroup-manager", "cgroupfs", "--runtime", "runc", "system", "service", "--time", "0", socket,
			}
		},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			args := command(shortDir(t), "unix://"+shortDir(t)+"/s")
			if _, err := exec.LookPath(args[0]); err != nil || os.Getuid() != 0 {
				t.Skipf("%s is not here, or we are not root; what it answers is held by the other tests alone", args[0])
			}
			run(t, startEngine(t, args, model))
		})
	}
}

// shortDir is one whose name leaves room for that of a socket, and that any user may look into.
func shortDir(t *testing.T) string {
	dir, err := os.MkdirTemp("/tmp", "pl")
	if err != nil {
		t.Fatal(err)
	}
	if err := os.Chmod(dir, 0o755); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = os.RemoveAll(dir) })
	return dir
}

func startEngine(t *testing.T, args []string, model string) *containerEngine {
	var said bytes.Buffer
	cmd := exec.Command(args[0], args[1:]...)
	cmd.Stdout, cmd.Stderr = &said, &said
	cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		_ = cmd.Process.Signal(syscall.SIGTERM)
		_ = cmd.Wait()
		_ = syscall.Kill(-cmd.Process.Pid, syscall.SIGKILL) // its containerd
		if t.Failed() {
			t.Log(said.String())
		}
	})
	socket := args[slices.IndexFunc(args, func(a string) bool { return strings.HasPrefix(a, "unix://") })]
	e := &containerEngine{api: newAPI("engine", socket, nil), host: socket, image: "localhost/model:latest", ports: map[string]int{}}
	t.Cleanup(e.api.close)
	patience, cancel := context.WithTimeout(t.Context(), time.Minute)
	defer cancel()
	for {
		if _, err := e.api.do(patience, call{method: http.MethodGet, path: "/v1.40/info"}); err == nil {
			break
		} else if patience.Err() != nil {
			t.Fatalf("it does not come up: %v\n%s", err, said.String())
		}
		<-time.After(50 * time.Millisecond)
	}
	e.load(t, model)
	return e
}

// load makes an image that has nothing in it but the program.
func (e *containerEngine) load(t *testing.T, program string) {
	binary, err := os.ReadFile(program)
	if err != nil {
		t.Fatal(err)
	}
	var image bytes.Buffer
	w := tar.NewWriter(&image)
	err = w.WriteHeader(&tar.Header{Name: "model", Mode: 0o755, Size: int64(len(binary))})
	if err == nil {
		_, err = w.Write(binary)
	}
	if err == nil {
		err = w.Close()
	}
	if err != nil {
		t.Fatal(err)
	}
	req, err := http.NewRequestWithContext(t.Context(), http.MethodPost, e.api.base+"/v1.40/images/create?fromSrc=-&repo=localhost/model&tag=latest", &image)
	if err != nil {
		t.Fatal(err)
	}
	req.Header.Set("Content-Type", "application/x-tar")
	resp, err := e.api.client.Do(req)
	if err != nil {
		t.Fatal(err)
	}
	defer resp.Body.Close() //nolint:errcheck // it was only read
	if text, err := io.ReadAll(resp.Body); err != nil || resp.StatusCode != http.StatusOK {
		t.Fatalf("load an image: %d %s, %v", resp.StatusCode, text, err)
	}
}

// create makes a container that has not been started, in the host's network, and gives its port.
func (e *containerEngine) create(t *testing.T, name string, command ...string) (port int) {
	ports, err := proc.FreePorts(1)
	if err != nil {
		t.Fatal(err)
	}
	port = ports[0]
	e.ports[name] = port
	for i := range command {
		command[i] = strings.ReplaceAll(command[i], "PORT", fmt.Sprint(port))
	}
	limit := []object{{"Name": "nofile", "Soft": 1024, "Hard": 1024}, {"Name": "nproc", "Soft": 1024, "Hard": 1024}}
	e.do(t, http.MethodPost, "/create?name="+name, object{
		"Image": e.image, "Cmd": command, "ExposedPorts": object{fmt.Sprintf("%d/tcp", port): object{}},
		"HostConfig": object{"NetworkMode": "host", "CgroupnsMode": "host", "Ulimits": limit},
	})
	t.Cleanup(func() {
		_, _ = e.api.do(context.WithoutCancel(t.Context()), call{
			method: http.MethodDelete, path: "/v1.40/containers/" + name, query: url.Values{"force": {"true"}},
		})
	})
	return port
}

func (e *containerEngine) do(t *testing.T, method, path string, body any) {
	t.Helper()
	path, query, _ := strings.Cut(path, "?")
	values, err := url.ParseQuery(query)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := e.api.do(t.Context(), call{method: method, path: "/v1.40/containers" + path, query: values, body: body}); err != nil {
		t.Fatal(err)
	}
}

// launcher makes the launcher of a backend in a container.
func (e *containerEngine) launcher(t *testing.T, name string, change func(*config.Backend)) *Launcher {
	b := config.Backend{
		Engine: config.HTTP, Ready: "/health", Stall: config.Duration(time.Minute),
		Docker: &config.Docker{Container: name, Host: e.host, Action: config.DockerStop, Port: e.ports[name], StopTime: config.Duration(time.Second)},
	}
	if change != nil {
		change(&b)
	}
	return newLauncher(t, t.TempDir(), b)
}

func TestContainersAreStartedAndStopped(t *testing.T) {
	inEachEngine(t, func(t *testing.T, e *containerEngine) {
		t.Run("from nothing and back", e.fromNothing)
		t.Run("one that dies is missed", e.dies)
		t.Run("one that somebody starts is found, and one that he pauses is missed", e.byHand)
		t.Run("pausing is a way to take it down", e.pauses)
		t.Run("one that loads slowly is waited for", e.slow)
		t.Run("failures say why", e.failures)
		t.Run("without the right to the socket", e.forbidden)
	})
}

func (e *containerEngine) fromNothing(t *testing.T) {
	port := e.create(t, "m-a", "/model", "PORT", "well")
	l := e.launcher(t, "m-a", nil)
	mustFind(t, l, router.Stopped, router.OnDisk)
	up := mustRaise(t, l)
	if want := fmt.Sprintf("127.0.0.1:%d", port); up.Addr != want {
		t.Errorf("it is at %s, want %s", up.Addr, want)
	}
	mustFind(t, e.launcher(t, "m-a", nil), router.Ready, router.OnGPU)
	if err := l.Stop(t.Context()); err != nil {
		t.Error(err)
	}
	mustFind(t, l, router.Stopped, router.OnDisk)
	if err := l.Stop(t.Context()); err != nil {
		t.Errorf("stopping it twice: %v", err)
	}
	mustRaise(t, l)
	select {
	case err := <-up.Gone:
		t.Errorf("our own stop is told as an end: %v", err)
	default:
	}
}

func (e *containerEngine) dies(t *testing.T) {
	e.create(t, "m-b", "/model", "PORT", "well")
	up := mustRaise(t, e.launcher(t, "m-b", nil))
	e.do(t, http.MethodPost, "/m-b/kill?signal=KILL", nil)
	mustMiss(t, up, "its container exited with code 137")
}

func (e *containerEngine) byHand(t *testing.T) {
	e.create(t, "m-c", "/model", "PORT", "soon")
	e.do(t, http.MethodPost, "/m-c/start", nil)
	l := e.launcher(t, "m-c", nil)
	mustFind(t, l, router.Waking, router.OnDisk)
	up := mustRaise(t, l)
	e.do(t, http.MethodPost, "/m-c/pause", nil)
	mustMiss(t, up, "its container is paused")
	mustRaise(t, l)
	e.do(t, http.MethodPost, "/m-c/pause", nil)
	if err := l.Stop(t.Context()); err != nil { // engines stop none that is paused
		t.Error(err)
	}
	mustFind(t, l, router.Stopped, router.OnDisk)
}

func (e *containerEngine) pauses(t *testing.T) {
	e.create(t, "m-d", "/model", "PORT", "well")
	l := e.launcher(t, "m-d", func(b *config.Backend) { b.Docker.Action = config.DockerPause })
	mustRaise(t, l)
	if err := l.Stop(t.Context()); err != nil {
		t.Fatal(err)
	}
	if c, err := l.remote.(*docker).inspect(t.Context()); err != nil || !c.State.Paused {
		t.Errorf("it is %+v, %v; want paused", c.State, err)
	}
	mustFind(t, l, router.Stopped, router.OnDisk)
	mustRaise(t, l)
}

// slow: it logs for as long as its stall is, and no byte of an answer comes from it.
func (e *containerEngine) slow(t *testing.T) {
	e.create(t, "m-e", "/model", "PORT", "slow")
	mustRaise(t, e.launcher(t, "m-e", func(b *config.Backend) { b.Stall = config.Duration(5 * time.Second) }))
}

func (e *containerEngine) failures(t *testing.T) {
	e.create(t, "crash", "/model", "PORT", "crash")
	e.create(t, "hang", "/model", "PORT", "hang")
	e.create(t, "nothing", "/no-such-program")
	for name, want := range map[string][]string{
		"crash":   {"its container exited with code 3; the last it logged: RuntimeError: CUDA out of memory"},
		"hang":    {"no progress for 3s", "the last it logged: loading weights"},
		"nothing": {"/nothing/start", "/no-such-program"},
		"missing": {"answered 404 to GET /v1.40/containers/missing/json", "No such container|no such container"},
	} {
		_, err := e.launcher(t, name, func(b *config.Backend) {
			if name == "hang" {
				b.Stall = config.Duration(3 * time.Second)
			}
		}).Wake(t.Context(), nil)
		for _, want := range want {
			if !containsOne(err, want) {
				t.Errorf("%s gave %v, want %s", name, err, want)
			}
		}
	}
	if err := e.launcher(t, "missing", nil).Stop(t.Context()); err != nil {
		t.Errorf("stopping what is gone gave %v", err)
	}
}

// forbidden: another user may not so much as connect.
func (e *containerEngine) forbidden(t *testing.T) {
	if err := os.Chmod(strings.TrimPrefix(e.host, "unix://"), 0o600); err != nil {
		t.Fatal(err)
	}
	e.create(t, "m-f", "/model", "PORT", "well")
	nobody := exec.Command("/proc/self/exe")
	nobody.Env = append(os.Environ(), "WAKE_CONTAINER="+e.host)
	nobody.SysProcAttr = &syscall.SysProcAttr{Credential: &syscall.Credential{Uid: 65534, Gid: 65534}}
	nobody.Dir = "/"
	out, err := nobody.CombinedOutput()
	want := "reach Docker at " + e.host + ": dial unix " + strings.TrimPrefix(e.host, "unix://") + ": connect: permission denied; " +
		"the user that runs pilotlight must be in the group of that socket"
	if err != nil || !strings.Contains(string(out), want) {
		t.Errorf("got %s, %v; want %s", out, err, want)
	}
}

// wakeContainer is what nobody does in the test of what is forbidden.
func wakeContainer(host string) {
	l := New(Spec{ID: "m-0", Backend: config.Backend{Docker: &config.Docker{Container: "m-f", Host: host}}, StateDir: "/nowhere", Log: slog.New(slog.DiscardHandler)})
	defer l.Close()
	_, err := l.Wake(context.Background(), nil)
	fmt.Println(err)
}

// containsOne tells whether an error has one of the texts that a bar separates.
func containsOne(err error, texts string) bool {
	return err != nil && slices.ContainsFunc(strings.Split(texts, "|"), func(text string) bool { return strings.Contains(err.Error(), text) })
}

// mustRaise wakes a backend that an orchestrator runs.
func mustRaise(t *testing.T, l *Launcher) warmpool.Up {
	t.Helper()
	up, err := l.Wake(t.Context(), nil)
	if err != nil || up.Addr == "" || up.Gone == nil {
		t.Fatalf("wake gave %+v, %v", up, err)
	}
	return up
}

// mustMiss waits until the model server is said to be gone.
func mustMiss(t *testing.T, up warmpool.Up, why string) {
	t.Helper()
	select {
	case err := <-up.Gone:
		if !containsOne(err, why) {
			t.Errorf("it is gone since %v, want %s", err, why)
		}
	case <-time.After(time.Minute):
		t.Error("nobody missed it")
	}
}

func TestAContainerIsReachedWhereItSays(t *testing.T) {
	for name, test := range map[string]struct {
		says, host string
		port       int
		want       string
	}{
		"published": {
			`{"NetworkSettings":{"Ports":{"8000/tcp":[{"HostIp":"0.0.0.0","HostPort":"49153"},{"HostIp":"::","HostPort":"49153"}]}}}`,
			"unix:///run/docker.sock", 8000, "127.0.0.1:49153",
		},
		"published on another host": {
			`{"NetworkSettings":{"Ports":{"8000/tcp":[{"HostIp":"","HostPort":"49153"}]}}}`, "tcp://gpu-3:2375", 8000, "gpu-3:49153",
		},
		"published on one address": {
			`{"NetworkSettings":{"Ports":{"8000/tcp":[{"HostIp":"10.0.0.7","HostPort":"8001"}]}}}`, "tcp://gpu-3:2375", 8000, "10.0.0.7:8001",
		},
		"the only one exposed": {
			`{"Config":{"ExposedPorts":{"8000/tcp":{},"9000/udp":{}}},"HostConfig":{"NetworkMode":"host"}}`, "unix:///s", 0, "127.0.0.1:8000",
		},
		"on its own network": {
			`{"NetworkSettings":{"Ports":{"8000/tcp":null},"Networks":{"none":{"IPAddress":""},"web":{"IPAddress":"172.18.0.2"}}}}`,
			"unix:///s", 8000, "172.18.0.2:8000",
		},
		"nowhere": {`{"HostConfig":{"NetworkMode":"none"}}`, "unix:///s", 8000, "container c has none that we could reach; give the backend one"},
		"two ports": {
			`{"Config":{"ExposedPorts":{"8000/tcp":{},"8001/tcp":{}}}}`, "unix:///s", 0,
			"container c exposes the ports [8000 8001]; say which one by docker.port",
		},
	} {
		var c container
		if err := json.Unmarshal([]byte(test.says), &c); err != nil {
			t.Fatal(err)
		}
		got, err := newDocker(config.Docker{Container: "c", Host: test.host, Port: test.port}, "").addr(c)
		if got != test.want && !containsOne(err, test.want) {
			t.Errorf("%s: got %s, %v; want %s", name, got, err, test.want)
		}
	}
}

func TestTheLogOfAContainerIsTakenOutOfItsFrames(t *testing.T) {
	framed := "\x01\x00\x00\x00\x00\x00\x00\x04one\n\x02\x00\x00\x00\x00\x00\x00\x04two\n\x01\x00\x00\x00\x00\x00\x00\xffcut"
	if got := string(unframed([]byte(framed))); got != "one\ntwo\ncut" {
		t.Errorf("got %q", got)
	}
	if got := string(unframed([]byte("plain\n"))); got != "plain\n" {
		t.Errorf("got %q", got)
	}
}

func TestAnAPIThatIsOutOfReachSaysSo(t *testing.T) {
	server := httptest.NewServer(http.NotFoundHandler())
	server.Close()
	for host, want := range map[string]string{
		"unix:///no/such.sock": "reach Docker at unix:///no/such.sock: dial unix /no/such.sock: connect: no such file or directory; does the engine run?",
		server.URL:             "reach Docker at " + server.URL + ": dial tcp " + server.Listener.Addr().String() + ": connect: connection refused",
	} {
		_, err := newLauncher(t, t.TempDir(), config.Backend{Docker: &config.Docker{Container: "c", Host: host}}).Find(t.Context())
		if want = "find m-0: " + want; err == nil || err.Error() != want {
			t.Errorf("got  %v\nwant %s", err, want)
		}
	}
}
