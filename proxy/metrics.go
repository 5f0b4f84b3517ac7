package proxy

import (
	"sync"

	"github.com/prometheus/client_golang/prometheus"

	"pilotlight/router"
)

// metrics count what the edge does. Labels are bounded: only names of known models are used, and outcomes, codes and
// phases are few.
type metrics struct {
	requests               *prometheus.CounterVec
	firstByte              *prometheus.HistogramVec
	wait                   *prometheus.HistogramVec
	inFlight               prometheus.Gauge
	connections            prometheus.Gauge
	heartbeats             prometheus.Counter
	handshakes             prometheus.Counter
	turnedAway             *prometheus.CounterVec
	departures             [phases]prometheus.Counter
	overflows              *prometheus.CounterVec
	retries, retriesDenied prometheus.Counter
	gpu                    *prometheus.CounterVec

	mu     sync.RWMutex // guards what follows
	models map[string]*modelMetrics
}

// modelMetrics are one model's children, found once.
type modelMetrics struct {
	outcomes  [4]prometheus.Counter // that carry no code
	firstByte prometheus.Observer
	wait      prometheus.Observer
}

// seconds are the buckets of times: a wait or a first byte may take a millisecond or a cold start.
var seconds = []float64{.001, .0025, .005, .01, .025, .05, .1, .25, .5, 1, 2.5, 5, 10, 25, 50, 100, 250}

func newMetrics(registry prometheus.Registerer) *metrics {
	m := &metrics{
		requests: prometheus.NewCounterVec(prometheus.CounterOpts{
			Name: "pilotlight_requests_total", Help: "Requests, by model (empty: none that is known), outcome and the code of a refusal.",
		}, []string{"model", "outcome", "code"}),
		firstByte: prometheus.NewHistogramVec(prometheus.HistogramOpts{
			Name: "pilotlight_first_byte_seconds", Help: "Time from a request to the first byte of the backend's answer.", Buckets: seconds,
		}, []string{"model"}),
		wait: prometheus.NewHistogramVec(prometheus.HistogramOpts{
			Name: "pilotlight_wait_seconds", Help: "Time in line of requests that had to wait for a slot.", Buckets: seconds,
		}, []string{"model"}),
		inFlight:    prometheus.NewGauge(prometheus.GaugeOpts{Name: "pilotlight_requests_in_flight", Help: "Requests being served or waiting."}),
		connections: prometheus.NewGauge(prometheus.GaugeOpts{Name: "pilotlight_connections", Help: "Clients' open connections."}),
		heartbeats:  prometheus.NewCounter(prometheus.CounterOpts{Name: "pilotlight_heartbeats_total", Help: "Comments sent to waiting streams."}),
		handshakes:  prometheus.NewCounter(prometheus.CounterOpts{Name: "pilotlight_tls_handshake_errors_total", Help: "TLS handshakes of clients that failed."}),
		turnedAway: prometheus.NewCounterVec(prometheus.CounterOpts{
			Name: "pilotlight_connections_turned_away_total", Help: "Connections beyond the limit in total or of their address.",
		}, []string{"limit"}),
		gpu: prometheus.NewCounterVec(prometheus.CounterOpts{
			Name: "pilotlight_gpu_seconds_total", Help: "GPU time that is settled, by model, by what took it (request, or a kind of account), and by how that is known.",
		}, []string{"model", "kind", "method"}),
		models: map[string]*modelMetrics{},
	}
	m.overflows = prometheus.NewCounterVec(prometheus.CounterOpts{
		Name: "pilotlight_overflows_total", Help: "Requests that were sent to another upstream because their model was cold or its line full.",
	}, []string{"model"})
	retries := prometheus.NewCounterVec(prometheus.CounterOpts{
		Name: "pilotlight_retries_total", Help: "Requests that reached no backend: given to another one, or denied because too many were.",
	}, []string{"verdict"})
	m.retries, m.retriesDenied = retries.WithLabelValues("given"), retries.WithLabelValues("denied")
	departures := prometheus.NewCounterVec(prometheus.CounterOpts{
		Name: "pilotlight_departures_total", Help: "Clients that left, by how far their request was.",
	}, []string{"phase"})
	for p := range m.departures {
		m.departures[p] = departures.WithLabelValues(phase(p).String())
	}
	registry.MustRegister(m.requests, m.firstByte, m.wait, m.inFlight, m.connections, m.heartbeats, m.handshakes, m.turnedAway, m.overflows, m.gpu, retries, departures)
	return m
}

// model finds the children of a known model.
func (m *metrics) model(name string) *modelMetrics {
	m.mu.RLock()
	known := m.models[name]
	m.mu.RUnlock()
	if known != nil {
		return known
	}
	m.mu.Lock()
	defer m.mu.Unlock()
	if known := m.models[name]; known != nil {
		return known
	}
	known = &modelMetrics{firstByte: m.firstByte.WithLabelValues(name), wait: m.wait.WithLabelValues(name)}
	for o := range known.outcomes {
		known.outcomes[o] = m.requests.WithLabelValues(name, router.Outcome(o).String(), "")
	}
	m.models[name] = known
	return known
}

// count takes in a visit that has ended. Model is its name where it is known, else empty.
func (m *metrics) count(v *Visit, model string, at phase) {
	of := m.model(model)
	if v.Code == "" {
		of.outcomes[v.Outcome].Inc()
	} else {
		m.requests.WithLabelValues(model, v.Outcome.String(), string(v.Code)).Inc()
	}
	if v.FirstByte > 0 {
		of.firstByte.Observe(v.FirstByte.Seconds())
	}
	if v.Waited > 0 {
		of.wait.Observe(v.Waited.Seconds())
	}
	if v.Outcome == router.Left {
		m.departures[at].Inc()
	}
}
