package proxy

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"hash/maphash"
	"io"
	"log/slog"
	"math/rand/v2"
	"net"
	"os"
	"sync"
	"sync/atomic"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/valyala/fasthttp"

	"pilotlight/config"
	"pilotlight/router"
)

// Router lends slots; *router.Router is one.
type Router interface {
	// TryAcquire takes a slot at once or says router.ErrWait; anything else is a *router.Refusal.
	TryAcquire(router.Request) (router.Lease, error)
	// Acquire waits for a slot. It ends with a lease, a *router.Refusal, or the cause of ctx.
	Acquire(context.Context, router.Request) (router.Lease, error)
	// Model finds a model by its name or an alias.
	Model(name string) (*router.Model, bool)
	// Models lists what is known.
	Models() []router.ModelStatus
}

// Options are what an Edge is made of. Limits and Router are required.
type Options struct {
	Limits config.Limits
	Router Router
	// Trusted are the proxies whose word on who forwarded a request is believed. If empty, nobody's is.
	Trusted []config.Network
	// TLS is what the data port speaks. If nil, it speaks in clear.
	TLS *Certificates
	// Log gets one line per request. If nil, nothing is logged.
	Log *slog.Logger
	// Lines gets those lines in Log's place, as slog's JSONHandler writes them, each in one Write. If nil, Log gets them.
	Lines io.Writer
	// LeaveOut is the part of the requests that went well which have no line, from 0 to 1. The next line that is written says how many there were.
	LeaveOut float64
	// Registry gets the edge's metrics. If nil, they are counted for nobody.
	Registry prometheus.Registerer
	// Loads are asked for when metrics are: what models and backends are doing. If nil, that is told to nobody.
	Loads func() []router.Load
	// Access says who may ask. If nil, everybody may.
	Access Access
	// CertificateName is what of clients' certificates says who they are. If empty, nothing does.
	CertificateName config.CertificateName
	// PassKeys lets API keys go on to backends, which then see ours. Default: they go no further.
	PassKeys bool
	// Listeners hear of every request. If empty, nobody does, and that costs nothing.
	Listeners []Listener
	// Metered says that somebody asks for Flights, several times a second, and settles what they took.
	Metered bool
	// Tracing has requests stand in traces. If nil, what clients say of theirs is passed on as it is.
	Tracing *Tracing
	// Timing says which answers tell what they took. If empty, none.
	Timing config.Timing
	// Estimate guesses what a request took of GPUs from how long it was served, and what that costs, in billionths of Currency. If nil, nobody guesses.
	Estimate func(backend string, served time.Duration) (gpu time.Duration, cost int64)
	// Currency of costs. If empty, nothing has a price.
	Currency string
	// Shared says that the listener is from ListenShared: another edge may take over when this one shuts down, and no request
	// must be lost then.
	Shared bool
	// Dial connects to a backend. If nil, by TCP.
	Dial func(ctx context.Context, addr string) (net.Conn, error)
}

// Edge answers clients.
type Edge struct {
	limits       config.Limits
	shared       bool
	router       Router
	trusted      networks
	certificates *Certificates
	log          *slog.Logger
	lines        io.Writer
	metrics      *metrics
	listeners    []Listener
	access       Access // nil: everybody may ask
	certifies    config.CertificateName
	passKeys     bool
	tracing      *Tracing
	timing       config.Timing
	estimate     func(string, time.Duration) (time.Duration, int64)
	currency     string
	flights      *flights // nil: nobody measures what they take
	watch        *watch
	buffers      buffers
	upstreams    upstreams
	calls        calls
	visits       sync.Pool // of *visit
	intakes      sync.Pool // of *intake
	ring         ring
	lastID       atomic.Uint64
	sample       sample
	seed         maphash.Seed // of the keys of prompts' prefixes
}

// New makes an Edge.
func New(o Options) *Edge {
	if o.Log == nil {
		o.Log = slog.New(slog.DiscardHandler)
	}
	if o.Registry == nil {
		o.Registry = prometheus.NewRegistry()
	}
	if o.Dial == nil {
		o.Dial = func(ctx context.Context, addr string) (net.Conn, error) {
			var d net.Dialer
			return d.DialContext(ctx, "tcp", addr)
		}
	}
	e := &Edge{limits: o.Limits, shared: o.Shared, router: o.Router, trusted: networksOf(o.Trusted), certificates: o.TLS, log: o.Log, lines: o.Lines, metrics: newMetrics(o.Registry), listeners: o.Listeners, access: o.Access, certifies: o.CertificateName, passKeys: o.PassKeys, tracing: o.Tracing, timing: o.Timing, estimate: o.Estimate, currency: o.Currency, watch: newWatch(o.Log), seed: maphash.MakeSeed()}
	if o.LeaveOut > 0 {
		e.sample.leaveOut(o.LeaveOut, o.Registry)
	}
	if o.Loads != nil {
		o.Registry.MustRegister(prometheus.CollectorFunc(func(to chan<- prometheus.Metric) { e.collect(o.Loads(), time.Now(), to) }))
	}
	if o.Metered {
		e.flights = &flights{}
		o.Registry.MustRegister(prometheus.NewCounterFunc(prometheus.CounterOpts{
			Name: "pilotlight_gpu_unmetered_requests_total", Help: "Requests whose GPU time is not known since too many ended before anybody asked.",
		}, func() float64 { return float64(e.flights.dropped.Load()) }))
	}
	e.upstreams = upstreams{dial: o.Dial, watch: e.watch, buffers: &e.buffers, stack: map[string][]*upstream{}}
	e.calls = newCalls(&e.upstreams)
	e.lastID.Store(rand.Uint64() >> 16 << 12) // edges and restarts share no IDs
	return e
}

