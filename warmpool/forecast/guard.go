package forecast

import "math"

// levels are the worths, in minutes of idle memory per cold start, at which the learned forecast is compared with the plain one.
var levels = [...]float64{4, 15, 60, 240, 960}

const (
	enough = 15  // arrivals before a comparison counts
	worse  = 1.1 // by how much the learned forecast may cost more
)

// guard compares what decisions by the learned forecast would have cost of late with what keeping for a fixed time would have: minutes of idle
// memory, and a level for each cold start.
type guard struct {
	learned, plain [len(levels)]float32
	arrivals       float32
}

// add takes in a minute of idle age for which a chance was forecast before it was known whether somebody came. It stands for so many such minutes.
func (g *guard) add(chance float64, age int64, came bool, minutes float64) {
	for i, level := range levels {
		g.learned[i] += cost(chance*level > 1, level, came, minutes)
		g.plain[i] += cost(float64(age+1) < level, level, came, minutes)
	}
	if came {
		g.arrivals += float32(minutes)
	}
}

func cost(kept bool, level float64, came bool, minutes float64) float32 {
	switch {
	case kept:
		return float32(minutes)
	case came:
		return float32(level * minutes)
	}
	return 0
}

// fade makes what was compared before count less: by a tenth with each day's refit, and by half with those of the first hours, after which
// much more is known.
func (g *guard) fade(passed int64) {
	by := float32(0.9)
	if passed < laterRefit*3/4 {
		by = 0.5
	}
	for i := range levels {
		g.learned[i] *= by
		g.plain[i] *= by
	}
	g.arrivals *= by
}

// plus is what two have seen.
func (g guard) plus(other *guard) guard {
	for i := range levels {
		g.learned[i] += other.learned[i]
		g.plain[i] += other.plain[i]
	}
	g.arrivals += other.arrivals
	return g
}

// fails says whether the plain forecast was better where a cold start is worth so many minutes.
func (g *guard) fails(worth float64) bool {
	if g.arrivals < enough {
		return false
	}
	near := 0
	for i, level := range levels {
		if math.Abs(math.Log(level/worth)) < math.Abs(math.Log(levels[near]/worth)) {
			near = i
		}
	}
	return g.learned[near] > worse*g.plain[near]
}
