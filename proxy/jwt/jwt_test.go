package jwt

import (
	"context"
	"crypto"
	"crypto/ecdsa"
	"crypto/ed25519"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/rsa"
	"encoding/base64"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"maps"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/go-jose/go-jose/v4"
	"github.com/go-jose/go-jose/v4/jwt"
	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/testutil"

	"pilotlight/config"
	"pilotlight/router"
)

// login is an issuer of tests.
type login struct {
	name string
	mu   sync.Mutex               // guards keys
	keys map[string]crypto.Signer // by kid
	down atomic.Bool
	says atomic.Pointer[string] // in place of its keys
	read atomic.Int32           // how often
}

func newLogin(t testing.TB, ids ...string) *login {
	l := &login{name: "https://login.example.com", keys: map[string]crypto.Signer{}}
	for _, id := range ids {
		l.add(t, id)
	}
	return l
}

// add makes a key, whose kind its name begins with.
func (l *login) add(t testing.TB, id string) {
	t.Helper()
	var key crypto.Signer
	var err error
	switch id[:2] {
	case "rs":
		key, err = rsa.GenerateKey(rand.Reader, 2048)
	case "es":
		key, err = ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	default:
		_, key, err = ed25519.GenerateKey(rand.Reader)
	}
	if err != nil {
		t.Fatal(err)
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	l.keys[id] = key
}

// lose takes a key away.
func (l *login) lose(id string) {
	l.mu.Lock()
	defer l.mu.Unlock()
	delete(l.keys, id)
}

// set is the JWK set.
func (l *login) set() []byte {
	l.mu.Lock()
	defer l.mu.Unlock()
	var s jose.JSONWebKeySet
	for id, key := range l.keys {
		s.Keys = append(s.Keys, jose.JSONWebKey{Key: key.Public(), KeyID: id, Use: "sig"})
	}
	text, err := json.Marshal(s)
	if err != nil {
		panic(err)
	}
	return text
}

func (l *login) serve(context.Context) ([]byte, error) {
	l.read.Add(1)
	if l.down.Load() {
		return nil, errors.New("nobody answers")
	}
	if says := l.says.Load(); says != nil {
		return []byte(*says), nil
	}
	return l.set(), nil
}

// config is what is configured of it.
func (l *login) config() config.JWT {
	return config.JWT{
		Issuer: l.name, Audience: []string{"pilotlight"}, JWKS: "https://login.example.com/keys", Refresh: config.Duration(5 * time.Minute), Leeway: config.Duration(30 * time.Second),
		Algorithms: []config.JWTAlgorithm{"RS256", "ES256", "EdDSA"},
		Claims:     config.JWTClaims{Tenant: "team", Models: "scope.models", Priority: "p", Rate: "rate", Concurrency: "most", TokensPerMinute: "tokens"},
		Limits:     config.JWTLimits{Models: []string{"open-*"}, Priority: "normal", Concurrency: 3},
	}
}

// verifier is one that asks l, and has done so once.
func (l *login) verifier(t testing.TB, change ...func(*config.JWT)) *Verifier {
	t.Helper()
	c := l.config()
	for _, f := range change {
		f(&c)
	}
	v, err := New([]config.JWT{c}, slog.New(slog.DiscardHandler), prometheus.NewRegistry())
	if err != nil {
		t.Fatal(err)
	}
	is := v.order[0]
	is.read = l.serve
	if err := is.take(t.Context()); err != nil && !l.down.Load() {
		t.Fatal(err)
	}
	return v
}

// claims are good ones, with changes; nil takes one away.
func (l *login) claims(now time.Time, changes ...map[string]any) map[string]any {
	all := map[string]any{"iss": l.name, "aud": "pilotlight", "sub": "jo", "team": "blue", "iat": now.Unix(), "exp": now.Add(time.Hour).Unix()}
	for _, change := range changes {
		maps.Copy(all, change)
	}
	maps.DeleteFunc(all, func(_ string, value any) bool { return value == nil })
	return all
}

// sign makes a token.
func (l *login) sign(t testing.TB, id string, claims map[string]any) string {
	t.Helper()
	alg := map[string]jose.SignatureAlgorithm{"rs": jose.RS256, "es": jose.ES256, "ed": jose.EdDSA}[id[:2]]
	return signed(t, alg, jose.JSONWebKey{Key: l.keys[id], KeyID: id}, claims)
}

func signed(t testing.TB, alg jose.SignatureAlgorithm, key any, claims map[string]any) string {
	t.Helper()
	return signedAs(t, alg, key, (&jose.SignerOptions{}).WithType("JWT"), claims)
}

func signedAs(t testing.TB, alg jose.SignatureAlgorithm, key any, options *jose.SignerOptions, claims map[string]any) string {
	t.Helper()
	signer, err := jose.NewSigner(jose.SigningKey{Algorithm: alg, Key: key}, options)
	if err != nil {
		t.Fatal(err)
	}
	text, err := jwt.Signed(signer).Claims(claims).Serialize()
	if err != nil {
		t.Fatal(err)
	}
	return text
}

func TestATokenSaysWhoAsksAndWhatHeMay(t *testing.T) {
	l := newLogin(t, "rs1", "es1", "ed1")
	v := l.verifier(t)
	now := time.Now()
	for name, c := range map[string]struct {
		claims                 map[string]any
		may, mayNot            string
		id, tenant             string
		priority               router.Priority
		concurrency            int
		rate, tokensEachMinute float64
	}{
		"what is configured": {nil, "open-x", "closed", "jo", "blue", router.Normal, 3, 0, 0},
		"all that there is":  {map[string]any{"scope": map[string]any{"models": []string{"closed", "m-*"}}, "p": "high", "rate": 0.5, "most": 9, "tokens": 1000}, "m-1", "open-x", "jo", "blue", router.High, 9, 0.5, 1000},
		"models in a text":   {map[string]any{"scope": map[string]any{"models": "a b"}}, "b", "c", "jo", "blue", router.Normal, 3, 0, 0},
		"a claim with dots":  {map[string]any{"scope.models": "a b"}, "b", "c", "jo", "blue", router.Normal, 3, 0, 0},
		"several audiences":  {map[string]any{"aud": []string{"other", "pilotlight"}}, "open-x", "closed", "jo", "blue", router.Normal, 3, 0, 0},
		"no subject":         {map[string]any{"sub": nil}, "open-x", "closed", "blue", "blue", router.Normal, 3, 0, 0},
		"within the leeway":  {map[string]any{"exp": now.Add(-20 * time.Second).Unix(), "nbf": now.Add(20 * time.Second).Unix()}, "open-x", "closed", "jo", "blue", router.Normal, 3, 0, 0},
	} {
		for id := range l.keys {
			token := l.sign(t, id, l.claims(now, c.claims))
			for range 2 { // the second time it is known
				h, no := v.Find([]byte(token), now)
				if no != nil {
					t.Fatalf("%s, %s: %v", name, id, no)
				}
				if h.ID != c.id || h.Tenant != c.tenant || h.Priority() != c.priority || h.Concurrency != c.concurrency || h.Rate != c.rate || h.Tokens != c.tokensEachMinute || !h.May(c.may) || h.May(c.mayNot) {
					t.Errorf("%s, %s: %+v", name, id, h.Key)
				}
			}
		}
	}
}

// forged is a token of which the header and the claims are ours.
func forged(header string, claims map[string]any, signature string) string {
	text, _ := json.Marshal(claims)
	return base64.RawURLEncoding.EncodeToString([]byte(header)) + "." + base64.RawURLEncoding.EncodeToString(text) + "." + signature
}

// tampered are the claims of a token with another tenant, under the same signature.
func (l *login) tampered(t *testing.T, now time.Time) string {
	parts := strings.Split(l.sign(t, "rs1", l.claims(now)), ".")
	other := strings.Split(l.sign(t, "rs1", l.claims(now, map[string]any{"team": "admins"})), ".")
	return parts[0] + "." + other[1] + "." + parts[2]
}

func TestWhatIsNoTokenOfOursIsRefused(t *testing.T) {
	l, stranger := newLogin(t, "rs1", "es1"), newLogin(t, "rs1", "rs9", "es1", "ed1")
	now := time.Now()
	v := l.verifier(t, func(c *config.JWT) { c.Algorithms = []config.JWTAlgorithm{"RS256", "EdDSA"} })
	public, err := jose.JSONWebKey{Key: l.keys["rs1"].Public()}.MarshalJSON()
	if err != nil {
		t.Fatal(err)
	}
	good := l.sign(t, "rs1", l.claims(now))
	with := func(change map[string]any) string { return l.sign(t, "rs1", l.claims(now, change)) }
	for name, c := range map[string]struct{ token, says string }{
		"no algorithm":                 {forged(`{"alg":"none","kid":"rs1"}`, l.claims(now), ""), `signed with "none"`},
		"no algorithm, in capitals":    {forged(`{"alg":"NONE","kid":"rs1"}`, l.claims(now), ""), `signed with "NONE"`},
		"no algorithm at all":          {forged(`{"kid":"rs1"}`, l.claims(now), ""), `signed with ""`},
		"the public key for a secret":  {signed(t, jose.HS256, jose.JSONWebKey{Key: public, KeyID: "rs1"}, l.claims(now)), `signed with "HS256"`},
		"a way that is not allowed":    {l.sign(t, "es1", l.claims(now)), "signs with RS256, EdDSA"},
		"another way with the key":     {signed(t, jose.PS256, jose.JSONWebKey{Key: l.keys["rs1"], KeyID: "rs1"}, l.claims(now)), "signs with RS256, EdDSA"},
		"a key of another kind":        {forged(`{"alg":"EdDSA","kid":"rs1"}`, l.claims(now), "AAAA"), `has no key "rs1" for EdDSA`},
		"a stranger's key":             {stranger.sign(t, "rs1", l.claims(now)), "signature does not fit"},
		"its own key in its header":    {embedded(t, stranger, l.claims(now)), "no key"},
		"a key that is not known":      {stranger.sign(t, "rs9", l.claims(now)), `has no key "rs9"`},
		"expired":                      {with(map[string]any{"exp": now.Add(-time.Minute).Unix()}), "it expired at"},
		"not yet valid":                {with(map[string]any{"nbf": now.Add(time.Minute).Unix()}), "it counts from"},
		"issued in the future":         {with(map[string]any{"iat": now.Add(time.Minute).Unix()}), "issued in the future"},
		"without an end":               {with(map[string]any{"exp": nil}), "never expires"},
		"for another":                  {with(map[string]any{"aud": "other"}), `it is for "other"`},
		"for nobody":                   {with(map[string]any{"aud": nil}), "not for us"},
		"of another":                   {with(map[string]any{"iss": "https://evil.example.com"}), `issuer "https://evil.example.com" is not known`},
		"of nobody":                    {with(map[string]any{"iss": nil}), "is not known"},
		"without a tenant":             {with(map[string]any{"team": nil}), "no claim team"},
		"a tenant that is a number":    {with(map[string]any{"team": 7}), "no text"},
		"a long tenant":                {with(map[string]any{"team": strings.Repeat("x", 200)}), "more than 128 bytes"},
		"a long subject":               {with(map[string]any{"sub": strings.Repeat("x", 200)}), "from 1 to 128"},
		"models that are none":         {with(map[string]any{"scope": map[string]any{"models": []any{1}}}), "no name"},
		"no models":                    {with(map[string]any{"scope": map[string]any{"models": []string{}}}), "names 0 models"},
		"a bad name":                   {with(map[string]any{"scope": map[string]any{"models": "["}}), "no name of models"},
		"a priority that is none":      {with(map[string]any{"p": "urgent"}), "none of high"},
		"a negative rate":              {with(map[string]any{"rate": -1}), "no number above 0"},
		"a rate in words":              {with(map[string]any{"rate": "many"}), "no number above 0"},
		"other claims, same signature": {l.tampered(t, now), "signature does not fit"},
		"cut off":                      {good[:len(good)-2], "not taken"},
		"no JSON":                      {"eyJ.eyJ.eyJ", "malformed"},
		"huge":                         {"eyJ" + strings.Repeat("A", 1<<20) + ".e30.AA", "more than 8192 bytes"},
		"a claim twice":                {forged(`{"alg":"RS256","kid":"rs1","alg":"none"}`, l.claims(now), "AAAA"), "malformed"},
	} {
		if !Is([]byte(c.token)) && name != "no JSON" {
			t.Errorf("%s: it does not look like a token", name)
		}
		h, no := v.Find([]byte(c.token), now)
		if h != nil || no == nil || no.Status != 401 || no.Code != router.BadKey || !strings.Contains(no.Reason, c.says) {
			t.Errorf("%s: %v, want %q", name, no, c.says)
		} else if len(no.Reason) > 500 || strings.Contains(no.Reason, good[len(good)-20:]) {
			t.Errorf("%s: it says too much: %s", name, no.Reason)
		}
	}
	if n := v.verified[0].Len(); n > 0 {
		t.Errorf("%d of them are remembered", n)
	}
}

// embedded is a token that brings the key by which it would have itself verified.
func embedded(t *testing.T, l *login, claims map[string]any) string {
	t.Helper()
	return signedAs(t, jose.EdDSA, l.keys["ed1"], &jose.SignerOptions{EmbedJWK: true}, claims)
}

func TestATokenThatIsKnownExpires(t *testing.T) {
	l := newLogin(t, "es1")
	v := l.verifier(t)
	now := time.Now()
	token := []byte(l.sign(t, "es1", l.claims(now)))
	for at, want := range map[time.Duration]bool{0: true, time.Hour: true, time.Hour + 29*time.Second: true, time.Hour + 31*time.Second: false} {
		if _, no := v.Find(token, now.Add(at)); (no == nil) != want {
			t.Errorf("after %s: %v", at, no)
		}
	}
}

func TestLimitsAreASubjectsWhicheverTokenItShows(t *testing.T) {
	l := newLogin(t, "es1")
	v := l.verifier(t)
	now := time.Now()
	var last *router.Refusal
	for i := range 4 {
		h, no := v.Find([]byte(l.sign(t, "es1", l.claims(now, map[string]any{"jti": fmt.Sprint(i)}))), now)
		if no != nil {
			t.Fatal(no)
		}
		last = h.Enter("open-x", now)
	}
	if last == nil || last.Code != router.RateLimited || !strings.Contains(last.Reason, "the token of jo has 3 requests in flight") {
		t.Errorf("the fourth at once: %v", last)
	}
	h, _ := v.Find([]byte(l.sign(t, "es1", l.claims(now, map[string]any{"sub": "al"}))), now)
	if no := h.Enter("open-x", now); no != nil {
		t.Errorf("another one: %v", no)
	}
}

func TestKeysAreReadInTheBackground(t *testing.T) {
	l := newLogin(t, "es1")
	synctest.Test(t, func(t *testing.T) {
		v := l.verifier(t)
		is := v.order[0]
		go v.Run(t.Context())
		synctest.Wait()
		find := func(id string) *router.Refusal {
			_, no := v.Find([]byte(l.sign(t, id, l.claims(time.Now()))), time.Now())
			return no
		}
		if no := find("es1"); no != nil {
			t.Fatal(no)
		}
		time.Sleep(renewEvery)
		reads := l.read.Load()
		l.add(t, "es2")
		began := time.Now()
		if no := find("es2"); no != nil || l.read.Load() != reads+1 || time.Since(began) > renewWait {
			t.Errorf("a new key: %v, after %d readings", no, l.read.Load()-reads)
		}
		stranger := newLogin(t, "es9")
		for range 1000 { // who names keys that there are not has them read no more often
			if _, no := v.Find([]byte(stranger.sign(t, "es9", l.claims(time.Now()))), time.Now()); no == nil {
				t.Fatal("a stranger is let in")
			}
		}
		if n := l.read.Load() - reads; n != 1 {
			t.Errorf("the keys were read %d times for strangers", n-1)
		}
		known := []byte(l.sign(t, "es1", l.claims(time.Now())))
		if _, no := v.Find(known, time.Now()); no != nil {
			t.Fatal(no)
		}

		l.down.Store(true)
		time.Sleep(12 * time.Minute)
		if no := find("es2"); no != nil {
			t.Errorf("with the issuer away: %v", no)
		}
		if s := v.Status()[0]; s.Problem != "nobody answers" || s.Keys != 2 || testutil.ToFloat64(is.gauges.fresh.WithLabelValues(l.name)) != 0 {
			t.Errorf("with the issuer away: %+v", s)
		}
		l.down.Store(false)
		for _, nonsense := range []string{"", "{}", `{"keys":[]}`, `{"keys":[{"kty":"oct","k":"AAAA","kid":"es1"}]}`, `{"keys":[{"kty":"new"}]}`} {
			l.says.Store(&nonsense)
			time.Sleep(12 * time.Minute)
			if no := find("es2"); no != nil || v.Status()[0].Problem == "" {
				t.Errorf("with %q for keys: %v, %+v", nonsense, no, v.Status()[0])
			}
		}
		l.says.Store(nil)
		l.lose("es1") // which its owner lost
		time.Sleep(12 * time.Minute)
		if _, no := v.Find(known, time.Now()); no == nil || v.Status()[0].Problem != "" || testutil.ToFloat64(is.gauges.fresh.WithLabelValues(l.name)) != 1 {
			t.Errorf("a token of a key that is no more: %v, %+v", no, v.Status()[0])
		}
	})
}

func TestAnIssuerThatIsAwayFromTheStart(t *testing.T) {
	l := newLogin(t, "ed1")
	l.down.Store(true)
	synctest.Test(t, func(t *testing.T) {
		v := l.verifier(t)
		go v.Run(t.Context())
		token := []byte(l.sign(t, "ed1", l.claims(time.Now())))
		if _, no := v.Find(token, time.Now()); no == nil || no.Status != 503 || no.Code != router.IssuerUnknown || no.RetryAfter == 0 {
			t.Errorf("%+v", no)
		}
		l.down.Store(false)
		time.Sleep(time.Minute)
		if _, no := v.Find(token, time.Now()); no != nil {
			t.Error(no)
		}
	})
}

// The issuer answers slowly: many tokens at once with a key that is not known wait together, and not for ever.
func TestManyWaitForOneReading(t *testing.T) {
	l := newLogin(t, "ed1")
	synctest.Test(t, func(t *testing.T) {
		v := l.verifier(t)
		answer := make(chan struct{})
		v.order[0].read = func(ctx context.Context) ([]byte, error) {
			select {
			case <-answer:
			case <-ctx.Done():
				return nil, ctx.Err()
			}
			return l.serve(ctx)
		}
		time.Sleep(renewEvery)
		go v.Run(t.Context())
		l.add(t, "ed2")
		token := []byte(l.sign(t, "ed2", l.claims(time.Now())))
		results := make(chan bool, 200)
		ask := func() {
			_, no := v.Find(token, time.Now())
			results <- no == nil
		}
		for range 100 {
			go ask()
		}
		time.Sleep(renewWait + time.Second)
		for range 100 {
			if <-results {
				t.Fatal("a key is known that was not read")
			}
		}
		for range 100 {
			go ask()
		}
		synctest.Wait()
		close(answer)
		for range 100 {
			if !<-results {
				t.Fatal("a key is not known that was read")
			}
		}
		if n := l.read.Load(); n > 3 {
			t.Errorf("the keys were read %d times", n)
		}
	})
}

func FuzzFind(f *testing.F) {
	l := newLogin(f, "ed1")
	v := l.verifier(f)
	now := time.Now()
	f.Add(l.sign(f, "ed1", l.claims(now)))
	f.Add(forged(`{"alg":"none"}`, l.claims(now), ""))
	f.Add(forged(`{"alg":"EdDSA","kid":""}`, l.claims(now), "AAAA"))
	f.Fuzz(func(t *testing.T, token string) {
		if h, no := v.Find([]byte(token), now); (h == nil) == (no == nil) {
			t.Errorf("%v, %v", h, no)
		}
	})
}

// BenchmarkCheck is what a request costs more that brings a token which is known; BenchmarkVerify one that is not.
func BenchmarkCheck(b *testing.B) {
	l := newLogin(b, "ed1")
	v := l.verifier(b)
	now := time.Now()
	const n = 10_000
	tokens := make([][]byte, n)
	for i := range tokens {
		tokens[i] = []byte(l.sign(b, "ed1", l.claims(now, map[string]any{"sub": fmt.Sprint(i), "jti": strings.Repeat("x", 300)})))
		if _, no := v.Find(tokens[i], now); no != nil {
			b.Fatal(no)
		}
	}
	b.ReportAllocs()
	b.ReportMetric(float64(len(tokens[0])), "bytes")
	for i := 0; b.Loop(); i++ {
		h, no := v.Find(tokens[i%n], now)
		if no == nil {
			no = h.Enter("open-x", now)
		}
		if no != nil {
			b.Fatal(no)
		}
		h.Leave(100, now)
	}
}

func BenchmarkVerify(b *testing.B) {
	l := newLogin(b, "rs1", "es1", "ed1")
	v := l.verifier(b)
	now := time.Now()
	for _, id := range []string{"rs1", "es1", "ed1"} {
		token := l.sign(b, id, l.claims(now))
		b.Run(id, func(b *testing.B) {
			for b.Loop() {
				if _, no := v.verify(token, now); no != nil {
					b.Fatal(no)
				}
			}
		})
	}
}
