package proxy

import (
	"bufio"
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"strings"
	"sync"
	"syscall"
	"testing"
	"testing/synctest"
	"time"

	"pilotlight/config"
	"pilotlight/router"
)

// upgrade is how a client asks for a WebSocket.
func upgrade(target string) string {
	return "GET " + target + " HTTP/1.1\r\nHost: edge\r\nConnection: keep-alive, Upgrade\r\nUpgrade: websocket\r\nSec-WebSocket-Key: k\r\n\r\n"
}

const switching = "HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\nConnection: Upgrade\r\nSec-WebSocket-Accept: a\r\n\r\n"

// upgraded is a backend that switches every connection over and gives it to serve.
func upgraded(t *testing.T, serve func(c *net.TCPConn, in *bufio.Reader)) string {
	return backend(t, func(c net.Conn, in *bufio.Reader, _ int) {
		if req := readRequest(in); req == nil || req.Header.Get("Upgrade") != "websocket" {
			io.WriteString(c, ok)
			return
		}
		io.WriteString(c, switching)
		serve(c.(*net.TCPConn), in)
	})
}

// open has a connection upgraded.
func open(t *testing.T, r *rig) (*net.TCPConn, *bufio.Reader) {
	t.Helper()
	c := r.dial().(*net.TCPConn)
	io.WriteString(c, upgrade("/v1/realtime?model=m"))
	in := bufio.NewReader(c)
	resp, err := http.ReadResponse(in, nil)
	if err != nil || resp.StatusCode != 101 {
		t.Fatalf("got %v, %v, want 101", resp, err)
	}
	return c, in
}

// noise is n bytes of which no two stretches are alike.
func noise(n int) []byte {
	b := make([]byte, 0, n+16)
	for i := 0; len(b) < n; i++ {
		b = fmt.Appendf(b, "%x,", i*i)
	}
	return b[:n]
}

func TestAnUpgradedConnectionPassesBothWaysFromAColdStart(t *testing.T) {
	up, down := noise(1<<20), noise(1<<20+1)
	heads := make(chan *http.Request, 1)
	got := make(chan []byte, 1)
	addr := backend(t, func(c net.Conn, in *bufio.Reader, _ int) {
		heads <- readRequest(in)
		var sending sync.WaitGroup
		sending.Go(func() { c.Write(append([]byte(switching), down...)) }) // what comes with the head is no less
		b := make([]byte, len(up))
		io.ReadFull(in, b)
		got <- b
		sending.Wait()
		in.ReadByte() // until the client goes
	})
	r := real(t, "", withModel(func(m *config.Model) { m.ServedAs = "real" }))
	r.asleep()
	c := r.dial().(*net.TCPConn)
	var sending sync.WaitGroup
	sending.Go(func() { c.Write(append([]byte(upgrade("/v1/realtime?model=m&x=y")), up...)) })
	until(t, "the request waits", func() bool { return r.router.Use("m-0").Waiting == 1 })
	r.ready(1, addr)

	req := within(t, heads)
	if req.URL.String() != "/v1/realtime?model=real&x=y" || req.Header.Get("Connection") != "Upgrade" ||
		req.Header.Get("Upgrade") != "websocket" || req.Header.Get("Sec-WebSocket-Key") != "k" || req.ContentLength > 0 {
		t.Errorf("the backend got %v %v", req.URL, req.Header)
	}
	in := bufio.NewReader(c)
	resp, err := http.ReadResponse(in, nil)
	if err != nil || resp.StatusCode != 101 || resp.Header.Get("Upgrade") != "websocket" || resp.Header.Get("Sec-WebSocket-Accept") != "a" ||
		resp.Header.Get("Connection") != "Upgrade" {
		t.Fatalf("the client got %v, %v", resp, err)
	}
	b := make([]byte, len(down))
	if _, err := io.ReadFull(in, b); err != nil || !bytes.Equal(b, down) {
		t.Errorf("the client got something else, %v", err)
	}
	if !bytes.Equal(within(t, got), up) {
		t.Error("the backend got something else")
	}
	sending.Wait()
	if use := r.router.Use("m-0"); use.InFlight != 1 || len(r.edge.Visits()) != 0 {
		t.Errorf("while it is open: %+v, %d visits", use, len(r.edge.Visits()))
	}
	c.Close()
	v := r.last(1)
	if v.Outcome != router.OK || v.Status != 101 || !v.Cold || v.Waited == 0 || v.BytesIn != int64(len(up)) || v.BytesOut < int64(len(down)) {
		t.Errorf("recorded %+v", v)
	}
	r.idle()
}

