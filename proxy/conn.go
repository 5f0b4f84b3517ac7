package proxy

import (
	"context"
	"crypto/tls"
	"errors"
	"io"
	"net"
	"os"
	"slices"
	"sync"
	"time"

	"github.com/valyala/fasthttp"

	"pilotlight/config"
	"pilotlight/router"
)

// A conn is a client's connection.
//
// Requests are read from it through the gate. A handler that wants heartbeats, streams, trailers, and breaks that look broken writes
// its answer to the connection itself, with send, from its own goroutine.
//
// A conn is also the context of its requests: it ends when the client goes away, or when a shutdown has waited
// long enough. A client that closes its sending half counts as gone, as it does for nginx.
type conn struct {
	net.Conn          // to read from
	socket   net.Conn // to write to
	raw      net.Conn // what carries socket: a TLS connection has one below it, else it is socket
	source   *source
	sink     *sink
	gate     gate
	due      time.Time // when the client must have sent what is waited for; zero: whenever
	alarm    time.Time // when reading fails: see patiently
	headBy   time.Time // when a head must have come of which greet has read the beginning; zero: it has not
	came     time.Time // when all came that has been read of the present request; zero: over some time
	ended    time.Time // when the last request did; zero: there was none
	requests int       // so far
	fresh    bool      // nothing has been read
	last     bool      // there will be no other request
	trusted  bool      // it is a proxy whose word on who forwarded a request is believed
	linger   bool      // the client may still be sending when we close
	next     func()    // what becomes of the connection once serve lets go of it; nil: it is closed
	parent   *conn     // of an HTTP/2 stream: the connection it is one of
	ln       *listener
	key      uint64 // of the watch
	client   string // address, without port
	shown    shownCertificate
	from     string // what the listener counts it under; empty: it does not
	reader   sync.WaitGroup

	gone   chan struct{}
	closed sync.Once

	mu       sync.Mutex // guards what follows
	why      error      // that gone is closed for
	upstream net.Conn   // in use for this client
	idle     time.Time  // since when it is not busy, if that came to be during a shutdown
	busy     bool       // from the first byte of a request until its answer is complete
	tunnel   bool       // a client that closes its sending half has not gone
}

var _ context.Context = (*conn)(nil)

// errCut ends the requests that a shutdown does not wait for any longer.
var errCut = errors.New("the edge shut down")

// linger bounds how much of a request that was refused is read, and for how long, so that the client sees the refusal.
// Closing at once would reset the connection under its feet.
const (
	lingerBytes = 1 << 20
	lingerTime  = time.Second
)

func newConn(socket net.Conn, ln *listener) *conn {
	c := &conn{Conn: socket, socket: socket, raw: socket, ln: ln, fresh: true, gone: make(chan struct{}), client: socket.RemoteAddr().String()}
	if host, _, err := net.SplitHostPort(c.client); err == nil {
		c.client = host
	}
	c.trusted = ln.trusted.trust(socket.RemoteAddr())
	if ln.certificates != nil {
		c.socket = ln.certificates.server(socket)
		c.Conn = c.socket
	}
	if c.key = ln.watch.add(rawConn(socket), c.hungUp); c.key == 0 {
		c.readAhead()
	}
	c.source = newSource(c.Conn, ln.buffers)
	c.sink = newSink(c.socket, ln.limits.WriteTime.Std())
	c.limit(ln.limits)
	return c
}

// limit bounds the heads of requests.
func (c *conn) limit(to config.Limits) {
	c.gate.limit = int(to.Header)
	c.source.most = c.gate.limit
}

// readAhead notices a departure where there is no descriptor to watch: by reading at all times. What the client
// pipelines waits in a pipe, and while it does a departure is not noticed.
func (c *conn) readAhead() {
	near, far := net.Pipe()
	c.Conn = near
	c.reader.Go(func() {
		io.Copy(far, c.socket)
		c.hungUp()
		far.Close()
	})
}

