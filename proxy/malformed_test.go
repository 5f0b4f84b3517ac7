package proxy

import (
	"bufio"
	"fmt"
	"io"
	"net"
	"net/http"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"pilotlight/config"
	"pilotlight/router"
)

// wire is a request as it comes over the wire, and the status that it must get. The tail follows it on the same
// connection, unless it is alone: it must be served as a request of its own after one that is well formed, and never
// after one that is not.
type wire struct {
	group, name string
	send        string
	want        int
	saw         string // by the backend, where want is 200: method, target and body
	alone       bool
}

func (w wire) text() string {
	if w.alone {
		return w.send
	}
	return w.send + tail
}

const tail = "GET /upstream/m/tail HTTP/1.1\r\nHost: e\r\n\r\n"

// sawTail is what the backend sees of it.
const sawTail = "GET /tail "

// lines joins the lines of a head, and ends it.
func lines(all ...string) string { return strings.Join(all, "\r\n") + "\r\n\r\n" }

// get is a GET with some fields.
func get(fields ...string) string {
	return lines(append([]string{"GET /upstream/m/x HTTP/1.1", "Host: e"}, fields...)...)
}

// with is a request with some fields and a body.
func with(body string, fields ...string) string {
	return lines(append([]string{"POST /upstream/m/x HTTP/1.1", "Host: e"}, fields...)...) + body
}

// first is a GET that begins with a line of its own.
func firstLine(line string) string { return lines(line, "Host: e") }

// chunks is a request with a chunked body.
func chunks(body string) string { return with(body, "Transfer-Encoding: chunked") }

// requests is the table. Its order is that of docs/strictness.md.
func requests() []wire {
	const no = http.StatusBadRequest
	return slices.Concat(lengths(no), codings(no), lineEnds(no), names(no), requestLines(no), targets(no), hosts(no),
		chunkSizes(no), trailers(no), others(no))
}

func in(group string, all ...wire) []wire {
	for i := range all {
		all[i].group = group
	}
	return all
}

func lengths(no int) []wire {
	return in("Content-Length",
		wire{name: "a body", send: with("hello", "Content-Length: 5"), want: 200, saw: "POST /x hello"},
		wire{name: "white space around it", send: with("hello", "Content-Length: \t 5 \t"), want: 200, saw: "POST /x hello"},
		wire{name: "leading zeros", send: with("hello", "Content-Length: 005"), want: 200, saw: "POST /x hello"},
		wire{name: "with Transfer-Encoding", send: with("0\r\n\r\n", "Content-Length: 5", "Transfer-Encoding: chunked"), want: no},
		wire{name: "behind Transfer-Encoding", send: with("0\r\n\r\n", "Transfer-Encoding: chunked", "Content-Length: 5"), want: no},
		wire{name: "two that differ", send: with("hello", "Content-Length: 5", "Content-Length: 0"), want: no},
		wire{name: "two that are the same", send: with("hello", "Content-Length: 5", "Content-Length: 5"), want: no},
		wire{name: "a list, `5, 5`", send: with("hello", "Content-Length: 5, 5"), want: no},
		wire{name: "a list, `,5`", send: with("hello", "Content-Length: ,5"), want: no},
		wire{name: "`+5`", send: with("hello", "Content-Length: +5"), want: no},
		wire{name: "`-5`", send: with("hello", "Content-Length: -5"), want: no},
		wire{name: "`5 5`", send: with("hello", "Content-Length: 5 5"), want: no},
		wire{name: "`0x5`", send: with("hello", "Content-Length: 0x5"), want: no},
		wire{name: "`5.0`", send: with("hello", "Content-Length: 5.0"), want: no},
		wire{name: "`5e0`", send: with("hello", "Content-Length: 5e0"), want: no},
		wire{name: "`1_0`", send: with("0123456789", "Content-Length: 1_0"), want: no},
		wire{name: "empty", send: with("", "Content-Length:"), want: no},
		wire{name: "2⁶⁴+5", send: with("hello", "Content-Length: 18446744073709551621"), want: no},
		wire{name: "2⁶³", send: with("hello", "Content-Length: 9223372036854775808"), want: no},
		wire{name: "other digits than ASCII's", send: with("hello", "Content-Length: ٥"), want: no},
		wire{name: "written Content_Length", send: with("hello", "Content_Length: 5"), want: no},
		wire{name: "with a vertical tab", send: with("hello", "Content-Length: \v5"), want: no},
		wire{name: "with a NUL behind it", send: with("hello", "Content-Length: 5\x00"), want: no},
		wire{name: "of a GET", send: get("Content-Length: 42") + strings.Replace(tail, "tail", "body", 1), want: 200, saw: "GET /x " + strings.Replace(tail, "tail", "body", 1)},
		wire{name: "larger than the limit", send: with("", "Content-Length: 999999999"), want: http.StatusRequestEntityTooLarge},
	)
}

