package main

import (
	"bufio"
	"bytes"
	"context"
	"io"
	"net"
	"sync"
	"time"
)

// server is the model server. It reads at all times, so that it sees the end of a connection at once.
type server struct {
	addr  string
	every time.Duration

	mu    sync.Mutex // guards tries
	tries map[int]*try
}

// try is a request whose client will leave.
type try struct {
	came  chan struct{}  // closed when it has come
	ended chan time.Time // capacity 1: when its connection ended
}

func startServer(ctx context.Context, every time.Duration) (*server, error) {
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		return nil, err
	}
	s := &server{addr: ln.Addr().String(), every: every, tries: map[int]*try{}}
	context.AfterFunc(ctx, func() { ln.Close() })
	go func() { // until ctx ends, with which the program ends too
		for {
			conn, err := ln.Accept()
			if err != nil {
				return
			}
			go s.serve(conn)
		}
	}()
	return s, nil
}

func (s *server) expect(id int) *try {
	t := &try{came: make(chan struct{}), ended: make(chan time.Time, 1)}
	s.mu.Lock()
	defer s.mu.Unlock()
	s.tries[id] = t
	return t
}

func (s *server) forget(id int) {
	s.mu.Lock()
	defer s.mu.Unlock()
	delete(s.tries, id)
}

func (s *server) find(id int) *try {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.tries[id]
}

const (
	head  = "HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\nTransfer-Encoding: chunked\r\n\r\n"
	event = "d\r\ndata: token\n\n\r\n"
)

// serve answers one request with a stream, or not at all, and reads until the connection ends.
func (s *server) serve(conn net.Conn) {
	defer conn.Close()
	in := bufio.NewReaderSize(conn, 4<<10)
	id, what, err := readHead(in)
	if err != nil {
		return
	}
	switch what {
	case "": // a probe
		io.WriteString(conn, "HTTP/1.1 200 OK\r\nContent-Length: 0\r\nConnection: close\r\n\r\n")
		return
	case "background":
		io.WriteString(conn, head+event)
		if s.every > 0 {
			defer s.tick(conn)()
		}
	case "stream":
		io.WriteString(conn, head+event)
	}
	t := s.find(id)
	if t != nil {
		close(t.came)
	}
	io.Copy(io.Discard, in) // how it ends does not matter
	if t != nil {
		t.ended <- time.Now()
	}
}

// tick writes an event now and then until it is stopped.
func (s *server) tick(conn net.Conn) (stop func()) {
	var mu sync.Mutex
	var timer *time.Timer
	over := false
	mu.Lock()
	defer mu.Unlock()
	timer = time.AfterFunc(s.every, func() {
		mu.Lock()
		defer mu.Unlock()
		if _, err := io.WriteString(conn, event); err == nil && !over {
			timer.Reset(s.every)
		}
	})
	return func() {
		mu.Lock()
		defer mu.Unlock()
		over = true
		timer.Stop()
	}
}

// readHead reads a request's head.
func readHead(in *bufio.Reader) (id int, what string, err error) {
	for {
		line, err := in.ReadSlice('\n')
		if err != nil || len(line) <= 2 {
			return id, what, err
		}
		name, value, _ := bytes.Cut(line, []byte(":"))
		switch string(name) {
		case "X-Try":
			id = number(value)
		case "X-What":
			what = string(bytes.TrimSpace(value))
		}
	}
}