// greet reads the first bytes of a connection, which tell what is spoken on it. It says false where no more is to be
// read: the client has gone, or HTTP/2 was spoken and is over.
func (c *conn) greet() bool {
	if t, ok := c.socket.(*tls.Conn); ok && !c.handshake(t) {
		return false
	}
	for {
		err := c.noted(c.patiently(c.source.fill))
		b := c.source.bytes()
		switch {
		case len(b) == 0:
			return false
		case len(b) >= len(http2Preface) && agree(b, http2Preface):
			c.ln.http2.serve(c)
			return false
		case err != nil, !agree(b, http2Preface):
			return true
		case c.headBy.IsZero():
			c.headBy = time.Now().Add(c.ln.limits.HeaderTime.Std())
			c.Conn.SetReadDeadline(c.headBy)
		}
	}
}

// agree says whether two texts are the same as far as both go.
func agree(b []byte, s string) bool {
	n := min(len(b), len(s))
	return string(b[:n]) == s[:n]
}

// awaitRequest gives a client its time until a request begins.
func (c *conn) awaitRequest() error {
	c.came = time.Time{}
	if c.ended.IsZero() {
		return c.expect(time.Now().Add(c.ln.limits.HeaderTime.Std()))
	}
	return c.expect(c.ended.Add(c.ln.limits.IdleTime.Std()))
}

// awaitHead gives a client its time for a head whose first byte has just come, or was seen by greet.
func (c *conn) awaitHead() error {
	c.came = time.Now()
	due := c.headBy
	if c.headBy = (time.Time{}); due.IsZero() {
		due = c.came.Add(c.ln.limits.HeaderTime.Std())
	}
	return c.expect(due)
}

// expect sets when the client must have sent what is waited for.
func (c *conn) expect(t time.Time) error {
	c.due = t
	if c.source.raw != nil && !c.alarm.IsZero() && !c.alarm.After(t) {
		return nil
	}
	c.alarm = t
	return c.Conn.SetReadDeadline(t)
}

// patiently reads from the client until something comes or its time is up. The alarm of the connection may go off earlier
// than that: each request has three deadlines, and to set one costs more than to look, once in seconds, whether it is time.
func (c *conn) patiently(read func() error) error {
	for {
		err := read()
		if err == nil || !errors.Is(err, os.ErrDeadlineExceeded) || !time.Now().Before(c.due) {
			return err
		}
		c.alarm = c.due
		if err := c.Conn.SetReadDeadline(c.due); err != nil {
			return err
		}
	}
}

// handshake is TLS's. It may take as long as a header.
func (c *conn) handshake(t *tls.Conn) bool {
	t.SetDeadline(time.Now().Add(c.ln.limits.HeaderTime.Std()))
	err := t.HandshakeContext(c)
	t.SetDeadline(time.Time{})
	c.Conn.SetReadDeadline(time.Now().Add(c.ln.limits.HeaderTime.Std()))
	if err == nil {
		c.shows(new(t.ConnectionState()))
		return true
	}
	c.ln.metrics.handshakes.Inc()
	c.ln.log.Debug("TLS handshake ended", "client", c.client, "error", err)
	if plain, ok := errors.AsType[tls.RecordHeaderError](err); ok && plain.Conn != nil && slices.Contains(methods[:], string(plain.RecordHeader[:])) {
		c.raw.SetWriteDeadline(time.Now().Add(maxPause))
		io.WriteString(c.raw, "HTTP/1.1 400 Bad Request\r\nContent-Type: text/plain\r\nConnection: close\r\n\r\nthis port speaks TLS; ask for https://\n")
	}
	c.left()
	return false
}

// methods are how plain HTTP requests begin, as far as the header of a TLS record goes.
var methods = [...]string{"GET /", "HEAD ", "POST ", "PUT /", "OPTIO", "DELET"}

// takeOver has whoever serves the request read what follows its head.
func (c *conn) takeOver() {
	c.due, c.alarm = time.Time{}, time.Time{}
	c.Conn.SetReadDeadline(time.Time{}) // that of the head; one that cannot be lifted shows when we read
	if c.gate.asks && len(c.source.bytes()) == 0 {
		c.send(goOn) // a client that has left is noticed as such
	}
}

// noted takes in that the client has gone if that is what err means.
func (c *conn) noted(err error) error {
	if err != nil && !errors.Is(err, os.ErrDeadlineExceeded) {
		c.left()
	}
	return err
}

