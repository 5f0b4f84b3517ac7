package foreign_test

import (
	"errors"
	"flag"
	"net/http"
	"net/http/httptest"
	"os"
	"strings"
	"testing"

	"pilotlight/config"
	"pilotlight/config/foreign"
)

var update = flag.Bool("update", false, "write the expected files anew")

// around is where the imports of these tests run.
func around(gpus ...config.Size) foreign.Surroundings {
	return foreign.Surroundings{
		GPUs:   gpus,
		Source: "llama-swap.yaml",
		Getenv: func(name string) (string, bool) { return "/models", name == "MODELS" },
		FileSize: func(path string) (int64, bool) {
			return 12 << 30, path == "/models/gpt oss 20b.gguf"
		},
	}
}

func TestALlamaSwapFileBecomesOurs(t *testing.T) {
	text, err := os.ReadFile("testdata/llama-swap.yaml")
	if err != nil {
		t.Fatal(err)
	}
	im, err := foreign.LlamaSwap(text, around(24*config.GiB, 24*config.GiB))
	if err != nil {
		t.Fatal(err)
	}
	same(t, "testdata/llama-swap.golden.yaml", im)
	if strings.Contains(string(im.File), "sk-one") || strings.Contains(string(im.File), "secret") {
		t.Error("a key of llama-swap is in our file")
	}
}

// same compares an import with what is expected, its notes as comments at the end.
func same(t *testing.T, file string, im *foreign.Import) {
	t.Helper()
	got := string(im.File) + "\n# Notes:\n# " + strings.Join(im.Notes, "\n# ") + "\n"
	if *update {
		if err := os.WriteFile(file, []byte(got), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	want, err := os.ReadFile(file)
	if err != nil {
		t.Fatal(err)
	}
	if got != string(want) {
		t.Errorf("%s is not what came; go test ./config/foreign -update writes it anew\ngot:\n%s", file, got)
	}
}

func TestWhatCannotBeImportedIsSaid(t *testing.T) {
	for name, c := range map[string]struct{ text, want string }{
		"no models":         {"healthCheckTimeout: 5", "has no models"},
		"not YAML":          {"models: [", "read llama-swap.yaml"},
		"no command":        {"models: {m: {proxy: 'http://127.0.0.1:1'}}", "model m has no cmd"},
		"no port":           {"models: {m: {cmd: llama-server}}", "must say where the model server listens"},
		"an open quote":     {"models: {m: {cmd: 'llama-server \"'}}", "quote"},
		"an unknown macro":  {"models: {m: {cmd: 'llama-server ${port}'}}", "${port} is no macro"},
		"an open macro":     {"models: {m: {cmd: 'llama-server ${PORT'}}", "not closed"},
		"a macro in itself": {"macros: {a: '${a}'}\nmodels: {m: {cmd: '${a}'}}", "holds itself"},
		"an unset variable": {"models: {m: {cmd: 'llama-server ${env.NOTHING}'}}", "$NOTHING is not set"},
	} {
		t.Run(name, func(t *testing.T) {
			if _, err := foreign.LlamaSwap([]byte(c.text), around()); err == nil || !strings.Contains(err.Error(), c.want) {
				t.Errorf("the error is %v; it should say %q", err, c.want)
			}
		})
	}
}

func FuzzLlamaSwap(f *testing.F) {
	text, err := os.ReadFile("testdata/llama-swap.yaml")
	if err != nil {
		f.Fatal(err)
	}
	f.Add(string(text))
	f.Add("models: {m: {cmd: 'vllm serve x --port ${PORT}', env: [A=b], aliases: [c]}}")
	f.Fuzz(func(t *testing.T, text string) {
		im, err := foreign.LlamaSwap([]byte(text), around())
		if problems := (config.Problems{}); err != nil && !errors.As(err, &problems) {
			return
		}
		if im == nil {
			t.Fatal("neither an import nor an error")
		}
	})
}

func TestTheModelsOfAnOllamaBecomeOurs(t *testing.T) {
	ollama := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		switch r.URL.Path {
		case "/api/tags":
			_, _ = w.Write([]byte(`{"models":[{"name":"qwen3:8b","size":5200000000},{"name":"llama3.2:latest","size":2000000000}]}`))
		case "/api/ps":
			_, _ = w.Write([]byte(`{"models":[{"name":"llama3.2:latest","size_vram":3800000000}]}`))
		default:
			http.NotFound(w, r)
		}
	}))
	defer ollama.Close()
	im, err := foreign.Ollama(t.Context(), ollama.URL)
	if err != nil {
		t.Fatal(err)
	}
	at := strings.TrimPrefix(ollama.URL, "http://")
	im.File = []byte(strings.ReplaceAll(string(im.File), at, "127.0.0.1:11434"))
	same(t, "testdata/ollama.golden.yaml", im)
}

func TestAnOllamaThatIsNoneIsSaid(t *testing.T) {
	other := httptest.NewServer(http.NotFoundHandler())
	defer other.Close()
	html := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) { _, _ = w.Write([]byte("<html>")) }))
	defer html.Close()
	empty := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) { _, _ = w.Write([]byte("{}")) }))
	defer empty.Close()
	gone := httptest.NewServer(nil)
	gone.Close()
	for url, want := range map[string]string{
		other.URL: "is it an Ollama", html.URL: "does not answer as Ollama does", empty.URL: "has no models", gone.URL: "does it run there", "nonsense": "write it like",
	} {
		if _, err := foreign.Ollama(t.Context(), url); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("the error for %s is %v; it should say %q", url, err, want)
		}
	}
}
