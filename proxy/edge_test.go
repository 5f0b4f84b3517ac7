package proxy

import (
	"bufio"
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/http"
	"net/http/httptest"
	"runtime"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/testutil"
	"github.com/valyala/fasthttp/fasthttputil"

	"pilotlight/config"
	"pilotlight/router"
)

// patience is how long a test waits before it says that something never happens. Nothing is ever measured by it.
const patience = 20 * time.Second

var testLimits = config.Limits{
	Body: config.MiB, BodyHeld: config.MiB, Header: 64 * config.KiB, Connections: 1000, ConnectionsPerAddress: 1000, RequestsPerConnection: 1000000,
	HeaderTime: config.Duration(10 * time.Second), BodyTime: config.Duration(time.Minute),
	IdleTime: config.Duration(time.Minute), WriteTime: config.Duration(10 * time.Second),
}

const hour = config.Duration(time.Hour)

// rig is a whole edge: on a real or an in-memory network, with one model, m, and a real router.
type rig struct {
	t      testing.TB
	edge   *Edge
	router *router.Router
	model  config.Model
	dial   func() net.Conn // a client's connection
	addr   string
	stop   func() // begins the shutdown
	served chan error
}

type rigOption func(*rig, *Options)

func withLimits(change func(*config.Limits)) rigOption {
	return func(_ *rig, o *Options) { change(&o.Limits) }
}

func withModel(change func(*config.Model)) rigOption {
	return func(r *rig, _ *Options) { change(&r.model) }
}

func withDial(dial func(context.Context, string) (net.Conn, error)) rigOption {
	return func(_ *rig, o *Options) { o.Dial = dial }
}

// never wakes anybody, until it is called off.
type never struct{}

func (never) Wake(ctx context.Context, _ string) error {
	<-ctx.Done()
	return ctx.Err()
}

// start serves on ln. Backends are added by ready.
func start(t testing.TB, ln net.Listener, drain time.Duration, options ...rigOption) *rig {
	t.Helper()
	r := &rig{t: t, served: make(chan error, 1), model: config.Model{
		Aliases: []string{"alias"},
		Answer:  config.Answer{FirstByte: hour, BetweenBytes: hour, Total: hour, Upgraded: hour},
		Line:    config.Line{Requests: 100, Bytes: config.MiB, MaxWait: config.Duration(time.Hour)},
	}}
	o := Options{Limits: testLimits, Log: slog.New(slog.DiscardHandler), Registry: prometheus.NewRegistry()}
	for _, option := range options {
		option(r, &o)
	}
	r.router = router.New(map[string]config.Model{"m": r.model}, never{}, slog.New(slog.DiscardHandler))
	o.Router = r.router
	r.edge = New(o)
	ctx, stop := context.WithCancel(context.WithoutCancel(t.Context()))
	r.stop = stop
	go func() { r.served <- r.edge.Serve(ctx, ln, drain) }()
	return r
}

// real is a rig on real sockets, shut down at the end of the test.
func real(t *testing.T, backend string, options ...rigOption) *rig {
	t.Helper()
	return realOn(t, func(ln net.Listener) net.Listener { return ln }, backend, options...)
}

// realOn is real with a listener around the real one.
func realOn(t *testing.T, around func(net.Listener) net.Listener, backend string, options ...rigOption) *rig {
	t.Helper()
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	r := start(t, around(ln), patience, options...)
	r.addr = ln.Addr().String()
	r.dial = func() net.Conn {
		c, err := net.Dial("tcp", r.addr)
		if err != nil {
			t.Fatal(err)
		}
		c.SetDeadline(time.Now().Add(patience))
		t.Cleanup(func() { c.Close() })
		return c
	}
	r.ready(8, backend)
	t.Cleanup(func() {
		r.stop()
		if err := within(t, r.served); err != nil {
			t.Errorf("Serve ended with %v", err)
		}
		r.served <- nil
		r.router.Close()
	})
	return r
}

// memory is a rig inside a synctest bubble. The test must call its end.
func memory(t *testing.T, backend net.Listener, options ...rigOption) *rig {
	ln := fasthttputil.NewInmemoryListener()
	if in, ok := backend.(*fasthttputil.InmemoryListener); ok {
		options = append(options, withDial(func(context.Context, string) (net.Conn, error) { return in.Dial() }))
	}
	r := start(t, ln, time.Minute, options...)
	r.dial = func() net.Conn {
		c, err := ln.Dial()
		if err != nil {
			t.Fatal(err)
		}
		return c
	}
	return r
}

// end shuts down.
func (r *rig) end() {
	r.stop()
	if err := <-r.served; err != nil {
		r.t.Errorf("Serve ended with %v", err)
	}
	r.router.Close()
	time.Sleep(time.Minute)
}

