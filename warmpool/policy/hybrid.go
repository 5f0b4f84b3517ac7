package policy

import (
	"fmt"
	"math"
	"time"
)

// hybrid is the hybrid histogram policy of Shahrad et al., "Serverless in the Wild" (ATC 2020): from a histogram of a model's idle times it says when
// to make it warm again and for how long to keep it. The parameters are those that the authors published. Two things differ. Where most
// idle times are out of the histogram's range they fit an ARIMA model, here it is AR(1). And a model is made warm again so that its load ends, not
// begins, when their pre-warming window does: they take containers for ready at once.
type hybrid struct {
	bins   int // of a minute
	models map[string]*idles
}

// What the authors published.
const (
	hybridHead   = 0.05 // quantiles of idle times
	hybridTail   = 0.99
	hybridMargin = 0.10 // either way
	hybridCV     = 2.0  // the coefficient of variation of the bins' counts from which they say something
	hybridOut    = 0.5  // the share of idle times out of range from which the time series is asked
	seriesMargin = 0.15 // either way
	seriesLength = 64   // idle times that it is fitted to
	seriesLeast  = 4
)

func newHybrid(s *settings) Policy {
	bins := int(s.duration("range") / time.Minute)
	if s.err == nil && (bins < 2 || bins > 7*24*60) {
		s.fail("range=%s is not between 2m and 7d", s.values["range"])
	}
	return &hybrid{bins: bins, models: map[string]*idles{}}
}

// idles are the idle times of one model.
type idles struct {
	end    time.Time // of its last request; zero: it is busy
	counts []uint32  // by minutes
	within int       // those that have a bin
	out    int
	square float64   // sum of the squares of counts
	series []float64 // the last ones, in minutes

	from, until time.Duration // idle for so long, it is to be warm
	why         string
}

func (h *hybrid) Arrived(model string, at time.Time, _ int) {
	m := h.models[model]
	if m == nil {
		m = &idles{counts: make([]uint32, h.bins)}
		h.models[model] = m
	}
	if !m.end.IsZero() {
		m.learn(at.Sub(m.end).Minutes())
		m.end = time.Time{}
	}
}

func (h *hybrid) Ended(model string, at time.Time) {
	if m := h.models[model]; m != nil {
		m.end = at
		m.plan()
	}
}

func (*hybrid) Day(time.Time) {}

func (m *idles) learn(minutes float64) {
	if m.series = append(m.series, minutes); len(m.series) > 2*seriesLength {
		m.series = append(m.series[:0], m.series[seriesLength:]...)
	}
	if int(minutes) >= len(m.counts) {
		m.out++
		return
	}
	n := &m.counts[int(minutes)]
	m.square += float64(2**n + 1)
	*n++
	m.within++
}

// plan says when in its idle time the model is to be warm.
func (m *idles) plan() {
	most := time.Duration(len(m.counts)) * time.Minute
	switch all := m.within + m.out; {
	case m.out > 0 && float64(m.out) > hybridOut*float64(all) && len(m.series) >= seriesLeast:
		next := ar1(m.series[max(0, len(m.series)-seriesLength):])
		m.from, m.until = inMinutes(next*(1-seriesMargin)), inMinutes(next*(1+seriesMargin))
		m.why = "most of its idle times are longer than the histogram"
	case m.within > 0 && m.variation() >= hybridCV:
		m.from = inMinutes(float64(m.quantile(hybridHead)) * (1 - hybridMargin))
		m.until = inMinutes(float64(m.quantile(hybridTail)+1) * (1 + hybridMargin))
		m.why = fmt.Sprintf("idle times of %s to %s, as a rule", m.from.Round(time.Second), m.until.Round(time.Second))
	default:
		m.from, m.until, m.why = 0, most, "its idle times say nothing yet"
	}
}

// variation is the coefficient of variation of the counts of all bins.
func (m *idles) variation() float64 {
	n := float64(len(m.counts))
	mean := float64(m.within) / n
	return math.Sqrt(max(0, m.square/n-mean*mean)) / mean
}

// quantile is the bin that holds it.
func (m *idles) quantile(q float64) int {
	sum := 0
	for bin, n := range m.counts {
		if sum += int(n); float64(sum) >= q*float64(m.within) {
			return bin
		}
	}
	return len(m.counts) - 1
}

// ar1 is the next of a series by an autoregressive model of the first order. It is never less than nothing.
func ar1(series []float64) float64 {
	mean := 0.0
	for _, x := range series {
		mean += x / float64(len(series))
	}
	var lagged, square float64
	for i, x := range series {
		square += (x - mean) * (x - mean)
		if i > 0 {
			lagged += (x - mean) * (series[i-1] - mean)
		}
	}
	if square == 0 {
		return mean
	}
	return max(0, mean+lagged/square*(series[len(series)-1]-mean))
}

func inMinutes(n float64) time.Duration {
	const most = 365 * 24 * 60
	return time.Duration(min(n, most) * float64(time.Minute))
}

func (h *hybrid) Decide(q Question) Decision {
	m := h.models[q.Model]
	if m == nil || q.Idle.IsZero() {
		return Decision{Chance: -1, Why: "it was never used"}
	}
	return within(q, m.from, m.until, m.why)
}

// within keeps a model warm between two times of its idle time, with the load before the first of them.
func within(q Question, from, until time.Duration, why string) Decision {
	begin, end := q.Idle.Add(max(0, from-q.Load)), q.Idle.Add(until)
	d := Decision{Chance: -1, Why: why}
	switch {
	case q.Now.Before(begin):
		d.Until = begin
	case q.Now.Before(end):
		d.Warm, d.Until = true, end
	}
	return d
}
