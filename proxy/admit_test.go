package proxy

import (
	"crypto/tls"
	"crypto/x509"
	"net"
	"net/http"
	"net/url"
	"strings"
	"testing"
	"time"

	"pilotlight/config"
	"pilotlight/proxy/keys"
)

// bearing names a certificate in the three ways that say who a client is.
func bearing(dns, uri string) func(*x509.Certificate) {
	return func(c *x509.Certificate) {
		u, err := url.Parse(uri)
		if err != nil {
			panic(err)
		}
		c.DNSNames, c.URIs = []string{"other.example", dns}, []*url.URL{u}
	}
}

// Whoever has a certificate that a key names is that key's tenant, with its limits, over HTTP/1.1 and HTTP/2; a key that the request brings counts before it.
func TestAClientsCertificateSaysWhoItIs(t *testing.T) {
	a := newAuthority(t)
	a.sign(t, "team-a", 3, bearing("a.example", "spiffe://example/team-a"))
	a.sign(t, "nobody", 4, bearing("nobody.example", "spiffe://example/nobody"))
	a.sign(t, "late", 5, bearing("late.example", "spiffe://example/late"))
	a.sign(t, "other", 6, bearing("x.example", "spiffe://example/other"))
	a.sign(t, "nameless", 7, func(c *x509.Certificate) { c.Subject.CommonName, c.DNSNames = "", nil })
	secret, kept, err := keys.New(keys.Key{ID: "key", Tenant: "by key"})
	if err != nil {
		t.Fatal(err)
	}
	for by, names := range map[config.CertificateName][3]string{
		config.CertificateSubject: {"team-a", "late", "other"}, config.CertificateDNS: {"a.example", "late.example", "x.example"},
		config.CertificateURI: {"spiffe://example/team-a", "spiffe://example/late", "spiffe://example/other"},
	} {
		ring := keys.NewRing()
		ring.Set([]keys.Key{
			kept,
			{ID: "a", Certificate: names[0], Tenant: "team a", Models: []string{"m"}, Priority: "high"},
			{ID: "late", Certificate: names[1], Expires: time.Now().Add(-time.Hour)},
			{ID: "other", Certificate: names[2], Models: []string{"n"}},
		})
		r := real(t, answers(t, ok), withTLS(t, a, func(c *config.TLS) { c.ClientCA, c.ClientCert = a.file("ca.pem"), config.ClientCertOptional }),
			func(_ *rig, o *Options) { o.Access, o.CertificateName = ring, by })
		plain := r.dial
		n := 0
		for name, test := range map[string]struct {
			certificates []string
			key          string
			status       int
			tenant, says string
		}{
			"a tenant's":                     {[]string{"team-a"}, "", 200, "team a", ""},
			"one that no key names":          {[]string{"nobody"}, "", 401, "", "no tenant has a certificate with the name"},
			"one whose key has expired":      {[]string{"late"}, "", 401, "", "has expired"},
			"for other models":               {[]string{"other"}, "", 403, "other", "the certificate other may not ask for m"},
			"none":                           {nil, "", 401, "", "has no API key"},
			"a key and a certificate":        {[]string{"team-a"}, secret, 200, "by key", ""},
			"a wrong key and a good one":     {[]string{"team-a"}, "wrong", 401, "", "not known here"},
			"one that bears no name of ours": {[]string{"nameless"}, "", 401, "", "has no API key"},
		} {
			dial := func() net.Conn { return tls.Client(plain(), a.trust(test.certificates...)) }
			heard := map[string]string{}
			headers := []string{}
			if test.key != "" {
				headers = append(headers, "Authorization: Bearer "+test.key)
			}
			resp, body := say(t, dial(), post("", headers...))
			heard["HTTP/1.1"] = resp.Status + body
			challenge := map[string]string{"HTTP/1.1": resp.Header.Get("WWW-Authenticate")}
			n++
			one := r.last(n)
			req, err := http.NewRequestWithContext(t.Context(), http.MethodPost, "http://edge/v1/chat/completions", strings.NewReader(`{"model":"m"}`))
			if err != nil {
				t.Fatal(err)
			}
			if test.key != "" {
				req.Header.Set("Authorization", "Bearer "+test.key)
			}
			resp2, err := over2(t, dial).Do(req)
			resp2, body = hear2(t, resp2, err)
			heard[resp2.Proto] = resp2.Status + body
			challenge[resp2.Proto] = resp2.Header.Get("WWW-Authenticate")
			n++
			for proto, v := range map[string]Visit{"HTTP/1.1": one, "HTTP/2.0": r.last(n)} {
				if v.Status != test.status || v.Tenant != test.tenant || !strings.Contains(heard[proto], test.says) {
					t.Errorf("%s, %s over %s: %d %q, %s", by, name, proto, v.Status, v.Tenant, heard[proto])
				}
				if got := challenge[proto]; (got == `Bearer realm="pilotlight"`) != (test.status == 401) {
					t.Errorf("%s, %s over %s: %d with the challenge %q", by, name, proto, v.Status, got)
				}
			}
		}
	}
}

// A certificate that ends while its connection is open says nothing any more.
func TestACertificateThatEndsCountsNoMore(t *testing.T) {
	ring := keys.NewRing()
	ring.Set([]keys.Key{{ID: "a", Certificate: "a"}})
	now := time.Now()
	for until, want := range map[time.Time]int{now.Add(time.Minute): 0, now.Add(-time.Minute): 401} {
		v := &visit{edge: &Edge{access: ring}, conn: &conn{shown: shownCertificate{[]string{"a"}, until}}, intake: &intake{}}
		v.At = now
		got := 0
		if no := v.identify(); no != nil {
			got = no.Status
		}
		if got != want {
			t.Errorf("with a certificate until %s: %d, want %d", until, got, want)
		}
	}
}