// ready makes backends ready, each with so many slots.
func (r *rig) ready(slots int, addrs ...string) {
	var all []router.Backend
	for i, addr := range addrs {
		all = append(all, router.Backend{ID: fmt.Sprintf("m-%d", i), Model: "m", Addr: addr, Slots: slots, State: router.Ready, Since: time.Now()})
	}
	r.router.Observe(router.Node{Name: "node", Backends: all})
}

// asleep makes the model's only backend one that sleeps.
func (r *rig) asleep() {
	r.router.Observe(router.Node{Name: "node", Backends: []router.Backend{{ID: "m-0", Model: "m", Slots: 1, State: router.Asleep, Since: time.Now()}}})
}

// last waits for n visits to have ended and gives the latest.
func (r *rig) last(n int) Visit {
	r.t.Helper()
	until(r.t, fmt.Sprintf("%d visits have ended", n), func() bool { return len(r.edge.Visits()) >= n })
	return r.edge.Visits()[0]
}

// idle waits until no slot is taken.
func (r *rig) idle() {
	r.t.Helper()
	until(r.t, "the slot is free again", func() bool { return r.router.Use("m-0").InFlight == 0 })
}

func until(t testing.TB, what string, is func() bool) {
	t.Helper()
	for end := time.Now().Add(patience); !is(); runtime.Gosched() {
		if time.Now().After(end) {
			t.Fatalf("it never came to pass that %s", what)
		}
	}
}

// nobody is where nobody listens. A port that was free a moment ago may be somebody else's by now.
const nobody = "127.0.0.1:1"

func within[T any](t *testing.T, c <-chan T) T {
	t.Helper()
	select {
	case v := <-c:
		return v
	case <-time.After(patience):
		t.Fatal("nothing came in time")
		panic("unreachable")
	}
}

// backend is a model server that is scripted: each connection is given to serve, with its number.
func backend(t testing.TB, serve func(c net.Conn, in *bufio.Reader, number int)) string {
	t.Helper()
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	serveBackend(t, ln, serve)
	return ln.Addr().String()
}

func serveBackend(t testing.TB, ln net.Listener, serve func(c net.Conn, in *bufio.Reader, number int)) {
	var all sync.WaitGroup
	all.Go(func() {
		for number := 0; ; number++ {
			c, err := ln.Accept()
			if err != nil {
				return
			}
			all.Go(func() {
				defer c.Close()
				serve(c, bufio.NewReader(c), number)
			})
		}
	})
	t.Cleanup(func() { ln.Close(); all.Wait() })
}

// answers is a backend that reads requests and answers each with the same bytes.
func answers(t *testing.T, answer string) string {
	return backend(t, func(c net.Conn, in *bufio.Reader, _ int) {
		for readRequest(in) != nil {
			io.WriteString(c, answer)
		}
	})
}

// readRequest reads one request with its body; nil: there is none.
func readRequest(in *bufio.Reader) *http.Request {
	req, err := http.ReadRequest(in)
	if err != nil {
		return nil
	}
	body, err := io.ReadAll(req.Body)
	if err != nil {
		return nil
	}
	req.Body = io.NopCloser(bytes.NewReader(body))
	return req
}

const ok = "HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nContent-Length: 2\r\n\r\n{}"

// post is a chat request for m with some more fields.
func post(fields string, headers ...string) string {
	body := `{"model":"m"` + fields + `}`
	return fmt.Sprintf("POST /v1/chat/completions HTTP/1.1\r\nHost: edge\r\nContent-Type: application/json\r\n%sContent-Length: %d\r\n\r\n%s",
		strings.Join(append(headers, ""), "\r\n"), len(body), body)
}

// say sends text and reads one answer.
func say(t *testing.T, c net.Conn, text string) (*http.Response, string) {
	t.Helper()
	go io.WriteString(c, text)
	return hear(t, bufio.NewReader(c))
}

func hear(t *testing.T, in *bufio.Reader) (*http.Response, string) {
	t.Helper()
	resp, err := http.ReadResponse(in, nil)
	if err != nil {
		t.Fatal(err)
	}
	body, err := io.ReadAll(resp.Body)
	if err != nil {
		t.Fatalf("after %q: %v", body, err)
	}
	return resp, string(body)
}

func TestARequestIsAnsweredAndRecorded(t *testing.T) {
	r := real(t, answers(t, ok))
	resp, body := say(t, r.dial(), post(""))
	if resp.StatusCode != 200 || body != "{}" {
		t.Errorf("got %d %q", resp.StatusCode, body)
	}
	v := r.last(1)
	if v.Outcome != router.OK || v.Model != "m" || v.Backend != "m-0" || v.Status != 200 || v.Method != "POST" ||
		v.Path != "/v1/chat/completions" || v.BytesIn != 13 || v.FirstByte == 0 || v.Total < v.FirstByte || v.Client != "127.0.0.1" {
		t.Errorf("recorded %+v", v)
	}
	r.idle()
}

