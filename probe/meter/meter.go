package meter

import (
	"cmp"
	"maps"
	"slices"
	"sync"
	"time"
)

// Methods by which GPU time was found out, the best first.
const (
	NVML      = "nvml"      // the driver measured how busy the GPUs were
	Simulated = "simulated" // as NVML, of GPUs that are simulated
	Wallclock = "wallclock" // nobody did: the time in which the backend had anything in flight, an upper bound
)

// Kinds of GPU time that belongs to no request.
const (
	Wake         = "wake"         // a backend was waking
	Idle         = "idle"         // it was awake, and had nothing in flight
	Unattributed = "unattributed" // the edge that would have to be told is gone, or a sample came too late
	Others       = "others"       // programs that are no backends
)

// Backend is one of those whose requests are metered, as it is now.
type Backend struct {
	ID, Model string
	GPUs      []int // indices on the node that it is on; none: nobody knows, or it is on none
	Width     int   // how many GPUs it takes, where GPUs does not say; 0: it uses none
	PID       int   // of its first process; 0: not known
	Waking    bool
	Memory    int64 // of GPUs that it holds now, bytes
}

// width is on how many GPUs it is.
func (b *Backend) width() int { return cmp.Or(len(b.GPUs), b.Width) }

// Flight is a request at a backend, as its edge reports it. All reports of a flight are of the same ID.
type Flight struct {
	ID      uint64 // unique among the flights of its edge
	Backend string
	Began   time.Time // when it was sent to the backend
	First   time.Time // when the first of its answer came; zero: not yet
	Ended   time.Time // zero: it is in flight
	Prompt  int       // tokens; a guess, until the engine has said
	Pieces  int       // of its answer that have come
	Tokens  int       // of its answer, if the engine has said; 0: it has not
	Whole   bool      // its answer does not stream
}

// Settled is what a request took in all.
type Settled struct {
	ID     uint64
	GPU    time.Duration // summed over its backend's GPUs
	Joules float64       // an estimate; 0: unknown
	Method string        // the least of those that had a part in it
	At     time.Time     // end of the last window that it had a part in
}

// Account is what belongs to no request.
type Account struct {
	Backend, Model    string // empty: of others
	Kind, Method      string
	From, To          time.Time
	GPU               time.Duration
	Joules            float64
	MemoryByteSeconds float64 // held by the backend
}

const (
	// Lag is how much later than a window's end it is settled: what edges have to say of it has come by then.
	Lag = 500 * time.Millisecond
	// patience is how long an edge or a driver that says nothing is waited for.
	patience = 3 * time.Second
	// remembers is how long a flight that is settled is known to be, and up to twice that: for longer than an edge is counted on that cannot be heard.
	remembers = 15 * time.Second
	// floorBusy is how little a GPU has to be busy for its power to be that of an idle one.
	floorBusy = 0.01
	// maxFlights bounds the requests of an edge that are metered at once, maxTicks what is known of each.
	maxFlights, maxTicks = 100_000, 4096
)

// Meter divides a node's GPU time among requests, and what is left of it among backends. What is measured is given out once, and all of it: what it gives to
// requests and accounts adds up to what the driver counted, to the nanosecond, whatever comes late or not at all. It never looks at a clock. It is safe
// for concurrent use.
type Meter struct {
	mu       sync.Mutex // guards what follows
	edges    map[string]*edge
	backends map[string]*metered
	gpus     map[int]*gpu
	method   string    // of the looks
	held     time.Time // up to when memory has been accounted for
	self     string    // the edge that never speaks of a flight again once it has said that it ended
}

// edge is who reports.
type edge struct {
	flights map[uint64]*flight
	heard   time.Time // up to when it has reported
	gone    time.Time // since when it cannot be heard; zero: it can

	done   [2]map[uint64]struct{} // flights that were settled lately, the second longer ago: of those it may speak again
	turned time.Time
}

// newEdge is one that has not reported.
func newEdge() *edge {
	return &edge{flights: map[uint64]*flight{}, done: [2]map[uint64]struct{}{{}, {}}}
}

// settled says that a flight was settled lately.
func (e *edge) settled(id uint64) bool {
	_, now := e.done[0][id]
	_, before := e.done[1][id]
	return now || before
}

// flight is a request that is not settled.
type flight struct {
	Request
	edge    string
	orphan  bool // its edge is gone
	backend *metered
	gpu     time.Duration
	joules  float64
	method  string
	at      time.Time
}

// metered is a backend and its requests.
type metered struct {
	Backend
	known   bool // it is one of those that were last named
	pid     int  // the last that was named: of one that has just ended there is more to give out
	learner Learner
	flights []*flight
	clocked time.Time // up to when its requests have been given what the clock says
	byClock bool      // they are, since its GPUs cannot be seen
}

