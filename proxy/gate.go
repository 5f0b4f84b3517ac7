package proxy

import (
	"bytes"
	"errors"
	"io"
	"net/netip"
	"runtime"
	"strings"
	"time"

	"github.com/valyala/fasthttp"

	"pilotlight/router"
)

// A gate lets a client's bytes through to fasthttp: one request at a time, and only while there is one way to read them.
//
// Where two readers of the same bytes disagree about the end of a request, one request is smuggled inside another. fasthttp
// is laxer than RFC 9112 in places, and waits where it should refuse. So nothing reaches it that the gate has
// not understood: heads whole, bodies up to where their length or their last chunk says, and not a byte behind that.
type gate struct {
	phase gatePhase
	limit int             // of a head, in bytes
	known int             // bytes of an incomplete head whose line ends are fine
	ahead int             // bytes at the front of the source that may go through
	body  body            // what is left of it
	open  bool            // what is left of the body is not read beforehand: see visit.readsOn
	held  []byte          // what has been read of such a body
	asks  bool            // the client waits for a "100 Continue"
	timed bool            // the time for the body has begun
	no    *router.Refusal // nothing goes through any more
}

type gatePhase uint8

const (
	between gatePhase = iota // requests: at the first byte of one
	atHead                   // its first byte is there
	atBody
)

// Refusals of heads, besides those of its fields.
var (
	errLine    = errors.New(`the request line is malformed: it must be "METHOD target HTTP/1.1" with single spaces`)
	errLF      = errors.New("a line ends in LF alone; lines end in CRLF")
	errMethod  = errors.New("the method is malformed: it consists of capital letters, with - or _ between them")
	errTarget  = errors.New("the target is malformed: it must be a path, or an http URL, of visible ASCII characters, with % before two hex digits only, without a fragment")
	errHost    = errors.New("the Host header must be there once, be a host, and be that of the target where the target is a URL")
	errMasked  = errors.New("Content_Length and Transfer_Encoding are what some backends take for the fields with a dash")
	errTrailer = errors.New("the trailer has a field that must be in the header")
	errDesync  = errors.New("the request is longer than its header says")
)

const (
	maxMethod = 32 // bytes
	maxEmpty  = 4  // lines before a request
)

// await waits for the first byte of a request.
func (c *conn) await() error {
	if err := c.awaitRequest(); err != nil {
		return err
	}
	if c.fresh {
		c.fresh = false
		if !c.greet() {
			return io.EOF
		}
	}
	return c.awaitFirst()
}

// Read is fasthttp's. The head is there: see readHead.
func (c *conn) Read(p []byte) (int, error) {
	g := &c.gate
	switch {
	case g.no != nil:
		return 0, g.no
	case g.phase == between: // fasthttp takes the request to be longer than we do
		return 0, g.refuse(fasthttp.StatusBadRequest, errDesync)
	case g.ahead == 0:
		if n, err := c.readBody(p); n > 0 || err != nil {
			return n, err
		}
	}
	n := copy(p, c.source.bytes()[:g.ahead])
	c.source.consume(n)
	if g.ahead -= n; g.ahead == 0 {
		g.next()
	}
	return n, nil
}

// next is after everything that may go through has gone through.
func (g *gate) next() {
	g.phase = atBody
	if g.body.done {
		g.phase = between
	}
}

// refuse closes the gate.
func (g *gate) refuse(status int, err error) error {
	g.no = badRequest(status, "%v", err)
	return g.no
}

// awaitFirst waits for a request, and skips the empty lines before it that RFC 9112 has us ignore. Where what comes cannot be
// the beginning of one it closes the gate.
func (c *conn) awaitFirst() error {
	g := &c.gate
	g.phase, g.known, g.timed, g.open, g.held = atHead, 0, false, false, nil
	runtime.Gosched() // a request that comes soon after an answer is then read at the first try, as in visit.put
	for empty := 0; ; {
		b := c.source.bytes()
		switch {
		case bytes.HasPrefix(b, crlf) && empty < maxEmpty:
			empty++
			c.source.consume(len(crlf))
		case len(b) == 0, len(b) == 1 && b[0] == '\r' && empty < maxEmpty:
			if err := c.patiently(c.source.sip); err != nil {
				return c.noted(err)
			}
		case b[0] == '\r', b[0] == '\n':
			clear(c.line[:])
			g.refuse(fasthttp.StatusBadRequest, errLine)
			return nil
		default:
			return c.awaitHead()
		}
	}
}

