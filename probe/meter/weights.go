package meter

import (
	"math"
	"time"
)

// Weights say what a backend's work costs, in nanoseconds of its GPUs.
type Weights struct {
	Step    float64 // of an engine step, whoever takes part in it: reading the weights of the model
	Prompt  float64 // of a token of a prompt
	Token   float64 // of a token that is made, beside its step
	Context float64 // of a token that came before one that is made
}

// Typical is what is assumed of a backend before anything was learned: a round guess for models of some billion parameters. Only the ratios matter for shares.
func Typical() Weights { return Weights{Step: 1e7, Prompt: 2e4, Token: 1e5} }

// of is the cost of what each request did. A step's own cost is divided among those that took part.
func (w Weights) of(did []work) []float64 {
	all := together(did)
	took := 0.0
	for _, d := range did {
		took += d.steps
	}
	cost := make([]float64, len(did))
	for i, d := range did {
		cost[i] = w.Prompt*d.prompt + w.Token*d.tokens + w.Context*d.context
		if took > 0 {
			cost[i] += w.Step * all[0] * d.steps / took
		}
	}
	return cost
}

// together is what a window's requests did, in the order of Weights' fields. The engine made as many steps as whoever made most of them.
func together(did []work) (x [4]float64) {
	chunks := 0.0
	for _, d := range did {
		x[0] = max(x[0], d.tokens)
		x[1] += d.prompt
		x[2] += d.tokens
		x[3] += d.context
		chunks += d.steps - d.tokens
	}
	x[0] = max(x[0], chunks)
	return x
}

// memory is how many windows it takes until one counts e times less. With samples every sixth of a second that is ten minutes.
const memory = 3600

// enough is how many windows have to be seen before what was learned replaces Typical.
const enough = 60

// Learner fits a backend's weights to its windows by least squares, none of them below zero, and forgets slowly. The zero value has learned nothing.
type Learner struct {
	seen    int
	gram    [4][4]float64 // Σ x xᵀ, by time faded
	moment  [4]float64    // Σ x busy
	squares float64       // Σ busy²
	weights [4]float64
}

// Weights are the best that are known.
func (l *Learner) Weights() Weights {
	if l.seen < enough {
		return Typical()
	}
	return Weights{Step: l.weights[0], Prompt: l.weights[1], Token: l.weights[2], Context: l.weights[3]}
}

// Residual is how much of the busy time the weights do not explain: the root of the mean square, as a share of the busy time's. 1 before anything was learned.
func (l *Learner) Residual() float64 {
	if l.seen < enough || l.squares == 0 {
		return 1
	}
	r := l.squares
	for i := range l.weights {
		r -= 2 * l.weights[i] * l.moment[i]
		for j := range l.weights {
			r += l.weights[i] * l.weights[j] * l.gram[i][j]
		}
	}
	return math.Sqrt(max(r, 0) / l.squares)
}

// Learn takes a window into account. It teaches nothing if nobody did anything in it, or if somebody's answer did not stream: what that did, and when, was
// guessed from these very weights. The arguments are those of Split.
func (l *Learner) Learn(w Window, requests []Request, known time.Time) {
	did := make([]work, len(requests))
	for i := range requests {
		did[i] = requests[i].in(w, known, l.Weights())
		if did[i].inFlight > 0 && requests[i].Whole {
			return
		}
	}
	x := together(did)
	if x[0] <= 0 && x[1] <= 0 {
		return
	}
	busy, keep := float64(w.Busy), 1-1.0/memory
	for i := range x {
		for j := range x {
			l.gram[i][j] = keep*l.gram[i][j] + x[i]*x[j]
		}
		l.moment[i] = keep*l.moment[i] + x[i]*busy
	}
	l.squares = keep*l.squares + busy*busy
	l.seen++
	l.fit()
}

// fit improves the weights one after another, as far as each goes without falling below zero, which ends at the least squares. What a few sweeps leave is
// done with the next windows.
func (l *Learner) fit() {
	for range 100 {
		for i := range l.weights {
			if l.gram[i][i] == 0 {
				continue
			}
			slope := l.moment[i]
			for j := range l.weights {
				if j != i {
					slope -= l.gram[i][j] * l.weights[j]
				}
			}
			l.weights[i] = max(slope/l.gram[i][i], 0)
		}
	}
}
