package proxy

import (
	"encoding/json"
	"flag"
	"fmt"
	"os"
	"strconv"
	"strings"
	"testing"
	"time"

	"pilotlight/router"
)

var update = flag.Bool("update", false, "write the generated files anew")

func TestAPIIsToldByThePath(t *testing.T) {
	for path, want := range map[string]api{
		"/v1/chat/completions":      openAI,
		"/v1/completions":           openAI,
		"/v1/models":                openAI,
		"/v1/models/llama3:8b":      openAI,
		"/":                         openAI,
		"/apis":                     openAI,
		"/v1/messages":              anthropic,
		"/v1/messages/count_tokens": anthropic,
		"/v1/complete":              anthropic,
		"/api/chat":                 ollama,
		"/v2":                       kserve,
		"/v2/models/m/infer":        kserve,
		"/v1/models/m:predict":      kserve,
		"/upstream/m/api/chat":      ollama,
		"/upstream/m":               openAI,
	} {
		if got := apiOf([]byte(path)); got != want {
			t.Errorf("%s: got %d; want %d", path, got, want)
		}
	}
}

func TestRefusalsHaveTheFormOfTheirAPI(t *testing.T) {
	unknown := &router.Refusal{Status: 404, Code: router.UnknownModel, Reason: "no model is called \"a\n<b>\xff\""}
	broken := &router.Refusal{Status: 502, Code: router.BackendBroken, Reason: "it broke"}
	for _, tt := range []struct {
		api  api
		no   *router.Refusal
		want string
	}{
		{openAI, unknown, `{"error":{"message":"no model is called \"a\n<b>\ufffd\"","type":"invalid_request_error","param":"model","code":"model_not_found"}}`},
		{anthropic, unknown, `{"type":"error","error":{"type":"not_found_error","message":"no model is called \"a\n<b>\ufffd\""}}`},
		{ollama, unknown, `{"error":"no model is called \"a\n<b>\ufffd\""}`},
		{kserve, unknown, `{"error":"no model is called \"a\n<b>\ufffd\""}`},
		{openAI, broken, `{"error":{"message":"it broke","type":"server_error","param":null,"code":"backend_broken"}}`},
		{anthropic, broken, `{"type":"error","error":{"type":"api_error","message":"it broke"}}`},
	} {
		if got := string(tt.api.refusal([]byte("x"), tt.no)); got != "x"+tt.want {
			t.Errorf("got %s; want x%s", got, tt.want)
		}
	}
}

func TestEventsHaveTheFormOfTheirAPI(t *testing.T) {
	no := &router.Refusal{Status: 503, Code: router.WakeFailed, Reason: "it\nfell over"}
	for api, want := range map[api]string{
		openAI:    `data: {"error":{"message":"it\nfell over","type":"server_error","param":null,"code":"wake_failed"}}` + "\n\n",
		anthropic: "event: error\n" + `data: {"type":"error","error":{"type":"overloaded_error","message":"it\nfell over"}}` + "\n\n",
		ollama:    `{"error":"it\nfell over"}` + "\n",
		kserve:    `data: {"error":"it\nfell over"}` + "\n\n",
	} {
		if got := string(api.event(nil, no)); got != want {
			t.Errorf("got %q; want %q", got, want)
		}
	}
}

func TestTypesOfErrorsFollowTheStatus(t *testing.T) {
	for status, want := range map[int][2]string{
		400: {"invalid_request_error", "invalid_request_error"},
		404: {"invalid_request_error", "not_found_error"},
		413: {"invalid_request_error", "request_too_large"},
		415: {"invalid_request_error", "invalid_request_error"},
		429: {"rate_limit_error", "rate_limit_error"},
		500: {"server_error", "api_error"},
		504: {"server_error", "api_error"},
		502: {"server_error", "api_error"},
		503: {"server_error", "overloaded_error"},
	} {
		no := &router.Refusal{Status: status}
		if got := [2]string{openAIError(no).Error.Type, anthropicError(no).Error.Type}; got != want {
			t.Errorf("%d: got %v; want %v", status, got, want)
		}
	}
}

