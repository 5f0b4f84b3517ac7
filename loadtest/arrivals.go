package loadtest

import (
	"encoding"
	"fmt"
	"iter"
	"math"
	"math/rand/v2"
	"strconv"
	"strings"
	"time"
)

// Rate is how many requests begin in a second: always From, or on a straight line from From to To over the time of the load.
type Rate struct{ From, To float64 }

var _ encoding.TextUnmarshaler = (*Rate)(nil)

// UnmarshalText reads 20, 0.5 or 1..200.
func (r *Rate) UnmarshalText(text []byte) error {
	from, to, ramp := strings.Cut(string(text), "..")
	if !ramp {
		to = from
	}
	var err error
	if r.From, err = strconv.ParseFloat(from, 64); err == nil {
		r.To, err = strconv.ParseFloat(to, 64)
	}
	const most = 1e6
	if err != nil || !(min(r.From, r.To) >= 0 && max(r.From, r.To) > 0 && max(r.From, r.To) <= most) {
		return fmt.Errorf("%q is no rate: say 20 or 0.5 for so many requests a second, or 1..200 for a ramp", text)
	}
	return nil
}

// String is what UnmarshalText reads.
func (r Rate) String() string {
	if r.From == r.To {
		return fmt.Sprint(r.From)
	}
	return fmt.Sprintf("%v..%v", r.From, r.To)
}

// expected is how many arrivals there are until t, on the way to the end of a load that takes whole.
func (r Rate) expected(t, whole float64) float64 { return r.From*t + (r.To-r.From)*t*t/(2*whole) }

// at is when n arrivals are expected: the inverse of expected. Not a number: never.
func (r Rate) at(n, whole float64) float64 {
	slope := (r.To - r.From) / whole
	if math.Abs(slope) < 1e-12 {
		return n / r.From
	}
	return (math.Sqrt(r.From*r.From+2*slope*n) - r.From) / slope
}

// Constant are arrivals as evenly spaced as the rate has it, until whole has passed.
func Constant(r Rate, whole time.Duration) iter.Seq[time.Duration] {
	return r.arrivals(whole, func() float64 { return 1 })
}

// Poisson are arrivals of many clients who know nothing of one another: the gaps are exponential. The same seed gives the same
// arrivals.
func Poisson(r Rate, whole time.Duration, seed uint64) iter.Seq[time.Duration] {
	return func(yield func(time.Duration) bool) {
		r.arrivals(whole, rand.New(rand.NewPCG(seed, 'p')).ExpFloat64)(yield)
	}
}

// arrivals maps a process of rate 1, of which step gives the gaps, to the rate: the n-th arrives when n are expected.
func (r Rate) arrivals(whole time.Duration, step func() float64) iter.Seq[time.Duration] {
	seconds := whole.Seconds()
	return func(yield func(time.Duration) bool) {
		for n := step(); n <= r.expected(seconds, seconds); n += step() {
			at := time.Duration(r.at(n, seconds) * float64(time.Second))
			if at >= whole || !yield(at) {
				return
			}
		}
	}
}

// Zipf draws numbers from 0 to n-1: the k-th as often as 1/(k+1)^s. With s = 0 all are drawn alike.
type Zipf struct{ sums []float64 }

// NewZipf needs n > 0 and s >= 0.
func NewZipf(n int, s float64) Zipf {
	z, sum := Zipf{make([]float64, n)}, 0.0
	for k := range z.sums {
		sum += math.Pow(float64(k+1), -s)
		z.sums[k] = sum
	}
	return z
}

// Draw maps u, from 0 to less than 1, to a number: the same to the same.
func (z Zipf) Draw(u float64) int {
	u *= z.sums[len(z.sums)-1]
	low, high := 0, len(z.sums)-1
	for low < high {
		if middle := (low + high) / 2; z.sums[middle] > u {
			high = middle
		} else {
			low = middle + 1
		}
	}
	return low
}