func codings(no int) []wire {
	const end = "5\r\nhello\r\n0\r\n\r\n"
	te := func(value string) string { return with(end, "Transfer-Encoding:"+value) }
	return in("Transfer-Encoding",
		wire{name: "chunked", send: te(" chunked"), want: 200, saw: "POST /x hello"},
		wire{name: "in capitals", send: te(" CHUNKED"), want: 200, saw: "POST /x hello"},
		wire{name: "a tab behind it", send: te(" chunked\t"), want: 200, saw: "POST /x hello"},
		wire{name: "identity", send: te(" identity"), want: no},
		wire{name: "identity, chunked", send: te(" identity, chunked"), want: no},
		wire{name: "gzip", send: te(" gzip"), want: no},
		wire{name: "gzip, chunked", send: te(" gzip, chunked"), want: no},
		wire{name: "chunked, gzip", send: te(" chunked, gzip"), want: no},
		wire{name: "chunked, chunked", send: te(" chunked, chunked"), want: no},
		wire{name: "chunked, identity", send: te(" chunked, identity"), want: no},
		wire{name: "a comma behind it", send: te(" chunked,"), want: no},
		wire{name: "twice", send: with(end, "Transfer-Encoding: chunked", "Transfer-Encoding: chunked"), want: no},
		wire{name: "twice, once identity", send: with(end, "Transfer-Encoding: identity", "Transfer-Encoding: chunked"), want: no},
		wire{name: "xchunked", send: te(" xchunked"), want: no},
		wire{name: "chunkedx", send: te(" chunkedx"), want: no},
		wire{name: "a parameter", send: te(" chunked;q=1"), want: no},
		wire{name: "in quotes", send: te(` "chunked"`), want: no},
		wire{name: "empty", send: te(""), want: no},
		wire{name: "a vertical tab before it", send: te(" \vchunked"), want: no},
		wire{name: "a NUL in it", send: te(" chun\x00ked"), want: no},
		wire{name: "a carriage return before it", send: te(" \rchunked"), want: no},
		wire{name: "folded", send: te("\r\n chunked"), want: no},
		wire{name: "a space before the colon", send: with(end, "Transfer-Encoding : chunked"), want: no},
		wire{name: "written Transfer_Encoding", send: with(end, "Transfer_Encoding: chunked"), want: no},
		wire{name: "in HTTP/1.0", send: lines("POST /upstream/m/x HTTP/1.0", "Host: e", "Transfer-Encoding: chunked") + end, want: no},
	)
}

