package proxy

import (
	"bufio"
	"context"
	"crypto/tls"
	"fmt"
	"io"
	"net"
	"net/http"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"pilotlight/config"
	"pilotlight/router"
)

// over2 is a client that speaks HTTP/2 over connections that dial gives.
func over2(t *testing.T, dial func() net.Conn) *http.Client {
	var protocols http.Protocols
	protocols.SetUnencryptedHTTP2(true)
	transport := &http.Transport{
		Protocols: &protocols, DisableCompression: true,
		DialContext: func(context.Context, string, string) (net.Conn, error) { return dial(), nil },
	}
	t.Cleanup(transport.CloseIdleConnections)
	return &http.Client{Transport: transport}
}

// ask2 asks for m with some more fields.
func ask2(ctx context.Context, t *testing.T, client *http.Client, fields string) (*http.Response, error) {
	t.Helper()
	req, err := http.NewRequestWithContext(ctx, http.MethodPost, "http://edge/v1/chat/completions", strings.NewReader(`{"model":"m"`+fields+`}`))
	if err != nil {
		t.Fatal(err)
	}
	req.Header.Set("Content-Type", "application/json")
	return client.Do(req)
}

func hear2(t *testing.T, resp *http.Response, err error) (*http.Response, string) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
	defer resp.Body.Close()
	body, err := io.ReadAll(resp.Body)
	if err != nil {
		t.Fatalf("after %q: %v", body, err)
	}
	return resp, string(body)
}

func TestARequestOverHTTP2IsAnsweredAndRecorded(t *testing.T) {
	heads := make(chan http.Header, 1)
	model := func() string {
		return backend(t, func(c net.Conn, in *bufio.Reader, _ int) {
			req := readRequest(in)
			body, _ := io.ReadAll(req.Body)
			req.Header.Set("Body", req.Host+string(body))
			heads <- req.Header
			io.WriteString(c, "HTTP/1.1 200 OK\r\nX-mine: 1\r\nConnection: X-Hop\r\nX-Hop: 1\r\nTransfer-Encoding: chunked\r\n\r\n3\r\nabc\r\n0\r\nX-Sum: 7\r\n\r\n")
		})
	}
	clear := real(t, model())
	behindTLS, _ := secure(t, model())
	for proto, r := range map[string]*rig{"http": clear, "https": behindTLS} {
		t.Run(proto, func(t *testing.T) {
			resp, err := ask2(t.Context(), t, over2(t, r.dial), "")
			resp, body := hear2(t, resp, err)
			if resp.Proto != "HTTP/2.0" || resp.StatusCode != 200 || body != "abc" || resp.Header.Get("X-Mine") != "1" || resp.Header.Get("X-Hop") != "" || resp.Trailer.Get("X-Sum") != "7" {
				t.Errorf("got %+v %q", resp, body)
			}
			if h := within(t, heads); h.Get("X-Forwarded-Proto") != proto || h.Get("X-Forwarded-For") != "127.0.0.1" || h.Get("Body") != `edge{"model":"m"}` {
				t.Errorf("the backend got %v", h)
			}
			v := r.last(1)
			if v.Outcome != router.OK || v.Model != "m" || v.Status != 200 || v.Method != "POST" || v.Path != "/v1/chat/completions" || v.BytesIn != 13 || v.Client != "127.0.0.1" {
				t.Errorf("recorded %+v", v)
			}
			r.idle()
		})
	}
}

func TestALPNOffersHTTP2(t *testing.T) {
	r, a := secure(t, answers(t, ok))
	trust := a.trust()
	trust.NextProtos = []string{"h2", "http/1.1"}
	client := &http.Client{Transport: &http.Transport{TLSClientConfig: trust, ForceAttemptHTTP2: true}}
	defer client.CloseIdleConnections()
	resp, err := client.Get("https://" + r.addr + "/healthz")
	if resp, body := hear2(t, resp, err); resp.Proto != "HTTP/2.0" || body != "ok" || resp.TLS.NegotiatedProtocol != "h2" || resp.TLS.Version != tls.VersionTLS13 {
		t.Errorf("got %s %q", resp.Proto, body)
	}
}

