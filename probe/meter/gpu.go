package meter

import (
	"cmp"
	"maps"
	"slices"
	"time"

	"pilotlight/probe"
)

// gpu is one of the node's, and what of its time has not been given out.
type gpu struct {
	index   int
	at      time.Time     // of its newest sample
	ran     time.Duration // until then
	settled time.Time     // up to when its time has been given out
	windows []measured

	energy int64     // millijoules, when last read; -1: the driver does not say
	read   time.Time // when that last changed
	joules float64   // that have not been given out
	idle   float64   // watts, the least that were seen while it had nothing to do; 0: none were

	clocked time.Time     // up to when backends on it were given what the clock says, while it was silent
	late    time.Duration // measured of that time, and not given out
	guessed time.Duration // given out of that time
}

// measured is a window of one GPU, with what the driver said of processes.
type measured struct {
	Window
	processes []probe.Process
	foreign   bool                     // nothing is known of the processes but their numbers, which are others than ours
	used      map[string]time.Duration // by backend; "" for all others. It is found out when it is given out: by then it is known who is awake
	spoken    bool                     // it speaks of processes at all
}

// maxWindows bounds what is measured and not yet given out: some minutes.
const maxWindows = 1000

// See takes in a look at the node's GPUs.
func (m *Meter) See(look probe.GPUs) {
	m.mu.Lock()
	defer m.mu.Unlock()
	if m.method = NVML; look.Driver == probe.SimulatedDriver {
		m.method = Simulated
	}
	for i := range look.GPUs {
		seen := &look.GPUs[i]
		g := m.gpus[seen.Index]
		if g == nil {
			g = &gpu{index: seen.Index, energy: -1}
			m.gpus[seen.Index] = g
		}
		g.charge(seen)
		back := g.at.Sub(look.At) > patience // the clock was set back
		if seen.RanAt.IsZero() || !seen.RanAt.After(g.at) && !back {
			continue
		}
		if g.at.IsZero() || seen.Ran < g.ran || back { // the beginning, or the driver is watched anew
			g.at, g.ran, g.settled = seen.RanAt, seen.Ran, seen.RanAt
			continue
		}
		w := Window{From: g.at, To: seen.RanAt, Busy: seen.Ran - g.ran}
		g.at, g.ran = seen.RanAt, seen.Ran
		g.put(measured{Window: w, processes: seen.Processes, foreign: look.Foreign})
	}
}

// charge takes in its counter of energy.
func (g *gpu) charge(seen *probe.GPU) {
	if seen.Energy < 0 || seen.Energy == g.energy {
		return
	}
	if g.energy >= 0 && seen.Energy > g.energy { // less: the driver was loaded anew
		g.joules += float64(seen.Energy-g.energy) / 1000
	}
	g.energy, g.read = seen.Energy, seen.RanAt
}

// due is up to when its windows are given out: energy is read more rarely than busy time, and goes to the windows that it is of.
func (g *gpu) due(until time.Time) time.Time {
	if g.energy >= 0 && g.read.Before(until) && until.Sub(g.read) < patience {
		return g.read
	}
	return until
}

// put adds a window. What was given out by the clock already is taken off it.
func (g *gpu) put(w measured) {
	if w.From.Before(g.clocked) {
		part := min(1, g.clocked.Sub(w.From).Seconds()/w.To.Sub(w.From).Seconds())
		before := time.Duration(part * float64(w.Busy))
		g.late += before
		w.Busy -= before
		if w.From = g.clocked; !w.To.After(w.From) {
			g.late += w.Busy
			return
		}
	}
	if n := len(g.windows); n >= maxWindows { // nobody settles: the last takes it in, so that nothing is lost
		last := &g.windows[n-1]
		last.To = w.To
		last.Busy += w.Busy
		return
	}
	g.windows = append(g.windows, w)
}

// attribute finds out whose processes did what in a GPU's windows.
func (m *Meter) attribute(ws []measured, index int) {
	pids := map[string]int{}
	for id, b := range m.backends {
		if b.pid > 0 {
			pids[id] = b.pid
		}
	}
	owners, unknown := probe.NewOwners(pids), m.unknown(index)
	for k := range ws {
		w := &ws[k]
		w.used = map[string]time.Duration{}
		for _, p := range w.processes {
			if p.Busy < 0 {
				continue
			}
			w.spoken = true
			id := ""
			if !w.foreign {
				id = owners.Of(p)
			}
			w.used[cmp.Or(id, unknown)] += time.Duration(p.Busy * float64(w.To.Sub(w.From)))
		}
	}
}