// readHead waits for a whole head.
func (c *conn) readHead() error {
	for {
		b := c.source.bytes()
		clear(c.line[copy(c.line[:], b):])
		n, err := c.gate.check(b)
		if err != nil {
			return err
		}
		if n > 0 {
			c.gate.ahead = n
			return nil
		}
		c.came = time.Time{}
		if err := c.patiently(c.source.fill); err != nil {
			return c.noted(err)
		}
	}
}

// check reads the head at the beginning of b and says how long it is; 0: it is not all there. What can be refused
// before it is all there is refused then, lest a client that ends its lines in LF waits for ever.
func (g *gate) check(b []byte) (int, error) {
	from := max(0, g.known-len(crlf))
	n := from + bytes.Index(b[from:], crlfcrlf) + len(crlfcrlf)
	switch whole := n >= from+len(crlfcrlf); {
	case whole && n <= g.limit:
	case len(b) >= g.limit:
		return 0, g.tooLarge()
	default:
		return 0, g.checkPart(b)
	}
	line, fields, _ := bytes.Cut(b[:n], crlf)
	r, status, err := parseRequestLine(line)
	if err != nil {
		return 0, g.refuse(status, err)
	}
	var h head
	err = h.scan(fields)
	switch {
	case errors.Is(err, errFields):
		return 0, g.refuse(fasthttp.StatusRequestHeaderFieldsTooLarge, err)
	case err == nil && h.masked:
		err = errMasked
	case err == nil && h.chunked && !r.http11:
		err = errCoding
	case err == nil && !r.hostFits(&h):
		err = errHost
	}
	if err != nil {
		return 0, g.refuse(fasthttp.StatusBadRequest, err)
	}
	g.body = requestBody(&h)
	g.asks = r.http11 && !g.body.done && is(h.expect, "100-continue")
	return n, nil
}

func (g *gate) tooLarge() error {
	g.no = badRequest(fasthttp.StatusRequestHeaderFieldsTooLarge, "the header is larger than the limit of %d bytes", g.limit)
	return g.no
}

// checkPart looks at a head that is not all there: at its request line, and at how its lines end.
func (g *gate) checkPart(b []byte) error {
	for {
		i := bytes.IndexByte(b[g.known:], '\n')
		if i < 0 {
			break
		}
		if i += g.known; i == 0 || b[i-1] != '\r' {
			return g.refuse(fasthttp.StatusBadRequest, errLF)
		}
		g.known = i + 1
	}
	line, _, all := bytes.Cut(b, crlf)
	if all {
		if _, status, err := parseRequestLine(line); err != nil {
			return g.refuse(status, err)
		}
	}
	if !visible(bytes.TrimSuffix(line, crlf[:1])) { // TLS, for one
		return g.refuse(fasthttp.StatusBadRequest, errLine)
	}
	return nil
}

// readBody waits for more of a body. What has a length goes to p directly, the rest waits in the source.
func (c *conn) readBody(p []byte) (int, error) {
	g := &c.gate
	if len(c.source.bytes()) == 0 {
		if err := c.awaitBody(); err != nil {
			return 0, err
		}
		if g.body.kind == byLength {
			var n int
			err := c.patiently(func() (err error) {
				n, err = c.Conn.Read(p[:min(int64(len(p)), g.body.left)])
				return err
			})
			g.body.pass(p[:n])
			g.next()
			return n, c.noted(err)
		}
		if err := c.patiently(c.source.fill); err != nil {
			return 0, c.noted(err)
		}
	}
	g.asks = false
	n, err := g.body.pass(c.source.bytes())
	if err != nil {
		return 0, g.refuse(fasthttp.StatusBadRequest, err)
	}
	g.ahead = n
	return 0, nil
}

// hold reads a body of unknown length until there is more of it than most, in bytes, or all. It gives the body if that is all
// there; else the gate has what is, and the rest is to pass through.
func (c *conn) hold(most int) ([]byte, error) {
	g := &c.gate
	var held []byte
	for !g.body.done && len(held) <= most {
		if len(c.source.bytes()) == 0 {
			if err := c.awaitBody(); err != nil {
				return nil, err
			}
			if err := c.patiently(c.source.fill); err != nil {
				return nil, c.noted(err)
			}
		}
		g.asks = false
		data, used, err := g.body.take(c.source.bytes())
		if err != nil {
			return nil, g.refuse(fasthttp.StatusBadRequest, err)
		}
		held = append(held, data...)
		c.source.consume(used)
		if len(held) > int(c.ln.limits.Body) {
			return nil, fasthttp.ErrBodyTooLarge
		}
	}
	if g.next(); g.body.done {
		return held, nil
	}
	g.open, g.held = true, held
	return nil, nil
}

