// Package advise says what a model's demand would cost in three ways: always on, put to sleep when idle, and on a serverless platform that charges by the
// second. It counts exactly on what was recorded, and says where the best way changes. It reads no files.
//
// How it counts. A model needs as many replicas at a time as have slots for what is in flight. The first replica is in use when anything is in flight, the
// second when that is more than one has slots for, and so on: each has times of use, and gaps. Whoever keeps an idle replica for K pays
// the uses, min(gap, K) of each gap, and a load for each gap that is longer: what would have been paid, not a model of it.
package advise

import (
	"cmp"
	"math"
	"math/rand/v2"
	"slices"
	"time"
)

// Use is a time in which a model was asked for so many requests, spread over it.
type Use struct {
	At, Took time.Duration
	Requests int64
	Each     time.Duration // how long one is served
}

// span is a time in which a replica is in use.
type span struct{ begin, end time.Duration }

// change is a moment at which more, or less, is in flight.
type change struct {
	at   time.Duration
	more float64
}

// certain is how many requests must come within a time for it to be certain that one does: the chance that none of them comes is e to the minus that.
const certain = 8

// changes are when what is in flight changes. Requests that come so often that no gap between them can be as long as keep are in flight as many at a
// time as they are on average, and twice the root of that more, which is the usual safety for random arrivals (Halfin and Whitt, 1981). Others are
// spread at random over their time, always in the same way.
func changes(uses []Use, keep time.Duration) (all []change) {
	for i, u := range uses {
		if u.Requests <= 0 {
			continue
		}
		if u.Took <= 0 || u.Requests == 1 {
			all = append(all, change{u.At, float64(u.Requests)}, change{u.At + u.Each, -float64(u.Requests)})
			continue
		}
		perSecond := float64(u.Requests) / u.Took.Seconds()
		if perSecond*(keep+u.Each).Seconds() >= certain {
			many := perSecond * u.Each.Seconds()
			many += 2 * math.Sqrt(many)
			all = append(all, change{u.At, many}, change{u.At + u.Took + u.Each, -many})
			continue
		}
		random := rand.New(rand.NewPCG(uint64(u.At), uint64(i)))
		at, end := u.At, u.At+u.Took
		for left := u.Requests; left > 0; left-- {
			at += time.Duration(float64(end-at) * (1 - math.Pow(random.Float64(), 1/float64(left))))
			all = append(all, change{at, 1}, change{at + u.Each, -1})
		}
	}
	slices.SortFunc(all, func(a, b change) int { return cmp.Or(cmp.Compare(a.at, b.at), cmp.Compare(b.more, a.more)) })
	return all
}

// maxReplicas bounds what is told apart.
const maxReplicas = 10_000

// replicas are the times in which each replica is in use, in order: those of the first, of the second and so on. Times end with the recording.
func replicas(all []change, slots int, length time.Duration) (levels [][]span) {
	var since []time.Duration // of the replicas that are in use
	inFlight := 0.0
	for i, c := range all {
		inFlight += c.more
		if i+1 < len(all) && all[i+1].at == c.at {
			continue
		}
		need := needed(inFlight, slots)
		for len(since) > need {
			last := len(since) - 1
			if s := (span{since[last], min(c.at, length)}); s.end > s.begin {
				levels[last] = append(levels[last], s)
			}
			since = since[:last]
		}
		for len(since) < need {
			if len(levels) == len(since) {
				levels = append(levels, nil)
			}
			since = append(since, c.at)
		}
	}
	return levels
}

// needed is how many replicas have slots for what is in flight. Sums of what came and went are off by a little.
func needed(inFlight float64, slots int) int {
	const little = 1e-6
	if inFlight < little {
		return 0
	}
	return int(min(math.Ceil(inFlight/float64(slots)-little), maxReplicas))
}
