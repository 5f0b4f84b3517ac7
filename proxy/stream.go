package proxy

import (
	"fmt"
	"io"
	"net"
	"net/http"
	"strconv"
	"sync"
	"time"
)

// A stream is one request of an HTTP/2 connection as a connection that speaks HTTP/1.1: what is read from it is the request
// in that form, and the answer that is written to it goes out as frames. So HTTP/2 costs one translation, and the rest of
// the edge knows nothing of it. Reading and writing
// may be two goroutines' business.
type stream struct {
	buffers  *buffers
	w        http.ResponseWriter
	control  *http.ResponseController
	r        *http.Request
	in       []byte // of the request, translated and not yet read
	chunked  bool   // the request's body has no length
	bodiless bool   // it has none
	ended    bool   // all of the request is in in

	writeBy time.Time // deadline of what is written
	begun   bool      // the answer's head is out
	body    body      // of the answer

	once   sync.Once
	closed chan struct{}
}

func newStream(w http.ResponseWriter, r *http.Request, pool *buffers) *stream {
	s := &stream{buffers: pool, w: w, r: r, control: http.NewResponseController(w), closed: make(chan struct{})}
	s.chunked = r.ContentLength < 0 || r.ContentLength > 0 && len(r.Trailer) > 0
	s.bodiless = r.ContentLength == 0
	s.ended = s.bodiless
	s.in = s.appendHead(make([]byte, 0, 1<<10))
	return s
}

// appendHead appends the request line and the header. net/http lets no control characters through, but spaces where they
// would part the request line: those make the request one that is refused.
func (s *stream) appendHead(dst []byte) []byte {
	r := s.r
	dst = fmt.Appendf(dst, "%s %s HTTP/1.1\r\n", http1Word(r.Method), http1Word(r.RequestURI))
	if r.Host != "" {
		dst = appendField(dst, "Host", r.Host)
	}
	for name, values := range r.Header {
		if name == "Host" || name == "Expect" || ofThisHop([]byte(name)) && name != "Te" { // net/http says "100 Continue" itself, and TE is for us
			continue
		}
		for _, value := range values {
			dst = appendField(dst, name, value)
		}
	}
	for name := range r.Trailer {
		dst = appendField(dst, "Trailer", name)
	}
	switch {
	case s.chunked:
		dst = appendField(dst, "Transfer-Encoding", "chunked")
	case r.ContentLength > 0 || r.Method == "POST" || r.Method == "PUT":
		dst = appendLength(dst, r.ContentLength)
	}
	return append(dst, "Connection: close\r\n\r\n"...)
}

// Read reads the request. Its body comes in chunks if its length is not known.
func (s *stream) Read(p []byte) (int, error) {
	for len(s.in) == 0 {
		if s.ended {
			return 0, io.EOF
		}
		if !s.chunked {
			return s.r.Body.Read(p)
		}
		b := make([]byte, min(len(p), bufferSize))
		n, err := s.r.Body.Read(b)
		s.in = appendChunk(nil, b[:n])
		switch {
		case err == io.EOF:
			s.in, s.ended = appendEnd(s.in, s.trailer()), true
		case err != nil:
			return 0, err
		}
	}
	n := copy(p, s.in)
	s.in = s.in[n:]
	return n, nil
}

// trailer is that of the request, whose body has ended. net/http keeps those fields that were named before.
func (s *stream) trailer() (fields []byte) {
	for name, values := range s.r.Trailer {
		for _, value := range values {
			fields = appendField(fields, name, value)
		}
	}
	return fields
}

// Write writes the answer. A head always comes as a whole.
func (s *stream) Write(p []byte) (int, error) {
	b := s.buffers.get()
	if err := s.translate(append((*b)[:0], p...)); err != nil {
		return 0, err // b is lost: net/http may still be writing what is in it
	}
	s.buffers.put(b)
	return len(p), nil
}

