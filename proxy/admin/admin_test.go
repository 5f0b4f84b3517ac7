package admin

import (
	"context"
	"encoding/json"
	"errors"
	"io"
	"log/slog"
	"net/http"
	"net/http/httptest"
	"path/filepath"
	"reflect"
	"strings"
	"testing"
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"pilotlight/config"
	"pilotlight/proxy"
	"pilotlight/proxy/ledger"
	"pilotlight/router"
)

// desk is an admin port over a real router that knows the models llama (alias gpt) and meta/llama-8b.
type desk struct {
	*httptest.Server
	router *router.Router
	lives  *lives
	client Client
}

// lives notes what is asked of the keeper.
type lives struct {
	asked []string
	err   error // what it answers
}

func (l *lives) WakeModel(_ context.Context, model string) error {
	l.asked = append(l.asked, "wake "+model)
	return l.err
}

func (l *lives) Dismiss(_ context.Context, model string, stop bool) error {
	verb := map[bool]string{true: "stop ", false: "sleep "}[stop]
	l.asked = append(l.asked, verb+model)
	return l.err
}

// nobody is a waker whose wakes last until they are called off.
type nobody struct{}

func (nobody) Wake(ctx context.Context, _ string) error {
	<-ctx.Done()
	return context.Cause(ctx)
}

func open(t *testing.T, more ...func(*Options)) *desk {
	t.Helper()
	line := config.Line{Requests: 10, Bytes: config.MiB, MaxWait: config.Duration(time.Hour)}
	d := &desk{lives: &lives{}}
	quiet := slog.New(slog.DiscardHandler)
	d.router = router.New(map[string]config.Model{
		"llama":         {Aliases: []string{"gpt"}, Line: line},
		"meta/llama-8b": {Line: line},
	}, nobody{}, quiet)
	registry := prometheus.NewRegistry()
	seven := prometheus.NewGauge(prometheus.GaugeOpts{Name: "seven", Help: "A number."})
	seven.Set(7)
	registry.MustRegister(seven)
	o := Options{
		Router: d.router, Lives: d.lives, Registry: registry, Log: quiet,
		Visits: func() any { return []string{"a visit"} },
		Config: func() any { return map[string]string{"Hash": "abc"} },
	}
	for _, change := range more {
		change(&o)
	}
	d.Server = httptest.NewServer(Handler(o))
	t.Cleanup(d.Close)
	t.Cleanup(d.router.Close)
	d.client = Client{Addr: strings.TrimPrefix(d.URL, "http://")}
	return d
}

// since is when all backends came to be what they are.
var since = time.Date(2026, 11, 1, 12, 0, 0, 0, time.UTC)

// observe tells the router of one backend of each model.
func (d *desk) observe() {
	d.router.Observe(router.Node{Name: "n", Backends: []router.Backend{
		{
			ID: "llama-0", Model: "llama", Node: "n", State: router.Ready, Tier: router.OnGPU, Since: since, Reason: "its engine answers",
			Addr: "127.0.0.1:9", PID: 42, GPUs: []int{0, 1}, Memory: config.GiB, Slots: 2,
		},
		{
			ID: "meta-0", Model: "meta/llama-8b", Node: "n", State: router.Failed, Since: since, Reason: "it exited",
			Slots: 1, WakeTime: 1500 * time.Millisecond, Rested: since.Add(time.Minute),
		},
	}})
}

// say sends a request with lines of a header, "Host" among them.
func (d *desk) say(t *testing.T, method, path string, header map[string]string) (int, string) {
	t.Helper()
	r, err := http.NewRequestWithContext(t.Context(), method, d.URL+path, nil)
	if err != nil {
		t.Fatal(err)
	}
	for name, value := range header {
		r.Header.Set(name, value)
	}
	r.Host = header["Host"]
	answer, err := d.Client().Do(r)
	if err != nil {
		t.Fatal(err)
	}
	defer answer.Body.Close()
	body, err := io.ReadAll(answer.Body)
	if err != nil {
		t.Fatal(err)
	}
	return answer.StatusCode, string(body)
}

func TestStatusShowsModelsLinesAndBackends(t *testing.T) {
	d := open(t)
	d.observe()
	lease, err := d.router.TryAcquire(router.Request{Model: "gpt"})
	if err != nil {
		t.Fatal(err)
	}
	defer lease.Release(router.OK)
	got, err := d.client.Status(t.Context())
	want := Status{Models: []ModelStatus{
		{Name: "llama", Aliases: []string{"gpt"}, State: "ready", Backends: []BackendStatus{{
			ID: "llama-0", Node: "n", State: "ready", Tier: "gpu", Since: since, Reason: "its engine answers", Addr: "127.0.0.1:9", PID: 42,
			GPUs: []int{0, 1}, Memory: 1 << 30, InFlight: 1, Slots: 2,
		}}},
		{Name: "meta/llama-8b", State: "failed", Backends: []BackendStatus{{
			ID: "meta-0", Node: "n", State: "failed", Tier: "disk", Since: since, Reason: "it exited", Slots: 1, WakeTimeMS: 1500,
			Rested: new(since.Add(time.Minute)),
		}}},
	}}
	if err != nil || !reflect.DeepEqual(got, want) {
		t.Errorf("got  %+v, %v\nwant %+v", got, err, want)
	}
}

