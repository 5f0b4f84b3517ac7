package forecast

import (
	"cmp"
	"fmt"
	"math"
	"math/bits"
	"slices"
	"strings"
	"time"
)

// kind is what a feature speaks of.
type kind uint8

const (
	ofIdle     kind = iota // how long it has been idle
	ofRate                 // how much it was in use of late
	ofDays                 // the same time of other days
	ofAll                  // all models together
	ofOwnTimes             // its own idle times
	ofHour                 // the minute of the hour
	ofLast                 // what the last use was like
	kinds
)

// kindOf says it of a feature, in the order in which features puts them.
func kindOf(feature int) kind {
	switch ends := [...]int{1, 1 + len(halfLives) + 2, 10, 31, 36, 46, 49, dense}; {
	case feature < ends[0]:
		return ofIdle
	case feature < ends[1]:
		return ofRate
	case feature < ends[2]:
		return ofLast
	case feature < ends[3]:
		return ofDays
	case feature < ends[4]:
		return ofAll
	case feature < ends[5]:
		return ofOwnTimes
	case feature < ends[6]:
		return ofHour
	}
	return ofLast
}

// Why says in one clause what the forecast for the minute that begins at a time rests on: the two reasons that weigh most, for or against.
func (f *Forecast) Why(model string, from time.Time) string {
	t := f.tracks[model]
	if t == nil || t.idle == 0 {
		return "it was never used"
	}
	at := max(from.Unix()+slack, t.idle)
	idle := "idle for " + short(time.Duration(at-t.idle)*time.Second)
	e := &f.experts[expertOf(t.age(at))]
	if !e.trained {
		return idle + "; too little is known yet to tell when it is used"
	}
	var r row
	f.moment.features(t, t.idle+t.age(at)*minute, &r)
	weights := e.reasons(&r)
	order := make([]kind, kinds)
	for k := range order {
		order[k] = kind(k)
	}
	slices.SortStableFunc(order, func(a, b kind) int { return cmp.Compare(math.Abs(weights[b]), math.Abs(weights[a])) })
	var said []string
	for _, k := range order {
		if words := f.words(t, k, at, weights[k]); words != "" && math.Abs(weights[k]) > 0.3 && len(said) < 2 {
			said = append(said, words)
		}
	}
	if len(said) == 0 {
		return idle
	}
	return strings.Join(said, "; ")
}

// reasons is how much each kind of features moves the logarithm of the odds from what is usual at this idle age.
func (e *expert) reasons(r *row) (sum [kinds]float64) {
	for i, x := range r.x[:r.n] {
		sum[kindOf(i)] += float64(e.weights[i] * (x - e.means[i]))
	}
	return sum
}

// words says what a kind of features found, where more says that it makes an arrival likelier.
func (f *Forecast) words(t *track, k kind, at int64, more float64) string {
	m := at / minute
	switch k {
	case ofIdle:
		return "idle for " + short(time.Duration(at-t.idle)*time.Second)
	case ofRate:
		return fmt.Sprintf("in use about %s an hour of late", short(time.Duration(t.rate(m)*float64(time.Minute))))
	case ofDays:
		return f.daysWords(t, m)
	case ofAll:
		if more > 0 {
			return "much is asked for now"
		}
		return "little is asked for now"
	case ofOwnTimes:
		return t.timesWords(float64(at-t.idle) / minute)
	case ofHour:
		if more > 0 {
			return fmt.Sprintf("often asked for at minute %d of the hour", m%60)
		}
		return fmt.Sprintf("seldom asked for at minute %d of the hour", m%60)
	case ofLast, kinds:
	}
	return ""
}

// daysWords counts the days on which it was in use within 15 minutes of this time.
func (f *Forecast) daysWords(t *track, m int64) string {
	days, used := min(back, (m-f.moment.born)/day), 0
	for d := int64(1); d <= days; d++ {
		used += min(1, bits.OnesCount64(t.used.word(m-d*day-15)&(1<<31-1)))
	}
	clock := time.Unix(m*minute, 0).UTC().Format("15:04 UTC")
	switch {
	case days == 0:
		return ""
	case used == 0:
		return fmt.Sprintf("not in use around %s on the last %d days", clock, days)
	}
	return fmt.Sprintf("in use around %s on %d of the last %d days", clock, used, days)
}

// timesWords says how many of its idle times ended about this age, of those that lasted until then.
func (t *track) timesWords(age float64) string {
	left, ended := 0, 0
	for k := range min(t.nGaps, maxGaps) {
		if g := float64(t.gaps[k]); g >= age*.8 {
			left++
			if g < age*1.25+1 {
				ended++
			}
		}
	}
	about := short(time.Duration(age * float64(time.Minute)))
	switch {
	case t.nGaps == 0:
		return ""
	case left == 0:
		return fmt.Sprintf("it was idle for %s, longer than any of its last %d times", about, min(t.nGaps, maxGaps))
	case ended == 0:
		return fmt.Sprintf("none of its last %d idle times ended after about %s", min(t.nGaps, maxGaps), about)
	}
	return fmt.Sprintf("%d of %d idle times that lasted %s ended about then", ended, left, about)
}

// short writes a time with two units at most.
func short(d time.Duration) string {
	switch {
	case d < time.Minute:
		return d.Round(time.Second).String()
	case d < time.Hour:
		return fmt.Sprintf("%dm", int(d.Minutes()))
	case d < 48*time.Hour:
		return fmt.Sprintf("%dh%02dm", int(d.Hours()), int(d.Minutes())%60)
	}
	return fmt.Sprintf("%dd%02dh", int(d.Hours())/24, int(d.Hours())%24)
}