func TestConnectionsAreKeptOnBothSides(t *testing.T) {
	var conns atomic.Int32
	r := real(t, backend(t, func(c net.Conn, in *bufio.Reader, _ int) {
		conns.Add(1)
		for readRequest(in) != nil {
			io.WriteString(c, ok)
		}
	}))
	c := r.dial()
	for range 5 {
		say(t, c, post(""))
	}
	if got := conns.Load(); got != 1 {
		t.Errorf("the backend saw %d connections, want 1", got)
	}
}

func TestPipelinedRequestsAreAnsweredInOrder(t *testing.T) {
	r := real(t, backend(t, func(c net.Conn, in *bufio.Reader, _ int) {
		for {
			req := readRequest(in)
			if req == nil {
				return
			}
			n := req.Header.Get("X-N")
			fmt.Fprintf(c, "HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n%s", len(n), n)
		}
	}))
	c := r.dial()
	var all strings.Builder
	for i := range 50 {
		all.WriteString(post("", fmt.Sprintf("X-N: %d", i)))
	}
	all.WriteString("GET /v1/models HTTP/1.1\r\nHost: edge\r\n\r\n")
	all.WriteString("no request\r\n\r\n")
	go io.WriteString(c, all.String())
	in := bufio.NewReader(c)
	for i := range 50 {
		if _, body := hear(t, in); body != fmt.Sprint(i) {
			t.Fatalf("answer %d is %q", i, body)
		}
	}
	if _, body := hear(t, in); !strings.Contains(body, `"m"`) {
		t.Errorf("the list of models is %q", body)
	}
	if resp, _ := hear(t, in); resp.StatusCode != 400 || !resp.Close {
		t.Errorf("the malformed request got %d, close %v", resp.StatusCode, resp.Close)
	}
	if _, err := in.ReadByte(); err != io.EOF {
		t.Errorf("then: %v, want EOF", err)
	}
}

// eventually is what a backend sees of a client's departure: its connection ends.
func eventually(in *bufio.Reader, ended chan<- struct{}) {
	io.Copy(io.Discard, in)
	close(ended)
}

func TestADepartureIsNoticedInEveryPhase(t *testing.T) {
	begin := "HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\nTransfer-Encoding: chunked\r\n\r\n"
	for name, answer := range map[string]string{
		"before the first byte": "",
		"after the head":        begin,
		"mid-stream":            begin + "6\r\ndata: \r\n",
		"mid-body":              "HTTP/1.1 200 OK\r\nContent-Length: 100\r\n\r\nabc",
	} {
		for _, how := range []string{"closes", "half-closes", "resets"} {
			t.Run(name+" the client "+how, func(t *testing.T) {
				asked, ended := make(chan struct{}), make(chan struct{})
				r := real(t, backend(t, func(c net.Conn, in *bufio.Reader, _ int) {
					readRequest(in)
					io.WriteString(c, answer)
					close(asked)
					eventually(in, ended)
				}))
				c := r.dial().(*net.TCPConn)
				io.WriteString(c, post(`,"stream":true`))
				within(t, asked)
				if answer != "" {
					if _, err := c.Read(make([]byte, 1)); err != nil {
						t.Fatal(err)
					}
				}
				leave(c, how)
				within(t, ended)
				if v := r.last(1); v.Outcome != router.Left {
					t.Errorf("outcome %v, want left", v.Outcome)
				}
				r.idle()
			})
		}
	}
}

func leave(c *net.TCPConn, how string) {
	switch how {
	case "closes":
		c.Close()
	case "half-closes":
		c.CloseWrite()
	case "resets":
		c.SetLinger(0)
		c.Close()
	}
}

func TestADepartureFromTheLineIsNoticed(t *testing.T) {
	r := real(t, "")
	r.asleep()
	for i, how := range []string{"closes", "half-closes", "resets"} {
		c := r.dial().(*net.TCPConn)
		io.WriteString(c, post(""))
		until(t, "a request waits", func() bool { return r.router.Use("m-0").Waiting == 1 })
		leave(c, how)
		if v := r.last(i + 1); v.Outcome != router.Left || v.Status != 0 {
			t.Errorf("outcome %v, status %d, want left", v.Outcome, v.Status)
		}
		until(t, "nobody waits", func() bool { return r.router.Use("m-0").Waiting == 0 })
	}
}

