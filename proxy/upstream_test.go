package proxy

import (
	"bufio"
	"crypto/tls"
	"io"
	"net"
	"strings"
	"sync/atomic"
	"testing"

	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials"

	"pilotlight/config"
	"pilotlight/router"
)

// behindTLS has backends spoken to over TLS.
func behindTLS(c config.BackendTLS) rigOption {
	return withModel(func(m *config.Model) {
		if len(m.Backends) == 0 {
			m.Backends = []config.Backend{{Name: "m-0", ConnectTime: config.Duration(patience)}}
		}
		m.Backends[0].TLS = &c
	})
}

// tlsBackend is a scripted backend that speaks TLS, by a certificate for the name edge, and wants one.
func tlsBackend(t *testing.T, a *authority, serve func(c net.Conn, in *bufio.Reader, number int)) string {
	a.sign(t, "edge", 2)
	c := a.trust("edge")
	c.ClientCAs, c.ClientAuth = c.RootCAs, tls.RequireAndVerifyClientCert
	ln, err := tls.Listen("tcp", "127.0.0.1:0", c)
	if err != nil {
		t.Fatal(err)
	}
	serveBackend(t, ln, serve)
	return ln.Addr().String()
}

func TestBackendsThatSpeakTLS(t *testing.T) {
	a, stranger := newAuthority(t), newAuthority(t)
	a.sign(t, "us", 3)
	var conns atomic.Int32
	addr := tlsBackend(t, a, func(c net.Conn, in *bufio.Reader, _ int) {
		for readRequest(in) != nil {
			io.WriteString(c, "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n3\r\nabc\r\n")
			io.WriteString(c, "0\r\n\r\n")
		}
		conns.Add(1)
	})
	good := config.BackendTLS{CA: a.file("ca.pem"), ServerName: "edge", Cert: a.file("us.pem"), Key: a.file("us.key")}
	r := real(t, addr, behindTLS(good))
	c := r.dial()
	for range 3 {
		if resp, body := say(t, c, post("")); resp.StatusCode != 200 || body != "abc" {
			t.Errorf("got %d %q", resp.StatusCode, body)
		}
	}
	if got := conns.Load(); got != 0 {
		t.Errorf("%d connections ended, want one that is kept", got)
	}

	for name, wrong := range map[string]func(*config.BackendTLS){
		"another authority": func(c *config.BackendTLS) { c.CA = stranger.file("ca.pem") },
		"another name":      func(c *config.BackendTLS) { c.ServerName = "elsewhere" },
		"no such file":      func(c *config.BackendTLS) { c.CA = a.file("nowhere") },
	} {
		bad := good
		wrong(&bad)
		r := real(t, addr, behindTLS(bad))
		if resp, body := say(t, r.dial(), post("")); resp.StatusCode != 502 || !strings.Contains(body, "cannot be reached") {
			t.Errorf("%s: got %d %q", name, resp.StatusCode, body)
		}
		r.idle()
	}
	byAddress := good
	byAddress.ServerName = "" // 127.0.0.1 is in the certificate, too
	if resp, _ := say(t, real(t, addr, behindTLS(byAddress)).dial(), post("")); resp.StatusCode != 200 {
		t.Errorf("got %d", resp.StatusCode)
	}
}

func TestDeparturesReachBackendsThatSpeakTLS(t *testing.T) {
	a := newAuthority(t)
	ended := make(chan struct{})
	addr := tlsBackend(t, a, func(c net.Conn, in *bufio.Reader, number int) {
		readRequest(in)
		if number == 0 {
			io.WriteString(c, "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n3\r\nabc\r\n")
			eventually(in, ended)
			return
		}
		io.WriteString(c, ok) // and the connection ends
	})
	r := real(t, addr, behindTLS(config.BackendTLS{CA: a.file("ca.pem"), Cert: a.file("edge.pem"), Key: a.file("edge.key")}))
	c := r.dial()
	io.WriteString(c, post(""))
	if _, err := c.Read(make([]byte, 1)); err != nil {
		t.Fatal(err)
	}
	c.Close()
	within(t, ended)
	if v := r.last(1); v.Outcome != router.Left {
		t.Errorf("outcome %v, want left", v.Outcome)
	}
	say(t, r.dial(), post(""))
	until(t, "a connection that its backend closed is forgotten", func() bool {
		p := &r.edge.upstreams
		p.mu.Lock()
		defer p.mu.Unlock()
		return len(p.stack) == 0
	})
}

func TestCallsToBackendsThatSpeakTLS(t *testing.T) {
	a := newAuthority(t)
	a.sign(t, "edge", 2)
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	g := newGRPCRig(t, withGRPC(ln.Addr().String()), behindTLS(config.BackendTLS{CA: a.file("ca.pem")}))
	server := g.protocol.NewServer("served", nil, grpc.Creds(credentials.NewTLS(a.trust("edge"))))
	done := make(chan error, 1)
	go func() { done <- server.Serve(ln) }()
	t.Cleanup(func() { server.Stop(); within(t, done) })
	if got, err := g.infer(t.Context(), "m", "hello"); got != "HELLO" || err != nil {
		t.Errorf("got %q, %v", got, err)
	}
}