// Serve answers on ln until ctx ends, and returns once the last request is done or, after drainLimit, has been cut off.
// It closes ln. It may be called once.
func (e *Edge) Serve(ctx context.Context, ln net.Listener, drainLimit time.Duration) error {
	l := newListener(ln, e)
	sweeping, stop := context.WithCancel(context.WithoutCancel(ctx))
	var sweep sync.WaitGroup
	sweep.Go(func() { e.upstreams.sweep(sweeping) })
	if e.certificates != nil {
		sweep.Go(func() { e.certificates.follow(sweeping) })
	}
	defer e.watch.close()
	defer e.calls.close()
	defer sweep.Wait()
	defer stop()

	defer context.AfterFunc(ctx, l.stop)()
	l.http2 = newHTTP2(e, l)
	defer l.http2.close()
	err := l.serve()
	if !l.draining() { // it failed before it was asked to stop
		drainLimit = 0
	}
	l.stop()
	l.http2.stop()
	l.drain(drainLimit)
	if n := e.sample.rest(); n > 0 {
		e.log.Info("requests that went well were left out of the log since its last line of one", "left_out", n)
	}
	return err
}

// handle is one request, from its head and body to its record.
func (e *Edge) handle(c *conn, in *intake) {
	v := e.open(c, in)
	defer v.close()
	if no := v.checkHead(); no != nil {
		v.last, v.conn.linger = true, true // what follows may be anything
		v.ask.api = apiOf(in.request.Header.RequestURI())
		v.fail(no)
		return
	}
	v.trace()
	v.tells = v.edge.timing == config.TimingAlways || v.edge.timing == config.TimingAsked && v.head.timing
	v.behind = v.tells && v.head.trailers
	if v.conn.trusted {
		v.Client = e.trusted.client(&v.head, v.conn.client)
	}
	if v.readsOn() {
		v.last = true
		v.conn.takeOver()
	}
	no := v.identify()
	if no != nil && !isOpen(&in.request.Header) {
		v.ask.api = apiOf(in.request.Header.RequestURI())
		v.fail(no)
		return
	}
	if p, ok := in.listing(v.mayAsk); ok {
		v.reply(p)
		return
	}
	no = in.read()
	v.Model, v.BytesIn = v.ask.model, int64(len(v.ask.body())+len(v.conn.gate.held))
	if no != nil {
		v.fail(no)
		return
	}
	v.serve()
}

// readsOn says whether we read what follows the head: an upgraded connection, or a body that is not held. It prepares
// for that.
func (v *visit) readsOn() bool {
	h := &v.head
	switch {
	case v.conn.gate.open:
		v.upload = &upload{gate: &v.conn.gate, limits: &v.edge.limits}
		v.conn.linger = true
	case h.switching && v.http1 && v.Method == "GET" && h.length <= 0 && !h.chunked && upgradable(h.upgrade):
		v.upgrade = h.upgrade
	}
	return v.upload != nil || v.upgrade != nil
}

// checkHead refuses what is well formed, as the gate has seen to, and yet must not reach a backend.
func (v *visit) checkHead() *router.Refusal {
	switch {
	case v.Method == "CONNECT" || v.Method == "TRACE":
		return badRequest(fasthttp.StatusNotImplemented, "%s is not served", v.Method)
	case v.head.expect != nil && !is(v.head.expect, "100-continue"):
		return badRequest(fasthttp.StatusExpectationFailed, "only the expectation 100-continue can be met")
	}
	return nil
}

// misread answers a request that could not be read, and has its connection closed.
func (e *Edge) misread(c *conn, in *intake, err error) {
	v := e.open(c, in)
	defer v.close()
	v.last, v.conn.linger = true, true
	v.ask.api = apiOf(v.path[:v.pathLen])
	if no := v.conn.gate.no; no != nil {
		v.fail(no)
		return
	}
	v.fail(e.unreadable(err))
}

// begun is how a request began whose head is no good, or not all there.
func begun(b []byte) (method, path []byte) {
	method, rest, _ := bytes.Cut(b, []byte(" "))
	if !isMethod(method) {
		return nil, nil
	}
	return method, rest[:max(0, bytes.IndexAny(rest, " ?\r\n"))]
}

// unreadable says what was wrong with a request, by the error that reading it had.
func (e *Edge) unreadable(err error) *router.Refusal {
	switch {
	case errors.Is(err, errBodyTooLarge):
		return tooLarge(e.limits)
	case errors.Is(err, errFull):
		return badRequest(fasthttp.StatusRequestHeaderFieldsTooLarge, "the header is larger than the limit of %d bytes", e.limits.Header)
	case errors.Is(err, os.ErrDeadlineExceeded):
		return badRequest(fasthttp.StatusRequestTimeout, "the request took too long to come")
	}
	return badRequest(fasthttp.StatusBadRequest, "the request cannot be understood")
}

func tooLarge(l config.Limits) *router.Refusal {
	return &router.Refusal{
		Status: fasthttp.StatusRequestEntityTooLarge, Code: router.BodyTooLarge,
		Reason: fmt.Sprintf("the body is larger than the limit of %d bytes", l.Body),
	}
}
