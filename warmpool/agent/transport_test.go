package agent

import (
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/pem"
	"errors"
	"log/slog"
	"math/big"
	"net"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"pilotlight/config"
	"pilotlight/probe/meter"
	"pilotlight/router"
)

// authority signs certificates.
type authority struct {
	cert *x509.Certificate
	key  *ecdsa.PrivateKey
	file string
	dir  string
}

func newAuthority(t testing.TB) *authority {
	t.Helper()
	a := &authority{dir: t.TempDir()}
	a.cert = &x509.Certificate{
		SerialNumber: big.NewInt(1), Subject: pkix.Name{CommonName: "CA"}, NotAfter: time.Now().Add(time.Hour),
		IsCA: true, BasicConstraintsValid: true, KeyUsage: x509.KeyUsageCertSign,
	}
	a.file, _, a.key = a.sign(t, "ca", a.cert)
	return a
}

// sign makes a certificate, by itself if there is no key yet.
func (a *authority) sign(t testing.TB, name string, c *x509.Certificate) (certFile, keyFile string, key *ecdsa.PrivateKey) {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	signer := a.key
	if signer == nil {
		signer = key
	}
	der, err := x509.CreateCertificate(rand.Reader, c, a.cert, &key.PublicKey, signer)
	if err != nil {
		t.Fatal(err)
	}
	secret, err := x509.MarshalPKCS8PrivateKey(key)
	if err != nil {
		t.Fatal(err)
	}
	certFile, keyFile = filepath.Join(a.dir, name+".pem"), filepath.Join(a.dir, name+".key")
	for file, block := range map[string]*pem.Block{certFile: {Type: "CERTIFICATE", Bytes: der}, keyFile: {Type: "PRIVATE KEY", Bytes: secret}} {
		if err := os.WriteFile(file, pem.EncodeToMemory(block), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	return certFile, keyFile, key
}

// link is a configuration with a certificate for a host.
func (a *authority) link(t testing.TB, name string, ip net.IP) *config.Link {
	t.Helper()
	cert, key, _ := a.sign(t, name, &x509.Certificate{
		SerialNumber: big.NewInt(2), Subject: pkix.Name{CommonName: name}, NotAfter: time.Now().Add(time.Hour), IPAddresses: []net.IP{ip},
		ExtKeyUsage: []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth, x509.ExtKeyUsageClientAuth},
	})
	return &config.Link{Cert: cert, Key: key, CA: a.file}
}

// listen runs an agent on a real socket.
func listen(t testing.TB, link *config.Link) (h *Hub, addr string) {
	t.Helper()
	h = NewHub(Options{Node: config.Node{Name: "n"}, Models: testModels(), Log: slog.New(slog.DiscardHandler)})
	s, err := NewServer(h, link)
	if err != nil {
		t.Fatal(err)
	}
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	done := make(chan error, 1)
	go func() { done <- s.Serve(l) }()
	t.Cleanup(func() {
		s.Stop()
		if err := <-done; err != nil {
			t.Error(err)
		}
	})
	return h, l.Addr().String()
}

// hears is a fleet that hands on what it observes.
type hears struct{ nodes chan Node }

func (f *hears) Observe(n Node)                                 { f.nodes <- n }
func (*hears) Grant(string, router.Grant)                       {}
func (*hears) Read(string, router.Readings)                     {}
func (*hears) Metered(string, []meter.Settled, []meter.Account) {}

func (*hears) Use(string) router.Use { return router.Use{} }

// linkTo runs an edge with a link to an agent.
func linkTo(t testing.TB, addr string, link *config.Link) (*Links, *hears) {
	t.Helper()
	f := &hears{make(chan Node, 100)}
	l := NewLinks(Edge{ID: "e", Life: "1", Name: "e"}, f, Dialer(link), slog.New(slog.DiscardHandler))
	l.Set([]string{addr})
	ctx, stop := context.WithCancel(context.Background())
	done := make(chan error, 1)
	go func() { done <- l.Run(ctx) }()
	t.Cleanup(func() {
		stop()
		if err := <-done; err != nil {
			t.Error(err)
		}
	})
	return l, f
}

func TestEdgesAndAgentsSpeakByTLSInWhichBothShowACertificate(t *testing.T) {
	ours, others, loopback := newAuthority(t), newAuthority(t), net.IPv4(127, 0, 0, 1)
	_, addr := listen(t, ours.link(t, "agent", loopback))
	_, elsewhere := listen(t, ours.link(t, "elsewhere", net.IPv4(192, 0, 2, 1)))
	_, clear := listen(t, nil)
	good := ours.link(t, "edge", loopback)
	stranger := others.link(t, "edge", loopback)
	stranger.CA = ours.file
	for name, test := range map[string]struct {
		addr string
		link *config.Link
		want string // in the reason; empty: it is linked
	}{
		"both good":                             {addr, good, ""},
		"an edge in clear":                      {addr, nil, "link to"},
		"an edge that another authority signed": {addr, stranger, "unknown certificate authority"},
		"an agent with another host's name":     {elsewhere, good, "certificate is valid for 192.0.2.1, not 127.0.0.1"},
		"an agent in clear":                     {clear, good, "first record does not look like a TLS handshake"},
	} {
		t.Run(name, func(t *testing.T) {
			l, f := linkTo(t, test.addr, test.link)
			if test.want == "" {
				if n := <-f.nodes; n.Name != "n" {
					t.Errorf("heard of %q, want n", n.Name)
				}
				return
			}
			l.Await(t.Context())
			got := l.Nodes()[0]
			// TLS 1.3 refuses a client's certificate after the client's handshake: whether that is read before a write fails is
			// chance, so the reason is asked for again.
			for tries := 0; tries < 100 && !strings.Contains(got.Why, test.want); tries++ {
				if _, err := Dialer(test.link)(t.Context(), test.addr); err != nil {
					got.Why = err.Error()
				}
			}
			if got.Link != Unknown || !strings.Contains(got.Why, test.want) {
				t.Errorf("the link is %s: %q, want %q in it", got.Link, got.Why, test.want)
			}
			if len(f.nodes) > 0 {
				t.Error("it heard something")
			}
		})
	}
}

func TestARefusalIsToldFromSilence(t *testing.T) {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	ctx, cancel := context.WithTimeout(t.Context(), 200*time.Millisecond)
	defer cancel()
	if _, err := Dialer(nil)(ctx, l.Addr().String()); err == nil || errors.Is(err, syscall.ECONNREFUSED) {
		t.Errorf("where nobody answers got %v", err)
	}
	if _, err := Dialer(nil)(t.Context(), "127.0.0.1:1"); !errors.Is(err, syscall.ECONNREFUSED) {
		t.Errorf("where nobody listens got %v, want that it was refused", err)
	}
}

// BenchmarkAChangeReachesAnEdge is from a keeper's Observe to the edge's, over a real socket, on a node with 25 backends.
func BenchmarkAChangeReachesAnEdge(b *testing.B) {
	h, addr := listen(b, nil)
	_, f := linkTo(b, addr, nil)
	<-f.nodes
	n := router.Node{Name: "n"}
	for i := range 25 {
		n.Backends = append(n.Backends, router.Backend{ID: "n/m-" + string(rune('a'+i)), Model: "m", Slots: 8, Engine: config.VLLM, Addr: "127.0.0.1:8000", Reason: "idle for 5m"})
	}
	b.ReportAllocs()
	for b.Loop() {
		h.Observe(n)
		<-f.nodes
	}
}
