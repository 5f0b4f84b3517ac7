package trace

import (
	"context"
	"time"

	"go.opentelemetry.io/otel/attribute"
	semconv "go.opentelemetry.io/otel/semconv/v1.43.0"
	"go.opentelemetry.io/otel/trace"

	"pilotlight/proxy"
	"pilotlight/router"
)

// late is what has been settled of a request's GPU time. It may be all settled before the request ends, or long after.
type late struct {
	gpu    time.Duration
	joules float64
	method string // of the share that is known least well
	final  bool
	ended  *ended // nil: it is not known that it has, or its trace is not kept
}

// ended is a request that has ended, and whose trace is kept.
type ended struct {
	span       trace.SpanContext
	from, till time.Time // it was with its backend
	backend    *router.Backend
}

// trust ranks methods by how well they know.
func trust(method string) int {
	switch method {
	case "nvml":
		return 3
	case "engine":
		return 2
	case "":
		return 4 // nothing has been said
	}
	return 1
}

// Settled adds what a request took. When that is all its span follows. What comes of a request that has not ended, as of a try that failed, is kept apart, with
// what comes of those whose traces are not kept: nobody knows which is which, and of the latter there are most.
func (t *Tracer) Settled(s *proxy.Share) {
	t.mu.Lock()
	l, over := t.late.get(s.ID)
	if !over {
		l, _ = t.early.get(s.ID)
	}
	l.gpu += s.GPU
	l.joules += s.Joules
	if trust(s.Method) < trust(l.method) {
		l.method = s.Method
	}
	l.final = l.final || s.Final
	var forgotten map[uint64]late
	switch {
	case !over:
		t.early.put(s.ID, l, s.At)
	case l.final:
		t.late.remove(s.ID)
	default:
		forgotten = t.late.put(s.ID, l, s.At)
	}
	t.mu.Unlock()
	if over && l.final {
		t.gpu(&l, true)
	}
	t.forget(forgotten)
}

// Accounted is of no request.
func (t *Tracer) Accounted(*proxy.Account) {}

// ended takes note of a request that has ended.
func (t *Tracer) ended(id uint64, e *ended) {
	t.mu.Lock()
	l, _ := t.early.get(id)
	t.early.remove(id)
	l.ended = e
	var forgotten map[uint64]late
	if !l.final {
		forgotten = t.late.put(id, l, e.till)
	}
	t.mu.Unlock()
	if l.final {
		t.gpu(&l, true)
	}
	t.forget(forgotten)
}

// drop forgets what was settled of a request whose trace is not kept.
func (t *Tracer) drop(id uint64) {
	t.mu.Lock()
	t.early.remove(id)
	t.mu.Unlock()
}

// forget tells of requests that are forgotten before all of their GPU time was settled what is known.
func (t *Tracer) forget(all map[uint64]late) {
	for _, l := range all {
		if l.gpu > 0 {
			t.gpu(&l, false)
		}
	}
}

// gpu makes the span of a request's GPU time, in the time in which it was with its backend.
func (t *Tracer) gpu(l *late, complete bool) {
	b := l.ended.backend
	all := []attribute.KeyValue{
		keyTime.Float64(l.gpu.Seconds()), keyMethod.String(l.method), keyComplete.Bool(complete),
		keyBackend.String(b.ID), keyNode.String(b.Node), keyIndices.IntSlice(b.GPUs), semconv.HwTypeGpu,
	}
	if l.joules > 0 {
		all = append(all, keyEnergy.Float64(l.joules))
	}
	if t.Cost != nil && t.Currency != "" {
		const nano = 1e9
		all = append(all, keyCost.Float64(float64(t.Cost(b.ID, l.gpu))/nano), keyCurrency.String(t.Currency))
	}
	t.between(trace.ContextWithSpanContext(context.Background(), l.ended.span), "gpu", l.ended.from, l.ended.till, all...)
}
