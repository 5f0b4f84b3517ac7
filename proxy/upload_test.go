package proxy

import (
	"bufio"
	"bytes"
	"context"
	"fmt"
	"io"
	"net"
	"net/http"
	"slices"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"pilotlight/config"
	"pilotlight/router"
)

// held lets bodies of up to 64 KiB be held, and larger ones stream through.
func held(l *config.Limits) { l.Body, l.BodyHeld = 16*config.MiB, 64*config.KiB }

// put is the head of an upload that streams through.
func put(n int, headers ...string) string {
	return fmt.Sprintf("PUT /upstream/m/file HTTP/1.1\r\nHost: edge\r\nContent-Type: application/octet-stream\r\n%sContent-Length: %d\r\n\r\n",
		strings.Join(append(headers, ""), "\r\n"), n)
}

func TestALargeBodyStreamsThrough(t *testing.T) {
	body := noise(4 << 20)
	half := make(chan struct{})
	got := make(chan []byte, 1)
	r := real(t, backend(t, func(c net.Conn, in *bufio.Reader, _ int) {
		req, err := http.ReadRequest(in)
		if err != nil {
			return
		}
		first := make([]byte, len(body)/2)
		io.ReadFull(req.Body, first)
		close(half) // before the client has sent the rest
		rest, _ := io.ReadAll(req.Body)
		if req.ContentLength != int64(len(body)) || req.URL.Path != "/file" || req.Header.Get("Expect") != "" {
			t.Errorf("the backend got %v %v", req.URL, req.Header)
		}
		got <- append(first, rest...)
		io.WriteString(c, ok)
	}), withLimits(held))
	for i, expect := range []bool{false, true} {
		half = make(chan struct{})
		c := r.dial()
		in := bufio.NewReader(c)
		if expect {
			io.WriteString(c, put(len(body), "Expect: 100-continue"))
			if resp, err := http.ReadResponse(in, nil); err != nil || resp.StatusCode != 100 {
				t.Fatalf("got %v, %v, want 100", resp, err)
			}
			c.Write(body[:len(body)/2])
		} else {
			c.Write(append([]byte(put(len(body))), body[:len(body)/2]...))
		}
		within(t, half)
		c.Write(body[len(body)/2:])
		resp, answer := hear(t, in)
		if resp.StatusCode != 200 || answer != "{}" || !resp.Close {
			t.Errorf("got %d %q, close: %v", resp.StatusCode, answer, resp.Close)
		}
		if !bytes.Equal(within(t, got), body) {
			t.Error("the backend got another body")
		}
		if v := r.last(i + 1); v.Outcome != router.OK || v.BytesIn != int64(len(body)) || v.Method != "PUT" {
			t.Errorf("recorded %+v", v)
		}
		r.idle()
	}
}

// putChunks is put without a length, and with the beginning of a body: chunks of 32 KiB.
func putChunks(body []byte, headers ...string) []byte {
	dst := fmt.Appendf(nil, "PUT /upstream/m/file HTTP/1.1\r\nHost: edge\r\nContent-Type: application/octet-stream\r\n%sTransfer-Encoding: chunked\r\n\r\n",
		strings.Join(append(headers, ""), "\r\n"))
	for data := range slices.Chunk(body, 32<<10) {
		dst = appendChunk(dst, data)
	}
	return dst
}

