package proxy

import (
	"bufio"
	"context"
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

// impatient bounds answers: 10 s to the first byte, 5 s between two, a minute in all.
func impatient(m *config.Model) {
	m.Answer = config.Answer{FirstByte: config.Duration(10 * time.Second), BetweenBytes: config.Duration(5 * time.Second), Total: config.Duration(time.Minute)}
}

func TestABackendThatDoesNotBeginIsGivenUp(t *testing.T) {
	for name, serve := range map[string]func(c net.Conn, in *bufio.Reader){
		"it says nothing":  func(_ net.Conn, in *bufio.Reader) { readRequest(in); in.ReadByte() },
		"it reads nothing": func(c net.Conn, in *bufio.Reader) { time.Sleep(time.Minute) },
		"it begins to begin": func(c net.Conn, in *bufio.Reader) {
			readRequest(in)
			io.WriteString(c, "HTTP/1.1 200 OK\r\nX: ")
			in.ReadByte()
		},
		"it says 102 and naught": func(c net.Conn, in *bufio.Reader) {
			readRequest(in)
			io.WriteString(c, "HTTP/1.1 102 Processing\r\n\r\n")
			in.ReadByte()
		},
		"it trickles": func(c net.Conn, in *bufio.Reader) {
			readRequest(in)
			for _, b := range []byte("HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\n{}") {
				time.Sleep(time.Second)
				if _, err := c.Write([]byte{b}); err != nil {
					return
				}
			}
		},
		"it was in use before": func(c net.Conn, in *bufio.Reader) {
			readRequest(in)
			io.WriteString(c, ok)
			if req := readRequest(in); req != nil {
				in.ReadByte()
			}
		},
	} {
		synctest.Test(t, func(t *testing.T) {
			connections := 0
			dial, wait := piped(func(c net.Conn, in *bufio.Reader) {
				connections++
				serve(c, in)
			})
			r := memory(t, nil, dial, withModel(impatient))
			r.ready(1, "there")
			c := r.dial()
			visits := 1
			if strings.Contains(name, "before") {
				say(t, c, post(""))
				time.Sleep(8 * time.Second)
				visits = 2
			}
			began := time.Now()
			resp, body := say(t, c, post(`,"messages":"`+strings.Repeat("x", 100_000)+`"`)) // more than one write
			if resp.StatusCode != 504 || !strings.Contains(body, `"message":"backend m-0 did not answer in time"`) || time.Since(began) != 10*time.Second {
				t.Errorf("%s: got %d %q after %v", name, resp.StatusCode, body, time.Since(began))
			}
			synctest.Wait()
			if v := r.last(visits); v.Outcome != router.Broken || v.Status != 504 || !strings.Contains(v.Reason, "answer.first_byte is 10s") || connections != 1 {
				t.Errorf("%s: recorded %+v after %d connections", name, v, connections)
			}
			if use := r.router.Use("m-0"); use.InFlight != 0 {
				t.Errorf("%s: the slot is not free", name)
			}
			c.Close()
			wait()
			r.end()
		})
	}
}

func TestAnAnswerThatIsSilentForTooLongBreaksOff(t *testing.T) {
	for name, test := range map[string]struct {
		every time.Duration
		want  time.Duration
		why   string
	}{
		"it stops":            {time.Hour, 5 * time.Second, "answer.between_bytes is 5s"},
		"it goes on for ever": {4 * time.Second, time.Minute, "answer.total is 1m"},
	} {
		synctest.Test(t, func(t *testing.T) {
			dial, wait := piped(func(c net.Conn, in *bufio.Reader) {
				readRequest(in)
				io.WriteString(c, "HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\nTransfer-Encoding: chunked\r\n\r\n")
				for {
					if _, err := io.WriteString(c, "1\r\nx\r\n"); err != nil {
						return
					}
					time.Sleep(test.every)
				}
			})
			r := memory(t, nil, dial, withModel(impatient))
			r.ready(1, "there")
			c := r.dial()
			began := time.Now()
			io.WriteString(c, post(`,"stream":true`))
			resp, err := http.ReadResponse(bufio.NewReader(c), nil)
			if err != nil {
				t.Fatal(err)
			}
			if body, err := io.ReadAll(resp.Body); err != io.ErrUnexpectedEOF || time.Since(began) != test.want {
				t.Errorf("%s: got %q, %v after %v", name, body, err, time.Since(began))
			}
			synctest.Wait()
			if v := r.last(1); v.Outcome != router.Broken || !strings.Contains(v.Reason, test.why) {
				t.Errorf("%s: recorded %+v", name, v)
			}
			wait()
			r.end()
		})
	}
}

func TestSlowAnswersWithinTheLimitsPass(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		dial, wait := piped(func(c net.Conn, in *bufio.Reader) {
			for readRequest(in) != nil {
				time.Sleep(9 * time.Second) // longer than what the connection's alarm is set to at times
				io.WriteString(c, "HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\n{")
				time.Sleep(4 * time.Second)
				io.WriteString(c, "}")
			}
		})
		r := memory(t, nil, dial, withModel(impatient))
		r.ready(1, "there")
		c := r.dial()
		for i := range 20 {
			if resp, body := say(t, c, post("")); resp.StatusCode != 200 || body != "{}" {
				t.Errorf("answer %d: %d %q", i, resp.StatusCode, body)
			}
			time.Sleep(time.Duration(i) * time.Second)
		}
		c.Close()
		r.end()
		wait()
	})
}