func TestHalfACloseLeavesTheOtherHalf(t *testing.T) {
	t.Run("the client's", func(t *testing.T) {
		r := real(t, upgraded(t, func(c *net.TCPConn, in *bufio.Reader) {
			said, _ := io.ReadAll(in)
			c.Write(bytes.Repeat(said, 10000))
		}))
		c, in := open(t, r)
		io.WriteString(c, "hello")
		c.CloseWrite()
		if got, err := io.ReadAll(in); len(got) != 50000 || err != nil {
			t.Errorf("got %d bytes, %v", len(got), err)
		}
		if v := r.last(1); v.Outcome != router.OK || v.BytesIn != 5 {
			t.Errorf("recorded %+v", v)
		}
	})
	t.Run("the backend's", func(t *testing.T) {
		got := make(chan []byte, 1)
		r := real(t, upgraded(t, func(c *net.TCPConn, in *bufio.Reader) {
			io.WriteString(c, "hello")
			c.CloseWrite()
			all, _ := io.ReadAll(in)
			got <- all
		}))
		c, in := open(t, r)
		if said, err := io.ReadAll(in); string(said) != "hello" || err != nil {
			t.Errorf("got %q, %v", said, err)
		}
		c.Write(noise(100000))
		c.Close()
		if !bytes.Equal(within(t, got), noise(100000)) {
			t.Error("the backend got something else")
		}
		if v := r.last(1); v.Outcome != router.OK {
			t.Errorf("recorded %+v", v)
		}
	})
}

func TestWhoeverLeavesATunnelEndsIt(t *testing.T) {
	for how, want := range map[string]router.Outcome{"closes": router.OK, "resets": router.Left} {
		t.Run("the client "+how, func(t *testing.T) {
			ended := make(chan struct{})
			r := real(t, upgraded(t, func(_ *net.TCPConn, in *bufio.Reader) { eventually(in, ended) }))
			c, _ := open(t, r)
			leave(c, how)
			within(t, ended)
			if v := r.last(1); v.Outcome != want || v.Status != 101 {
				t.Errorf("recorded %+v, want %v", v, want)
			}
			r.idle()
		})
	}
	t.Run("the client closes while the backend goes on", func(t *testing.T) {
		ended := make(chan struct{})
		r := real(t, upgraded(t, func(c *net.TCPConn, _ *bufio.Reader) {
			defer close(ended)
			for {
				if _, err := c.Write(make([]byte, 1000)); err != nil {
					return
				}
			}
		}))
		c, _ := open(t, r)
		c.Close()
		within(t, ended)
		if v := r.last(1); v.Outcome != router.Left {
			t.Errorf("recorded %+v", v)
		}
	})
	t.Run("the backend resets", func(t *testing.T) {
		r := real(t, upgraded(t, func(c *net.TCPConn, _ *bufio.Reader) { leave(c, "resets") }))
		_, in := open(t, r)
		if _, err := io.ReadAll(in); !errors.Is(err, syscall.ECONNRESET) {
			t.Errorf("the client got %v, want a reset", err)
		}
		if v := r.last(1); v.Outcome != router.Broken || v.Code != router.BackendBroken {
			t.Errorf("recorded %+v", v)
		}
		r.idle()
	})
}

func TestAnUpgradeThatIsNotToBe(t *testing.T) {
	for name, test := range map[string]struct {
		request, answer string
		want            int
		passed          bool // the wish
	}{
		"the backend says no":        {upgrade("/upstream/m/ws"), "HTTP/1.1 401 Unauthorized\r\nContent-Length: 2\r\n\r\nno", 401, true},
		"the backend answers":        {upgrade("/upstream/m/ws"), "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n2\r\nno\r\n0\r\n\r\n", 200, true},
		"a 101 to nothing":           {upgrade("/upstream/m/ws"), "HTTP/1.1 101 Switching Protocols\r\n\r\n", 502, true},
		"Upgrade for somebody else":  {strings.Replace(upgrade("/upstream/m/ws"), "keep-alive, Upgrade", "keep-alive", 1), ok, 200, false},
		"HTTP/2 in disguise":         {strings.Replace(upgrade("/upstream/m/ws"), "Upgrade: websocket", "Upgrade: foo, h2c", 1), ok, 200, false},
		"HTTP/1.0":                   {strings.Replace(upgrade("/upstream/m/ws"), "HTTP/1.1", "HTTP/1.0", 1), ok, 200, false},
		"a body":                     {post("", "Connection: Upgrade", "Upgrade: websocket"), ok, 200, false},
		"no model":                   {upgrade("/v1/realtime"), ok, 400, false},
		"a page of our own":          {upgrade("/healthz"), ok, 200, false},
		"a model that nobody knows":  {upgrade("/upstream/x/ws"), ok, 404, false},
		"a backend that says naught": {upgrade("/upstream/m/ws"), "", 502, true},
	} {
		t.Run(name, func(t *testing.T) {
			seen := make(chan bool, 1)
			r := real(t, backend(t, func(c net.Conn, in *bufio.Reader, _ int) {
				if req := readRequest(in); req != nil {
					seen <- req.Header.Get("Upgrade") != "" && req.Header.Get("Connection") == "Upgrade"
					io.WriteString(c, test.answer)
				}
			}))
			c := r.dial()
			io.WriteString(c, test.request)
			if resp, _ := hear(t, bufio.NewReader(c)); resp.StatusCode != test.want {
				t.Errorf("got %d, want %d", resp.StatusCode, test.want)
			}
			r.last(1)
			r.idle()
			select {
			case passed := <-seen:
				if passed != test.passed {
					t.Errorf("the wish for an upgrade reached the backend: %v", passed)
				}
			default:
				if test.passed {
					t.Error("the request did not reach the backend")
				}
			}
		})
	}
}

