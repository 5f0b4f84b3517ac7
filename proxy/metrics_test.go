package proxy

import (
	"io"
	"strings"
	"testing"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/testutil"
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