func TestALargeBodyOfUnknownLengthStreamsThrough(t *testing.T) {
	body := noise(4 << 20)
	half := make(chan struct{})
	r := real(t, backend(t, func(c net.Conn, in *bufio.Reader, _ int) {
		req, err := http.ReadRequest(in)
		if err != nil {
			return
		}
		got := make([]byte, len(body)/2)
		io.ReadFull(req.Body, got)
		close(half) // before the client has sent the rest
		rest, err := io.ReadAll(req.Body)
		if got = append(got, rest...); err != nil || !bytes.Equal(got, body) || req.ContentLength != -1 || req.Trailer.Get("Sum") != "7" {
			t.Errorf("the backend got %d bytes, %v %v, %v", len(got), req.Header, req.Trailer, err)
		}
		io.WriteString(c, ok)
	}), withLimits(held))
	c := r.dial()
	in := bufio.NewReader(c)
	c.Write(putChunks(nil, "Expect: 100-continue", "Trailer: Sum"))
	if resp, err := http.ReadResponse(in, nil); err != nil || resp.StatusCode != 100 {
		t.Fatalf("got %v, %v, want 100", resp, err)
	}
	c.Write(appendChunk(nil, body[:len(body)/2+1]))
	within(t, half)
	c.Write(appendEnd(appendChunk(nil, body[len(body)/2+1:]), []byte("Sum: 7\r\n")))
	if resp, answer := hear(t, in); resp.StatusCode != 200 || answer != "{}" || !resp.Close {
		t.Errorf("got %d %q, close: %v", resp.StatusCode, answer, resp.Close)
	}
	if v := r.last(1); v.Outcome != router.OK || v.BytesIn != int64(len(body)) {
		t.Errorf("recorded %+v", v)
	}
	r.idle()
}

// A body that turns out to be small is like any other: it can be sent twice, and its connection serves more requests.
func TestASmallBodyOfUnknownLengthIsHeld(t *testing.T) {
	r := real(t, backend(t, func(c net.Conn, in *bufio.Reader, _ int) {
		for {
			req := readRequest(in)
			if req == nil {
				return
			}
			body, _ := io.ReadAll(req.Body)
			fmt.Fprintf(c, "HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n%s", len(body), body)
		}
	}), withLimits(held))
	c := r.dial()
	in := bufio.NewReader(c)
	for n, body := range []string{"", "some bytes", strings.Repeat("z", 64<<10)} {
		c.Write(appendEnd(putChunks([]byte(body)), nil))
		if resp, got := hear(t, in); resp.StatusCode != 200 || got != body || resp.Close {
			t.Errorf("%d bytes: got %d and %d bytes, close: %v", len(body), resp.StatusCode, len(got), resp.Close)
		}
		if v := r.last(n + 1); v.BytesIn != int64(len(body)) {
			t.Errorf("recorded %+v", v)
		}
	}
}

// A body that comes at once is no larger than one that comes in pieces may be.
func TestTheLimitHoldsForWhatIsHeld(t *testing.T) {
	r := real(t, answers(t, ok), withLimits(func(l *config.Limits) { l.Body, l.BodyHeld = 2*config.KiB, config.KiB }))
	for size, want := range map[int]int{2 << 10: 200, 2<<10 + 1: 413, 20 << 10: 413} {
		c := r.dial()
		c.Write(appendEnd(putChunks(noise(size)), nil))
		if resp, body := hear(t, bufio.NewReader(c)); resp.StatusCode != want {
			t.Errorf("%d bytes: got %d %q, want %d", size, resp.StatusCode, body, want)
		}
	}
}

func TestAnUploadOfUnknownLengthThatIsNoGoodIsRefused(t *testing.T) {
	for name, test := range map[string]struct {
		sent []byte
		want int
	}{
		"longer than the limit":   {putChunks(noise(17 << 20)), 413},
		"a bad chunk, early":      {append(putChunks(noise(1<<10)), "x\r\n"...), 400},
		"a bad chunk":             {append(putChunks(noise(1<<20)), "x\r\n"...), 400},
		"a length in its trailer": {appendEnd(putChunks(noise(1<<20)), []byte("Content-Length: 1\r\n")), 400},
		"a trailer that is none":  {appendEnd(putChunks(noise(1<<20)), []byte("no colon\r\n")), 400},
	} {
		ended := make(chan struct{})
		r := real(t, backend(t, func(_ net.Conn, in *bufio.Reader, _ int) {
			if req, err := http.ReadRequest(in); err == nil {
				if _, err := io.Copy(io.Discard, req.Body); err == nil {
					t.Errorf("%s: for the backend it was whole", name)
				}
				close(ended)
			}
		}), withLimits(held))
		c := r.dial()
		var sending sync.WaitGroup
		sending.Go(func() { c.Write(test.sent) })
		if resp, body := hear(t, bufio.NewReader(c)); resp.StatusCode != test.want || !resp.Close {
			t.Errorf("%s: got %d %q", name, resp.StatusCode, body)
		}
		sending.Wait()
		if name != "a bad chunk, early" {
			within(t, ended)
		}
		if v := r.last(1); v.Outcome != router.Refused || v.Status != test.want {
			t.Errorf("%s: recorded %+v", name, v)
		}
		r.idle()
	}
}

