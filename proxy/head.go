package proxy

import (
	"bytes"
	"encoding/binary"
	"errors"
	"strconv"
	"strings"
)

// Heads are passed on as bytes: each field is checked and, unless it concerns one hop only, copied as it stands. What
// two parsers could read in two ways is refused, in requests and in answers alike: that is how one message is smuggled
// inside another.
var (
	errField  = errors.New(`a header field is malformed: each must be "name: value" on one line that ends in CRLF`)
	errLength = errors.New("the length of the body is doubtful: Content-Length and Transfer-Encoding contradict each other")
	errCoding = errors.New("only the transfer coding chunked is understood")
	errHops   = errors.New("the Connection header names too many fields")
	errFields = errors.New("the header has too many fields")
	errStatus = errors.New("the status line is malformed")
	errLF     = errors.New("a line ends in LF alone; lines end in CRLF")
	errPart   = errors.New("a line has no end yet")
)

// maxFields bounds the fields of a message.
const maxFields = 256

// maxNamed bounds the fields that Connection headers may name.
const maxNamed = 8

// head is what the fields of a message say about its framing and its hop, and what else the edge has to know. It borrows the bytes it was read from.
type head struct {
	fields       []byte // without the empty line that ends them
	length       int64  // of the body, by Content-Length; -1: not given
	lengths      int    // how often it is given
	chunked      bool
	trails       bool // a Trailer header names a field that must not stand in a trailer
	masked       bool // a field looks like one of these to backends that do not tell _ from -, as CGI has it
	close        bool // the sender closes the connection after this message
	sse          bool // the body is a stream of server-sent events
	buffering    bool // X-Accel-Buffering is given
	timing       bool // the client wants to know what its request took
	trailers     bool // and can be told behind the body
	traceparent  []byte
	traceparents int    // how often it is given
	tracestate   []byte // the first one
	stateLength  int    // of all of them
	host         []byte
	hosts        int // how often it is given
	expect       []byte
	model        []byte // of a request, by modelHeader: the first one
	contentType  []byte // the last one
	encoded      bool   // the body has a Content-Encoding
	anthropic    bool   // the client is Anthropic's
	upgrade      []byte
	switching    bool             // the Connection header says that Upgrade is meant for us
	named        [maxNamed][]byte // by Connection headers: these go no further
	names        int
}

// scan checks the fields in b, which may end with the empty line, and takes note of what they say.
func (h *head) scan(b []byte) error {
	n, err := h.read(b)
	if err == nil && n == 0 && len(h.fields) < len(b) || n > 0 && n < len(b) {
		err = errField
	}
	return err
}

// read checks the fields at the beginning of b, as far as the empty line that ends them, and takes note of what they say. It returns how
// long all that is, or 0 while the empty line is not there; what is no good is no good before that.
func (h *head) read(b []byte) (n int, err error) {
	*h = head{length: -1}
	rest, count := b, 0
	for ; !bytes.HasPrefix(rest, crlf); count++ {
		name, value, next, err := cutField(rest)
		switch {
		case err == errPart: //nolint:errorlint // it is ours, and is never wrapped
			h.fields = b[:len(b)-len(rest)]
			return 0, h.sound()
		case err != nil:
			return 0, err
		case count == maxFields:
			return 0, errFields
		}
		if err := h.note(name, value); err != nil {
			return 0, err
		}
		rest = next
	}
	h.fields = b[:len(b)-len(rest)]
	return len(h.fields) + len(crlf), h.sound()
}

// sound refuses fields that contradict each other.
func (h *head) sound() error {
	if h.chunked && h.length >= 0 {
		return errLength
	}
	return nil
}

