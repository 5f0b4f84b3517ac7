package proxy

import (
	"bytes"
	"context"
	"encoding/hex"
	"errors"
	"log/slog"
	"runtime/debug"
	"strconv"
	"sync"
	"time"

	"github.com/valyala/fasthttp"

	"pilotlight/proxy/keys"
	"pilotlight/router"
)

// Visit is the record of one request.
type Visit struct {
	ID        string         `json:"id"`
	At        time.Time      `json:"at"`
	Client    string         `json:"client"` // address, without port
	Method    string         `json:"method"`
	Path      string         `json:"path"` // without the query, cut off at 128 bytes
	Model     string         `json:"model,omitempty"`
	Backend   string         `json:"backend,omitempty"`
	Why       router.Why     `json:"why,omitzero"` // Backend was picked
	Status    int            `json:"status"`       // that the client got; 0: none
	Outcome   router.Outcome `json:"outcome"`
	Code      router.Code    `json:"code,omitempty"` // of a refusal, or backend_broken
	Reason    string         `json:"reason,omitempty"`
	Waited    time.Duration  `json:"waited_ns"` // in line
	Cold      bool           `json:"cold"`
	Overflow  bool           `json:"overflow,omitempty"` // Backend is the upstream that the model overflows to
	FirstByte time.Duration  `json:"first_byte_ns"`      // of the backend's answer, after At; 0: none came
	Total     time.Duration  `json:"total_ns"`
	BytesIn   int64          `json:"bytes_in"`  // of the request's body
	BytesOut  int64          `json:"bytes_out"` // to the client, headers and framing included

	Number     uint64          `json:"-"`                  // the same as ID, for listeners
	Tenant     string          `json:"tenant,omitempty"`   // who asked; empty: nobody says
	TraceID    string          `json:"trace_id,omitempty"` // of a trace that is kept
	Context    Context         `json:"-"`                  // in a trace
	Tries      []Try           `json:"-"`                  // that reached no backend, before the last one
	Last       Try             `json:"-"`
	Served     *router.Backend `json:"-"`                        // Backend as it was when the request was given to it; nil: it is none of ours
	FirstToken time.Duration   `json:"first_token_ns,omitempty"` // of a stream, after At; 0: none came

	PromptTokens int64 `json:"prompt_tokens,omitempty"` // as the engine counted them; 0: it did not say
	Tokens       int64 `json:"tokens,omitempty"`        // of the answer, likewise
}

// Try is what was done for a request at one backend. Times are after the visit's At.
type Try struct {
	Backend string        // empty in Visit.Last, whose Visit has it
	Stood   bool          // it stood in line
	Queued  time.Duration // since when
	Leased  time.Duration // until when; 0: it was given no slot
	Asked   time.Duration // when it was sent to the backend; 0: it was not
	Ended   time.Duration // 0 in Visit.Last
}

// kept is how many visits are kept for /debug/visits.
const kept = 512

// maxPath is how much of a path a visit keeps.
const maxPath = 128

// phase is how far a request is.
type phase uint8

// The phases.
const (
	reading phase = iota
	inLine
	asking    // its backend; no byte has come yet
	streaming // its answer
	phases
)

func (p phase) String() string { return [...]string{"request", "line", "first_byte", "stream"}[p] }

// visit is a request while it is served. It belongs to the handler's goroutine, and is used again for others.
type visit struct {
	record
	edge *Edge
	conn *conn
	call *call // of gRPC; nil: it is none
	*intake
	holder  *keys.Holder // nil: nobody asks who asks
	entered bool         // holder.Leave is to be called
	lease   router.Lease
	held    bool // lease is to be released
	phase   phase
	begun   bool // headers of a stream are out: heartbeats
	aside   bool // the answer goes on after the handler has returned: see stepAside
	last    bool // the connection closes afterwards
	http1   bool // the client speaks HTTP/1.1, not 1.0

	end     time.Time // when the backend must be done
	upgrade []byte    // what the client wants its connection upgraded to; nil: nothing
	upload  *upload   // of a body that was not read before; nil: it was
	passage passage   // of the answer

	known  string // the model's own name, once it is certain that there is one
	tried  router.Tried
	to     destination
	stayed bool // it could not overflow, and does not try again

	carry    carried
	streamed bool // the client asked for a stream

	tells    bool // the answer says what it took
	behind   bool // or its trailer does, as far as only then it is known
	flight   flight
	attempts uint8 // how many flights it has had

	leftOut uint64 // lines of requests before it that the log has not
}

// record is a Visit as it is kept in the ring: without anything that must be allocated for each request.
type record struct {
	Visit
	id      uint64
	path    [maxPath]byte
	pathLen int
}

// ring holds the last visits.
type ring struct {
	mu   sync.Mutex // guards what follows
	all  [kept]record
	next int
}

