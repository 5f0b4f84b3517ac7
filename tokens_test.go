//go:build linux

package main_test

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"encoding/base64"
	"encoding/json"
	"fmt"
	"io"
	"maps"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/go-jose/go-jose/v4"
	"github.com/go-jose/go-jose/v4/jwt"
)

// login is an issuer of tokens, with a server for its keys and a file that holds the same.
type login struct {
	*httptest.Server
	key  *ecdsa.PrivateKey
	set  []byte
	file string
	down atomic.Bool
}

func newLogin(t *testing.T) *login {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	l := &login{key: key, file: filepath.Join(t.TempDir(), "jwks.json")}
	if l.set, err = json.Marshal(jose.JSONWebKeySet{Keys: []jose.JSONWebKey{{Key: key.Public(), KeyID: "one", Use: "sig", Algorithm: "ES256"}}}); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(l.file, l.set, 0o600); err != nil {
		t.Fatal(err)
	}
	l.Server = httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
		if l.down.Load() {
			http.Error(w, "down", http.StatusBadGateway)
			return
		}
		_, _ = w.Write(l.set)
	}))
	t.Cleanup(l.Close)
	return l
}

// token is one of issuer that is good for an hour, but for the changes.
func (l *login) token(t *testing.T, issuer string, changes map[string]any) string {
	t.Helper()
	claims := map[string]any{"iss": issuer, "aud": "pilotlight", "sub": "jo", "team": "blue", "exp": time.Now().Add(time.Hour).Unix(), "models": []string{"ours"}}
	maps.Copy(claims, changes)
	return sign(t, jose.ES256, jose.JSONWebKey{Key: l.key, KeyID: "one"}, claims)
}

func sign(t *testing.T, by jose.SignatureAlgorithm, key any, claims map[string]any) string {
	t.Helper()
	signer, err := jose.NewSigner(jose.SigningKey{Algorithm: by, Key: key}, nil)
	if err != nil {
		t.Fatal(err)
	}
	token, err := jwt.Signed(signer).Claims(claims).Serialize()
	if err != nil {
		t.Fatal(err)
	}
	return token
}

// trusting is an edge that takes tokens of l under two names, whose keys come from a URL and from a file.
func (l *login) trusting(t *testing.T) *pilotlight {
	t.Helper()
	server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if r.Header.Get("Authorization") != "" {
			t.Error("the model server has seen a token")
		}
		_, _ = io.WriteString(w, `{"usage":{"prompt_tokens":3,"completion_tokens":4}}`)
	}))
	t.Cleanup(server.Close)
	at := strings.TrimPrefix(server.URL, "http://")
	return serve(t, t.TempDir(), fmt.Sprintf(`
keys:
  jwt:
    - {issuer: url, audience: [pilotlight], jwks: %q, refresh: 10s, claims: {tenant: team, models: models}}
    - {issuer: file, audience: [pilotlight], jwks: %q, claims: {tenant: team, models: models}}
models:
  ours: {backends: [{address: %q, gpus: 0}]}
  theirs: {backends: [{address: %q, gpus: 0}]}
`, l.URL, l.file, at, at))
}