func TestAnswersOverHTTP2(t *testing.T) {
	for name, test := range map[string]struct {
		method, answer, want string
		status               int
	}{
		"of a length":        {"POST", "HTTP/1.1 201 Created\r\nContent-Length: 2\r\n\r\nab", "ab", 201},
		"up to the end":      {"POST", "HTTP/1.0 200 OK\r\n\r\nab", "ab", 200},
		"without a body":     {"POST", "HTTP/1.1 204 No Content\r\n\r\n", "", 204},
		"empty":              {"POST", "HTTP/1.1 404 Not Found\r\nContent-Length: 0\r\n\r\n", "", 404},
		"to HEAD":            {"HEAD", "HTTP/1.1 200 OK\r\nContent-Length: 7\r\n\r\n", "", 200},
		"longer than a pipe": {"GET", "HTTP/1.1 200 OK\r\nContent-Length: 3000000\r\n\r\n" + strings.Repeat("abc", 1000000), strings.Repeat("abc", 1000000), 200},
	} {
		t.Run(name, func(t *testing.T) {
			r := real(t, backend(t, func(c net.Conn, in *bufio.Reader, _ int) {
				readRequest(in)
				io.WriteString(c, test.answer)
			}))
			req, err := http.NewRequestWithContext(t.Context(), test.method, "http://edge/upstream/m/x", nil)
			if err != nil {
				t.Fatal(err)
			}
			resp, err := over2(t, r.dial).Do(req)
			if resp, body := hear2(t, resp, err); resp.StatusCode != test.status || body != test.want {
				t.Errorf("got %d and %d bytes, want %d and %d", resp.StatusCode, len(body), test.status, len(test.want))
			}
			if v := r.last(1); v.Outcome != router.OK {
				t.Errorf("recorded %+v", v)
			}
		})
	}
}

func TestABodyWithoutALengthOverHTTP2(t *testing.T) {
	r := real(t, backend(t, func(c net.Conn, in *bufio.Reader, _ int) {
		req := readRequest(in)
		body, _ := io.ReadAll(req.Body)
		fmt.Fprintf(c, "HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n%s", len(body), body)
	}))
	sent := strings.Repeat("some bytes ", 80000)
	req, err := http.NewRequestWithContext(t.Context(), http.MethodPost, "http://edge/upstream/m/x", io.MultiReader(strings.NewReader(sent)))
	if err != nil {
		t.Fatal(err)
	}
	resp, err := over2(t, r.dial).Do(req)
	if _, body := hear2(t, resp, err); body != sent {
		t.Errorf("%d bytes came back of %d", len(body), len(sent))
	}
}

func TestALargeBodyPassesThroughOverHTTP2(t *testing.T) {
	for _, length := range []int64{200000, -1} {
		largeOver2(t, length)
	}
}

// largeOver2 sends 200,000 bytes, half of them before the backend has the head. Length is what it says of that; -1: nothing.
func largeOver2(t *testing.T, length int64) {
	held := make(chan struct{})
	r := real(t, backend(t, func(c net.Conn, in *bufio.Reader, _ int) {
		req, err := http.ReadRequest(in)
		if err != nil {
			return
		}
		close(held) // it has the head before the client has sent the end
		n, _ := io.Copy(io.Discard, req.Body)
		fmt.Fprintf(c, "HTTP/1.1 103 Early Hints\r\nLink: x\r\n\r\nHTTP/1.1 200 OK\r\nContent-Length: 7\r\n\r\n%7d", n)
	}), withLimits(func(l *config.Limits) { l.BodyHeld, l.Body = config.KiB, config.MiB }))
	in, out := io.Pipe()
	go func() {
		out.Write(make([]byte, 100000))
		<-held
		out.Write(make([]byte, 100000))
		out.Close()
	}()
	req, err := http.NewRequestWithContext(t.Context(), http.MethodPost, "http://edge/upstream/m/x", in)
	if err != nil {
		t.Fatal(err)
	}
	req.ContentLength = length
	req.Header.Set("Content-Type", "application/octet-stream")
	resp, err := over2(t, r.dial).Do(req)
	if resp, body := hear2(t, resp, err); body != " 200000" || resp.Header.Get("Link") != "" {
		t.Errorf("the backend got %q bytes, %v", body, resp.Header)
	}
	if v := r.last(1); v.Outcome != router.OK || v.BytesIn != 200000 {
		t.Errorf("recorded %+v", v)
	}
}

