package launch

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"pilotlight/config"
	"pilotlight/router"
	"pilotlight/warmpool"
)

// fake is a model server that behaves as one engine does. It notes what moves it.
type fake struct {
	mu    sync.Mutex
	awake bool
	busy  int      // answers of its metrics that still show a request
	calls []string // other than GET
	serve func(f *fake, request, body string) (status int, answer string)
}

func (f *fake) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	body, _ := io.ReadAll(r.Body)
	f.mu.Lock()
	defer f.mu.Unlock()
	request := r.Method + " " + r.URL.RequestURI()
	if r.Method != http.MethodGet && r.URL.Path != "/v2/repository/index" {
		f.calls = append(f.calls, strings.TrimSpace(request+" "+string(body)))
	}
	status, answer := f.serve(f, request, string(body))
	w.WriteHeader(status)
	_, _ = io.WriteString(w, answer)
}

func (f *fake) took(t *testing.T, want ...string) {
	t.Helper()
	f.mu.Lock()
	defer f.mu.Unlock()
	if !slices.Equal(f.calls, want) {
		t.Errorf("it was asked\n  %s\nwant\n  %s", strings.Join(f.calls, "\n  "), strings.Join(want, "\n  "))
	}
	f.calls = nil
}

// at makes a Launcher for a fake that somebody else keeps running.
func (f *fake) at(t *testing.T, b config.Backend) *Launcher {
	t.Helper()
	server := httptest.NewServer(f)
	t.Cleanup(server.Close)
	b.Address = server.Listener.Addr().String()
	b.Stall = config.Duration(time.Minute)
	return newLauncher(t, t.TempDir(), b)
}

func newLauncher(t *testing.T, stateDir string, b config.Backend) *Launcher {
	t.Helper()
	l := New(Spec{ID: "m-0", ServedAs: "m", Backend: b, StateDir: stateDir, Log: slog.New(slog.DiscardHandler)})
	t.Cleanup(l.Close)
	return l
}

func mustSleep(t *testing.T, l *Launcher, want router.Tier) {
	t.Helper()
	if tier, err := l.Sleep(t.Context()); err != nil || tier != want {
		t.Fatalf("sleep gave %v, %v; want %v", tier, err, want)
	}
	mustFind(t, l, router.Asleep, want)
}

func mustWake(t *testing.T, l *Launcher) warmpool.Up {
	t.Helper()
	up, err := l.Wake(t.Context(), nil)
	if err != nil || up.Addr != l.spec.Backend.Address {
		t.Fatalf("wake gave %+v, %v", up, err)
	}
	mustFind(t, l, router.Ready, router.OnGPU)
	return up
}

func mustFind(t *testing.T, l *Launcher, state router.State, tier router.Tier) {
	t.Helper()
	found, err := l.Find(t.Context())
	if err != nil || found.State != state || found.Tier != tier {
		t.Errorf("found %v on %v, %v; want %v on %v", found.State, found.Tier, err, state, tier)
	}
}

func vllm(f *fake, request, _ string) (int, string) {
	switch {
	case strings.HasPrefix(request, "POST /sleep?level="):
		f.awake = false
	case request == "POST /wake_up", request == "POST /wake_up?tags=kv_cache":
		f.awake = true
	case request == "GET /is_sleeping":
		return 200, fmt.Sprintf(`{"is_sleeping":%v}`, !f.awake)
	case request == "GET /metrics":
		if f.busy > 0 {
			f.busy--
			return 200, "vllm:num_requests_running{engine=\"0\"} 1.0\n"
		}
		return 200, "vllm:num_requests_running{engine=\"0\"} 0.0\n"
	}
	return 200, ""
}

func TestVLLMSleepsWithItsWeightsOnTheHost(t *testing.T) {
	f := &fake{awake: true, busy: 2, serve: vllm}
	l := f.at(t, config.Backend{Engine: config.VLLM, Sleep: config.SleepEngine})
	mustSleep(t, l, router.OnHost)
	if f.busy != 0 {
		t.Error("it was put to sleep while it worked on a request")
	}
	mustWake(t, l)
	f.took(t, "POST /sleep?level=1", "POST /wake_up")
}

