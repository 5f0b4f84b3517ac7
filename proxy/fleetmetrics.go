package proxy

import (
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"pilotlight/router"
)

// Woke counts a wake of the fleet that has ended.
func (e *Edge) Woke(b *router.Backend) {
	m, w, from := e.metrics, &b.Woken, b.Woken.From.String()
	if w.Ready.IsZero() {
		m.wakes.WithLabelValues(b.Model, from, "failed").Inc()
		return
	}
	m.model(b.Model) // so that it is deleted with the model
	m.wakes.WithLabelValues(b.Model, from, "ready").Inc()
	began := w.Wanted
	if len(w.Evicted) > 0 {
		began = m.woke(b, "evict", w.Wanted, w.Left)
	}
	began = m.woke(b, "memory", began, w.Room)
	if !w.Answered.IsZero() {
		began = m.woke(b, "start", began, w.Answered)
	}
	m.woke(b, "weights", began, w.Ready)
	m.woke(b, "whole", w.Wanted, w.Ready)
}

// woke counts a phase of a wake, and returns when it was over.
func (m *metrics) woke(b *router.Backend, phase string, from, till time.Time) time.Time {
	if from.IsZero() || till.Before(from) {
		return from
	}
	m.wakeTimes.WithLabelValues(b.Model, b.Woken.From.String(), phase).Observe(till.Sub(from).Seconds())
	return till
}

// collect tells Prometheus how the fleet is at this moment: what is true of models and backends now is kept nowhere, and so is gone with them.
func (e *Edge) collect(loads []router.Load, now time.Time, to chan<- prometheus.Metric) {
	gauge := func(d *prometheus.Desc, value float64, labels ...string) {
		to <- prometheus.MustNewConstMetric(d, prometheus.GaugeValue, value, labels...)
	}
	known := map[string]bool{"": true}
	d := &e.metrics.fleet
	for i := range loads {
		l := &loads[i]
		known[l.Model] = true
		gauge(d.waiting, float64(l.Waiting), l.Model)
		gauge(d.held, float64(l.Bytes), l.Model)
		states, slots, busy := map[router.State]int{}, 0, 0
		for _, b := range l.Backends {
			states[b.State]++
			slots += b.Slots
			busy += b.InFlight
			if b.State == router.Ready && !b.Read.IsZero() { // who sleeps is not looked at
				gauge(d.readAge, now.Sub(b.Read).Seconds(), l.Model, b.ID)
			}
		}
		gauge(d.slots, float64(slots), l.Model)
		gauge(d.busy, float64(busy), l.Model)
		for s := router.Stopped; s <= router.Failed; s++ {
			gauge(d.backends, float64(states[s]), l.Model, s.String())
		}
	}
	e.metrics.forget(func(model string) bool { return known[model] })
}

// fleetMetrics are those of how things are.
type fleetMetrics struct{ waiting, held, slots, busy, backends, readAge *prometheus.Desc }

func newFleetMetrics() fleetMetrics {
	of := func(name, help string, labels ...string) *prometheus.Desc {
		return prometheus.NewDesc("pilotlight_"+name, help, append([]string{"model"}, labels...), nil)
	}
	return fleetMetrics{
		waiting:  of("line_requests", "Requests in a model's line at this edge."),
		held:     of("line_bytes", "Bytes of the bodies of those requests."),
		slots:    of("slots", "Slots of a model's ready backends that requests of this edge may have."),
		busy:     of("slots_taken", "How many of them are taken."),
		backends: of("backends", "Backends of a model, by state.", "state"),
		readAge:  of("reading_age_seconds", "How long ago the engine of a backend that is ready was last seen.", "backend"),
	}
}
