//go:build linux

package main

import (
	"bytes"
	"errors"
	"fmt"
	"slices"
	"strconv"
	"strings"
	"time"

	"golang.org/x/sys/unix"
)

const question = `{"model":"m","messages":[{"role":"user","content":"Tell me about pilot lights."}]%s}`

// request is what a client sends; more goes into its body.
func request(more string) []byte {
	body := fmt.Sprintf(question, more)
	return fmt.Appendf(nil, "POST /v1/chat/completions HTTP/1.1\r\nHost: models.example\r\nContent-Type: application/json\r\n"+
		"Authorization: Bearer sk-0123456789abcdef0123456789abcdef\r\nUser-Agent: benchproxy\r\nAccept: */*\r\nContent-Length: %d\r\n\r\n%s", len(body), body)
}

// response has a body of 1 KiB.
func response() []byte {
	body := `{"choices":[{"message":{"role":"assistant","content":"` + strings.Repeat("x", 1024-58) + `"}}]}`
	return fmt.Appendf(nil, "HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nContent-Length: %d\r\n\r\n%s", len(body), body)
}

const streamHead = "HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\nCache-Control: no-cache\r\nTransfer-Encoding: chunked\r\n\r\n"

// A token says when it was sent, in nanoseconds since the loop began.
const (
	tokenText = `data: {"id":"chatcmpl-1","object":"chat.completion.chunk","created":1780000000,"model":"m","choices":[{"index":0,"delta":{"content":" light"},"finish_reason":null}],` + sentMark + sentZero + `"}` + "\n\n"
	sentMark  = `"sent":"`
	sentZero  = "0000000000000000000"
)

// messageSize is how long the message at the beginning of b is; 0: it is not all there.
func messageSize(b []byte) int {
	head := bytes.Index(b, []byte("\r\n\r\n"))
	if head < 0 {
		return 0
	}
	size := head + 4
	for rest := b[:head+2]; len(rest) > 0; {
		line, after, _ := bytes.Cut(rest, []byte("\r\n"))
		const name = "content-length:"
		if len(line) > len(name) && line[0]|0x20 == 'c' && bytes.EqualFold(line[:len(name)], []byte(name)) {
			n, _ := strconv.Atoi(string(bytes.TrimSpace(line[len(name):])))
			size += n
		}
		rest = after
	}
	if size > len(b) {
		return 0
	}
	return size
}

// A server is the model server: it answers each request at once with the same response, and each that asks for a stream
// with tokens at the loop's pace.
type server struct {
	loop     *loop
	fd       int
	addr     string
	response []byte
	token    []byte
	sent     []byte // where in token that stands
	streams  []*serving
	next     int
}

// serving is one of its connections.
type serving struct {
	server *server
	fd     int
	in     []byte
	rest   []byte // of a token
}

func newServer(l *loop) (*server, error) {
	token := fmt.Appendf(nil, "%x\r\n%s\r\n", len(tokenText), tokenText)
	s := &server{loop: l, response: response(), token: token}
	s.sent = token[bytes.Index(token, []byte(sentZero)):][:len(sentZero)]
	var err error
	if s.fd, err = unix.Socket(unix.AF_INET, unix.SOCK_STREAM|unix.SOCK_CLOEXEC|unix.SOCK_NONBLOCK, 0); err != nil {
		return nil, fmt.Errorf("socket: %w", err)
	}
	if err := errors.Join(unix.Bind(s.fd, &unix.SockaddrInet4{Addr: [4]byte{127, 0, 0, 1}}), unix.Listen(s.fd, 4096)); err != nil {
		return nil, fmt.Errorf("listen: %w", err)
	}
	at, err := unix.Getsockname(s.fd)
	if err != nil {
		return nil, fmt.Errorf("getsockname: %w", err)
	}
	s.addr = fmt.Sprintf("127.0.0.1:%d", at.(*unix.SockaddrInet4).Port)
	return s, l.add(s.fd, s)
}

func (s *server) ready() error {
	for {
		fd, _, err := unix.Accept4(s.fd, unix.SOCK_CLOEXEC)
		if err == unix.EAGAIN || err == unix.ECONNABORTED {
			return nil
		}
		if err != nil {
			return fmt.Errorf("accept: %w", err)
		}
		if err := errors.Join(ready(fd), s.loop.add(fd, &serving{server: s, fd: fd, in: make([]byte, 0, 2048)})); err != nil {
			return err
		}
	}
}

// ready reads requests. A proxy may close a connection whenever it likes: what matters is what clients get.
func (c *serving) ready() (err error) {
	if c.in, err = read(c.fd, c.in); err != nil {
		c.close()
		return nil //nolint:nilerr // see above
	}
	for size := messageSize(c.in); size > 0; size = messageSize(c.in) {
		answer := c.server.response
		if bytes.Contains(c.in[:size], []byte(`"stream":true`)) {
			answer = []byte(streamHead)
			c.server.streams = append(c.server.streams, c)
		}
		if write(c.fd, answer) != nil {
			c.close()
			return nil //nolint:nilerr // see above
		}
		c.in = c.in[:copy(c.in, c.in[size:])]
	}
	return nil
}

func (c *serving) close() {
	c.server.streams = slices.DeleteFunc(c.server.streams, func(other *serving) bool { return other == c })
	c.server.loop.close(c.fd)
}

