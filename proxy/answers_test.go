package proxy

import (
	"bufio"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"slices"
	"strconv"
	"strings"
	"sync"
	"testing"

	"pilotlight/router"
)

// told is what a backend answers, and what the client gets of it. A backend that does not end its connection waits
// for the next request: an answer that is no good must be known to be so from what has come.
type told struct {
	group, name string
	answer      string
	ends        bool   // the backend closes the connection behind it
	want        string // the client gets: status and body, or broke
	again       bool   // the connection serves another request
}

// broke is what a client gets that can tell that the answer is not whole.
const broke = "a broken answer"

// bad is the answer to a request whose backend's is no good.
const bad = "502"

// answersTold is the table. Its order is that of docs/strictness.md.
func answersTold() []told {
	return slices.Concat(statusLines(), answerLengths(), answerFields(), answerChunks(), answerEnds())
}

func of(group string, all ...told) []told {
	for i := range all {
		all[i].group = group
	}
	return all
}

func statusLines() []told {
	status := func(line string) string { return lines(line, "Content-Length: 5") + "hello" }
	return of("Status line",
		told{name: "with a reason", answer: status("HTTP/1.1 200 OK"), want: "200 hello", again: true},
		told{name: "without a reason", answer: status("HTTP/1.1 200"), want: "200 hello", again: true},
		told{name: "HTTP/1.0", answer: status("HTTP/1.0 200 OK"), want: "200 hello"},
		told{name: "`HTTP/1.2`", answer: status("HTTP/1.2 200 OK"), want: bad},
		told{name: "`HTTP/2.0`", answer: status("HTTP/2.0 200 OK"), want: bad},
		told{name: "`http/1.1`", answer: status("http/1.1 200 OK"), want: bad},
		told{name: "two spaces", answer: status("HTTP/1.1  200 OK"), want: bad},
		told{name: "a space before it", answer: status(" HTTP/1.1 200 OK"), want: bad},
		told{name: "an empty line before it", answer: "\r\n" + status("HTTP/1.1 200 OK"), want: bad},
		told{name: "two digits", answer: status("HTTP/1.1 20 OK"), want: bad},
		told{name: "four digits", answer: status("HTTP/1.1 2000 OK"), want: bad},
		told{name: "`+20`", answer: status("HTTP/1.1 +20 OK"), want: bad},
		told{name: "`099`", answer: status("HTTP/1.1 099 OK"), want: bad},
		told{name: "`200OK`", answer: status("HTTP/1.1 200OK"), want: bad},
		told{name: "a NUL in the reason", answer: status("HTTP/1.1 200 O\x00K"), want: bad},
		told{name: "a CR in the reason", answer: status("HTTP/1.1 200 O\rK"), want: bad},
		told{name: "none, as in HTTP/0.9", answer: "hello", want: bad},
		told{name: "Redis", answer: "-ERR unknown command 'GET'\r\n", want: bad},
		told{name: "SSH", answer: "SSH-2.0-OpenSSH_9.2\r\n", want: bad},
		told{name: "101 unasked", answer: lines("HTTP/1.1 101 Switching Protocols", "Upgrade: x", "Connection: Upgrade"), want: bad},
		told{name: "a 103 before it", answer: lines("HTTP/1.1 103 Early Hints", "Link: x") + status("HTTP/1.1 200 OK"), want: "200 hello", again: true},
		told{name: "16 interim answers before it", answer: strings.Repeat(lines("HTTP/1.1 100 Continue"), 16) + status("HTTP/1.1 200 OK"), want: "200 hello", again: true},
		told{name: "17 interim answers", answer: strings.Repeat(lines("HTTP/1.1 100 Continue"), 17), want: bad},
		told{name: "20,000 interim answers", answer: strings.Repeat(lines("HTTP/1.1 100 Continue"), 20000), want: bad},
	)
}

