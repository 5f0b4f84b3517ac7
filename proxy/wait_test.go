package proxy

import (
	"bufio"
	"io"
	"net"
	"net/http"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/valyala/fasthttp/fasthttputil"

	"pilotlight/config"
	"pilotlight/router"
)

// heartbeats is a model whose waiting streams hear from us every ten seconds.
func heartbeats(m *config.Model) {
	m.Heartbeat = config.Duration(10 * time.Second)
	m.NoHeartbeat = []string{"Choker"}
}

// memoryBackend is a scripted backend inside a bubble, which serves its connections side by side: the edge may open one more
// before the last is back. The test must call close.
func memoryBackend(serve func(c net.Conn, in *bufio.Reader)) (ln *fasthttputil.InmemoryListener, close func()) {
	ln = fasthttputil.NewInmemoryListener()
	var serving sync.WaitGroup
	serving.Go(func() {
		for {
			c, err := ln.Accept()
			if err != nil {
				return
			}
			serving.Go(func() {
				defer c.Close()
				serve(c, bufio.NewReader(c))
			})
		}
	})
	return ln, func() { ln.Close(); serving.Wait() }
}

// timed reads whatever comes from a connection in one piece, and when.
func timed(t *testing.T, c net.Conn, since time.Time) (string, time.Duration) {
	t.Helper()
	b := make([]byte, 4096)
	n, err := c.Read(b)
	if err != nil {
		t.Errorf("after %v: %v", time.Since(since), err)
	}
	return string(b[:n]), time.Since(since)
}

const (
	streamHead = "HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\nCache-Control: no-cache\r\nX-Accel-Buffering: no\r\nTransfer-Encoding: chunked\r\n\r\n"
	heartbeat  = "10\r\n: waiting for m\n\r\n"
)

func TestAWaitingStreamHearsHeartbeatsAndThenItsAnswer(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		ln, closeBackend := memoryBackend(func(c net.Conn, in *bufio.Reader) {
			readRequest(in)
			io.WriteString(c, "HTTP/1.1 200 OK\r\nContent-Type: text/event-stream; charset=utf-8\r\nX-Late: 1\r\nContent-Length: 9\r\n\r\ndata: 1\n\n")
		})
		r := memory(t, ln, withModel(heartbeats))
		r.asleep()
		c := r.dial()
		began := time.Now()
		io.WriteString(c, post(`,"stream":true`))
		for i, want := range []string{streamHead + heartbeat, heartbeat, heartbeat} {
			if got, at := timed(t, c, began); got != want || at != time.Duration(i+1)*10*time.Second {
				t.Errorf("after %v came %q, want %q", at, got, want)
			}
		}
		time.Sleep(5 * time.Second)
		r.ready(1, "there")
		got, at := timed(t, c, began)
		if want := "9\r\ndata: 1\n\n\r\n0\r\n\r\n"; got != want || at != 35*time.Second {
			t.Errorf("after %v came %q, want %q", at, got, want)
		}
		c.Close()
		synctest.Wait()
		if v := r.last(1); v.Outcome != router.OK || v.Waited != 35*time.Second || v.FirstByte != 35*time.Second || v.Status != 200 {
			t.Errorf("recorded %+v", v)
		}
		closeBackend()
		r.end()
	})
}

