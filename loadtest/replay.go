package loadtest

import (
	"cmp"
	"errors"
	"fmt"
	"hash/fnv"
	"iter"
	"math/rand/v2"
	"slices"
	"time"

	"pilotlight/loadtest/trace"
)

// Replay is how a recording is sent again.
type Replay struct {
	Speed     float64       // how many times as fast as it was recorded
	From      time.Duration // what was recorded earlier is not sent
	Clients   int           // only the busiest so many; 0: all
	Models    []string      // what is asked for instead of what was; none: what was
	Zipf      float64       // how much more popular earlier models are
	Prompt    int           // tokens, where the recording does not say
	Answer    int           // the same
	MaxPrompt int           // longer prompts are cut off; 0: none is
	Seed      uint64
}

// Requests are the recorded ones. All requests of a client, and in Mooncake's all of a conversation, are for the same model.
func (o Replay) Requests(t *trace.Trace) (iter.Seq[Request], error) {
	only, err := o.only(t)
	if err != nil {
		return nil, err
	}
	popular := NewZipf(max(len(o.Models), 1), o.Zipf)
	return func(yield func(Request) bool) {
		random := rand.New(rand.NewPCG(o.Seed, 't'))
		for a := range t.Arrivals() {
			seed, own := random.Uint64(), random.Float64()
			if a.At < o.From || only != nil && !only[a.Client] {
				continue
			}
			r := Request{
				At: time.Duration(float64(a.At-o.From) / o.Speed), Model: a.Model, Prompt: max(1, cmp.Or(a.Prompt, o.Prompt)),
				Answer: cmp.Or(a.Answer, o.Answer), Blocks: a.Blocks, Seed: seed,
			}
			if o.MaxPrompt > 0 {
				r.Prompt = min(r.Prompt, o.MaxPrompt)
			}
			if len(o.Models) > 0 {
				r.Model = o.Models[popular.Draw(o.share(a, own))]
			}
			if !yield(r) {
				return
			}
		}
	}, nil
}

func (o Replay) only(t *trace.Trace) (map[string]bool, error) {
	switch {
	case !(o.Speed > 0):
		return nil, fmt.Errorf("a speed of %v does not lead anywhere: it must be more than 0", o.Speed)
	case o.From < 0 || o.From > t.Length:
		return nil, fmt.Errorf("the recording is %v long: there is nothing at %v", t.Length, o.From)
	case len(o.Models) == 0 && !t.Named:
		return nil, errors.New("the recording does not say which models were asked for: name some")
	case o.Clients == 0:
		return nil, nil //nolint:nilnil // all
	case o.Clients < 0 || len(t.Clients) == 0:
		return nil, fmt.Errorf("the recording does not say who asked, so there is no choosing %d clients", o.Clients)
	}
	only := map[string]bool{}
	for _, name := range slices.Clone(t.Clients[:min(o.Clients, len(t.Clients))]) {
		only[name] = true
	}
	return only, nil
}

// share is where in the line of models a request belongs, from 0 to 1: the same for all that belong together, else its own.
func (o Replay) share(a trace.Arrival, own float64) float64 {
	name := fnv.New64a()
	switch {
	case a.Model != "":
		fmt.Fprint(name, a.Model)
	case a.Client != "":
		fmt.Fprint(name, a.Client)
	case len(a.Blocks) > 0:
		fmt.Fprint(name, a.Blocks[min(1, len(a.Blocks)-1)]) // the first block is often that of all: the system's prompt
	default:
		return own
	}
	return rand.New(rand.NewPCG(o.Seed, name.Sum64())).Float64()
}