// translate writes a part of the answer, which it moves about.
func (s *stream) translate(b []byte) error {
	if !s.begun {
		b = b[s.writeHead(b):]
		if !s.begun {
			return nil
		}
	}
	for len(b) > 0 && !s.body.done {
		data, used, err := s.body.take(b)
		if err == nil {
			err = s.writeData(data)
		}
		if err != nil {
			return err
		}
		b = b[used:]
	}
	if s.body.done {
		return s.writeTrailer()
	}
	return s.flush()
}

// writeHead begins the answer, and says how long its head is.
func (s *stream) writeHead(b []byte) int {
	var a answer
	n, err := a.parse(b)
	if err != nil || n == 0 {
		panic(fmt.Sprintf("BUG: the edge wrote an answer that is none: %v", err))
	}
	header := s.w.Header()
	header["Content-Type"] = nil // or else one is guessed
	for name, value := range a.further {
		header.Add(string(name), string(value))
	}
	if a.status < 200 { // a hint of what is to come
		s.w.WriteHeader(a.status)
		clear(header)
		return n
	}
	if a.length >= 0 {
		header.Set("Content-Length", strconv.FormatInt(a.length, 10))
	}
	s.begun, s.body = true, bodyOf(&a, s.r.Method == "HEAD")
	s.w.WriteHeader(a.status)
	return n
}

// further goes through the fields that go further than this hop.
func (h *head) further(yield func(name, value []byte) bool) {
	for name, value := range h.each {
		if !ofThisHop(name) && !h.isNamed(name) && !yield(name, value) {
			return
		}
	}
}

// writeData writes within the deadline. One that passed later would reset the stream although nobody writes.
func (s *stream) writeData(p []byte) error {
	if len(p) == 0 {
		return nil
	}
	s.control.SetWriteDeadline(s.writeBy)
	_, err := s.w.Write(p)
	s.control.SetWriteDeadline(time.Time{})
	return err
}

func (s *stream) flush() error {
	s.control.SetWriteDeadline(s.writeBy)
	err := s.control.Flush()
	s.control.SetWriteDeadline(time.Time{})
	return err
}

// writeTrailer says how the answer ended. It goes out, with what is not flushed yet, when the handler returns.
func (s *stream) writeTrailer() error {
	var h head
	if err := h.scan(s.body.trailer); err != nil {
		return err
	}
	for name, value := range h.further {
		s.w.Header().Add(http.TrailerPrefix+string(name), string(value))
	}
	return nil
}

// whole says whether the answer was written in full.
func (s *stream) whole() bool { return s.begun && s.body.done }

// http1Word is s if it can be a word of a request line, else what cannot.
func http1Word(s string) string {
	for _, c := range []byte(s) {
		if c <= ' ' || c >= 0x7f {
			return "\x00"
		}
	}
	return s
}

// Close says that the edge is done. The stream itself ends with the handler.
func (s *stream) Close() error {
	s.once.Do(func() { close(s.closed) })
	return nil
}

// SetReadDeadline is that of the body. Where it has passed already, a read that waits ends.
func (s *stream) SetReadDeadline(t time.Time) error {
	if s.bodiless {
		return nil
	}
	return s.control.SetReadDeadline(t)
}

// SetDeadline sets both deadlines.
func (s *stream) SetDeadline(t time.Time) error {
	s.writeBy = t
	return s.SetReadDeadline(t)
}

// SetWriteDeadline is that of the next write.
func (s *stream) SetWriteDeadline(t time.Time) error {
	s.writeBy = t
	return nil
}

// LocalAddr is our end of the connection.
func (s *stream) LocalAddr() net.Addr { return s.parent().LocalAddr() }

// RemoteAddr is the client's.
func (s *stream) RemoteAddr() net.Addr { return s.parent().RemoteAddr() }

func (s *stream) parent() net.Conn { return s.r.Context().Value(connKey{}).(*conn).raw }
