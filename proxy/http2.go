package proxy

import (
	"bytes"
	"context"
	"io"
	"log/slog"
	"net"
	"net/http"
	"sync"
	"time"

	"pilotlight/router"
)

// http2Preface is how a connection begins on which HTTP/2 is spoken, behind TLS or in clear.
const http2Preface = "PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"

// http2 serves connections on which HTTP/2 is spoken, which fasthttp cannot. net/http takes the frames apart; each stream
// is then a connection like any other, with one request on it, and goes the way of all requests: see stream.
type http2 struct {
	edge   *Edge
	server *http.Server
	ln     *listener
	conns  chan net.Conn // on their way to server
	ended  chan struct{} // closed once it takes no more
	all    sync.WaitGroup
}

// pingTime is how long an HTTP/2 connection may be silent until the client is asked whether it is still there.
const pingTime = 30 * time.Second

// How much may come on one stream, and on all streams of a connection, that is not read yet. Calls that wait in line
// must not hold up the others on their connection.
const (
	streamWindow = 512 << 10
	connWindow   = 4<<20 - 1
)

// frameSize is how much a client may send at once. Each connection has a buffer that is as large as the largest frame that came on it.
const frameSize = 16 << 10

func newHTTP2(e *Edge, ln *listener) *http2 {
	h := &http2{edge: e, ln: ln, conns: make(chan net.Conn), ended: make(chan struct{})}
	var protocols http.Protocols
	protocols.SetUnencryptedHTTP2(true) // TLS is ours
	h.server = &http.Server{
		Handler:        http.HandlerFunc(h.handle),
		Protocols:      &protocols,
		IdleTimeout:    ln.limits.IdleTime.Std(),
		MaxHeaderBytes: 2 * int(ln.limits.Header), // what is beyond the limit itself is refused by us
		HTTP2: &http.HTTP2Config{
			SendPingTimeout: pingTime, WriteByteTimeout: ln.limits.WriteTime.Std(),
			MaxReceiveBufferPerStream: streamWindow, MaxReceiveBufferPerConnection: connWindow, MaxReadFrameSize: frameSize,
		},
		ConnContext: func(ctx context.Context, c net.Conn) context.Context {
			return context.WithValue(ctx, connKey{}, c.(*http2Conn).conn)
		},
		ErrorLog: slog.NewLogLogger(ln.log.Handler(), slog.LevelDebug),
	}
	h.all.Go(func() { h.server.Serve(handOver{h}) }) // it ends with http.ErrServerClosed
	return h
}

// connKey is the key of the *conn in the context of an HTTP/2 request.
type connKey struct{}

// serve returns once the connection has ended. It is called by what reads the connection, which
// still waits for the first byte.
func (h *http2) serve(c *conn) {
	c.mu.Lock()
	c.busy = true // net/http knows when it idles
	c.mu.Unlock()
	hc := &http2Conn{Conn: c.Conn, conn: c, early: bytes.Clone(c.source.bytes()), closed: make(chan struct{})}
	c.source.drop()
	select {
	case h.conns <- hc:
		<-hc.closed
	case <-h.ended:
	}
}

// stop has clients told to ask no more on their connections, and closes those that idle. Where another edge takes over,
// those that have just connected are served first.
func (h *http2) stop() {
	h.all.Go(func() {
		if h.ln.shared {
			time.Sleep(courtesy)
		}
		close(h.ended)
		h.server.Shutdown(context.Background()) // ends with the last connection, which drain sees to
	})
}

// close ends what is left.
func (h *http2) close() {
	h.server.Close()
	h.all.Wait()
}

// handle is one request.
func (h *http2) handle(w http.ResponseWriter, r *http.Request) {
	parent := r.Context().Value(connKey{}).(*conn)
	s := newStream(w, r, h.ln.buffers)
	c := &conn{Conn: s, socket: s, raw: s, ln: h.ln, parent: parent, client: parent.client, shown: parent.shown, trusted: parent.trusted, gone: make(chan struct{})}
	c.source = newSource(s, h.ln.buffers)
	c.sink = newSink(s, h.ln.limits.WriteTime.Std())
	c.limit(h.ln.limits)
	defer context.AfterFunc(r.Context(), func() { c.end(parent.whyGone()) })()
	if isGRPC(r) {
		h.edge.handleCall(c, s)
		return
	}
	c.serve()
	<-s.closed // where serve let go of the connection another goroutine serves it
	if !s.whole() {
		panic(http.ErrAbortHandler) // resets the stream: a break looks like one
	}
}

// whyGone is why the streams of a connection have ended that end before their answers.
func (c *conn) whyGone() error {
	if why := c.Err(); why != nil {
		return why
	}
	return router.ErrLeft // a stream was reset
}

// http2Conn is a client's connection as net/http sees it.
type http2Conn struct {
	net.Conn // to read from
	conn     *conn
	early    []byte // has been read already
	once     sync.Once
	closed   chan struct{}
}

func (c *http2Conn) Read(p []byte) (int, error) {
	if len(c.early) > 0 {
		n := copy(p, c.early)
		c.early = c.early[n:]
		return n, nil
	}
	return c.Conn.Read(p)
}

func (c *http2Conn) Write(p []byte) (int, error) { return c.conn.socket.Write(p) }

func (c *http2Conn) SetDeadline(t time.Time) error {
	c.Conn.SetReadDeadline(t)
	return c.conn.socket.SetWriteDeadline(t)
}

func (c *http2Conn) SetWriteDeadline(t time.Time) error { return c.conn.socket.SetWriteDeadline(t) }

func (c *http2Conn) Close() error {
	err := c.conn.socket.Close()
	c.once.Do(func() { close(c.closed) })
	return err
}

// handOver is the listener of net/http's server.
type handOver struct{ *http2 }

func (h handOver) Accept() (net.Conn, error) {
	select {
	case c := <-h.conns:
		return c, nil
	case <-h.ended:
		return nil, io.EOF
	}
}

func (h handOver) Addr() net.Addr { return h.ln.Addr() }
func (h handOver) Close() error   { return nil }
