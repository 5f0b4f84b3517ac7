package proxy

import (
	"bufio"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/pem"
	"io"
	"log/slog"
	"math/big"
	"net"
	"os"
	"path/filepath"
	"testing"
	"testing/synctest"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/testutil"

	"pilotlight/config"
	"pilotlight/router"
)

// authority signs certificates of tests.
type authority struct {
	cert *x509.Certificate
	key  *ecdsa.PrivateKey
	dir  string
}

func newAuthority(t testing.TB) *authority {
	a := &authority{dir: t.TempDir()}
	a.cert, a.key = a.sign(t, "ca", 1)
	return a
}

// sign writes NAME.pem and NAME.key, signed by a or, if that is nobody yet, by itself. Bearing names the certificate besides.
func (a *authority) sign(t testing.TB, name string, serial int64, bearing ...func(*x509.Certificate)) (*x509.Certificate, *ecdsa.PrivateKey) {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	c := &x509.Certificate{
		SerialNumber: big.NewInt(serial), Subject: pkix.Name{CommonName: name}, NotBefore: time.Unix(0, 0), NotAfter: time.Unix(1<<33, 0),
		IPAddresses: []net.IP{net.IPv4(127, 0, 0, 1)}, DNSNames: []string{"edge"}, IsCA: a.cert == nil, BasicConstraintsValid: true,
	}
	for _, change := range bearing {
		change(c)
	}
	parent, signer := a.cert, a.key
	if parent == nil {
		parent, signer = c, key
	}
	der, err := x509.CreateCertificate(rand.Reader, c, parent, &key.PublicKey, signer)
	if err != nil {
		t.Fatal(err)
	}
	secret, err := x509.MarshalPKCS8PrivateKey(key)
	if err != nil {
		t.Fatal(err)
	}
	a.write(t, name+".key", pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: secret}))
	a.write(t, name+".pem", pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: der}))
	if c, err = x509.ParseCertificate(der); err != nil {
		t.Fatal(err)
	}
	return c, key
}

func (a *authority) file(name string) string { return filepath.Join(a.dir, name) }

func (a *authority) write(t testing.TB, name string, text []byte) {
	if err := os.WriteFile(a.file(name), text, 0o600); err != nil {
		t.Fatal(err)
	}
}

// trust is what a client needs that trusts a; certificates are its own.
func (a *authority) trust(certificates ...string) *tls.Config {
	c := &tls.Config{RootCAs: x509.NewCertPool(), ServerName: "edge"}
	c.RootCAs.AddCert(a.cert)
	for _, name := range certificates {
		pair, err := tls.LoadX509KeyPair(a.file(name+".pem"), a.file(name+".key"))
		if err != nil {
			panic(err)
		}
		c.Certificates = append(c.Certificates, pair)
	}
	return c
}

// withTLS has the edge speak TLS. r.dial gives connections that do.
func withTLS(t *testing.T, a *authority, change func(*config.TLS)) rigOption {
	a.sign(t, "edge", 2)
	c := config.TLS{Cert: a.file("edge.pem"), Key: a.file("edge.key"), Min: config.TLS12}
	if change != nil {
		change(&c)
	}
	certificates, err := LoadCertificates(c, slog.New(slog.DiscardHandler), prometheus.NewRegistry())
	if err != nil {
		t.Fatal(err)
	}
	return func(_ *rig, o *Options) { o.TLS = certificates }
}

// secure is real with TLS.
func secure(t *testing.T, backend string, options ...rigOption) (*rig, *authority) {
	a := newAuthority(t)
	r := real(t, backend, append(options, withTLS(t, a, nil))...)
	dial := r.dial
	r.dial = func() net.Conn { return tls.Client(dial(), a.trust()) }
	return r, a
}

func TestRequestsOverTLS(t *testing.T) {
	forwarded := make(chan string, 8)
	r, _ := secure(t, backend(t, func(c net.Conn, in *bufio.Reader, _ int) {
		for {
			req := readRequest(in)
			if req == nil {
				return
			}
			forwarded <- req.Header.Get("X-Forwarded-Proto")
			io.WriteString(c, ok)
		}
	}))
	c := r.dial()
	for range 3 {
		if resp, body := say(t, c, post("")); resp.StatusCode != 200 || body != "{}" {
			t.Errorf("got %d %q", resp.StatusCode, body)
		}
		if got := within(t, forwarded); got != "https" {
			t.Errorf("the backend was told %q", got)
		}
	}
	io.WriteString(c, "PUT /v1/x HTTP/1.1\r\nHost: e\r\nContent-Length: 9999999\r\n\r\n")
	if resp, _ := hear(t, bufio.NewReader(c)); resp.StatusCode != 413 {
		t.Errorf("got %d", resp.StatusCode)
	}
	if v := r.last(4); v.Path != "/v1/x" || v.Method != "PUT" || v.Client != "127.0.0.1" {
		t.Errorf("recorded %+v", v)
	}
}

func TestAConnectionWithoutADescriptorHoldsNoBufferWhileItIdles(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		near, far := net.Pipe()
		s := newSource(near, &buffers{})
		came := make(chan error)
		go func() { came <- s.sip() }()
		synctest.Wait()
		if s.buf != nil {
			t.Error("it holds a buffer")
		}
		go io.WriteString(far, "ab")
		if err := <-came; err != nil || string(s.bytes()) != "a" {
			t.Errorf("got %q, %v", s.bytes(), err)
		}
		if err := s.sip(); err != nil || string(s.bytes()) != "ab" {
			t.Errorf("got %q, %v", s.bytes(), err)
		}
		s.consume(2)
		far.Close()
		if err := s.sip(); err != io.EOF || s.buf != nil {
			t.Errorf("got %v, want EOF", err)
		}
	})
}

