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

// A gate lets a client's bytes through: one request at a time, and only while there is one way to read them.
//
// Where two readers of the same bytes disagree about the end of a request, one request is smuggled inside another. So there is one
// reader, it is stricter than any backend, and what it read is what is said to the backend: its head understood field by field, its
// body as far as its length or its last chunk says, and not a byte behind that.
type gate struct {
	limit int             // of a head, in bytes
	known int             // bytes of an incomplete head that have been looked at
	ended bool            // nothing is left of the present request: the next one may begin
	body  body            // what is left of it
	open  bool            // what is left of the body is not read beforehand: see visit.readsOn
	held  []byte          // what has been read of such a body
	asks  bool            // the client waits for a "100 Continue"
	timed bool            // the time for the body has begun
	no    *router.Refusal // nothing goes through any more
}

// Refusals of heads, besides those of its fields.
var (
	errLine         = errors.New(`the request line is malformed: it must be "METHOD target HTTP/1.1" with single spaces`)
	errMethod       = errors.New("the method is malformed: it consists of capital letters, with - or _ between them")
	errTarget       = errors.New("the target is malformed: it must be a path, or an http URL, of visible ASCII characters, with % before two hex digits only, without a fragment")
	errHost         = errors.New("the Host header must be there once, be a host, and be that of the target where the target is a URL")
	errMasked       = errors.New("Content_Length and Transfer_Encoding are what some backends take for the fields with a dash")
	errTrailer      = errors.New("the trailer has a field that must be in the header")
	errBodyTooLarge = errors.New("the body is larger than its limit")
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

// refuse closes the gate.
func (g *gate) refuse(status int, err error) error {
	g.no = badRequest(status, "%v", err)
	return g.no
}

// awaitFirst waits for a request, and skips the empty lines before it that RFC 9112 has us ignore. Where what comes cannot be
// the beginning of one it closes the gate.
func (c *conn) awaitFirst() error {
	g := &c.gate
	g.ended, g.known, g.timed, g.open, g.held = false, 0, false, false, nil
	if len(c.source.bytes()) == 0 {
		runtime.Gosched() // a request that comes soon after an answer is then read at the first try, as in visit.put
	}
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
			g.refuse(fasthttp.StatusBadRequest, errLine)
			return nil
		default:
			return c.awaitHead()
		}
	}
}

// readHead waits for a whole head.
func (c *conn) readHead(in *intake) error {
	for {
		n, err := c.gate.check(c.source.bytes(), in)
		if err != nil {
			return err
		}
		if n > 0 {
			c.source.consume(n)
			return nil
		}
		c.came = time.Time{}
		if err := c.patiently(c.source.fill); err != nil {
			return c.noted(err)
		}
	}
}

// check reads the head at the beginning of b into a request and says how long it is; 0: it is not all there. What can be refused
// before it is all there is refused then, lest a client that ends its lines in LF waits for ever.
func (g *gate) check(b []byte, in *intake) (n int, err error) {
	news := b[g.known:]
	if g.known = len(b); bytes.IndexByte(news, '\n') < 0 { // no line has ended
		switch {
		case len(b) >= g.limit:
			return 0, g.tooLarge()
		case !visible(bytes.TrimSuffix(news, crlf[:1])): // TLS, for one
			return 0, g.refuse(fasthttp.StatusBadRequest, errLine)
		}
		return 0, nil
	}
	in.text = append(in.text[:0], b[:min(len(b), g.limit)]...)
	line, fields, err := cutLine(in.text)
	var r requestLine
	status := fasthttp.StatusBadRequest
	switch {
	case err == errPart: //nolint:errorlint // it is ours, and is never wrapped
		return 0, g.tooLarge() // its end is behind the limit
	case err == nil:
		r, status, err = parseRequestLine(line)
	}
	if err != nil {
		return 0, g.refuse(status, err)
	}
	switch n, err = in.head.read(fields); {
	case errors.Is(err, errFields):
		return 0, g.refuse(fasthttp.StatusRequestHeaderFieldsTooLarge, err)
	case err != nil:
	case in.head.masked:
		err = errMasked
	case in.head.lengths > 1: // even if they agree: no client of good will sends two
		err = errLength
	case in.head.trails:
		err = errTrailer
	case in.head.chunked && !r.http11:
		err = errCoding
	case n > 0 && !r.hostFits(&in.head):
		err = errHost
	}
	switch {
	case err != nil:
		return 0, g.refuse(fasthttp.StatusBadRequest, err)
	case n == 0 && len(b) >= g.limit:
		return 0, g.tooLarge()
	case n == 0:
		return 0, nil
	}
	n += len(in.text) - len(fields)
	in.text = in.text[:n]
	in.is(&r)
	g.body = requestBody(&in.head)
	g.ended = g.body.done
	g.asks = r.http11 && !g.body.done && is(in.head.expect, "100-continue")
	return n, nil
}

// is takes in the request line of a head that is whole.
func (in *intake) is(r *requestLine) {
	in.whole, in.http11 = true, r.http11
	in.request.Header.SetMethodBytes(r.method)
	in.request.Header.SetRequestURIBytes(r.target)
}

func (g *gate) tooLarge() error {
	g.no = badRequest(fasthttp.StatusRequestHeaderFieldsTooLarge, "the header is larger than the limit of %d bytes", g.limit)
	return g.no
}

// hold appends the body to held until there is more of it than most, in bytes, or all. Where that is not all, the rest is to pass through.
func (c *conn) hold(held []byte, most int) ([]byte, error) {
	g := &c.gate
	if g.body.kind == byLength && g.body.left > int64(c.ln.limits.Body) {
		return held, errBodyTooLarge
	}
	for !g.body.done && len(held) <= most {
		if len(c.source.bytes()) == 0 {
			if err := c.awaitBody(); err != nil {
				return held, err
			}
			if err := c.patiently(c.source.fill); err != nil {
				return held, c.noted(err)
			}
		}
		g.asks = false
		data, used, err := g.body.take(c.source.bytes())
		if err != nil {
			return held, g.refuse(fasthttp.StatusBadRequest, err)
		}
		held = append(held, data...)
		c.source.consume(used)
		if len(held) > int(c.ln.limits.Body) {
			return held, errBodyTooLarge
		}
	}
	g.ended = g.body.done
	return held, nil
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
