package modelsim

import "time"

// Cost is how long a step of an engine takes: so much for itself, and so much for what it does.
type Cost struct {
	Step     time.Duration // reading the model's weights, whoever takes part
	Sequence time.Duration // for each sequence that takes part
	Prompt   time.Duration // for each token of a prompt
	Context  float64       // nanoseconds for each token that came before
}

// Part is what one sequence does in a step.
type Part struct{ Prompt, Context int }

// Of is how long a step of these parts takes. Nobody takes no time.
func (c Cost) Of(parts []Part) (took time.Duration) {
	if len(parts) == 0 {
		return 0
	}
	took = c.Step
	for _, p := range parts {
		took += c.own(p)
	}
	return took
}

// Shares are the parts' Shapley values in Of, in nanoseconds: what each adds to the step, as the mean over all orders in which they could have come. Only the
// step itself is shared, so that this is an equal part of it and what the part costs itself.
func (c Cost) Shares(parts []Part) []float64 {
	shares := make([]float64, len(parts))
	for i, p := range parts {
		shares[i] = float64(c.Step)/float64(len(parts)) + float64(c.own(p))
	}
	return shares
}

func (c Cost) own(p Part) time.Duration {
	return c.Sequence + time.Duration(p.Prompt)*c.Prompt + time.Duration(float64(p.Context)*c.Context)
}
