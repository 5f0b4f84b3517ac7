package proxy

import (
	"errors"
	"fmt"
	"runtime"
	"time"

	"github.com/valyala/fasthttp"

	"pilotlight/config"
	"pilotlight/router"
)

// dialTime bounds connecting to a backend that the configuration does not name.
const dialTime = 5 * time.Second

// graceTime is how long the first of those tries waits; the next waits four times as long. When a model server has just died, its
// keeper says so within that time, and the request stands in line for the next wake.
const graceTime = 20 * time.Millisecond

// errUntouched says that no backend has seen anything of a request.
var errUntouched = errors.New("nothing was sent")

// errInterim says that a backend goes on promising an answer.
var errInterim = errors.New("too many interim answers")

// serve gets the request a slot, has the backend answer it, and gives the slot back.
func (v *visit) serve() {
	if no := v.enter(); no != nil {
		v.fail(no)
		return
	}
	for tries := 0; ; tries++ {
		if err := v.acquire(); err != nil {
			v.fail(err)
			return
		}
		err := v.forward()
		if err == nil {
			if !v.aside {
				v.release()
			}
			return
		}
		if !errors.Is(err, errUntouched) || tries == len(v.tried) || !v.retry() {
			v.fail(err)
			return
		}
		v.tried[tries] = v.Backend
		v.again()
		v.release() // as broken
		select {
		case <-v.conn.Done():
		case <-time.After(graceTime << (2 * tries)):
		}
	}
}

// again begins another try.
func (v *visit) again() {
	v.Last.Backend, v.Last.Ended = v.Backend, time.Since(v.At)
	v.Tries = append(v.Tries, v.Last)
	v.Last = Try{}
}

// retry says whether a request that reached no backend may be given to another one.
func (v *visit) retry() bool {
	if v.to.away != nil {
		v.stayed = true // ours will be there sooner or later
		return true
	}
	if !v.lease.Retry() {
		v.edge.metrics.retriesDenied.Inc()
		return false
	}
	v.edge.metrics.retries.Inc()
	return true
}

// broken is the end of a request whose backend failed before its answer began. The client is told what happened,
// the record also keeps the cause.
func (v *visit) broken(what string, cause error) error {
	status := fasthttp.StatusBadGateway
	if errors.Is(cause, errSlow) {
		status, what = fasthttp.StatusGatewayTimeout, "did not answer in time"
	}
	return fmt.Errorf("%w: %w", &router.Refusal{
		Status: status, Code: router.BackendBroken, Reason: "backend " + v.to.id + " " + what,
	}, cause)
}

// forward sends the request to the backend of the lease and the answer to the client.
func (v *visit) forward() error {
	if v.call != nil {
		return v.forwardCall()
	}
	v.phase = asking
	v.ask.rename(v.to.model)
	u, err := v.begin()
	if err != nil {
		return err
	}
	p := &v.passage
	*p = passage{u: u}
	defer func() { // also when it panics: the backend must not go on
		if !v.aside {
			v.part(p)
		}
	}()
	return v.relay(p)
}

// A passage is an answer on its way from a backend to a client.
type passage struct {
	u        *upstream
	body     body
	framing  framing
	outcome  router.Outcome // once it is done
	reusable bool           // the backend's connection then
}

// part ends the use of a backend's connection for this visit.
func (v *visit) part(p *passage) {
	v.stopUpload(p.u)
	if v.conn.detach() == nil && p.reusable && p.body.done && len(p.u.bytes()) == 0 && !p.u.torn {
		v.edge.upstreams.put(p.u)
	} else {
		v.edge.upstreams.close(p.u)
	}
}

// begin sends the request and returns once the first byte of an answer is there. Only what is untouched is sent again:
// nothing has been sent, or the backend had closed the idle connection that was used and received nothing. From the moment
// a connection is used until relay is done a departure of the client unblocks it.
func (v *visit) begin() (*upstream, error) {
	for again := v.upload != nil; ; again = true { // an upload cannot be repeated: it gets a connection that never idled
		u, err := v.edge.upstreams.get(v.conn, &v.to, again)
		switch {
		case err != nil && v.conn.Err() != nil:
			return nil, v.conn.Err()
		case err != nil:
			return nil, v.broken("cannot be reached", errors.Join(errUntouched, err))
		}
		if err = v.put(u); err == nil {
			v.FirstByte = time.Since(v.At)
			return u, nil
		}
		v.stopUpload(u)
		untouched := u.untouched() && v.upload == nil && !errors.Is(err, errSlow)
		v.edge.upstreams.close(u)
		if left := v.conn.detach(); left != nil {
			return nil, left
		}
		if untouched && u.reused {
			continue
		}
		if untouched {
			err = errors.Join(errUntouched, err)
		}
		return nil, v.broken("closed the connection before it answered", err)
	}
}