func TestVLLMLoadsItsWeightsAgainAfterLevel2EvenIfTheConfigurationHasChangedMeanwhile(t *testing.T) {
	f := &fake{awake: true, serve: vllm}
	l := f.at(t, config.Backend{Engine: config.VLLM, Sleep: config.SleepEngine, SleepLevel: 2})
	mustSleep(t, l, router.OnDisk)
	b := l.spec.Backend
	b.SleepLevel = 1
	mustWake(t, newLauncher(t, l.spec.StateDir, b))
	f.took(t, "POST /sleep?level=2", "POST /wake_up?tags=weights", `POST /collective_rpc {"method":"reload_weights"}`,
		"POST /wake_up?tags=kv_cache", "POST /reset_prefix_cache")
}

func TestAnEngineThatStaysBusyIsNotPutToSleep(t *testing.T) {
	ctx, cancel := context.WithCancel(t.Context())
	f := &fake{awake: true, busy: 1 << 30}
	f.serve = func(f *fake, request, body string) (int, string) {
		if f.busy < 1<<30-5 {
			cancel() // whoever wanted the memory has waited for long enough
		}
		return vllm(f, request, body)
	}
	l := f.at(t, config.Backend{Engine: config.VLLM, Sleep: config.SleepEngine})
	if _, err := l.Sleep(ctx); !errors.Is(err, context.Canceled) {
		t.Errorf("got %v", err)
	}
	f.took(t)
}

func sglang(flags string) func(f *fake, request, _ string) (int, string) {
	return func(f *fake, request, _ string) (int, string) {
		switch request {
		case "GET /server_info":
			return 200, `{"model_path":"/models/m",` + flags + `}`
		case "POST /release_memory_occupation":
			f.awake = false
		case "POST /resume_memory_occupation":
			if f.awake {
				return 500, "KeyError: 'weights'" // and the scheduler is dead
			}
			f.awake = true
		case "GET /health":
			if !f.awake {
				return 500, "it generates a token to see if it is well, and dies"
			}
		case "GET /get_server_info", "GET /metrics":
			return 404, ""
		}
		return 200, ""
	}
}

func TestSGLangIsRemembered(t *testing.T) {
	f := &fake{awake: true, serve: sglang(`"enable_memory_saver":true,"enable_weights_cpu_backup":true`)}
	l := f.at(t, config.Backend{Engine: config.SGLang, Sleep: config.SleepEngine})
	mustWake(t, l)
	mustSleep(t, l, router.OnHost)
	again := newLauncher(t, l.spec.StateDir, l.spec.Backend)
	mustFind(t, again, router.Asleep, router.OnHost)
	mustWake(t, again)
	f.took(t, "POST /release_memory_occupation {}", "POST /resume_memory_occupation {}")
}

func TestSGLangLoadsWeightsThatItDidNotKeep(t *testing.T) {
	f := &fake{awake: true, serve: sglang(`"enable_memory_saver":true`)}
	l := f.at(t, config.Backend{Engine: config.SGLang, Sleep: config.SleepEngine})
	mustSleep(t, l, router.OnDisk)
	mustWake(t, l)
	f.took(t, "POST /release_memory_occupation {}", "POST /resume_memory_occupation {}",
		`POST /update_weights_from_disk {"model_path":"/models/m"}`)
}

func TestSGLangThatCannotReleaseItsMemorySaysWhichFlagItNeeds(t *testing.T) {
	f := &fake{awake: true, serve: sglang(`"enable_memory_saver":false`)}
	l := f.at(t, config.Backend{Engine: config.SGLang, Sleep: config.SleepEngine})
	if _, err := l.Sleep(t.Context()); err == nil || !strings.Contains(err.Error(), "--enable-memory-saver") {
		t.Errorf("got %v", err)
	}
	f.took(t)
}