func answerLengths() []told {
	fields := func(all ...string) string { return lines(append([]string{"HTTP/1.1 200 OK"}, all...)...) }
	const chunked = "Transfer-Encoding: chunked"
	return of("Length of the body",
		told{name: "Content-Length and chunked", answer: fields("Content-Length: 5", chunked) + "0\r\n\r\n", want: bad},
		told{name: "chunked and Content-Length", answer: fields(chunked, "Content-Length: 5") + "0\r\n\r\n", want: bad},
		told{name: "two lengths that differ", answer: fields("Content-Length: 5", "Content-Length: 6") + "hello!", want: bad},
		told{name: "two lengths that are the same", answer: fields("Content-Length: 5", "Content-Length: 5") + "hello", want: "200 hello", again: true},
		told{name: "a list, `5, 5`", answer: fields("Content-Length: 5, 5") + "hello", want: bad},
		told{name: "`-5`", answer: fields("Content-Length: -5") + "hello", want: bad},
		told{name: "`+5`", answer: fields("Content-Length: +5") + "hello", want: bad},
		told{name: "`0x5`", answer: fields("Content-Length: 0x5") + "hello", want: bad},
		told{name: "2⁶⁴+5", answer: fields("Content-Length: 18446744073709551621") + "hello", want: bad},
		told{name: "an empty length", answer: fields("Content-Length:") + "hello", want: bad},
		told{name: "gzip, chunked", answer: fields("Transfer-Encoding: gzip, chunked") + "0\r\n\r\n", want: bad},
		told{name: "chunked, gzip", answer: fields("Transfer-Encoding: chunked, gzip") + "0\r\n\r\n", want: bad},
		told{name: "chunked twice", answer: fields(chunked, chunked) + "0\r\n\r\n", want: bad},
		told{name: "xchunked", answer: fields("Transfer-Encoding: xchunked") + "0\r\n\r\n", want: bad},
		told{name: "identity", answer: fields("Transfer-Encoding: identity") + "hello", ends: true, want: bad},
		told{name: "chunked in HTTP/1.0", answer: lines("HTTP/1.0 200 OK", chunked) + "5\r\nhello\r\n0\r\n\r\n", want: bad},
		told{name: "neither, up to the end", answer: fields("A: b") + "hello", ends: true, want: "200 hello"},
		told{name: "a body of a 204", answer: lines("HTTP/1.1 204 No Content", "Content-Length: 5") + "hello", want: "204"},
		told{name: "a body of a 304", answer: lines("HTTP/1.1 304 Not Modified", "Content-Length: 5") + "hello", want: "304"},
		told{name: "chunks of a 204", answer: lines("HTTP/1.1 204 No Content", chunked) + "0\r\n\r\n", want: "204"},
	)
}

func answerFields() []told {
	field := func(f string) string { return lines("HTTP/1.1 200 OK", "Content-Length: 5", f) + "hello" }
	return of("Header",
		told{name: "ISO 8859 in a value", answer: field("A: caf\xe9"), want: "200 hello", again: true},
		told{name: "LF everywhere", answer: strings.ReplaceAll(field("A: b"), "\r\n", "\n"), want: bad},
		told{name: "LF behind the status line", answer: "HTTP/1.1 200 OK\nContent-Length: 5\r\n\r\nhello", want: bad},
		told{name: "LF behind a field", answer: field("A: b\nC: d"), want: bad},
		told{name: "LF for the empty line", answer: "HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\nhello", want: bad},
		told{name: "CR between two fields", answer: field("A: b\rC: d"), want: bad},
		told{name: "a folded field", answer: field("A: b\r\n c"), want: bad},
		told{name: "a space before the colon", answer: field("A : b"), want: bad},
		told{name: "a space before the colon of the length", answer: lines("HTTP/1.1 200 OK", "Content-Length : 5") + "hello", want: bad},
		told{name: "a space in a name", answer: field("A B: c"), want: bad},
		told{name: "an empty name", answer: field(": b"), want: bad},
		told{name: "no colon", answer: field("A"), want: bad},
		told{name: "ISO 8859 in a name", answer: field("caf\xe9: b"), want: bad},
		told{name: "a NUL in a name", answer: field("A\x00: b"), want: bad},
		told{name: "a NUL in a value", answer: field("A: b\x00c"), want: bad},
		told{name: "a control character in a value", answer: field("A: b\x01c"), want: bad},
		told{name: "40 KiB", answer: field("A: " + strings.Repeat("b", 40<<10)), want: bad},
		told{name: "40 KiB that do not end", answer: "HTTP/1.1 200 OK\r\nA: " + strings.Repeat("b", 40<<10), want: bad},
		told{name: "257 fields", answer: field(strings.Repeat("A: b\r\n", 255) + "A: b"), want: bad},
	)
}