func lineEnds(no int) []wire {
	lf := func(s string) string { return strings.ReplaceAll(s, "\r\n", "\n") }
	cr := func(s string) string { return strings.ReplaceAll(s, "\r\n", "\r") }
	return in("Line ends",
		wire{name: "LF everywhere", send: lf(get()), want: no},
		wire{name: "LF everywhere, nothing behind it", send: lf(get()), want: no, alone: true},
		wire{name: "LF behind the request line", send: "GET /upstream/m/x HTTP/1.1\nHost: e\r\n\r\n", want: no},
		wire{name: "LF behind the request line, nothing behind it", send: "GET /upstream/m/x HTTP/1.1\nHo", want: no, alone: true},
		wire{name: "LF behind a field", send: get("A: b\nC: d"), want: no},
		wire{name: "LF for the empty line", send: "GET /upstream/m/x HTTP/1.1\r\nHost: e\r\n\n", want: no},
		wire{name: "LF for the empty line, nothing behind it", send: "GET /upstream/m/x HTTP/1.1\r\nHost: e\r\n\n", want: no, alone: true},
		wire{name: "LF hides a length", send: with("hello", "A: b\nContent-Length: 5"), want: no},
		wire{name: "LF hides chunks", send: with("0\r\n\r\n", "A: b\nTransfer-Encoding: chunked"), want: no},
		wire{name: "CR everywhere", send: cr(get()), want: no},
		wire{name: "CR everywhere, nothing behind it", send: cr(get()), want: no, alone: true},
		wire{name: "CR between two fields", send: get("A: b\rC: d"), want: no},
		wire{name: "CR at the end of a value", send: get("A: b\r"), want: no},
		wire{name: "LF CR", send: "GET /upstream/m/x HTTP/1.1\n\rHost: e\n\r\n\r", want: no},
		wire{name: "a folded field", send: get("A: b", " c"), want: no},
		wire{name: "a field folded with a tab", send: get("A: b", "\tc"), want: no},
		wire{name: "a fold before the first field", send: "GET /upstream/m/x HTTP/1.1\r\n Host: e\r\n\r\n", want: no},
		wire{name: "an empty line before the request", send: "\r\n" + get(), want: 200, saw: "GET /x "},
		wire{name: "LF before the request", send: "\n" + get(), want: no},
		wire{name: "five empty lines before the request", send: strings.Repeat("\r\n", 5) + get(), want: no},
	)
}

func names(no int) []wire {
	return in("Fields",
		wire{name: "all characters a name may have", send: get("!#$%&'*+-.^_`|~09azAZ: b"), want: 200, saw: "GET /x "},
		wire{name: "ISO 8859 in a value", send: get("A: caf\xe9"), want: 200, saw: "GET /x "},
		wire{name: "a tab in a value", send: get("A: b\tc"), want: 200, saw: "GET /x "},
		wire{name: "an empty value", send: get("A:"), want: 200, saw: "GET /x "},
		wire{name: "a space before the colon", send: get("A : b"), want: no},
		wire{name: "a tab before the colon", send: get("A\t: b"), want: no},
		wire{name: "a space in a name", send: get("A B: c"), want: no},
		wire{name: "a space in the name of a length", send: with("hello", "Content-Length X: 5"), want: no},
		wire{name: "an empty name", send: get(": b"), want: no},
		wire{name: "no colon", send: get("A"), want: no},
		wire{name: "a parenthesis in a name", send: get("A(: b"), want: no},
		wire{name: "ISO 8859 in a name", send: get("caf\xe9: b"), want: no},
		wire{name: "a NUL in a name", send: get("A\x00: b"), want: no},
		wire{name: "a control character in a name", send: get("A\x01: b"), want: no},
		wire{name: "a NUL in a value", send: get("A: b\x00c"), want: no},
		wire{name: "a control character in a value", send: get("A: b\x01c"), want: no},
		wire{name: "an escape in a value", send: get("A: \x1b[2J"), want: no},
		wire{name: "DEL in a value", send: get("A: b\x7f"), want: no},
		wire{name: "a value larger than the limit", send: get("A: " + strings.Repeat("b", 70<<10)), want: http.StatusRequestHeaderFieldsTooLarge},
		wire{name: "a name larger than the limit", send: get(strings.Repeat("A", 70<<10) + ": b"), want: http.StatusRequestHeaderFieldsTooLarge},
		wire{name: "an endless field", send: "GET /upstream/m/x HTTP/1.1\r\nHost: e\r\nA: " + strings.Repeat("b", 70<<10), want: http.StatusRequestHeaderFieldsTooLarge, alone: true},
		wire{name: "50,000 bytes of fields", send: get(slices.Repeat([]string{"A: " + strings.Repeat("b", 997)}, 50)...), want: 200, saw: "GET /x "},
		wire{name: "256 fields", send: get(slices.Repeat([]string{"A: b"}, 255)...), want: 200, saw: "GET /x "},
		wire{name: "257 fields", send: get(slices.Repeat([]string{"A: b"}, 256)...), want: http.StatusRequestHeaderFieldsTooLarge},
	)
}

