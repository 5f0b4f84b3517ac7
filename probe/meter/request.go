package meter

import (
	"math"
	"sort"
	"time"
)

// chunk is how many tokens of a prompt engines usually read in one step: vLLM's default with chunked prefill.
const chunk = 512

// Request is what an edge knows of one request to a backend.
type Request struct {
	ID     uint64
	Began  time.Time  // when it was sent to the backend
	First  time.Time  // its first token; zero: not yet, or not seen
	Ended  time.Time  // zero: not yet
	Prompt int        // tokens that the engine had to read, without cached ones
	Whole  bool       // the answer comes in one piece: what was made when is not seen
	Ticks  []Progress // in order of time, one for each piece of a stream; of a whole answer the one at its end, once it is there
}

// Progress is how many tokens had come by a time, all together.
type Progress struct {
	At     time.Time
	Tokens int
}

// work is what a request did within a window, as far as it is seen from outside.
type work struct {
	inFlight float64 // seconds
	prompt   float64 // tokens read
	tokens   float64 // tokens made
	context  float64 // the sum, over the tokens made, of how many tokens came before each
	steps    float64 // engine steps that it took part in
}

// in is what r did in the window. Known is until when requests are known: one that has neither begun to answer nor ended by then still may.
func (r *Request) in(w Window, known time.Time, weights Weights) work {
	end := orElse(r.Ended, known)
	flight := overlap(w, r.Began, end)
	if flight <= 0 {
		return work{}
	}
	first := r.first(end, weights)
	did := work{inFlight: flight}
	if first.After(r.Began) {
		read := overlap(w, r.Began, first) / first.Sub(r.Began).Seconds()
		did.prompt = read * float64(r.Prompt)
		did.steps = read * math.Ceil(float64(r.Prompt)/chunk)
	}
	from, to := r.made(w.From, first), r.made(w.To, first)
	did.tokens = to - from
	did.steps += did.tokens
	did.context = did.tokens*float64(r.Prompt) + (to*(to-1)-from*(from-1))/2
	did.context = max(did.context, 0)
	return did
}

// first is when r's prompt had been read: where that was not seen, after the time that the weights give its prompt.
func (r *Request) first(end time.Time, weights Weights) time.Time {
	if !r.Whole {
		return orElse(r.First, end)
	}
	reading := time.Duration(float64(r.Prompt)*weights.Prompt + math.Ceil(float64(r.Prompt)/chunk)*weights.Step)
	return r.Began.Add(min(reading, end.Sub(r.Began)/2))
}

// made is how many tokens r had made by t, each in a step of its own. A stream's first ones are not among them: they came of the step that read the end of the
// prompt. Those that came in one piece were made evenly from the first until then.
func (r *Request) made(t, first time.Time) float64 {
	if r.Whole && len(r.Ticks) > 0 {
		last := r.Ticks[len(r.Ticks)-1]
		if span := last.At.Sub(first); span > 0 {
			return float64(last.Tokens) * min(max(t.Sub(first).Seconds()/span.Seconds(), 0), 1)
		}
	}
	i := sort.Search(len(r.Ticks), func(i int) bool { return r.Ticks[i].At.After(t) })
	if i == 0 {
		return 0
	}
	before, free := r.Ticks[i-1], r.Ticks[0].Tokens
	if i == len(r.Ticks) {
		return float64(before.Tokens - free)
	}
	after := r.Ticks[i] // what comes at a time was worked on since what came before
	part := t.Sub(before.At).Seconds() / after.At.Sub(before.At).Seconds()
	return float64(before.Tokens-free) + part*float64(after.Tokens-before.Tokens)
}

func orElse(t, otherwise time.Time) time.Time {
	if t.IsZero() {
		return otherwise
	}
	return t
}

// overlap is how many seconds of the window lie between from and to.
func overlap(w Window, from, to time.Time) float64 {
	if from.Before(w.From) {
		from = w.From
	}
	if to.After(w.To) {
		to = w.To
	}
	return max(to.Sub(from).Seconds(), 0)
}