// refusals are all there are, one row each. Those of read are what read says; the others are what they were when the whole
// product ran, and ../refusals_test.go sees to it that they are what it says today.
func refusals(t *testing.T) []struct {
	what string
	no   *router.Refusal
} {
	said := func(head, body string) *router.Refusal {
		in := request(t, head, body)
		no := in.read()
		if no == nil {
			no = in.ask.check()
		}
		if no == nil {
			t.Fatalf("%s was not refused", head)
		}
		return no
	}
	no := func(status int, code router.Code, after time.Duration, reason string) *router.Refusal {
		return &router.Refusal{Status: status, Code: code, Reason: reason, RetryAfter: after}
	}
	const chat = "POST /v1/chat/completions" + asJSON
	return []struct {
		what string
		no   *router.Refusal
	}{
		{"No model is named", said(chat, `{"messages":[]}`)},
		{"The model is unknown", no(404, router.UnknownModel, 0, `no model is called "gpt-5"; GET /v1/models lists those there are`)},
		{"The JSON is malformed", said(chat, `{"model":"llama-3b",}`)},
		{"The JSON is malformed further in", said(chat, `{"model":"llama-3b","messages":[{"content":"\x"}]}`)},
		{"The model is no string", said(chat, `{"model":5}`)},
		{"The model is named twice", said(chat, `{"model":"a","model":"b"}`)},
		{"A multipart body is malformed", said("POST /v1/audio/transcriptions"+asForm, formField("model", "m"))},
		{"The body is compressed", said(chat+"\nContent-Encoding: gzip", "\x1f\x8b")},
		{"The model's name is too long", said(chat, `{"model":"`+strings.Repeat("m", maxName+1)+`"}`)},
		{"The body is over the limit", no(413, router.BodyTooLarge, 0, "the body is larger than the limit of 1024 bytes")},
		{"No key is brought", no(401, router.BadKey, 0, "the request has no API key; send it as Authorization: Bearer KEY, x-api-key or api-key")},
		{"The key is not known, or revoked", no(401, router.BadKey, 0, "the API key is not known here")},
		{"The key may not ask for the model", no(403, router.ModelForbidden, 0, "the API key team-a may not ask for theirs")},
		{"The key is over its limit", no(429, router.RateLimited, time.Second, "the API key team-a has used its 1 requests per second")},
		{"The line is full", no(429, router.LineFull, 12*time.Second, "the line for llama-8b is full; ask again later")},
		{"All lines together hold too much", no(429, router.LineFull, 12*time.Second, "this edge holds as much for requests that wait as it may; ask again later")},
		{"The wake failed", no(503, router.WakeFailed, 4*time.Second, "qwen-14b could not be woken: also after room was made for more: wake qwen-14b-0: it exited with status 1 after 1.2s: "+
			"torch.OutOfMemoryError: CUDA out of memory. Tried to allocate 2.00 GiB. GPU 0 has a total capacity of 79.25 GiB of which 1.06 GiB is free")},
		{"The backend rests after a failure", no(503, router.WakeFailed, time.Second, "mixtral-8x7b rests after a failure: wake mixtral-8x7b-0: "+
			"it exited with status 1 after 1.2s: RuntimeError: Engine core initialization failed. See root cause above. Failed core proc(s): {}")},
		{"The wake stalled", no(503, router.WakeStalled, 30*time.Second, "gemma-27b could not be woken: wake gemma-27b-0: no progress for 1s; it is away: "+
			"GET /health: connection refused; the last it logged: Loading weights: 20%")},
		{"It waited too long for a slot", no(503, router.WaitTooLong, 8*time.Second, "no slot of phi-4 was free within 1s; ask again later")},
		{"The edge is shutting down", no(503, router.ShuttingDown, time.Second, "this edge is shutting down; ask again")},
		{"The backend did not answer in time", no(504, router.BackendBroken, 0, "backend command-r-0 did not answer in time")},
		{"The backend broke before it answered", no(502, router.BackendBroken, 0, "backend mistral-7b-0 closed the connection before it answered")},
	}
}

func TestEveryRefusalIsInTheTableOfErrors(t *testing.T) {
	const file = "../docs/errors.md"
	var b strings.Builder
	b.WriteString("# Refusals\n\nWhat a client is told when the answer is no. A test writes this page from the code: " +
		"`go test ./proxy -run TableOfErrors -update`.\nThe names in the sentences are examples.\n\n" +
		"| What was wrong | Status | Body, in OpenAI's form | Retry-After |\n|---|---|---|---|\n")
	rows := refusals(t)
	for _, row := range rows {
		after := "none"
		if row.no.RetryAfter > 0 {
			after = strconv.Itoa(int(row.no.RetryAfter.Seconds())) + " (computed)"
		}
		fmt.Fprintf(&b, "| %s | %d | `%s` | %s |\n", row.what, row.no.Status, openAI.refusal(nil, row.no), after)
	}
	b.WriteString("\nRetry-After is in seconds and computed from how long past wakes took and how long the line is.\n\n" +
		"## The other APIs\n\nThe path tells which API a client speaks. This is the second row in the form of each:\n\n" +
		"| API | Paths | Body | In a stream that has begun |\n|---|---|---|---|\n")
	for _, row := range []struct {
		name, paths string
		api         api
	}{
		{"OpenAI", "all others", openAI},
		{"Anthropic", "`/v1/messages`, `/v1/complete`, and others with the header `anthropic-version`", anthropic},
		{"Ollama", "`/api/...`", ollama},
		{"KServe", "`/v2/...`, `/v1/models/MODEL:predict`", kserve},
	} {
		event := strings.ReplaceAll(strings.TrimRight(string(row.api.event(nil, rows[1].no)), "\n"), "\n", "` `")
		fmt.Fprintf(&b, "| %s | %s | `%s` | `%s` |\n", row.name, row.paths, row.api.refusal(nil, rows[1].no), event)
	}
	if *update {
		if err := os.WriteFile(file, []byte(b.String()), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	got, err := os.ReadFile(file)
	if err != nil {
		t.Fatal(err)
	}
	if string(got) != b.String() {
		t.Errorf("%s is stale; write it anew with -update", file)
	}
}

func TestRefusalsAreJSON(t *testing.T) {
	for _, row := range refusals(t) {
		for _, api := range []api{openAI, anthropic, ollama, kserve} {
			if b := api.refusal(nil, row.no); !json.Valid(b) {
				t.Errorf("not JSON: %s", b)
			}
		}
	}
}
