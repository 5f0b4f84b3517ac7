package main

import (
	"bufio"
	"encoding/json"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"sync/atomic"
	"time"
)

// answer is what the model server says to whoever asks for its model.
type answer struct {
	AddedNS int64 `json:"added_ns"` // from its readiness to the first byte of the request
}

// modelServer is a model server that takes a while to be ready. It speaks HTTP on bare connections, so that the moment at
// which a request's first byte arrives is not that at which some library has read its header.
type modelServer struct {
	ready atomic.Pointer[time.Time] // since when it can answer; nil: it cannot
}

// server is a model server on a port that is ready some time after its start: PORT AFTER OPENS. It ends by itself after some
// minutes, so that nothing remains of a run that was killed.
func server(args []string) error {
	started := time.Now()
	if len(args) != 3 {
		return fmt.Errorf("usage: benchwake server PORT AFTER OPENS")
	}
	after, err := time.ParseDuration(args[1])
	if err != nil {
		return err
	}
	time.AfterFunc(5*time.Minute, func() { os.Exit(0) })
	var s modelServer
	if until := time.Until(started.Add(after)); port(args[2]) == whenReady {
		time.Sleep(until)
		s.becomeReady()
	} else {
		time.AfterFunc(until, s.becomeReady)
	}
	ln, err := net.Listen("tcp", "127.0.0.1:"+args[0])
	if err != nil {
		return err
	}
	for {
		conn, err := ln.Accept()
		if err != nil {
			return err
		}
		go s.serve(conn) // until the client closes it; the process ends them all
	}
}

func (s *modelServer) becomeReady() {
	now := time.Now()
	s.ready.Store(&now)
}

// serve answers the requests of one connection: /health, and everything else with how long it was ready before.
func (s *modelServer) serve(conn net.Conn) {
	defer conn.Close()
	in := bufio.NewReader(conn)
	for {
		if _, err := in.Peek(1); err != nil {
			return
		}
		arrived := time.Now()
		r, err := http.ReadRequest(in)
		if err != nil {
			return
		}
		if _, err := io.Copy(io.Discard, r.Body); err != nil {
			return
		}
		status, body := http.StatusServiceUnavailable, []byte("loading")
		if since := s.ready.Load(); since != nil {
			status = http.StatusOK
			if body, err = json.Marshal(answer{int64(arrived.Sub(*since))}); err != nil {
				return
			}
		}
		if _, err := fmt.Fprintf(conn, "HTTP/1.1 %d %s\r\nContent-Type: application/json\r\nContent-Length: %d\r\n\r\n%s",
			status, http.StatusText(status), len(body), body); err != nil {
			return
		}
	}
}
