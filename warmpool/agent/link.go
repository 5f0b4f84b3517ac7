package agent

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"maps"
	"math/rand/v2"
	"slices"
	"sync"
	"syscall"
	"time"

	"pilotlight/probe/meter"
	"pilotlight/router"
)

const (
	// silence is how long a link may be silent before it is made anew.
	silence = 5 * time.Second
	// firstPause and maxPause bound the time between two attempts to make a link, half of it more or less.
	firstPause = 50 * time.Millisecond
	maxPause   = time.Second
	// saying is the least time between two messages of an edge.
	saying = time.Millisecond
	// patience is how long an ask waits for a link that is gone.
	patience = 5 * time.Second
	// skew is how far an agent's clock may be off before its times are corrected. Less is not told from the way between.
	skew = 100 * time.Millisecond
	// slowWay is how long a message may be on its way before it is said that GPU time suffers: what an edge says is taken to happen when it comes.
	slowWay = 50 * time.Millisecond
)

// Fleet is what a link tells and asks its edge. It calls Observe and Grant one at a time.
type Fleet interface {
	// Observe takes over what a node is now.
	Observe(Node)
	// Grant says which slots of a backend the edge may use from now on.
	Grant(backend string, g router.Grant)
	// Read takes in what probes have seen on a node.
	Read(node string, seen router.Readings)
	// Use says how much a backend is used through this edge.
	Use(backend string) router.Use
	// Metered takes in what requests of this edge took of a node's GPUs, and, if the edge is the one that is told, what belongs to no request.
	Metered(node string, settled []meter.Settled, accounts []meter.Account)
}

// EdgeStream is an edge's end of a stream of messages. Close ends it on both sides, whatever they do.
type EdgeStream interface {
	Send(*Up) error
	Recv() (*Down, error)
	Close()
}

// Dial opens a stream to an agent. Its error wraps syscall.ECONNREFUSED where the agent's host says that nobody listens there.
type Dial func(ctx context.Context, addr string) (EdgeStream, error)

// Link is an edge's end of the link to one agent. All its methods may be called from any goroutine.
type Link struct {
	addr   string
	ending func() bool // the edge ends, with nothing in flight
	self   Edge
	fleet  Fleet
	dial   Dial
	log    *slog.Logger

	kicked chan struct{} // capacity 1: there is something to say

	stirring sync.Mutex // guards stirred; held for moments only
	stirred  map[string]bool

	mu      sync.Mutex // guards what follows
	node    *Node      // as last heard; nil: never
	guessed bool       // node is what somebody else says of it
	slots   map[string]router.Grant
	until   time.Time   // up to when the edge admits to the node's backends
	lapse   *time.Timer // goes off then
	away    bool        // that has passed, and nothing is admitted
	state   LinkState
	heard   time.Time // last
	why     error     // why there is no link
	gone    time.Time // since when there is none
	told    map[string]router.Use
	uses    map[string]router.Use // of all edges, as the agent says
	wishes  map[string]router.Wish
	wish    bool // wishes are to be said
	ack     uint64
	acked   uint64 // what the agent was told of it
	asks    map[uint64]*asking
	asked   uint64 // the last ID
	tell    bool   // asks have changed
	sent    []time.Time
	first   uint64 // Up.Count of sent[0]
	flying  flying
	book    Book          // the last that was taken in, without what it holds
	way     time.Duration // that a message takes, about
	offset  time.Duration // of the agent's clock, ahead of ours, about
	slow    bool          // way is long
}

// asking is somebody who waits for an answer.
type asking struct {
	Ask
	done chan error // capacity 1
}

// LinkState is how a link is.
type LinkState string

// The states of a link.
const (
	Linked  LinkState = "linked"
	Away    LinkState = "away"    // its agent's host says that nobody listens there: what it left ready is routed to
	CutOff  LinkState = "cut off" // it does not answer: what it has is routed to until the lease ends
	Unknown LinkState = "not linked yet"
)

// newLink makes the link to the agent at addr. It does nothing until run.
func newLink(addr string, ending func() bool, self Edge, fleet Fleet, dial Dial, log *slog.Logger) *Link {
	return &Link{
		addr: addr, ending: ending, self: self, fleet: fleet, dial: dial, log: log.With("agent", addr), kicked: make(chan struct{}, 1), stirred: map[string]bool{},
		state: Unknown, away: true, gone: time.Now(), asks: map[uint64]*asking{}, uses: map[string]router.Use{}, slots: map[string]router.Grant{},
		flying: newFlying(),
	}
}

