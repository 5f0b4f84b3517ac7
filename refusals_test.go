//go:build linux

package main_test

import (
	"cmp"
	"fmt"
	"os"
	"regexp"
	"strconv"
	"strings"
	"syscall"
	"testing"
)

// docs/errors.md holds what the running product says, down to the last byte: every row of it is asked for here.
func TestEveryRefusalIsAsDocumented(t *testing.T) {
	t.Parallel()
	rows := documented(t)
	p := serve(t, t.TempDir(), "limits: {body: 1KiB}\n"+simulated(t,
		sim{name: "llama-3b"},
		sim{name: "llama-8b", model: "idle_time: 1h, line: {requests: 1}", args: "--load 1h"},
		sim{name: "qwen-14b", model: "idle_time: 1h, heartbeat: 50ms", args: "--load 1s --fail oom"},
		sim{name: "mixtral-8x7b", args: "--load 50ms --fail crash-on-load"},
		sim{name: "gemma-27b", backend: "stall: 1s", args: "--load 1s --stall-after 200ms"},
		sim{name: "phi-4", model: "idle_time: 1h, line: {max_wait: 1s}", backend: "slots: 1", args: "--load 50ms --answer 60000"},
		sim{name: "command-r", model: "answer: {first_byte: 1s}", args: "--load 50ms --step 1h"},
		sim{name: "mistral-7b", args: "--load 50ms --step 1h"},
	))
	const path = "/v1/chat/completions"
	locked := guard(t)
	secret := locked.key(t, "team-a", "--model", "ours", "--rate", "1")
	keyed := func(model, key string) func(*testing.T) reply {
		return func(t *testing.T) reply {
			return locked.call(t, post(path, chatBody(model, "hello"), "x-api-key: "+key)).reply(t)
		}
	}
	body := func(body string, header ...string) func(*testing.T) reply {
		return func(t *testing.T) reply { return p.call(t, post(path, body, header...)).reply(t) }
	}
	for what, ask := range map[string]func(*testing.T) reply{
		"No model is named":                    body(`{"messages":[]}`),
		"The model is unknown":                 body(`{"model":"gpt-5"}`),
		"The JSON is malformed":                body(`{"model":"llama-3b",}`),
		"The JSON is malformed further in":     body(`{"model":"llama-3b","messages":[{"content":"\x"}]}`),
		"The model is no string":               body(`{"model":5}`),
		"The model is named twice":             body(`{"model":"a","model":"b"}`),
		"A multipart body is malformed":        body("--B\r\nContent-Disposition: form-data; name=\"model\"\r\n\r\nm\r\n", "Content-Type: multipart/form-data; boundary=B"),
		"The body is compressed":               body("\x1f\x8b", "Content-Encoding: gzip"),
		"The model's name is too long":         body(`{"model":"` + strings.Repeat("m", 513) + `"}`),
		"The body is over the limit":           p.tooLarge,
		"No key is brought":                    keyed("ours", ""),
		"The key is not known, or revoked":     keyed("ours", "wrong"),
		"The key may not ask for the model":    keyed("theirs", secret),
		"The key is over its limit":            overRate(keyed("ours", secret)),
		"The line is full":                     p.lineFull,
		"All lines together hold too much":     holdTooMuch,
		"The wake failed":                      p.wakeFailed,
		"The backend rests after a failure":    p.rests,
		"The wake stalled":                     body(chatBody("gemma-27b", "hello")),
		"It waited too long for a slot":        p.waitedTooLong,
		"The edge is shutting down":            shutDown,
		"The backend did not answer in time":   body(chatBody("command-r", "hello")),
		"The backend broke before it answered": p.brokeSilently,
	} {
		row, found := rows[what]
		if !found {
			t.Errorf("docs/errors.md has no row %q", what)
			continue
		}
		delete(rows, what)
		t.Run(what, func(t *testing.T) { row.want(t, ask(t)) })
	}
	for what := range rows {
		t.Errorf("docs/errors.md has a row %q that nobody has seen", what)
	}
	if got := p.model(t, "llama-3b").State; got != "stopped" {
		t.Errorf("llama-3b is %s, want it stopped: no request for it was any good", got)
	}
}

