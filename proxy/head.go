package proxy

import (
	"bytes"
	"encoding/binary"
	"errors"
	"strconv"
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
)

// maxFields bounds the fields of a message.
const maxFields = 256

// maxNamed bounds the fields that Connection headers may name.
const maxNamed = 8

// head is what the fields of a message say about its framing and its hop. It borrows the bytes it was scanned from.
type head struct {
	fields       []byte // without the empty line that ends them
	length       int64  // of the body, by Content-Length; -1: not given
	chunked      bool
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
	upgrade      []byte
	switching    bool             // the Connection header says that Upgrade is meant for us
	named        [maxNamed][]byte // by Connection headers: these go no further
	names        int
}

// scan checks the fields in b, which may end with the empty line, and takes note of what they say.
func (h *head) scan(b []byte) error {
	*h = head{length: -1, fields: b}
	if string(b) == "\r\n" || bytes.HasSuffix(b, []byte("\r\n\r\n")) {
		h.fields = b[:len(b)-2]
	}
	for n, rest := 0, h.fields; len(rest) > 0; n++ {
		name, value, next, err := cutField(rest)
		switch {
		case err != nil:
			return err
		case n == maxFields:
			return errFields
		}
		if err := h.note(name, value); err != nil {
			return err
		}
		rest = next
	}
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
		if is(name, "upgrade") {
			h.upgrade = value
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
		}
	case len("transfer-encoding"):
		switch {
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
	for rest := h.fields; len(rest) > 0; { // they were checked
		field := rest[:bytes.IndexByte(rest, '\n')+1]
		name := field[:bytes.IndexByte(field, ':')]
		if !ofThisHop(name) && !h.isNamed(name) && !drop(name) {
			dst = append(dst, field...)
		}
		rest = rest[len(field):]
	}
	return dst
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
	n := bytes.Index(b, crlfcrlf) + len(crlfcrlf)
	if n < len(crlfcrlf) {
		return 0, checkPart(b)
	}
	line, fields, _ := bytes.Cut(b[:n], crlf)
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
	if err := a.scan(fields); err != nil {
		return 0, err
	}
	if a.chunked && !a.http11 {
		return 0, errCoding
	}
	a.status, a.phrase = int(status), phrase
	return n, nil
}

// checkPart refuses an answer of whose head not all is there when what is there is no good: the rest may never come.
func checkPart(b []byte) error {
	if version := []byte("HTTP/1."); !bytes.HasPrefix(b, version[:min(len(b), len(version))]) {
		return errStatus
	}
	for i := bytes.IndexByte(b, '\n'); i >= 0; i = bytes.IndexByte(b, '\n') {
		if i == 0 || b[i-1] != '\r' {
			return errField
		}
		b = b[i+1:]
	}
	return nil
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

// cutField takes one line from b: a name, a colon, a value without the white space around it, and CRLF.
func cutField(b []byte) (name, value, rest []byte, err error) {
	end := bytes.IndexByte(b, '\n')
	if end < 1 || b[end-1] != '\r' {
		return nil, nil, nil, errField
	}
	name, value, found := bytes.Cut(b[:end-1], []byte(":"))
	if !found || !token(name) || !visible(value) {
		return nil, nil, nil, errField
	}
	return name, trim(value), b[end+1:], nil
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

// token says whether b may be a field's name. A folded line begins with white space, and so is none.
func token(b []byte) bool {
	for _, c := range b {
		if (uint64(lowTokens)>>c|uint64(tokens)>>(c-64))&1 == 0 { // what is shifted too far is 0
			return false
		}
	}
	return len(b) > 0
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
