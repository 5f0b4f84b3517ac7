package proxy

import (
	"bufio"
	"errors"
	"net"

	"github.com/valyala/fasthttp"
)

// inbound is what it takes to read a request. A connection has one from the first byte of a request until its handler returns.
type inbound struct {
	request fasthttp.Request
	reader  *bufio.Reader
}

// usualHead is how large a head may be to be read without a buffer of its own.
const usualHead = 8 << 10

// takeIn gives an inbound that is like new.
func (e *Edge) takeIn() *inbound {
	if in, ok := e.inbounds.Get().(*inbound); ok {
		return in
	}
	return &inbound{reader: bufio.NewReaderSize(nil, usualHead)}
}

// putBack keeps an inbound for another request.
func (e *Edge) putBack(in *inbound) {
	in.request.Reset()
	in.reader.Reset(nil)
	e.inbounds.Put(in)
}

// serve answers the requests of a connection until there may be no other one, and closes it.
func (c *conn) serve() {
	c.state(fasthttp.StateNew)
	for c.await() == nil && c.serveOne() {
		c.state(fasthttp.StateIdle)
	}
	c.Close()
}

// serveOne is one request, whose first byte has come. It says whether there may be another one.
func (c *conn) serveOne() bool {
	c.state(fasthttp.StateActive)
	e := c.ln.edge
	in := e.takeIn()
	defer e.putBack(in)
	switch err := c.readRequest(in); {
	case err == nil:
		e.handle(c, &in.request)
		return !c.last && c.next == nil
	case !errors.Is(err, net.ErrClosed):
		e.misread(c, &in.request, err)
	}
	return false
}

// readRequest has fasthttp read what the gate lets through.
func (c *conn) readRequest(in *inbound) error {
	h, limits := &in.request.Header, &c.ln.limits
	h.DisableNormalizing()
	if c.gate.no != nil {
		return c.gate.no
	}
	if err := c.readHead(); err != nil {
		return err
	}
	r := in.reader
	if c.gate.ahead > r.Size() { // fasthttp wants to see a head as a whole
		r = bufio.NewReaderSize(nil, c.gate.ahead)
	}
	r.Reset(c)
	if err := h.Read(r); err != nil {
		return err
	}
	n, chunked := int64(h.ContentLength()), c.gate.body.kind == byChunks
	large := n > int64(limits.BodyHeld) && n <= int64(limits.Body) || chunked && limits.BodyHeld < limits.Body
	switch {
	case !large || !namedWithoutBody(h):
		return in.request.ContinueReadBody(r, int(limits.Body), false)
	case chunked:
		body, err := c.hold(int(limits.BodyHeld))
		in.request.SetBodyRaw(body)
		return err
	}
	c.gate.open = true
	return nil
}