// put writes the request and waits for the first byte. A backend may answer before it has read everything, so an
// answer counts even where writing failed.
func (v *visit) put(u *upstream) error {
	if err := v.conn.attach(u.Conn); err != nil {
		return err
	}
	if err := v.begins(u); err != nil {
		return err
	}
	body := v.ask.body()
	m := message{
		method: v.request.Header.Method(), target: v.ask.target(), head: &v.head, client: v.conn.client, trusted: v.conn.trusted,
		keyed: v.keyed(), proto: v.conn.proto(), addr: v.to.addr, length: int64(len(body)), upgrade: v.upgrade,
	}
	if v.upload != nil {
		m.length, m.chunked = v.head.length, v.head.chunked
	}
	if v.to.away == nil {
		m.carried = v.carries()
	}
	b := v.edge.buffers.get()
	dst := (*b)[:0]
	switch {
	case v.to.away != nil:
		dst = v.to.away.appendTo(dst, &m)
	default:
		if trailer := v.conn.gate.body.trailer; trailer != nil && v.upload == nil { // few have one
			m.chunked = true
			body = appendEnd(appendChunk(nil, body), trailer)
		}
		dst = m.appendTo(dst)
	}
	if len(dst)+len(body) <= bufferSize {
		dst, body = append(dst, body...), nil
	}
	err := v.write(u, dst)
	v.edge.buffers.put(b)
	switch {
	case errors.Is(err, errUnasked):
		return err
	case err == nil && len(body) > 0:
		err = v.write(u, body)
	}
	u.torn = err != nil || v.upload != nil
	if v.upload != nil && err == nil {
		v.upload.start(v.conn, u)
	}
	runtime.Gosched() // an answer that comes soon is then read at the first try, without parking
	if fail := v.fill(u); fail != nil {
		return errors.Join(err, fail)
	}
	return nil
}

// begins sets the limits of a request that goes to a backend now. An upload takes its own time before them.
func (v *visit) begins(u *upstream) error {
	now, limits := time.Now(), v.to.answer
	due := now.Add(limits.FirstByte.Std())
	v.end = now.Add(limits.Total.Std())
	v.Last.Asked = max(1, now.Sub(v.At))
	if v.upload != nil {
		due = due.Add(v.upload.limits.BodyTime.Std())
	}
	return v.await(u, now, due)
}

// configured is what the configuration says of a lease's backend, which may have just left it.
func configured(l *router.Lease) config.Backend {
	for i := range l.Model.Config.Backends {
		if b := &l.Model.Config.Backends[i]; b.Name == l.Backend.ID {
			return *b
		}
	}
	return config.Backend{ConnectTime: config.Duration(dialTime)}
}

// relay passes the answer on.
func (v *visit) relay(p *passage) error {
	var a answer
	n, err := v.readHead(p.u, &a)
	if err != nil {
		return err
	}
	v.streamed = v.ask.stream
	v.forgetBody() // nobody will ask for it again
	v.phase = streaming
	if a.status == fasthttp.StatusSwitchingProtocols {
		return v.switchOver(p.u, &a, n)
	}
	p.body = bodyOf(&a, v.Method == "HEAD")
	p.reusable = a.http11 && !a.close && p.body.kind != byClose
	if p.outcome = router.OK; a.status >= 500 && a.status != fasthttp.StatusNotImplemented {
		p.outcome = router.Broken
	}
	if v.begun && (a.status != fasthttp.StatusOK || !a.sse) {
		err = v.explain(p, &a, n)
	} else {
		err = v.stream(p, &a, n)
	}
	if err == nil && !v.aside {
		v.Outcome = p.outcome
	}
	return err
}

// maxInterim is how many interim answers may come before the final one.
const maxInterim = 16

