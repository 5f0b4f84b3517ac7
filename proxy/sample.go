package proxy

import (
	"math"
	"sync/atomic"

	"github.com/prometheus/client_golang/prometheus"

	"pilotlight/router"
)

// sample leaves lines out of the log, and knows how many. The zero sample leaves out none.
type sample struct {
	below   uint64        // IDs that are spread out below it have their line left out
	pending atomic.Uint64 // lines left out since one was written
	told    atomic.Uint64 // lines left out before that
}

// leaveOut has that part of the lines be left out of requests that went well, from 0 to 1.
func (s *sample) leaveOut(part float64, registry prometheus.Registerer) {
	if s.below = math.MaxUint64; part < 1 {
		s.below = uint64(math.Ldexp(part, 64))
	}
	registry.MustRegister(prometheus.NewCounterFunc(prometheus.CounterOpts{
		Name: "pilotlight_log_lines_left_out_total", Help: "Requests that went well and have no line in the log, as log.sample has it.",
	}, func() float64 { return float64(s.told.Load() + s.pending.Load()) }))
}

// goldenRatio spreads numbers that follow each other over all that there are: 2⁶⁴ over the golden ratio (Knuth, The Art of Computer Programming, volume 3, section 6.4).
const goldenRatio = 0x9E3779B97F4A7C15

// skips says whether the visit's line is left out, and counts it. What did not go well, or waited for a wake, always has one.
func (s *sample) skips(v *visit) bool {
	if v.Outcome != router.OK || v.Cold || v.Overflow || v.id*goldenRatio >= s.below {
		return false
	}
	s.pending.Add(1)
	return true
}

// rest is how many lines were left out since the last that was written, of which the next one tells.
func (s *sample) rest() uint64 {
	if s.pending.Load() == 0 {
		return 0
	}
	n := s.pending.Swap(0)
	s.told.Add(n)
	return n
}
