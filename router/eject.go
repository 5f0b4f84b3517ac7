package router

import "time"

// A backend that breaks this many requests in a row is ejected, for firstEjection and then twice as long each time, up to
// maxEjection. No more than half of the ready backends are at any time: what many break at once is rarely their own fault.
const (
	brokenToEject = 3
	firstEjection = time.Second
	maxEjection   = 30 * time.Second
)

// brokeOne takes in that a backend broke a request. l.mu is held.
func (l *line) brokeOne(c *Candidate, now time.Time) {
	c.Broke++
	c.LastBad = now
	if c.Broke < brokenToEject {
		return
	}
	if ready, out := l.ejected(now); c.Ejected.After(now) || 2*(out+1) <= ready {
		c.Ejected = now.Add(min(firstEjection<<min(c.Broke-brokenToEject, 8), maxEjection))
	}
}

// ejected counts the ready backends, and those of them that are ejected. l.mu is held.
func (l *line) ejected(now time.Time) (ready, out int) {
	for _, c := range l.candidates {
		if c.State == Ready {
			ready++
			if c.Ejected.After(now) {
				out++
			}
		}
	}
	return ready, out
}

// readmit ends ejections, the oldest first, until half of the ready backends are not ejected: others went to sleep meanwhile.
// l.mu is held.
func (l *line) readmit(now time.Time) {
	for {
		ready, out := l.ejected(now)
		if 2*out <= ready {
			return
		}
		var first *Candidate
		for _, c := range l.candidates {
			if c.State == Ready && c.Ejected.After(now) && (first == nil || c.Ejected.Before(first.Ejected)) {
				first = c
			}
		}
		first.Ejected = time.Time{}
	}
}