func requestLines(no int) []wire {
	return in("Request line",
		wire{name: "a digit in the method", send: firstLine("MKCOL-2 /upstream/m/x HTTP/1.1"), want: no},
		wire{name: "a method of WebDAV", send: firstLine("VERSION-CONTROL /upstream/m/x HTTP/1.1"), want: 200, saw: "VERSION-CONTROL /x "},
		wire{name: "a lower-case method", send: firstLine("get /upstream/m/x HTTP/1.1"), want: no},
		wire{name: "no method", send: firstLine(" /upstream/m/x HTTP/1.1"), want: no},
		wire{name: "a NUL in the method", send: firstLine("G\x00ET /upstream/m/x HTTP/1.1"), want: no},
		wire{name: "a colon in the method", send: firstLine("GET: /upstream/m/x HTTP/1.1"), want: no},
		wire{name: "a method of 33 letters", send: firstLine(strings.Repeat("G", 33) + " /upstream/m/x HTTP/1.1"), want: no},
		wire{name: "a space before the method", send: firstLine(" GET /upstream/m/x HTTP/1.1"), want: no},
		wire{name: "two spaces before the target", send: firstLine("GET  /upstream/m/x HTTP/1.1"), want: no},
		wire{name: "two spaces behind the target", send: firstLine("GET /upstream/m/x  HTTP/1.1"), want: no},
		wire{name: "tabs for spaces", send: firstLine("GET\t/upstream/m/x\tHTTP/1.1"), want: no},
		wire{name: "a space behind the version", send: firstLine("GET /upstream/m/x HTTP/1.1 "), want: no},
		wire{name: "a word behind the version", send: firstLine("GET /upstream/m/x HTTP/1.1 x"), want: no},
		wire{name: "no version", send: firstLine("GET /upstream/m/x"), want: no},
		wire{name: "HTTP/0.9, nothing behind it", send: "GET /upstream/m/x\r\n", want: no, alone: true},
		wire{name: "`HTTP/0.9`", send: firstLine("GET /upstream/m/x HTTP/0.9"), want: http.StatusHTTPVersionNotSupported},
		wire{name: "`HTTP/1.10`", send: firstLine("GET /upstream/m/x HTTP/1.10"), want: no},
		wire{name: "`HTTP/1.2`", send: firstLine("GET /upstream/m/x HTTP/1.2"), want: http.StatusHTTPVersionNotSupported},
		wire{name: "`HTTP/2.0`", send: firstLine("GET /upstream/m/x HTTP/2.0"), want: http.StatusHTTPVersionNotSupported},
		wire{name: "`HTTP/9.9`", send: firstLine("GET /upstream/m/x HTTP/9.9"), want: http.StatusHTTPVersionNotSupported},
		wire{name: "`HTTP/1`", send: firstLine("GET /upstream/m/x HTTP/1"), want: no},
		wire{name: "`http/1.1`", send: firstLine("GET /upstream/m/x http/1.1"), want: no},
		wire{name: "`HTTPS/1.1`", send: firstLine("GET /upstream/m/x HTTPS/1.1"), want: no},
		wire{name: "`HTTP/1,1`", send: firstLine("GET /upstream/m/x HTTP/1,1"), want: no},
		wire{name: "the beginning of TLS", send: "\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03", want: no, alone: true},
		wire{name: "`CONNECT`", send: firstLine("CONNECT e:443 HTTP/1.1"), want: http.StatusNotImplemented},
		wire{name: "`TRACE`", send: firstLine("TRACE /upstream/m/x HTTP/1.1"), want: http.StatusNotImplemented},
	)
}

