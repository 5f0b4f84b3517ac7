package modelsim

import (
	"context"
	"errors"
	"fmt"
	"log"
	"net/http"
	"slices"
	"sync"
	"time"
)

// errDied ends a server that dies as its options want it.
var errDied = errors.New("the simulated model server died in the middle of an answer")

// What vLLM says.
var errEngineDead = &refusal{http.StatusInternalServerError, "EngineCore encountered an issue. See stack trace (above) for the root cause."}

// sequence is a request as the engine sees it: numbers of tokens.
type sequence struct {
	prompt, want int
	finish       string        // why it ends when it has what it wants: stop or length
	pooled       bool          // it wants the result of its prefill, not tokens
	tokens       chan struct{} // one for each token; closed if the engine dies first. The engine never waits for a reader
	arrived      time.Time

	generated int // guarded by the engine's mutex
}

// newSequence makes a sequence. Want must be at least 1.
func newSequence(prompt, want int, finish string) *sequence {
	return &sequence{prompt: prompt, want: want, finish: finish, arrived: time.Now(), tokens: make(chan struct{}, want)}
}

// next waits for a token.
func (q *sequence) next(ctx context.Context) error {
	select {
	case _, more := <-q.tokens:
		if !more {
			return errEngineDead
		}
		return nil
	case <-ctx.Done():
		return ctx.Err()
	}
}

// held is what a running sequence holds of the KV cache, in tokens.
func (q *sequence) held() int { return q.prompt + q.generated }

// engine decodes. Its one loop takes step after step; each gives one token to every running sequence.
type engine struct {
	Options
	fail  Failure
	poke  chan struct{}              // there may be something to do
	moves chan func(context.Context) // sleeping and waking, between two steps

	counts counts
	out    *log.Logger

	mu       sync.Mutex  // guards what follows
	waiting  []*sequence // in order of arrival, preempted ones first
	running  []*sequence // in order of admission
	asleep   asleep
	dead     bool
	requests int           // that ever came
	busy     time.Duration // the sum of all step times
}

func newEngine(o Options, fail Failure, out *log.Logger) *engine {
	return &engine{
		Options: o, fail: fail, poke: make(chan struct{}, 1), moves: make(chan func(context.Context)),
		counts: newCounts(o.Models[0]), out: out,
	}
}

// submit puts a sequence into the line. Its id is unique in this engine.
func (e *engine) submit(q *sequence) (id int, err error) {
	e.mu.Lock()
	defer e.mu.Unlock()
	if e.asleep.any() && e.Asleep == "crash" {
		e.die()
	}
	if e.dead {
		return 0, errEngineDead
	}
	if q.want > e.KVTokens-q.prompt {
		return 0, &refusal{http.StatusBadRequest, fmt.Sprintf("This model's maximum context length is %d tokens. "+
			"However, the prompt has %d tokens, and the answer may have %d.", e.KVTokens, q.prompt, q.want)}
	}
	e.waiting = append(e.waiting, q)
	e.requests++
	e.nudge()
	return e.requests, nil
}

// nudge has the loop look again.
func (e *engine) nudge() {
	select {
	case e.poke <- struct{}{}:
	default:
	}
}

// abort takes out a sequence that nobody reads any more. One that has ended stays as it ended.
func (e *engine) abort(q *sequence) {
	e.mu.Lock()
	defer e.mu.Unlock()
	for _, line := range []*[]*sequence{&e.waiting, &e.running} {
		if i := slices.Index(*line, q); i >= 0 {
			*line = slices.Delete(*line, i, i+1)
			e.counts.finished.WithLabelValues("abort").Inc()
		}
	}
}

// run decodes until ctx ends. Its error is errDied.
func (e *engine) run(ctx context.Context) error {
	for {
		if took := e.begin(); took > 0 {
			if pause(ctx, took) != nil {
				return nil //nolint:nilerr // it was told to end
			}
			if err := e.end(took); err != nil {
				return err
			}
			select {
			case move := <-e.moves:
				move(ctx)
			default:
			}
			continue
		}
		select {
		case <-e.poke:
		case move := <-e.moves:
			move(ctx)
		case <-ctx.Done():
			return nil
		}
	}
}

// begin decides who takes part in the next step, and how long it takes: 0 if there is nothing to do.
func (e *engine) begin() time.Duration {
	e.mu.Lock()
	defer e.mu.Unlock()
	if e.dead || e.asleep.any() {
		return 0
	}
	// Every sequence in a step needs room for one token more. The newest gives up its room and starts over.
	for e.held()+len(e.running) > e.KVTokens {
		newest := len(e.running) - 1
		e.waiting = slices.Insert(e.waiting, 0, e.running[newest])
		e.running = e.running[:newest]
		e.counts.preempted.Inc()
	}
	prefill := 0
	for len(e.waiting) > 0 && len(e.running) < e.Slots {
		next := e.waiting[0]
		if e.held()+next.held()+len(e.running)+1 > e.KVTokens {
			break // nobody overtakes it
		}
		prefill += next.held()
		e.running, e.waiting = append(e.running, next), e.waiting[1:]
	}
	if len(e.running) == 0 {
		return 0
	}
	return e.Step + time.Duration(len(e.running))*e.StepPerSeq + time.Duration(prefill)*e.Prefill
}

// held is what the running sequences hold of the KV cache, in tokens. e.mu is held.
func (e *engine) held() (tokens int) {
	for _, q := range e.running {
		tokens += q.held()
	}
	return tokens
}

// end hands out the tokens of a step.
func (e *engine) end(took time.Duration) error {
	e.mu.Lock()
	defer e.mu.Unlock()
	e.busy += took
	if e.fail.Kind == DieMidStream && slices.ContainsFunc(e.running, func(q *sequence) bool { return q.generated >= e.fail.Tokens }) {
		return errDied
	}
	e.running = slices.DeleteFunc(e.running, func(q *sequence) bool {
		if q.generated == 0 {
			e.counts.promptTokens.Add(float64(q.prompt))
			e.counts.firstToken.Observe(time.Since(q.arrived).Seconds())
		}
		q.generated++
		if !q.pooled {
			e.counts.generatedTokens.Inc()
		}
		q.tokens <- struct{}{}
		if q.generated < q.want {
			return false
		}
		e.counts.finished.WithLabelValues(q.finish).Inc()
		return true
	})
	return nil
}

// die leaves an engine that answers nobody any more in a server that goes on. e.mu is held.
func (e *engine) die() {
	e.dead = true
	for _, q := range slices.Concat(e.running, e.waiting) {
		close(q.tokens)
	}
	e.running, e.waiting = nil, nil
	e.out.Println("torch.AcceleratorError: CUDA error: an illegal memory access was encountered")
}

// health is the error of vLLM's health check: one that sleeps is healthy.
func (e *engine) health() error {
	e.mu.Lock()
	defer e.mu.Unlock()
	if e.dead {
		return &refusal{http.StatusServiceUnavailable, errEngineDead.message}
	}
	return nil
}
