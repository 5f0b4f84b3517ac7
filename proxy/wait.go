package proxy

import (
	"bytes"
	"cmp"
	"errors"
	"strings"
	"sync"
	"time"

	"pilotlight/router"
)

// acquire gets a lease, waiting in line if it must, or directs the request elsewhere. A body that no backend could read is
// refused before it makes one wake up.
func (v *visit) acquire() error {
	req := router.Request{Model: v.ask.model, Bytes: v.BytesIn, Not: v.tried, Prefix: v.prefix(), Stream: v.ask.stream, Tenant: v.Tenant, Priority: v.priority()}
	lease, err := v.edge.router.TryAcquire(req)
	if errors.Is(err, router.ErrWait) {
		if no := v.ask.check(); no != nil {
			return no
		}
		v.phase = inLine
		req.Overflow = v.mayOverflow()
		since := time.Now()
		v.Last = Try{Stood: true, Queued: since.Sub(v.At)}
		lease, err = v.wait(req)
		v.Last.Leased = time.Since(v.At)
		if errors.Is(err, router.ErrOverflow) {
			v.Waited += time.Since(since)
			return v.overflow()
		}
	}
	if err != nil {
		return err
	}
	v.lease, v.held = lease, true
	v.takes()
	v.to = destination{
		id: lease.Backend.ID, addr: lease.Backend.Addr, model: cmp.Or(lease.Model.Config.ServedAs, lease.Model.Name),
		answer: &lease.Model.Config.Answer, lease: &v.lease,
	}
	v.Why = lease.Why
	v.known, v.Model, v.Backend = lease.Model.Name, lease.Model.Name, lease.Backend.ID
	v.Served = lease.Backend
	v.Waited += lease.Waited
	v.Cold, v.Overflow = v.Cold || lease.Cold, false
	return nil
}

// wait stands in line. A client that asked for a stream gets heartbeats meanwhile, from another goroutine, which ends
// before wait does.
func (v *visit) wait(req router.Request) (router.Lease, error) {
	if every := v.heartbeat(); every > 0 {
		granted := make(chan struct{})
		var beats sync.WaitGroup
		beats.Go(func() { v.beat(every, granted) })
		defer beats.Wait()
		defer close(granted)
	}
	return v.edge.router.Acquire(v.conn, req)
}

// heartbeat is how often the client wants a sign of life; 0: never. HTTP/1.0 has no chunks to send one in.
func (v *visit) heartbeat() time.Duration {
	model, ok := v.edge.router.Model(v.ask.model)
	if !ok || !v.ask.stream || !v.http1 || v.upgrade != nil {
		return 0
	}
	agent := v.head.get("user-agent")
	for _, part := range model.Config.NoHeartbeat {
		if bytes.Contains(agent, []byte(part)) {
			return 0
		}
	}
	return model.Config.Heartbeat.Std()
}

// beat sends a comment now and then until granted is closed. The first one brings the headers of the stream: from
// then on a refusal is an event.
func (v *visit) beat(every time.Duration, granted <-chan struct{}) {
	tick := time.NewTicker(every)
	defer tick.Stop()
	// One line and no empty one after it: some clients, OpenAI's own for Go and Python among them, take an empty line for
	// the end of an event that they then cannot parse (openai/openai-python#2722).
	comment := appendChunk(nil, []byte(": waiting for "+strings.Map(printable, v.ask.model)+"\n"))
	for {
		select {
		case <-granted:
			return
		case <-v.conn.Done():
			return
		case <-tick.C:
		}
		sent := comment
		if !v.begun {
			v.begun, v.Status = true, 200
			sent = append(v.appendStream(nil), comment...)
		}
		if v.send(sent) != nil {
			return
		}
		v.edge.metrics.heartbeats.Inc()
	}
}

// appendStream appends the headers of a stream that we begin.
func (v *visit) appendStream(dst []byte) []byte {
	dst = append(dst, "HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\nCache-Control: no-cache\r\nX-Accel-Buffering: no\r\n"...)
	if v.last {
		dst = appendField(dst, "Connection", "close")
	}
	return append(v.appendBegun(dst), "Transfer-Encoding: chunked\r\n\r\n"...)
}

// printable keeps a name on its line.
func printable(r rune) rune {
	if r < ' ' || r == 0x7f {
		return '?'
	}
	return r
}