// TestAWaitingStreamIsToldWhoItIsAtOnce, if it wants to know, and the rest in its trailer.
func TestAWaitingStreamIsToldWhoItIsAtOnce(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		ln, closeBackend := memoryBackend(func(c net.Conn, in *bufio.Reader) {
			readRequest(in)
			io.WriteString(c, "HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\nContent-Length: 9\r\n\r\ndata: 1\n\n")
		})
		r := memory(t, ln, withModel(heartbeats), func(_ *rig, o *Options) { o.Timing = config.TimingAsked })
		r.asleep()
		c := r.dial()
		io.WriteString(c, strings.Replace(post(`,"stream":true`), "\r\n", "\r\nX-Pilotlight-Timing: on\r\nTE: trailers\r\nConnection: TE\r\n", 1))
		time.Sleep(15 * time.Second)
		r.ready(1, "there")
		resp, body := hear(t, bufio.NewReader(c))
		if id := resp.Header.Get("X-Pilotlight-Request"); resp.StatusCode != 200 || id == "" || !strings.HasSuffix(body, "data: 1\n\n") {
			t.Errorf("got %d %v %q", resp.StatusCode, resp.Header, body)
		}
		for name, want := range map[string]string{"Backend": "m-0", "Wait-Ms": "15000.000", "Cold": "true"} {
			if got := resp.Trailer.Get("X-Pilotlight-" + name); got != want {
				t.Errorf("%s: got %q, want %q", name, got, want)
			}
		}
		c.Close()
		closeBackend()
		r.end()
	})
}

func TestARefusalAfterHeartbeatsIsAnEvent(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := memory(t, nil, withModel(heartbeats), withModel(func(m *config.Model) { m.Line.MaxWait = config.Duration(15 * time.Second) }))
		r.ready(1, "") // ready, but its only slot is taken
		lease, err := r.router.TryAcquire(router.Request{Model: "m"})
		if err != nil {
			t.Fatal(err)
		}
		c := r.dial()
		io.WriteString(c, post(`,"stream":true`))
		resp, body := hear(t, bufio.NewReader(c))
		if resp.StatusCode != 200 || !strings.HasPrefix(body, ": waiting for m\ndata: {\"error\":") || !strings.Contains(body, "wait_too_long") {
			t.Errorf("got %d %q", resp.StatusCode, body)
		}
		synctest.Wait()
		if v := r.last(1); v.Outcome != router.Refused || v.Code != router.WaitTooLong {
			t.Errorf("recorded %+v", v)
		}
		lease.Release(router.OK)
		c.Close()
		r.end()
	})
}

func TestABackendsErrorAfterHeartbeatsIsAnEvent(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		ln, closeBackend := memoryBackend(func(c net.Conn, in *bufio.Reader) {
			readRequest(in)
			io.WriteString(c, "HTTP/1.1 400 Bad Request\r\nContent-Type: application/json\r\nContent-Length: 7\r\n\r\ntoo hot")
		})
		r := memory(t, ln, withModel(heartbeats))
		r.asleep()
		c := r.dial()
		io.WriteString(c, post(`,"stream":true`))
		time.Sleep(15 * time.Second)
		r.ready(1, "there")
		if _, body := hear(t, bufio.NewReader(c)); !strings.Contains(body, "the model server answered 400: too hot") || !strings.HasSuffix(body, "\n\n") {
			t.Errorf("got %q", body)
		}
		c.Close()
		closeBackend()
		r.end()
	})
}

func TestWhoHearsNoHeartbeats(t *testing.T) {
	for name, request := range map[string]string{
		"a client that wants JSON":     post(""),
		"a client that chokes":         post(`,"stream":true`, "User-Agent: The Choker/1"),
		"a client that got it at once": post(`,"stream":true`, "X-Soon: 1"),
	} {
		synctest.Test(t, func(t *testing.T) {
			ln, closeBackend := memoryBackend(func(c net.Conn, in *bufio.Reader) {
				readRequest(in)
				io.WriteString(c, ok)
			})
			r := memory(t, ln, withModel(heartbeats))
			r.asleep()
			c := r.dial()
			io.WriteString(c, request)
			if strings.Contains(request, "X-Soon") {
				time.Sleep(9 * time.Second)
			} else {
				time.Sleep(time.Hour)
			}
			r.ready(1, "there")
			resp, body := hear(t, bufio.NewReader(c))
			if resp.ContentLength != 2 || body != "{}" {
				t.Errorf("%s got %q", name, body)
			}
			c.Close()
			closeBackend()
			r.end()
		})
	}
}