func TestStatusShowsWhoWaits(t *testing.T) {
	d := open(t)
	d.router.Observe(router.Node{Name: "n", Backends: []router.Backend{{ID: "llama-0", Model: "llama", Slots: 1}}})
	ctx, leave := context.WithCancelCause(t.Context())
	left := make(chan error)
	go func() {
		_, err := d.router.Acquire(ctx, router.Request{Model: "llama", Bytes: 100})
		left <- err
	}()
	var line LineStatus
	for line.Waiting == 0 {
		s, err := d.client.Status(t.Context())
		if err != nil {
			t.Fatal(err)
		}
		line = s.Models[0].Line
	}
	if want := (LineStatus{Waiting: 1, Bytes: 100}); line != want {
		t.Errorf("got %+v, want %+v", line, want)
	}
	leave(router.ErrLeft)
	<-left
}

func TestStatusOfNoModelsIsAnEmptyList(t *testing.T) {
	d := open(t)
	d.router.Update(nil)
	if status, body := d.say(t, http.MethodGet, "/api/status", nil); status != 200 || body != "{\n  \"models\": []\n}\n" {
		t.Errorf("got %d %s, want an empty list", status, body)
	}
}

func TestMovesReachTheKeeperByTheModelsOwnName(t *testing.T) {
	for _, tt := range []struct{ verb, model, want string }{
		{"wake", "llama", "wake llama"},
		{"sleep", "llama", "sleep llama"},
		{"stop", "llama", "stop llama"},
		{"wake", "gpt", "wake llama"},
		{"stop", "meta/llama-8b", "stop meta/llama-8b"},
	} {
		d := open(t)
		d.observe()
		got, err := d.client.Move(t.Context(), tt.verb, tt.model)
		if err != nil || len(d.lives.asked) != 1 || d.lives.asked[0] != tt.want {
			t.Errorf("%s %s: got %v, %v, want %s", tt.verb, tt.model, d.lives.asked, err, tt.want)
		}
		if name := strings.Fields(tt.want)[1]; got.Name != name || len(got.Backends) != 1 {
			t.Errorf("%s %s: got %+v, want the status of %s", tt.verb, tt.model, got, name)
		}
	}
	d := open(t)
	if status, body := d.say(t, http.MethodPost, "/api/wake/meta/llama-8b", nil); status != 200 || d.lives.asked[0] != "wake meta/llama-8b" {
		t.Errorf("a slash as it is: got %d %s, %v", status, body, d.lives.asked)
	}
}

func TestAMoveThatFailsSaysWhy(t *testing.T) {
	for name, tt := range map[string]struct {
		err    error
		status int
		body   string
	}{
		"for a reason":     {errors.New("llama-0: it is not ours to stop"), 409, "llama-0: it is not ours to stop"},
		"with a refusal":   {&router.Refusal{Status: 503, Code: router.WakeFailed, Reason: "it fell over"}, 503, "it fell over"},
		"without a reason": {nil, 200, ""},
	} {
		d := open(t)
		d.lives.err = tt.err
		status, body := d.say(t, http.MethodPost, "/api/stop/llama", nil)
		var got Problem
		if err := json.Unmarshal([]byte(body), &got); err != nil || status != tt.status || got.Error != tt.body {
			t.Errorf("%s: got %d %s, want %d %q", name, status, body, tt.status, tt.body)
		}
	}
	d := open(t)
	_, err := d.client.Move(t.Context(), "wake", "gpt-5")
	if want := `no model is called "gpt-5"`; err == nil || err.Error() != want || len(d.lives.asked) > 0 {
		t.Errorf("an unknown model: got %v, %v, want %s", err, d.lives.asked, want)
	}
}