func (r *ring) add(v *record) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.all[r.next] = *v
	r.all[r.next].Served, r.all[r.next].Tries = nil, nil // a fleet that is no more would be kept with them
	r.next = (r.next + 1) % kept
}

// Visits are the last requests that have ended, up to 512, the latest first.
func (e *Edge) Visits() []Visit {
	r := &e.ring
	r.mu.Lock()
	defer r.mu.Unlock()
	var all []Visit
	for i := range r.all {
		v := &r.all[(r.next-1-i+2*kept)%kept]
		if v.At.IsZero() {
			break
		}
		all = append(all, v.whole())
	}
	return all
}

// whole is the visit with its strings.
func (v *record) whole() Visit {
	w := v.Visit
	w.ID, w.Path = v.name(), string(v.path[:v.pathLen])
	if v.Context.Sampled() {
		w.TraceID = hex.EncodeToString(v.Context.Trace[:])
	}
	return w
}

// name is the request's ID: unique among the edges' requests, for all that matters.
func (v *record) name() string { return VisitID(v.id) }

// VisitID is the ID of the visit of that Number.
func VisitID(number uint64) string { return strconv.FormatUint(number, 36) }

// open begins the record of a request. It is broken until it is known to be otherwise.
func (e *Edge) open(c *conn, in *intake) *visit {
	at := c.came
	if at.IsZero() {
		at = time.Now()
	}
	verb, target := in.request.Header.Method(), in.request.Header.RequestURI()
	if !in.whole {
		verb, target = begun(c.source.bytes())
	}
	v := e.receive(c, in, verb, target, at)
	v.http1 = in.http11
	v.conn.requests++
	v.last = !in.http11 || in.head.close || v.conn.requests >= e.limits.RequestsPerConnection
	return v
}

// receive is open for whoever has read a request in another way. At is when the request had come.
func (e *Edge) receive(c *conn, in *intake, verb, target []byte, at time.Time) *visit {
	v, ok := e.visits.Get().(*visit)
	if !ok {
		v = &visit{}
	}
	v.edge, v.conn, v.intake = e, c, in
	v.id, v.At = e.lastID.Add(1), at
	v.Client, v.Method = c.client, method(verb)
	path, _, _ := bytes.Cut(target, []byte("?"))
	v.pathLen = copy(v.path[:], path)
	e.metrics.inFlight.Inc()
	return v
}

// close ends the record: the handler's outermost defer. A panic in the handler costs its connection, not the process. If
// the answer goes on, serve lets go of the connection.
func (v *visit) close() {
	if v.aside {
		v.edge.putBack(v.intake)
		v.intake = nil
		return
	}
	if p := recover(); p != nil {
		v.Outcome, v.Code, v.last = router.Broken, "", true
		v.edge.log.Error("handler panicked", "request", v.name(), "panic", p, "stack", string(debug.Stack()))
	}
	v.release()
	e := v.edge
	v.conn.last = v.last || v.conn.Err() != nil || v.conn.ln.parts()
	v.conn.ended = time.Now()
	v.Total = v.conn.ended.Sub(v.At)
	e.metrics.inFlight.Dec()
	if m, ok := e.router.Model(v.Model); ok && v.known == "" {
		v.known = m.Name
	}
	v.kept()
	e.metrics.count(&v.Visit, v.known, v.phase)
	e.ring.add(&v.record)
	v.leave()
	v.tell()
	v.ended()
	if v.intake != nil {
		e.putBack(v.intake)
	}
	*v = visit{}
	e.visits.Put(v)
}

// release gives the slot back if there is one.
func (v *visit) release() {
	if v.held {
		v.held = false
		v.gives()
		v.lease.Release(v.Outcome)
	}
}

// tell has the log say how the request ended.
func (v *visit) tell() {
	e := v.edge
	if e.sample.skips(v) {
		return
	}
	v.leftOut = e.sample.rest()
	if e.lines == nil {
		v.log(e.log)
		return
	}
	b := e.buffers.get()
	defer e.buffers.put(b)
	_, _ = e.lines.Write(v.appendLine((*b)[:0])) // where that fails there is nobody to tell
}

