package proxy

import (
	"bufio"
	"bytes"
	"context"
	"io"
	"maps"
	"net"
	"net/http"
	"slices"
	"strings"
	"testing"
	"testing/synctest"

	"github.com/valyala/fasthttp/fasthttputil"

	"pilotlight/config"
	"pilotlight/router"
)

// FuzzRequest has a client send any bytes, in two pieces. Whatever reaches the backend must be what net/http reads from
// the same bytes, request by request: method, target, header and body.
func FuzzRequest(f *testing.F) {
	for _, w := range requests() {
		if len(w.send) < 4<<10 {
			f.Add([]byte(w.text()), uint16(len(w.send)/2))
		}
	}
	f.Add([]byte(tail+with("hello", "Content-Length: 5")+chunks("5\r\nhello\r\n0\r\n\r\n")+tail), uint16(40))
	f.Fuzz(func(t *testing.T, text []byte, cut uint16) {
		synctest.Test(t, func(t *testing.T) {
			saw := throughEdge(t, text, min(int(cut), len(text)))
			want := readAll(text)
			for _, got := range saw {
				i := slices.IndexFunc(want, got.equal)
				if i < 0 {
					t.Fatalf("of %q the backend saw %+v; net/http reads %+v", text, got, want)
				}
				want = want[i+1:]
			}
		})
	})
}

// throughEdge sends text to an edge with an in-memory network and says what the backend saw of it.
func throughEdge(t *testing.T, text []byte, cut int) []parsed {
	var saw []parsed
	ln := fasthttputil.NewInmemoryListener()
	serving, stop := context.WithCancel(t.Context())
	go func() {
		for {
			c, err := ln.Accept()
			if err != nil {
				return
			}
			context.AfterFunc(serving, func() { c.Close() })
			go func() {
				for in := bufio.NewReader(c); ; io.WriteString(c, ok) {
					req, err := http.ReadRequest(in)
					if err == io.EOF || serving.Err() != nil {
						return
					}
					if err != nil {
						t.Errorf("of %q the backend got what it cannot read: %v", text, err)
						return
					}
					saw = append(saw, parse(req))
				}
			}()
		}
	}()
	r := memory(t, ln, withLimits(unhurried), withModel(func(m *config.Model) { m.Aliases = nil }))
	r.ready(1, "backend")
	c := r.dial()
	heard := make(chan struct{})
	go func() { io.Copy(io.Discard, c); close(heard) }()
	for _, piece := range [][]byte{text[:cut], text[cut:]} {
		writeAll(c, piece)
		synctest.Wait() // everything waits for more
	}
	c.Close()
	<-heard
	stop()
	ln.Close()
	r.end()
	for _, v := range r.edge.Visits() {
		if v.Outcome == router.Broken || v.Total < 0 {
			t.Errorf("of %q one ended as %+v", text, v)
		}
	}
	return saw
}

// writeAll writes what the other side still takes.
func writeAll(c net.Conn, b []byte) {
	if len(b) > 0 {
		c.Write(b)
	}
}

// parsed is what counts of a request.
type parsed struct {
	method, target, host, body string
	header                     http.Header
}

// equal says whether q went on as p. HTTP/1.0 needs no host; the backend gets one.
func (p parsed) equal(q parsed) bool {
	return p.method == q.method && p.target == q.target && (q.host == "" || strings.EqualFold(p.host, q.host)) && p.body == q.body &&
		maps.EqualFunc(p.header, q.header, slices.Equal)
}

// readAll is what net/http reads from the same bytes as the edge.
func readAll(text []byte) []parsed {
	var all []parsed
	for in := bufio.NewReader(bytes.NewReader(text)); ; {
		for range maxEmpty { // which net/http does not skip
			if b, _ := in.Peek(len(crlf)); bytes.Equal(b, crlf) {
				in.Discard(len(crlf))
			}
		}
		req, err := http.ReadRequest(in)
		if err != nil {
			return all
		}
		p := parse(req)
		_, target := cutUpstream(originForm([]byte(p.target)))
		p.target = string(target)
		all = append(all, p)
	}
}

// parse leaves out what concerns one hop, and what the edge says anew.
func parse(req *http.Request) parsed {
	body, err := io.ReadAll(req.Body)
	p := parsed{method: req.Method, target: req.RequestURI, host: req.Host, body: string(body), header: req.Header}
	if err != nil {
		p.body = "not all there: " + err.Error()
	}
	for _, value := range req.Header["Connection"] {
		for name := range strings.SplitSeq(value, ",") {
			if name = strings.Trim(name, " \t"); !strings.EqualFold(name, "upgrade") && !strings.EqualFold(name, "keep-alive") {
				maps.DeleteFunc(p.header, func(key string, _ []string) bool { return strings.EqualFold(key, name) })
			}
		}
	}
	maps.DeleteFunc(p.header, func(key string, _ []string) bool {
		name := []byte(key)
		return ofThisHop(name) || ofTheEdge(name) || key == "Cache-Control" // which net/http makes of Pragma
	})
	return p
}