func TestADepartureOverTLSIsNoticed(t *testing.T) {
	for _, how := range []string{"closes", "half-closes", "resets"} {
		t.Run("the client "+how, func(t *testing.T) {
			ended := make(chan struct{})
			r, a := secure(t, backend(t, func(c net.Conn, in *bufio.Reader, _ int) {
				readRequest(in)
				io.WriteString(c, "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n3\r\nabc\r\n")
				eventually(in, ended)
			}))
			socket, err := net.Dial("tcp", r.addr)
			if err != nil {
				t.Fatal(err)
			}
			defer socket.Close()
			c := tls.Client(socket, a.trust())
			io.WriteString(c, post(""))
			if _, err := c.Read(make([]byte, 1)); err != nil {
				t.Fatal(err)
			}
			if how == "half-closes" {
				c.CloseWrite()
			}
			leave(socket.(*net.TCPConn), how)
			within(t, ended)
			if v := r.last(1); v.Outcome != router.Left {
				t.Errorf("outcome %v, want left", v.Outcome)
			}
			r.idle()
		})
	}
}

func TestABreakOverTLSIsNoGoodbye(t *testing.T) {
	r, _ := secure(t, backend(t, func(c net.Conn, in *bufio.Reader, _ int) {
		readRequest(in)
		io.WriteString(c, "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n3\r\nabc\r\n")
	}))
	c := r.dial()
	io.WriteString(c, "GET /upstream/m/x HTTP/1.0\r\n\r\n")
	if got, err := io.ReadAll(c); err == nil {
		t.Errorf("the client took %q for a finished answer", got)
	}
}

func TestHTTPOnTheTLSPortIsToldSo(t *testing.T) {
	r, _ := secure(t, answers(t, ok))
	c, err := net.Dial("tcp", r.addr)
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	if resp, body := say(t, c, post("")); resp.StatusCode != 400 || body != "this port speaks TLS; ask for https://\n" {
		t.Errorf("got %d %q", resp.StatusCode, body)
	}
	until(t, "the handshake is counted", func() bool { return testutil.ToFloat64(r.edge.metrics.handshakes) == 1 })
}

func TestWhoMaySpeakTLS(t *testing.T) {
	a, stranger := newAuthority(t), newAuthority(t)
	a.sign(t, "client", 3)
	stranger.sign(t, "client", 3)
	old := a.trust()
	old.MaxVersion = tls.VersionTLS12
	ancient := a.trust()
	ancient.MinVersion, ancient.MaxVersion = tls.VersionTLS10, tls.VersionTLS11
	bad := a.trust()
	bad.Certificates = stranger.trust("client").Certificates
	ask := func(c *config.TLS, client *tls.Config) bool {
		r := real(t, answers(t, ok), withTLS(t, a, func(t *config.TLS) { t.Min, t.ClientCA, t.ClientCert = c.Min, c.ClientCA, c.ClientCert }))
		conn := tls.Client(r.dial(), client)
		_, err := io.WriteString(conn, post(""))
		if err == nil {
			_, err = conn.Read(make([]byte, 1))
		}
		return err == nil
	}
	ca := a.file("ca.pem")
	for name, test := range map[string]struct {
		server config.TLS
		client *tls.Config
		want   bool
	}{
		"TLS 1.1":                           {config.TLS{Min: config.TLS12}, ancient, false},
		"TLS 1.2":                           {config.TLS{Min: config.TLS12}, old, true},
		"TLS 1.2 where 1.3 is the least":    {config.TLS{Min: config.TLS13}, old, false},
		"no certificate where one is asked": {config.TLS{ClientCA: ca, ClientCert: config.ClientCertRequired}, a.trust(), false},
		"a stranger's certificate":          {config.TLS{ClientCA: ca, ClientCert: config.ClientCertRequired}, bad, false},
		"a certificate":                     {config.TLS{ClientCA: ca, ClientCert: config.ClientCertRequired}, a.trust("client"), true},
		"none where it is optional":         {config.TLS{ClientCA: ca, ClientCert: config.ClientCertOptional}, a.trust(), true},
		"a stranger's where it is optional": {config.TLS{ClientCA: ca, ClientCert: config.ClientCertOptional}, bad, false},
	} {
		if got := ask(&test.server, test.client); got != test.want {
			t.Errorf("%s: served %v, want %v", name, got, test.want)
		}
	}
}

func TestACertificateIsTakenOverWhenItsFilesChange(t *testing.T) {
	a := newAuthority(t)
	a.sign(t, "edge", 2)
	synctest.Test(t, func(t *testing.T) {
		certificates, err := LoadCertificates(config.TLS{Cert: a.file("edge.pem"), Key: a.file("edge.key")}, slog.New(slog.DiscardHandler), prometheus.NewRegistry())
		if err != nil {
			t.Fatal(err)
		}
		serial := func() int64 { return certificates.inUse.Load().Certificates[0].Leaf.SerialNumber.Int64() }
		go certificates.follow(t.Context())
		synctest.Wait()
		a.sign(t, "edge", 3)
		time.Sleep(3 * certificateTime)
		if serial() != 3 || testutil.ToFloat64(certificates.fresh) != 1 {
			t.Errorf("certificate %d is in use, want 3", serial())
		}
		a.write(t, "edge.key", []byte("half a k"))
		time.Sleep(3 * certificateTime)
		if serial() != 3 || testutil.ToFloat64(certificates.fresh) != 0 {
			t.Errorf("certificate %d is in use, want the old one", serial())
		}
		a.sign(t, "edge", 4)
		time.Sleep(3 * certificateTime)
		if serial() != 4 || testutil.ToFloat64(certificates.fresh) != 1 {
			t.Errorf("certificate %d is in use, want 4", serial())
		}
	})
}
