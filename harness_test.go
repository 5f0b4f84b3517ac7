//go:build linux

package main_test

import (
	"bufio"
	"bytes"
	"cmp"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"pilotlight/probe/proc"
	"pilotlight/proxy/admin"
)

// patience bounds every wait for what takes a second at most on a machine that is not busy.
const patience = 30 * time.Second

// raceOptions have the race detector end pilotlight at the first race, and not hold it for a second when it ends.
const raceOptions = "GORACE=halt_on_error=1 atexit_sleep_ms=0"

// build builds pilotlight with the race detector, once for all tests. A binary that is up to date stays as it is.
var build = sync.OnceValues(func() (string, error) {
	binary, err := filepath.Abs(filepath.Join("bin", "pilotlight-race"))
	if err != nil {
		return "", err
	}
	if out, err := exec.Command("go", "build", "-race", "-o", binary, ".").CombinedOutput(); err != nil {
		return "", fmt.Errorf("go build: %w\n%s", err, out)
	}
	return binary, nil
})

// binary is the pilotlight of all tests.
func binary(t *testing.T) string {
	t.Helper()
	path, err := build()
	if err != nil {
		t.Fatal(err)
	}
	return path
}

// pilotlight is a running pilotlight serve.
type pilotlight struct {
	*process
	addr  string // of the data port
	base  string // URL of the data port
	admin admin.Client
	file  string // its configuration
	state string // what of it outlives it
}

// serve runs pilotlight with a configuration and waits until it knows its fleet. At the end of the test it is ended as by Ctrl-C,
// unless it has ended before, and nothing may be left of it and its model servers.
func serve(t *testing.T, state, config string, flags ...string) *pilotlight {
	t.Helper()
	p := &pilotlight{file: filepath.Join(t.TempDir(), "pilotlight.yaml"), state: state}
	p.configure(t, config)
	t.Cleanup(func() { // whatever else goes wrong
		for _, m := range processes(t, p.mark()) {
			_ = syscall.Kill(m.pid, syscall.SIGKILL)
		}
	})
	p.process = start(t, []string{raceOptions, p.mark()}, binary(t), append([]string{"serve", "-c", p.file, "--listen", "127.0.0.1:0", "--admin", "127.0.0.1:0"}, flags...)...)
	t.Cleanup(func() {
		if !p.ended() {
			p.end(t, os.Interrupt)
			p.wantModelServers(t)
		}
	})
	eventually(t, "pilotlight is ready", func() bool {
		for _, line := range p.logged("serving") {
			p.addr, p.base, p.admin.Addr = line.Listen, "http://"+line.Listen, line.Admin
		}
		return p.base != "" && get(t.Context(), "http://"+p.admin.Addr+"/readyz", nil) == nil
	})
	return p
}

// configure writes the configuration file.
func (p *pilotlight) configure(t *testing.T, config string) {
	t.Helper()
	if err := os.WriteFile(p.file, []byte(config), 0o600); err != nil {
		t.Fatal(err)
	}
}

// mark is a variable of the environment that pilotlight and its model servers share, and nobody else has.
func (p *pilotlight) mark() string { return "XDG_STATE_HOME=" + p.state }

// modelServers are the processes of its model servers, in no order.
func (p *pilotlight) modelServers(t *testing.T) (pids []int) {
	t.Helper()
	for _, m := range processes(t, p.mark()) {
		if m.pid != p.cmd.Process.Pid {
			pids = append(pids, m.pid)
		}
	}
	return pids
}

// wantModelServers wants these model servers to run and no other.
func (p *pilotlight) wantModelServers(t *testing.T, want ...int) {
	t.Helper()
	got := p.modelServers(t)
	slices.Sort(got)
	slices.Sort(want)
	if !slices.Equal(got, want) {
		t.Errorf("got the model servers %v, want %v", got, want)
	}
}

// run runs another verb against this pilotlight and returns what it prints.
func (p *pilotlight) run(t *testing.T, verb string, args ...string) []byte {
	t.Helper()
	return run(t, "", []string{raceOptions}, binary(t), append([]string{verb, "--admin", p.admin.Addr}, args...)...)
}

