package proxy

import (
	"bufio"
	"bytes"
	"encoding/json"
	"encoding/pem"
	"errors"
	"io"
	"log"
	"log/slog"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"

	"github.com/prometheus/client_golang/prometheus/testutil"

	"pilotlight/config"
	"pilotlight/router"
)

const secretKey = "sk-the-operators-own"

// hosted is somebody else's API, which notes what it is asked.
type hosted struct {
	*httptest.Server
	mu       sync.Mutex
	requests []*http.Request
	bodies   []string
}

func newHosted(t *testing.T, start func(http.Handler) *httptest.Server) *hosted {
	h := &hosted{}
	h.Server = start(http.HandlerFunc(func(w http.ResponseWriter, req *http.Request) {
		body, _ := io.ReadAll(req.Body)
		h.mu.Lock()
		h.requests, h.bodies = append(h.requests, req), append(h.bodies, string(body))
		h.mu.Unlock()
		io.WriteString(w, `{"by":"hosted"}`)
	}))
	h.Config.ErrorLog = log.New(io.Discard, "", 0)
	t.Cleanup(h.Close)
	return h
}

// overflow is where a model overflows to: over TLS with the server's own certificate where it has one.
func (h *hosted) overflow(t *testing.T, when ...config.OverflowWhen) *config.Overflow {
	t.Helper()
	dir := t.TempDir()
	o := &config.Overflow{URL: h.URL + "/openai/v1", Model: "gpt-x", When: when, KeyFile: filepath.Join(dir, "key")}
	write := func(file string, text []byte) {
		if err := os.WriteFile(file, text, 0o600); err != nil {
			t.Fatal(err)
		}
	}
	write(o.KeyFile, []byte(secretKey+"\n"))
	if cert := h.Certificate(); cert != nil {
		o.CA = filepath.Join(dir, "ca.pem")
		write(o.CA, pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: cert.Raw}))
	}
	return o
}

func withOverflow(o *config.Overflow) rigOption {
	return withModel(func(m *config.Model) { m.Overflow = o })
}

func TestARequestOfAModelThatWakesOverflows(t *testing.T) {
	h := newHosted(t, httptest.NewTLSServer)
	var lines bytes.Buffer
	r := real(t, "", withOverflow(h.overflow(t, config.OverflowCold)), func(_ *rig, o *Options) { o.Log = slog.New(slog.NewJSONHandler(&lines, nil)) })
	r.asleep()
	c := r.dial()
	for range 2 {
		resp, body := say(t, c, strings.Replace(post(`,"messages":[]`, "Authorization: Bearer sk-the-clients", "X-Api-Key: sk-the-clients", "Cookie: sk-the-clients", "X-Secret: sk-the-clients"),
			"completions", "completions?key=sk-the-clients", 1))
		if resp.StatusCode != 200 || body != `{"by":"hosted"}` {
			t.Fatalf("got %d %q", resp.StatusCode, body)
		}
	}
	v := r.last(2)
	if v.Outcome != router.OK || !v.Overflow || !v.Cold || v.Model != "m" || v.Waited == 0 || !strings.HasPrefix(v.Backend, "127.0.0.1:") {
		t.Errorf("recorded %+v", v)
	}
	h.mu.Lock()
	defer h.mu.Unlock()
	got := h.requests[1]
	if got.URL.String() != "/openai/v1/chat/completions" || got.Method != "POST" || got.Header.Get("Authorization") != "Bearer "+secretKey ||
		got.Host != h.Listener.Addr().String() || h.bodies[1] != `{"model":"gpt-x","messages":[]}` || got.Header.Get("Content-Type") != "application/json" {
		t.Errorf("asked with %s %s %v %q", got.Method, got.URL, got.Header, h.bodies[1])
	}
	if h.requests[0].RemoteAddr != got.RemoteAddr {
		t.Error("the connection was not kept")
	}
	for name, values := range got.Header {
		if strings.Contains(strings.Join(values, ""), "sk-the-clients") || strings.HasPrefix(name, "X-") {
			t.Errorf("it was told %s: %q", name, values)
		}
	}
	if n := testutil.ToFloat64(r.edge.metrics.overflows.WithLabelValues("m")); n != 2 {
		t.Errorf("%v overflows were counted", n)
	}
	r.stop()
	if err := within(t, r.served); err != nil { // and all of the log is there
		t.Error(err)
	}
	r.served <- nil
	visits, err := json.Marshal(r.edge.Visits())
	if text := lines.String() + string(visits); err != nil || strings.Contains(text, "sk-the") {
		t.Errorf("a key was shown: %s", text)
	}
	if u := r.router.Use("m-0"); u.Waiting != 0 || u.InFlight != 0 {
		t.Errorf("something is left: %+v", u)
	}
}

