package proxy

import (
	"sync"
	"time"
)

// byClock is the method of GPU time of which only the time is known in which a backend had something to do.
const byClock = "wallclock"

// clock shares out the time in which a backend has anything in flight from this edge among what is in flight: each gets the same part of every moment. The
// parts are whole nanoseconds and add up to that time exactly. It is what is left to go by where nobody reads the GPUs: an upper bound in sum, and
// blind to who asks for more.
type clock struct {
	mu       sync.Mutex // guards what follows
	backends map[string]*sharing
}

// sharing is a backend that has something in flight.
type sharing struct {
	inFlight time.Duration // a number of requests; a Duration for what is divided by it
	since    time.Time     // of what has been shared out
	each     time.Duration // that one would have who was there from the beginning
	rest     time.Duration // less than inFlight: what could not be divided
}

// pass shares out what has passed.
func (s *sharing) pass(now time.Time) {
	passed := max(0, now.Sub(s.since)) + s.rest
	s.since = now
	s.each += passed / s.inFlight
	s.rest = passed % s.inFlight
}

// begin is what one who comes now would have had already.
func (c *clock) begin(backend string, now time.Time) time.Duration {
	c.mu.Lock()
	defer c.mu.Unlock()
	s := c.backends[backend]
	if s == nil {
		if c.backends == nil {
			c.backends = map[string]*sharing{}
		}
		s = &sharing{since: now}
		c.backends[backend] = s
	} else {
		s.pass(now)
	}
	s.inFlight++
	return s.each
}

// end is what one has had who goes now. The last to go takes what could not be divided.
func (c *clock) end(backend string, began time.Duration, now time.Time) time.Duration {
	c.mu.Lock()
	defer c.mu.Unlock()
	s := c.backends[backend]
	if s == nil {
		panic("BUG: a request ends on a backend where it did not begin")
	}
	s.pass(now)
	had := s.each - began
	if s.inFlight--; s.inFlight == 0 {
		had += s.rest
		delete(c.backends, backend)
	}
	return had
}

// takes has the clock count for a request that has a slot now.
func (v *visit) takes() {
	if v.edge.clock != nil {
		v.clocked = v.edge.clock.begin(v.lease.Backend.ID, time.Now())
	}
}

// gives has the clock settle what the request took since.
func (v *visit) gives() {
	if v.edge.clock == nil {
		return
	}
	now := time.Now()
	gpus := len(v.lease.Backend.GPUs)
	if gpus == 0 { // nobody counts memory here
		gpus = configured(&v.lease).GPUs
	}
	gpu := v.edge.clock.end(v.lease.Backend.ID, v.clocked, now) * time.Duration(gpus)
	if gpu > 0 {
		v.edge.Settled(Share{
			ID: v.id, Model: v.lease.Model.Name, Backend: v.lease.Backend.ID, Tenant: v.Tenant, GPU: gpu, Method: byClock, Final: true, At: now,
		})
	}
}