func TestPipelinedBytesAreNoDeparture(t *testing.T) {
	more := make(chan struct{})
	r := real(t, backend(t, func(c net.Conn, in *bufio.Reader, _ int) {
		readRequest(in)
		<-more
		io.WriteString(c, ok)
		readRequest(in)
		io.WriteString(c, ok)
	}))
	c := r.dial()
	io.WriteString(c, post(""))
	until(t, "the request is on the backend", func() bool { return r.router.Use("m-0").InFlight == 1 })
	io.WriteString(c, post(""))
	close(more)
	in := bufio.NewReader(c)
	hear(t, in)
	hear(t, in)
}

func TestABreakLooksLikeOne(t *testing.T) { // F1
	for name, answer := range map[string]string{
		"mid-length":            "HTTP/1.1 200 OK\r\nContent-Length: 100\r\n\r\nabc",
		"mid-chunk":             "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n9\r\nabc",
		"before the last chunk": "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n3\r\nabc\r\n",
		"in the trailer":        "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n3\r\nabc\r\n0\r\nX: y\r\n",
		"by a malformed chunk":  "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n3\r\nabc\r\nx\r\n",
	} {
		t.Run(name, func(t *testing.T) {
			r := real(t, backend(t, func(c net.Conn, in *bufio.Reader, _ int) {
				readRequest(in)
				io.WriteString(c, answer)
			}))
			c := r.dial()
			io.WriteString(c, post(""))
			resp, err := http.ReadResponse(bufio.NewReader(c), nil)
			if err != nil {
				t.Fatal(err)
			}
			if body, err := io.ReadAll(resp.Body); !errors.Is(err, io.ErrUnexpectedEOF) {
				t.Errorf("the client saw %q and %v, want an unexpected EOF", body, err)
			}
			if v := r.last(1); v.Outcome != router.Broken || v.Code != router.BackendBroken {
				t.Errorf("outcome %v %q, want broken", v.Outcome, v.Code)
			}
		})
	}
}

func TestABadAnswerIsABrokenOne(t *testing.T) {
	for name, answer := range map[string]string{
		"nothing":            "",
		"half a head":        "HTTP/1.1 200 OK\r\nContent-",
		"no HTTP":            "+PONG\r\n\r\n",
		"two lengths":        "HTTP/1.1 200 OK\r\nContent-Length: 1\r\nContent-Length: 2\r\n\r\nab",
		"length and chunks":  "HTTP/1.1 200 OK\r\nContent-Length: 1\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n",
		"an unknown coding":  "HTTP/1.1 200 OK\r\nTransfer-Encoding: gzip, chunked\r\n\r\n0\r\n\r\n",
		"a folded field":     "HTTP/1.1 200 OK\r\nX: a\r\n b\r\nContent-Length: 0\r\n\r\n",
		"a space in a name":  "HTTP/1.1 200 OK\r\nContent-Length : 0\r\n\r\n",
		"an endless header":  "HTTP/1.1 200 OK\r\n" + strings.Repeat("X: "+strings.Repeat("y", 1000)+"\r\n", 40) + "\r\n",
		"a switch unasked":   "HTTP/1.1 101 Switching Protocols\r\n\r\n",
		"a negative length":  "HTTP/1.1 200 OK\r\nContent-Length: -1\r\n\r\n",
		"a status too short": "HTTP/1.1 20 OK\r\n\r\n",
	} {
		t.Run(name, func(t *testing.T) {
			r := real(t, backend(t, func(c net.Conn, in *bufio.Reader, _ int) {
				readRequest(in)
				io.WriteString(c, answer)
			}))
			resp, body := say(t, r.dial(), post(""))
			if resp.StatusCode != 502 || !strings.Contains(body, "backend m-0") {
				t.Errorf("got %d %q, want 502", resp.StatusCode, body)
			}
			if v := r.last(1); v.Outcome != router.Broken {
				t.Errorf("outcome %v, want broken", v.Outcome)
			}
			r.idle()
		})
	}
}

func TestBodilessAnswers(t *testing.T) {
	for _, test := range []struct{ method, answer, want string }{
		{"HEAD", "HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\n", "HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\n"},
		{"GET", "HTTP/1.1 204 No Content\r\n\r\n", "HTTP/1.1 204 No Content\r\n\r\n"},
		{"GET", "HTTP/1.1 304 Not Modified\r\nContent-Length: 5\r\n\r\n", "HTTP/1.1 304 Not Modified\r\nContent-Length: 5\r\n\r\n"},
		{"GET", "HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n", "HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n"},
		{"GET", "HTTP/1.1 103 Early Hints\r\nLink: x\r\n\r\nHTTP/1.1 200\r\nContent-Length: 1\r\n\r\na", "HTTP/1.1 103 Early Hints\r\nLink: x\r\n\r\nHTTP/1.1 200\r\nContent-Length: 1\r\n\r\na"},
		{"GET", "HTTP/1.1 102 Processing\r\n\r\nHTTP/1.1 200\r\nContent-Length: 1\r\n\r\na", "HTTP/1.1 200\r\nContent-Length: 1\r\n\r\na"},
	} {
		r := real(t, answers(t, test.answer))
		c := r.dial()
		for range 2 { // the connection serves another one
			fmt.Fprintf(c, "%s /upstream/m/x HTTP/1.1\r\nHost: edge\r\n\r\n", test.method)
			got := make([]byte, len(test.want))
			if _, err := io.ReadFull(c, got); err != nil || string(got) != test.want {
				t.Errorf("%s of %q gave %q, %v", test.method, test.answer, got, err)
			}
		}
	}
}