// note takes in what one field says.
func (h *head) note(name, value []byte) error {
	switch len(name) {
	case len("te"):
		h.trailers = h.trailers || is(name, "te") && bytes.Contains(bytes.ToLower(value), []byte("trailers"))
	case len(timingHeader):
		h.timing = h.timing || is(name, "x-pilotlight-timing") && is(value, "on")
	case len("host"):
		if is(name, "host") {
			h.host = value
			h.hosts++
		}
	case len("expect"):
		if is(name, "expect") && (h.expect == nil || is(h.expect, "100-continue")) { // one that cannot be met counts
			h.expect = value
		}
	case len("upgrade"):
		switch {
		case is(name, "upgrade"):
			h.upgrade = value
		case is(name, "trailer"):
			for field := range bytes.SplitSeq(value, []byte(",")) {
				h.trails = h.trails || !mayTrail(trim(field))
			}
		}
	case len("traceparent"):
		if is(name, "traceparent") {
			h.traceparent = value
			h.traceparents++
		}
	case len("connection"):
		switch {
		case is(name, "connection"):
			return h.hop(value)
		case is(name, "tracestate"):
			if h.tracestate == nil {
				h.tracestate = value
			}
			h.stateLength += len(value)
		}
	case len("content-type"):
		if is(name, "content-type") {
			h.contentType = value
			kind, _, _ := bytes.Cut(value, []byte(";"))
			h.sse = is(trim(kind), "text/event-stream")
		}
	case len("content-length"):
		h.masked = h.masked || masked(name, "content-length")
		if is(name, "content-length") {
			n, ok := decimal(value)
			if !ok || h.length >= 0 && h.length != n {
				return errLength
			}
			h.length = n
			h.lengths++
		}
	case len("content-encoding"):
		h.encoded = h.encoded || is(name, "content-encoding") && !is(value, "identity")
	case len("x-pilotlight-model"):
		if h.model == nil && is(name, "x-pilotlight-model") {
			h.model = value
		}
	case len("transfer-encoding"):
		switch {
		case is(name, "anthropic-version"):
			h.anthropic = true
		case is(name, "x-accel-buffering"):
			h.buffering = true
		case masked(name, "transfer-encoding"):
			h.masked = true
		case is(name, "transfer-encoding"):
			if h.chunked || !is(value, "chunked") {
				return errCoding
			}
			h.chunked = true
		}
	}
	return nil
}

// hop takes in a Connection header. Host goes on even if it is named: no message is whole without it.
func (h *head) hop(value []byte) error {
	for option := range bytes.SplitSeq(value, []byte(",")) {
		option = bytes.Trim(option, " \t")
		switch {
		case len(option) == 0, is(option, "keep-alive"), is(option, "host"):
		case is(option, "upgrade"):
			h.switching = true
		case is(option, "close"):
			h.close = true
		case h.names == maxNamed:
			return errHops
		default:
			h.named[h.names] = option
			h.names++
		}
	}
	return nil
}

// appendFields appends the fields that go further than this hop, except those that drop names.
func (h *head) appendFields(dst []byte, drop func(name []byte) bool) []byte {
	kept := 0 // what stands before it has been appended, or is dropped
	for at := 0; at < len(h.fields); {
		field := h.fields[at : at+bytes.IndexByte(h.fields[at:], '\n')+1] // it was checked
		if name := field[:tokenSize(field)]; ofThisHop(name) || h.isNamed(name) || drop(name) {
			dst = append(dst, h.fields[kept:at]...)
			kept = at + len(field)
		}
		at += len(field)
	}
	return append(dst, h.fields[kept:]...)
}

func (h *head) isNamed(name []byte) bool {
	for _, n := range h.named[:h.names] {
		if bytes.EqualFold(n, name) {
			return true
		}
	}
	return false
}

// ofThisHop names the fields that concern one connection only. The length of the body is among them: it is said anew.
func ofThisHop(name []byte) bool {
	switch len(name) {
	case 2:
		return is(name, "te")
	case 7:
		return is(name, "upgrade")
	case 10:
		return is(name, "connection") || is(name, "keep-alive")
	case 14:
		return is(name, "content-length")
	case 16:
		return is(name, "proxy-connection")
	case 17:
		return is(name, "transfer-encoding")
	case 18:
		return is(name, "proxy-authenticate")
	case 19:
		return is(name, "proxy-authorization")
	}
	return false
}

// ofTheEdge names the fields of a request that are answered or said anew by us. What a client that is not trusted says
// of who forwarded it is not believed.
func ofTheEdge(name []byte) bool {
	return is(name, "expect") || is(name, "trailer") || isForwarded(name)
}

func nothing([]byte) bool { return false }

// mayTrail says whether a request's field may stand in its trailer: none that says how to frame, route, process or authorise the request, or what its
// body is (RFC 9110, 6.5.1).
func mayTrail(name []byte) bool {
	switch name := string(bytes.ToLower(name)); name {
	case "authorization", "cookie", "expect", "host", "location", "max-forwards", "range", "set-cookie", "trailer", "www-authenticate":
		return false
	default:
		return !ofThisHop([]byte(name)) && !isForwarded([]byte(name)) && !strings.HasPrefix(name, "content-") && !strings.HasPrefix(name, "proxy-")
	}
}

