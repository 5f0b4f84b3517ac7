//go:build linux

package main_test

import (
	"bufio"
	"context"
	"encoding/json"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"syscall"
	"testing"
	"time"

	"pilotlight/deploy/tinymodel"
)

// The whole product with nothing made up: the pilotlight binary, Ollama as the model server, and the client libraries that
// OpenAI and Ollama publish. Only the models are tiny.
func TestRealClientsReachARealModelServer(t *testing.T) {
	l := newLab(t)
	t.Run("the openai client wakes Ollama, which is stopped when idle and wakes again", l.stopsWhenIdle)
	t.Run("the ollama client wakes Ollama, which sleeps when idle and wakes again", l.sleepsWhenIdle)
	t.Run("two models that do not fit together swap", l.swaps)
	t.Run("a model server that is killed breaks the stream and wakes for the next request", l.outlivesItsModelServer)
	t.Run("a pilotlight that is killed adopts the running model server when it is back", l.adopts)
}

func (l *lab) stopsWhenIdle(t *testing.T) {
	p := l.serve(t, t.TempDir(), "1s")
	for range 2 {
		p.await(t, "tiny-a", "stopped")
		l.wantModelServers(t, 0)
		l.wantAnswer(t, p, "openai", "tiny-a")
	}
	p.await(t, "tiny-a", "stopped")
	l.wantModelServers(t, 0)
}

func (l *lab) sleepsWhenIdle(t *testing.T) {
	p := l.serve(t, t.TempDir(), "1s")
	l.wantAnswer(t, p, "ollama", "tiny-b")
	first := p.await(t, "tiny-b", "asleep")
	if got := modelsLoaded(t, first.Addr); got != 0 {
		t.Errorf("asleep: Ollama has %d models in memory, want 0", got)
	}
	l.wantAnswer(t, p, "ollama", "tiny-b")
	if again := p.await(t, "tiny-b", "asleep"); again.PID != first.PID || first.PID == 0 {
		t.Errorf("got pid %d, then %d, want one process that slept twice", first.PID, again.PID)
	}
}

func (l *lab) swaps(t *testing.T) {
	p := l.serve(t, t.TempDir(), "1h") // nothing but the other model moves one out
	watching, stop := context.WithCancel(t.Context())
	watched := make(chan error, 1)
	go func() { watched <- p.neverBothReady(watching) }()
	defer func() {
		stop()
		if err := <-watched; err != nil {
			t.Error(err)
		}
	}()
	for _, model := range []string{"tiny-a", "tiny-b", "tiny-a", "tiny-b"} {
		l.wantAnswer(t, p, "openai", model)
		if got := p.backend(t, model).State; got != "ready" {
			t.Errorf("%s after its answer: got %s, want ready", model, got)
		}
	}
}

func (l *lab) outlivesItsModelServer(t *testing.T) {
	p := l.serve(t, t.TempDir(), "1h")
	client := startClient(t, p.base, "openai", "tiny-a", "--tokens", "0")
	if got := client.next(t); got.Event != "first" {
		t.Fatalf("got %+v, want a first token", got)
	}
	during := p.backend(t, "tiny-a")
	if during.State != "ready" || during.InFlight != 1 {
		t.Errorf("during the stream: got %+v, want it ready with 1 in flight", during)
	}
	if err := syscall.Kill(during.PID, syscall.SIGKILL); err != nil {
		t.Fatalf("kill model server %d: %v", during.PID, err)
	}
	if got := client.next(t); got.Event != "error" || got.Text == "" {
		t.Errorf("the client saw %+v, want a stream that broke off", got)
	}
	eventually(t, "the visit's outcome is broken", func() bool { return p.lastOutcome(t) == "broken" })

	l.wantAnswer(t, p, "openai", "tiny-a")
	l.wantOneGroup(t, p.backend(t, "tiny-a").PID)
}

func (l *lab) adopts(t *testing.T) {
	state := t.TempDir()
	p := l.serve(t, state, "1h")
	l.wantAnswer(t, p, "openai", "tiny-a")
	pid := p.backend(t, "tiny-a").PID
	p.kill(t)

	p = l.serve(t, state, "1h")
	if got := p.await(t, "tiny-a", "ready").PID; got != pid {
		t.Errorf("got pid %d, want %d, which has been running all along", got, pid)
	}
	l.wantAnswer(t, p, "openai", "tiny-a")
	l.wantOneGroup(t, pid)
}