func targets(no int) []wire {
	target := func(t string) string { return firstLine("GET " + t + " HTTP/1.1") }
	return in("Target",
		wire{name: "a URL", send: target("http://e/upstream/m/x"), want: 200, saw: "GET /x "},
		wire{name: "a URL with capitals in its host", send: target("http://E/upstream/m/x"), want: 200, saw: "GET /x "},
		wire{name: "a URL of another host than Host's", send: target("http://f/upstream/m/x"), want: no},
		wire{name: "a URL with a user", send: target("http://u@e/upstream/m/x"), want: no},
		wire{name: "a URL without a host", send: target("http:///upstream/m/x"), want: no},
		wire{name: "a URL of another scheme", send: target("ftp://e/upstream/m/x"), want: no},
		wire{name: "a host and a port", send: target("e:80"), want: no},
		wire{name: "a relative path", send: target("upstream/m/x"), want: no},
		wire{name: "a query alone", send: target("?model=m"), want: no},
		wire{name: "`*` of a GET", send: target("*"), want: no},
		wire{name: "`*` of OPTIONS", send: lines("OPTIONS * HTTP/1.1", "Host: e", "X-Pilotlight-Model: m"), want: 200, saw: "OPTIONS * "},
		wire{name: "a space in it", send: target("/upstream/m/x y"), want: no},
		wire{name: "a fragment", send: target("/upstream/m/x#y"), want: no},
		wire{name: "ISO 8859", send: target("/upstream/m/caf\xe9"), want: no},
		wire{name: "UTF-8", send: target("/upstream/m/café"), want: no},
		wire{name: "a NUL", send: target("/upstream/m/x\x00"), want: no},
		wire{name: "a control character", send: target("/upstream/m/x\x01"), want: no},
		wire{name: "DEL", send: target("/upstream/m/x\x7f"), want: no},
		wire{name: "a CR", send: target("/upstream/m/x\ry"), want: no},
		wire{name: "a percent sign without digits", send: target("/upstream/m/x%2"), want: no},
		wire{name: "a percent sign before other letters", send: target("/upstream/m/x%zz"), want: no},
		wire{name: "an encoded NUL and braces", send: target("/upstream/m/x%00{}"), want: 200, saw: "GET /x%00{} "},
		wire{name: "larger than the limit", send: target("/upstream/m/" + strings.Repeat("x", 70<<10)), want: http.StatusRequestHeaderFieldsTooLarge},
	)
}

func hosts(no int) []wire {
	host := func(fields ...string) string {
		return lines(append([]string{"GET /upstream/m/x HTTP/1.1"}, fields...)...)
	}
	return in("Host",
		wire{name: "with a port", send: host("Host: e.example:8080"), want: 200, saw: "GET /x "},
		wire{name: "an IPv6 address", send: host("Host: [::1]:8080"), want: 200, saw: "GET /x "},
		wire{name: "none", send: host("A: b"), want: no},
		wire{name: "none in HTTP/1.0", send: lines("GET /upstream/m/x HTTP/1.0", "Connection: keep-alive"), want: 200, saw: "GET /x ", alone: true},
		wire{name: "two that differ", send: host("Host: e", "Host: f"), want: no},
		wire{name: "two that are the same", send: host("Host: e", "Host: e"), want: no},
		wire{name: "empty", send: host("Host:"), want: no},
		wire{name: "empty in HTTP/1.0", send: lines("GET /upstream/m/x HTTP/1.0", "Host:"), want: no},
		wire{name: "a list", send: host("Host: e, f"), want: no},
		wire{name: "a user", send: host("Host: u@e"), want: no},
		wire{name: "a path", send: host("Host: e/x"), want: no},
		wire{name: "a query", send: host("Host: e?x"), want: no},
		wire{name: "a space", send: host("Host: e f"), want: no},
		wire{name: "a port that is no number", send: host("Host: e:http"), want: no},
		wire{name: "a port too long", send: host("Host: e:808080"), want: no},
		wire{name: "a port alone", send: host("Host: :80"), want: no},
		wire{name: "an IPv6 address that does not end", send: host("Host: [::1"), want: no},
		wire{name: "an IPv6 address that is none", send: host("Host: [e]"), want: no},
		wire{name: "UTF-8", send: host("Host: é"), want: no},
		wire{name: "a space before its colon", send: host("Host : e"), want: no},
	)
}