func TestHeadersOfOneHopStayThere(t *testing.T) {
	seen := make(chan string, 1)
	r := real(t, backend(t, func(c net.Conn, in *bufio.Reader, _ int) {
		var head strings.Builder
		for {
			line, err := in.ReadString('\n')
			if err != nil {
				return
			}
			if head.WriteString(line); line == "\r\n" {
				break
			}
		}
		seen <- head.String()
		io.WriteString(c, "HTTP/1.1 200 OK\r\nx-MiXed: Kept\r\nConnection: keep-alive, X-Hop\r\nX-Hop: 1\r\nKeep-Alive: timeout=5\r\nContent-Length: 0\r\n\r\n")
	}))
	c := r.dial()
	io.WriteString(c, "GET /upstream/m/a?b=c HTTP/1.1\r\nHost: edge:1\r\nx-cAsE: as it is \r\nConnection: keep-alive, x-hop\r\nX-Hop: 1\r\nTE: trailers\r\n"+
		"Proxy-Authorization: p\r\nX-Forwarded-For: 6.6.6.6\r\nX-Forwarded-Port: 1\r\nForwarded: for=6.6.6.6\r\n\r\n")
	want := "GET /a?b=c HTTP/1.1\r\nHost: edge:1\r\nx-cAsE: as it is \r\nX-Forwarded-Host: edge:1\r\nX-Forwarded-For: 127.0.0.1\r\nX-Forwarded-Proto: http\r\n\r\n"
	if got := within(t, seen); got != want {
		t.Errorf("the backend got\n%q, want\n%q", got, want)
	}
	want = "HTTP/1.1 200 OK\r\nx-MiXed: Kept\r\nContent-Length: 0\r\n\r\n"
	got := make([]byte, len(want))
	if _, err := io.ReadFull(c, got); err != nil || string(got) != want {
		t.Errorf("the client got %q, %v, want %q", got, err, want)
	}
}

func TestARefusalIsSeenByAClientThatStillSends(t *testing.T) {
	for name, head := range map[string]string{
		"by length": "Content-Length: 1000000\r\n\r\n",
		"in chunks": "Transfer-Encoding: chunked\r\n\r\nf4240\r\n", // 1,000,000
	} {
		t.Run(name, func(t *testing.T) {
			r := real(t, answers(t, ok), withLimits(func(l *config.Limits) { l.Body = 1000 }))
			c := r.dial()
			io.WriteString(c, "POST /api/chat HTTP/1.1\r\nHost: e\r\n"+head)
			for range 10 {
				if _, err := c.Write(make([]byte, 100000)); err != nil {
					t.Fatal("the client was cut off while it sent: ", err)
				}
			}
			resp, body := hear(t, bufio.NewReader(c))
			if resp.StatusCode != 413 || body != `{"error":"the body is larger than the limit of 1000 bytes"}` {
				t.Errorf("got %d %q", resp.StatusCode, body)
			}
			if v := r.last(1); v.Code != router.BodyTooLarge || v.Path != "/api/chat" || v.Method != "POST" {
				t.Errorf("recorded %+v", v)
			}
		})
	}
}

func TestExpectContinue(t *testing.T) {
	r := real(t, answers(t, ok))
	c := r.dial()
	in := bufio.NewReader(c)
	io.WriteString(c, "POST /v1/chat/completions HTTP/1.1\r\nHost: e\r\nExpect: 100-continue\r\nContent-Type: application/json\r\nContent-Length: 13\r\n\r\n")
	if resp, err := http.ReadResponse(in, nil); err != nil || resp.StatusCode != 100 {
		t.Fatalf("got %v, %v, want 100", resp, err)
	}
	io.WriteString(c, `{"model":"m"}`)
	if resp, body := hear(t, in); resp.StatusCode != 200 || body != "{}" {
		t.Errorf("got %d %q", resp.StatusCode, body)
	}
	io.WriteString(c, "POST /v1/chat/completions HTTP/1.1\r\nHost: e\r\nExpect: 100-continue\r\nContent-Length: 2000000\r\n\r\n")
	if resp, _ := hear(t, in); resp.StatusCode != 413 || !resp.Close {
		t.Errorf("a body that is too large: %d, want 413 at once", resp.StatusCode)
	}
}