// lab is what the tests share: a real model server, two tiny models, and what each of them answers.
type lab struct {
	dir     string
	ollama  string // its binary
	answers map[string]string
}

// newLab builds Ollama from source and installs the client libraries, where that has not been done, and makes the models.
func newLab(t *testing.T) *lab {
	for tool, use := range map[string]string{
		"node": "the client libraries run on Node.js 20 or newer", "npm": "it installs the client libraries",
		"gcc": "Ollama is built from source, which is C in part", "g++": "Ollama is built from source, which is C++ in part",
	} {
		if _, err := exec.LookPath(tool); err != nil {
			t.Fatalf("the end-to-end test needs %s: %s", tool, use)
		}
	}
	root, err := os.Getwd()
	if err != nil {
		t.Fatal(err)
	}
	l := &lab{dir: t.TempDir(), ollama: filepath.Join(root, "bin", "ollama"), answers: map[string]string{}}
	run(t, root, nil, "go", "build", "-C", "deploy/ollama", "-o", l.ollama, "github.com/ollama/ollama")
	if clients := filepath.Join(root, "deploy", "clients"); !installed(clients) {
		run(t, clients, nil, "npm", "ci")
	}
	l.makeModels(t)
	return l
}

// makeModels makes tiny-a and tiny-b, and asks each for the answer that it has to give through pilotlight as well.
func (l *lab) makeModels(t *testing.T) {
	addr := freeAddr(t)
	ollama := start(t, []string{"OLLAMA_HOST=" + addr, "OLLAMA_MODELS=" + l.models(), "HOME=" + l.dir}, l.ollama, "serve")
	eventually(t, "ollama serve answers", func() bool { return get(t.Context(), "http://"+addr+"/api/version", nil) == nil })
	for i, model := range []string{"tiny-a", "tiny-b"} {
		dir := t.TempDir()
		weights, err := os.Create(filepath.Join(dir, "tiny.gguf"))
		if err != nil {
			t.Fatal(err)
		}
		if err := tinymodel.Write(weights, uint64(i+1)); err != nil {
			t.Fatal(err)
		}
		if err := weights.Close(); err != nil {
			t.Fatal(err)
		}
		run(t, "deploy/ollama", nil, "cp", "Modelfile", dir)
		run(t, dir, []string{"OLLAMA_HOST=" + addr, "HOME=" + l.dir}, l.ollama, "create", model, "-f", "Modelfile")

		got := startClient(t, "http://"+addr, "openai", model).last(t)
		if got.Event != "ok" {
			t.Fatalf("%s without pilotlight: got %+v, want an answer", model, got)
		}
		l.answers[model] = got.Text
	}
	if l.answers["tiny-a"] == l.answers["tiny-b"] {
		t.Fatalf("both models answer %q: nobody could tell one from the other", l.answers["tiny-a"])
	}
	ollama.end(t, syscall.SIGTERM)
}

func (l *lab) models() string { return filepath.Join(l.dir, "models") }

// wantAnswer asks a model through a client library and wants what the model itself answers.
func (l *lab) wantAnswer(t *testing.T, p *pilotlight, library, model string) {
	t.Helper()
	got := startClient(t, p.base, library, model).last(t)
	if want := l.answers[model]; got.Event != "ok" || got.Finish != "length" || got.Text != want {
		t.Fatalf("%s through the %s client: got %+v, want %q", model, library, got, want)
	}
}

// wantModelServers wants so many processes of Ollama, the runners of models included.
func (l *lab) wantModelServers(t *testing.T, want int) {
	t.Helper()
	if got := l.modelServers(t); len(got) != want {
		t.Errorf("got the processes %+v, want %d", got, want)
	}
}

// wantOneGroup wants every process of Ollama to belong to one model server.
func (l *lab) wantOneGroup(t *testing.T, pid int) {
	t.Helper()
	for _, m := range l.modelServers(t) {
		if m.group != pid {
			t.Errorf("got %+v, want no process beside those of the model server %d", m, pid)
		}
	}
}

