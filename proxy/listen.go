package proxy

import (
	"errors"
	"io"
	"log/slog"
	"net"
	"net/netip"
	"strconv"
	"sync"
	"sync/atomic"
	"time"

	"pilotlight/config"
)

// A listener makes clients' connections into conns, bounds how many there are, and knows them all, so that a
// shutdown can close those that idle and wait for the others.
type listener struct {
	net.Listener
	limits       config.Limits
	log          *slog.Logger
	certificates *Certificates // nil: no TLS
	edge         *Edge
	http2        *http2
	watch        *watch
	buffers      *buffers
	metrics      *metrics
	trusted      networks

	shared   bool // another edge may take over
	stopping atomic.Bool
	stopped  chan struct{} // closed with it
	ending   sync.Once

	mu    sync.Mutex // guards what follows
	conns map[*conn]struct{}
	from  map[string]int // how many of them come from an address
	last  bool           // no more come
	empty chan struct{}  // closed once there are no connections and no more come
}

func newListener(ln net.Listener, e *Edge) *listener {
	return &listener{
		Listener: ln, edge: e, limits: e.limits, log: e.log, certificates: e.certificates, watch: e.watch, buffers: &e.buffers, metrics: e.metrics, trusted: e.trusted,
		shared:  e.shared,
		stopped: make(chan struct{}), conns: map[*conn]struct{}{}, from: map[string]int{}, empty: make(chan struct{}),
	}
}

// maxPause is how long accepting rests at most while the system has no room for another connection.
const maxPause = time.Second

// serve has connections served until no more come.
func (l *listener) serve() error {
	for {
		c, err := l.accept()
		switch {
		case errors.Is(err, io.EOF):
			return nil
		case err != nil:
			return err
		}
		go c.serve() // until the connection is closed, which a shutdown waits for
	}
}

// accept waits for a client that may stay. The end is io.EOF.
func (l *listener) accept() (*conn, error) {
	pause := 5 * time.Millisecond
	for {
		socket, err := l.Listener.Accept()
		temporary, ok := err.(interface{ Temporary() bool })
		switch {
		case err == nil:
			if c := l.admit(socket); c != nil {
				return c, nil
			}
		case l.draining():
			return nil, io.EOF
		case ok && temporary.Temporary(): // too many open files, above all
			select {
			case <-l.stopped:
			case <-time.After(pause):
			}
			pause = min(2*pause, maxPause)
		default:
			return nil, err
		}
	}
}

// admit makes a conn, or turns the client away.
func (l *listener) admit(socket net.Conn) *conn {
	from := addressOf(socket.RemoteAddr())
	if l.trusted.trust(socket.RemoteAddr()) {
		from = "" // it speaks for many
	}
	l.mu.Lock()
	full, crowd := len(l.conns) >= l.limits.Connections, from != "" && l.from[from] >= l.limits.ConnectionsPerAddress
	l.mu.Unlock()
	switch {
	case full:
		l.metrics.turnedAway.WithLabelValues("total").Inc()
		l.turnAway(socket, "503 Service Unavailable", `{"error":{"message":"this edge serves as many connections as it may; try again","type":"server_error","code":"too_many_connections"}}`)
		return nil
	case crowd:
		l.metrics.turnedAway.WithLabelValues("address").Inc()
		l.turnAway(socket, "429 Too Many Requests", `{"error":{"message":"this edge serves as many connections from your address as it may; use fewer, or try again","type":"rate_limit_error","code":"too_many_connections"}}`)
		return nil
	}
	c := newConn(socket, l)
	c.from = from
	l.mu.Lock()
	l.conns[c] = struct{}{}
	if from != "" {
		l.from[from]++
	}
	l.mu.Unlock()
	l.metrics.connections.Inc()
	return c
}

// addressOf is what connections are counted under: an IPv4 address, or the network of an IPv6 one, of which whoever has one
// has 2⁶⁴. Those from this host, and those without an address, are not counted.
func addressOf(remote net.Addr) string {
	at, err := netip.ParseAddrPort(remote.String())
	ip := at.Addr().Unmap().WithZone("")
	if err != nil || ip.IsLoopback() {
		return ""
	}
	if ip.Is6() {
		return netip.PrefixFrom(ip, 64).Masked().String()
	}
	return ip.String()
}

// turnAway says that there are too many clients. The buffer of a new connection has room for that.
func (l *listener) turnAway(socket net.Conn, status, body string) {
	answer := "HTTP/1.1 " + status + "\r\nContent-Type: application/json\r\nRetry-After: 1\r\nConnection: close\r\n"
	defer socket.Close()
	if l.certificates == nil && socket.SetWriteDeadline(time.Now().Add(maxPause)) == nil { // else it cannot be told before a handshake
		io.WriteString(socket, answer+"Content-Length: "+strconv.Itoa(len(body))+"\r\n\r\n"+body)
	}
}

// forget is called by a conn that is closed.
func (l *listener) forget(c *conn) {
	l.metrics.connections.Dec()
	l.mu.Lock()
	defer l.mu.Unlock()
	delete(l.conns, c)
	if l.from[c.from] > 1 {
		l.from[c.from]--
	} else {
		delete(l.from, c.from)
	}
	l.check()
}

// check closes empty when it is time. l.mu is held.
func (l *listener) check() {
	if len(l.conns) > 0 || !l.last {
		return
	}
	select {
	case <-l.empty:
	default:
		close(l.empty)
	}
}

func (l *listener) draining() bool { return l.stopping.Load() }

// parts says whether a connection that becomes idle is closed at once, though its client has not been told.
func (l *listener) parts() bool { return l.draining() && !l.shared }

// stop accepts no more, and whoever calls it waits until nobody can connect. Answers say from its beginning on that their
// connection closes. Where another edge shares the port nobody must notice: connections that have begun are still accepted.
func (l *listener) stop() {
	l.ending.Do(func() {
		l.stopping.Store(true)
		close(l.stopped)
		if l.shared {
			if err := refuseNew(l.Listener); err != nil {
				l.log.Warn("connections may be lost while another edge takes over", "error", err)
			}
			time.Sleep(lastCall)
		}
		l.Listener.Close()
	})
}

// Where another edge takes over, lastCall is how long connections that have begun are accepted: a handshake takes a round
// trip. Courtesy is how long a connection that idles is left open: its client has not been told that it closes, and may be
// sending a request just now, whose answer will say so.
const (
	lastCall = 200 * time.Millisecond
	courtesy = time.Second
)

// drain waits until the last connection is closed: those that idle are at once, or after a courtesy, others after their
// present answer, and those that are left after the limit are cut off.
func (l *listener) drain(limit time.Duration) {
	began := time.Now()
	l.mu.Lock()
	l.last = true
	l.check()
	l.mu.Unlock()
	if !l.shared {
		l.each((*conn).closeIdle)
	}
	tick := time.NewTicker(courtesy / 4)
	defer tick.Stop()
	timer := time.NewTimer(limit)
	defer timer.Stop()
	for {
		select {
		case <-l.empty:
			return
		case <-timer.C:
			l.each((*conn).cut)
			<-l.empty
			return
		case now := <-tick.C:
			if then := now.Add(-courtesy); l.shared && then.After(began) {
				l.each(func(c *conn) { c.closeIdleSince(then) })
			}
		}
	}
}

func (l *listener) each(do func(*conn)) {
	l.mu.Lock()
	defer l.mu.Unlock()
	for c := range l.conns {
		do(c)
	}
	l.check()
}
