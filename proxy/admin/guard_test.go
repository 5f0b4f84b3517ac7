package admin

import (
	"bytes"
	"context"
	"net/http"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"testing"
	"time"
)

const secret = "0123456789abcdef0123456789abcdef"

var wild = regexp.MustCompile(`\{(\w+)(\.\.\.)?\}`)

// locked is a desk that wants a token, and the file with that.
func locked(t *testing.T) (*desk, string) {
	t.Helper()
	file := filepath.Join(t.TempDir(), "token")
	if err := os.WriteFile(file, []byte(secret+"\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	ended := make(chan struct{})
	close(ended) // nobody is to watch for long
	d := open(t, func(o *Options) {
		o.TokenFile, o.Ending = file, ended
		o.GPUs, o.Nodes = func() GPUsStatus { return GPUsStatus{} }, func() any { return nil }
	})
	d.observe()
	return d, file
}

// requestOf is a path of a route.
func requestOf(r route) string {
	path := strings.ReplaceAll(wild.ReplaceAllString(r.path, "{$1}"), "{$}", "")
	return strings.NewReplacer("{model}", "llama", "{file}", "index.html", "{profile}", "heap?debug=1", "/profile", "/profile?seconds=1", "/trace", "/trace?seconds=1").Replace(path)
}

func TestEveryRouteAsksForTheTokenOrIsOpen(t *testing.T) {
	d, _ := locked(t)
	for _, r := range routes() {
		name, path := r.method+" "+r.path, requestOf(r)
		before := len(d.lives.asked)
		status, body := d.say(t, r.method, path, map[string]string{"Host": "pilot.example:8081"})
		switch {
		case r.open && status != 200:
			t.Errorf("%s without a token: %d %s, want 200", name, status, body)
		case !r.open && (status != 401 || len(d.lives.asked) != before):
			t.Errorf("%s without a token: %d, and the keeper was asked to %v; want 401", name, status, d.lives.asked[before:])
		}
		for what, header := range map[string]string{
			"a wrong one": "Bearer x" + secret, "an empty one": "Bearer ", "a part of it": "Bearer " + secret[:31], "another scheme": "Basic " + secret, "no scheme": secret,
		} {
			if status, _ := d.say(t, r.method, path, map[string]string{"Authorization": header}); !r.open && status != 401 {
				t.Errorf("%s with %s: %d, want 401", name, what, status)
			}
		}
		if status, body := d.say(t, r.method, path, map[string]string{"Authorization": "Bearer " + secret, "Host": "pilot.example:8081"}); status == 401 || status == 403 {
			t.Errorf("%s with the token: %d %s", name, status, body)
		}
		if status, _ := d.say(t, r.method, path, map[string]string{"Authorization": "Bearer " + secret, "Origin": "https://evil.example", "Sec-Fetch-Site": "cross-site"}); r.method == "POST" && status != 403 {
			t.Errorf("%s from a page of another site, with the token: %d, want 403", name, status)
		}
	}
	if status, _ := d.say(t, http.MethodGet, "/nowhere", nil); status != 401 {
		t.Errorf("what there is not: %d without a token, want 401", status)
	}
}

func TestAChangedTokenCountsAtOnce(t *testing.T) {
	d, file := locked(t)
	d.client.TokenFile = file
	if _, err := d.client.Status(t.Context()); err != nil {
		t.Error(err)
	}
	if err := os.WriteFile(file, []byte(strings.Repeat("n", 40)), 0o600); err != nil {
		t.Fatal(err)
	}
	if _, err := d.client.Status(t.Context()); err != nil {
		t.Errorf("the client did not read it anew: %v", err)
	}
	if status, _ := d.say(t, http.MethodGet, "/api/status", map[string]string{"Authorization": "Bearer " + secret}); status != 401 {
		t.Errorf("the old token: %d, want 401", status)
	}
	for what, content := range map[string]string{"an empty file": "", "a short one": "short", "blanks in it": "0123456789 0123456789", "a huge one": strings.Repeat("a", 5000)} {
		if err := os.WriteFile(file, []byte(content), 0o600); err != nil {
			t.Fatal(err)
		}
		if status, _ := d.say(t, http.MethodGet, "/api/status", map[string]string{"Authorization": "Bearer " + content}); status != 401 {
			t.Errorf("%s: %d, want 401", what, status)
		}
	}
	if err := os.Remove(file); err != nil {
		t.Fatal(err)
	}
	if status, _ := d.say(t, http.MethodGet, "/api/status", map[string]string{"Authorization": "Bearer "}); status != 401 {
		t.Errorf("without the file: %d, want 401", status)
	}
}

func TestTheClientTakesItsTokenFromTheEnvironment(t *testing.T) {
	d, _ := locked(t)
	if _, err := d.client.Status(t.Context()); err == nil || !strings.Contains(err.Error(), "PILOTLIGHT_ADMIN_TOKEN") {
		t.Errorf("without a token: %v, want what to do", err)
	}
	t.Setenv("PILOTLIGHT_ADMIN_TOKEN", secret)
	if _, err := d.client.Status(t.Context()); err != nil {
		t.Error(err)
	}
}

func TestNoPageMayFrameOrReadTheAdminPort(t *testing.T) {
	d := open(t)
	for _, path := range []string{"/", "/api/status", "/dashboard/index.html"} {
		answer, err := http.Get(d.URL + path)
		if err != nil {
			t.Fatal(err)
		}
		answer.Body.Close()
		policy := answer.Header.Get("Content-Security-Policy")
		if !strings.Contains(policy, "frame-ancestors 'none'") || strings.Contains(policy, "unsafe") || answer.Header.Get("X-Content-Type-Options") != "nosniff" || answer.Header.Get("Access-Control-Allow-Origin") != "" {
			t.Errorf("%s: %v", path, answer.Header)
		}
	}
}

func TestTheDashboardAsksNoOtherHost(t *testing.T) {
	entries, err := files.ReadDir("dashboard")
	if err != nil {
		t.Fatal(err)
	}
	for _, e := range entries {
		text, err := files.ReadFile("dashboard/" + e.Name())
		if err != nil {
			t.Fatal(err)
		}
		for _, bad := range []string{"innerHTML", "outerHTML", "insertAdjacentHTML", "document.write", "eval(", "https://", "style=\""} {
			if bytes.Contains(text, []byte(bad)) {
				t.Errorf("%s has %s", e.Name(), bad)
			}
		}
	}
}

// pinned are pins that a test looks at.
type pinned map[string]time.Time

func (p pinned) Pin(_ context.Context, model string, until time.Time) error {
	p[model] = until
	return nil
}
func (p pinned) Unpin(_ context.Context, model string) error { delete(p, model); return nil }
func (p pinned) Pinned(model string) (time.Time, bool)       { t, is := p[model]; return t, is }

func TestPinsAreShownAndTakenAway(t *testing.T) {
	pins := pinned{}
	d := open(t, func(o *Options) { o.Pins = pins })
	d.observe()
	got, err := d.client.Pin(t.Context(), "gpt", time.Hour)
	if err != nil || got.Pinned == nil || time.Until(got.Pinned.Until) > time.Hour || time.Until(got.Pinned.Until) < time.Hour/2 {
		t.Errorf("pinned for an hour: %+v, %v", got.Pinned, err)
	}
	if got, err = d.client.Pin(t.Context(), "llama", 0); err != nil || got.Pinned == nil || !got.Pinned.Until.IsZero() {
		t.Errorf("pinned: %+v, %v", got.Pinned, err)
	}
	if got, err = d.client.Move(t.Context(), "unpin", "llama"); err != nil || got.Pinned != nil || len(pins) > 0 {
		t.Errorf("unpinned: %+v, %v", got.Pinned, err)
	}
	for _, bad := range []string{"soon", "-1h", "0s", "99999h"} {
		if status, body := d.say(t, http.MethodPost, "/api/pin/llama?for="+bad, nil); status != 400 || len(pins) > 0 {
			t.Errorf("for=%s: %d %s", bad, status, body)
		}
	}
	if status, _ := d.say(t, http.MethodPost, "/api/pin/nobody", nil); status != 404 {
		t.Errorf("a model that there is not: %d, want 404", status)
	}
}

func TestTheDocumentIsServed(t *testing.T) {
	d := open(t)
	if status, body := d.say(t, http.MethodGet, "/openapi.json", nil); status != 200 || body != document || !strings.Contains(body, `"openapi": "3.1.0"`) {
		t.Errorf("/openapi.json answers %d and %d bytes, want the document", status, len(body))
	}
}