// unknown is the only backend on a GPU whose processes are not known: those that nobody else has are its own.
func (m *Meter) unknown(index int) (id string) {
	for _, b := range m.backends {
		if b.known && b.pid == 0 && slices.Contains(b.GPUs, index) && (b.Memory > 0 || b.Waking) {
			if id != "" {
				return ""
			}
			id = b.ID
		}
	}
	return id
}

// settle gives out the windows of a GPU that end by then.
func (m *Meter) settle(g *gpu, until time.Time, r *books) {
	n, known := 0, until
	until = g.due(until)
	for n < len(g.windows) && !g.windows[n].To.After(until) {
		n++
	}
	if late := g.late - g.guessed; late > 0 && n > 0 {
		r.add(Account{Kind: Unattributed, Method: m.method, From: g.windows[0].From, To: g.windows[0].From, GPU: late})
	}
	if n == 0 {
		return
	}
	g.late, g.guessed = 0, 0
	ws := g.windows[:n]
	busy, span := time.Duration(0), ws[n-1].To.Sub(ws[0].From)
	for _, w := range ws {
		busy += w.Busy
	}
	floor := g.floor(busy, span)
	each := 0.0 // joules of a second of busy time
	if busy > 0 {
		each = max(0, g.joules-floor) / busy.Seconds()
	} else {
		floor = g.joules
	}
	g.joules = 0
	m.attribute(ws, g.index)
	owners := m.on(g.index)
	parts := m.owned(ws, owners)
	for o, b := range append(owners, nil) {
		for k := range ws {
			part := Window{From: ws[k].From, To: ws[k].To, Busy: parts[o][k]}
			if b == nil {
				r.add(Account{Kind: Others, Method: m.method, From: part.From, To: part.To, GPU: part.Busy, Joules: each * part.Busy.Seconds()})
			} else {
				m.share(b, part, known, each, len(owners) == 1 && ws[k].used[""] == 0, r)
			}
		}
	}
	m.rest(owners, floor, ws[0].From, ws[n-1].To, r)
	g.settled = ws[n-1].To
	g.windows = slices.Delete(g.windows, 0, n)
}

// floor is how much energy of a time a GPU would have taken with nothing to do.
func (g *gpu) floor(busy, span time.Duration) float64 {
	if busy.Seconds() < floorBusy*span.Seconds() && g.joules > 0 {
		if watts := g.joules / span.Seconds(); g.idle == 0 || watts < g.idle {
			g.idle = watts
		}
	}
	return min(g.joules, g.idle*span.Seconds())
}

// on are the backends on a GPU, in the order of their names.
func (m *Meter) on(index int) (all []*metered) {
	for _, id := range slices.Sorted(maps.Keys(m.backends)) {
		if b := m.backends[id]; slices.Contains(b.GPUs, index) && (b.Waking || b.Memory > 0 || len(b.flights) > 0) {
			all = append(all, b)
		}
	}
	return all
}

// owned divides windows among the backends on a GPU; the last row is of others than those. What processes did is known by the driver's word, else it is
// guessed from who had requests in flight.
func (m *Meter) owned(ws []measured, owners []*metered) [][]time.Duration {
	busy, totals := make([]time.Duration, len(ws)), make([]time.Duration, len(owners)+1)
	hint := make([][]float64, len(owners)+1)
	spoken, said := false, time.Duration(0)
	for o := range hint {
		hint[o] = make([]float64, len(ws))
		for k, w := range ws {
			spoken = spoken || w.spoken
			busy[k] = w.Busy
			id := ""
			if o < len(owners) {
				id = owners[o].ID
				hint[o][k] = owners[o].seconds(w.Window)
			} else if w.used[""] > 0 {
				hint[o][k] = w.To.Sub(w.From).Seconds()
			}
			totals[o] += w.used[id]
		}
		said += totals[o]
	}
	if said == 0 {
		for o := range hint {
			for _, h := range hint[o] {
				totals[o] += time.Duration(h * float64(time.Second))
			}
			said += totals[o]
		}
	}
	if said == 0 && len(owners) > 0 { // busy, and nobody is seen to do anything: they share it, as far as the driver does not say that it was others
		for o := range owners {
			totals[o] = 1
		}
	}
	return Margins(busy, totals, hint)
}

// seconds is for how long of a window a backend had something in flight, or was waking.
func (b *metered) seconds(w Window) float64 {
	if b.Waking {
		return w.To.Sub(w.From).Seconds()
	}
	return b.union(w.From, w.To).Seconds()
}

