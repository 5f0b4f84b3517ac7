package proxy

import (
	"bytes"
	"errors"
	"net"
	"os"
	"sync"
	"sync/atomic"
	"time"

	"github.com/valyala/fasthttp"

	"pilotlight/router"
)

// An upload is a request's body that passes through as it comes, since it is large and need not be read to find the
// model. It cannot be sent twice. While it goes on the answer may begin, and once that is complete it ends.
//
// The connection serves no other request: see conn.takeOver.
type upload struct {
	left    int64         // bytes of the body
	limit   time.Duration // for the client to send it, from when a backend reads
	running sync.WaitGroup
	stopped atomic.Bool
}

// namedWithoutBody says whether the model of a request can be found, and its name replaced, without a look into the body.
func namedWithoutBody(h *fasthttp.RequestHeader) bool {
	upstream, target := cutUpstream(originForm(h.RequestURI()))
	path, _, _ := bytes.Cut(target, []byte("?"))
	head := readHeader(h)
	name := first(upstream, inPath(path).name, head.model)
	if formOf(head.contentType, []byte("{")) == opaque { // as if it began like JSON
		name = first(name, inQuery(target, len(path)).name)
		return len(name) > 0
	}
	return len(name) > 0 && !apiOf(path).streams()
}

// start passes on what the client sends, until it is stopped.
func (up *upload) start(c *conn, u *upstream) {
	end, due := time.Now().Add(up.limit), u.due
	err := c.unlessGone(func() error { return errors.Join(u.SetWriteDeadline(due), c.Conn.SetReadDeadline(end)) })
	if err != nil {
		return // the answer will not come either
	}
	up.running.Go(func() {
		var err error
		for err == nil && up.left > 0 {
			var b []byte
			if b, err = c.source.more(); err != nil {
				up.fail(c, err)
				return
			}
			err = up.pass(b, u) // where the backend had enough of it, its answer says so
			c.source.consume(len(b))
		}
	})
}

func (up *upload) pass(b []byte, u net.Conn) error {
	n, err := u.Write(b[:min(int64(len(b)), up.left)])
	up.left -= int64(n)
	return err
}

// fail ends the request because its body cannot be read.
func (up *upload) fail(c *conn, err error) {
	switch {
	case up.stopped.Load():
	case errors.Is(err, os.ErrDeadlineExceeded):
		c.end(&router.Refusal{Status: fasthttp.StatusRequestTimeout, Code: router.BadRequest, Reason: "the request took too long to come"})
	default:
		c.left()
	}
}

// stopUpload ends the upload if there is one.
func (v *visit) stopUpload(u *upstream) {
	up := v.upload
	if up == nil {
		return
	}
	up.stopped.Store(true)
	u.SetWriteDeadline(time.Unix(1, 0))
	v.conn.Conn.SetReadDeadline(time.Unix(1, 0))
	up.running.Wait()
	v.BytesIn = v.head.length - up.left
	v.conn.linger = up.left > 0
}
