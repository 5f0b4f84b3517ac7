package router

import (
	"math"
	"time"

	"pilotlight/config"
)

// Ask is what Pick is told of a request, and of how its model wants it picked.
type Ask struct {
	Routing config.Routing
	Tried   Tried
	Near    *Candidate // that was sent a prompt which began the same; nil: none
	Turn    uint64     // another one for each request of the model: policies that take turns or draw lots go by it
}

// Why says what a decision was made by, for people.
type Why struct {
	Rule    string  `json:"rule"`
	Score   float64 `json:"score"` // lower is better
	Factors Factors `json:"factors,omitzero"`
}

// Factors are what a score is made of, before they are weighted. config.Weights says what each means.
type Factors struct {
	Load     float64 `json:"load"`
	Queue    float64 `json:"queue"`
	Cache    float64 `json:"cache"`
	Prompts  float64 `json:"prompts"`
	GPU      float64 `json:"gpu"`
	Memory   float64 `json:"memory"`
	Failures float64 `json:"failures"`
	Prefix   float64 `json:"prefix"`
}

// Pick says which candidate serves a request: a ready one with a free slot. Ejected ones and those on sick GPUs come last, those
// that were tried before even later, but they come. Among equals in that the model's policy decides; equal scores go to the
// first, so that the others can idle and sleep. It gives nil where no slot is free.
func Pick(candidates []*Candidate, now time.Time, ask Ask) (*Candidate, Why) {
	f := newField(candidates, now, &ask)
	if ask.Routing.Policy == config.Scored {
		return f.best()
	}
	if f.survey(); f.n == 0 {
		return nil, Why{Rule: nobodyFree}
	}
	switch ask.Routing.Policy {
	case config.RoundRobin:
		return f.nth(int(ask.Turn % uint64(f.n))), Why{Rule: "its turn"}
	case config.Random:
		return f.nth(int(lot(ask.Turn) % uint64(f.n))), Why{Rule: "drawn"}
	case config.PowerOfTwo:
		return f.lessOfTwo(lot(ask.Turn)), Why{Rule: "less busy of two"}
	case config.LeastConnections, config.Scored:
	}
	return f.least(), Why{Rule: "fewest requests"}
}

// The rules of the policy scored.
const (
	nobodyFree  = "no free slot"
	lowestScore = "lowest score"
)

// field is the candidates from which one is picked: those of the best standing that there is.
type field struct {
	of       []*Candidate
	now      time.Time
	ask      *Ask
	from     int64 // readings from before do not count; nanoseconds since 1970
	standing standing
	n        int // that have it
	busy     int // requests in flight on them
	slots    int // that they have
}

// newField is a field of nobody yet.
func newField(candidates []*Candidate, now time.Time, ask *Ask) field {
	return field{of: candidates, now: now, ask: ask, from: now.Add(-ask.Routing.ReadingAge.Std()).UnixNano(), standing: out}
}

// standing is what comes before any score.
type standing uint8

const (
	good standing = iota
	bad           // ejected, or on a sick GPU
	tried
	triedBad
	out // not ready, or without a free slot
)

// standing is that of a candidate for a request.
func (c *Candidate) standing(now time.Time, ask *Ask) standing {
	if c.State != Ready || c.InFlight >= c.limit() {
		return out
	}
	s := good
	if c.Strain.Bad || !c.Ejected.IsZero() && c.Ejected.After(now) {
		s = bad
	}
	if ask.Tried[0] != "" && (c.ID == ask.Tried[0] || c.ID == ask.Tried[1]) {
		s += tried
	}
	return s
}

// survey finds the field.
func (f *field) survey() {
	for _, c := range f.of {
		f.add(c, c.standing(f.now, f.ask))
	}
}

// add counts a candidate if it is of the field, which those of a better standing begin anew. It says whether it is.
func (f *field) add(c *Candidate, s standing) bool {
	if s > f.standing || s == out {
		return false
	}
	if s < f.standing {
		f.standing, f.n, f.busy, f.slots = s, 0, 0, 0
	}
	f.n++
	f.busy += c.InFlight
	f.slots += c.Slots
	return true
}