func TestContinueIsSaidBetweenPipelinedRequests(t *testing.T) {
	r := real(t, answers(t, ok))
	c := r.dial()
	in := bufio.NewReader(c)
	io.WriteString(c, post("")+post("")+strings.TrimSuffix(post("", "Expect: 100-continue"), `{"model":"m"}`))
	for range 2 {
		hear(t, in)
	}
	if resp, err := http.ReadResponse(in, nil); err != nil || resp.StatusCode != 100 {
		t.Fatalf("got %v, %v, want 100", resp, err)
	}
	io.WriteString(c, `{"model":"m"}`)
	if resp, body := hear(t, in); resp.StatusCode != 200 || body != "{}" {
		t.Errorf("got %d %q", resp.StatusCode, body)
	}
}

// crossed is a connection to a backend that closes it at the very moment at which a second request is sent.
type crossed struct {
	*net.TCPConn
	writes int
	close  func()
}

func (c *crossed) SyscallConn() (syscall.RawConn, error) {
	raw, err := c.TCPConn.SyscallConn()
	return crossedRaw{raw, c}, err
}

type crossedRaw struct {
	syscall.RawConn
	of *crossed
}

func (r crossedRaw) Write(write func(fd uintptr) bool) error {
	if r.of.writes++; r.of.writes == 2 {
		r.of.close()
	}
	return r.RawConn.Write(write)
}

func TestAnIdleConnectionThatClosedIsNoFailure(t *testing.T) {
	var seen, dialled atomic.Int32
	end, ended := make(chan struct{}), make(chan struct{})
	addr := backend(t, func(c net.Conn, in *bufio.Reader, number int) {
		if number > 0 {
			if readRequest(in) != nil {
				seen.Add(1)
				io.WriteString(c, ok)
			}
			return
		}
		readRequest(in)
		io.WriteString(c, ok)
		<-end
		c.Close()
		close(ended)
	})
	r := real(t, addr, withDial(func(context.Context, string) (net.Conn, error) {
		c, err := net.Dial("tcp", addr)
		if err != nil || dialled.Add(1) > 1 {
			return c, err
		}
		return &crossed{TCPConn: c.(*net.TCPConn), close: func() { close(end); <-ended }}, nil
	}))
	c := r.dial()
	say(t, c, post(""))
	if resp, body := say(t, c, post("")); resp.StatusCode != 200 || body != "{}" {
		t.Errorf("got %d %q", resp.StatusCode, body)
	}
	if got := seen.Load(); got != 1 {
		t.Errorf("the backend read the second request %d times, want 1", got)
	}
}

func TestARequestThatMayHaveKilledItsBackendGoesNowhereElse(t *testing.T) {
	var requests atomic.Int32
	mortal := func(c net.Conn, in *bufio.Reader, _ int) {
		for range 2 {
			if readRequest(in) == nil {
				return
			}
			if requests.Add(1) == 2 {
				return // and so does its connection: the process died
			}
			io.WriteString(c, ok)
		}
	}
	first, other := backend(t, mortal), backend(t, mortal)
	r := real(t, first)
	c := r.dial()
	say(t, c, post(""))
	r.ready(8, first, other)
	if resp, body := say(t, c, post("")); resp.StatusCode != 502 || !strings.Contains(body, "backend m-0 closed the connection") || requests.Load() != 2 {
		t.Errorf("got %d %q after %d requests", resp.StatusCode, body, requests.Load())
	}
}

func TestAConnectionThatItsBackendClosesIsForgottenAtOnce(t *testing.T) {
	r := real(t, backend(t, func(c net.Conn, in *bufio.Reader, _ int) {
		readRequest(in)
		io.WriteString(c, ok)
	}))
	say(t, r.dial(), post(""))
	until(t, "no connection idles", func() bool {
		p := &r.edge.upstreams
		p.mu.Lock()
		defer p.mu.Unlock()
		return len(p.stack) == 0
	})
}

func TestARequestThatReachedNobodyGoesElsewhere(t *testing.T) {
	up := answers(t, ok)
	var dialled atomic.Int32
	r := real(t, "", withDial(func(ctx context.Context, addr string) (net.Conn, error) {
		if dialled.Add(1) > 1 {
			addr = up // it came back
		}
		return new(net.Dialer).DialContext(ctx, "tcp", addr)
	}))
	r.ready(1, nobody)
	if resp, body := say(t, r.dial(), post("")); resp.StatusCode != 200 || body != "{}" {
		t.Errorf("got %d %q", resp.StatusCode, body)
	}
	r.idle()
}