func TestADepartureIsNotTakenForASlowBackend(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		dial, wait := piped(func(c net.Conn, in *bufio.Reader) {
			readRequest(in)
			io.WriteString(c, "HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\n{")
			in.ReadByte()
		})
		r := memory(t, nil, dial, withModel(impatient))
		r.ready(1, "there")
		c := r.dial()
		io.WriteString(c, post(""))
		c.Read(make([]byte, 100))
		time.Sleep(3 * time.Second)
		c.Close()
		wait()
		synctest.Wait()
		if v := r.last(1); v.Outcome != router.Left || v.Total != 3*time.Second {
			t.Errorf("recorded %+v", v)
		}
		r.end()
	})
}

func TestAGivenUpBackendIsAnEventAfterHeartbeats(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		dial, wait := piped(func(_ net.Conn, in *bufio.Reader) { readRequest(in); in.ReadByte() })
		r := memory(t, nil, dial, withModel(impatient), withModel(heartbeats))
		r.asleep()
		c := r.dial()
		io.WriteString(c, post(`,"stream":true`))
		time.Sleep(15 * time.Second)
		r.ready(1, "there")
		if _, body := hear(t, bufio.NewReader(c)); !strings.Contains(body, `data: {"error":{"message":"backend m-0 did not answer in time"`) {
			t.Errorf("got %q", body)
		}
		c.Close()
		wait()
		r.end()
	})
}

func TestConnectingHasItsOwnLimit(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var tries []time.Duration
		dial := withDial(func(ctx context.Context, _ string) (net.Conn, error) {
			began := time.Now()
			<-ctx.Done()
			tries = append(tries, time.Since(began))
			return nil, ctx.Err()
		})
		r := memory(t, nil, dial, withModel(func(m *config.Model) {
			m.Backends = []config.Backend{{Name: "m-0", ConnectTime: config.Duration(2 * time.Second)}}
		}))
		r.ready(1, "there")
		c := r.dial()
		resp, body := say(t, c, post(""))
		if resp.StatusCode != 502 || !strings.Contains(body, "cannot be reached") {
			t.Errorf("got %d %q", resp.StatusCode, body)
		}
		for _, took := range tries {
			if took != 2*time.Second {
				t.Errorf("tries took %v", tries)
			}
		}
		c.Close()
		r.end()
	})
}

func TestATrickleOfARequestIsCutOff(t *testing.T) { // slowloris
	head := "POST /v1/x HTTP/1.1\r\nHost: e\r\n"
	for name, test := range map[string]struct {
		at   string // sent at once
		slow string // again and again, once a second
		want time.Duration
	}{
		"in the header":    {"P", "P", 10 * time.Second},
		"in a field":       {head + "X: ", "y", 10 * time.Second},
		"in fields":        {head, "X: y\r\n", 10 * time.Second},
		"in the body":      {head + "Content-Length: 1000\r\n\r\n", "z", time.Minute},
		"in a chunk":       {head + "Transfer-Encoding: chunked\r\n\r\n3e8\r\n", "z", time.Minute},
		"in chunks":        {head + "Transfer-Encoding: chunked\r\n\r\n", "1\r\nz\r\n", time.Minute},
		"in a later one's": {"GET /healthz HTTP/1.1\r\nHost: e\r\n\r\n" + head, "X: y\r\n", 10 * time.Second},
	} {
		synctest.Test(t, func(t *testing.T) {
			r := memory(t, nil)
			c := r.dial()
			began := time.Now()
			done := make(chan struct{})
			go func() {
				defer close(done)
				for _, err := io.WriteString(c, test.at); err == nil; _, err = io.WriteString(c, test.slow) {
					time.Sleep(time.Second)
				}
			}()
			b, _ := io.ReadAll(c)
			if !strings.Contains(string(b), "HTTP/1.1 408 ") || time.Since(began) != test.want {
				t.Errorf("%s: got %q after %v", name, b, time.Since(began))
			}
			c.Close()
			<-done
			r.end()
		})
	}
}
