package router

import (
	"fmt"
	"math"
	"time"
)

// Explanation is what Pick and Place would make of a model's backends now, for a request of which nothing is known but its
// model. It is for people, and for machines as JSON.
type Explanation struct {
	Model   string    `json:"model"`
	At      time.Time `json:"at"`
	Policy  string    `json:"policy"`
	Weights Factors   `json:"weights"`
	Waiting int       `json:"waiting"` // in line; while anybody is, nobody is picked at once

	Picked  string `json:"picked,omitempty"` // backend; empty: none
	Rule    string `json:"rule"`             // by which it is, or why none is
	Placed  string `json:"placed,omitempty"` // the backend that would be woken if a request had to wait; empty: none
	NoPlace string `json:"no_place,omitempty"`

	Candidates []Verdict `json:"candidates"`
}

// Verdict is what the decisions make of one backend.
type Verdict struct {
	Backend  string `json:"backend"`
	Node     string `json:"node"`
	State    string `json:"state"`
	Tier     string `json:"tier"`
	InFlight int    `json:"in_flight"` // requests of ours
	Others   int    `json:"others"`    // requests in its engine that are not, as last read
	Slots    int    `json:"slots"`

	EngineAge float64 `json:"engine_age_ms"` // of what was last read of its engine; -1: nothing was
	GPUAge    float64 `json:"gpu_age_ms"`    // of what was last read of its GPUs; -1: nothing was
	Stale     bool    `json:"stale"`         // neither counts

	Factors *Factors `json:"factors,omitempty"` // nil: it cannot be picked
	Score   float64  `json:"score"`
	Lost    string   `json:"lost,omitempty"` // why it is not picked; empty: it is

	Wake *WakeVerdict `json:"wake,omitempty"` // nil: it is ready
}

// WakeVerdict is what a wake of the backend now would come to, in milliseconds.
type WakeVerdict struct {
	Left    float64 `json:"ready_in_ms"`
	Queue   float64 `json:"queue_ms"` // until wakes before it are done
	Evict   float64 `json:"evict_ms"` // until those have left who make room
	Wake    float64 `json:"wake_ms"`  // its own, as learned
	GPUs    []int   `json:"gpus,omitempty"`
	Victims int     `json:"victims"` // who would have to leave
	Lost    string  `json:"lost,omitempty"`
}

// Explain says how the model's next request would be decided.
func (r *Router) Explain(model string) (Explanation, bool) {
	m, ok := r.Model(model)
	if !ok {
		return Explanation{}, false
	}
	return m.line.explain(time.Now()), true
}

func (l *line) explain(now time.Time) Explanation {
	l.mu.Lock()
	defer l.mu.Unlock()
	ask := Ask{Routing: l.routing(), Turn: l.turn}
	w := &ask.Routing.Weights
	e := Explanation{
		Model: l.name, At: now, Policy: string(ask.Routing.Policy), Waiting: l.waiters.Len(), Candidates: []Verdict{},
		Weights: Factors{float64(w.Load), float64(w.Queue), float64(w.Cache), float64(w.Prompts), float64(w.GPU), float64(w.Memory), float64(w.Failures), float64(w.Prefix)},
	}
	picked, why := Pick(l.candidates, now, ask)
	if e.Rule = why.Rule; picked != nil {
		e.Picked = picked.ID
	}
	placed, placement := l.place(now)
	if e.NoPlace = placement.Why; placed != nil {
		e.Placed = placed.ID
	}
	f := newField(l.candidates, now, &ask)
	f.survey()
	for _, c := range l.candidates {
		v := f.verdict(c, picked, &why)
		if c.State != Ready {
			v.Wake = c.wakeVerdict(now, placed, placement)
		}
		e.Candidates = append(e.Candidates, v)
	}
	return e
}

// verdict is what becomes of one candidate where another is picked, or nil.
func (f *field) verdict(c, picked *Candidate, why *Why) Verdict {
	v := Verdict{
		Backend: c.ID, Node: c.Node, State: c.State.String(), Tier: c.Tier.String(), InFlight: c.InFlight, Others: c.Others, Slots: c.Slots,
		EngineAge: age(f.now, c.Reading.At), GPUAge: age(f.now, c.Strain.At), Stale: !f.isFresh(&c.Reading.At) && !f.isFresh(&c.Strain.At),
	}
	standing := c.standing(f.now, f.ask)
	if standing != out {
		v.Factors = &Factors{}
		f.score(c, v.Factors)
		v.Score = v.Factors.of(&f.ask.Routing.Weights)
	}
	switch {
	case c == picked:
	case c.State != Ready:
		v.Lost = "it is " + c.State.String()
	case standing == out:
		v.Lost = "all of its slots are taken"
	case c.Strain.Bad && standing > f.standing:
		v.Lost = "one of its GPUs is sick"
	case standing > f.standing:
		v.Lost = fmt.Sprintf("it broke %d requests in a row and comes last for another %s", c.Broke, c.Ejected.Sub(f.now).Round(time.Millisecond))
	case why.Rule == lowestScore:
		v.Lost = v.Factors.than(&why.Factors, f)
	default:
		v.Lost = "the policy chose another"
	}
	return v
}

// than says why a score is not lower than the winner's.
func (s *Factors) than(winner *Factors, f *field) string {
	w := &f.ask.Routing.Weights
	more := s.of(w) - winner.of(w)
	if more <= 0 {
		return "the same score; the first is picked"
	}
	names := [...]string{"load", "queue", "cache", "prompts", "gpu", "memory", "failures"}
	base := func(s *Factors) float64 {
		return 1 + s.Load*float64(w.Load) + s.Queue*float64(w.Queue) + s.Cache*float64(w.Cache) + s.Prompts*float64(w.Prompts)
	}
	parts := func(s *Factors) [7]float64 {
		return [...]float64{
			s.Load * float64(w.Load), s.Queue * float64(w.Queue), s.Cache * float64(w.Cache), s.Prompts * float64(w.Prompts), base(s) * s.GPU * float64(w.GPU),
			s.Memory * float64(w.Memory), s.Failures * float64(w.Failures),
		}
	}
	most, by := 0, math.Inf(-1)
	ours, theirs := parts(s), parts(winner)
	for i := range ours {
		if d := ours[i] - theirs[i]; d > by {
			most, by = i, d
		}
	}
	return fmt.Sprintf("its score is higher by %.3f, most of it for %s", more, names[most])
}

// wakeVerdict is what a wake of the candidate would come to.
func (c *Candidate) wakeVerdict(now time.Time, placed *Candidate, first Placement) *WakeVerdict {
	p := c.placement(now)
	v := &WakeVerdict{
		Left: ms(p.Left), Queue: ms(p.Queue), Evict: ms(p.Evict), Wake: ms(p.Wake), GPUs: p.Fit.GPUs.indices(), Victims: p.Fit.Victims, Lost: p.Why,
	}
	switch {
	case p.Why != "" || c == placed || placed == nil:
	case p.Left > near(first.Left):
		v.Lost = fmt.Sprintf("it would be ready %s later", (p.Left - first.Left).Round(time.Millisecond))
	default:
		v.Lost = "about as soon, on a node with more of the model's backends awake, or with more who must leave"
	}
	return v
}

// age is in milliseconds; -1 where there is nothing that could have one.
func age(now, at time.Time) float64 {
	if at.IsZero() {
		return -1
	}
	return ms(now.Sub(at))
}

func ms(d time.Duration) float64 { return float64(d.Microseconds()) / 1000 }
