package policy

import "time"

// Ranker is a policy that can say what memory is worth where there is not enough of it for all.
type Ranker interface {
	Policy
	// Worth is that of keeping an idle model where it is. What is worth the least goes first; values of the same Now compare.
	Worth(h Holding) float64
	// Evicted says that a model had to go, which was worth so much: to the host's memory, or to disk.
	Evicted(h Holding, worth float64, toDisk bool)
}

// Foresighted is a Ranker whose worths are of the time to come, so that models may be loaded for them before somebody asks.
type Foresighted interface {
	Ranker
	Ahead() bool
}

// Holding is the memory that an idle model holds.
type Holding struct {
	Model  string
	Now    time.Time
	Idle   time.Time     // since when
	Asleep bool          // it is the host's memory, not that of a GPU
	Size   int64         // bytes
	Miss   time.Duration // how much longer its next wake takes if it must go
}

// lru keeps everything for as long as there is memory; then those that were used least recently go first.
type lru struct{}

func newLRU(*settings) Policy { return lru{} }

func (lru) Arrived(string, time.Time, int) {}
func (lru) Ended(string, time.Time)        {}
func (lru) Day(time.Time)                  {}
func (lru) Evicted(Holding, float64, bool) {}
func (lru) Worth(h Holding) float64        { return -h.Now.Sub(h.Idle).Seconds() }
func (lru) Decide(q Question) Decision     { return kept(q) }

// kept leaves a model where it is.
func kept(q Question) Decision {
	if q.Idle.IsZero() {
		return Decision{Chance: -1, Why: "it was never used"}
	}
	return Decision{Warm: q.Warm, Chance: -1, Why: "it stays until its memory is needed"}
}

// gdsf is greedy dual size frequency, as FaasCache has it (Fuerst and Sharma, ASPLOS 2021): a clock, plus how often the model was used times what a miss
// costs by its size. The clock, one for GPUs and one for the host's memory, moves to the worth of what was evicted last, so that what was used much and
// long ago goes in the end. What is in no memory any more has lost its count.
type gdsf struct {
	clocks clocks
	models map[string]*often
}

// clocks are that of GPUs and that of the host's memory.
type clocks [2]float64

func (h Holding) tier() int {
	if h.Asleep {
		return 1
	}
	return 0
}

type often struct {
	used   float64
	clocks clocks // when it was used last
}

func newGDSF(*settings) Policy { return &gdsf{models: map[string]*often{}} }

func (g *gdsf) Arrived(model string, _ time.Time, _ int) {
	m := g.models[model]
	if m == nil {
		m = &often{}
		g.models[model] = m
	}
	m.used++
	m.clocks = g.clocks
}

func (*gdsf) Ended(string, time.Time)    {}
func (*gdsf) Day(time.Time)              {}
func (*gdsf) Decide(q Question) Decision { return kept(q) }

// Worth is by gibibytes.
func (g *gdsf) Worth(h Holding) float64 {
	m := g.models[h.Model]
	if m == nil || h.Size <= 0 {
		return g.clocks[h.tier()]
	}
	return m.clocks[h.tier()] + m.used*h.Miss.Seconds()/(float64(h.Size)/(1<<30))
}

func (g *gdsf) Evicted(h Holding, worth float64, toDisk bool) {
	clock := &g.clocks[h.tier()]
	*clock = max(*clock, worth)
	if m := g.models[h.Model]; m != nil && toDisk {
		m.used = 0
	}
}