// Tokens that must not come through do not, and the log says who tried and why, never the token.
func TestAttacksWithTokens(t *testing.T) {
	t.Parallel()
	l := newLogin(t)
	p := l.trusting(t)
	public, err := jose.JSONWebKey{Key: l.key.Public()}.MarshalJSON()
	if err != nil {
		t.Fatal(err)
	}
	other, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	now := time.Now()
	good := l.token(t, "url", nil)
	parts := strings.Split(good, ".")
	none := base64.RawURLEncoding.EncodeToString([]byte(`{"alg":"none","kid":"one"}`)) + "." + parts[1] + "."
	claims := map[string]any{"iss": "url", "aud": "pilotlight", "sub": "jo", "team": "blue", "exp": now.Add(time.Hour).Unix(), "models": []string{"ours"}}
	for name, c := range map[string]struct {
		token, model string
		status       int
		says         string // in the answer and in the log
	}{
		"all right":                   {good, "ours", 200, ""},
		"all right, by the file":      {l.token(t, "file", nil), "ours", 200, ""},
		"another's model":             {good, "theirs", 403, "the token of jo may not ask for theirs"},
		"alg none":                    {none, "ours", 401, `it is signed with \"none\"`},
		"the public key for a secret": {sign(t, jose.HS256, jose.JSONWebKey{Key: public, KeyID: "one"}, claims), "ours", 401, `it is signed with \"HS256\"`},
		"expired":                     {l.token(t, "url", map[string]any{"exp": now.Add(-time.Hour).Unix()}), "ours", 401, "it expired at"},
		"not yet valid":               {l.token(t, "url", map[string]any{"nbf": now.Add(time.Hour).Unix()}), "ours", 401, "it counts from"},
		"for another":                 {l.token(t, "url", map[string]any{"aud": "others"}), "ours", 401, `it is for \"others\" and not for us`},
		"of another":                  {l.token(t, "https://evil.example.com", nil), "ours", 401, `its issuer \"https://evil.example.com\" is not known here`},
		"a key that is not known":     {sign(t, jose.ES256, jose.JSONWebKey{Key: l.key, KeyID: "two"}, claims), "ours", 401, `url has no key \"two\" for ES256`},
		"another's key by our name":   {sign(t, jose.ES256, jose.JSONWebKey{Key: other, KeyID: "one"}, claims), "ours", 401, "its signature does not fit"},
		"tampered":                    {parts[0] + "." + strings.Split(l.token(t, "url", map[string]any{"team": "admins"}), ".")[1] + "." + parts[2], "ours", 401, "its signature does not fit"},
		"huge":                        {"eyJ" + strings.Repeat("A", 20_000) + "." + parts[1] + "." + parts[2], "ours", 401, "the token has more than 8192 bytes"},
		"no token":                    {"eyJ.eyJ.x", "ours", 401, "it is malformed"},
		"a key where there are none":  {"pl-" + strings.Repeat("A", 43), "ours", 401, "the API key is not known here"},
	} {
		t.Run(name, func(t *testing.T) {
			got := p.call(t, post("/v1/chat/completions", `{"model":"`+c.model+`"}`, "Authorization: Bearer "+c.token)).reply(t)
			if got.status != c.status || !strings.Contains(got.body, c.says) {
				t.Errorf("%d %s, want %d %s", got.status, got.body, c.status, c.says)
			}
			eventually(t, "the log says so", func() bool { return strings.Contains(p.said.String(), c.says) })
			for part := range strings.SplitSeq(c.token, ".") {
				if len(part) > 20 && (strings.Contains(p.said.String(), part) || strings.Contains(got.body, part)) {
					t.Error("a part of the token is in the log, or in the answer")
				}
			}
		})
	}
	eventually(t, "the log says who asked", func() bool { return strings.Contains(p.said.String(), `"tenant":"blue"`) })
}

// What an issuer's last good keys were counts while its server is away, and status and metrics say that it is.
func TestAnIssuerThatIsAwayIsNotMissed(t *testing.T) {
	t.Parallel()
	l := newLogin(t)
	p := l.trusting(t)
	ask := func(token string) int {
		return p.call(t, post("/v1/chat/completions", `{"model":"ours"}`, "Authorization: Bearer "+token)).reply(t).status
	}
	if got := ask(l.token(t, "url", nil)); got != 200 {
		t.Fatalf("got %d", got)
	}
	l.down.Store(true)
	eventually(t, "status says that the issuer is away", func() bool {
		out := string(run(t, "", nil, binary(t), "status", "--admin", p.admin.Addr))
		return strings.Contains(out, "url: its keys are not taken over, the 1 of") && strings.Contains(out, "502 Bad Gateway") && strings.Contains(out, "file: 1 keys")
	})
	if got := ask(l.token(t, "url", map[string]any{"jti": "fresh"})); got != 200 {
		t.Errorf("a fresh token is answered %d", got)
	}
	resp, err := http.Get("http://" + p.admin.Addr + "/metrics")
	if err != nil {
		t.Fatal(err)
	}
	defer resp.Body.Close()
	text, err := io.ReadAll(resp.Body)
	if page := string(text); err != nil || !strings.Contains(page, `pilotlight_jwks_last_refresh_successful{issuer="url"} 0`) || !strings.Contains(page, `pilotlight_jwks_last_refresh_successful{issuer="file"} 1`) {
		t.Errorf("the metrics do not say so:\n%s", page)
	}
	if !strings.Contains(p.said.String(), "the issuer's keys are not taken over; those of before count") {
		t.Error("the log does not say so")
	}
}