func answerChunks() []told {
	chunked := func(body string) string {
		return lines("HTTP/1.1 200 OK", "Transfer-Encoding: chunked") + "5\r\nhello\r\n" + body
	}
	return of("Chunks",
		told{name: "an extension", answer: chunked("1;a=\"b\"\r\n!\r\n0;c\r\n\r\n"), want: "200 hello!", again: true},
		told{name: "spaces behind a size", answer: chunked("1  \r\n!\r\n0 \r\n\r\n"), want: "200 hello!", again: true},
		told{name: "a trailer", answer: chunked("0\r\nA: b\r\n\r\n"), want: "200 hello", again: true},
		told{name: "a trailer with Content-Length", answer: chunked("0\r\nContent-Length: 1\r\n\r\n"), want: "200 hello", again: true},
		told{name: "a size that is no number", answer: chunked("g\r\n"), want: broke},
		told{name: "a negative size", answer: chunked("-1\r\n"), want: broke},
		told{name: "a size with 0x", answer: chunked("0x1\r\n!\r\n0\r\n\r\n"), want: broke},
		told{name: "no size", answer: chunked("\r\n"), want: broke},
		told{name: "a space before a size", answer: chunked(" 1\r\n!\r\n0\r\n\r\n"), want: broke},
		told{name: "garbage behind a size", answer: chunked("1 a\r\n!\r\n0\r\n\r\n"), want: broke},
		told{name: "a size that overflows", answer: chunked("10000000000000001\r\n!\r\n0\r\n\r\n"), want: broke},
		told{name: "LF behind a size", answer: chunked("1\n!\r\n0\r\n\r\n"), want: broke},
		told{name: "CR behind a size", answer: chunked("1\r!\r\n0\r\n\r\n"), want: broke},
		told{name: "LF in an extension", answer: chunked("1;a\nb\r\n!\r\n0\r\n\r\n"), want: broke},
		told{name: "a NUL in an extension", answer: chunked("1;a\x00\r\n!\r\n0\r\n\r\n"), want: broke},
		told{name: "an extension of 9 KiB", answer: chunked("1;" + strings.Repeat("a", 9<<10) + "\r\n!\r\n0\r\n\r\n"), want: broke},
		told{name: "no CRLF behind the data", answer: chunked("1\r\n!0\r\n\r\n"), want: broke},
		told{name: "LF behind the data", answer: chunked("1\r\n!\n0\r\n\r\n"), want: broke},
		told{name: "LF for the empty line at the end", answer: chunked("0\r\n\n"), want: broke},
		told{name: "LF in the trailer", answer: chunked("0\r\nA: b\n\r\n"), want: broke},
		told{name: "a trailer that is none", answer: chunked("0\r\nHTTP/1.1 200 OK\r\n\r\n"), want: broke},
		told{name: "a trailer of 9 KiB", answer: chunked("0\r\nA: " + strings.Repeat("b", 9<<10) + "\r\n\r\n"), want: broke},
	)
}

func answerEnds() []told {
	const head = "HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\n"
	const chunked = "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n"
	return of("Early and late ends",
		told{name: "nothing", ends: true, want: bad},
		told{name: "half a status line", answer: "HTTP/1.1 2", ends: true, want: bad},
		told{name: "half a header", answer: "HTTP/1.1 200 OK\r\nContent-", ends: true, want: bad},
		told{name: "an interim answer alone", answer: "HTTP/1.1 100 Continue\r\n\r\n", ends: true, want: bad},
		told{name: "before the body", answer: head, ends: true, want: broke},
		told{name: "within the body", answer: head + "hell", ends: true, want: broke},
		told{name: "before the first chunk", answer: chunked, ends: true, want: broke},
		told{name: "within a size", answer: chunked + "5", ends: true, want: broke},
		told{name: "within a chunk", answer: chunked + "5\r\nhell", ends: true, want: broke},
		told{name: "behind a chunk", answer: chunked + "5\r\nhello\r\n", ends: true, want: broke},
		told{name: "within the last chunk", answer: chunked + "5\r\nhello\r\n0\r\n", ends: true, want: broke},
		told{name: "within the trailer", answer: chunked + "5\r\nhello\r\n0\r\nA: b\r\n", ends: true, want: broke},
		told{name: "behind the body", answer: head + "hello", ends: true, want: "200 hello"},
		told{name: "garbage behind the body", answer: head + "hello!", want: "200 hello"},
		told{name: "garbage behind the last chunk", answer: chunked + "5\r\nhello\r\n0\r\n\r\n!", want: "200 hello"},
		told{name: "a second answer behind the first", answer: head + "hello" + head + "again", want: "200 hello"},
	)
}