func chunkSizes(no int) []wire {
	return in("Chunks",
		wire{name: "leading zeros", send: chunks("0005\r\nhello\r\n000\r\n\r\n"), want: 200, saw: "POST /x hello"},
		wire{name: "an extension", send: chunks("5;a=\"b\"\r\nhello\r\n0;c\r\n\r\n"), want: 200, saw: "POST /x hello"},
		wire{name: "a size that overflows 64 bits", send: chunks("10000000000000005\r\nhello\r\n0\r\n\r\n"), want: no},
		wire{name: "a size of 2⁶³", send: chunks("8000000000000000\r\nhello\r\n0\r\n\r\n"), want: no},
		wire{name: "a negative size", send: chunks("-5\r\nhello\r\n0\r\n\r\n"), want: no},
		wire{name: "a size with a plus", send: chunks("+5\r\nhello\r\n0\r\n\r\n"), want: no},
		wire{name: "a size with 0x", send: chunks("0x5\r\nhello\r\n0\r\n\r\n"), want: no},
		wire{name: "no size", send: chunks("\r\nhello\r\n0\r\n\r\n"), want: no},
		wire{name: "no size but an extension", send: chunks(";a\r\nhello\r\n0\r\n\r\n"), want: no},
		wire{name: "a size that is no number", send: chunks("g\r\nhello\r\n0\r\n\r\n"), want: no},
		wire{name: "garbage behind a size", send: chunks("5g\r\nhello\r\n0\r\n\r\n"), want: no},
		wire{name: "an underscore in a size", send: chunks("0_5\r\nhello\r\n0\r\n\r\n"), want: no},
		wire{name: "a space before a size", send: chunks(" 5\r\nhello\r\n0\r\n\r\n"), want: no},
		wire{name: "a space behind a size", send: chunks("5 \r\nhello\r\n0\r\n\r\n"), want: no},
		wire{name: "a NUL behind a size", send: chunks("5\x00\r\nhello\r\n0\r\n\r\n"), want: no},
		wire{name: "LF behind a size", send: chunks("5\nhello\r\n0\r\n\r\n"), want: no},
		wire{name: "CR behind a size", send: chunks("5\rhello\r\n0\r\n\r\n"), want: no},
		wire{name: "LF everywhere", send: chunks("5\nhello\n0\n\n"), want: no},
		wire{name: "LF behind an extension", send: chunks("5;a\nhello\r\n0\r\n\r\n"), want: no},
		wire{name: "LF in an extension", send: chunks("5;a\nb\r\nhello\r\n0\r\n\r\n"), want: no},
		wire{name: "CR in an extension", send: chunks("5;a\rb\r\nhello\r\n0\r\n\r\n"), want: no},
		wire{name: "a NUL in an extension", send: chunks("5;a\x00\r\nhello\r\n0\r\n\r\n"), want: no},
		wire{name: "an extension of 9 KiB", send: chunks("5;" + strings.Repeat("a", 9<<10) + "\r\nhello\r\n0\r\n\r\n"), want: no},
		wire{name: "9 KiB of extensions", send: chunks(strings.Repeat("1;"+strings.Repeat("a", 99)+"\r\nx\r\n", 92) + "0\r\n\r\n"), want: no},
		wire{name: "no CRLF behind the data", send: chunks("5\r\nhello0\r\n\r\n"), want: no},
		wire{name: "LF behind the data", send: chunks("5\r\nhello\n0\r\n\r\n"), want: no},
		wire{name: "data longer than its size", send: chunks("4\r\nhello\r\n0\r\n\r\n"), want: no},
		wire{name: "data shorter than its size", send: chunks("6\r\nhello\r\n0\r\n\r\n"), want: no},
		wire{name: "LF for the empty line at the end", send: chunks("5\r\nhello\r\n0\r\n\n"), want: no},
		wire{name: "no empty line at the end", send: chunks("5\r\nhello\r\n0\r\n"), want: no},
	)
}

