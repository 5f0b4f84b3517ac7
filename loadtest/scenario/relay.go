package scenario

import (
	"context"
	"io"
	"net"
	"sync"
	"time"
)

// relay stands between edges and an agent, so that their link can be dropped.
type relay struct {
	addr string
	to   string

	mu       sync.Mutex // guards what follows
	listener net.Listener
	conns    map[net.Conn]bool
	dropped  bool
}

// newRelay listens on addr and passes on what comes.
func newRelay(addr, to string) (*relay, error) {
	r := &relay{addr: addr, to: to, conns: map[net.Conn]bool{}}
	return r, r.open()
}

// open listens, for the first time or again. As long as it does not, whoever connects is refused, as he is when there is no agent.
func (r *relay) open() error {
	listener, err := net.Listen("tcp", r.addr)
	if err != nil {
		return err
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	r.listener = listener
	go r.serve(listener)
	return nil
}

// close refuses everybody, as the port of an agent that has ended does.
func (r *relay) close() {
	r.mu.Lock()
	defer r.mu.Unlock()
	_ = r.listener.Close()
	r.cut()
}

// drop cuts off what there is, and lets nothing pass until restore: connections are accepted, and nothing is heard.
func (r *relay) drop() {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.dropped = true
	r.cut()
}

func (r *relay) restore() {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.dropped = false
	r.cut() // who waited in vain begins afresh
}

// cut closes all connections. r.mu is held.
func (r *relay) cut() {
	for c := range r.conns {
		_ = c.Close()
	}
	clear(r.conns)
}

func (r *relay) serve(listener net.Listener) {
	for {
		client, err := listener.Accept()
		if err != nil {
			return
		}
		if r.keep(client) {
			go r.pass(client)
		}
	}
}

// keep notes a connection. It says whether something may pass.
func (r *relay) keep(c net.Conn) bool {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.conns[c] = true
	return !r.dropped
}

// pass copies both ways until one side ends.
func (r *relay) pass(client net.Conn) {
	defer r.forget(client)
	d := net.Dialer{Timeout: time.Second}
	server, err := d.DialContext(context.Background(), "tcp", r.to) // cut ends it with its client
	if err != nil {
		return
	}
	defer r.forget(server)
	if !r.keep(server) {
		return
	}
	both := make(chan struct{}, 2)
	for _, way := range [][2]net.Conn{{client, server}, {server, client}} {
		go func() {
			_, _ = io.Copy(way[1], way[0])
			both <- struct{}{}
		}()
	}
	<-both
}

func (r *relay) forget(c net.Conn) {
	r.mu.Lock()
	defer r.mu.Unlock()
	delete(r.conns, c)
	_ = c.Close()
}
