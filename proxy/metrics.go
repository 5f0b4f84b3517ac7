package proxy

import (
	"encoding/hex"
	"sync"
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"pilotlight/router"
)

// metrics count what the edge does. Labels are bounded: only names of known models are used, outcomes, codes and phases are few, and of tenants there are
// maxTenants at most. What is said of a model goes when the model does.
type metrics struct {
	requests               *prometheus.CounterVec
	firstByte              *prometheus.HistogramVec
	firstToken             *prometheus.HistogramVec
	wait                   *prometheus.HistogramVec
	inFlight               prometheus.Gauge
	connections            prometheus.Gauge
	heartbeats             prometheus.Counter
	handshakes             prometheus.Counter
	turnedAway             *prometheus.CounterVec
	departures             [phases]prometheus.Counter
	overflows              *prometheus.CounterVec
	retries, retriesDenied prometheus.Counter
	gpu, joules            *prometheus.CounterVec
	wakes                  *prometheus.CounterVec
	wakeTimes              *prometheus.HistogramVec
	fleet                  fleetMetrics

	mu      sync.RWMutex // guards what follows
	models  map[string]*modelMetrics
	tenants map[string]bool
	took    map[took]*taken
}

// modelMetrics are one model's children, found once.
type modelMetrics struct {
	outcomes   [4]prometheus.Counter // that carry no code
	firstByte  prometheus.Observer
	firstToken prometheus.Observer
	cold, busy prometheus.Observer // waits
}

// took says whose GPU time it is.
type took struct{ model, tenant, kind, method string }

// taken counts it.
type taken struct{ gpu, joules prometheus.Counter }

// maxTenants is how many tenants have metrics of their own; GPU time of further ones is that of otherTenants.
const (
	maxTenants   = 256
	otherTenants = "(others)"
)

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
		firstToken: prometheus.NewHistogramVec(prometheus.HistogramOpts{
			Name: "pilotlight_first_token_seconds", Help: "Time from a request for a stream to the first piece of the stream.", Buckets: seconds,
		}, []string{"model"}),
		wait: prometheus.NewHistogramVec(prometheus.HistogramOpts{
			Name: "pilotlight_wait_seconds", Help: "Time in line of requests that had to wait for a slot, because none of the model's backends was awake (cold), or all were busy.", Buckets: seconds,
		}, []string{"model", "reason"}),
		inFlight:    prometheus.NewGauge(prometheus.GaugeOpts{Name: "pilotlight_requests_in_flight", Help: "Requests being served or waiting."}),
		connections: prometheus.NewGauge(prometheus.GaugeOpts{Name: "pilotlight_connections", Help: "Clients' open connections."}),
		heartbeats:  prometheus.NewCounter(prometheus.CounterOpts{Name: "pilotlight_heartbeats_total", Help: "Comments sent to waiting streams."}),
		handshakes:  prometheus.NewCounter(prometheus.CounterOpts{Name: "pilotlight_tls_handshake_errors_total", Help: "TLS handshakes of clients that failed."}),
		turnedAway: prometheus.NewCounterVec(prometheus.CounterOpts{
			Name: "pilotlight_connections_turned_away_total", Help: "Connections beyond the limit in total or of their address.",
		}, []string{"limit"}),
		gpu: prometheus.NewCounterVec(prometheus.CounterOpts{
			Name: "pilotlight_gpu_seconds_total", Help: "GPU time that is settled, by model, by tenant (empty: none is known), by what took it (request, or what belongs to none: wake, idle, unattributed, others), and by how that is known.",
		}, []string{"model", "tenant", "kind", "method"}),
		joules: prometheus.NewCounterVec(prometheus.CounterOpts{
			Name: "pilotlight_gpu_joules_total", Help: "Energy of that GPU time, where it is measured.",
		}, []string{"model", "tenant", "kind", "method"}),
		wakes: prometheus.NewCounterVec(prometheus.CounterOpts{
			Name: "pilotlight_wakes_total", Help: "Wakes of the fleet's backends, by where the weights were, and by what became of them: ready or failed. Every edge counts all of them.",
		}, []string{"model", "from", "result"}),
		wakeTimes: prometheus.NewHistogramVec(prometheus.HistogramOpts{
			Name: "pilotlight_wake_seconds", Help: "What wakes took, by where the weights were, and by phase: evict, until others had left the GPU; memory, until their memory was back; start, until the model server answered; weights, until its engine was ready; whole.", Buckets: seconds,
		}, []string{"model", "from", "phase"}),
		fleet: newFleetMetrics(), models: map[string]*modelMetrics{}, tenants: map[string]bool{}, took: map[took]*taken{},
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
	registry.MustRegister(m.requests, m.firstByte, m.firstToken, m.wait, m.inFlight, m.connections, m.heartbeats, m.handshakes, m.turnedAway, m.overflows,
		m.gpu, m.joules, m.wakes, m.wakeTimes, retries, departures)
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
	known = &modelMetrics{
		firstByte: m.firstByte.WithLabelValues(name), firstToken: m.firstToken.WithLabelValues(name),
		cold: m.wait.WithLabelValues(name, "cold"), busy: m.wait.WithLabelValues(name, "busy"),
	}
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
		v.observe(of.firstByte, v.FirstByte)
	}
	if v.FirstToken > 0 {
		v.observe(of.firstToken, v.FirstToken)
	}
	if v.Waited > 0 {
		waits := of.busy
		if v.Cold {
			waits = of.cold
		}
		v.observe(waits, v.Waited)
	}
	if v.Outcome == router.Left {
		m.departures[at].Inc()
	}
}