func (v *visit) log(log *slog.Logger) {
	ctx := context.Background()
	if !log.Enabled(ctx, slog.LevelInfo) {
		return
	}
	tenant := slog.Attr{} // which is left out
	if v.Tenant != "" {
		tenant = slog.String("tenant", v.Tenant)
	}
	trace := slog.Attr{}
	if v.Context.Sampled() {
		trace = slog.String("trace_id", hex.EncodeToString(v.Context.Trace[:]))
	}
	leftOut := slog.Attr{}
	if v.leftOut > 0 {
		leftOut = slog.Uint64("left_out", v.leftOut)
	}
	log.LogAttrs(ctx, slog.LevelInfo, "request", slog.String("id", v.name()), slog.String("outcome", v.Outcome.String()),
		slog.Int("status", v.Status), slog.String("code", string(v.Code)), slog.String("reason", v.Reason), slog.String("model", v.Model),
		slog.String("backend", v.Backend), slog.String("method", v.Method), slog.String("path", string(v.path[:v.pathLen])),
		slog.Float64("waited_ms", ms(v.Waited)), slog.Bool("cold", v.Cold), slog.Bool("overflow", v.Overflow), slog.Float64("first_byte_ms", ms(v.FirstByte)),
		slog.Float64("total_ms", ms(v.Total)), slog.Int64("bytes_in", v.BytesIn), slog.Int64("bytes_out", v.BytesOut),
		slog.String("client", v.Client), tenant, trace, leftOut)
}

// ms is a duration for people who read logs.
func ms(d time.Duration) float64 { return float64(d.Microseconds()) / 1000 }

// send writes to the client.
func (v *visit) send(b []byte) error {
	if err := v.conn.send(b); err != nil {
		return err
	}
	v.BytesOut += int64(len(b))
	return nil
}

// fail ends the visit for a reason: a refusal, which the client is told, or a departure, or else a break, which the
// client sees because its connection closes in the middle of the answer.
func (v *visit) fail(err error) {
	if why := v.conn.Err(); why != nil {
		err = why
	}
	refusal, told := errors.AsType[*router.Refusal](err)
	v.Outcome, v.Reason = router.Broken, err.Error()
	switch {
	case errors.Is(err, router.ErrLeft):
		v.Outcome = router.Left
	case errors.Is(err, errCut):
		v.Code = router.ShuttingDown
	case !told || refusal.Code == router.BackendBroken:
		v.Code = router.BackendBroken
	default:
		v.Outcome = router.Refused
	}
	v.release()
	if told {
		v.refuse(refusal)
	} else {
		v.last = true
	}
}

// refuse says no in the API's own form. Where the headers of a stream are out the refusal is its last event.
func (v *visit) refuse(r *router.Refusal) {
	v.Code = r.Code
	b := v.edge.buffers.get()
	defer v.edge.buffers.put(b)
	dst := (*b)[:0]
	switch {
	case v.call != nil:
		v.Status = fasthttp.StatusOK
		dst = v.appendRefusedCall(dst, r)
	case v.begun:
		dst = appendEnd(appendChunk(dst, v.ask.api.event(nil, r)), nil)
	default:
		v.Status = r.Status
		dst = v.appendPage(dst, page{r.Status, "application/json", v.ask.api.refusal(nil, r)}, r)
	}
	if v.send(dst) != nil && v.Outcome == router.Refused {
		v.Outcome = router.Left
	}
}

// reply answers with a page of our own.
func (v *visit) reply(p page) {
	v.Outcome, v.Status = router.OK, p.status
	if v.send(v.appendPage(nil, p, nil)) != nil {
		v.Outcome = router.Left
	}
}

// appendPage appends an answer of our own; r is the refusal it holds, if it is one.
func (v *visit) appendPage(dst []byte, p page, r *router.Refusal) []byte {
	v.last = v.last || !v.http1 || v.conn.ln.draining()
	dst = append(strconv.AppendInt(append(dst, "HTTP/1.1 "...), int64(p.status), 10), ' ')
	dst = append(append(dst, fasthttp.StatusMessage(p.status)...), "\r\n"...)
	dst = appendField(dst, "Content-Type", p.contentType)
	dst = appendLength(dst, int64(len(p.body)))
	if r != nil {
		dst = appendField(dst, "X-Pilotlight-Request", v.name())
		if r.RetryAfter > 0 {
			seconds := (r.RetryAfter + time.Second - 1) / time.Second
			dst = appendField(dst, "Retry-After", strconv.Itoa(int(seconds)))
		}
		if r.Status == fasthttp.StatusUnauthorized { // RFC 9110, 15.5.2
			dst = appendField(dst, "WWW-Authenticate", `Bearer realm="pilotlight"`)
		}
	}
	if v.last {
		dst = appendField(dst, "Connection", "close")
	}
	dst = append(dst, "\r\n"...)
	if v.Method == "HEAD" {
		return dst
	}
	return append(dst, p.body...)
}

// method is a copy of a request's method that costs nothing for those in use.
func method(m []byte) string {
	switch string(m) {
	case "GET":
		return "GET"
	case "POST":
		return "POST"
	case "HEAD":
		return "HEAD"
	case "PUT":
		return "PUT"
	case "DELETE":
		return "DELETE"
	}
	return string(m[:min(len(m), 16)])
}
