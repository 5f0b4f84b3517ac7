package engine_test

import (
	"fmt"
	"net/http"
	"net/http/httptest"
	"path/filepath"
	"strconv"
	"strings"
	"testing"

	"github.com/rogpeppe/go-internal/txtar"

	"pilotlight/config"
	"pilotlight/probe"
	"pilotlight/probe/engine"
)

// The engine that each file of testdata belongs to, by the first part of its name.
var kinds = map[string]config.Engine{
	"vllm": config.VLLM, "sglang": config.SGLang, "llamacpp": config.LlamaCPP, "ollama": config.Ollama,
	"tgi": config.TGI, "triton": config.Triton, "http": config.HTTP,
}

// Each file is what a server answers, and the reading that it must give.
func TestReadings(t *testing.T) {
	files, err := filepath.Glob("testdata/*.txtar")
	if err != nil || len(files) == 0 {
		t.Fatal("no testdata", err)
	}
	for _, file := range files {
		name := strings.TrimSuffix(filepath.Base(file), ".txtar")
		t.Run(name, func(t *testing.T) {
			addr, want := replay(t, file)
			kind, _, _ := strings.Cut(name, "_")

			r, said := engine.New(kinds[kind], "m", "").Read(t.Context(), http.DefaultClient, addr)
			if got := show(r, said); got != want {
				t.Errorf("got  %s\nwant %s", got, want)
			}
		})
	}
}

func show(r probe.Reading, said string) string {
	return strings.TrimSpace(fmt.Sprintf("%s running=%d waiting=%d kv_cache=%v %s",
		r.Status, r.Running, r.Waiting, r.KVCache, said))
}

// replay serves the answers of a file, each of which is named METHOD PATH STATUS. What it does not name is not found.
func replay(t *testing.T, file string) (addr, want string) {
	t.Helper()
	archive, err := txtar.ParseFile(file)
	if err != nil {
		t.Fatal(err)
	}
	mux := http.NewServeMux()
	for _, f := range archive.Files {
		if f.Name == "want" {
			want = strings.TrimSpace(string(f.Data))
			continue
		}
		request, status, _ := cutLast(f.Name)
		code, err := strconv.Atoi(status)
		if err != nil {
			t.Fatal(err)
		}
		mux.HandleFunc(request, func(w http.ResponseWriter, _ *http.Request) {
			w.WriteHeader(code)
			_, _ = w.Write(f.Data)
		})
	}
	server := httptest.NewServer(mux)
	t.Cleanup(server.Close)
	return server.Listener.Addr().String(), want
}

func cutLast(s string) (before, after string, found bool) {
	i := strings.LastIndexByte(s, ' ')
	return s[:i], s[i+1:], i >= 0
}

func TestAServerThatIsNotThereIsAwayAndSaysTheSameEachTime(t *testing.T) {
	status, said := engine.New(config.VLLM, "m", "").Status(t.Context(), http.DefaultClient, "127.0.0.1:1")
	if want := "GET /health: connection refused"; status != probe.Away || said != want {
		t.Errorf("got %v, %q; want away, %q", status, said, want)
	}
}

func TestTheReadyPathOfTheConfigurationReplacesTheHealthCheckButNotTheTestOfSleep(t *testing.T) {
	server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		switch r.URL.Path {
		case "/up":
		case "/is_sleeping":
			_, _ = w.Write([]byte(`{"is_sleeping":true}`))
		default:
			t.Errorf("it asked for %s", r.URL.Path)
		}
	}))
	defer server.Close()

	status, _ := engine.New(config.VLLM, "m", "/up").Status(t.Context(), server.Client(), server.Listener.Addr().String())
	if status != probe.Asleep {
		t.Errorf("got %v, want asleep", status)
	}
}

func TestAnEndlessAnswerIsReadUpToItsLimit(t *testing.T) {
	server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		w.WriteHeader(http.StatusServiceUnavailable)
		for r.Context().Err() == nil {
			if _, err := w.Write(make([]byte, 64<<10)); err != nil {
				return
			}
		}
	}))
	defer server.Close()

	status, said := engine.New(config.HTTP, "m", "").Status(t.Context(), server.Client(), server.Listener.Addr().String())
	if status != probe.Loading || len(said) > 300 {
		t.Errorf("got %v and %d bytes", status, len(said))
	}
}

func BenchmarkRead(b *testing.B) {
	server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if r.URL.Path == "/is_sleeping" {
			_, _ = w.Write([]byte(`{"is_sleeping":false}`))
		}
	}))
	defer server.Close()
	e, addr := engine.New(config.VLLM, "m", ""), server.Listener.Addr().String()
	b.ReportAllocs()
	for b.Loop() {
		e.Read(b.Context(), server.Client(), addr)
	}
}