func TestOtherSitesAreKeptOut(t *testing.T) {
	for name, tt := range map[string]struct {
		method, path string
		header       map[string]string
		want         int
	}{
		"a name of somebody else's":             {http.MethodGet, "/api/status", map[string]string{"Host": "evil.example:8081"}, 403},
		"the same for metrics":                  {http.MethodGet, "/metrics", map[string]string{"Host": "evil.example"}, 403},
		"an address that is not loopback":       {http.MethodGet, "/api/status", map[string]string{"Host": "192.0.2.1:8081"}, 403},
		"localhost":                             {http.MethodGet, "/api/status", map[string]string{"Host": "localhost:8081"}, 200},
		"loopback of IPv6":                      {http.MethodGet, "/api/status", map[string]string{"Host": "[::1]:8081"}, 200},
		"loopback without a port":               {http.MethodGet, "/api/status", map[string]string{"Host": "127.0.0.1"}, 200},
		"a page of another site that changes":   {http.MethodPost, "/api/stop/llama", map[string]string{"Sec-Fetch-Site": "cross-site"}, 403},
		"the same from an older browser":        {http.MethodPost, "/api/stop/llama", map[string]string{"Origin": "https://evil.example"}, 403},
		"a page of another port":                {http.MethodPost, "/api/stop/llama", map[string]string{"Origin": "http://127.0.0.1:3000"}, 403},
		"a page of ours":                        {http.MethodPost, "/api/stop/llama", map[string]string{"Sec-Fetch-Site": "same-origin"}, 200},
		"curl":                                  {http.MethodPost, "/api/stop/llama", nil, 200},
		"a change by GET, as an image would do": {http.MethodGet, "/api/stop/llama", nil, 405},
	} {
		d := open(t)
		status, body := d.say(t, tt.method, tt.path, tt.header)
		if status != tt.want {
			t.Errorf("%s: got %d %s, want %d", name, status, body, tt.want)
		}
		if tt.want != 200 && len(d.lives.asked) > 0 {
			t.Errorf("%s: the keeper was asked to %v", name, d.lives.asked)
		}
	}
}

func TestPagesForPeopleAndMachines(t *testing.T) {
	d := open(t)
	for path, want := range map[string]string{
		"/healthz":                       "ok\n",
		"/metrics":                       "seven 7\n",
		"/debug/visits":                  "\"a visit\"",
		"/debug/config":                  "\"Hash\": \"abc\"",
		"/":                              "<title>Pilotlight</title>",
		"/debug/":                        "<title>Pilotlight</title>",
		"/debug/pprof/":                  "goroutine",
		"/debug/pprof/goroutine?debug=1": "goroutine profile: total ",
	} {
		if status, body := d.say(t, http.MethodGet, path, nil); status != 200 || !strings.Contains(body, want) {
			t.Errorf("%s: got %d %s, want %q in it", path, status, body, want)
		}
	}
	if status, _ := d.say(t, http.MethodGet, "/nowhere", nil); status != 404 {
		t.Errorf("/nowhere: got %d, want 404", status)
	}
}

func TestUsageIsThatOfTheLedger(t *testing.T) {
	d := open(t)
	if status, body := d.say(t, http.MethodGet, "/api/usage", nil); status != 404 || !strings.Contains(body, "no ledger is kept here") {
		t.Errorf("without a ledger: got %d %s", status, body)
	}
	d = open(t, func(o *Options) {
		l, err := ledger.New(t.Context(), ledger.Options{File: filepath.Join(t.TempDir(), "ledger.db"), Edge: "here", Log: o.Log})
		if err != nil {
			t.Fatal(err)
		}
		ctx, stop := context.WithCancel(t.Context())
		ran := make(chan error, 1)
		go func() { ran <- l.Run(ctx) }()
		t.Cleanup(func() { stop(); <-ran })
		l.Settled(&proxy.Share{Model: "llama", Tenant: "ada", GPU: 7, At: time.Now()})
		o.Ledger = l
	})
	by, err := ledger.ParseBy("tenant,model")
	if err != nil {
		t.Fatal(err)
	}
	book, err := d.client.Usage(t.Context(), ledger.Query{By: by, Since: time.Now().Add(-time.Hour)})
	if err != nil || len(book.Entries) != 1 || book.Entries[0].Tenant != "ada" || book.Entries[0].GPU != 7 || book.Edges[0] != "here" {
		t.Errorf("got %+v and %v, want ada's 7 ns", book, err)
	}
	for query, want := range map[string]string{"by=colour": "cannot be told apart by", "since=yesterday": "is not a time"} {
		if status, body := d.say(t, http.MethodGet, "/api/usage?"+query, nil); status != 400 || !strings.Contains(body, want) {
			t.Errorf("%s: got %d %s, want 400 and %q", query, status, body, want)
		}
	}
}

func TestReadyOnceEveryModelHasABackend(t *testing.T) {
	d := open(t)
	if status, body := d.say(t, http.MethodGet, "/readyz", nil); status != 503 || body != "no backend of llama is known yet\n" {
		t.Errorf("at first: got %d %s, want 503 and which model is missing", status, body)
	}
	d.observe()
	if status, body := d.say(t, http.MethodGet, "/readyz", nil); status != 200 || body != "ok\n" {
		t.Errorf("with all backends: got %d %s, want 200 ok", status, body)
	}
}

func TestAClientWithoutAPilotlightSaysWhatToDo(t *testing.T) {
	d := open(t)
	d.Close()
	_, err := d.client.Status(t.Context())
	if want := "nothing answers on the admin port " + d.client.Addr + "; is pilotlight running there?"; err == nil || !strings.HasPrefix(err.Error(), want) {
		t.Errorf("got %v, want %s", err, want)
	}
}