// model asks for the status of a model.
func (p *pilotlight) model(t *testing.T, name string) admin.ModelStatus {
	t.Helper()
	s, err := p.admin.Status(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	i := slices.IndexFunc(s.Models, func(m admin.ModelStatus) bool { return m.Name == name })
	if i < 0 {
		t.Fatalf("got %+v, want a model %s in it", s, name)
	}
	return s.Models[i]
}

// backend asks pilotlight status for the only backend of a model.
func (p *pilotlight) backend(t *testing.T, model string) admin.BackendStatus {
	t.Helper()
	var s admin.Status
	if err := json.Unmarshal(p.run(t, "status", "--json"), &s); err != nil {
		t.Fatalf("pilotlight status --json: %v", err)
	}
	for _, m := range s.Models {
		if m.Name == model && len(m.Backends) == 1 {
			return m.Backends[0]
		}
	}
	t.Fatalf("got %+v, want it to have one backend of %s", s, model)
	return admin.BackendStatus{}
}

// await waits until the only backend of a model is in a state.
func (p *pilotlight) await(t *testing.T, model, state string) (b admin.BackendStatus) {
	t.Helper()
	eventually(t, model+" is "+state, func() bool {
		b = p.model(t, model).Backends[0]
		return b.State == state
	})
	return b
}

// awaitInFlight waits until so many requests are with a model's only backend.
func (p *pilotlight) awaitInFlight(t *testing.T, model string, want int) {
	t.Helper()
	eventually(t, fmt.Sprintf("%s serves %d requests", model, want), func() bool {
		return p.model(t, model).Backends[0].InFlight == want
	})
}

// awaitWaiting waits until so many requests are in a model's line.
func (p *pilotlight) awaitWaiting(t *testing.T, model string, want int) {
	t.Helper()
	eventually(t, fmt.Sprintf("%d requests wait for %s", want, model), func() bool {
		return p.model(t, model).Line.Waiting == want
	})
}

// outcomes are how the last requests ended, the latest first.
func (p *pilotlight) outcomes(t *testing.T) (all []string) {
	t.Helper()
	var visits []struct{ Outcome string }
	if err := get(t.Context(), "http://"+p.admin.Addr+"/debug/visits", &visits); err != nil {
		t.Fatal(err)
	}
	for _, v := range visits {
		all = append(all, v.Outcome)
	}
	return all
}

// lastOutcome is how the latest request ended.
func (p *pilotlight) lastOutcome(t *testing.T) string {
	t.Helper()
	return slices.Concat(p.outcomes(t), []string{""})[0]
}

// metric is the value of one metric of a page for Prometheus, by its name with labels; 0 where the page does not have it.
func metric(t *testing.T, addr, name string) float64 {
	t.Helper()
	var page bytes.Buffer
	if err := get(t.Context(), "http://"+addr+"/metrics", &page); err != nil {
		t.Fatal(err)
	}
	for line := range strings.Lines(page.String()) {
		if text, found := strings.CutPrefix(line, name+" "); found {
			value, err := strconv.ParseFloat(strings.TrimSpace(text), 64)
			if err != nil {
				t.Fatalf("%s: %v", line, err)
			}
			return value
		}
	}
	return 0
}

// process is a program that runs beside the test, and no longer than it.
type process struct {
	cmd  *exec.Cmd
	said *transcript
}

func start(t *testing.T, env []string, program string, args ...string) *process {
	t.Helper()
	p := &process{cmd: exec.Command(program, args...), said: &transcript{}}
	p.cmd.Env = append(os.Environ(), env...)
	out := io.MultiWriter(p.said, t.Output())
	p.cmd.Stdout, p.cmd.Stderr = out, out
	p.cmd.WaitDelay = time.Second
	if err := p.cmd.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { p.kill(t) })
	return p
}

func (p *process) ended() bool { return p.cmd.ProcessState != nil }

// end asks it to end and wants it to end well.
func (p *process) end(t *testing.T, signal os.Signal) {
	t.Helper()
	if err := p.cmd.Process.Signal(signal); err != nil {
		t.Errorf("end %s: %v", p.cmd.Path, err)
	}
	late := time.AfterFunc(patience, func() { _ = p.cmd.Process.Kill() })
	defer late.Stop()
	if err := p.cmd.Wait(); err != nil {
		t.Errorf("end %s: %v", p.cmd.Path, err)
	}
}

