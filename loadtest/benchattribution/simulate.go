package main

import (
	"math"
	"math/rand/v2"
	"time"

	"pilotlight/loadtest/modelsim"
	"pilotlight/probe/meter"
)

// What engine and model are like: 8 billion parameters on a large GPU, prompts read in pieces of 512 tokens, 64 sequences at once.
const (
	batch = 64
	chunk = 512
)

func cost() modelsim.Cost {
	return modelsim.Cost{Step: 7500 * time.Microsecond, Sequence: 32 * time.Microsecond, Prompt: 32 * time.Microsecond, Context: 55}
}

// sequence is a request, and what is true of it.
type sequence struct {
	meter.Request
	want, read, made int
	truth            float64 // nanoseconds of the GPU
}

// step is a time in which the GPU was busy.
type step struct{ from, to time.Time }

// arrivals are requests that come at random at a rate per second. A quarter of them have prompts eight times as long, and short answers.
func arrivals(rate float64, long time.Duration, rng *rand.Rand) (line []*sequence) {
	start := time.Unix(0, 0)
	for t := time.Duration(0); ; {
		t += time.Duration(rng.ExpFloat64() / rate * float64(time.Second))
		if t > long {
			return line
		}
		prompt := min(max(int(math.Exp(5.6+1.0*rng.NormFloat64())), 4), 32000)
		want := min(max(int(math.Exp(4.8+0.8*rng.NormFloat64())), 1), 4000)
		if rng.IntN(4) == 0 {
			prompt, want = min(prompt*8, 32000), max(want/8, 1)
		}
		q := &sequence{want: want}
		q.ID, q.Began, q.Prompt = uint64(len(line)), start.Add(t), prompt
		line = append(line, q)
	}
}

// simulate has an engine answer all of the line, by continuous batching with chunked prefill, and returns its steps.
func simulate(line []*sequence) (steps []step) {
	now := time.Unix(0, 0)
	var running []*sequence
	for len(line) > 0 || len(running) > 0 {
		if len(running) == 0 && line[0].Began.After(now) {
			now = line[0].Began
		}
		for len(line) > 0 && len(running) < batch && !line[0].Began.After(now) {
			running, line = append(running, line[0]), line[1:]
		}
		who, parts := plan(running)
		shares := cost().Shares(parts)
		from := now
		now = now.Add(cost().Of(parts))
		steps = append(steps, step{from, now})
		for i, q := range who {
			q.truth += shares[i]
			q.did(parts[i], now)
		}
		kept := running[:0]
		for _, q := range running {
			if q.Ended.IsZero() {
				kept = append(kept, q)
			}
		}
		running = kept
	}
	return steps
}

// plan is who takes part in the next step: those that make tokens, then prompts as far as a chunk goes.
func plan(running []*sequence) (who []*sequence, parts []modelsim.Part) {
	left := chunk
	for _, q := range running {
		if q.read == q.Prompt && left > 0 {
			who, parts = append(who, q), append(parts, modelsim.Part{Context: q.Prompt + q.made})
			left--
		}
	}
	for _, q := range running {
		if n := min(left, q.Prompt-q.read); n > 0 {
			who, parts = append(who, q), append(parts, modelsim.Part{Prompt: n, Context: q.read})
			left -= n
		}
	}
	return who, parts
}

// did takes note of a step that is over. The last piece of a prompt makes the first token.
func (q *sequence) did(p modelsim.Part, now time.Time) {
	q.read += p.Prompt
	if q.read < q.Prompt {
		return
	}
	if q.First.IsZero() {
		q.First = now
	}
	q.made++
	q.Ticks = append(q.Ticks, meter.Progress{At: now, Tokens: q.made})
	if q.made == q.want {
		q.Ended = now
	}
}

// windows are what NVML would have shown of the steps: whole percent, every sixth of a second by default.
func windows(steps []step, every time.Duration) (ws []meter.Window) {
	end := steps[len(steps)-1].to
	for from := time.Unix(0, 0); from.Before(end); from = from.Add(every) {
		w := meter.Window{From: from, To: from.Add(every)}
		for len(steps) > 0 && steps[0].from.Before(w.To) {
			a, b := steps[0].from, steps[0].to
			if a.Before(w.From) {
				a = w.From
			}
			if b.After(w.To) {
				w.Busy += w.To.Sub(a)
				break
			}
			w.Busy += b.Sub(a)
			steps = steps[1:]
		}
		w.Busy = time.Duration(math.Round(100*float64(w.Busy)/float64(every))) * every / 100
		ws = append(ws, w)
	}
	return ws
}