func TestRefusalsOverHTTP2(t *testing.T) {
	r := real(t, answers(t, ok))
	client := over2(t, r.dial)
	for name, test := range map[string]struct {
		method, target, body string
		status               int
		want                 string
	}{
		"an unknown model":  {"POST", "/api/chat", `{"model":"x"}`, 404, `{"error":"`},
		"no model":          {"POST", "/v1/messages", `{}`, 400, `{"type":"error","error":{"type":"invalid_request_error"`},
		"a body too large":  {"POST", "/v1/x", strings.Repeat("x", 2<<20), 413, `{"error":{"message":"the body is larger`},
		"TRACE":             {"TRACE", "/v1/x", "", 501, `{"error":{`},
		"a header too long": {"GET", "/v1/x?" + strings.Repeat("y", 70<<10), "", 431, `{"error":{`},
	} {
		t.Run(name, func(t *testing.T) {
			req, err := http.NewRequestWithContext(t.Context(), "GET", "http://edge"+test.target, nil)
			if err != nil {
				t.Fatal(err)
			}
			req.Method, req.Body = test.method, io.NopCloser(strings.NewReader(test.body))
			resp, err := client.Do(req)
			if resp, body := hear2(t, resp, err); resp.StatusCode != test.status || !strings.HasPrefix(body, test.want) {
				t.Errorf("got %d %q", resp.StatusCode, body)
			}
			if v := r.edge.Visits()[0]; v.Outcome != router.Refused || v.Status != test.status {
				t.Errorf("recorded %+v", v)
			}
		})
	}
}

func TestEventsPassAsTheyComeOverHTTP2(t *testing.T) {
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
	resp, err := ask2(t.Context(), t, over2(t, r.dial), `,"stream":true`)
	if err != nil {
		t.Fatal(err)
	}
	defer resp.Body.Close()
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

func TestADepartureOfOneStreamIsNoticed(t *testing.T) {
	asked, ended := make(chan struct{}), make(chan struct{})
	r := real(t, backend(t, func(c net.Conn, in *bufio.Reader, number int) {
		readRequest(in)
		if number > 0 {
			io.WriteString(c, ok)
			return
		}
		io.WriteString(c, "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n3\r\nabc\r\n")
		close(asked)
		eventually(in, ended)
	}))
	client := over2(t, r.dial)
	ctx, leave := context.WithCancel(t.Context())
	defer leave()
	resp, err := ask2(ctx, t, client, "")
	if err != nil {
		t.Fatal(err)
	}
	defer resp.Body.Close()
	within(t, asked)
	leave()
	within(t, ended)
	if v := r.last(1); v.Outcome != router.Left {
		t.Errorf("outcome %v, want left", v.Outcome)
	}
	resp, err = ask2(t.Context(), t, client, "") // on the same connection
	hear2(t, resp, err)
	r.idle()

	r.asleep()
	ctx, leave = context.WithCancel(t.Context())
	go func() {
		until(t, "a request waits", func() bool { return r.router.Use("m-0").Waiting == 1 })
		leave()
	}()
	if resp, err := ask2(ctx, t, client, ""); err == nil {
		t.Errorf("got %v", resp.Status)
		resp.Body.Close()
	}
	if v := r.last(3); v.Outcome != router.Left || v.Status != 0 {
		t.Errorf("outcome %v, status %d, want left", v.Outcome, v.Status)
	}
}

func TestABreakOverHTTP2LooksLikeOne(t *testing.T) {
	r := real(t, backend(t, func(c net.Conn, in *bufio.Reader, _ int) {
		readRequest(in)
		io.WriteString(c, "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n3\r\nabc\r\n")
	}))
	resp, err := ask2(t.Context(), t, over2(t, r.dial), "")
	if err != nil {
		t.Fatal(err)
	}
	defer resp.Body.Close()
	if body, err := io.ReadAll(resp.Body); err == nil {
		t.Errorf("the client took %q for a finished answer", body)
	}
	if v := r.last(1); v.Outcome != router.Broken || v.Code != router.BackendBroken {
		t.Errorf("recorded %+v", v)
	}
}

func TestAStreamOverHTTP2HearsHeartbeats(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		ln, closeBackend := memoryBackend(func(c net.Conn, in *bufio.Reader) {
			readRequest(in)
			io.WriteString(c, "HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\nContent-Length: 9\r\n\r\ndata: 1\n\n")
		})
		r := memory(t, ln, withModel(heartbeats), withLimits(func(l *config.Limits) { l.WriteTime = config.Duration(time.Second) }))
		r.asleep()
		client := over2(t, r.dial)
		resp, err := ask2(t.Context(), t, client, `,"stream":true`)
		if err != nil {
			t.Fatal(err)
		}
		beat := make([]byte, len(": waiting for m\n"))
		for i := range 3 {
			if _, err := io.ReadFull(resp.Body, beat); err != nil || string(beat) != ": waiting for m\n" {
				t.Errorf("heartbeat %d is %q, %v", i, beat, err)
			}
		}
		r.ready(1, "there")
		if _, body := hear2(t, resp, nil); body != "data: 1\n\n" {
			t.Errorf("then came %q", body)
		}
		if v := r.last(1); v.Outcome != router.OK || v.Waited != 30*time.Second {
			t.Errorf("recorded %+v", v)
		}
		client.CloseIdleConnections()
		closeBackend()
		r.end()
	})
}