// awaitBody has a client send its body, and gives it its time for that, from when the first of it is waited for.
func (c *conn) awaitBody() error {
	if c.gate.asks {
		if err := c.send(goOn); err != nil {
			return err
		}
		c.gate.asks = false
	}
	c.came = time.Time{}
	if c.gate.timed {
		return nil
	}
	c.gate.timed = true
	return c.expect(time.Now().Add(c.ln.limits.BodyTime.Std()))
}

var (
	crlf     = []byte("\r\n")
	crlfcrlf = []byte("\r\n\r\n")
	goOn     = []byte("HTTP/1.1 100 Continue\r\n\r\n")
)

// requestLine is the first line of a request.
type requestLine struct {
	method, target []byte
	http11         bool
}

// parseRequestLine reads a request line, without its line end. If it is no good, status is what to refuse it with.
func parseRequestLine(line []byte) (r requestLine, status int, err error) {
	method, rest, _ := bytes.Cut(line, []byte(" "))
	target, version, _ := bytes.Cut(rest, []byte(" "))
	switch {
	case !isMethod(method):
		return r, fasthttp.StatusBadRequest, errMethod
	case string(version) == "HTTP/1.1", string(version) == "HTTP/1.0":
	case len(version) == len("HTTP/x.y") && bytes.HasPrefix(version, []byte("HTTP/")) && isDigit(version[5]) && version[6] == '.' && isDigit(version[7]):
		return r, fasthttp.StatusHTTPVersionNotSupported, errors.New("this edge speaks HTTP/1.1 and HTTP/1.0")
	default:
		return r, fasthttp.StatusBadRequest, errLine
	}
	r = requestLine{method, target, version[7] == '1'}
	if !r.targetFits() {
		return r, fasthttp.StatusBadRequest, errTarget
	}
	return r, 0, nil
}

func isMethod(b []byte) bool {
	for i, c := range b {
		if (c < 'A' || 'Z' < c) && (i == 0 || c != '-' && c != '_') {
			return false
		}
	}
	return len(b) > 0 && len(b) <= maxMethod
}

// targetFits says whether the target is one that the method may have. CONNECT has a host and a port for one, and
// is refused later on.
func (r *requestLine) targetFits() bool {
	for i, c := range r.target {
		if c <= ' ' || c >= 0x7f || c == '#' || c == '%' && !isEscape(r.target[i:]) {
			return false
		}
	}
	switch {
	case bytes.HasPrefix(r.target, []byte("/")):
		return true
	case string(r.target) == "*":
		return string(r.method) == "OPTIONS"
	case string(r.method) == "CONNECT":
		return isHost(r.target)
	}
	_, ok := r.authority()
	return ok
}

// authority is the host of a target that is a URL.
func (r *requestLine) authority() ([]byte, bool) {
	scheme, rest, ok := bytes.Cut(r.target, []byte("://"))
	if !ok || !is(scheme, "http") && !is(scheme, "https") {
		return nil, false
	}
	if i := bytes.IndexAny(rest, "/?"); i >= 0 {
		rest = rest[:i]
	}
	return rest, isHost(rest)
}

// hostFits says whether the request names one host.
func (r *requestLine) hostFits(h *head) bool {
	switch {
	case h.hosts == 0:
		return !r.http11
	case h.hosts > 1 || !isHost(h.host):
		return false
	}
	authority, given := r.authority()
	return !given || bytes.EqualFold(authority, h.host)
}

// isHost says whether b is a host, with a port or without.
func isHost(b []byte) bool {
	host, port := b, []byte(nil)
	if i := bytes.LastIndexByte(b, ':'); i >= 0 && bytes.IndexByte(b[i:], ']') < 0 {
		host, port = b[:i], b[i+1:]
	}
	for _, c := range port {
		if !isDigit(c) {
			return false
		}
	}
	if len(host) == 0 || len(port) > len("65535") {
		return false
	}
	if host[0] == '[' && host[len(host)-1] == ']' {
		ip, err := netip.ParseAddr(string(host[1 : len(host)-1]))
		return err == nil && ip.Is6() && ip.Zone() == ""
	}
	for _, c := range host {
		if !isLetter(c) && !isDigit(c) && strings.IndexByte("-._~!$&'()*+;=", c) < 0 {
			return false
		}
	}
	return true
}

// isEscape says whether b begins with % and two hex digits.
func isEscape(b []byte) bool {
	if len(b) < len("%20") {
		return false
	}
	_, one := hexDigit(b[1])
	_, two := hexDigit(b[2])
	return one && two
}

func isDigit(c byte) bool  { return '0' <= c && c <= '9' }
func isLetter(c byte) bool { return 'a' <= c|0x20 && c|0x20 <= 'z' }