// modelServers finds the processes that use the lab's store of models: a runner outlives a server that is killed.
func (l *lab) modelServers(t *testing.T) []member {
	t.Helper()
	return processes(t, "OLLAMA_MODELS="+l.models())
}

// serving configures a node on whose GPU only one of the two models fits. When idle, tiny-a is stopped and tiny-b sleeps.
const serving = `
node: {gpus: [{memory: 1GiB}]}
models:
  tiny-a:
    idle_time: %[1]s
    backends:
      - engine: ollama
        process: &ollama
          command: [%[2]q, serve]
          env: {OLLAMA_HOST: "127.0.0.1:{port}", OLLAMA_MODELS: %[3]q, HOME: %[4]q}
        memory: 700MiB
        slots: 2
  tiny-b:
    idle_time: %[1]s
    backends:
      - engine: ollama
        process: *ollama
        sleep: engine
        memory: 700MiB
        slots: 2
`

// serve runs pilotlight. At the end of the test it stops the models by hand and wants nothing to be left of them.
func (l *lab) serve(t *testing.T, state, idle string) *pilotlight {
	t.Helper()
	p := serve(t, state, fmt.Sprintf(serving, idle, l.ollama, l.models(), l.dir))
	t.Cleanup(func() {
		if p.ended() {
			return
		}
		p.run(t, "stop", "tiny-a")
		p.run(t, "stop", "tiny-b")
		l.wantModelServers(t, 0)
	})
	return p
}

// neverBothReady looks again and again until ctx ends.
func (p *pilotlight) neverBothReady(ctx context.Context) error {
	tick := time.NewTicker(5 * time.Millisecond)
	defer tick.Stop()
	for {
		select {
		case <-ctx.Done():
			return nil
		case <-tick.C:
		}
		s, err := p.admin.Status(ctx)
		switch {
		case ctx.Err() != nil:
			return nil
		case err != nil:
			return err
		case s.Models[0].State == "ready" && s.Models[1].State == "ready":
			return fmt.Errorf("both models are ready at once, want one at most: %+v", s)
		}
	}
}

// modelsLoaded asks an Ollama how many models it has in memory.
func modelsLoaded(t *testing.T, addr string) int {
	t.Helper()
	var page struct{ Models []any }
	if err := get(t.Context(), "http://"+addr+"/api/ps", &page); err != nil {
		t.Fatal(err)
	}
	return len(page.Models)
}

// client is a client library in the middle of a chat: one of deploy/clients.
type client struct{ lines *bufio.Scanner }

// report is one line of deploy/clients/report.mjs.
type report struct {
	Event        string // first, ok, aborted or error
	Chunks       int
	Finish, Text string
	Status       int
	Class        string
	Message      string
	MS           int
}

func startClient(t *testing.T, base, library, model string, args ...string) client {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), patience)
	node := exec.CommandContext(ctx, "node", append([]string{library + "-chat.mjs", base, model}, args...)...)
	node.Dir, node.Stderr = filepath.Join("deploy", "clients"), t.Output()
	out, err := node.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := node.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		cancel()
		_ = node.Wait() // what it has to say is in its lines
	})
	lines := bufio.NewScanner(out)
	lines.Buffer(nil, 1<<20)
	return client{lines}
}

// next waits for the next line.
func (c client) next(t *testing.T) (r report) {
	t.Helper()
	if !c.lines.Scan() {
		t.Fatalf("the client ended without a report (%v)", c.lines.Err())
	}
	if err := json.Unmarshal(c.lines.Bytes(), &r); err != nil {
		t.Fatalf("the client printed %q: %v", c.lines.Bytes(), err)
	}
	return r
}

// last waits for the line that says how the chat ended.
func (c client) last(t *testing.T) report {
	t.Helper()
	r := c.next(t)
	if r.Event == "first" {
		r = c.next(t)
	}
	return r
}

// installed says whether npm ci has seen the lock file as it is now.
func installed(clients string) bool {
	lock, err := os.Stat(filepath.Join(clients, "package-lock.json"))
	if err != nil {
		return false
	}
	done, err := os.Stat(filepath.Join(clients, "node_modules", ".package-lock.json"))
	return err == nil && done.ModTime().After(lock.ModTime())
}
