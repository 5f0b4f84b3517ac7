//go:build linux

package main_test

import (
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"pilotlight/proxy/keys"
)

// guarded is an edge whose keys are in a file, in front of a model server that says what it is sent.
type guarded struct {
	*pilotlight
	file string
	seen atomic.Pointer[http.Header] // by the model server, last
}

func guard(t *testing.T) *guarded {
	t.Helper()
	g := &guarded{file: filepath.Join(t.TempDir(), "keys.jsonl")}
	server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if r.URL.Path != "/health" {
			header := r.Header.Clone()
			g.seen.Store(&header)
		}
		_, _ = io.WriteString(w, `{"usage":{"prompt_tokens":3,"completion_tokens":4}}`)
	}))
	t.Cleanup(server.Close)
	if err := os.WriteFile(g.file, nil, 0o600); err != nil {
		t.Fatal(err)
	}
	at := strings.TrimPrefix(server.URL, "http://")
	g.pilotlight = serve(t, t.TempDir(), fmt.Sprintf("keys: {file: %q}\nlimits: {body: 1KiB}\nmodels:\n  ours: {backends: [{address: %q, gpus: 0}]}\n  theirs: {backends: [{address: %q, gpus: 0}]}\n", g.file, at, at))
	return g
}

// key makes a key with the verb.
func (g *guarded) key(t *testing.T, id string, args ...string) string {
	t.Helper()
	out := run(t, "", nil, binary(t), append([]string{"keys", "new", "-f", g.file, id}, args...)...)
	secret := strings.TrimSpace(string(out))
	eventually(t, "the key counts", func() bool {
		return g.call(t, "GET /v1/models HTTP/1.1\r\nHost: p\r\nAuthorization: Bearer "+secret+"\r\n\r\n").reply(t).status != 401 // one that has expired never does
	})
	return secret
}

// What must not come through does not, whatever it looks like, and the log says who tried.
func TestAttacks(t *testing.T) {
	t.Parallel()
	g := guard(t)
	ours := g.key(t, "ours", "--tenant", "us", "--model", "ours")
	const path = "/v1/chat/completions"
	auth := "Authorization: Bearer " + ours
	for name, c := range map[string]struct {
		request string
		status  int
		says    string
	}{
		"no key":                      {post(path, `{"model":"ours"}`), 401, "invalid_api_key"},
		"a wrong key":                 {post(path, `{"model":"ours"}`, "Authorization: Bearer pl-"+strings.Repeat("A", 43)), 401, "invalid_api_key"},
		"a wrong scheme":              {post(path, `{"model":"ours"}`, "Authorization: Basic "+ours), 401, "invalid_api_key"},
		"the hash for the key":        {post(path, `{"model":"ours"}`, "x-api-key: "+strings.Repeat("0", 64)), 401, "invalid_api_key"},
		"another tenant's model":      {post(path, `{"model":"theirs"}`, auth), 403, "model_forbidden"},
		"the same by the path":        {post("/upstream/theirs/v1/x", `{"model":"ours"}`, auth), 403, "model_forbidden"},
		"the same by a header":        {post(path, `{"model":"ours"}`, auth, "X-Pilotlight-Model: theirs"), 403, "model_forbidden"},
		"the same with %-encoding":    {post("/upstream/%74heirs/v1/x", `{}`, auth), 403, "model_forbidden"},
		"the same with two slashes":   {post("//upstream/theirs/v1/x", `{"model":"theirs"}`, auth), 403, "model_forbidden"},
		"dots in the path":            {post("/upstream/ours/../theirs/v1/x", `{}`, auth), 200, ""}, // it is ours that is asked, for a path of its own
		"a model that nobody has":     {post(path, `{"model":"nobody's"}`, auth), 404, "model_not_found"},
		"what there is, without":      {"GET /v1/models HTTP/1.1\r\nHost: p\r\n\r\n", 401, "invalid_api_key"},
		"a model at an open path":     {post("/healthz", `{"model":"ours"}`), 401, "invalid_api_key"},
		"the same, of KServe":         {post("/v2/health/live", `{"model":"ours"}`, "X-Pilotlight-Model: ours"), 401, "no API key"},
		"the same, with a query":      {post("/healthz?model=ours", `{}`), 401, "invalid_api_key"},
		"too large a body":            {post(path, `{"model":"ours","x":"`+strings.Repeat("x", 2000)+`"}`, auth), 413, "body_too_large"},
		"two lengths":                 {"POST " + path + " HTTP/1.1\r\nHost: p\r\n" + auth + "\r\nContent-Length: 16\r\nContent-Length: 17\r\n\r\n" + `{"model":"ours"}`, 400, "bad_request"},
		"two keys, the first wrong":   {post(path, `{"model":"ours"}`, "Authorization: Bearer wrong", "x-api-key: "+ours), 401, "invalid_api_key"},
		"the admin port's work":       {post("/api/stop/ours", `{}`, auth), 400, ""}, // the data port knows no such thing
		"the key in the query":        {post(path+"?api_key="+ours, `{"model":"ours"}`), 401, "invalid_api_key"},
		"with the key, and all right": {post(path, `{"model":"ours"}`, auth), 200, "usage"},
	} {
		t.Run(name, func(t *testing.T) {
			got := g.call(t, c.request).reply(t)
			if got.status != c.status || !strings.Contains(got.body, c.says) {
				t.Errorf("%d %s, want %d %s", got.status, got.body, c.status, c.says)
			}
			if strings.Contains(got.body, ours) {
				t.Error("the key is in the answer")
			}
		})
	}
	header := *g.seen.Load()
	if header.Get("Authorization") != "" {
		t.Error("the model server has seen the key")
	}
	forged := g.call(t, post(path, `{"model":"ours"}`, auth, "X-Forwarded-For: 1.2.3.4", "Forwarded: for=1.2.3.4")).reply(t)
	if header := *g.seen.Load(); forged.status != 200 || strings.Contains(header.Get("X-Forwarded-For")+header.Get("Forwarded"), "1.2.3.4") {
		t.Errorf("a forged header came through: %v", header)
	}
	eventually(t, "the log says who asked, and what was refused", func() bool {
		out := g.said.String()
		return strings.Contains(out, `"invalid_api_key"`) && strings.Contains(out, `"tenant":"us"`)
	})
	if strings.Contains(g.said.String(), ours) {
		t.Error("the key is in the log")
	}
}

