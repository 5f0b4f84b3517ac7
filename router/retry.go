package router

import "time"

// A model's retries are bounded, or else a backend that fell over would be asked by everybody several times over: each
// request earns a fifth of a retry, each second earns one, and no more are saved up than a fifth of what is in flight and three.
const (
	retry        = 5 // in fifths, as all of the budget
	retryReserve = 3 * retry
	retryTime    = time.Second / retry
)

// retries is a model's budget, guarded by the line's mutex.
type retries struct {
	earned int
	at     time.Time // up to which time has earned
}

// Retry says whether the request may be given to another backend, which is taken off the model's budget if it may. It is asked
// before the lease is released.
func (s *Lease) Retry() bool {
	l, now := s.line, time.Now()
	l.mu.Lock()
	defer l.mu.Unlock()
	b := &l.retries
	most := retryReserve
	for _, c := range l.candidates {
		most += c.InFlight
	}
	by := now.Sub(b.at) / retryTime
	b.at = b.at.Add(by * retryTime)
	b.earned = min(b.earned+int(by), most)
	if b.earned < retry {
		return false
	}
	b.earned -= retry
	return true
}