// script is a backend that answers a request for /N with the answer of that number, and others with a short one.
type script struct {
	addr string
	mu   sync.Mutex // guards what follows
	last int        // the number of the connection that the last request came by
}

func scripted(t testing.TB, all []told) *script {
	s := &script{}
	s.addr = backend(t, func(c net.Conn, in *bufio.Reader, number int) {
		for {
			req := readRequest(in)
			if req == nil {
				return
			}
			s.mu.Lock()
			s.last = number
			s.mu.Unlock()
			i, err := strconv.Atoi(strings.TrimPrefix(req.URL.Path, "/"))
			if err != nil {
				io.WriteString(c, ok)
				continue
			}
			io.WriteString(c, all[i].answer)
			if all[i].ends {
				return
			}
		}
	})
	return s
}

func (s *script) conn() int {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.last
}

// heard is what a client makes of what comes back: status and body, or broke.
func heard(in *bufio.Reader) (string, error) {
	resp, err := http.ReadResponse(in, nil)
	for err == nil && resp.StatusCode < 200 { // early hints
		resp, err = http.ReadResponse(in, nil)
	}
	if err != nil {
		return "", err
	}
	body, err := io.ReadAll(resp.Body)
	switch {
	case errors.Is(err, io.ErrUnexpectedEOF):
		return broke, nil
	case err != nil:
		return "", err
	case resp.StatusCode == http.StatusBadGateway:
		return bad, nil
	}
	return strings.TrimSpace(fmt.Sprint(resp.StatusCode, " ", string(body))), nil
}

func TestMalformedAnswers(t *testing.T) {
	all := answersTold()
	for i, a := range all {
		t.Run(a.group+"/"+a.name, func(t *testing.T) {
			t.Parallel()
			s := scripted(t, all)
			r := real(t, s.addr)
			c := r.dial()
			io.WriteString(c, strings.Replace(get(), "/x", "/"+strconv.Itoa(i), 1))
			got, err := heard(bufio.NewReader(c))
			if got != a.want || err != nil {
				t.Errorf("the client got %q, %v, want %q", got, err, a.want)
			}
			v, want := r.last(1), router.OK
			if a.want == bad || a.want == broke {
				want = router.Broken
			}
			if v.Outcome != want {
				t.Errorf("outcome %v, want %v", v.Outcome, want)
			}
			r.idle()
			if resp, body := say(t, r.dial(), get()); resp.StatusCode != 200 || body != "{}" {
				t.Errorf("the next request got %d %q", resp.StatusCode, body)
			}
			if again := s.conn() == 0; again != a.again {
				t.Errorf("the connection served the next request: %v, want %v", again, a.again)
			}
		})
	}
}

func TestWhatABackendSaysUnaskedIsNobodysAnswer(t *testing.T) {
	for name, more := range map[string]string{"an answer": ok, "garbage": "!", "a byte of an answer": "H"} {
		t.Run(name, func(t *testing.T) {
			first, said := make(chan struct{}), make(chan struct{})
			r := real(t, backend(t, func(c net.Conn, in *bufio.Reader, number int) {
				readRequest(in)
				fmt.Fprintf(c, "HTTP/1.1 200 OK\r\nContent-Length: 1\r\n\r\n%d", number)
				if number == 0 {
					<-first
					io.WriteString(c, more)
					close(said)
				}
				readRequest(in)
			}))
			c := r.dial()
			if _, body := say(t, c, get()); body != "0" {
				t.Fatalf("the first connection answered %q", body)
			}
			r.last(1)
			close(first)
			within(t, said)
			if resp, body := say(t, c, get()); resp.StatusCode != 200 || body != "1" {
				t.Errorf("the next request got %d %q, want the answer of a new connection", resp.StatusCode, body)
			}
		})
	}
}