func TestEveryAPIIsToldInItsOwnForm(t *testing.T) {
	t.Parallel()
	p := serve(t, t.TempDir(), simulated(t, sim{name: "m"}))
	forms := documentedForms(t)
	for api, path := range map[string]string{
		"OpenAI":    "/v1/chat/completions",
		"Anthropic": "/v1/messages",
		"Ollama":    "/api/chat",
		"KServe":    "/v2/models/gpt-5/infer",
	} {
		got := p.call(t, post(path, `{"model":"gpt-5"}`)).reply(t)
		if want := forms[api]; got.status != 404 || got.body != want {
			t.Errorf("%s: got %d %s, want 404 %s", api, got.status, got.body, want)
		}
	}
}

// tooLarge sends a body over the limit, once with its length and once in chunks, and wants to hear the same.
func (p *pilotlight) tooLarge(t *testing.T) reply {
	large := strings.Repeat("x", 2048)
	whole := p.call(t, post("/v1/chat/completions", large)).reply(t)
	chunked := p.call(t, "POST /v1/chat/completions HTTP/1.1\r\nHost: pilotlight\r\nTransfer-Encoding: chunked\r\n\r\n"+
		fmt.Sprintf("%x\r\n%s\r\n0\r\n\r\n", len(large), large)).reply(t)
	if chunked.status != whole.status || chunked.body != whole.body {
		t.Errorf("in chunks: got %d %s, want %d %s", chunked.status, chunked.body, whole.status, whole.body)
	}
	return whole
}

// overRate asks until it is refused.
func overRate(ask func(*testing.T) reply) func(*testing.T) reply {
	return func(t *testing.T) (got reply) {
		eventually(t, "the key is over its limit", func() bool {
			got = ask(t)
			return got.status != 200
		})
		return got
	}
}

func (p *pilotlight) lineFull(t *testing.T) reply {
	first := p.call(t, chat("llama-8b", "hello"))
	defer first.Close()
	p.awaitWaiting(t, "llama-8b", 1)
	return p.call(t, chat("llama-8b", "hello")).reply(t)
}

// holdTooMuch asks a pilotlight that may hold next to nothing.
func holdTooMuch(t *testing.T) reply {
	p := serve(t, t.TempDir(), "limits: {held: 10B}\n"+simulated(t, sim{name: "m", args: "--load 1h"}))
	return p.call(t, chat("m", "hello")).reply(t)
}

// wakeFailed has three clients wait for a wake that fails. To the two that have had heartbeats the refusal is an event.
func (p *pilotlight) wakeFailed(t *testing.T) reply {
	plain := p.call(t, chat("qwen-14b", "hello"))
	openAI := p.call(t, chat("qwen-14b", "hello", streamed))
	anthropic := p.call(t, post("/v1/messages", chatBody("qwen-14b", "hello", streamed)))
	got := plain.reply(t)
	const beat = ": waiting for qwen-14b\n"
	for client, want := range map[*caller]string{
		openAI:    "data: " + got.body + "\n\n",
		anthropic: "event: error\ndata: " + anthropicForm(got.body) + "\n\n",
	} {
		stream := client.reply(t)
		event := strings.ReplaceAll(stream.body, beat, "")
		if stream.status != 200 || !strings.HasPrefix(stream.body, beat) || event != want {
			t.Errorf("got a stream with %d %s, want heartbeats and then %s", stream.status, stream.body, want)
		}
	}
	return got
}

// anthropicForm is an error in OpenAI's form, in Anthropic's.
func anthropicForm(openAI string) string {
	message, _, _ := strings.Cut(strings.TrimPrefix(openAI, `{"error":{"message":`), `,"type":`)
	return `{"type":"error","error":{"type":"overloaded_error","message":` + message + `}}`
}

