package simulate

import (
	"cmp"
	"math"
	"slices"
)

// Point is what one setting of a policy costs: cold starts, and hours of waste.
type Point struct{ Starts, Waste float64 }

// Point is where the result is on a frontier.
func (r *Result) Point() Point { return Point{float64(r.Starts), r.Waste().Hours()} }

// Frontier are the points of which none is better both ways, by cold starts.
func Frontier(points []Point) (best []Point) {
	sorted := slices.Clone(points)
	slices.SortFunc(sorted, func(a, b Point) int { return cmp.Or(cmp.Compare(a.Starts, b.Starts), cmp.Compare(a.Waste, b.Waste)) })
	for _, p := range sorted {
		if len(best) == 0 || p.Waste < best[len(best)-1].Waste {
			best = append(best, p)
		}
	}
	return best
}

// WasteAt is what a frontier costs in waste at so many cold starts, linear in their logarithm between two of its points. It says nothing of
// what is beyond its ends.
func WasteAt(frontier []Point, starts float64) (hours float64, ok bool) {
	for i, b := range frontier {
		if b.Starts == starts {
			return b.Waste, true
		}
		if i == 0 || b.Starts < starts {
			continue
		}
		a := frontier[i-1]
		if a.Starts >= starts {
			return 0, false
		}
		at := (math.Log(starts) - math.Log(max(a.Starts, 1))) / (math.Log(b.Starts) - math.Log(max(a.Starts, 1)))
		return a.Waste + min(max(at, 0), 1)*(b.Waste-a.Waste), true
	}
	return 0, false
}

// StartsAt is how many cold starts a frontier has at so much waste, between two of its points.
func StartsAt(frontier []Point, hours float64) (starts float64, ok bool) {
	for i, b := range frontier {
		if b.Waste == hours {
			return b.Starts, true
		}
		if i == 0 || b.Waste > hours {
			continue
		}
		a := frontier[i-1]
		if a.Waste <= hours {
			return 0, false
		}
		at := (a.Waste - hours) / (a.Waste - b.Waste)
		return math.Exp(math.Log(max(a.Starts, 1)) + at*(math.Log(max(b.Starts, 1))-math.Log(max(a.Starts, 1)))), true
	}
	return 0, false
}