func TestAKeyThatIsRevokedCountsNoMore(t *testing.T) {
	t.Parallel()
	g := guard(t)
	secret := g.key(t, "a")
	ask := post("/v1/chat/completions", `{"model":"theirs"}`, "x-api-key: "+secret)
	g.wantOK(t, ask)
	run(t, "", nil, binary(t), "keys", "revoke", "-f", g.file, "a")
	began := time.Now()
	eventually(t, "the key is refused", func() bool { return g.call(t, ask).reply(t).status == 401 })
	t.Logf("refused after %s", time.Since(began))
	if out := string(run(t, "", nil, binary(t), "keys", "list", "-f", g.file)); strings.Contains(out, "a ") {
		t.Errorf("it is listed:\n%s", out)
	}
}

func TestAKeySeesItsModelsAndIsLimited(t *testing.T) {
	t.Parallel()
	g := guard(t)
	secret := g.key(t, "a", "--model", "ours", "--tokens-per-minute", "5")
	list := g.call(t, "GET /v1/models HTTP/1.1\r\nHost: p\r\nx-api-key: "+secret+"\r\n\r\n").reply(t)
	if list.status != 200 || !strings.Contains(list.body, `"ours"`) || strings.Contains(list.body, `"theirs"`) {
		t.Errorf("%d %s", list.status, list.body)
	}
	ask := post("/v1/messages", `{"model":"ours"}`, "x-api-key: "+secret)
	g.wantOK(t, ask) // seven tokens
	var got reply
	eventually(t, "the key is refused", func() bool { // tokens count when a request is over, which its client may see first
		got = g.call(t, ask).reply(t)
		return got.status != 200
	})
	if got.status != 429 || !strings.Contains(got.body, "rate_limit_error") || got.header.Get("Retry-After") == "" {
		t.Errorf("%d %s", got.status, got.body)
	}
	var kept keys.Key
	line, err := os.ReadFile(g.file)
	if err == nil {
		err = json.Unmarshal(line, &kept)
	}
	if err != nil || strings.Contains(string(line), secret[3:]) || len(kept.Hash) != 64 {
		t.Errorf("what is kept is %s, %v", line, err)
	}
}

// The table of routes in SECURITY.md is so.
func TestRoutesAreOpenAsSecuritySays(t *testing.T) {
	t.Parallel()
	g := guard(t)
	secret := g.key(t, "a", "--model", "ours")
	for path, open := range map[string]bool{
		"/healthz": true, "/v2/health/live": true, "/v2/health/ready": true, "/": false, "/v1/models": false, "/v1/models/ours": false, "/api/tags": false, "/api/ps": false,
		"/api/version": false, "/v2": false, "/v2/models/ours/ready": false, "/upstream/ours/anything": false,
	} {
		for key, want := range map[string]bool{"": open, "x-api-key: wrong\r\n": open, "x-api-key: " + secret + "\r\n": true} {
			got := g.call(t, "GET "+path+" HTTP/1.1\r\nHost: p\r\n"+key+"\r\n").reply(t)
			if got.status == 200 != want || !want && got.status != 401 {
				t.Errorf("%s with %q: %d %s", path, key, got.status, got.body)
			}
		}
	}
	for _, way := range []struct{ method, path, header string }{
		{"GET", "/api/status", "Host: evil.example"}, {"POST", "/api/stop/ours", "Origin: https://evil.example"}, {"POST", "/api/stop/ours", "Sec-Fetch-Site: cross-site"},
	} {
		at := *g.pilotlight
		at.addr = g.admin.Addr
		host := "Host: " + g.admin.Addr + "\r\n"
		if strings.HasPrefix(way.header, "Host") {
			host = ""
		}
		if got := at.call(t, way.method+" "+way.path+" HTTP/1.1\r\n"+host+way.header+"\r\nContent-Length: 0\r\n\r\n").reply(t); got.status != 403 {
			t.Errorf("the admin port answers %s with %s: %d %s", way.path, way.header, got.status, got.body)
		}
	}
}
