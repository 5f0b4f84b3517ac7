package proxy

import (
	"errors"
	"io"
	"net"
	"sync"
	"syscall"
)

// bufferSize is how much is read at once, and so the largest header of an answer.
const bufferSize = 32 << 10

// bufferRoom is how much longer what we write may be than what we read: framing, fields of ours.
const bufferRoom = 4 << 10

// buffers are shared by all connections of an edge.
type buffers struct{ pool sync.Pool }

func (p *buffers) get() *[]byte {
	if b, ok := p.pool.Get().(*[]byte); ok {
		return b
	}
	b := make([]byte, bufferSize, bufferSize+bufferRoom)
	return &b
}

func (p *buffers) put(b *[]byte) {
	if len(*b) == bufferSize {
		p.pool.Put(b)
	}
}

var errFull = errors.New("the header of the answer is too large")

// A source reads a connection into a buffer that it holds only while bytes are in it: where there is a descriptor, it
// waits until something can be read and takes a buffer then. A stream that idles costs no buffer.
type source struct {
	conn  net.Conn
	raw   syscall.RawConn // nil: no descriptor
	pool  *buffers
	most  int // how much may be unread at once, in bytes; at least bufferSize
	buf   *[]byte
	first [1]byte               // see sip
	r, w  int                   // buf[r:w] is unread
	try   func(fd uintptr) bool // readNow; a field, so that it is allocated once
	n     int                   // result of try
	err   error                 // likewise
}

func newSource(c net.Conn, pool *buffers) *source {
	s := &source{conn: c, raw: rawConn(c), pool: pool, most: bufferSize}
	s.try = s.readNow
	return s
}

// bytes are read and not yet consumed. They are valid until the next call of a method.
func (s *source) bytes() []byte {
	if s.buf == nil {
		return nil
	}
	return (*s.buf)[s.r:s.w]
}

// consume drops the first n bytes.
func (s *source) consume(n int) {
	if s.r += n; s.r == s.w {
		s.drop()
	}
}

// drop gives the buffer back, with what is in it.
func (s *source) drop() {
	if s.buf != nil {
		s.pool.put(s.buf)
	}
	s.buf, s.r, s.w = nil, 0, 0
}

// more gives what is unread, and waits for it where there is nothing.
func (s *source) more() ([]byte, error) {
	if s.buf == nil {
		if err := s.fill(); err != nil {
			return nil, err
		}
	}
	return s.bytes(), nil
}

// fill waits for at least one more byte.
func (s *source) fill() error {
	if s.raw == nil && s.buf == nil {
		s.buf = s.pool.get()
	}
	if s.buf != nil && s.w == len(*s.buf) {
		if s.r == 0 && s.w >= s.most {
			return errFull
		}
		s.makeRoom()
	}
	var err error
	if s.raw != nil {
		if err = s.raw.Read(s.try); err == nil {
			err = s.err
		}
	} else {
		s.n, err = s.conn.Read((*s.buf)[s.w:])
	}
	n := max(s.n, 0)
	s.n, s.err = 0, nil
	s.w += n
	switch {
	case n > 0:
		return nil
	case err == nil:
		err = io.EOF
	}
	if s.r == s.w {
		s.drop()
	}
	return err
}

// sip is fill for waits that may be long: where there is no descriptor it holds one byte of its own meanwhile, not a buffer.
func (s *source) sip() error {
	if s.raw != nil || s.buf != nil {
		return s.fill()
	}
	n, err := s.conn.Read(s.first[:])
	if n > 0 {
		s.buf = s.pool.get()
		s.r, s.w = 0, copy(*s.buf, s.first[:n])
		return nil
	}
	if err == nil {
		err = io.EOF
	}
	return err
}

// makeRoom moves what is unread to the front of the buffer, or into a larger one, which is not kept.
func (s *source) makeRoom() {
	old := s.buf
	if s.r == 0 {
		s.buf = new(make([]byte, min(2*s.w, s.most)))
	}
	s.w = copy(*s.buf, (*old)[s.r:s.w])
	s.r = 0
	if old != s.buf {
		s.pool.put(old)
	}
}

// readNow reads what is there, and says false where nothing is.
func (s *source) readNow(fd uintptr) bool {
	fresh := s.buf == nil
	if fresh {
		s.buf = s.pool.get()
	}
	s.n, s.err = readFD(fd, (*s.buf)[s.w:])
	if !errors.Is(s.err, syscall.EAGAIN) {
		return true
	}
	if fresh {
		s.drop()
	}
	return false
}
