package loadtest

import (
	"cmp"
	"maps"
	"slices"
	"sync"
	"time"

	"github.com/HdrHistogram/hdrhistogram-go"
)

// Bounds of what is kept of a load, however long it is.
const (
	maxTime   = time.Hour // longer times count as this
	maxKinds  = 64        // of what went wrong; others are "other"
	maxModels = 128       // that have figures of their own; others are othersName
	maxParts  = 600       // of the timeline; two become one when there are more

	othersName = "(others)"
)

// Times is a distribution of times, exact to a thousandth (or as it was made), from 1 µs to an hour.
type Times struct{ h *hdrhistogram.Histogram }

func newTimes(digits int) Times {
	return Times{hdrhistogram.New(1, maxTime.Microseconds(), digits)}
}

func (t Times) add(d time.Duration) {
	us := min(max(d.Microseconds(), 1), maxTime.Microseconds())
	if err := t.h.RecordValue(us); err != nil {
		panic("BUG: a time out of the bounds of its histogram: " + err.Error())
	}
}

// Count is how many there are.
func (t Times) Count() int64 { return t.h.TotalCount() }

// At is the time that so many percent do not exceed; 0 if there are none.
func (t Times) At(percent float64) time.Duration {
	if t.Count() == 0 {
		return 0
	}
	return time.Duration(t.h.ValueAtQuantile(percent)) * time.Microsecond
}

// Mean is the average.
func (t Times) Mean() time.Duration { return time.Duration(t.h.Mean() * float64(time.Microsecond)) }

// Max is the longest.
func (t Times) Max() time.Duration { return time.Duration(t.h.Max()) * time.Microsecond }

// Result is what the clients of a load saw. It counts what began after the warm-up.
type Result struct {
	Began, Ended time.Time     // sending, and with the last answer
	WarmUp       time.Duration // that does not count

	TTFT  Times // from when a request was to begin to the first token; of whatever got one
	Gaps  Times // between tokens of streams
	Total Times // from when a request was to begin to the end of its answer; of those that ended well
	Late  Times // by how much requests began later than they were to: what the load itself could not keep up with

	mu       sync.Mutex // guards what follows
	warm     int64      // requests of the warm-up
	open     int64      // requests that have begun and not ended
	most     int64      // at once, ever
	outcomes map[Outcome]int64
	kinds    map[Kind]int64
	models   map[string]*ModelResult
	tokens   int64
	bytes    int64
	line     timeline
}

// Kind is a way in which requests ended other than well.
type Kind struct {
	Outcome Outcome
	Kind    string
}

// ModelResult is the part of one model.
type ModelResult struct {
	Name     string
	Outcomes map[Outcome]int64
	TTFT     Times // exact to a hundredth
	Total    Times
}

// NewResult has nothing yet.
func NewResult() *Result {
	return &Result{
		TTFT: newTimes(3), Gaps: newTimes(3), Total: newTimes(3), Late: newTimes(3),
		outcomes: map[Outcome]int64{}, kinds: map[Kind]int64{}, models: map[string]*ModelResult{}, line: timeline{every: time.Second},
	}
}

func (r *Result) begin(l Load) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.Began, r.WarmUp = time.Now(), l.WarmUp
	if l.For > 0 {
		for r.line.every > 10*time.Millisecond && l.For/r.line.every < 60 {
			r.line.every /= 2
		}
	}
}

func (r *Result) end() {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.Ended = time.Now()
}

// sent notes that a request has begun.
func (r *Result) sent(at time.Duration) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.open++
	r.most = max(r.most, r.open)
	r.line.at(at).Sent++
}

// add takes in the answer to a request that was due at some time.
func (r *Result) add(q *Request, due time.Time, a Answer) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.open--
	part := r.line.at(a.Ended.Sub(r.Began))
	part.Ended[a.Outcome]++
	part.Tokens += int64(a.Tokens)
	if !a.First.IsZero() {
		r.line.at(q.At).TTFT.add(a.First.Sub(due))
	}
	if q.At < r.WarmUp {
		r.warm++
		return
	}
	r.outcomes[a.Outcome]++
	if a.Outcome != OK {
		r.count(Kind{a.Outcome, a.Kind})
	}
	r.tokens, r.bytes = r.tokens+int64(a.Tokens), r.bytes+a.Bytes
	m := r.model(q.Model)
	m.Outcomes[a.Outcome]++
	r.Late.add(a.Sent.Sub(due))
	if !a.First.IsZero() {
		r.TTFT.add(a.First.Sub(due))
		m.TTFT.add(a.First.Sub(due))
	}
	for _, gap := range a.Gaps {
		r.Gaps.add(gap)
	}
	if a.Outcome == OK {
		r.Total.add(a.Ended.Sub(due))
		m.Total.add(a.Ended.Sub(due))
	}
}

// count counts a kind. r.mu is held.
func (r *Result) count(k Kind) {
	if _, known := r.kinds[k]; !known && len(r.kinds) >= maxKinds {
		k.Kind = "other"
	}
	r.kinds[k]++
}

// model is the part of one. r.mu is held.
func (r *Result) model(name string) *ModelResult {
	if m := r.models[name]; m != nil {
		return m
	}
	if len(r.models) >= maxModels-1 {
		name = othersName
		if m := r.models[name]; m != nil {
			return m
		}
	}
	m := &ModelResult{Name: name, Outcomes: map[Outcome]int64{}, TTFT: newTimes(2), Total: newTimes(2)}
	r.models[name] = m
	return m
}

