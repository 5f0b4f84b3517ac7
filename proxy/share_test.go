package proxy

import (
	"bufio"
	"io"
	"net"
	"net/http"
	"testing"
	"testing/synctest"
	"time"
)

func TestWhereAnotherEdgeTakesOverAClientIsToldBeforeItsConnectionCloses(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		ln, stop := memoryBackend(func(c net.Conn, in *bufio.Reader) {
			for readRequest(in) != nil {
				io.WriteString(c, ok)
			}
		})
		r := memory(t, ln, func(_ *rig, o *Options) { o.Shared = true })
		r.ready(8, "backend")
		idle, late, fresh := r.dial(), r.dial(), r.dial()
		say(t, idle, post(""))
		say(t, late, post(""))
		r.stop()
		began := time.Now()
		time.Sleep(courtesy - time.Millisecond)
		for name, c := range map[string]net.Conn{"that was kept": late, "that was new": fresh} {
			if resp, body := say(t, c, post("")); body != "{}" || !resp.Close {
				t.Errorf("the last request on a connection %s got %q; told that it closes: %t", name, body, resp.Close)
			}
			if _, err := c.Read(make([]byte, 1)); err != io.EOF {
				t.Errorf("the connection %s: %v, want EOF", name, err)
			}
		}
		if _, err := idle.Read(make([]byte, 1)); err != io.EOF || time.Since(began) < courtesy || time.Since(began) > 2*courtesy {
			t.Errorf("the connection that idles ended after %s with %v", time.Since(began), err)
		}
		stop()
		r.end()
	})
}

func TestWhereAnotherEdgeTakesOverHTTP2IsServedToTheLast(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		ln, stop := memoryBackend(func(c net.Conn, in *bufio.Reader) {
			for readRequest(in) != nil {
				io.WriteString(c, ok)
			}
		})
		r := memory(t, ln, func(_ *rig, o *Options) { o.Shared = true })
		r.ready(8, "backend")
		kept, began := over2(t, r.dial), r.dial()
		fresh := over2(t, func() net.Conn { return began })
		for _, client := range []*http.Client{kept, kept} {
			resp, err := ask2(t.Context(), t, client, "")
			hear2(t, resp, err)
		}
		r.stop()
		time.Sleep(courtesy / 2)
		for name, client := range map[string]*http.Client{"that was kept": kept, "that had only just begun": fresh} {
			resp, err := ask2(t.Context(), t, client, "")
			if _, body := hear2(t, resp, err); body != "{}" {
				t.Errorf("a request on a connection %s got %q", name, body)
			}
		}
		stopped := time.Now()
		if err := <-r.served; err != nil || time.Since(stopped) > 2*courtesy {
			t.Errorf("it stopped after %v with %v", time.Since(stopped), err)
		}
		r.served <- nil
		stop()
		r.end()
	})
}