func TestOllamaIsUpBeforeItsModelIsLoaded(t *testing.T) {
	f := &fake{serve: func(f *fake, request, body string) (int, string) {
		switch {
		case request == "GET /api/ps" && f.awake:
			return 200, `{"models":[{"name":"m:latest"}]}`
		case request == "GET /api/ps":
			return 200, `{"models":[]}`
		case strings.Contains(body, `"keep_alive":-1`):
			f.awake = true
		case strings.Contains(body, `"keep_alive":0`):
			f.awake = false
		}
		return 200, `{"done":true}`
	}}
	l := f.at(t, config.Backend{Engine: config.Ollama, Sleep: config.SleepEngine})
	mustFind(t, l, router.Asleep, router.OnDisk)
	mustWake(t, l)
	mustSleep(t, l, router.OnDisk)
	f.took(t, `POST /api/generate {"keep_alive":-1,"model":"m","stream":false}`,
		`POST /api/generate {"keep_alive":0,"model":"m","stream":false}`)
}

func TestOllamaLoadsAnEmbeddingModelByAnEmbedding(t *testing.T) {
	f := &fake{serve: func(f *fake, request, _ string) (int, string) {
		switch {
		case request == "GET /api/ps" && f.awake:
			return 200, `{"models":[{"name":"m:latest"}]}`
		case request == "POST /api/generate":
			return 400, `{"error":"\"m\" does not support generate"}`
		case request == "POST /api/embed":
			f.awake = true
		}
		return 200, `{}`
	}}
	mustWake(t, f.at(t, config.Backend{Engine: config.Ollama}))
}

func TestALlamaRouterLoadsAndUnloadsTheModel(t *testing.T) {
	loading := 0
	f := &fake{serve: func(f *fake, request, _ string) (int, string) {
		switch request {
		case "GET /models":
			status := `"unloaded"`
			if f.awake {
				status = `"loaded"`
			}
			if loading > 0 {
				loading--
				status = `"loading"`
			}
			return 200, `{"data":[{"id":"m","status":{"value":` + status + `}}]}`
		case "POST /models/load":
			f.awake, loading = true, 3
		case "POST /models/unload":
			f.awake = false
		}
		return 200, `{"success":true}`
	}}
	l := f.at(t, config.Backend{Engine: config.LlamaCPP, Sleep: config.SleepEngine})
	mustWake(t, l)
	mustSleep(t, l, router.OnDisk)
	f.took(t, `POST /models/load {"model":"m"}`, `POST /models/unload {"model":"m"}`)
}

func TestALlamaRouterThatCannotLoadTheModelFailsTheWake(t *testing.T) {
	f := &fake{serve: func(_ *fake, request, _ string) (int, string) {
		if request == "GET /models" {
			return 200, `{"data":[{"id":"m","status":{"value":"unloaded","failed":true,"exit_code":1}}]}`
		}
		return 200, `{"success":true}`
	}}
	_, err := f.at(t, config.Backend{Engine: config.LlamaCPP}).Wake(t.Context(), nil)
	if want := "wake m-0: its router could not load m: exit status 1"; err == nil || err.Error() != want {
		t.Errorf("got %v, want %s", err, want)
	}
}

func TestTritonLoadsAndUnloadsTheModel(t *testing.T) {
	f := &fake{serve: func(f *fake, request, _ string) (int, string) {
		switch request {
		case "GET /v2/models/m/ready":
			if !f.awake {
				return 400, ""
			}
		case "POST /v2/repository/index":
			return 200, `[{"name":"m","version":"1","state":"UNAVAILABLE","reason":"unloaded"}]`
		case "POST /v2/repository/models/m/load":
			f.awake = true
		case "POST /v2/repository/models/m/unload":
			f.awake = false
		}
		return 200, ""
	}}
	l := f.at(t, config.Backend{Engine: config.Triton, Sleep: config.SleepEngine})
	mustWake(t, l)
	mustSleep(t, l, router.OnDisk)
	f.took(t, "POST /v2/repository/models/m/load {}", "POST /v2/repository/models/m/unload {}")
}