// New makes a meter that knows nothing. The edge named self, if there is one, is of the same process, and says of each flight once that it ended; what the others
// say may come again.
func New(self string) *Meter {
	return &Meter{self: self, edges: map[string]*edge{}, backends: map[string]*metered{}, gpus: map[int]*gpu{}}
}

// Know says which backends there are. It replaces all that was said before.
func (m *Meter) Know(all []Backend) {
	m.mu.Lock()
	defer m.mu.Unlock()
	for _, b := range m.backends {
		b.known = false
	}
	for _, b := range all {
		known := m.backend(b.ID)
		known.Backend, known.known, known.pid = b, true, cmp.Or(b.PID, known.pid)
	}
	for id, b := range m.backends {
		if !b.known && len(b.flights) == 0 {
			delete(m.backends, id)
		}
	}
}

func (m *Meter) backend(id string) *metered {
	b := m.backends[id]
	if b == nil {
		b = &metered{Backend: Backend{ID: id}}
		m.backends[id] = b
	}
	return b
}

// Report takes in what an edge says at a time of its flights: those that have begun, those of which something has come, and those that have ended. Of the
// others nothing has changed. What it says of a flight that is settled already counts for nothing.
func (m *Meter) Report(from string, at time.Time, flights []Flight) {
	m.mu.Lock()
	defer m.mu.Unlock()
	e := m.edges[from]
	if e == nil {
		e = newEdge()
		m.edges[from] = e
	}
	e.heard, e.gone = at, time.Time{}
	if at.Sub(e.turned) > remembers {
		e.done[0], e.done[1], e.turned = map[uint64]struct{}{}, e.done[0], at
	}
	for i := range flights {
		said := &flights[i]
		f := e.flights[said.ID]
		if f == nil {
			if len(e.flights) >= maxFlights || e.settled(said.ID) {
				continue
			}
			b := m.backend(said.Backend)
			f = &flight{edge: from, backend: b, Request: Request{ID: said.ID, Began: said.Began}}
			e.flights[said.ID] = f
			b.flights = append(b.flights, f)
		}
		f.take(said, at)
	}
}

// take is what was said of it at a time.
func (f *flight) take(said *Flight, at time.Time) {
	f.First, f.Prompt, f.Whole = said.First, said.Prompt, said.Whole
	if f.Ended.IsZero() {
		f.Ended = said.Ended
	}
	if !said.Ended.IsZero() {
		at = said.Ended
	}
	count := said.Pieces
	if f.Whole && !said.Ended.IsZero() {
		count = max(said.Tokens, said.Pieces)
	}
	switch n := len(f.Ticks); {
	case count == 0 || f.Whole && said.Ended.IsZero():
	case n == 0:
		if !said.First.IsZero() && !f.Whole {
			f.Ticks = append(f.Ticks, Progress{At: said.First, Tokens: 1})
		}
		if count > 1 || f.Whole {
			f.Ticks = append(f.Ticks, Progress{At: at, Tokens: count})
		}
	case f.Ticks[n-1].Tokens < count && !at.Before(f.Ticks[n-1].At):
		f.Ticks = append(f.Ticks, Progress{At: at, Tokens: count})
	}
	if len(f.Ticks) > maxTicks { // the first says what came of reading the prompt, and the last where it is
		f.Ticks = slices.Delete(f.Ticks, 1, maxTicks/2)
	}
}

// Lose says that an edge cannot be heard since that time. It is no longer waited for, but its requests go on.
func (m *Meter) Lose(edge string, at time.Time) {
	m.mu.Lock()
	defer m.mu.Unlock()
	if e := m.edges[edge]; e != nil && e.gone.IsZero() {
		e.gone = at
	}
}

// Forget says that an edge is gone for good. Its requests ended at that time, and nobody wants to know what they took.
func (m *Meter) Forget(edge string, at time.Time) {
	m.mu.Lock()
	defer m.mu.Unlock()
	e := m.edges[edge]
	if e == nil {
		return
	}
	for _, f := range e.flights {
		f.orphan = true
		if f.Ended.IsZero() {
			f.Ended = at
		}
	}
	delete(m.edges, edge)
}

// Result is what there is to tell.
type Result struct {
	Settled  map[string][]Settled // by edge
	Accounts []Account
}

// Settle gives out what was measured up to a moment before now.
func (m *Meter) Settle(now time.Time) Result {
	m.mu.Lock()
	defer m.mu.Unlock()
	until := now.Add(-Lag)
	for _, e := range m.edges {
		if e.gone.IsZero() && len(e.flights) > 0 && e.heard.Before(until) {
			until = e.heard
		}
	}
	if late := now.Add(-patience); until.Before(late) {
		until = late
	}
	return m.give(now, until)
}

