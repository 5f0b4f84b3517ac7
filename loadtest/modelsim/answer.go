package modelsim

import (
	"fmt"
	"hash/fnv"
	"io"
	"math/rand/v2"
	"net/http"
	"slices"
	"strings"
	"time"
)

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

// form is how an API writes one answer: whole, as one document, or as a stream of what event makes of each token.
type form struct {
	contentType string // of the stream
	whole       func(*answer) any
	event       func(a *answer, token string) []byte
}

// generate answers requests for words, which read understands and no refuses.
func (s *server) generate(read func(body []byte) (request, form, error), no wording) http.Handler {
	return endpoint(no, func(w http.ResponseWriter, r *http.Request, body []byte) (any, error) {
		req, form, err := read(body)
		if err != nil {
			return nil, &refusal{http.StatusBadRequest, err.Error()}
		}
		q, err := s.sequence(req)
		if err != nil {
			return nil, err
		}
		a := &answer{request: req, came: time.Now(), ofPrompt: q.prompt}
		if a.id, err = s.engine.submit(q); err != nil {
			return nil, err
		}
		defer s.engine.abort(q)
		if !req.stream {
			err := a.speak(r, q, func(string) error { return nil })
			return form.whole(a), err
		}
		w.Header().Set("Content-Type", form.contentType)
		flush := http.NewResponseController(w).Flush
		_ = flush() // the status goes out before the first token, as from vLLM
		if err := a.speak(r, q, func(token string) error {
			_, _ = w.Write(form.event(a, token))
			return flush()
		}); err != nil {
			panic(http.ErrAbortHandler) // what is broken has to look broken
		}
		return nil, nil
	})
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
		want, finish = max(s.KVTokens-prompt, 1), "length"
	}
	return newSequence(prompt, want, finish), nil
}

// knows refuses models that the server does not serve, as vLLM does.
func (s *server) knows(model string) error {
	if !slices.Contains(s.Models, model) {
		return &refusal{http.StatusNotFound, fmt.Sprintf("The model `%s` does not exist.", model)}
	}
	return nil
}

// speak puts the tokens of a sequence into words, and says each, until the answer is complete.
func (a *answer) speak(r *http.Request, q *sequence, say func(token string) error) error {
	voice := newVoice(a.model, a.prompt)
	for a.finish == "" {
		if err := q.next(r.Context()); err != nil {
			return err
		}
		token := words[voice.IntN(len(words))]
		if a.tokens == 0 {
			a.spoke = time.Now()
		} else {
			token = " " + token
		}
		a.tokens++
		a.text.WriteString(token)
		if a.tokens == q.want {
			a.finish = q.finish
		}
		if err := say(token); err != nil {
			return err
		}
	}
	return nil
}

// pool runs a prompt of so many tokens through the engine, without an answer in words.
func (s *server) pool(r *http.Request, prompt int) error {
	q := newSequence(prompt, 1, "stop")
	q.pooled = true
	if _, err := s.engine.submit(q); err != nil {
		return err
	}
	defer s.engine.abort(q)
	return q.next(r.Context())
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
