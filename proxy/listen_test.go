package proxy

import (
	"bufio"
	"io"
	"net"
	"net/netip"
	"testing"

	"github.com/prometheus/client_golang/prometheus/testutil"

	"pilotlight/config"
)

func TestConnectionsAreCountedByAddress(t *testing.T) {
	for remote, want := range map[string]string{
		"10.0.0.7:1234":            "10.0.0.7",
		"[::ffff:10.0.0.7]:1":      "10.0.0.7",
		"[2001:db8:1:2:3:4:5:6]:1": "2001:db8:1:2::/64",
		"[2001:db8:1:2:ffff::1]:1": "2001:db8:1:2::/64",
		"[fe80::1%eth0]:1":         "fe80::/64",
		"127.0.0.1:1":              "",
		"[::1]:1":                  "",
		"[::ffff:127.0.0.1]:1":     "",
		"pipe":                     "",
		"@":                        "",
	} {
		if got := addressOf(&net.UnixAddr{Name: remote, Net: "any"}); got != want {
			t.Errorf("%s is counted under %q, want %q", remote, got, want)
		}
	}
}

// from has connections come from addresses of the test's choice, one after the other.
type from struct {
	net.Listener
	addrs chan string
}

type fromConn struct {
	*net.TCPConn
	remote net.Addr
}

func (l from) Accept() (net.Conn, error) {
	c, err := l.Listener.Accept()
	if err != nil {
		return nil, err
	}
	return fromConn{c.(*net.TCPConn), net.TCPAddrFromAddrPort(netip.MustParseAddrPort(<-l.addrs))}, nil
}

func (c fromConn) RemoteAddr() net.Addr { return c.remote }

func TestOneAddressCannotTakeAllConnections(t *testing.T) {
	addrs := make(chan string, 10)
	r := realOn(t, func(ln net.Listener) net.Listener { return from{ln, addrs} }, answers(t, ok),
		withLimits(func(l *config.Limits) { l.ConnectionsPerAddress = 2 }))
	ask := func(from string) (c net.Conn, status int) {
		addrs <- from
		c = r.dial()
		go io.WriteString(c, post(""))
		resp, _ := hear(t, bufio.NewReader(c))
		return c, resp.StatusCode
	}
	first, _ := ask("10.0.0.1:1")
	for _, test := range []struct {
		from string
		want int
	}{{"10.0.0.1:2", 200}, {"10.0.0.1:3", 429}, {"10.0.0.2:1", 200}, {"127.0.0.1:1", 200}, {"127.0.0.1:2", 200}, {"127.0.0.1:3", 200}} {
		if _, got := ask(test.from); got != test.want {
			t.Errorf("%s got %d, want %d", test.from, got, test.want)
		}
	}
	if got := testutil.ToFloat64(r.edge.metrics.turnedAway.WithLabelValues("address")); got != 1 {
		t.Errorf("%v connections were turned away, want 1", got)
	}
	first.Close()
	until(t, "the place is free again", func() bool {
		_, got := ask("10.0.0.1:4")
		return got == 200
	})
}

func TestAConnectionEndsAfterSoManyRequests(t *testing.T) {
	r := real(t, answers(t, ok), withLimits(func(l *config.Limits) { l.RequestsPerConnection = 3 }))
	c := r.dial()
	for i := range 3 {
		if resp, _ := say(t, c, post("")); resp.Close != (i == 2) {
			t.Errorf("answer %d: close is %v", i, resp.Close)
		}
	}
	if _, err := c.Read(make([]byte, 1)); err != io.EOF {
		t.Errorf("then %v, want EOF", err)
	}
}
