package proxy

import (
	"bufio"
	"io"
	"net"
	"strings"
	"testing"

	"pilotlight/config"
)

func TestTheClientIsTheLastAddressThatIsNotTrusted(t *testing.T) {
	trusted := networksOf([]config.Network{"10.0.0.0/8", "192.0.2.7/32", "fd00::/8"})
	const peer = "10.0.0.1"
	for chain, want := range map[string]string{
		"":                                peer,
		"203.0.113.5":                     "203.0.113.5",
		"6.6.6.6, 203.0.113.5":            "203.0.113.5",
		"6.6.6.6,203.0.113.5, 10.9.9.9":   "203.0.113.5",
		"203.0.113.5, 192.0.2.7,10.1.1.1": "203.0.113.5",
		"192.0.2.8, 192.0.2.7":            "192.0.2.8",
		"10.2.2.2, 10.1.1.1":              "10.2.2.2",
		"203.0.113.5, unknown, 10.1.1.1":  "10.1.1.1",
		"203.0.113.5, unknown":            peer,
		"203.0.113.5,":                    peer,
		"203.0.113.5:1234":                "203.0.113.5",
		"[2001:db8::5]:1234":              "2001:db8::5",
		"[2001:db8::5]":                   "2001:db8::5",
		"2001:db8::5, fd00::1":            "2001:db8::5",
		"fe80::1%eth0":                    "fe80::1",
		"::ffff:203.0.113.5":              "203.0.113.5",
		"::ffff:10.1.1.1":                 "10.1.1.1",
		"203.0.113.5\r\nX-forwarded-for: 203.0.113.6\r\nX-Forwarded-For: 10.1.1.1": "203.0.113.6",
	} {
		var h head
		if err := h.scan([]byte("X-Forwarded-For: " + chain + "\r\n\r\n")); err != nil {
			t.Fatal(err)
		}
		if got := trusted.client(&h, peer); got != want {
			t.Errorf("%q is from %s, want %s", chain, got, want)
		}
	}
}

func TestWhoIsTrusted(t *testing.T) {
	trusted := networksOf([]config.Network{"10.0.0.0/8", "fd00::/8"})
	at := func(ip string) net.Addr { return &net.TCPAddr{IP: net.ParseIP(ip), Port: 1} }
	for ip, want := range map[string]bool{"10.0.0.1": true, "::ffff:10.0.0.1": true, "fd00::1": true, "11.0.0.1": false, "::1": false} {
		if got := trusted.trust(at(ip)); got != want {
			t.Errorf("%s is trusted: %v, want %v", ip, got, want)
		}
	}
	if trusted.trust(&net.UnixAddr{Name: "10.0.0.1"}) || networksOf(nil).trust(at("10.0.0.1")) {
		t.Error("what is no address is trusted, or somebody without trusted networks")
	}
}

func TestWhatIsSaidOfWhoForwardedARequest(t *testing.T) {
	const said = "X-Forwarded-For: 6.6.6.6\r\nx-forwarded-for: 203.0.113.5\r\nX-Forwarded-Proto: https\r\nX-Forwarded-Port: 443\r\n" +
		"Forwarded: for=203.0.113.5\r\nX_Forwarded_For: 7.7.7.7\r\n"
	for name, test := range map[string]struct {
		trusted      []config.Network
		send         string
		want, client string
	}{
		"by anybody": {
			nil, said,
			"X-Forwarded-Host: e\r\nX-Forwarded-For: 127.0.0.1\r\nX-Forwarded-Proto: http\r\n", "127.0.0.1",
		},
		"by somebody else than is trusted": {
			[]config.Network{"10.0.0.0/8"},
			said,
			"X-Forwarded-Host: e\r\nX-Forwarded-For: 127.0.0.1\r\nX-Forwarded-Proto: http\r\n", "127.0.0.1",
		},
		"by a trusted proxy": {
			[]config.Network{"127.0.0.0/8"},
			said,
			"X-Forwarded-Proto: https\r\nX-Forwarded-Port: 443\r\nForwarded: for=203.0.113.5\r\n" +
				"X-Forwarded-Host: e\r\nX-Forwarded-For: 6.6.6.6, 203.0.113.5, 127.0.0.1\r\n", "203.0.113.5",
		},
		"by a trusted proxy that says nothing": {
			[]config.Network{"127.0.0.1/32"},
			"",
			"X-Forwarded-Host: e\r\nX-Forwarded-For: 127.0.0.1\r\nX-Forwarded-Proto: http\r\n", "127.0.0.1",
		},
		"by a trusted proxy that was asked for another host": {
			[]config.Network{"127.0.0.1/32"},
			"X-Forwarded-Host: api.example\r\n",
			"X-Forwarded-Host: api.example\r\nX-Forwarded-For: 127.0.0.1\r\nX-Forwarded-Proto: http\r\n", "127.0.0.1",
		},
	} {
		t.Run(name, func(t *testing.T) {
			seen := make(chan string, 1)
			r := real(t, backend(t, func(c net.Conn, in *bufio.Reader, _ int) {
				var head strings.Builder
				for !strings.HasSuffix(head.String(), "\r\n\r\n") {
					line, err := in.ReadString('\n')
					if err != nil {
						return
					}
					head.WriteString(line)
				}
				seen <- head.String()
				io.WriteString(c, ok)
			}), func(_ *rig, o *Options) { o.Trusted = test.trusted })
			say(t, r.dial(), "GET /upstream/m/x HTTP/1.1\r\nHost: e\r\n"+test.send+"\r\n")
			if got, want := within(t, seen), "GET /x HTTP/1.1\r\nHost: e\r\n"+test.want+"\r\n"; got != want {
				t.Errorf("the backend got\n%q, want\n%q", got, want)
			}
			if v := r.last(1); v.Client != test.client {
				t.Errorf("the client is %s, want %s", v.Client, test.client)
			}
		})
	}
}
