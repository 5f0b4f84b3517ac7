package forecast

import (
	"math"
	"math/bits"
)

const (
	ages  = 28 // bins of the idle age, two to each doubling
	dense = 52 // features that are numbers, a multiple of 4; those that nobody puts are 0
	back  = 7  // days whose same time is looked at
)

// row is the features of one idle model in one minute.
type row struct {
	bin int // of the idle age
	n   int
	x   [dense]float32
}

func (r *row) put(v float64)    { r.x[r.n] = float32(v); r.n++ }
func (r *row) putLog(v float64) { r.x[r.n] = fastLog(v); r.n++ }

// fastLog is the natural logarithm of a positive number, to within a hundred-thousandth.
func fastLog(v float64) float32 {
	b := math.Float32bits(float32(v))
	e := float32(int32(b>>23) - 127)
	m := math.Float32frombits(b&0x7fffff | 0x3f800000)
	t := (m - 1) / (m + 1) // log m = 2 atanh t
	q := t * t
	return e*math.Ln2 + 2*t*(1+q*(1./3+q*(1./5+q*(1./7+q/9))))
}

// fastExp2 is 2 to the power of v, which is not positive, to within a few millionths.
func fastExp2(v float64) float64 {
	if v < -120 {
		return 0
	}
	whole := math.Floor(v)
	x := float32(v-whole) * math.Ln2 / 2 // exp(2x) = exp(x)², x in [0, 0.35)
	e := 1 + x*(1+x*(1./2+x*(1./6+x*(1./24+x/120))))
	return float64(e * e * math.Float32frombits(uint32(int32(whole)+127)<<23))
}

// ageBin is where an idle age, in minutes, falls.
func ageBin(age float64) int {
	if age < 1 {
		return 0
	}
	return min(ages-1, 1+int(math.Log2(age)*2))
}

// moment is what all models share in a forecast.
type moment struct {
	platform *platform
	born     int64 // the minute of the first arrival of all
}

// features fills r for a model, if it is idle until from, in seconds: the beginning of the minute that the forecast is of.
func (s *moment) features(t *track, from int64, r *row) {
	m, age := from/minute, float64(from-t.idle)/minute
	r.n, r.bin = 0, ageBin(age)
	t.recency(r, m, age)
	t.otherDays(r, m, int64(age), int(min(back, (m-s.born)/day)))
	s.everybody(r, m)
	t.ownTimes(r, age)
	t.hourly(r, m)
}

// recency is how long the model has been idle, and how much it was in use before.
func (t *track) recency(r *row, m int64, age float64) {
	r.putLog(age + 1)
	known := float64(max(1, m-t.born))
	passed := float64(max(0, m-t.at))
	var rate [len(halfLives)]float64
	for i, half := range halfLives {
		// A model that is new has been watched for less than the half-life.
		rate[i] = (t.rates[i]*fastExp2(-passed/half) + 0.1) / (half * math.Log2E * (1 - fastExp2(-known/half)))
		r.putLog(rate[i])
	}
	r.putLog(1 + age*rate[3])
	r.putLog(1 + age*rate[4])
	r.putLog(min(max(known, 120), 10080))
}

// sameTime is how a model was used about the same time of other days: shares of the days, later ones counting more.
type sameTime struct {
	tight, near, wide, broad float64 // in use within 1, 5, 15 and 45 minutes of it
	soon, now                float64 // in the half hour that begins 5 minutes later; in the very minute or the next
	logs                     float64 // logarithm of the minutes of use within 15 of it
	idled, idled60           float64 // minutes of use while it is idle today, over all of that time and its last hour
	one                      [back + 1][5]float64
}

// otherDays looks at the same time of up to back days.
func (t *track) otherDays(r *row, m, age int64, days int) {
	var s sameTime
	weight, sum := 1.0, 0.0
	for d := 1; d <= days; d++ {
		s.add(t, m-int64(d)*day, min(age, 720), d, weight)
		sum += weight
		weight *= 0.8
	}
	sum = max(sum, 1e-9)
	r.put(s.tight / sum)
	r.put(s.near / sum)
	r.put(s.wide / sum)
	r.put(s.broad / sum)
	r.put(s.soon / sum)
	r.put(s.logs / sum)
	r.put(s.now / sum)
	r.putLog(.05 + s.near/sum)
	r.putLog(.05 + s.broad/sum)
	r.putLog(1 + s.idled/sum)
	r.putLog(1 + s.idled60/sum)
	for _, v := range s.one[1] {
		r.put(v)
	}
	for _, v := range s.one[back][1:] {
		r.put(v)
	}
	r.put(float64(days))
}