// piped is a backend in memory, of connections that obey deadlines.
func piped(serve func(c net.Conn, in *bufio.Reader)) (dial rigOption, wait func()) {
	var all sync.WaitGroup
	return withDial(func(context.Context, string) (net.Conn, error) {
		near, far := net.Pipe()
		all.Go(func() {
			defer far.Close()
			serve(far, bufio.NewReader(far))
		})
		return near, nil
	}), all.Wait
}

func TestASilentTunnelIsClosed(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		dial, wait := piped(func(c net.Conn, in *bufio.Reader) {
			readRequest(in)
			io.WriteString(c, switching)
			io.Copy(c, in)
		})
		r := memory(t, nil, dial)
		r.ready(1, "there")
		c := r.dial()
		io.WriteString(c, upgrade("/upstream/m/ws"))
		in := bufio.NewReader(c)
		if resp, err := http.ReadResponse(in, nil); err != nil || resp.StatusCode != 101 {
			t.Fatal(resp, err)
		}
		for range 3 {
			time.Sleep(50 * time.Minute)
			io.WriteString(c, "x")
			if b, err := in.ReadByte(); b != 'x' || err != nil {
				t.Errorf("got %q, %v", b, err)
			}
		}
		if rest, err := io.ReadAll(in); len(rest) > 0 || err != nil {
			t.Errorf("then %q, %v", rest, err)
		}
		synctest.Wait()
		if v := r.last(1); v.Outcome != router.Left || v.Total != 150*time.Minute+time.Hour || v.BytesIn != 3 {
			t.Errorf("recorded %+v", v)
		}
		wait()
		r.end()
	})
}

// halfPipe is a connection in memory whose halves can be closed, though nobody heeds it.
type halfPipe struct{ net.Conn }

func (halfPipe) CloseWrite() error { return nil }

func TestHalfATunnelIsNotKeptForLong(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		near, far := net.Pipe()
		defer far.Close()
		c := &conn{Conn: near, gone: make(chan struct{})}
		tunnel := newTunnel(c, time.Hour)
		defer tunnel.end()
		time.Sleep(50 * time.Minute)
		began := time.Now()
		tunnel.endHalf(halfPipe{near})
		time.Sleep(20 * time.Second)
		tunnel.touch() // the other half is in use
		<-c.Done()
		if got := time.Since(began); got != 20*time.Second+halfTime || c.Err() != router.ErrLeft {
			t.Errorf("it ended after %v with %v", got, c.Err())
		}
	})
}

func TestAShutdownWaitsForTunnelsUpToItsLimit(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		dial, wait := piped(func(c net.Conn, in *bufio.Reader) {
			readRequest(in)
			io.WriteString(c, switching)
			io.Copy(c, in)
		})
		r := memory(t, nil, dial)
		r.ready(1, "there")
		c := r.dial()
		io.WriteString(c, upgrade("/upstream/m/ws"))
		in := bufio.NewReader(c)
		if resp, err := http.ReadResponse(in, nil); err != nil || resp.StatusCode != 101 {
			t.Fatal(resp, err)
		}
		began := time.Now()
		r.stop()
		time.Sleep(59 * time.Second)
		io.WriteString(c, "x")
		if b, err := in.ReadByte(); b != 'x' || err != nil {
			t.Errorf("got %q, %v", b, err)
		}
		if err := <-r.served; err != nil || time.Since(began) != time.Minute {
			t.Errorf("Serve returned %v after %v", err, time.Since(began))
		}
		if v := r.last(1); v.Outcome != router.Broken || v.Code != router.ShuttingDown {
			t.Errorf("recorded %+v", v)
		}
		wait()
		r.served <- nil
		r.end()
	})
}
