package proxy

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"net"
	"sync"
	"syscall"
	"time"

	"pilotlight/config"
)

// Bounds of connections to backends. Those that idle are kept per address.
const (
	idleTime  = 60 * time.Second // and up to a sweep more
	maxIdle   = 256
	sweepTime = 10 * time.Second
)

// An upstream is a connection to a backend. At any time it serves one request or idles.
type upstream struct {
	net.Conn
	*source
	sink   *sink
	addr   string // and what else makes it different from others
	socket syscall.RawConn
	key    uint64    // of the watch
	reused bool      // it served a request before
	sent   uint64    // bytes written for requests before this one
	size   uint64    // bytes written for this one
	torn   bool      // a request could not be written in full
	since  int       // it began to idle, in sweeps
	due    time.Time // when the backend must have shown a sign of life
	alarm  time.Time // when reading and writing fail: see visit.await
	closed bool      // by the backend, idle or not; guarded by upstreams.mu
}

// upstreams keeps idle connections to backends, the last used on top. A connection that its backend closes while it
// idles is gone from here at once where it can be watched.
type upstreams struct {
	dial    func(ctx context.Context, addr string) (net.Conn, error)
	watch   *watch
	buffers *buffers

	mu     sync.Mutex // guards what follows
	stack  map[string][]*upstream
	sweeps int // so far
	shut   bool
}

// get takes an idle connection, or opens one if there is none or fresh is asked for.
func (p *upstreams) get(ctx context.Context, to *destination, fresh bool) (*upstream, error) {
	addr := to.pool()
	if !fresh {
		if u := p.take(addr); u != nil {
			return u, nil
		}
	}
	c, raw, err := p.open(ctx, to.addr, to.configured(), "http/1.1")
	if err != nil {
		if errors.Is(err, syscall.ECONNREFUSED) {
			p.closeAll(func(u *upstream) bool { return u.addr == addr })
		}
		return nil, err
	}
	u := &upstream{Conn: c, source: newSource(c, p.buffers), sink: newSink(c, 0), addr: addr, socket: raw}
	u.key = p.watch.add(raw, func() { p.backendLeft(u) })
	return u, nil
}

// open connects to a backend, over TLS if it is configured so. Raw is the descriptor below, if there is one.
func (p *upstreams) open(ctx context.Context, addr string, b config.Backend, protocol string) (c net.Conn, raw syscall.RawConn, err error) {
	ctx, cancel := context.WithTimeout(ctx, b.ConnectTime.Std())
	defer cancel()
	if c, err = p.dial(ctx, addr); err == nil {
		raw = rawConn(c)
		if b.TLS != nil {
			c, err = b.TLS.Over(ctx, c, addr, protocol)
		}
	}
	if err != nil {
		return nil, nil, fmt.Errorf("connect to %s: %w", addr, err)
	}
	return c, raw, nil
}

// Write is the connection's, counted.
func (u *upstream) Write(b []byte) (int, error) {
	n, err := u.sink.write(b)
	u.size += uint64(n)
	return n, err
}

// untouched says whether the backend is known to have received nothing of the present request: it closed the idle connection
// before, as servers do. Its own system would have acknowledged what came, even if the process then died.
func (u *upstream) untouched() bool {
	if u.size == 0 {
		return true
	}
	acked, known := bytesAcked(u.socket)
	return known && acked <= u.sent
}

func (p *upstreams) take(addr string) *upstream {
	p.mu.Lock()
	defer p.mu.Unlock()
	all := p.stack[addr]
	if len(all) == 0 {
		return nil
	}
	u := all[len(all)-1]
	p.stack[addr] = all[:len(all)-1]
	u.reused, u.sink.idled = true, true
	return u
}

// put keeps a connection for the next request.
func (p *upstreams) put(u *upstream) {
	u.sent, u.size = u.sent+u.size, 0
	if _, secure := u.Conn.(*tls.Conn); secure { // more was sent than was written
		u.sent, _ = bytesAcked(u.socket)
	}
	p.mu.Lock()
	keep := !u.closed && !p.shut && len(p.stack[u.addr]) < maxIdle
	if keep {
		u.since = p.sweeps
		p.stack[u.addr] = append(p.stack[u.addr], u)
	}
	p.mu.Unlock()
	if !keep {
		p.close(u)
	}
}

// close is for connections that are of no more use.
func (p *upstreams) close(u *upstream) {
	p.watch.remove(u.key)
	u.Conn.Close()
	u.drop()
}

// backendLeft is called by the watch. A connection in use finds out by itself.
func (p *upstreams) backendLeft(u *upstream) {
	p.mu.Lock()
	u.closed = true
	p.mu.Unlock()
	p.closeAll(func(other *upstream) bool { return other == u })
}

// closeAll closes the idle connections that match.
func (p *upstreams) closeAll(match func(*upstream) bool) {
	var found []*upstream
	p.mu.Lock()
	for addr, all := range p.stack {
		kept := all[:0]
		for _, u := range all {
			if match(u) {
				found = append(found, u)
			} else {
				kept = append(kept, u)
			}
		}
		clear(all[len(kept):])
		if p.stack[addr] = kept; len(kept) == 0 {
			delete(p.stack, addr)
		}
	}
	p.mu.Unlock()
	for _, u := range found {
		p.close(u)
	}
}

// sweep closes what has idled for too long, and at the end everything.
func (p *upstreams) sweep(ctx context.Context) {
	tick := time.NewTicker(sweepTime)
	defer tick.Stop()
	for {
		select {
		case <-tick.C:
			p.mu.Lock()
			p.sweeps++
			p.mu.Unlock()
			p.closeAll(func(u *upstream) bool { return p.sweeps-u.since > int(idleTime/sweepTime) })
		case <-ctx.Done():
			p.mu.Lock()
			p.shut = true
			p.mu.Unlock()
			p.closeAll(func(*upstream) bool { return true })
			return
		}
	}
}