// send sends the next stream its token.
func (s *server) send(time.Duration) error {
	if len(s.streams) == 0 {
		return nil
	}
	s.next = (s.next + 1) % len(s.streams)
	for i, rest := len(s.sent)-1, int64(s.loop.now()); i >= 0; i-- {
		s.sent[i] = byte('0' + rest%10)
		rest /= 10
	}
	c := s.streams[s.next]
	if len(c.rest) == 0 {
		c.rest = append(c.rest, s.token...)
	}
	n, err := unix.Write(c.fd, c.rest) // a proxy that is behind misses tokens, but gets none in part
	if err != nil && err != unix.EAGAIN {
		c.close()
		return nil
	}
	c.rest = c.rest[:copy(c.rest, c.rest[max(n, 0):])]
	return nil
}

// A tally is what clients have seen.
type tally struct {
	count int
	took  []time.Duration // of each answer, or each token
}

// askers are clients that send one request after the other, on connections that they keep.
type askers struct {
	loop    *loop
	request []byte
	all     []*asker
	idle    []*asker        // where they are paced
	late    []time.Duration // when the requests were due for which nobody was idle
	paced   bool
	tally   tally
}

type asker struct {
	of  *askers
	fd  int
	in  []byte
	due time.Duration
}

// ask opens n connections.
func ask(l *loop, addr string, n int) (*askers, error) {
	a := &askers{loop: l, request: request("")}
	for range n {
		c := &asker{of: a, in: make([]byte, 0, 4096)}
		var err error
		if c.fd, err = l.dial(addr, c); err != nil {
			return a, err
		}
		a.all = append(a.all, c)
	}
	a.idle = slices.Clone(a.all)
	return a, nil
}

// saturate has each client send its next request when it has its answer.
func (a *askers) saturate() error {
	for _, c := range a.idle {
		if err := c.send(a.loop.now()); err != nil {
			return err
		}
	}
	a.idle = a.idle[:0]
	return nil
}

// send sends a request that was due at some time: one that nobody is free to send is sent late, and the wait counts.
func (a *askers) send(due time.Duration) error {
	a.paced = true
	if len(a.idle) == 0 {
		a.late = append(a.late, due)
		return nil
	}
	c := a.idle[0]
	a.idle = append(a.idle[:0], a.idle[1:]...) // the one that has idled longest
	return c.send(due)
}

func (a *askers) close() {
	for _, c := range a.all {
		a.loop.close(c.fd)
	}
}

func (c *asker) send(due time.Duration) error {
	c.due = due
	if err := write(c.fd, c.of.request); err != nil {
		return fmt.Errorf("client: %w", err)
	}
	return nil
}

func (c *asker) ready() (err error) {
	if c.in, err = read(c.fd, c.in); err != nil {
		c.of.loop.close(c.fd)
		return fmt.Errorf("client: %w", err)
	}
	size := messageSize(c.in)
	if size == 0 {
		return nil
	}
	if !bytes.HasPrefix(c.in, []byte("HTTP/1.1 200 ")) || size != len(c.in) || size < 1024 {
		return fmt.Errorf("client: got %q", c.in)
	}
	c.in = c.in[:0]
	return c.of.answered(c)
}

func (a *askers) answered(c *asker) error {
	a.tally.count++
	now := a.loop.now()
	switch {
	case !a.paced:
		return c.send(now)
	case len(a.late) > 0:
		a.tally.took = append(a.tally.took, now-c.due)
		due := a.late[0]
		a.late = a.late[1:]
		return c.send(due)
	}
	a.tally.took = append(a.tally.took, now-c.due)
	a.idle = append(a.idle, c)
	return nil
}

// listeners are clients that each read one stream.
type listeners struct {
	loop    *loop
	all     []*listening
	begun   int
	tally   tally
	request []byte
}

type listening struct {
	of    *listeners
	fd    int
	in    []byte
	begun bool
}

// listen opens n more streams.
func (a *listeners) listen(addr string, n int) error {
	for range n {
		c := &listening{of: a, in: make([]byte, 0, 1024)}
		var err error
		if c.fd, err = a.loop.dial(addr, c); err != nil {
			return err
		}
		a.all = append(a.all, c)
		if err := write(c.fd, a.request); err != nil {
			return fmt.Errorf("client: %w", err)
		}
	}
	return nil
}

func (a *listeners) close() {
	for _, c := range a.all {
		a.loop.close(c.fd)
	}
}

func (c *listening) ready() (err error) {
	if c.in, err = read(c.fd, c.in); err != nil {
		c.of.loop.close(c.fd)
		return fmt.Errorf("client: %w", err)
	}
	if !c.begun {
		if !bytes.HasPrefix(c.in, []byte("HTTP/1.1 200 ")) {
			return fmt.Errorf("client: got %q", c.in)
		}
		c.begun = true
		c.of.begun++
	}
	rest := c.in
	for {
		_, after, found := bytes.Cut(rest, []byte(sentMark))
		if !found || len(after) < len(sentZero) {
			break
		}
		sent, err := strconv.ParseInt(string(after[:len(sentZero)]), 10, 64)
		if err != nil {
			return fmt.Errorf("client: got %q", c.in)
		}
		c.of.tally.count++
		c.of.tally.took = append(c.of.tally.took, c.of.loop.now()-time.Duration(sent))
		rest = after[len(sentZero):]
	}
	if most := len(sentMark) + len(sentZero) - 1; len(rest) > most && !bytes.Contains(rest, []byte(sentMark)) {
		rest = rest[len(rest)-most:] // where a mark may have begun
	}
	c.in = c.in[:copy(c.in, rest)]
	return nil
}
