package loadtest

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
	"strings"
	"syscall"
	"testing"
)

const tokenEvent = `data: {"choices":[{"delta":{"content":"x"}}]}` + "\n\n"

// response is one as it came.
func response(status int, kind, body string) *http.Response {
	return &http.Response{StatusCode: status, Header: http.Header{"Content-Type": {kind}}, Body: io.NopCloser(strings.NewReader(body))}
}

func TestHowAnswersEnd(t *testing.T) {
	const stream, document = "text/event-stream; charset=utf-8", "application/json"
	for _, c := range []struct {
		name     string
		response *http.Response
		want     Outcome
		kind     string
		tokens   int
	}{
		{"a stream that ends", response(200, stream, tokenEvent+tokenEvent+"data: [DONE]\n\n"), OK, "", 2},
		{"a stream that does not", response(200, stream, tokenEvent), Broken, "the stream ended without [DONE]", 1},
		{"half a line at its end", response(200, stream, tokenEvent+`data: {"cho`), Broken, "the stream ended without [DONE]", 1},
		{"heartbeats only", response(200, stream, ": heartbeat\n\ndata: [DONE]\n\n"), OK, "", 0},
		{"the model's thoughts", response(200, stream, `data: {"choices":[{"delta":{"content":null,"reasoning_content":"hm"}}]}`+"\n\ndata: [DONE]\n\n"), OK, "", 1},
		{"a space in its JSON", response(200, stream, `data: {"choices": [{"delta": {"content": "x"}}]}`+"\n\ndata: [DONE]\n\n"), OK, "", 1},
		{"a refusal in a stream", response(200, stream, `data: {"error":{"message":"no","code":"wait_too_long"}}`+"\n\n"), Refused, "error in the stream: wait_too_long", 0},
		{"a break in a stream", response(200, stream, tokenEvent+`data: {"error":{"message":"no","code":"backend_broken"}}`+"\n\n"), Broken, "error in the stream: backend_broken", 1},
		{"a document", response(200, document, `{"usage":{"completion_tokens":7}}`), OK, "", 7},
		{"half a document", response(200, document, `{"usage":{"compl`), Broken, "the answer is not JSON", 0},
		{"a full line", response(429, document, `{"error":{"message":"full","code":"line_full"}}`), Refused, "429 line_full", 0},
		{"a number as its code", response(404, document, `{"error":{"message":"no","code":404}}`), Refused, "404", 0},
		{"a broken backend", response(502, document, `{"error":{"message":"no","code":"backend_broken"}}`), Broken, "502 backend_broken", 0},
		{"nothing but a status", response(503, "text/html", "<html>"), Refused, "503", 0},
		{"an event that is too long", response(200, stream, "data: "+strings.Repeat("x", maxEvent+10)), Broken, "an event is longer than 1 MiB", 0},
	} {
		var a Answer
		outcome, kind := outcomeOf(t.Context(), a.hear(c.response, true))
		if outcome != c.want || kind != c.kind || a.Tokens != c.tokens {
			t.Errorf("%s: %s (%q) with %d tokens, want %s (%q) with %d", c.name, outcome, kind, a.Tokens, c.want, c.kind, c.tokens)
		}
	}
}

func TestErrorsHaveFewNames(t *testing.T) {
	for _, c := range []struct {
		ended error // why the client left; nil: it did not
		err   error
		want  Outcome
		kind  string
	}{
		{nil, fmt.Errorf("dial: %w", syscall.ECONNREFUSED), Broken, "connection refused"},
		{nil, fmt.Errorf("read: %w", syscall.ECONNRESET), Broken, "connection reset"},
		{nil, io.ErrUnexpectedEOF, Broken, "the connection closed before the end"},
		{nil, errors.New("read 127.0.0.1:4711"), Broken, "other"},
		{context.Canceled, context.Canceled, Left, "the load was ended"},
		{ErrTooLong, context.Canceled, Left, "it took too long"},
	} {
		ctx, end := context.WithCancelCause(t.Context())
		if c.ended != nil {
			end(c.ended)
		}
		if outcome, kind := outcomeOf(ctx, c.err); outcome != c.want || kind != c.kind {
			t.Errorf("%v is %s (%q), want %s (%q)", c.err, outcome, kind, c.want, c.kind)
		}
		end(nil)
	}
}

// FuzzHear: whatever comes, an answer has one outcome, and a stream is ok only if it says so itself.
func FuzzHear(f *testing.F) {
	f.Add(200, true, tokenEvent+"data: [DONE]\n\n")
	f.Add(200, true, "data:\ndata: {\"error\"")
	f.Add(500, false, `{"error":{"code":[]}}`)
	f.Fuzz(func(t *testing.T, status int, streams bool, body string) {
		kind := map[bool]string{true: "text/event-stream", false: "application/json"}[streams]
		var a Answer
		outcome, _ := outcomeOf(t.Context(), a.hear(response(status, kind, body), true))
		if streams && status < 400 && outcome == OK && !strings.Contains(body, "[DONE]") {
			t.Errorf("a stream that does not end is ok: %q", body)
		}
		if status >= 400 && outcome == OK {
			t.Errorf("status %d is ok", status)
		}
	})
}