// observe counts a time, with the request's trace as its example if that is kept.
func (v *Visit) observe(in prometheus.Observer, took time.Duration) {
	examples, ok := in.(prometheus.ExemplarObserver)
	if !ok || !v.Context.Sampled() {
		in.Observe(took.Seconds())
		return
	}
	examples.ObserveWithExemplar(took.Seconds(), prometheus.Labels{
		"trace_id": hex.EncodeToString(v.Context.Trace[:]), "span_id": hex.EncodeToString(v.Context.Span[:]),
	})
}

// settled counts GPU time, and its energy.
func (m *metrics) settled(of took, gpu time.Duration, joules float64) {
	m.mu.RLock()
	known := m.took[of]
	m.mu.RUnlock()
	if known == nil {
		known = m.take(of)
	}
	known.gpu.Add(gpu.Seconds())
	if joules > 0 {
		known.joules.Add(joules)
	}
}

// take finds who counts GPU time, once.
func (m *metrics) take(of took) *taken {
	m.mu.Lock()
	defer m.mu.Unlock()
	named := of
	if of.tenant != "" && !m.tenants[of.tenant] {
		if len(m.tenants) >= maxTenants {
			named.tenant = otherTenants
		} else {
			m.tenants[of.tenant] = true
		}
	}
	labels := []string{named.model, named.tenant, named.kind, named.method}
	known := &taken{gpu: m.gpu.WithLabelValues(labels...), joules: m.joules.WithLabelValues(labels...)}
	if named == of || len(m.took) < maxTaken {
		m.took[of] = known
	}
	return known
}

// maxTaken bounds what is remembered of whose GPU time is counted where.
const maxTaken = 1 << 14

// forget deletes what is said of models that are no more.
func (m *metrics) forget(known func(model string) bool) {
	m.mu.Lock()
	defer m.mu.Unlock()
	for of := range m.took {
		if !known(of.model) {
			delete(m.took, of)
			m.gone(of.model)
		}
	}
	for model := range m.models {
		if !known(model) {
			delete(m.models, model)
			m.gone(model)
		}
	}
}

func (m *metrics) gone(model string) {
	of := prometheus.Labels{"model": model}
	for _, counts := range []*prometheus.CounterVec{m.requests, m.overflows, m.gpu, m.joules, m.wakes} {
		counts.DeletePartialMatch(of)
	}
	for _, times := range []*prometheus.HistogramVec{m.firstByte, m.firstToken, m.wait, m.wakeTimes} {
		times.DeletePartialMatch(of)
	}
}
