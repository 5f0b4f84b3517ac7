package advise

import (
	"cmp"
	"math"
	"slices"
	"time"
)

// Flip is where scaling to zero stops being cheaper than always on. All are shares of the time; NaN where there is no such price, above 1 where
// scaling to zero is always cheaper.
type Flip struct {
	Way Way `json:"way"`
	// Price is how much of the time must be paid for so that both cost the same: the one price by the other. It is where the way changes for use in long
	// blocks, beside which windows and loads are nothing.
	Price float64 `json:"price"`
	// Steady is how much of the time one replica is in use there when requests come one by one at random (a Poisson process) and all are as long: the window
	// after each is paid for as well, so less use is enough.
	Steady float64 `json:"steady"`
	// Recorded is where it is among the replicas of the recording: the use that parts best those for which scaling to zero is cheaper from the others.
	// Parted is how many of them it puts on the right side.
	Recorded float64 `json:"recorded"`
	Parted   float64 `json:"parted"`
}

// Flips are those of the prices and of what was recorded, for requests of such a length, replicas that are kept awake for idle, and loads that take load.
func Flips(all []Advice, o Options, each, idle, load time.Duration) ([]Flip, error) {
	p, err := o.prices(1)
	if err != nil {
		return nil, err
	}
	var flips []Flip
	for _, way := range []struct {
		name  Way
		price float64
		keep  time.Duration
		of    func(Point) float64
	}{
		{Sleeping, p.paid, idle, func(x Point) float64 { return x.Sleeping }},
		{Serverless, p.there, p.server.Window.Std(), func(x Point) float64 { return x.Serverless }},
	} {
		if way.price == 0 {
			continue
		}
		f := Flip{Way: way.name, Price: p.on / way.price}
		f.Steady = steady(f.Price, each.Seconds(), way.keep.Seconds(), load.Seconds())
		f.Recorded, f.Parted = parted(all, way.of)
		flips = append(flips, f)
	}
	return flips, nil
}

// PaidShare is how much of the time a replica is paid for when requests that are served one at a time, for so many seconds each, come so often in a second at
// random: it is kept for so many seconds after the last, and a cold start takes load. In a cycle there is a busy time, which begins with a load where the
// gap before it was longer than keep, and a gap, of which keep at most is paid for.
func PaidShare(perSecond, each, keep, load float64) float64 {
	if perSecond*each >= 1 {
		return 1
	}
	cold := math.Exp(-perSecond * keep)
	busy := (each + cold*load) / (1 - perSecond*each)
	return (busy + (1-cold)/perSecond) / (busy + 1/perSecond)
}

// steady is the use at which so much of the time is paid for. More use is paid for more of the time.
func steady(share, each, keep, load float64) float64 {
	low, high := 1e-9, 1.0
	if share >= 1 {
		return math.Inf(1)
	}
	for range 100 {
		if mid := (low + high) / 2; PaidShare(mid/each, each, keep, load) < share {
			low = mid
		} else {
			high = mid
		}
	}
	return low
}

// parted is the use below which a way is cheaper than always on, for as many replicas as possible, and for what part of them that is so.
func parted(all []Advice, of func(Point) float64) (use, right float64) {
	var points []Point
	for i := range all {
		points = append(points, all[i].points...)
	}
	if len(points) == 0 {
		return math.NaN(), 0
	}
	slices.SortFunc(points, func(a, b Point) int { return cmp.Compare(a.Use, b.Use) })
	good := 0 // with the limit below all of them: every one of them is always on
	for _, p := range points {
		if of(p) >= 1 {
			good++
		}
	}
	best, at := good, 0
	for i, p := range points {
		if of(p) < 1 {
			good++
		} else {
			good--
		}
		if good > best {
			best, at = good, i+1
		}
	}
	right = float64(best) / float64(len(points))
	switch at {
	case 0:
		return 0, right
	case len(points):
		return math.Inf(1), right
	}
	return (points[at-1].Use + points[at].Use) / 2, right
}

// Points are all replicas of all models: what the picture shows.
func Points(all []Advice) (points []Point) {
	for i := range all {
		points = append(points, all[i].points...)
	}
	return points
}