// run keeps the link until ctx ends. If the edge ends with it, it says so.
func (l *Link) run(ctx context.Context) {
	pause := firstPause
	for ctx.Err() == nil {
		began := time.Now()
		err := l.speak(ctx)
		l.lost(began, err)
		if time.Since(began) > silence {
			pause = firstPause
		}
		select {
		case <-time.After(pause/2 + rand.N(pause)):
		case <-ctx.Done():
		}
		pause = min(2*pause, maxPause)
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.lapse != nil {
		l.lapse.Stop()
	}
	if l.away = true; !l.ending() {
		l.show() // the edge goes on, without this node
	}
}

// lost notes that there is no link. That nobody listens is as good as having heard the agent at the time when the attempt began:
// one that was started later puts nothing to sleep before it has counted on the edges of before for a lease.
func (l *Link) lost(began time.Time, why error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	state, was := CutOff, l.away
	if errors.Is(why, syscall.ECONNREFUSED) {
		state = Away
		if l.renew(began, LeaseTime); was != l.away {
			l.show()
		}
	} else if l.node == nil {
		state = Unknown
	}
	if l.state != state {
		l.log.Warn("no link to an agent", "state", string(state), "error", why)
	}
	if l.state == Linked {
		l.gone = time.Now()
	}
	l.state, l.why = state, why
}

// renew lets the edge admit for as long as the agent counts on it, having heard it at that time. l.mu is held.
func (l *Link) renew(at time.Time, lease time.Duration) {
	if until := at.Add(lease - min(leaseMargin, lease/2)); until.After(l.until) {
		l.until = until
	}
	left := time.Until(l.until)
	if left <= 0 {
		return
	}
	if l.lapse == nil {
		l.lapse = time.AfterFunc(left, l.stop)
	} else {
		l.lapse.Reset(left)
	}
	l.away = false
}

// stop admits nothing to the node's backends any more, unless the agent has been heard.
func (l *Link) stop() {
	l.mu.Lock()
	defer l.mu.Unlock()
	if time.Now().Before(l.until) || l.away {
		return
	}
	l.away = true
	l.log.Warn("an agent is out of reach: nothing is sent to its backends", "heard", l.heard)
	l.show()
}

// show hands what the node is, and the edge's slots there, to the fleet. l.mu is held.
func (l *Link) show() {
	if l.node == nil {
		return
	}
	shown := *l.node
	if l.away {
		shown.Backends = slices.Clone(shown.Backends)
		for i := range shown.Backends {
			if b := &shown.Backends[i]; b.State == router.Ready {
				b.State, b.Reason = router.Draining, "the agent of "+shown.Name+" is out of reach"
			}
		}
	}
	l.fleet.Observe(shown)
	l.grant()
}

// speak makes the link and keeps it until it breaks or ctx ends.
func (l *Link) speak(ctx context.Context) error {
	dialing, cancel := context.WithTimeout(ctx, silence)
	defer cancel()
	s, err := l.dial(dialing, l.addr)
	if err != nil {
		return fmt.Errorf("reach the agent: %w", err)
	}
	defer s.Close()
	l.begin()
	said, over := make(chan error, 1), make(chan struct{})
	go func() { said <- l.say(ctx, over, s) }()
	err = l.listen(s)
	s.Close()
	close(over)
	return errors.Join(err, <-said)
}

// begin prepares for a stream whose first message has all parts.
func (l *Link) begin() {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.told, l.ack, l.acked, l.sent, l.first, l.tell = map[string]router.Use{}, 0, 0, nil, 1, true
	l.wish = l.wish || len(l.wishes) > 0 // an agent that was started anew has not heard them
	l.flying.anew()
}

// listen acts on what the agent says.
func (l *Link) listen(s EdgeStream) error {
	watch := time.AfterFunc(silence, s.Close)
	defer watch.Stop()
	for {
		m, err := s.Recv()
		if err != nil {
			return fmt.Errorf("hear the agent: %w", err)
		}
		watch.Reset(silence)
		l.act(m)
	}
}

// act does what an agent says.
func (l *Link) act(m *Down) {
	now := time.Now()
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.state != Linked {
		l.log.Info("an agent is linked")
		l.state, l.why = Linked, nil
	}
	was := l.away
	l.heard, l.ack = now, m.Seq
	m.inTime(now)
	if m.Node != nil {
		l.node, l.guessed = m.Node, false
	}
	if m.Slots != nil {
		l.slots = m.Slots
	}
	if m.Heard >= l.first && m.Heard < l.first+uint64(len(l.sent)) {
		at := l.sent[m.Heard-l.first]
		l.sent, l.first = l.sent[m.Heard-l.first:], m.Heard
		l.renew(at, m.Lease)
		l.flying.heard(m.Heard)
		l.gauge((now.Sub(at)-m.Held)/2, now.Sub(m.At))
	}
	switch {
	case m.Node != nil || was != l.away:
		l.show()
	case m.Slots != nil && !l.away:
		l.grant()
	}
	for id, u := range m.Uses {
		l.uses[id] = router.Use{InFlight: u.InFlight, Waiting: u.Waiting, Bytes: u.Bytes, Last: now.Add(-u.Idle), Granted: u.Granted}
	}
	if m.Read != nil && l.node != nil {
		l.fleet.Read(l.node.Name, *m.Read)
	}
	for _, a := range m.Answers {
		if w := l.asks[a.ID]; w != nil {
			w.done <- a.err()
			delete(l.asks, a.ID)
			l.tell = true
		}
	}
	l.settled(m)
	if m.Node != nil || m.Slots != nil || m.Answers != nil || m.Settled != nil || m.Book != nil {
		l.kick()
	}
}

// gauge takes in how long a message was on its way, half of the way there and back, and by how much the agent's clock is behind, the way included. l.mu is held.
func (l *Link) gauge(way, behind time.Duration) {
	const weight = 8 // one message counts for an eighth: a process may have to wait for its processor
	if way = max(0, way); l.way == 0 {
		l.way = way
	}
	l.way += (way - l.way) / weight
	l.offset = l.way - behind
	switch slow := l.way > slowWay; {
	case slow && !l.slow:
		l.log.Warn("messages are long on their way: GPU time is not divided well among requests that are shorter than that", "way", l.way.String())
		l.slow = true
	case l.slow && l.way < slowWay/2:
		l.log.Info("messages are no longer long on their way", "way", l.way.String())
		l.slow = false
	}
}

// settled passes on what the agent says of GPU time. l.mu is held.
func (l *Link) settled(m *Down) {
	var accounts []meter.Account
	if b := m.Book; b != nil && (b.Life != l.book.Life || b.Number > l.book.Number) {
		l.book = Book{Life: b.Life, Number: b.Number}
		accounts = b.Accounts
	}
	if l.node != nil && (m.Settled != nil || accounts != nil) {
		l.fleet.Metered(l.node.Name, m.Settled, accounts)
	}
}

// grant hands the edge's slots to the fleet. l.mu is held.
func (l *Link) grant() {
	for i := range l.node.Backends {
		id := l.node.Backends[i].ID
		if l.away {
			l.fleet.Grant(id, router.Grant{})
		} else {
			l.fleet.Grant(id, l.slots[id])
		}
	}
}

// suggest says what somebody else knows of a node whose agent was never heard. Where its host says that nobody listens there, that
// counts, with all its slots: there is nobody to ask for them.
func (l *Link) suggest(n Node) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.node != nil && !l.guessed {
		return
	}
	n.Backends = slices.Clone(n.Backends)
	l.node, l.guessed, l.slots = &n, true, map[string]router.Grant{}
	for i := range n.Backends {
		b := &n.Backends[i]
		if b.Shared = true; b.State == router.Ready {
			l.slots[b.ID] = router.Grant{Slots: b.Slots}
		}
	}
	l.show()
}