func TestARequestThatReachedNobodyTriesEachBackendOnce(t *testing.T) {
	up := answers(t, ok)
	var dials sync.Mutex
	var tried []string
	take := func() []string {
		dials.Lock()
		defer dials.Unlock()
		all := tried
		tried = nil
		return all
	}
	r := real(t, "", withDial(func(ctx context.Context, addr string) (net.Conn, error) {
		dials.Lock()
		tried = append(tried, addr)
		dials.Unlock()
		if addr != up {
			return nil, errors.New("nobody is there")
		}
		return new(net.Dialer).DialContext(ctx, "tcp", addr)
	}))
	r.ready(8, "a", "b", up)
	c := r.dial()
	resp, _ := say(t, c, post(""))
	if all := take(); resp.StatusCode != 200 || len(all) != 3 {
		t.Errorf("got %d after %v", resp.StatusCode, all)
	}
	r.ready(8, "a", "b")
	say(t, c, post("")) // takes what is left of three retries
	take()
	resp, _ = say(t, c, post(""))
	if all := take(); resp.StatusCode != 502 || len(all) != 1 {
		t.Errorf("got %d after %v, want one try: too many were tried again", resp.StatusCode, all)
	}
	if n := testutil.ToFloat64(r.edge.metrics.retriesDenied); n == 0 {
		t.Error("nobody counted what was denied")
	}
}

func TestABackendThatIsAwayIsSaidToBe(t *testing.T) {
	r := real(t, nobody)
	resp, body := say(t, r.dial(), post(""))
	if resp.StatusCode != 502 || !strings.Contains(body, "cannot be reached") || resp.Header.Get("X-Pilotlight-Request") == "" {
		t.Errorf("got %d %q %v", resp.StatusCode, body, resp.Header)
	}
	if v := r.last(1); v.Outcome != router.Broken {
		t.Errorf("outcome %v, want broken", v.Outcome)
	}
}

func TestAClientThatDoesNotReadIsGone(t *testing.T) {
	ended := make(chan struct{})
	r := real(t, backend(t, func(c net.Conn, in *bufio.Reader, _ int) {
		defer close(ended)
		readRequest(in)
		io.WriteString(c, "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n")
		chunk := "10000\r\n" + strings.Repeat("x", 1<<16) + "\r\n"
		for {
			if _, err := io.WriteString(c, chunk); err != nil {
				return
			}
		}
	}), withLimits(func(l *config.Limits) { l.WriteTime = config.Duration(50 * time.Millisecond) }))
	c := r.dial()
	io.WriteString(c, post(""))
	within(t, ended)
	if v := r.last(1); v.Outcome != router.Left {
		t.Errorf("outcome %v, want left", v.Outcome)
	}
	r.idle()
}

func TestAPanicCostsOneConnection(t *testing.T) { // F3
	r := real(t, answers(t, ok), withDial(func(context.Context, string) (net.Conn, error) { panic("for the test") }))
	c := r.dial()
	io.WriteString(c, post(""))
	if rest, err := io.ReadAll(c); err != nil || len(rest) > 0 {
		t.Errorf("the client got %q, %v", rest, err)
	}
	if v := r.last(1); v.Outcome != router.Broken {
		t.Errorf("outcome %v, want broken", v.Outcome)
	}
	r.idle()
	if resp, _ := say(t, r.dial(), "GET /v1/models HTTP/1.1\r\nHost: e\r\n\r\n"); resp.StatusCode != 200 {
		t.Error("the edge answers no more")
	}
}

func TestTooManyConnections(t *testing.T) {
	r := real(t, answers(t, ok), withLimits(func(l *config.Limits) { l.Connections = 1 }))
	first := r.dial()
	say(t, first, post(""))
	resp, _ := say(t, r.dial(), "")
	if resp.StatusCode != 503 || resp.Header.Get("Retry-After") != "1" {
		t.Errorf("got %d, want 503", resp.StatusCode)
	}
	say(t, first, post(""))
}

func TestHTTP10GetsNoChunks(t *testing.T) {
	r := real(t, answers(t, "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n3\r\nabc\r\n3\r\ndef\r\n0\r\n\r\n"))
	c := r.dial()
	io.WriteString(c, "GET /upstream/m/x HTTP/1.0\r\n\r\n")
	got, err := io.ReadAll(c)
	if want := "HTTP/1.1 200 OK\r\nConnection: close\r\n\r\nabcdef"; string(got) != want || err != nil {
		t.Errorf("got %q, %v, want %q", got, err, want)
	}
	if v := r.last(1); v.Outcome != router.OK {
		t.Errorf("outcome %v", v.Outcome)
	}
}