// kill ends it on the spot, unless it has ended.
func (p *process) kill(t *testing.T) {
	t.Helper()
	if p.ended() {
		return
	}
	if err := p.cmd.Process.Kill(); err != nil {
		t.Errorf("kill %s: %v", p.cmd.Path, err)
	}
	_ = p.cmd.Wait() // says that it was killed
}

// logLine is what the tests look at in a line of pilotlight's log.
type logLine struct{ Msg, Listen, Admin, Model, Event string }

// logged are the lines of the log with this message.
func (p *process) logged(message string) (found []logLine) {
	for text := range strings.Lines(p.said.String()) {
		var line logLine
		if json.Unmarshal([]byte(text), &line) == nil && line.Msg == message {
			found = append(found, line)
		}
	}
	return found
}

// transcript keeps what a process says.
type transcript struct {
	mu   sync.Mutex // guards text
	text []byte
}

func (s *transcript) Write(b []byte) (int, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.text = append(s.text, b...)
	return len(b), nil
}

func (s *transcript) String() string {
	s.mu.Lock()
	defer s.mu.Unlock()
	return string(s.text)
}

// member is a process and the group it belongs to.
type member struct{ pid, group int }

// processes finds those that have a variable in the environment they were started with, whoever their parents are.
func processes(t *testing.T, variable string) (found []member) {
	t.Helper()
	environments, err := filepath.Glob("/proc/[0-9]*/environ")
	if err != nil {
		t.Fatal(err)
	}
	for _, file := range environments {
		environ, err := os.ReadFile(file)
		if err != nil || !bytes.Contains(environ, []byte(variable+"\x00")) {
			continue // somebody else's, or gone by now
		}
		pid, err := strconv.Atoi(filepath.Base(filepath.Dir(file)))
		if err != nil {
			t.Fatal(err)
		}
		if group, err := syscall.Getpgid(pid); err == nil {
			found = append(found, member{pid, group})
		}
	}
	return found
}

// run runs a program to its end and returns what it prints.
func run(t *testing.T, dir string, env []string, program string, args ...string) []byte {
	t.Helper()
	cmd := exec.Command(program, args...)
	cmd.Dir, cmd.Stderr = dir, t.Output()
	cmd.Env = append(os.Environ(), env...)
	out, err := cmd.Output()
	if err != nil {
		t.Fatalf("%s: %v\n%s", cmd, err, out)
	}
	return out
}

// eventually looks until something has come true, often at first.
func eventually(t *testing.T, what string, true func() bool) {
	t.Helper()
	pause, late := 500*time.Microsecond, time.Now().Add(patience)
	for !true() {
		if time.Now().After(late) {
			t.Fatalf("after %v it is not so that %s", patience, what)
		}
		time.Sleep(pause)
		pause = min(2*pause, 20*time.Millisecond)
	}
}

// get asks for a page and reads it, as text into a buffer or as JSON into anything else that is not nil.
func get(ctx context.Context, url string, into any) error {
	r, err := http.NewRequestWithContext(ctx, http.MethodGet, url, nil)
	if err != nil {
		return err
	}
	answer, err := http.DefaultClient.Do(r)
	if err != nil {
		return err
	}
	defer answer.Body.Close()
	if answer.StatusCode != http.StatusOK {
		return fmt.Errorf("GET %s: %s", url, answer.Status)
	}
	switch into := into.(type) {
	case nil:
		return nil
	case *bytes.Buffer:
		_, err := into.ReadFrom(answer.Body)
		return err
	}
	return json.NewDecoder(answer.Body).Decode(into)
}

// freeAddr is a loopback address on which nobody listens.
func freeAddr(t *testing.T) string {
	t.Helper()
	ports, err := proc.FreePorts(1)
	if err != nil {
		t.Fatal(err)
	}
	return fmt.Sprintf("127.0.0.1:%d", ports[0])
}

// sim is a model on one simulated model server.
type sim struct {
	name    string
	model   string // further keys of the model, as in "idle_time: 1h"
	backend string // and of its backend
	args    string // flags of modelsim
	gate    string // a FIFO: the server starts only once somebody writes to it
}