// Count is how many requests ended in some way.
func (r *Result) Count(o Outcome) int64 {
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.outcomes[o]
}

// Requests is how many ended, in any way, without those of the warm-up.
func (r *Result) Requests() (n int64) {
	r.mu.Lock()
	defer r.mu.Unlock()
	for _, of := range r.outcomes {
		n += of
	}
	return n
}

// Everything is how many ended by outcome with those of the warm-up among them, and how many have not.
func (r *Result) Everything() (ended map[Outcome]int64, open int64) {
	r.mu.Lock()
	defer r.mu.Unlock()
	ended = map[Outcome]int64{}
	for _, p := range r.line.parts {
		for o, n := range p.Ended {
			ended[o] += n
		}
	}
	return ended, r.open
}

// Warm is how many requests the warm-up had.
func (r *Result) Warm() int64 { r.mu.Lock(); defer r.mu.Unlock(); return r.warm }

// Most is how many requests were open at once.
func (r *Result) Most() int64 { r.mu.Lock(); defer r.mu.Unlock(); return r.most }

// Tokens is how many came.
func (r *Result) Tokens() int64 { r.mu.Lock(); defer r.mu.Unlock(); return r.tokens }

// Bytes is how many came of answers.
func (r *Result) Bytes() int64 { r.mu.Lock(); defer r.mu.Unlock(); return r.bytes }

// Took is the time that counts: from the end of the warm-up to the last answer.
func (r *Result) Took() time.Duration { return max(r.Ended.Sub(r.Began)-r.WarmUp, time.Millisecond) }

// KindCount is how often requests ended in a way.
type KindCount struct {
	Kind
	Count int64
}

// Kinds are the ways in which requests ended other than well, the most frequent first.
func (r *Result) Kinds() (all []KindCount) {
	r.mu.Lock()
	defer r.mu.Unlock()
	for k, n := range r.kinds {
		all = append(all, KindCount{k, n})
	}
	slices.SortFunc(all, func(a, b KindCount) int {
		return cmp.Or(cmp.Compare(b.Count, a.Count), cmp.Compare(a.Outcome, b.Outcome), cmp.Compare(a.Kind.Kind, b.Kind.Kind))
	})
	return all
}

// Models are the parts of all models, the one with the most requests first. Only for a load that has ended.
func (r *Result) Models() []*ModelResult {
	r.mu.Lock()
	defer r.mu.Unlock()
	return slices.SortedFunc(maps.Values(r.models), func(a, b *ModelResult) int {
		return cmp.Or(cmp.Compare(b.requests(), a.requests()), cmp.Compare(a.Name, b.Name))
	})
}

func (m *ModelResult) requests() (n int64) {
	for _, of := range m.Outcomes {
		n += of
	}
	return n
}

// Now is where a load that runs is.
type Now struct {
	Sent, Open, Tokens int64
	Ended              map[Outcome]int64
	TTFT50, TTFT99     time.Duration
}

// Now reads it. Those of the warm-up are counted as well, so that something moves.
func (r *Result) Now() Now {
	ended, open := r.Everything()
	r.mu.Lock()
	defer r.mu.Unlock()
	n := Now{Open: open, Ended: ended, TTFT50: r.TTFT.At(50), TTFT99: r.TTFT.At(99), Sent: open}
	for _, of := range ended {
		n.Sent += of
	}
	for _, p := range r.line.parts {
		n.Tokens += p.Tokens
	}
	return n
}

// Part is what happened in one part of a load's time.
type Part struct {
	Sent   int64
	Ended  map[Outcome]int64
	Tokens int64 // of answers that ended
	TTFT   Times // of requests that were to begin in it; exact to a tenth
}

// timeline cuts the time of a load into parts of the same length.
type timeline struct {
	every time.Duration
	parts []*Part
}

func newPart() *Part { return &Part{Ended: map[Outcome]int64{}, TTFT: newTimes(1)} }

func (l *timeline) at(t time.Duration) *Part {
	for int(t/l.every) >= maxParts {
		l.halve()
	}
	for len(l.parts) <= int(t/l.every) {
		l.parts = append(l.parts, newPart())
	}
	return l.parts[t/l.every]
}

// halve makes one part of two.
func (l *timeline) halve() {
	l.every *= 2
	for i := 0; i < len(l.parts); i += 2 {
		p := l.parts[i]
		if i+1 < len(l.parts) {
			p.take(l.parts[i+1])
		}
		l.parts[i/2] = p
	}
	l.parts = l.parts[:(len(l.parts)+1)/2]
}

func (p *Part) take(next *Part) {
	p.Sent, p.Tokens = p.Sent+next.Sent, p.Tokens+next.Tokens
	for o, n := range next.Ended {
		p.Ended[o] += n
	}
	p.TTFT.h.Merge(next.TTFT.h)
}

// Timeline is what happened in each part of the load's time, warm-up included, and how long a part is. Only for a load that
// has ended.
func (r *Result) Timeline() (every time.Duration, parts []*Part) {
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.line.every, r.line.parts
}

// EndedBetween is how many requests ended in the parts of the timeline that reach into a time, and so at least how many did in it.
func (r *Result) EndedBetween(from, to time.Time) (n int64) {
	r.mu.Lock()
	defer r.mu.Unlock()
	for i, p := range r.line.parts {
		begin := r.Began.Add(time.Duration(i) * r.line.every)
		if begin.Before(to) && begin.Add(r.line.every).After(from) {
			for _, of := range p.Ended {
				n += of
			}
		}
	}
	return n
}