func TestAShutdownWaitsForStreamsOverHTTP2(t *testing.T) {
	next := make(chan struct{})
	r := real(t, backend(t, func(c net.Conn, in *bufio.Reader, _ int) {
		readRequest(in)
		io.WriteString(c, "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n3\r\nabc\r\n")
		<-next
		io.WriteString(c, "0\r\n\r\n")
	}))
	idle := over2(t, r.dial)
	resp, err := idle.Get("http://edge/healthz")
	hear2(t, resp, err)
	resp, err = ask2(t.Context(), t, over2(t, r.dial), "")
	if err != nil {
		t.Fatal(err)
	}
	r.stop()
	close(next)
	if _, body := hear2(t, resp, nil); body != "abc" {
		t.Errorf("the stream ended with %q", body)
	}
	if err := within(t, r.served); err != nil {
		t.Error(err)
	}
	r.served <- nil
}

func TestAShutdownCutsStreamsOverHTTP2(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		ln, closeBackend := memoryBackend(func(c net.Conn, in *bufio.Reader) {
			readRequest(in)
			io.WriteString(c, "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n3\r\nabc\r\n")
			io.Copy(io.Discard, in)
		})
		r := memory(t, ln)
		r.ready(1, "there")
		resp, err := ask2(t.Context(), t, over2(t, r.dial), "")
		if err != nil {
			t.Fatal(err)
		}
		defer resp.Body.Close()
		r.stop()
		if body, err := io.ReadAll(resp.Body); err == nil {
			t.Errorf("the client took %q for a finished answer", body)
		}
		r.end()
		if v := r.edge.Visits()[0]; v.Outcome != router.Broken || v.Code != router.ShuttingDown {
			t.Errorf("recorded %+v", v)
		}
		closeBackend()
	})
}

func TestWhatLooksLikeHTTP2AtFirst(t *testing.T) {
	r := real(t, answers(t, ok))
	for text, want := range map[string]int{
		"PRI * HTTP/2.0\r\nHost: e\r\n\r\n":    505,
		"PRIX / HTTP/1.1\r\nHost: e\r\n\r\n":   400,
		"P":                                    0,
		"\x00 /x HTTP/1.1\r\nHost: e\r\n\r\n":  400, // what becomes of words that are none: see http1Word
		"GET \x00 HTTP/1.1\r\nHost: e\r\n\r\n": 400,
	} {
		c := r.dial()
		io.WriteString(c, text)
		if want == 0 {
			c.(*net.TCPConn).CloseWrite()
			if rest, err := io.ReadAll(c); err != nil || len(rest) > 0 {
				t.Errorf("%q: got %q, %v", text, rest, err)
			}
		} else if resp, _ := hear(t, bufio.NewReader(c)); resp.StatusCode != want {
			t.Errorf("%q: got %d, want %d", text, resp.StatusCode, want)
		}
	}
	// In as many pieces as can be.
	c := r.dial()
	for _, b := range []byte(http2Preface + "\x00\x00\x00\x04\x00\x00\x00\x00\x00") {
		c.Write([]byte{b})
	}
	if frame := make([]byte, 9); func() error { _, err := io.ReadFull(c, frame); return err }() != nil || frame[3] != 4 {
		t.Errorf("got %q, want settings", frame)
	}
}

func TestWordsOfARequestLine(t *testing.T) {
	for text, whole := range map[string]bool{"GET": true, "/v1/x?y=%20": true, "GET /x": false, "/x HTTP/1.1": false, "/é": false} {
		if got := http1Word(text); (got == text) != whole {
			t.Errorf("%q became %q", text, got)
		}
	}
}