// simulated is the models part of a configuration. What it does not say is out of the way: nothing idles, no heartbeats.
func simulated(t *testing.T, models ...sim) string {
	t.Helper()
	var b strings.Builder
	b.WriteString("models:\n")
	for _, m := range models {
		command := append([]string{binary(t), "modelsim", "--port", "{port}", "--model", m.name}, strings.Fields(m.args)...)
		if m.gate != "" {
			command = append([]string{"sh", "-c", `until read x < "$0"; do :; done; exec "$@"`, m.gate}, command...)
		}
		quoted, err := json.Marshal(command)
		if err != nil {
			t.Fatal(err)
		}
		model := cmp.Or(m.model, "idle_time: 1h") + ", "
		if !strings.Contains(model, "heartbeat") {
			model += "heartbeat: 0s, "
		}
		fmt.Fprintf(&b, "  %s: {%sbackends: [{%s, engine: vllm, process: {command: %s}}]}\n",
			m.name, model, cmp.Or(m.backend, "slots: 8"), quoted)
	}
	return b.String()
}

// caller is a client on a connection of its own.
type caller struct {
	net.Conn
	in *bufio.Reader
}

// call connects to the data port and sends a request.
func (p *pilotlight) call(t *testing.T, request string) *caller {
	t.Helper()
	conn, err := net.DialTimeout("tcp", p.addr, patience)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { conn.Close() })
	if err := conn.SetDeadline(time.Now().Add(2 * patience)); err != nil {
		t.Fatal(err)
	}
	if _, err := io.WriteString(conn, request); err != nil {
		t.Fatal(err)
	}
	return &caller{conn, bufio.NewReader(conn)}
}

// running is how many requests the simulated model server of a model works on.
func (p *pilotlight) running(t *testing.T, model string) float64 {
	t.Helper()
	return metric(t, p.model(t, model).Backends[0].Addr, fmt.Sprintf(`vllm:num_requests_running{engine="0",model_name=%q}`, model))
}

// awaitRunning waits until a request has come to the simulated model server.
func (p *pilotlight) awaitRunning(t *testing.T, model string) {
	t.Helper()
	p.await(t, model, "ready")
	eventually(t, "the server of "+model+" works on a request", func() bool { return p.running(t, model) == 1 })
}

// post is a request with a JSON body, and with the lines of a header that replace or follow those it would have.
func post(path, body string, header ...string) string {
	lines := append([]string{"POST " + path + " HTTP/1.1", "Host: pilotlight", "Content-Length: " + strconv.Itoa(len(body))}, header...)
	if !strings.Contains(strings.Join(header, "\n"), "Content-Type:") {
		lines = append(lines, "Content-Type: application/json")
	}
	return strings.Join(lines, "\r\n") + "\r\n\r\n" + body
}

// chatBody asks a model for a chat completion; more are further fields, as in `"stream":true`.
func chatBody(model, prompt string, more ...string) string {
	fields := append([]string{fmt.Sprintf(`"model":%q,"messages":[{"role":"user","content":%q}]`, model, prompt)}, more...)
	return "{" + strings.Join(fields, ",") + "}"
}

func chat(model, prompt string, more ...string) string {
	return post("/v1/chat/completions", chatBody(model, prompt, more...))
}

// streamed has a chat completion come token by token.
const streamed = `"stream":true`

// begin waits for the head of the answer.
func (c *caller) begin(t *testing.T) *http.Response {
	t.Helper()
	answer, err := http.ReadResponse(c.in, nil)
	if err != nil {
		t.Fatalf("the answer does not begin: %v", err)
	}
	return answer
}

// beginStream waits for the first token.
func (c *caller) beginStream(t *testing.T) *http.Response {
	t.Helper()
	answer := c.begin(t)
	first := make([]byte, 1)
	if _, err := io.ReadFull(answer.Body, first); answer.StatusCode != 200 || err != nil {
		t.Fatalf("got a stream that begins with %d, %v", answer.StatusCode, err)
	}
	return answer
}

// reply is a whole answer.
type reply struct {
	status int
	header http.Header
	body   string
}

// reply waits for the whole answer.
func (c *caller) reply(t *testing.T) reply {
	t.Helper()
	answer := c.begin(t)
	body, err := io.ReadAll(answer.Body)
	if err != nil {
		t.Fatalf("the answer ends with %v after %q", err, body)
	}
	return reply{answer.StatusCode, answer.Header, string(body)}
}

// wantOK wants a request to be answered in full.
func (p *pilotlight) wantOK(t *testing.T, request string) {
	t.Helper()
	if got := p.call(t, request).reply(t); got.status != 200 {
		t.Errorf("got %d %s, want an answer", got.status, got.body)
	}
}
