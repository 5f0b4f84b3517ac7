package proxy

import (
	"bufio"
	"io"
	"net"
	"runtime"
	"strings"
	"testing"

	"pilotlight/config"
)

// BenchmarkEdge is the whole edge over loopback sockets, in front of a backend that does nothing but answer. Client and
// backend are in the figures too, but they do not allocate.
func BenchmarkEdge(b *testing.B) {
	answer := []byte("HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nContent-Length: 1024\r\n\r\n" + strings.Repeat("x", 1024))
	request := []byte(post(`,"messages":[{"role":"user","content":"hello"}]`))
	ln := listen(b)
	go func() {
		for {
			c, err := ln.Accept()
			if err != nil {
				return
			}
			go func() {
				defer c.Close()
				buf := make([]byte, 4096)
				for {
					if _, err := c.Read(buf); err != nil { // one write of the edge is one read
						return
					}
					c.Write(answer)
				}
			}()
		}
	}()
	r := benchEdge(b, ln.Addr().String())
	b.ReportAllocs()
	b.SetParallelism(8)
	b.RunParallel(func(pb *testing.PB) {
		c, err := net.Dial("tcp", r.addr)
		if err != nil {
			b.Error(err)
			return
		}
		defer c.Close()
		buf := make([]byte, len(answer))
		for pb.Next() {
			c.Write(request)
			if _, err := io.ReadFull(c, buf); err != nil {
				b.Error(err)
				return
			}
		}
	})
}

// BenchmarkRefusal is a request over a loopback socket that finds the line full.
func BenchmarkRefusal(b *testing.B) {
	ln := listen(b)
	r := start(b, ln, 0, withModel(func(m *config.Model) { m.Line.Requests = 0 }))
	b.Cleanup(func() {
		r.stop()
		<-r.served
		r.router.Close()
	})
	r.asleep()
	c, err := net.Dial("tcp", ln.Addr().String())
	if err != nil {
		b.Fatal(err)
	}
	defer c.Close()
	request, buf := []byte(post("")), make([]byte, 4096)
	b.ReportAllocs()
	for b.Loop() {
		c.Write(request)
		if n, err := c.Read(buf); err != nil || string(buf[:12]) != "HTTP/1.1 429" {
			b.Fatalf("got %q, %v", buf[:n], err)
		}
	}
}

// BenchmarkIdleStream says what a stream costs in memory while nothing flows. Its two peers are part of it: see the
// sockets of the benchmark itself.
func BenchmarkIdleStream(b *testing.B) {
	ln := listen(b)
	go func() {
		for {
			c, err := ln.Accept()
			if err != nil {
				return
			}
			in := bufio.NewReader(c)
			readRequest(in)
			io.WriteString(c, "HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\nTransfer-Encoding: chunked\r\n\r\n")
			b.Cleanup(func() { c.Close() })
		}
	}()
	r := benchEdge(b, ln.Addr().String())
	const streams = 1000
	for b.Loop() {
		before := inUse()
		for range streams {
			c, err := net.Dial("tcp", r.addr)
			if err != nil {
				b.Fatal(err)
			}
			io.WriteString(c, post(`,"stream":true`))
			if _, err := c.Read(make([]byte, 1)); err != nil {
				b.Fatal(err)
			}
			b.Cleanup(func() { c.Close() })
		}
		b.ReportMetric(float64(inUse()-before)/streams/1024, "KiB/stream")
	}
}

func inUse() int64 {
	runtime.GC()
	runtime.GC()
	var m runtime.MemStats
	runtime.ReadMemStats(&m)
	return int64(m.HeapAlloc + m.StackInuse)
}

func listen(b *testing.B) net.Listener {
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		b.Fatal(err)
	}
	b.Cleanup(func() { ln.Close() })
	return ln
}

func benchEdge(b *testing.B, backend string) *rig {
	ln := listen(b)
	r := start(b, ln, 0, withLimits(func(l *config.Limits) { l.Connections = 100000 }))
	r.addr = ln.Addr().String()
	r.ready(100000, backend)
	b.Cleanup(func() {
		r.stop()
		<-r.served
		r.router.Close()
	})
	return r
}
