package router

import (
	"slices"
	"time"

	"pilotlight/probe"
)

// Candidate is a backend as Pick and Place see it: what was observed of it, what probes have seen, and what is promised on it.
type Candidate struct {
	*Backend
	InFlight int   // leases given and not yet released
	Granted  Grant // Shared only
	Opening  int   // of them, streams of which nothing has come yet: their prompts are read now, or wait for that
	Reading  probe.Reading
	Others   int // requests in its engine that are not ours, as of Reading
	Strain   Strain
	Ejected  time.Time // it broke requests; until then others come first
	Broke    int       // requests broken in a row
	LastBad  time.Time // when it broke the last one
	Avoid    time.Time // it was asked to wake and could not; until then it is not asked again

	wake    *wake         // asked for by this line, and under way
	last    time.Time     // when a request on it last began or ended
	granted int64         // leases given, since it was first known
	drained chan struct{} // closed when nothing is in flight; nil: nobody asked
	gpus    *probe.GPUs   // that Strain is from
}

// Strain is what a look at a backend's GPUs says to Pick.
type Strain struct {
	At   time.Time
	Slow float64 // how much longer things take there because of others, or of heat: 1 for twice as long
	Used float64 // share of their memory in use, 0 to 1, of the fullest
	Bad  bool    // one of them is sick
}

// limit is how many requests may be in flight there from this edge.
func (c *Candidate) limit() int {
	if c.Shared {
		return min(c.Granted.Slots, c.Slots)
	}
	return c.Slots
}

// See takes in what a probe saw of the backend's engine. What is older than the last news is none.
func (c *Candidate) See(r probe.Reading) {
	if r.At.Before(c.Reading.At) {
		return
	}
	c.Reading = r
	c.Others = max(0, max(r.Running, 0)+max(r.Waiting, 0)-c.InFlight)
}

// maxForeign bounds what others are taken to take of a GPU: something is always left.
const maxForeign = 0.95

// SeeGPUs takes in what a probe saw of the GPUs of the backend's node.
func (c *Candidate) SeeGPUs(seen *probe.GPUs) {
	c.gpus = seen
	s := Strain{At: seen.At}
	for i := range seen.GPUs {
		g := &seen.GPUs[i]
		if !slices.Contains(c.GPUs, g.Index) {
			continue
		}
		taken := min(c.foreign(g), maxForeign)
		slow := taken / (1 - taken)
		if g.Health == probe.Degraded {
			slow++
		}
		s.Slow = max(s.Slow, slow)
		if g.Total > 0 {
			s.Used = max(s.Used, float64(g.Used)/float64(g.Total))
		}
		s.Bad = s.Bad || g.Health == probe.Sick
	}
	c.Strain = s
}

// noise is what a GPU's time may seem to go to others without meaning anything: where nothing tells two backends apart the first
// is picked, so that the other can sleep.
const noise = 0.05

// foreign is the share of a GPU's time that processes other than the backend's take. Where the backend's own process cannot be
// told from others, as on another host, what the GPU does while the backend has nothing to do is theirs.
func (c *Candidate) foreign(g *probe.GPU) (share float64) {
	unknown := c.PID == 0
	for i := range g.Processes {
		switch p := &g.Processes[i]; {
		case p.Busy < 0:
			unknown = true
		case c.PID != 0 && (p.PID == c.PID || p.Group == c.PID || slices.Contains(p.Lineage, c.PID)):
		default:
			share += p.Busy
		}
	}
	if unknown {
		share = 0
		if c.InFlight+c.Others == 0 {
			share = g.Busy
		}
	}
	if share < noise {
		return 0
	}
	return min(share, 1)
}
