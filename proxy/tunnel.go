package proxy

import (
	"bytes"
	"errors"
	"io"
	"net"
	"sync"
	"sync/atomic"
	"time"

	"pilotlight/router"
)

// halfTime is how long a tunnel of which one side has ended may be silent.
const halfTime = 30 * time.Second

// A tunnel is what an upgraded connection has become: bytes that pass both ways until both sides have ended. It holds its
// slot all the while.
type tunnel struct {
	conn  *conn
	begun time.Time
	last  atomic.Int64 // when something came last, in nanoseconds since begun

	mu    sync.Mutex    // guards what follows
	limit time.Duration // of silence in both directions
	timer *time.Timer   // runs check
	over  bool
}

// upgradable says whether connections may be upgraded to what a client asks for. HTTP/2 is not passed through like
// that: requests inside it would reach the backend unseen.
func upgradable(to []byte) bool {
	for protocol := range bytes.SplitSeq(to, []byte(",")) {
		name, _, _ := bytes.Cut(bytes.TrimSpace(protocol), []byte("/"))
		if len(name) == 0 || is(name, "h2c") || is(name, "h2") || is(name, "http") || is(name, "tls") {
			return false
		}
	}
	return true
}

// switches says whether an answer is the upgrade that a client asked for.
func (a *answer) switches(asked []byte) bool {
	return a.status == 101 && asked != nil && a.switching && len(a.upgrade) > 0
}

// switchOver passes on the backend's 101, whose head is the first n bytes in u, and everything after it.
func (v *visit) switchOver(u *upstream, a *answer, n int) error {
	v.conn.halves()
	if err := v.conn.unlessGone(func() error { return u.SetDeadline(time.Time{}) }); err != nil {
		return err
	}
	v.Status = a.status
	if err := v.send(a.appendTo(nil, plain, false)); err != nil {
		return err
	}
	u.consume(n)
	t := newTunnel(v.conn, v.to.answer.Upgraded.Std())
	defer t.end()
	var in sync.WaitGroup
	in.Go(func() { v.BytesIn = t.in(u) })
	err := t.out(v, u)
	in.Wait()
	if left := v.conn.Err(); left != nil {
		return left
	}
	if err != nil {
		return v.tear(plain, &body{kind: byClose}, err)
	}
	v.Outcome = router.OK
	return nil
}

func newTunnel(c *conn, limit time.Duration) *tunnel {
	t := &tunnel{conn: c, begun: time.Now(), limit: limit}
	t.mu.Lock()
	defer t.mu.Unlock()
	t.timer = time.AfterFunc(limit, t.check)
	return t
}

// in passes on what the client sends. Where the backend has stopped reading, out finds out what that means.
func (t *tunnel) in(u *upstream) (sent int64) {
	for {
		b, err := t.conn.source.more()
		if errors.Is(err, io.EOF) && t.endHalf(u.Conn) {
			return sent
		}
		if err != nil {
			t.quit()
			return sent
		}
		n, err := u.Write(b)
		if sent += int64(n); err != nil {
			return sent
		}
		t.conn.source.consume(n)
		t.touch()
	}
}

// out passes on what the backend sends.
func (t *tunnel) out(v *visit, u *upstream) error {
	for {
		b, err := u.more()
		if errors.Is(err, io.EOF) {
			if !t.endHalf(t.conn.socket) {
				t.end()
			}
			return nil
		}
		if err == nil {
			err = v.send(b)
		}
		if err != nil {
			t.end()
			return err
		}
		u.consume(len(b))
		t.touch()
	}
}

// touch notes that something came.
func (t *tunnel) touch() { t.last.Store(int64(time.Since(t.begun))) }

// check ends a tunnel that is silent for too long: it is the client's to keep it in use.
func (t *tunnel) check() {
	t.mu.Lock()
	defer t.mu.Unlock()
	if t.over {
		return
	}
	if silent := time.Since(t.begun) - time.Duration(t.last.Load()); silent < t.limit {
		t.timer.Reset(t.limit - silent)
		return
	}
	t.conn.left()
	t.interrupt()
}

// endHalf tells one side that the other sends no more. It may go on sending for as long as it is not silent for halfTime.
// It says false where halves cannot be closed.
func (t *tunnel) endHalf(to net.Conn) bool {
	half, ok := to.(interface{ CloseWrite() error })
	if !ok {
		return false
	}
	half.CloseWrite() // where that fails there is nobody to tell
	t.mu.Lock()
	defer t.mu.Unlock()
	if t.limit = min(t.limit, halfTime); !t.over {
		t.timer.Reset(t.limit)
	}
	return true
}

// quit takes in that the client cannot be read any more, if that is not our doing.
func (t *tunnel) quit() {
	t.mu.Lock()
	defer t.mu.Unlock()
	if !t.over {
		t.conn.left()
	}
}

// end stops reading from the client.
func (t *tunnel) end() {
	t.mu.Lock()
	defer t.mu.Unlock()
	t.over = true
	t.timer.Stop()
	t.interrupt()
}

func (t *tunnel) interrupt() { t.conn.Conn.SetReadDeadline(time.Unix(1, 0)) }