// send writes to the client. One that does not read for too long has left.
func (c *conn) send(p []byte) error {
	if _, err := c.sink.write(p); err != nil {
		c.left()
		return c.Err()
	}
	return nil
}

// left says that the client has gone.
func (c *conn) left() { c.end(router.ErrLeft) }

// hungUp says that the client closed its sending half.
func (c *conn) hungUp() {
	c.mu.Lock()
	tunnel := c.tunnel
	c.mu.Unlock()
	if !tunnel {
		c.left()
	}
}

// halves has each half of the connection closed by itself from now on.
func (c *conn) halves() {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.tunnel = true
}

// cut closes the connection whatever is in flight on it.
func (c *conn) cut() {
	c.end(errCut)
	c.raw.Close()
}

// end closes gone and unblocks whoever reads from a backend for this client.
func (c *conn) end(why error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.why != nil {
		return
	}
	c.why = why
	close(c.gone)
	if c.upstream != nil {
		c.upstream.SetDeadline(time.Unix(1, 0))
	}
}

// attach has u unblocked when the client goes away, until detach. Both say why it is of no more use if that has happened.
func (c *conn) attach(u net.Conn) error {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.upstream = u
	return c.why
}

func (c *conn) detach() error {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.upstream = nil
	return c.why
}

// unlessGone sets something that would undo what end does to unblock whoever serves the client.
func (c *conn) unlessGone(set func() error) error {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.why != nil {
		return c.why
	}
	return set()
}

// Done, Err, Deadline and Value make the connection the context of its requests. A context of our own has no Cause but
// its Err, so Err is the cause: router.ErrLeft.
func (c *conn) Done() <-chan struct{} { return c.gone }

// Err is why the context has ended.
func (c *conn) Err() error {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.why
}

// Deadline is that of a context that has none.
func (c *conn) Deadline() (time.Time, bool) { return time.Time{}, false }

// Value is that of a context that has none.
func (c *conn) Value(any) any { return nil }

// state takes in how far a connection is: one that idles, or becomes idle, is closed at a shutdown. So is one of whose last
// request something is left unread.
func (c *conn) state(s fasthttp.ConnState) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.busy = s == fasthttp.StateActive
	switch {
	case c.busy:
	case c.ln.parts() || s == fasthttp.StateIdle && !c.gate.ended:
		c.raw.Close()
	case c.ln.draining():
		c.idle = time.Now()
	}
}

// lingerOn reads on for a while after the answer.
func (c *conn) lingerOn() {
	if !closeWrite(c.socket) || c.raw != c.socket && !closeWrite(c.raw) { // TLS says that it ends, and then TCP does
		return
	}
	if c.socket.SetReadDeadline(time.Now().Add(lingerTime)) != nil {
		return
	}
	io.CopyN(io.Discard, c.socket, lingerBytes) // how it ends does not matter
}

func closeWrite(c net.Conn) bool {
	half, ok := c.(interface{ CloseWrite() error })
	return ok && half.CloseWrite() == nil
}

// reset breaks the connection off, so that nobody takes its end for the end of an answer: TLS must not say goodbye.
func (c *conn) reset() {
	if tcp, ok := c.raw.(*net.TCPConn); ok {
		tcp.SetLinger(0)
	}
	c.raw.Close()
}

// proto is how the client speaks to us.
func (c *conn) proto() string {
	if c.ln.certificates != nil {
		return "https"
	}
	return "http"
}

// Close is after the last request that serve knows of.
func (c *conn) Close() error {
	if next := c.next; next != nil {
		c.next = nil
		go next() // until the connection is closed, which a shutdown waits for
		return nil
	}
	c.closed.Do(func() {
		if c.linger && c.Err() == nil {
			c.lingerOn()
		}
		c.ln.watch.remove(c.key)
		c.socket.Close()
		c.Conn.Close()
		c.reader.Wait()
		c.source.drop()
		c.left()
		if c.parent == nil {
			c.ln.forget(c)
		}
	})
	return nil
}

// closeIdle closes a connection on which nothing is in flight.
func (c *conn) closeIdle() { c.closeIdleSince(time.Now()) }

// closeIdleSince closes a connection on which nothing has been in flight since then.
func (c *conn) closeIdleSince(then time.Time) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if !c.busy && !c.idle.After(then) {
		c.raw.Close()
	}
}
