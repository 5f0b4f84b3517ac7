package proxy

import (
	"bufio"
	"io"
	"net"
	"testing"
	"testing/synctest"
	"time"

	"pilotlight/config"
	"pilotlight/router"
)

func TestAConnectionServesOnAfterStreams(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		connections := 0
		dial, wait := piped(func(c net.Conn, in *bufio.Reader) {
			connections++
			for readRequest(in) != nil {
				io.WriteString(c, "HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\nTransfer-Encoding: chunked\r\n\r\nb\r\ndata: one\n\n\r\n")
				time.Sleep(20 * time.Second)
				io.WriteString(c, "b\r\ndata: two\n\n\r\n0\r\n\r\n")
			}
		})
		r := memory(t, nil, dial, withLimits(func(l *config.Limits) { l.IdleTime = config.Duration(time.Minute) }))
		r.ready(1, "there")
		c := r.dial()
		for i := range 3 {
			if resp, body := say(t, c, post(`,"stream":true`)); resp.Close || body != "data: one\n\ndata: two\n\n" {
				t.Errorf("stream %d: %q, close is %v", i, body, resp.Close)
			}
			synctest.Wait()
			if v := r.last(i + 1); v.Outcome != router.OK || v.Total != 20*time.Second {
				t.Errorf("stream %d ended as %+v", i, v)
			}
		}
		idle := time.Now()
		if _, err := c.Read(make([]byte, 1)); err != io.EOF || time.Since(idle) != time.Minute {
			t.Errorf("after %v came %v, want the end of the connection after a minute", time.Since(idle), err)
		}
		if connections != 1 {
			t.Errorf("it took %d connections to the backend", connections)
		}
		r.end()
		wait()
	})
}
