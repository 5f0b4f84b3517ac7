package proxy

import (
	"errors"
	"net"

	"github.com/valyala/fasthttp"
)

// intake is a request as it was read, and what was understood of it. A connection has one from the first byte of a request until
// its handler returns: a stream that has stepped aside has none.
type intake struct {
	request fasthttp.Request // its method, its target and its body
	http11  bool             // its version is 1.1, not 1.0
	head    head             // its header fields
	ask     ask              // what it asks for
	whole   bool             // the head is there
	text    []byte           // of the head, which what is above borrows
	body    []byte           // room for the body
}

// takeIn gives an intake that is like new.
func (e *Edge) takeIn() *intake {
	if in, ok := e.intakes.Get().(*intake); ok {
		return in
	}
	return &intake{}
}

// putBack keeps an intake for another request, without what was read into it.
func (e *Edge) putBack(in *intake) {
	in.forgetBody()
	if cap(in.text) > bufferSize { // a pool is no place for what is large
		in.text = nil
	}
	if cap(in.ask.scratch.body) > bufferSize {
		in.ask.scratch.body = nil
	}
	in.head, in.http11, in.whole = head{}, false, false
	in.ask = ask{scratch: in.ask.scratch, model: in.ask.model}
	e.intakes.Put(in)
}

// forgetBody lets go of a body that nobody will ask for again.
func (in *intake) forgetBody() {
	in.request.ResetBody()
	in.ask.came.body, in.ask.sent.body = nil, nil
	if in.body = in.body[:0]; cap(in.body) > bufferSize {
		in.body = nil
	}
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
	switch err := c.readRequest(in); {
	case err == nil:
		e.handle(c, in)
		return !c.last && c.next == nil
	case errors.Is(err, net.ErrClosed):
		e.putBack(in)
	default:
		e.misread(c, in, err)
	}
	return false
}

// readRequest reads what the gate lets through. A large body that need not be held stays where it is: see visit.readsOn.
func (c *conn) readRequest(in *intake) (err error) {
	if c.gate.no != nil {
		return c.gate.no
	}
	if err := c.readHead(in); err != nil {
		return err
	}
	body, limits := &c.gate.body, &c.ln.limits
	large := body.left > int64(limits.BodyHeld) && body.left <= int64(limits.Body) || body.kind == byChunks && limits.BodyHeld < limits.Body
	switch {
	case !large || !in.namedWithoutBody():
		in.body, err = c.hold(in.body, int(limits.Body))
		in.request.SetBodyRaw(in.body)
		return err
	case body.kind == byLength:
		c.gate.open = true
		return nil
	}
	held, err := c.hold(nil, int(limits.BodyHeld))
	switch {
	case err != nil:
	case body.done:
		in.request.SetBodyRaw(held)
	default:
		c.gate.open, c.gate.held = true, held
	}
	return err
}