// share gives out a backend's part of a window.
func (m *Meter) share(b *metered, w Window, known time.Time, each float64, alone bool, r *books) {
	if w.Busy == 0 {
		return
	}
	requests, whose := b.during(w)
	if b.Waking && len(requests) == 0 {
		r.add(Account{Backend: b.ID, Model: b.Model, Kind: Wake, Method: m.method, From: w.From, To: w.To, GPU: w.Busy, Joules: each * w.Busy.Seconds()})
		return
	}
	shares, rest := Split(w, requests, b.learner.Weights(), known)
	if alone && !b.Waking {
		b.learner.Learn(w, requests, known)
	}
	for _, s := range shares {
		f := whose[s.ID]
		f.give(s.GPU, m.method, w.To)
		f.joules += each * s.GPU.Seconds()
	}
	if rest > 0 {
		r.add(Account{Backend: b.ID, Model: b.Model, Kind: b.kind(), Method: m.method, From: w.From, To: w.To, GPU: rest, Joules: each * rest.Seconds()})
	}
}

// during are the requests that were in flight in a window, numbered anew: two edges may have the same number.
func (b *metered) during(w Window) (requests []Request, whose []*flight) {
	for _, f := range b.flights {
		if f.Began.Before(w.To) && (f.Ended.IsZero() || f.Ended.After(w.From)) {
			whose = append(whose, f)
		}
	}
	requests = make([]Request, len(whose))
	for i, f := range whose {
		requests[i] = f.Request
		requests[i].ID = uint64(i)
	}
	return requests, whose
}

// rest accounts for the energy that a GPU takes with nothing to do: to whom has memory of it, or else to others.
func (m *Meter) rest(owners []*metered, joules float64, from, to time.Time, r *books) {
	held := int64(0)
	for _, b := range owners {
		held += b.Memory
	}
	if held == 0 {
		r.add(Account{Kind: Others, Method: m.method, From: from, To: to, Joules: joules})
		return
	}
	for _, b := range owners {
		r.add(Account{Backend: b.ID, Model: b.Model, Kind: b.kind(), Method: m.method, From: from, To: to, Joules: joules * float64(b.Memory) / float64(held)})
	}
}

// byClock gives a backend's requests what the clock says, where its GPUs cannot be seen, or have been silent for too long.
func (m *Meter) byClock(b *metered, now, until time.Time) {
	from, seen := b.clocked, len(b.GPUs) > 0
	for _, i := range b.GPUs {
		g := m.gpus[i]
		switch {
		case g == nil:
			seen = false
		case now.Sub(g.at) <= patience:
			if from.Before(g.settled) {
				from = g.settled
			}
		default:
			seen = false
			if from.Before(g.settled) {
				from = g.settled
			}
			if g.clocked.Before(until) {
				g.clocked = until
			}
		}
	}
	if b.byClock = !seen; seen {
		b.clocked = from
		return
	}
	for _, f := range b.flights { // the first has no time before it
		if from.IsZero() || f.Began.Before(from) && f.gpu == 0 && b.clocked.IsZero() {
			from = f.Began
		}
	}
	if len(b.flights) > 0 && from.Before(until) {
		m.clock(b, from, until)
	}
	if b.clocked.Before(until) {
		b.clocked = until
	}
}

// clock gives out the time in which a backend had anything in flight, on each of its GPUs.
func (m *Meter) clock(b *metered, from, until time.Time) {
	w := Window{From: from, To: until, Busy: b.union(from, until) * time.Duration(b.width())}
	requests, whose := b.during(w)
	shares, _ := Split(w, requests, b.learner.Weights(), until)
	for _, s := range shares {
		whose[s.ID].give(s.GPU, Wallclock, until)
	}
	for _, i := range b.GPUs {
		if g := m.gpus[i]; g != nil {
			g.guessed += w.Busy / time.Duration(len(b.GPUs))
		}
	}
}

// union is for how long of a time a backend had something in flight.
func (b *metered) union(from, to time.Time) (all time.Duration) {
	type span struct{ from, to time.Duration } // after from
	long := to.Sub(from)
	spans := make([]span, 0, len(b.flights))
	for _, f := range b.flights {
		s := span{max(0, f.Began.Sub(from)), long}
		if !f.Ended.IsZero() {
			s.to = min(long, f.Ended.Sub(from))
		}
		if s.to > s.from {
			spans = append(spans, s)
		}
	}
	slices.SortFunc(spans, func(a, b span) int { return cmp.Compare(a.from, b.from) })
	at := time.Duration(0)
	for _, s := range spans {
		at = max(at, s.from)
		if s.to > at {
			all += s.to - at
			at = s.to
		}
	}
	return all
}
