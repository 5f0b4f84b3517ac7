package main

import (
	"bufio"
	"bytes"
	"context"
	"errors"
	"fmt"
	"net"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
)

// Clients and model server write ready-made bytes and read no more of a message than where it ends: what they spend is taken
// from the proxy on the same machine.

const question = `{"model":"m","messages":[{"role":"user","content":"Tell me about pilot lights."}]}`

func request(host string) []byte {
	return fmt.Appendf(nil, "POST /v1/chat/completions HTTP/1.1\r\nHost: %s\r\nContent-Type: application/json\r\n"+
		"User-Agent: benchedge\r\nAccept: */*\r\nContent-Length: %d\r\n\r\n%s", host, len(question), question)
}

// response has a body of 1 KiB.
func response() []byte {
	body := `{"choices":[{"message":{"role":"assistant","content":"` + strings.Repeat("x", 1024-58) + `"}}]}`
	return fmt.Appendf(nil, "HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nContent-Length: %d\r\n\r\n%s", len(body), body)
}

// clients ask as fast as they are answered.
type clients struct {
	served atomic.Int64
	cancel context.CancelFunc
	all    sync.WaitGroup

	mu  sync.Mutex // guards err
	err error
}

func startClients(ctx context.Context, addr string, n int) *clients {
	ctx, cancel := context.WithCancel(ctx)
	c := &clients{cancel: cancel}
	for range n {
		c.all.Go(func() {
			if err := c.ask(ctx, addr); err != nil && ctx.Err() == nil {
				c.mu.Lock()
				defer c.mu.Unlock()
				c.err = errors.Join(c.err, err)
			}
		})
	}
	return c
}

// stop returns what went wrong while they ran.
func (c *clients) stop() error {
	c.cancel()
	c.all.Wait()
	return c.err
}

// ask sends one request after the other on one connection until ctx ends.
func (c *clients) ask(ctx context.Context, addr string) error {
	var d net.Dialer
	conn, err := d.DialContext(ctx, "tcp", addr)
	if err != nil {
		return err
	}
	defer conn.Close()
	defer context.AfterFunc(ctx, func() { conn.Close() })()
	in, out := bufio.NewReader(conn), request(addr)
	for {
		if _, err := conn.Write(out); err != nil {
			return err
		}
		first, err := skip(in)
		if err != nil {
			return err
		}
		if !strings.Contains(first, " 200 ") {
			return fmt.Errorf("got %q, want status 200", first)
		}
		c.served.Add(1)
	}
}

// serveModel answers every request with the same response until ctx ends, and returns its address.
func serveModel(ctx context.Context) (addr string, err error) {
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		return "", err
	}
	context.AfterFunc(ctx, func() { ln.Close() })
	go func() { // until ctx ends, with which the program ends too
		for {
			conn, err := ln.Accept()
			if err != nil {
				return
			}
			go answer(conn)
		}
	}()
	return ln.Addr().String(), nil
}

// answer serves one connection until the proxy closes it.
func answer(conn net.Conn) {
	defer conn.Close()
	in, out := bufio.NewReader(conn), response()
	for {
		if _, err := skip(in); err != nil {
			return
		}
		if _, err := conn.Write(out); err != nil {
			return
		}
	}
}

// skip reads one message whose body, if any, has a Content-Length, and returns its first line.
func skip(in *bufio.Reader) (first string, err error) {
	length := 0
	for {
		line, err := in.ReadSlice('\n')
		if err != nil {
			return "", err
		}
		line = bytes.TrimRight(line, "\r\n")
		if first == "" {
			first = string(line)
			continue
		}
		if len(line) == 0 {
			_, err := in.Discard(length)
			return first, err
		}
		name, value, _ := bytes.Cut(line, []byte(":"))
		switch {
		case bytes.EqualFold(name, []byte("Content-Length")):
			if length, err = strconv.Atoi(string(bytes.TrimSpace(value))); err != nil {
				return "", err
			}
		case bytes.EqualFold(name, []byte("Transfer-Encoding")):
			return "", fmt.Errorf("got %q, want a Content-Length", line)
		}
	}
}
