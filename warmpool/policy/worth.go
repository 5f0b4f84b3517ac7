package policy

import (
	"math"
	"time"
)

// worthSpans is how many spans of the time to come count, of 1, 2, 4 minutes and so on: about an hour.
const worthSpans = 6

// Worth is what a miss costs by size and by how far off it is to be expected: over spans of the time to come, the chance that it comes then, by how
// long that is from now. A clairvoyant would know the one time.
func (p *predictive) Worth(h Holding) float64 {
	if h.Size <= 0 {
		return 0
	}
	none, soon, from := 1.0, 0.0, time.Duration(0)
	for i := range worthSpans {
		length := time.Minute << i
		middle := from + length/2
		chance, _ := p.forecast.Minute(h.Model, h.Now.Add(middle-time.Minute/2), 0)
		left := none * math.Pow(1-chance, length.Minutes())
		soon += (none - left) / middle.Minutes()
		none, from = left, from+length
	}
	return soon * h.Miss.Seconds() / float64(h.Size)
}

// Evicted changes nothing: what was evicted is as likely to be asked for.
func (*predictive) Evicted(Holding, float64, bool) {}

// Ahead says that models may be loaded by it before somebody asks.
func (*predictive) Ahead() bool { return true }