func TestAnEarlyAnswerEndsTheUpload(t *testing.T) {
	seen := make(chan struct{})
	r := real(t, backend(t, func(c net.Conn, in *bufio.Reader, _ int) {
		if _, err := http.ReadRequest(in); err == nil {
			in.Discard(1000)
			io.WriteString(c, "HTTP/1.1 413 Content Too Large\r\nContent-Length: 8\r\n\r\ntoo much")
			<-seen // it neither reads on nor closes
		}
	}), withLimits(held))
	c := r.dial()
	var sending sync.WaitGroup
	sending.Go(func() { c.Write(append([]byte(put(8<<20)), noise(1<<20)...)) })
	resp, body := hear(t, bufio.NewReader(c))
	if resp.StatusCode != 413 || body != "too much" || !resp.Close {
		t.Errorf("got %d %q", resp.StatusCode, body)
	}
	sending.Wait()
	close(seen)
	if v := r.last(1); v.Outcome != router.OK || v.Status != 413 || v.BytesIn == 0 || v.BytesIn >= 8<<20 {
		t.Errorf("recorded %+v", v)
	}
	r.idle()
}

func TestADepartureDuringAnUploadIsNoticed(t *testing.T) {
	for _, how := range []string{"closes", "half-closes", "resets"} {
		asked, ended := make(chan struct{}), make(chan struct{})
		r := real(t, backend(t, func(_ net.Conn, in *bufio.Reader, _ int) {
			http.ReadRequest(in)
			in.Discard(1000)
			close(asked)
			eventually(in, ended)
		}), withLimits(held))
		c := r.dial().(*net.TCPConn)
		c.Write(append([]byte(put(8<<20)), noise(1<<20)...))
		within(t, asked)
		leave(c, how)
		within(t, ended)
		if v := r.last(1); v.Outcome != router.Left {
			t.Errorf("the client %s: recorded %+v", how, v)
		}
		r.idle()
	}
}

func TestABackendThatGoesDuringAnUploadBreaksIt(t *testing.T) {
	r := real(t, backend(t, func(c net.Conn, in *bufio.Reader, _ int) {
		http.ReadRequest(in)
		in.Discard(1000)
		leave(c.(*net.TCPConn), "resets")
	}), withLimits(held))
	c := r.dial()
	var sending sync.WaitGroup
	sending.Go(func() { c.Write(append([]byte(put(8<<20)), noise(1<<20)...)) })
	if resp, body := hear(t, bufio.NewReader(c)); resp.StatusCode != 502 || !strings.Contains(body, "closed the connection") {
		t.Errorf("got %d %q", resp.StatusCode, body)
	}
	sending.Wait()
	if v := r.last(1); v.Outcome != router.Broken {
		t.Errorf("recorded %+v", v)
	}
}

func TestAnUploadThatTricklesIsCutOff(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		dial, wait := piped(func(_ net.Conn, in *bufio.Reader) { io.Copy(io.Discard, in) })
		r := memory(t, nil, dial, withLimits(held))
		r.ready(1, "there")
		c := r.dial()
		began := time.Now()
		done := make(chan struct{})
		go func() {
			defer close(done)
			for _, err := io.WriteString(c, put(1<<20)); err == nil; _, err = io.WriteString(c, "z") {
				time.Sleep(time.Second)
			}
		}()
		if resp, _ := hear(t, bufio.NewReader(c)); resp.StatusCode != 408 || time.Since(began) != time.Minute {
			t.Errorf("got %d after %v", resp.StatusCode, time.Since(began))
		}
		c.Close()
		<-done
		wait()
		if v := r.last(1); v.Outcome != router.Refused || v.Code != router.BadRequest {
			t.Errorf("recorded %+v", v)
		}
		r.end()
	})
}