// message is a request as it goes to a backend.
type message struct {
	method, target []byte
	head           *head
	client         string   // address, without port
	trusted        bool     // what the client says of who forwarded the request is believed
	keyed          bool     // the client's key is ours, and goes no further
	proto          string   // http or https: how the client speaks to us
	addr           string   // of the backend
	length         int64    // of the body
	chunked        bool     // the body comes so: a trailer follows, or nobody knows its length yet
	upgrade        []byte   // what the connection shall be upgraded to; nil: it shall not
	carried        *carried // of a trace; nil: the client's own word on that is passed on
}

// appendTo appends the request line and the header.
func (m *message) appendTo(dst []byte) []byte {
	dst = append(append(dst, m.method...), ' ')
	dst = append(append(dst, m.target...), " HTTP/1.1\r\n"...)
	dst = m.appendFields(dst)
	if m.head.host == nil {
		dst = appendField(dst, "Host", m.addr)
	}
	switch {
	case m.chunked:
		dst = m.appendTrailerNames(append(dst, "Transfer-Encoding: chunked\r\n"...))
	case m.length > 0 || m.head.chunked || m.head.length >= 0:
		dst = appendLength(dst, m.length)
	}
	if m.upgrade != nil {
		dst = appendUpgrade(dst, m.upgrade)
	}
	return append(dst, "\r\n"...)
}

// appendTrailerNames appends what the client said of the trailer beforehand.
func (m *message) appendTrailerNames(dst []byte) []byte {
	for name, value := range m.head.each {
		if is(name, "trailer") {
			dst = appendField(dst, "Trailer", string(value))
		}
	}
	return dst
}

// appendFields appends the client's fields, and who forwarded the request.
func (m *message) appendFields(dst []byte) []byte {
	ours := ofTheEdge
	switch {
	case m.trusted && m.keyed:
		ours = func(name []byte) bool { return ofAProxy(name) || ofAKey(name) }
	case m.trusted:
		ours = ofAProxy
	case m.keyed:
		ours = func(name []byte) bool { return ofTheEdge(name) || ofAKey(name) }
	}
	if m.carried == nil {
		return m.appendForwarded(m.head.appendFields(dst, ours))
	}
	dst = m.head.appendFields(dst, func(name []byte) bool { return ours(name) || ofATrace(name) })
	return m.appendForwarded(m.carried.appendTo(dst, m.head))
}

// answer is the head of a backend's answer.
type answer struct {
	head
	status int
	phrase []byte // the status line from the status on
	http11 bool
}

// parse reads the answer at the beginning of b and returns the length of its head, or 0 while that is incomplete.
func (a *answer) parse(b []byte) (int, error) {
	line, fields, err := cutLine(b)
	if err != nil {
		return 0, partly(b, err)
	}
	version, phrase, ok := bytes.Cut(line, []byte(" "))
	code, _, _ := bytes.Cut(phrase, []byte(" "))
	status, isNumber := decimal(code)
	if !ok || !isNumber || len(code) != 3 || status < 100 || !visible(line) {
		return 0, errStatus
	}
	a.http11 = string(version) == "HTTP/1.1"
	if !a.http11 && string(version) != "HTTP/1.0" {
		return 0, errStatus
	}
	n, err := a.read(fields)
	switch {
	case n == 0 || err != nil:
		return 0, err
	case a.chunked && !a.http11:
		return 0, errCoding
	}
	a.status, a.phrase = int(status), phrase
	return len(b) - len(fields) + n, nil
}

// partly says what is to be made of an answer whose first line is not all there: what is no good is refused, since the rest may never come.
func partly(b []byte, err error) error {
	if version := []byte("HTTP/1."); err == errPart && bytes.HasPrefix(b, version[:min(len(b), len(version))]) { //nolint:errorlint // as above
		return nil
	}
	return errStatus
}

// empty says whether no body follows the answer, whatever its header says.
func (a *answer) empty(toHead bool) bool {
	return toHead || a.status == 204 || a.status == 304 || a.status < 200
}

// appendTo appends the head of the answer as the client gets it, with its body framed by f.
func (a *answer) appendTo(dst []byte, f framing, last bool) []byte {
	dst = append(append(append(dst, "HTTP/1.1 "...), a.phrase...), "\r\n"...)
	dst = a.appendFields(dst, nothing)
	switch {
	case f == framed:
		dst = append(dst, "Transfer-Encoding: chunked\r\n"...)
	case a.length >= 0 && a.status >= 200 && a.status != 204:
		dst = appendLength(dst, a.length)
	}
	if a.status == 101 {
		dst = appendUpgrade(dst, a.upgrade)
	}
	if a.sse && !a.buffering {
		dst = appendField(dst, "X-Accel-Buffering", "no")
	}
	if last {
		dst = appendField(dst, "Connection", "close")
	}
	return append(dst, "\r\n"...)
}

