package proxy

import "github.com/valyala/fasthttp"

// A stream goes on for minutes and is silent most of the time. What it took to read the request, an intake and the stack of
// the goroutine, would be more than all the rest of the stream. So a stream steps aside: the handler returns, serve lets go of
// the connection, and the rest of the answer passes on a goroutine that has next to no stack. That serves the next request then.

// stepAside has the rest of the answer pass once serve has let go of the connection. What the visit has borrowed from
// the request is gone then. It says false where nothing would be gained: a stream of HTTP/2 has its own goroutine in any case.
func (v *visit) stepAside() bool {
	if v.conn.parent != nil || v.upload != nil {
		return false
	}
	v.aside, v.conn.next = true, v.goOn
	return true
}

// goOn is the rest of a visit that stepped aside, and of its connection.
func (v *visit) goOn() {
	c := v.conn
	if v.finish(); c.last {
		c.Close()
		return
	}
	c.resume()
}

// finish passes on the rest of the answer.
func (v *visit) finish() {
	v.aside = false
	defer v.close()
	if err := v.rest(); err != nil {
		v.fail(err)
		return
	}
	v.Outcome = v.passage.outcome
}

func (v *visit) rest() error {
	defer v.part(&v.passage)
	return v.passAll(&v.passage)
}

// resume serves the next request of a connection that serve has let go of.
func (c *conn) resume() {
	c.state(fasthttp.StateIdle)
	c.serve()
}
