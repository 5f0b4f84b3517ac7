package modelsim

import (
	"encoding/json"
	"errors"
	"fmt"
	"hash/fnv"
	"io"
	"math/rand/v2"
	"net/http"
	"slices"
	"strings"
	"time"
)

type object = map[string]any

// request is what a request for words comes down to in every API.
type request struct {
	model, prompt string
	limit         *int // tokens that the client allows; nil: it does not say
	endless       bool // go on until the limit, whatever the model would do
	stream        bool
}

// answer is what has been said to a request so far.
type answer struct {
	request
	id               int // unique in this server
	came, spoke      time.Time
	tokens, ofPrompt int
	text             strings.Builder
	finish           string // stop or length once it is complete, else empty
}

// api is how one API's requests are read, and how it says no.
type api struct {
	read   func(body []byte) (request, form, error)
	refuse func(refusal) any
}

// form is how an API writes one answer: whole as one document, or as a stream of what event makes of each token.
type form struct {
	contentType string // of the stream
	whole       func(*answer) any
	event       func(a *answer, token string) []byte
}

// generate answers requests for words.
func (s *server) generate(api api) http.HandlerFunc {
	return func(w http.ResponseWriter, r *http.Request) {
		body, ok := readBody(w, r, api.refuse)
		if !ok {
			return
		}
		req, form, err := api.read(body)
		if err != nil {
			refuse(w, api.refuse, &refusal{http.StatusBadRequest, err.Error()})
			return
		}
		q, err := s.sequence(req)
		if err != nil {
			refuse(w, api.refuse, err)
			return
		}
		a := &answer{request: req, came: time.Now(), ofPrompt: q.prompt}
		if a.id, err = s.engine.submit(q); err != nil {
			refuse(w, api.refuse, err)
			return
		}
		defer s.engine.abort(q)
		if req.stream {
			w.Header().Set("Content-Type", form.contentType)
			_ = http.NewResponseController(w).Flush() // the status goes out before the first token, as from vLLM
		}
		switch err := a.speak(w, r, q, form); {
		case err != nil && req.stream:
			panic(http.ErrAbortHandler) // what is broken has to look broken
		case err != nil:
			refuse(w, api.refuse, err)
		case !req.stream:
			reply(w, http.StatusOK, form.whole(a))
		}
	}
}

// sequence is the engine's view of a request: how long a prompt, how long an answer.
func (s *server) sequence(req request) (*sequence, error) {
	if err := s.knows(req.model); err != nil {
		return nil, err
	}
	prompt := countTokens(req.prompt)
	want, finish := s.Answer, "stop"
	switch {
	case req.limit != nil && *req.limit < 1:
		return nil, &refusal{http.StatusBadRequest, fmt.Sprintf("max_tokens must be at least 1, got %d.", *req.limit)}
	case req.limit != nil && (req.endless || *req.limit <= want):
		want, finish = *req.limit, "length"
	case req.endless:
		want, finish = s.KVTokens-prompt, "length"
	}
	return newSequence(prompt, max(want, 1), finish), nil // what is too long the engine refuses
}

// knows refuses models that the server does not serve, as vLLM does.
func (s *server) knows(model string) error {
	if !slices.Contains(s.Models, model) {
		return &refusal{http.StatusNotFound, fmt.Sprintf("The model `%s` does not exist.", model)}
	}
	return nil
}

// speak puts the tokens of a sequence into words until it is complete.
func (a *answer) speak(w http.ResponseWriter, r *http.Request, q *sequence, form form) error {
	voice := newVoice(a.model, a.prompt)
	for a.finish == "" {
		if err := q.next(r.Context()); err != nil {
			return err
		}
		if a.tokens == 0 {
			a.spoke = time.Now()
		}
		token := words[voice.IntN(len(words))]
		if a.tokens > 0 {
			token = " " + token
		}
		a.tokens++
		a.text.WriteString(token)
		if a.tokens == q.want {
			a.finish = q.finish
		}
		if !a.stream {
			continue
		}
		if _, err := w.Write(form.event(a, token)); err != nil {
			return err
		}
		if err := http.NewResponseController(w).Flush(); err != nil {
			return err
		}
	}
	return nil
}

// pool runs a prompt through the engine, without an answer in words, and says no if it has to.
func (s *server) pool(w http.ResponseWriter, r *http.Request, prompt int, no func(refusal) any) (done bool) {
	q := newSequence(prompt, 1, "stop")
	q.pooled = true
	_, err := s.engine.submit(q)
	if err == nil {
		defer s.engine.abort(q)
		err = q.next(r.Context())
	}
	if err != nil {
		refuse(w, no, err)
	}
	return err == nil
}

// words are what the model knows. Some are not ASCII, for clients and proxies that cut bytes.
var words = strings.Fields("a and the of in on by with for from to is was burns glows waits wakes sleeps gives keeps finds " +
	"flame light burner pilot lamp wick spark ember hearth night morning winter house kettle engine harbour " +
	"small warm quiet steady bright patient blue first only always again then before while Glühwürmchen étincelle 炎 灯 🔥")

// newVoice chooses words: the same for the same model and prompt, in every process.
func newVoice(model, prompt string) *rand.Rand {
	h := fnv.New64a()
	_, _ = io.WriteString(h, prompt)
	seed := h.Sum64()
	_, _ = io.WriteString(h, "\x00"+model)
	return rand.New(rand.NewPCG(seed, h.Sum64()))
}

// countTokens takes a token for four bytes, as English prompts have it.
func countTokens(prompt string) int { return max(1, (len(prompt)+3)/4) }

// readBody reads a request whole, so that net/http notices when the client leaves.
func readBody(w http.ResponseWriter, r *http.Request, no func(refusal) any) (body []byte, ok bool) {
	body, err := io.ReadAll(r.Body)
	if tooLarge, is := errors.AsType[*http.MaxBytesError](err); is {
		err = &refusal{http.StatusRequestEntityTooLarge, tooLarge.Error()}
	}
	if err != nil {
		refuse(w, no, err)
	}
	return body, err == nil
}

// refuse says no in the words of an API.
func refuse(w http.ResponseWriter, no func(refusal) any, err error) {
	r, ok := errors.AsType[*refusal](err)
	if !ok {
		r = &refusal{499, err.Error()} // the client left, and will not read it
	}
	reply(w, r.status, no(*r))
}

func reply(w http.ResponseWriter, status int, v any) {
	w.Header().Set("Content-Type", "application/json")
	w.WriteHeader(status)
	_, _ = w.Write(encode(v))
}

func encode(v any) []byte {
	b, err := json.Marshal(v)
	if err != nil {
		panic("BUG: an answer that JSON cannot hold: " + err.Error())
	}
	return b
}

// prose is text as APIs take it: a string, a list of strings or of {"text": …}; anything else counts as its JSON.
type prose string

func (p *prose) UnmarshalJSON(raw []byte) error {
	var parts []prose
	var part struct{ Text *string }
	switch {
	case string(raw) == "null":
	case json.Unmarshal(raw, (*string)(p)) == nil:
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
type message struct {
	Role    string `json:"role"`
	Content prose  `json:"content"`
}

// transcript is a chat as one prompt.
func transcript(messages []message) string {
	var b strings.Builder
	for _, m := range messages {
		b.WriteString(string(m.Content))
	}
	return b.String()
}