func TestAnUploadThatReachedNobodyGoesElsewhere(t *testing.T) {
	got := make(chan int, 1)
	up := backend(t, func(c net.Conn, in *bufio.Reader, _ int) {
		if req := readRequest(in); req != nil {
			b, _ := io.ReadAll(req.Body)
			got <- len(b)
			io.WriteString(c, ok)
		}
	})
	dialled := 0
	r := real(t, "there", withLimits(held), withDial(func(ctx context.Context, _ string) (net.Conn, error) {
		if dialled++; dialled == 1 {
			return nil, io.ErrUnexpectedEOF
		}
		return new(net.Dialer).DialContext(ctx, "tcp", up)
	}))
	c := r.dial()
	c.Write(append([]byte(put(1<<20)), noise(1<<20)...))
	if resp, _ := hear(t, bufio.NewReader(c)); resp.StatusCode != 200 || within(t, got) != 1<<20 {
		t.Errorf("got %d", resp.StatusCode)
	}
}

func TestALargeBodyOverTheLimitIsRefused(t *testing.T) {
	r := real(t, answers(t, ok), withLimits(held))
	c := r.dial()
	io.WriteString(c, put(17<<20))
	if resp, _ := hear(t, bufio.NewReader(c)); resp.StatusCode != 413 {
		t.Errorf("got %d", resp.StatusCode)
	}
}

func TestARefusedUploadIsToldSo(t *testing.T) {
	r := real(t, answers(t, ok), withLimits(held))
	for name, test := range map[string]struct {
		head string
		want int
	}{
		"an unknown model":  {strings.Replace(put(1<<20), "/m/", "/x/", 1), 404},
		"a bad field":       {put(1<<20, "X Y: z"), 400},
		"length and chunks": {put(1<<20, "Transfer-Encoding: chunked"), 400},
	} {
		c := r.dial()
		var sending sync.WaitGroup
		sending.Go(func() { c.Write(append([]byte(test.head), noise(1<<20)...)) })
		if resp, body := hear(t, bufio.NewReader(c)); resp.StatusCode != test.want || !resp.Close {
			t.Errorf("%s: got %d %q", name, resp.StatusCode, body)
		}
		sending.Wait()
	}
}

func TestBodiesThatNameTheModelAreHeld(t *testing.T) {
	for head, want := range map[string]bool{
		"POST /v2/models/m/infer\nContent-Type: application/json":                                 true,
		"POST /v1/models/m:predict\nContent-Type: application/json":                               true,
		"POST /api/blobs/x\nX-Pilotlight-Model: m":                                                true,
		"POST /upstream/m/upload/image\nContent-Type: image/png":                                  true,
		"POST /upload?model=m\nContent-Type: application/octet-stream":                            true,
		"POST /upload\nContent-Type: application/octet-stream":                                    false,
		"POST /upload?model=m\nContent-Type: application/json":                                    false, // the body's counts
		"POST /upstream/m/v1/chat/completions\nContent-Type: application/json":                    false, // it may ask for a stream
		"POST /v1/audio/transcriptions\nX-Pilotlight-Model: m\nContent-Type: multipart/form-data": false, // it may name it too
		"POST /upstream/m/v1/embeddings":                                                          false, // likely JSON
		"POST /v1/chat/completions\nContent-Type: application/json":                               false,
		"POST /upstream/m/v2/models/n/infer\nContent-Type: application/json":                      true,
		"POST /v2/repository/index\nContent-Type: application/json":                               false,
	} {
		if got := request(t, head, "").namedWithoutBody(); got != want {
			t.Errorf("%q: %v", head, got)
		}
	}
}