// Close gives out all that was measured until now, whoever may have more to say. It is for the end.
func (m *Meter) Close(now time.Time) Result {
	m.mu.Lock()
	defer m.mu.Unlock()
	return m.give(now, now)
}

// give gives out what was measured until then. m.mu is held.
func (m *Meter) give(now, until time.Time) Result {
	var r books
	for _, i := range slices.Sorted(maps.Keys(m.gpus)) {
		m.settle(m.gpus[i], until, &r)
	}
	for _, id := range slices.Sorted(maps.Keys(m.backends)) {
		m.byClock(m.backends[id], now, until)
	}
	m.hold(now, &r)
	settled := m.finish(until, &r)
	return Result{settled, r.all()}
}

// finish are the flights of which all is settled.
func (m *Meter) finish(until time.Time, r *books) map[string][]Settled {
	all := map[string][]Settled{}
	for _, id := range slices.Sorted(maps.Keys(m.backends)) {
		b := m.backends[id]
		through := m.through(b, until)
		b.flights = slices.DeleteFunc(b.flights, func(f *flight) bool {
			if f.Ended.IsZero() || f.Ended.After(through) {
				return false
			}
			if f.orphan {
				r.add(Account{Backend: b.ID, Model: b.Model, Kind: Unattributed, Method: cmp.Or(f.method, Wallclock), From: f.Began, To: f.Ended, GPU: f.gpu, Joules: f.joules})
				return true
			}
			all[f.edge] = append(all[f.edge], Settled{ID: f.ID, GPU: f.gpu, Joules: f.joules, Method: cmp.Or(f.method, Wallclock), At: orElse(f.at, f.Ended)})
			if e := m.edges[f.edge]; e != nil {
				delete(e.flights, f.ID)
				if f.edge != m.self {
					e.done[0][f.ID] = struct{}{}
				}
			}
			return true
		})
	}
	return all
}

// through is up to when all of a backend's GPU time has been given out.
func (m *Meter) through(b *metered, until time.Time) time.Time {
	if b.byClock || len(b.GPUs) == 0 {
		return b.clocked
	}
	for _, i := range b.GPUs {
		if g := m.gpus[i]; g == nil {
			return b.clocked
		} else if g.settled.Before(until) {
			until = g.settled
		}
	}
	return until
}

// give gives a flight a part of a window.
func (f *flight) give(part time.Duration, method string, at time.Time) {
	f.gpu += part
	f.at = at
	if f.method != Wallclock {
		f.method = method
	}
}

// hold accounts for the memory that backends hold.
func (m *Meter) hold(now time.Time, r *books) {
	from := m.held
	m.held = now
	if from.IsZero() || !now.After(from) {
		return
	}
	for _, id := range slices.Sorted(maps.Keys(m.backends)) {
		if b := m.backends[id]; b.known && b.Memory > 0 {
			r.add(Account{
				Backend: id, Model: b.Model, Kind: b.kind(), Method: cmp.Or(m.method, Wallclock), From: from, To: now,
				MemoryByteSeconds: float64(b.Memory) * now.Sub(from).Seconds(),
			})
		}
	}
}

// kind is what GPU time is that a backend has while nothing is in flight.
func (b *metered) kind() string {
	if b.Waking {
		return Wake
	}
	return Idle
}

// books are accounts on their way, added up.
type books struct{ sums map[account]*Account }

type account struct{ backend, kind, method string }

func (r *books) add(a Account) {
	if a.GPU == 0 && a.Joules == 0 && a.MemoryByteSeconds == 0 {
		return
	}
	key := account{a.Backend, a.Kind, a.Method}
	sum := r.sums[key]
	if sum == nil {
		if r.sums == nil {
			r.sums = map[account]*Account{}
		}
		r.sums[key] = &a
		return
	}
	sum.Add(a)
}

// Add adds what belongs to the same.
func (a *Account) Add(b Account) {
	a.GPU += b.GPU
	a.Joules += b.Joules
	a.MemoryByteSeconds += b.MemoryByteSeconds
	if b.From.Before(a.From) {
		a.From = b.From
	}
	if b.To.After(a.To) {
		a.To = b.To
	}
}

func (r *books) all() []Account {
	var all []Account
	for _, a := range r.sums {
		all = append(all, *a)
	}
	slices.SortFunc(all, func(a, b Account) int {
		return cmp.Or(cmp.Compare(a.Backend, b.Backend), cmp.Compare(a.Kind, b.Kind), cmp.Compare(a.Method, b.Method))
	})
	return all
}