// best is the candidate with the lowest score.
func (f *field) best() (*Candidate, Why) {
	var best, near *Candidate
	var lowest float64
	var factors Factors
	w := &f.ask.Routing.Weights
	for _, c := range f.of {
		if !f.add(c, c.standing(f.now, f.ask)) {
			continue
		}
		if f.n == 1 {
			best, near = nil, nil
		}
		if c == f.ask.Near {
			near = c
		}
		f.score(c, &factors)
		if s := factors.of(w); best == nil || s < lowest {
			best, lowest = c, s
		}
	}
	if best == nil {
		return nil, Why{Rule: nobodyFree}
	}
	if near != nil && f.roomy(near) {
		f.score(near, &factors)
		factors.Prefix = 1
		if s := factors.of(w); s < lowest {
			return near, Why{Rule: lowestScore, Score: s, Factors: factors}
		}
	}
	f.score(best, &factors)
	return best, Why{Rule: lowestScore, Score: lowest, Factors: factors}
}

// crowded is how much busier than the others a backend may be and still be preferred for what it has in its cache: bounded
// loads as in Mirrokni et al., "Consistent Hashing with Bounded Loads" (2016), with c = 1.25.
const crowded = 1.25

// failureMemory is how long a broken request counts.
const failureMemory = 10 * time.Second

// roomy says that a candidate is not much busier than the others. It is asked when all have been counted.
func (f *field) roomy(c *Candidate) bool {
	return float64(c.InFlight+1) <= math.Ceil(crowded*float64(f.busy+1)*float64(c.Slots)/float64(f.slots))
}

// isFresh says that something was seen lately enough to count.
func (f *field) isFresh(at *time.Time) bool { return at.UnixNano() > f.from }

// score is what speaks against a candidate. Readings that are too old do not. What speaks for it, its prefix, is best's to say.
func (f *field) score(c *Candidate, s *Factors) {
	*s = Factors{}
	share := 1 / float64(c.Slots)
	busy := c.InFlight + 1
	if f.isFresh(&c.Reading.At) {
		busy += c.Others
		s.Queue = float64(max(c.Reading.Waiting, 0)) * share
		if c.Reading.KVCache > 0 {
			s.Cache = c.Reading.KVCache
		}
	}
	s.Load, s.Prompts = float64(busy)*share, float64(c.Opening)
	if f.isFresh(&c.Strain.At) {
		s.GPU, s.Memory = c.Strain.Slow, c.Strain.Used
	}
	if c.Broke > 0 {
		if rest := failureMemory - f.now.Sub(c.LastBad); rest > 0 {
			s.Failures = float64(min(c.Broke, brokenToEject)) / brokenToEject * (float64(rest) / float64(failureMemory))
		}
	}
}

// of is the score with these weights: how long the request would take, in terms of what it takes on an idle backend, and what else
// speaks for or against it.
func (s *Factors) of(w *config.Weights) float64 {
	return (1+s.Load*float64(w.Load)+s.Queue*float64(w.Queue)+s.Cache*float64(w.Cache)+s.Prompts*float64(w.Prompts))*(1+s.GPU*float64(w.GPU)) +
		s.Memory*float64(w.Memory) + s.Failures*float64(w.Failures) - s.Prefix*float64(w.Prefix)
}

// nth is the candidate of the field at a place, counted from 0.
func (f *field) nth(n int) *Candidate {
	for _, c := range f.of {
		if c.standing(f.now, f.ask) == f.standing {
			if n == 0 {
				return c
			}
			n--
		}
	}
	panic("BUG: the field has fewer candidates than were counted")
}

// least is the candidate with the fewest requests of ours.
func (f *field) least() (least *Candidate) {
	for _, c := range f.of {
		if c.standing(f.now, f.ask) == f.standing && (least == nil || c.InFlight < least.InFlight) {
			least = c
		}
	}
	return least
}

// lessOfTwo is the one with fewer requests of two different ones that a lot names.
func (f *field) lessOfTwo(lot uint64) *Candidate {
	first := int(lot % uint64(f.n))
	a := f.nth(first)
	if f.n == 1 {
		return a
	}
	b := f.nth((first + 1 + int(lot>>32%uint64(f.n-1))) % f.n)
	if b.InFlight < a.InFlight {
		return b
	}
	return a
}

// lot is a number that looks random, the same for the same turn: SplitMix64 (Steele, Lea, Flood 2014).
func lot(turn uint64) uint64 {
	z := (turn + 1) * 0x9e3779b97f4a7c15
	z = (z ^ z>>30) * 0xbf58476d1ce4e5b9
	z = (z ^ z>>27) * 0x94d049bb133111eb
	return z ^ z>>31
}
