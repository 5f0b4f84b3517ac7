package forecast

const (
	platformRing     = 1 << 15 // minutes, as many as history reaches back
	platformMaxHours = 20000   // arrivals after which the minutes of the hour are halved
)

// platform is how often any model came into use, by the minute.
type platform struct {
	sums  [platformRing]int32 // arrivals until the end of each minute, since ever
	until int64               // the newest minute
	hour  [60]float64         // arrivals by the minute of the hour
	hours float64             // their sum
}

func (p *platform) arrived(at int64) {
	m := at / minute
	p.advance(m)
	p.sums[p.until%platformRing]++
	p.hour[m%60]++
	if p.hours++; p.hours > platformMaxHours {
		for i := range p.hour {
			p.hour[i] /= 2
		}
		p.hours /= 2
	}
}

// advance brings the sums up to a minute.
func (p *platform) advance(to int64) {
	last := p.sums[p.until%platformRing]
	if p.until == 0 || to-p.until >= platformRing {
		for i := range p.sums {
			p.sums[i] = last
		}
		p.until = max(p.until, to)
	}
	for ; p.until < to; p.until++ {
		p.sums[(p.until+1)%platformRing] = last
	}
}

// count is how many arrivals there were in the minutes [from, to), as far as is known.
func (p *platform) count(from, to int64) float64 { return float64(p.sum(to-1) - p.sum(from-1)) }

func (p *platform) sum(m int64) int32 {
	return p.sums[max(0, min(max(m, p.until-platformRing+1), p.until))%platformRing]
}