// add takes in one day: at is the same minute then, and so many days ago.
func (s *sameTime) add(t *track, at, age int64, ago int, weight float64) {
	if age > 0 {
		s.idled += weight * float64(t.used.count(at-age, at))
		s.idled60 += weight * float64(t.used.count(at-min(age, 60), at))
	}
	before, after := t.used.word(at-64), t.used.word(at)
	if before|after == 0 {
		return
	}
	one := &s.one[ago]
	one[0] = any64(before>>63 | after&3)
	one[1] = any64(before>>59 | after&(1<<6-1))
	one[2] = any64(before>>49 | after&(1<<16-1))
	one[3] = any64(before>>19 | after&(1<<46-1))
	one[4] = float64(fastLog(1 + float64(bits.OnesCount64(before>>49)+bits.OnesCount64(after&(1<<16-1)))))
	s.tight += weight * one[0]
	s.near += weight * one[1]
	s.wide += weight * one[2]
	s.broad += weight * one[3]
	s.logs += weight * one[4]
	s.soon += weight * any64(after>>5&(1<<30-1))
	s.now += weight * any64(after&3)
}

// everybody is how much all models are asked for.
func (s *moment) everybody(r *row, m int64) {
	p := s.platform
	r.putLog((1 + p.count(m-60, m)) / float64(min(60, m-s.born)+1))
	r.putLog(1 + p.count(m-6, m))
	r.putLog(1 + p.count(m-day-10, m-day+20))
	r.putLog(1 + p.count(m-7*day-10, m-7*day+20))
	r.putLog((p.hour[m%60] + 5) / (p.hours + 300) * 60)
}

// ownTimes is what the model's own idle times say of this age.
func (t *track) ownTimes(r *row, age float64) {
	var left, exact, beside, tenth, quarter, total float64
	weight, a, n := 1.0, float32(math.Floor(age)), min(t.nGaps, maxGaps)
	for k := 1; k <= n; k++ {
		g := t.gaps[(t.nGaps-k)%maxGaps]
		total += weight
		if g >= a {
			left += weight
			if g < a+1 {
				exact += weight
			}
		}
		if d := g - a; d >= -1 && d < 2 {
			beside += weight
		}
		if g >= a*.8 && g < a*1.25+1 {
			quarter += weight
			if g >= a*.9 && g < a*1.1+1 {
				tenth += weight
			}
		}
		weight *= gapDecay
	}
	r.putLog((exact + .05) / (left + 1))
	r.putLog((beside/3 + .05) / (left + 1))
	r.putLog((tenth/(1+.2*age) + .05) / (left + 1))
	r.putLog((quarter/(1+.45*age) + .05) / (left + 1))
	r.putLog((left + .2) / (total + .4))
	r.putLog(1 + total)
	last, before := t.gap(1), t.gap(2)
	r.putLog(1 + last)
	r.putLog(1 + before)
	r.put(math.Abs(float64(fastLog(1+last) - fastLog(1+age))))
	r.put(same(last, age) + same(before, age))
}

// gap is the idle time so many ago, in minutes.
func (t *track) gap(ago int) float64 {
	if t.nGaps < ago {
		return 0
	}
	return float64(t.gaps[(t.nGaps-ago)%maxGaps])
}

// hourly is the minute of the hour, the same one in the last four hours, and what the last use was like.
func (t *track) hourly(r *row, m int64) {
	r.putLog(float64((t.hour[m%60] + .2) / (t.hours + 12) * 60))
	exact, near := 0.0, 0.0
	for k := range int64(4) {
		w := t.used.word(m - 60*(k+1) - 2)
		exact += any64(w >> 2 & 1)
		near += any64(w & 31)
	}
	r.put(exact)
	r.put(near)
	r.putLog(1 + float64(t.lasted)/minute)
	r.putLog(1 + float64(t.requests))
}

func any64(w uint64) float64 {
	if w != 0 {
		return 1
	}
	return 0
}

func same(a, b float64) float64 {
	if math.Floor(a) == math.Floor(b) {
		return 1
	}
	return 0
}