// rests asks again after a wake that failed; not at all soon if the machine is busy, so that there is another wake first.
func (p *pilotlight) rests(t *testing.T) (got reply) {
	const cause = "mixtral-8x7b could not be woken: "
	if first := p.call(t, chat("mixtral-8x7b", "hello")).reply(t); !strings.Contains(first.body, cause) {
		t.Errorf("got %d %s, want the failure of the wake", first.status, first.body)
	}
	eventually(t, "it rests", func() bool {
		got = p.call(t, chat("mixtral-8x7b", "hello")).reply(t)
		return !strings.Contains(got.body, cause)
	})
	return got
}

func (p *pilotlight) waitedTooLong(t *testing.T) reply {
	talking := p.call(t, chat("phi-4", "go on", streamed))
	talking.beginStream(t)
	defer talking.Close()
	return p.call(t, chat("phi-4", "hello")).reply(t)
}

// brokeSilently has a model server die while it thinks.
func (p *pilotlight) brokeSilently(t *testing.T) reply {
	thinking := p.call(t, chat("mistral-7b", "hello"))
	p.awaitRunning(t, "mistral-7b")
	kill(t, p.model(t, "mistral-7b").Backends[0].PID)
	return thinking.reply(t)
}

// shutDown has a pilotlight end while a client waits in line.
func shutDown(t *testing.T) reply {
	p := serve(t, t.TempDir(), simulated(t, sim{name: "m", args: "--load 1h"}))
	waiting := p.call(t, chat("m", "hello"))
	p.awaitWaiting(t, "m", 1)
	p.end(t, syscall.SIGTERM)
	p.wantModelServers(t) // a wake that is called off leaves nothing
	return waiting.reply(t)
}

// refusalRow is a row of docs/errors.md.
type refusalRow struct{ status, body, after string }

// want compares what was said with the row.
func (r refusalRow) want(t *testing.T, got reply) {
	t.Helper()
	if strconv.Itoa(got.status) != r.status || example(got.body) != example(r.body) {
		t.Errorf("got  %d %s\nwant %s %s", got.status, got.body, r.status, r.body)
	}
	after := got.header.Get("Retry-After")
	seconds, err := strconv.Atoi(cmp.Or(after, "1"))
	if computed := strings.HasSuffix(r.after, "(computed)"); computed != (after != "") || err != nil || seconds < 1 {
		t.Errorf("got Retry-After %q, want %s", after, r.after)
	}
	if kind := got.header.Get("Content-Type"); kind != "application/json" {
		t.Errorf("got Content-Type %q, want application/json", kind)
	}
	if got.header.Get("X-Pilotlight-Request") == "" {
		t.Error("got no X-Pilotlight-Request, want the request's ID")
	}
}

var (
	measured = regexp.MustCompile(`after \d+(\.\d+)?m?s`)
	port     = regexp.MustCompile(`127\.0\.0\.1:\d+`)
)

// example replaces what differs from one time to the next.
func example(body string) string {
	return port.ReplaceAllString(measured.ReplaceAllString(body, "after 1.2s"), "127.0.0.1:8000")
}

// documented are the rows of docs/errors.md, by what was wrong.
func documented(t *testing.T) map[string]refusalRow {
	t.Helper()
	rows := map[string]refusalRow{}
	for _, cells := range table(t, "| What was wrong |") {
		rows[cells[0]] = refusalRow{cells[1], strings.Trim(cells[2], "`"), cells[3]}
	}
	return rows
}

// documentedForms are the bodies of docs/errors.md, by API.
func documentedForms(t *testing.T) map[string]string {
	t.Helper()
	forms := map[string]string{}
	for _, cells := range table(t, "| API |") {
		forms[cells[0]] = strings.Trim(cells[2], "`")
	}
	return forms
}

// table is the table of docs/errors.md that begins so, without its head.
func table(t *testing.T, head string) (rows [][]string) {
	t.Helper()
	page, err := os.ReadFile("docs/errors.md")
	if err != nil {
		t.Fatal(err)
	}
	_, text, found := strings.Cut(string(page), head)
	if !found {
		t.Fatalf("docs/errors.md has no table %q", head)
	}
	text, _, _ = strings.Cut(text, "\n\n")
	for i, line := range strings.Split(strings.TrimSpace(text), "\n") {
		if i >= 2 {
			rows = append(rows, strings.Split(strings.Trim(line, "| "), " | "))
		}
	}
	return rows
}