func TestHooksMoveABackendByTheirRequests(t *testing.T) {
	token := filepath.Join(t.TempDir(), "token")
	if err := os.WriteFile(token, []byte("s3cret\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	var bearers []string
	control := httptest.NewServer(http.HandlerFunc(func(_ http.ResponseWriter, r *http.Request) {
		bearers = append(bearers, r.Method+" "+r.URL.Path+" "+r.Header.Get("Authorization"))
	}))
	defer control.Close()
	f := &fake{serve: func(*fake, string, string) (int, string) { return 200, "" }}
	l := f.at(t, config.Backend{
		Engine: config.HTTP, Sleep: config.SleepHooks, HostMemory: config.GiB,
		Hooks: &config.Hooks{
			Wake: "POST " + control.URL + "/wake", Sleep: "PUT " + control.URL + "/sleep",
			Stop: "DELETE " + control.URL + "/it", BearerFile: token,
		},
	})
	mustWake(t, l)
	mustSleep(t, l, router.OnHost)
	if err := l.Stop(t.Context()); err != nil {
		t.Error(err)
	}
	want := []string{"POST /wake Bearer s3cret", "PUT /sleep Bearer s3cret", "DELETE /it Bearer s3cret"}
	if !slices.Equal(bearers, want) {
		t.Errorf("got %q, want %q", bearers, want)
	}
}

func TestAHookThatIsRefusedSaysWhatItWasTold(t *testing.T) {
	control := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
		http.Error(w, "no quota", http.StatusForbidden)
	}))
	defer control.Close()
	f := &fake{serve: func(*fake, string, string) (int, string) { return 503, "" }}
	l := f.at(t, config.Backend{
		Engine: config.HTTP, Sleep: config.SleepHooks, Hooks: &config.Hooks{Wake: "POST " + control.URL},
	})
	_, err := l.Wake(t.Context(), nil)
	if want := "wake m-0: POST " + control.URL + " answered 403 no quota"; err == nil || err.Error() != want {
		t.Errorf("got %v, want %s", err, want)
	}
}

func TestAnAddressAloneCanOnlyBeWaitedFor(t *testing.T) {
	f := &fake{serve: func(*fake, string, string) (int, string) { return 200, "" }}
	l := f.at(t, config.Backend{Engine: config.HTTP, Sleep: config.SleepNone})
	mustWake(t, l)
	if _, err := l.Sleep(t.Context()); !errors.Is(err, warmpool.ErrCannotSleep) {
		t.Errorf("sleep gave %v", err)
	}
	if err := l.Stop(t.Context()); !errors.Is(err, warmpool.ErrCannotStop) {
		t.Errorf("stop gave %v", err)
	}
}

func TestAServerOfSomebodyElsesThatIsGoneIsMissed(t *testing.T) {
	t.Parallel()
	server := httptest.NewServer(http.HandlerFunc(func(http.ResponseWriter, *http.Request) {}))
	l := New(Spec{ID: "m-0", Backend: config.Backend{
		Address: server.Listener.Addr().String(), Engine: config.HTTP, Ready: "/health", Stall: config.Duration(time.Minute),
	}, StateDir: t.TempDir(), Log: slog.New(slog.DiscardHandler)})
	defer l.Close()
	up := mustWake(t, l)
	if again := mustWake(t, l); again.Gone != up.Gone {
		t.Error("a second wake watches a second time")
	}
	server.Close()
	select {
	case err := <-up.Gone:
		if err == nil || !strings.Contains(err.Error(), "nobody has answered") {
			t.Errorf("got %v", err)
		}
	case <-time.After(time.Minute):
		t.Error("nobody missed it")
	}
}