func TestARequestOfAModelWithAFullLineOverflows(t *testing.T) {
	h, up := newHosted(t, httptest.NewServer), answers(t, ok)
	r := real(t, "", withOverflow(h.overflow(t, config.OverflowFull)), withModel(func(m *config.Model) { m.Line.Requests = 1 }))
	r.asleep()
	waits := r.dial()
	io.WriteString(waits, post(""))
	until(t, "a request waits", func() bool { return r.router.Use("m-0").Waiting == 1 })
	if resp, body := say(t, r.dial(), post("")); resp.StatusCode != 200 || body != `{"by":"hosted"}` {
		t.Errorf("got %d %q", resp.StatusCode, body)
	}
	anthropic := strings.Replace(post(""), "/v1/chat/completions", "/v1/messages", 1)
	if resp, _ := say(t, r.dial(), anthropic); resp.StatusCode != 429 {
		t.Errorf("a request in another API got %d, want 429", resp.StatusCode)
	}
	r.ready(1, up)
	if _, body := hear(t, bufio.NewReader(waits)); body != "{}" {
		t.Errorf("who waited got %q", body)
	}
}

func TestARequestThatCannotOverflowWaits(t *testing.T) {
	h, up := newHosted(t, httptest.NewTLSServer), answers(t, ok)
	for name, spoil := range map[string]func(*config.Overflow){
		"nobody is there":            func(o *config.Overflow) { o.URL = "http://" + nobody },
		"its certificate is unknown": func(o *config.Overflow) { o.CA = "" },
		"the key is not there":       func(o *config.Overflow) { o.KeyFile += "s" },
	} {
		t.Run(name, func(t *testing.T) {
			o := h.overflow(t, config.OverflowCold)
			spoil(o)
			r := real(t, "", withOverflow(o))
			r.asleep()
			c := r.dial()
			io.WriteString(c, post(""))
			until(t, "it is back in line", func() bool {
				return r.router.Use("m-0").Waiting == 1 && (name == "the key is not there" || testutil.ToFloat64(r.edge.metrics.overflows.WithLabelValues("m")) == 1)
			})
			r.ready(1, up)
			if _, body := hear(t, bufio.NewReader(c)); body != "{}" {
				t.Errorf("got %q", body)
			}
			if v := r.last(1); v.Overflow || v.Backend != "m-0" || v.Outcome != router.OK {
				t.Errorf("recorded %+v", v)
			}
		})
	}
}

func TestABreakOfTheOtherUpstreamIsOne(t *testing.T) {
	h := newHosted(t, func(http.Handler) *httptest.Server {
		return httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
			w.Header().Set("Content-Length", "10")
			w.Write([]byte("abc"))
		}))
	})
	r := real(t, "", withOverflow(h.overflow(t, config.OverflowCold)))
	r.asleep()
	c := r.dial()
	io.WriteString(c, post(""))
	resp, err := http.ReadResponse(bufio.NewReader(c), nil)
	if err != nil {
		t.Fatal(err)
	}
	if body, err := io.ReadAll(resp.Body); !errors.Is(err, io.ErrUnexpectedEOF) {
		t.Errorf("got %q and %v", body, err)
	}
	if v := r.last(1); v.Outcome != router.Broken || !v.Overflow {
		t.Errorf("recorded %+v", v)
	}
}

func TestPathsOfAnOverflow(t *testing.T) {
	for _, c := range []struct{ url, target, want string }{
		{"https://h/v1", "/v1/chat/completions", "/v1/chat/completions"},
		{"https://h/v1/", "/v1/embeddings?a=b", "/v1/embeddings"},
		{"https://h", "/v1/chat/completions", "/v1/chat/completions"},
		{"https://h/openai/v1", "/v1/chat/completions", "/openai/v1/chat/completions"},
		{"https://h/openai", "/v1/chat/completions", "/openai/v1/chat/completions"},
	} {
		a, err := newAway(&config.Overflow{URL: c.url})
		if err != nil {
			t.Fatal(err)
		}
		if got := string(a.appendPath(nil, []byte(c.target))); got != c.want {
			t.Errorf("%s and %s make %s, want %s", c.url, c.target, got, c.want)
		}
	}
}
