package proxy

import (
	"errors"
	"io"
	"net"
	"syscall"
	"time"
)

// A sink writes to a connection. Where there is a descriptor it does so without the scheduler's knowledge, as source reads: a
// write to a socket that has room takes microseconds, and a scheduler that is told of each looks after them all the time,
// with a thread of its own that then never rests. One goroutine may write at a time.
type sink struct {
	conn  net.Conn
	raw   syscall.RawConn // nil: no descriptor
	limit time.Duration   // how long one write may wait for the peer to read; 0: the deadline of the connection decides
	try   func(fd uintptr) bool
	rest  []byte // what try has not written yet
	err   error  // result of try
	set   bool   // a deadline of ours is set
	idled bool   // nothing may have come since the peer was last spoken to
}

func newSink(c net.Conn, limit time.Duration) *sink {
	s := &sink{conn: c, raw: rawConn(c), limit: limit}
	s.try = s.writeNow
	return s
}

// write writes all of p, or says how much it could and why not more.
func (s *sink) write(p []byte) (int, error) {
	if s.raw == nil {
		if s.limit > 0 {
			if err := s.conn.SetWriteDeadline(time.Now().Add(s.limit)); err != nil {
				return 0, err
			}
		}
		return s.conn.Write(p)
	}
	s.rest, s.err = p, nil
	err := s.raw.Write(s.try)
	if err == nil {
		err = s.err
	}
	n := len(p) - len(s.rest)
	s.rest = nil
	if s.set {
		s.set = false
		err = errors.Join(err, s.conn.SetWriteDeadline(time.Time{}))
	}
	return n, err
}

// errUnasked says that a peer has said something, or has gone, when nothing was asked of it.
var errUnasked = errors.New("something came that nobody asked for")

// writeNow writes what there is room for, and says false where more must wait. What came unasked would be taken for the answer, so nothing
// is written then; where there is no descriptor, nobody knows.
func (s *sink) writeNow(fd uintptr) bool {
	if s.idled {
		if s.idled = false; pending(fd) {
			s.err = errUnasked
			return true
		}
	}
	for len(s.rest) > 0 {
		n, err := writeFD(fd, s.rest)
		s.rest = s.rest[max(n, 0):]
		switch {
		case errors.Is(err, syscall.EAGAIN):
			return s.wait()
		case err != nil:
			s.err = err
			return true
		case n == 0:
			s.err = io.ErrUnexpectedEOF
			return true
		}
	}
	return true
}

// wait begins the time that the peer has to read, and says false: it is to be waited.
func (s *sink) wait() bool {
	if s.limit == 0 || s.set {
		return false
	}
	s.set = true
	s.err = s.conn.SetWriteDeadline(time.Now().Add(s.limit))
	return s.err != nil
}
