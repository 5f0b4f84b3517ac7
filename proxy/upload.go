package proxy

import (
	"bytes"
	"errors"
	"os"
	"sync"
	"sync/atomic"
	"time"

	"github.com/valyala/fasthttp"

	"pilotlight/config"
	"pilotlight/router"
)

// An upload is a request's body that passes through as it comes, since it is large and need not be read to find the
// model. It cannot be sent twice. While it goes on the answer may begin, and once that is complete it ends.
//
// The connection serves no other request: see conn.takeOver.
type upload struct {
	gate    *gate // what has been read of it already, and what is left
	limits  *config.Limits
	passed  int64 // bytes, of the body
	running sync.WaitGroup
	stopped atomic.Bool
}

// namedWithoutBody says whether the model of a request can be found, and its name replaced, without a look into the body.
func (in *intake) namedWithoutBody() bool {
	upstream, target := cutUpstream(originForm(in.request.Header.RequestURI()))
	path, _, _ := bytes.Cut(target, []byte("?"))
	name := first(upstream, inPath(path).name, in.head.model)
	if formOf(in.head.contentType, []byte("{")) == opaque { // as if it began like JSON
		name = first(name, inQuery(target, len(path)).name)
		return len(name) > 0
	}
	return len(name) > 0 && !apiOf(path).streams()
}

// start passes on what the client sends, until it is stopped.
func (up *upload) start(c *conn, u *upstream) {
	end, due := time.Now().Add(up.limits.BodyTime.Std()), u.due
	err := c.unlessGone(func() error { return errors.Join(u.SetWriteDeadline(due), c.Conn.SetReadDeadline(end)) })
	if err != nil {
		return // the answer will not come either
	}
	up.running.Go(func() {
		if err := up.pass(u, up.gate.held); err != nil {
			return
		}
		up.gate.held = nil
		for body := &up.gate.body; !body.done; {
			b, err := c.source.more()
			if err != nil {
				up.fail(c, err)
				return
			}
			data, used, err := body.take(b)
			switch {
			case err != nil:
				up.fail(c, badRequest(fasthttp.StatusBadRequest, "%v", err))
				return
			case up.passed+int64(len(data)) > int64(up.limits.Body):
				up.fail(c, tooLarge(*up.limits))
				return
			}
			if err := up.pass(u, data); err != nil {
				return
			}
			c.source.consume(used)
		}
	})
}

// pass writes data, and the end behind the last of a body in chunks. Where the backend had enough of it, its answer says so.
func (up *upload) pass(u *upstream, data []byte) error {
	body := &up.gate.body
	if body.kind == byLength {
		n, err := u.Write(data)
		up.passed += int64(n)
		return err
	}
	b := u.pool.get()
	defer u.pool.put(b)
	dst := appendChunk((*b)[:0], data)
	if body.done {
		dst = appendEnd(dst, body.trailer)
	}
	_, err := u.Write(dst)
	if err == nil {
		up.passed += int64(len(data))
	}
	return err
}

// fail ends the request because its body cannot be read.
func (up *upload) fail(c *conn, err error) {
	no, refused := errors.AsType[*router.Refusal](err)
	switch {
	case up.stopped.Load():
	case refused:
		c.end(no)
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
	v.BytesIn = up.passed
	v.conn.linger = !up.gate.body.done
}