func trailers(no int) []wire {
	end := func(fields ...string) string { return chunks("5\r\nhello\r\n0\r\n" + lines(fields...)) }
	return in("Trailers",
		wire{name: "a field", send: end("A: b"), want: 200, saw: "POST /x hello"},
		wire{name: "Content-Length", send: end("Content-Length: 5"), want: no},
		wire{name: "Transfer-Encoding", send: end("Transfer-Encoding: chunked"), want: no},
		wire{name: "Host", send: end("Host: f"), want: no},
		wire{name: "Authorization", send: end("Authorization: a"), want: no},
		wire{name: "Content-Type", send: end("Content-Type: a/b"), want: no},
		wire{name: "Connection", send: end("Connection: close"), want: no},
		wire{name: "Expect", send: end("Expect: 100-continue"), want: no},
		wire{name: "X-Forwarded-For", send: end("X-Forwarded-For: 6.6.6.6"), want: no},
		wire{name: "Trailer names Content-Length", send: with("5\r\nhello\r\n0\r\n\r\n", "Transfer-Encoding: chunked", "Trailer: Content-Length"), want: no},
		wire{name: "no colon", send: end("A"), want: no},
		wire{name: "an empty name", send: end(": b"), want: no},
		wire{name: "a space before the colon", send: end("A : b"), want: no},
		wire{name: "a NUL", send: end("A: b\x00"), want: no},
		wire{name: "folded", send: end("A: b", " c"), want: no},
		wire{name: "LF behind a field", send: chunks("5\r\nhello\r\n0\r\nA: b\n\r\n"), want: no},
		wire{name: "larger than 8 KiB", send: end("A: " + strings.Repeat("b", 9<<10)), want: no},
		wire{name: "a request for one", send: chunks("5\r\nhello\r\n0\r\n") + tail, want: no},
	)
}

func others(no int) []wire {
	return in("Others",
		wire{name: "`Expect: 100-continue`", send: with("hello", "Expect: 100-Continue", "Content-Length: 5"), want: 200, saw: "POST /x hello"},
		wire{name: "`Expect: 100-continue` without a body", send: get("Expect: 100-continue"), want: 200, saw: "GET /x "},
		wire{name: "`Expect: foo`", send: get("Expect: foo"), want: http.StatusExpectationFailed},
		wire{name: "`Expect: 100-continue, foo`", send: get("Expect: 100-continue, foo"), want: http.StatusExpectationFailed},
		wire{name: "two Expect, one of them foo", send: get("Expect: foo", "Expect: 100-continue"), want: http.StatusExpectationFailed},
		wire{name: "`Upgrade: h2c`", send: get("Connection: Upgrade, HTTP2-Settings", "Upgrade: h2c", "HTTP2-Settings: AAMAAABkAAQAAP__"), want: 200, saw: "GET /x "},
		wire{name: "Connection names Host", send: get("Connection: Host"), want: 200, saw: "GET /x "},
		wire{name: "Connection names nine fields", send: get("Connection: a, b, c, d, e, f, g, h, i"), want: no},
		wire{name: "a letter between two requests", send: get() + "x" + get(), want: 200, saw: "GET /x ", alone: true},
	)
}

// recorder is a backend that answers everything, and notes what it saw.
type recorder struct {
	addr string
	mu   sync.Mutex // guards what follows
	all  []string   // method, target and body of each request
}

func recording(t testing.TB) *recorder {
	r := &recorder{}
	r.addr = backend(t, func(c net.Conn, in *bufio.Reader, _ int) {
		for {
			if _, err := in.Peek(1); err != nil {
				return
			}
			req := readRequest(in)
			if req == nil {
				r.note("something that is no request")
				return
			}
			body, _ := io.ReadAll(req.Body)
			r.note(req.Method + " " + req.RequestURI + " " + string(body))
			io.WriteString(c, ok)
		}
	})
	return r
}

func (r *recorder) note(s string) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.all = append(r.all, s)
}

