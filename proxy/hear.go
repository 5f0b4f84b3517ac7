package proxy

import "time"

// Listener hears of every request when it has ended, of its GPU time when that is settled, and of GPU time that belongs to no request. It is called on the
// request's own goroutine, or on that of whoever measures: it must neither block nor keep what it is given. *ledger.Ledger is one.
type Listener interface {
	// Ended hears of a request. Its Model is the model's own name, and empty where there is no such model: clients make names up.
	Ended(*Visit)
	Settled(*Share)
	Accounted(*Account)
}

// Share is what one request took of GPUs, once it is settled, or a part of that.
type Share struct {
	ID                     uint64 // the Visit's Number
	Model, Backend, Tenant string
	GPU                    time.Duration // busy time, summed over the backend's GPUs
	Joules                 float64       // 0: unknown
	Method                 string        // of package meter
	Final                  bool          // false: a later share may add to it
	At                     time.Time     // end of the last window that it is of
}

// Account is what was taken of GPUs, or held of their memory, by a backend and no request of it, or by others than backends.
type Account struct {
	Model, Backend, Node string
	Kind                 string // of package meter
	Method               string // as of Share
	From, To             time.Time
	GPU                  time.Duration
	Joules               float64 // 0: unknown
	MemoryByteSeconds    float64
}

// ended tells listeners of a request.
func (v *visit) ended() {
	if len(v.edge.listeners) == 0 {
		return
	}
	v.Number, v.Model = v.id, v.known
	for _, l := range v.edge.listeners {
		l.Ended(&v.Visit)
	}
}

// Settled is for whoever measures: it passes on what a request took to all that listen.
func (e *Edge) Settled(s Share) {
	e.metrics.settled(took{s.Model, s.Tenant, "request", s.Method}, s.GPU, s.Joules)
	for _, l := range e.listeners {
		l.Settled(&s)
	}
}

// Accounted likewise passes on what belongs to no request.
func (e *Edge) Accounted(a Account) {
	if a.GPU > 0 || a.Joules > 0 {
		e.metrics.settled(took{model: a.Model, kind: a.Kind, method: a.Method}, a.GPU, a.Joules)
	}
	for _, l := range e.listeners {
		l.Accounted(&a)
	}
}