func TestABreakTowardsHTTP10IsAReset(t *testing.T) {
	r := real(t, backend(t, func(c net.Conn, in *bufio.Reader, _ int) {
		readRequest(in)
		io.WriteString(c, "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n3\r\nabc\r\n")
	}))
	c := r.dial()
	io.WriteString(c, "GET /upstream/m/x HTTP/1.0\r\n\r\n")
	if got, err := io.ReadAll(c); err == nil {
		t.Errorf("the client took %q for a finished answer", got)
	}
}

func TestEventsPassAsTheyCome(t *testing.T) {
	next := make(chan struct{})
	r := real(t, backend(t, func(c net.Conn, in *bufio.Reader, _ int) {
		readRequest(in)
		io.WriteString(c, "HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\nTransfer-Encoding: chunked\r\n\r\n")
		for i := range 20 {
			<-next // only once the client has the one before
			fmt.Fprintf(c, "a\r\ndata: %02d\n\n\r\n", i)
		}
		io.WriteString(c, "0\r\n\r\n")
	}))
	c := r.dial()
	io.WriteString(c, post(`,"stream":true`))
	resp, err := http.ReadResponse(bufio.NewReader(c), nil)
	if err != nil {
		t.Fatal(err)
	}
	if resp.Header.Get("X-Accel-Buffering") != "no" {
		t.Error("nothing tells nginx not to buffer")
	}
	event := make([]byte, 10)
	for i := range 20 {
		next <- struct{}{}
		if _, err := io.ReadFull(resp.Body, event); err != nil || string(event) != fmt.Sprintf("data: %02d\n\n", i) {
			t.Fatalf("event %d is %q, %v", i, event, err)
		}
	}
	if rest, err := io.ReadAll(resp.Body); err != nil || len(rest) > 0 {
		t.Errorf("then %q, %v", rest, err)
	}
}

func TestAShutdownWaitsForStreams(t *testing.T) { // F5
	next := make(chan struct{})
	var ln net.Listener
	r := realOn(t, func(l net.Listener) net.Listener { ln = l; return l }, backend(t, func(c net.Conn, in *bufio.Reader, _ int) {
		readRequest(in)
		io.WriteString(c, "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n3\r\nabc\r\n")
		<-next
		io.WriteString(c, "0\r\n\r\n")
	}))
	idle, c := r.dial(), r.dial()
	say(t, idle, "GET /healthz HTTP/1.1\r\nHost: e\r\n\r\n")
	io.WriteString(c, post(""))
	in := bufio.NewReader(c)
	resp, err := http.ReadResponse(in, nil)
	if err != nil {
		t.Fatal(err)
	}
	r.stop()
	if _, err := idle.Read(make([]byte, 1)); err != io.EOF {
		t.Errorf("the idle connection: %v, want EOF", err)
	}
	select {
	case <-r.served:
		t.Fatal("Serve returned while a stream was open")
	default:
	}
	if err := ln.(*net.TCPListener).SetDeadline(time.Now()); !errors.Is(err, net.ErrClosed) { // its port may be another test's by now
		t.Error("connections are still accepted")
	}
	close(next)
	if body, err := io.ReadAll(resp.Body); string(body) != "abc" || err != nil {
		t.Errorf("the stream ended with %q, %v", body, err)
	}
	if err := within(t, r.served); err != nil {
		t.Error(err)
	}
	r.served <- nil
}

func TestGoroutinesGoAwayWithTheirRequests(t *testing.T) {
	before := runtime.NumGoroutine()
	t.Run("requests", func(t *testing.T) {
		server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, req *http.Request) {
			io.Copy(io.Discard, req.Body)
			switch req.Header.Get("X-Case") {
			case "1":
				panic(http.ErrAbortHandler)
			case "2":
				http.NewResponseController(w).Flush()
				<-req.Context().Done()
			default:
				io.WriteString(w, strings.Repeat("x", 10000))
			}
		}))
		t.Cleanup(server.Close)
		r := real(t, server.Listener.Addr().String())
		var clients sync.WaitGroup
		for i := range 200 {
			clients.Go(func() {
				c, err := net.Dial("tcp", r.addr)
				if err != nil {
					t.Error(err)
					return
				}
				defer c.Close()
				io.WriteString(c, post(`,"stream":true`, fmt.Sprintf("X-Case: %d", i%4)))
				if i%4 == 2 {
					c.Read(make([]byte, 1))
					return
				}
				resp, err := http.ReadResponse(bufio.NewReader(c), nil)
				if err == nil {
					io.Copy(io.Discard, resp.Body)
				}
			})
		}
		clients.Wait()
		r.last(200)
		r.idle()
	})
	until(t, "the goroutines are gone", func() bool { return runtime.NumGoroutine() <= before+1 }) // fasthttp's cleaner sleeps on
}
