package modelsim

import (
	"bytes"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"strings"
)

type object = map[string]any

// refusal is an answer other than 2xx, still to be put into the words of an API.
type refusal struct {
	status  int
	message string
}

func (r *refusal) Error() string { return r.message }

// wording puts a refusal into an API's words.
type wording func(refusal) any

// endpoint reads a request whole, since net/http notices only then that a client leaves, and replies with the document that
// answer returns, if any, or with its error.
func endpoint(no wording, answer func(w http.ResponseWriter, r *http.Request, body []byte) (any, error)) http.HandlerFunc {
	return func(w http.ResponseWriter, r *http.Request) {
		body, err := io.ReadAll(r.Body)
		if tooLarge, is := errors.AsType[*http.MaxBytesError](err); is {
			err = &refusal{http.StatusRequestEntityTooLarge, tooLarge.Error()}
		}
		var document any
		if err == nil {
			document, err = answer(w, r, body)
		}
		if err != nil {
			why, ok := errors.AsType[*refusal](err)
			if !ok {
				why = &refusal{499, err.Error()} // the client left, and will not read it
			}
			reply(w, why.status, no(*why))
		} else if document != nil {
			reply(w, http.StatusOK, document)
		}
	}
}

func reply(w http.ResponseWriter, status int, document any) {
	w.Header().Set("Content-Type", "application/json")
	w.WriteHeader(status)
	_, _ = w.Write(encode(document))
}

func encode(v any) []byte {
	b, err := json.Marshal(v)
	if err != nil {
		panic("BUG: an answer that JSON cannot hold: " + err.Error())
	}
	return b
}

const eventStream = "text/event-stream; charset=utf-8"

func sse(v any) []byte { return fmt.Appendf(nil, "data: %s\n\n", encode(v)) }

// prose is text as APIs take it: a string, or a list of strings and of {"text": …}. Anything else counts as its JSON.
type prose string

// UnmarshalJSON takes any JSON.
func (p *prose) UnmarshalJSON(raw []byte) error {
	var parts []prose
	var part struct{ Text *string }
	switch {
	case json.Unmarshal(raw, (*string)(p)) == nil: // null too
	case json.Unmarshal(raw, &parts) == nil:
		for _, q := range parts {
			*p += q
		}
	case json.Unmarshal(raw, &part) == nil && part.Text != nil:
		*p = prose(*part.Text)
	default:
		*p = prose(raw)
	}
	return nil
}

// message is one message of a chat, in every API.
type message struct{ Content prose }

// transcript is a chat as one prompt.
func transcript(messages []message) string {
	var b strings.Builder
	for _, m := range messages {
		b.WriteString(string(m.Content))
	}
	return b.String()
}

// echoHeader asks for an echo of the request in the answer's header of the same name.
const echoHeader = "X-Modelsim-Echo"

// echo says what of a request arrived, and leaves its body to be read again.
func echo(r *http.Request) object {
	body, err := io.ReadAll(r.Body)
	if err != nil {
		return object{"error": err.Error()}
	}
	r.Body = io.NopCloser(bytes.NewReader(body))
	sum := sha256.Sum256(body)
	return object{
		"method": r.Method, "host": r.Host, "path": r.URL.Path, "query": r.URL.RawQuery, "headers": r.Header,
		"body_length": len(body), "body_sha256": hex.EncodeToString(sum[:]),
	}
}