// inTime sets the times of a message by this host's clock.
func (m *Down) inTime(now time.Time) {
	ahead := now.Sub(m.At)
	if ahead.Abs() <= skew {
		return
	}
	var times []*time.Time
	if n := m.Node; n != nil {
		for i := range n.Backends {
			b := &n.Backends[i]
			w := &b.Woken
			times = append(times, &b.Since, &b.Rested, &w.Wanted, &w.Left, &w.Room, &w.Answered, &w.Ready)
		}
		for i := range n.Wakes {
			times = append(times, &n.Wakes[i].Ready)
		}
	}
	for i := range m.Settled {
		times = append(times, &m.Settled[i].At)
	}
	if m.Book != nil {
		for i := range m.Book.Accounts {
			times = append(times, &m.Book.Accounts[i].From, &m.Book.Accounts[i].To)
		}
	}
	if r := m.Read; r != nil {
		if r.GPUs != nil {
			times = append(times, &r.GPUs.At)
		}
		for id, reading := range r.Backends {
			reading.At = reading.At.Add(ahead)
			r.Backends[id] = reading
		}
	}
	for _, t := range times {
		if !t.IsZero() {
			*t = t.Add(ahead)
		}
	}
}

// kick lets the link say what there is to say. It never blocks.
func (l *Link) kick() {
	select {
	case l.kicked <- struct{}{}:
	default:
	}
}

// want says what the planner wants of the node's backends, in place of what it wanted before.
func (l *Link) want(wishes map[string]router.Wish) {
	l.mu.Lock()
	l.wishes, l.wish = wishes, true
	l.mu.Unlock()
	l.kick()
}

// use is how much a backend is used over all edges, as its agent said last.
func (l *Link) use(backend string) (u router.Use, told bool) {
	l.mu.Lock()
	defer l.mu.Unlock()
	u, told = l.uses[backend]
	return u, told
}