func TestADepartureDuringHeartbeats(t *testing.T) { // F4
	synctest.Test(t, func(t *testing.T) {
		r := memory(t, nil, withModel(heartbeats))
		r.asleep()
		c := r.dial()
		io.WriteString(c, post(`,"stream":true`))
		time.Sleep(15 * time.Second)
		c.Close()
		synctest.Wait()
		if v := r.last(1); v.Outcome != router.Left || v.Total != 15*time.Second {
			t.Errorf("recorded %+v", v)
		}
		if got := r.router.Use("m-0").Waiting; got != 0 {
			t.Errorf("%d wait", got)
		}
		r.end()
	})
}

func TestTheRecordIsMadeWhenTheLastByteIsOut(t *testing.T) { // F2
	synctest.Test(t, func(t *testing.T) {
		ln, closeBackend := memoryBackend(func(c net.Conn, in *bufio.Reader) {
			readRequest(in)
			io.WriteString(c, "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n1\r\na\r\n")
			time.Sleep(time.Minute)
			io.WriteString(c, "1\r\nb\r\n0\r\n\r\n")
		})
		r := memory(t, ln)
		r.ready(1, "there")
		c := r.dial()
		io.WriteString(c, post(""))
		resp, err := http.ReadResponse(bufio.NewReader(c), nil)
		if err != nil {
			t.Fatal(err)
		}
		synctest.Wait()
		if got := len(r.edge.Visits()); got != 0 {
			t.Errorf("%d visits are recorded while the stream is open", got)
		}
		io.ReadAll(resp.Body)
		synctest.Wait()
		if v := r.last(1); v.Outcome != router.OK || v.Total != time.Minute || v.FirstByte != 0 {
			t.Errorf("recorded %+v", v)
		}
		c.Close()
		closeBackend()
		r.end()
	})
}

func TestAShutdownCutsStreamsOffAtItsLimit(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		ln, closeBackend := memoryBackend(func(c net.Conn, in *bufio.Reader) {
			readRequest(in)
			io.WriteString(c, "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n1\r\na\r\n")
			in.ReadByte() // until the edge gives up
		})
		r := memory(t, ln)
		r.ready(1, "there")
		c := r.dial()
		io.WriteString(c, post(""))
		resp, err := http.ReadResponse(bufio.NewReader(c), nil)
		if err != nil {
			t.Fatal(err)
		}
		began := time.Now()
		r.stop()
		if body, err := io.ReadAll(resp.Body); err == nil {
			t.Errorf("the stream ended well, with %q", body)
		}
		if err := <-r.served; err != nil || time.Since(began) != time.Minute {
			t.Errorf("Serve returned %v after %v", err, time.Since(began))
		}
		if v := r.last(1); v.Outcome != router.Broken || v.Code != router.ShuttingDown {
			t.Errorf("recorded %+v", v)
		}
		closeBackend()
		r.served <- nil
		r.end()
	})
}

func TestASlowHeaderIsCutOff(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := memory(t, nil)
		began := time.Now()
		silent, slow, body := r.dial(), r.dial(), r.dial()
		io.WriteString(slow, "POST /v1/x HTT")
		io.WriteString(body, "POST /v1/x HTTP/1.1\r\nHost: e\r\nContent-Length: 5\r\n\r\nab")
		if b, _ := io.ReadAll(silent); len(b) > 0 || time.Since(began) != 10*time.Second {
			t.Errorf("a silent client got %q after %v", b, time.Since(began))
		}
		if b, _ := io.ReadAll(slow); !strings.HasPrefix(string(b), "HTTP/1.1 408 ") || time.Since(began) != 10*time.Second {
			t.Errorf("a slow header got %q after %v", b, time.Since(began))
		}
		if b, _ := io.ReadAll(body); !strings.HasPrefix(string(b), "HTTP/1.1 408 ") || time.Since(began) != time.Minute {
			t.Errorf("a slow body got %q after %v", b, time.Since(began))
		}
		r.end()
	})
}