func appendField(dst []byte, name, value string) []byte {
	dst = append(append(dst, name...), ": "...)
	return append(append(dst, value...), "\r\n"...)
}

func appendUpgrade(dst, to []byte) []byte {
	dst = append(append(dst, "Connection: Upgrade\r\nUpgrade: "...), to...)
	return append(dst, "\r\n"...)
}

func appendLength(dst []byte, n int64) []byte {
	return append(strconv.AppendInt(append(dst, "Content-Length: "...), n, 10), "\r\n"...)
}

// cutLine takes one line from b, without the CRLF that ends it.
func cutLine(b []byte) (line, rest []byte, err error) {
	switch end := bytes.IndexByte(b, '\n'); {
	case end < 0:
		return nil, b, errPart
	case end == 0 || b[end-1] != '\r':
		return nil, b, errLF
	default:
		return b[:end-1], b[end+1:], nil
	}
}

// cutField takes one line from b: a name, a colon, a value without the white space around it, and CRLF.
func cutField(b []byte) (name, value, rest []byte, err error) {
	line, rest, err := cutLine(b)
	if err != nil {
		return nil, nil, nil, err
	}
	colon := tokenSize(line)
	if colon == 0 || colon == len(line) || line[colon] != ':' || !visible(line[colon+1:]) {
		return nil, nil, nil, errField
	}
	return line[:colon], trim(line[colon+1:]), rest, nil
}

// trim takes spaces and tabs off both ends. bytes.Trim takes five times as long to see that there is hardly any.
func trim(b []byte) []byte {
	for len(b) > 0 && (b[0] == ' ' || b[0] == '\t') {
		b = b[1:]
	}
	for len(b) > 0 && (b[len(b)-1] == ' ' || b[len(b)-1] == '\t') {
		b = b[:len(b)-1]
	}
	return b
}

// The characters that a name may have, one bit each: those below 64, and those from there to 127.
const (
	lowTokens = 1<<'!' | 1<<'#' | 1<<'$' | 1<<'%' | 1<<'&' | 1<<'\'' | 1<<'*' | 1<<'+' | 1<<'-' | 1<<'.' | 0x3ff<<'0'
	letters   = 1<<26 - 1
	tokens    = letters<<('A'-64) | letters<<('a'-64) | 1<<('^'-64) | 1<<('_'-64) | 1<<('`'-64) | 1<<('|'-64) | 1<<('~'-64)
)

// tokenSize is how much of the beginning of b may be a field's name. A folded line begins with white space, and so with none.
func tokenSize(b []byte) int {
	for i, c := range b {
		if (uint64(lowTokens)>>c|uint64(tokens)>>(c-64))&1 == 0 { // what is shifted too far is 0
			return i
		}
	}
	return len(b)
}

// visible says whether b is free of control characters, the tab excepted. It looks at eight bytes at a time: every
// request's and every answer's header passes here.
func visible(b []byte) bool {
	const ones, highs = 0x0101010101010101, 0x8080808080808080
	for len(b) >= 8 {
		x := binary.LittleEndian.Uint64(b)
		del := x ^ 0x7f*ones
		if ((x-' '*ones)&^x|(del-ones)&^del)&highs != 0 && !eachVisible(b[:8]) {
			return false
		}
		b = b[8:]
	}
	return eachVisible(b)
}

func eachVisible(b []byte) bool {
	for _, c := range b {
		if c < ' ' && c != '\t' || c == 0x7f {
			return false
		}
	}
	return true
}

// decimal reads a number that consists of digits only.
func decimal(b []byte) (int64, bool) {
	if len(b) == 0 || len(b) > 18 {
		return 0, false
	}
	var n int64
	for _, c := range b {
		if c < '0' || c > '9' {
			return 0, false
		}
		n = n*10 + int64(c-'0')
	}
	return n, true
}

// masked says whether b is the lower-case word, in any case, with an underscore for a dash.
func masked(b []byte, lower string) bool {
	if len(b) != len(lower) || bytes.IndexByte(b, '_') < 0 {
		return false
	}
	for i, c := range b {
		if c |= 0x20; c != lower[i] && (c != '_'|0x20 || lower[i] != '-') {
			return false
		}
	}
	return true
}

// is says whether b is the lower-case word, in any case.
func is(b []byte, lower string) bool {
	if len(b) != len(lower) {
		return false
	}
	for i, c := range b {
		if 'A' <= c && c <= 'Z' {
			c |= 0x20
		}
		if c != lower[i] {
			return false
		}
	}
	return true
}