func (r *recorder) saw() []string {
	r.mu.Lock()
	defer r.mu.Unlock()
	return slices.Clone(r.all)
}

// unhurried has nothing answered because time is up.
func unhurried(l *config.Limits) {
	l.HeaderTime, l.BodyTime, l.IdleTime = config.Duration(time.Hour), config.Duration(time.Hour), config.Duration(time.Hour)
}

func TestMalformed(t *testing.T) {
	for _, w := range requests() {
		for _, cut := range []int{len(w.send), 1, len(w.send) / 2} { // as one piece, and as two
			t.Run(fmt.Sprintf("%s/%s/%d", w.group, w.name, cut), func(t *testing.T) {
				t.Parallel()
				seen := recording(t)
				r := real(t, seen.addr, withLimits(unhurried))
				c := r.dial()
				text := w.text()
				io.WriteString(c, text[:cut])
				go io.WriteString(c, text[cut:])
				if w.want == 200 {
					mustPass(t, w, seen, bufio.NewReader(c))
				} else {
					mustBeRefused(t, w, seen, bufio.NewReader(c))
					if v := r.last(1); v.Outcome != router.Refused || v.Status != w.want || len(r.edge.Visits()) != 1 {
						t.Errorf("recorded %+v", r.edge.Visits())
					}
				}
			})
		}
	}
}

func mustPass(t *testing.T, w wire, seen *recorder, in *bufio.Reader) {
	want := []string{w.saw}
	if resp, body := hear(t, in); resp.StatusCode != 200 || body != "{}" {
		t.Errorf("got %d %q, want the backend's answer", resp.StatusCode, body)
	}
	if !w.alone {
		want = append(want, sawTail)
		if resp, body := hear(t, in); resp.StatusCode != 200 || body != "{}" {
			t.Errorf("the next request got %d %q, want the backend's answer", resp.StatusCode, body)
		}
	}
	if got := seen.saw(); !slices.Equal(got, want) {
		t.Errorf("the backend saw %q, want %q", got, want)
	}
}

func mustBeRefused(t *testing.T, w wire, seen *recorder, in *bufio.Reader) {
	resp, body := hear(t, in)
	if resp.StatusCode != w.want || !resp.Close || !strings.HasPrefix(body, `{"error":`) {
		t.Errorf("got %d (close: %v) %q, want %d", resp.StatusCode, resp.Close, body, w.want)
	}
	if rest, err := io.ReadAll(in); len(rest) > 0 || err != nil {
		t.Errorf("then came %q, %v, want the end of the connection", rest, err)
	}
	if got := seen.saw(); len(got) > 0 {
		t.Errorf("the backend saw %q", got)
	}
}

func TestAMalformedRequestBehindGoodOnesIsRefusedAlone(t *testing.T) {
	for _, w := range requests() {
		if w.want == 200 || len(w.send) > 60<<10 {
			continue
		}
		t.Run(w.group+"/"+w.name, func(t *testing.T) {
			t.Parallel()
			seen := recording(t)
			r := real(t, seen.addr, withLimits(unhurried))
			c := r.dial()
			go io.WriteString(c, tail+with("hello", "Content-Length: 5")+w.text())
			in := bufio.NewReader(c)
			for range 2 {
				if resp, _ := hear(t, in); resp.StatusCode != 200 {
					t.Fatalf("a good request got %d", resp.StatusCode)
				}
			}
			if resp, body := hear(t, in); resp.StatusCode != w.want || !resp.Close {
				t.Errorf("got %d (close: %v) %q, want %d", resp.StatusCode, resp.Close, body, w.want)
			}
			if rest, err := io.ReadAll(in); len(rest) > 0 || err != nil {
				t.Errorf("then came %q, %v, want the end of the connection", rest, err)
			}
			if got, want := seen.saw(), []string{sawTail, "POST /x hello"}; !slices.Equal(got, want) {
				t.Errorf("the backend saw %q, want %q", got, want)
			}
			if v := r.last(3); v.Outcome != router.Refused || v.Status != w.want {
				t.Errorf("recorded %+v", v)
			}
		})
	}
}