// readHead reads the head of the final answer, which stays in u's buffer. Of interim ones only early hints are passed on.
func (v *visit) readHead(u *upstream, a *answer) (int, error) {
	for interim := 0; ; {
		n, err := a.parse(u.bytes())
		switch {
		case err == nil && n > 0 && (a.status >= 200 || a.switches(v.upgrade)):
			return n, nil
		case err == nil && n > 0 && a.status == fasthttp.StatusSwitchingProtocols:
			err = errStatus
		case err == nil && n > 0 && interim == maxInterim:
			err = errInterim
		case err == nil && n > 0:
			interim++
			if a.status == fasthttp.StatusEarlyHints && v.http1 && !v.begun {
				if err := v.send(a.appendTo(nil, plain, false)); err != nil {
					return 0, err
				}
			}
			if u.consume(n); len(u.bytes()) > 0 {
				continue
			}
		}
		if err == nil {
			err = v.fill(u)
		}
		if err != nil {
			return 0, v.broken("sent an answer that is no good", err)
		}
	}
}

// stream passes an answer on whose head is the first n bytes read: every piece as soon as it comes.
func (v *visit) stream(p *passage, a *answer, n int) error {
	if v.begun || v.http1 && !p.body.done && p.body.kind != byLength {
		p.framing = framed
	}
	v.last = v.last || !v.http1 || v.conn.ln.draining()
	b := v.edge.buffers.get()
	dst := (*b)[:0]
	if !v.begun {
		v.Status = a.status
		dst = a.appendTo(dst, p.framing, v.last)
		if v.tells {
			dst = append(v.appendTook(dst[:len(dst)-len(crlf)], p.framing), crlf...)
		}
	}
	p.u.consume(n)
	if err := v.pass(p, b, dst); err != nil || p.body.done {
		return err
	}
	if p.framing == framed && v.stepAside() {
		return nil
	}
	return v.passAll(p)
}

// pass sends dst, which is in b, and what has been read of the answer behind it.
func (v *visit) pass(p *passage, b *[]byte, dst []byte) error {
	data, used, err := p.body.take(p.u.bytes())
	if len(data) > 0 {
		if v.streamed && v.FirstToken == 0 {
			v.FirstToken = max(1, time.Since(v.At))
		}
		v.lease.Began()
		v.countTokens(data)
		v.came(data)
	}
	dst = p.framing.append(dst, data)
	if p.body.done && p.framing == framed {
		dst = appendEnd(dst, v.took(p.body.trailer))
	}
	var left error
	if len(dst) > 0 {
		left = v.send(dst)
	}
	v.edge.buffers.put(b) // before the next wait: a stream that idles holds none
	p.u.consume(used)
	switch {
	case left != nil:
		return left
	case err != nil:
		return v.tear(p.framing, &p.body, err)
	}
	return nil
}

// passAll passes on what comes until the answer is complete.
func (v *visit) passAll(p *passage) error {
	for !p.body.done {
		if err := p.body.end(v.next(p.u)); err != nil {
			return v.tear(p.framing, &p.body, err)
		}
		b := v.edge.buffers.get()
		if err := v.pass(p, b, (*b)[:0]); err != nil {
			return err
		}
	}
	return nil
}

// tear makes a break look like one. Where only the end of the connection would end the answer, it is reset.
func (v *visit) tear(f framing, d *body, err error) error {
	if f == plain && d.kind != byLength {
		v.conn.reset()
	}
	return fmt.Errorf("backend %s broke off its answer: %w", v.to.id, err)
}

// maxTold is how much of a backend's error is told in an event.
const maxTold = 8 << 10

// explain tells a client whose stream we have begun that the backend answered with something else: as an event.
func (v *visit) explain(p *passage, a *answer, n int) error {
	var text []byte
	u, d := p.u, &p.body
	for u.consume(n); !d.done && len(text) < maxTold; {
		data, used, err := d.take(u.bytes())
		text = append(text, data...)
		u.consume(used)
		if err == nil && !d.done {
			err = d.end(v.next(u))
		}
		if err != nil {
			return v.broken("broke off its answer", err)
		}
	}
	r := router.Refusal{Status: a.status, Code: router.BackendBroken, Reason: fmt.Sprintf("the model server answered %d: %s", a.status, text)}
	if a.status < 500 {
		r.Code = router.BadRequest
	}
	v.Reason = r.Reason
	return v.send(appendEnd(appendChunk(nil, v.ask.api.event(nil, &r)), nil))
}
