package proxy

import (
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/promhttp"
	"github.com/prometheus/client_golang/prometheus/testutil"

	"pilotlight/router"
)

func TestRequestsAreCounted(t *testing.T) {
	registry := prometheus.NewRegistry()
	r := real(t, answers(t, ok), func(_ *rig, o *Options) { o.Registry = registry })
	c := r.dial()
	say(t, c, post(""))
	say(t, c, strings.Replace(post(""), `"m"`, `"x"`, 1)) // a name of the client's own making is no label
	r.asleep()
	io.WriteString(c, post(""))
	until(t, "a request waits", func() bool { return r.router.Use("m-0").Waiting == 1 })
	c.Close()
	r.last(3)
	until(t, "the connection is closed", func() bool { return testutil.ToFloat64(r.edge.metrics.connections) == 0 })
	want := `
# HELP pilotlight_connections Clients' open connections.
# TYPE pilotlight_connections gauge
pilotlight_connections 0
# HELP pilotlight_departures_total Clients that left, by how far their request was.
# TYPE pilotlight_departures_total counter
pilotlight_departures_total{phase="first_byte"} 0
pilotlight_departures_total{phase="line"} 1
pilotlight_departures_total{phase="request"} 0
pilotlight_departures_total{phase="stream"} 0
# HELP pilotlight_requests_in_flight Requests being served or waiting.
# TYPE pilotlight_requests_in_flight gauge
pilotlight_requests_in_flight 0
`
	if err := testutil.GatherAndCompare(registry, strings.NewReader(want),
		"pilotlight_connections", "pilotlight_departures_total", "pilotlight_requests_in_flight"); err != nil {
		t.Error(err)
	}
	for _, test := range []struct{ model, outcome, code string }{{"m", "ok", ""}, {"m", "left", ""}, {"", "refused", "model_not_found"}} {
		if got := testutil.ToFloat64(r.edge.metrics.requests.WithLabelValues(test.model, test.outcome, test.code)); got != 1 {
			t.Errorf("%v was counted %v times, want once", test, got)
		}
	}
}

// openMetrics is what the registry says in OpenMetrics, which has examples.
func openMetrics(t *testing.T, registry *prometheus.Registry) string {
	t.Helper()
	req := httptest.NewRequest(http.MethodGet, "/metrics", nil)
	req.Header.Set("Accept", "application/openmetrics-text")
	w := httptest.NewRecorder()
	promhttp.HandlerFor(registry, promhttp.HandlerOpts{EnableOpenMetrics: true, ErrorHandling: promhttp.PanicOnError}).ServeHTTP(w, req)
	return w.Body.String()
}

func wantLines(t *testing.T, page string, want ...string) {
	t.Helper()
	for _, line := range want {
		if !strings.Contains(page, line) {
			t.Errorf("%s is not in\n%s", line, page)
		}
	}
}

func TestTimesHaveExamplesOfTracesThatAreKept(t *testing.T) {
	registry := prometheus.NewRegistry()
	r := real(t, answers(t, ok), withTracing(Tracing{}), func(_ *rig, o *Options) { o.Registry = registry })
	say(t, r.dial(), post(""))
	v := r.last(1)
	want := fmt.Sprintf(`span_id="%x"`, v.Context.Span)
	if got := openMetrics(t, registry); !strings.Contains(got, want) || !strings.Contains(got, fmt.Sprintf(`trace_id="%x"`, v.Context.Trace)) {
		t.Errorf("%s is not in\n%s", want, got)
	}
}

func TestGPUTimeIsCountedByTenant(t *testing.T) {
	registry := prometheus.NewRegistry()
	e := New(Options{Registry: registry})
	for n := range maxTenants + 50 {
		e.Settled(Share{Model: "m", Tenant: fmt.Sprint("tenant-", n), GPU: time.Second, Joules: 2, Method: "nvml"})
	}
	e.Settled(Share{Model: "m", Tenant: "tenant-1", GPU: time.Second, Method: "nvml"})
	e.Accounted(Account{Model: "m", Kind: "idle", GPU: time.Second, Method: "nvml"})
	wantLines(t, openMetrics(t, registry),
		`pilotlight_gpu_seconds_total{kind="request",method="nvml",model="m",tenant="tenant-1"} 2.0`,
		`pilotlight_gpu_joules_total{kind="request",method="nvml",model="m",tenant="(others)"} 100.0`,
		`pilotlight_gpu_seconds_total{kind="idle",method="nvml",model="m",tenant=""} 1.0`)
	if n := testutil.CollectAndCount(e.metrics.gpu); n != maxTenants+2 {
		t.Errorf("GPU time has %d series", n)
	}
}

func TestWhatIsSaidOfAModelGoesWithIt(t *testing.T) {
	registry := prometheus.NewRegistry()
	loads := []router.Load{{Model: "m", Waiting: 3, Backends: []router.BackendLoad{{ID: "m-0", State: router.Ready, InFlight: 1, Slots: 8, Read: time.Now()}}}}
	e := New(Options{Registry: registry, Loads: func() []router.Load { return loads }})
	e.metrics.count(&Visit{Outcome: router.OK, FirstByte: time.Second, FirstToken: time.Second, Waited: time.Second, Cold: true}, "m", streaming)
	e.Settled(Share{Model: "m", GPU: time.Second, Method: "nvml"})
	e.Woke(woken(router.Ready))
	wantLines(t, openMetrics(t, registry),
		`pilotlight_line_requests{model="m"} 3.0`, `pilotlight_slots{model="m"} 8.0`, `pilotlight_slots_taken{model="m"} 1.0`,
		`pilotlight_backends{model="m",state="ready"} 1.0`, `pilotlight_reading_age_seconds{backend="m-0",model="m"} `,
		`pilotlight_wait_seconds_count{model="m",reason="cold"} 1`, `pilotlight_first_token_seconds_count{model="m"} 1`)
	loads = nil
	openMetrics(t, registry) // which sees that the model is gone
	if got := openMetrics(t, registry); strings.Contains(got, `model="m"`) {
		t.Errorf("the model is still in\n%s", got)
	}
}

// woken is a backend whose wake has ended.
func woken(s router.State) *router.Backend {
	at := time.Now()
	b := &router.Backend{ID: "m-0", Model: "m", State: s, Woken: router.Woken{
		From: router.OnHost, Wanted: at, Evicted: []string{"a-0"}, Left: at.Add(time.Second), Room: at.Add(3 * time.Second), Answered: at.Add(6 * time.Second),
	}}
	if s == router.Ready {
		b.Woken.Ready = at.Add(10 * time.Second)
	}
	return b
}

func TestWakesAreCountedByPhase(t *testing.T) {
	registry := prometheus.NewRegistry()
	e := New(Options{Registry: registry})
	e.Woke(woken(router.Ready))
	e.Woke(woken(router.Failed))
	got := openMetrics(t, registry)
	wantLines(t, got, `pilotlight_wakes_total{from="host",model="m",result="ready"} 1.0`, `pilotlight_wakes_total{from="host",model="m",result="failed"} 1.0`)
	for phase, took := range map[string]float64{"evict": 1, "memory": 2, "start": 3, "weights": 4, "whole": 10} {
		wantLines(t, got, fmt.Sprintf(`pilotlight_wake_seconds_sum{from="host",model="m",phase=%q} %.1f`, phase, took))
	}
}