// stir tells the link that the use of a model has changed. It never waits for anything but itself.
func (l *Link) stir(model string) {
	l.stirring.Lock()
	l.stirred[model] = true
	l.stirring.Unlock()
	l.kick()
}

// say tells the agent what there is to say, and something every beat, until the stream is over or ctx ends.
func (l *Link) say(ctx context.Context, over <-chan struct{}, s EdgeStream) error {
	tick := time.NewTicker(beat)
	defer tick.Stop()
	due := true
	for count := uint64(1); ; {
		if m := l.message(count, due); m != nil {
			count++
			if err := s.Send(m); err != nil {
				s.Close()
				return fmt.Errorf("tell the agent: %w", err)
			}
		}
		due = false
		select {
		case <-time.After(saying):
		case <-ctx.Done():
		}
		select {
		case <-l.kicked:
		case <-tick.C:
			due = true
		case <-over:
			return nil
		case <-ctx.Done():
			if !l.ending() {
				s.Close()
				return nil
			}
			_ = s.Send(&Up{Count: count, Bye: true}) // or else the lease ends by itself
			time.AfterFunc(beat, s.Close)            // the agent ends the stream when it has heard that
			return nil
		}
	}
}

// message is what there is to say; nil: nothing, unless it is due. What an edge uses is counted after what it acknowledges.
func (l *Link) message(count uint64, due bool) *Up {
	l.stirring.Lock()
	stirred := l.stirred
	l.stirred = map[string]bool{}
	l.stirring.Unlock()
	l.mu.Lock()
	defer l.mu.Unlock()
	m := &Up{Count: count, Ack: l.ack}
	if count == 1 {
		m.Edge, m.Held = new(l.self), maps.Clone(l.slots)
	}
	now := time.Now()
	if l.node != nil {
		for i := range l.node.Backends {
			b := &l.node.Backends[i]
			if !due && !stirred[b.Model] && l.ack == l.acked {
				continue
			}
			u := l.fleet.Use(b.ID)
			if was, ok := l.told[b.ID]; ok && was == u {
				continue
			}
			if m.Uses == nil {
				m.Uses = map[string]Use{}
			}
			l.told[b.ID] = u
			m.Uses[b.ID] = Use{InFlight: u.InFlight, Waiting: u.Waiting, Bytes: u.Bytes, Idle: now.Sub(u.Last), Granted: u.Granted}
		}
	}
	if l.tell {
		m.Asks = []Ask{}
		for _, id := range slices.Sorted(maps.Keys(l.asks)) {
			m.Asks = append(m.Asks, l.asks[id].Ask)
		}
	}
	if l.wish {
		m.Wishes = map[string]Wish{}
		for id, w := range l.wishes {
			m.Wishes[id] = Wish{Tier: w.Tier, Age: now.Sub(w.Made), For: w.Until.Sub(w.Made), Why: w.Why, Worth: w.Worth}
		}
		l.wish = false
	}
	m.Flights = l.flying.say(count, now)
	if m.Uses == nil && m.Asks == nil && m.Wishes == nil && m.Flights == nil && l.ack == l.acked && !due {
		return nil
	}
	l.acked, l.tell = l.ack, false
	l.sent = append(l.sent, now)
	return m
}

// ask has the agent do something and waits until it is done. What waits for a link that is gone is refused after a while.
func (l *Link) ask(ctx context.Context, verb Verb, name string) error {
	l.mu.Lock()
	l.asked++
	a := &asking{Ask: Ask{ID: l.asked, Verb: verb, Name: name}, done: make(chan error, 1)}
	l.asks[a.ID], l.tell = a, true
	l.mu.Unlock()
	l.kick()
	defer func() {
		l.mu.Lock()
		defer l.mu.Unlock()
		if l.asks[a.ID] != nil {
			delete(l.asks, a.ID)
			l.tell = true
			l.kick()
		}
	}()
	tick := time.NewTicker(beat)
	defer tick.Stop()
	for {
		select {
		case err := <-a.done:
			return err
		case <-ctx.Done():
			return context.Cause(ctx)
		case <-tick.C:
			if err := l.unreachable(); err != nil {
				return err
			}
		}
	}
}

// unreachable is the refusal where there has been no link for too long.
func (l *Link) unreachable() error {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.state == Linked || time.Since(l.gone) < patience {
		return nil
	}
	name := l.addr
	if l.node != nil {
		name = l.node.Name
	}
	return &router.Refusal{
		Status: 503, Code: router.WakeFailed, RetryAfter: patience,
		Reason: fmt.Sprintf("the agent of %s is %s", name, l.state),
	}
}
