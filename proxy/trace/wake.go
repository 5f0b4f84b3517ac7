package trace

import (
	"context"
	"time"

	"go.opentelemetry.io/otel/codes"
	semconv "go.opentelemetry.io/otel/semconv/v1.43.0"
	"go.opentelemetry.io/otel/trace"

	"pilotlight/proxy"
	"pilotlight/router"
)

// wakeKey is one wake.
type wakeKey struct {
	backend string
	wanted  int64 // when it was asked for, in ns since 1970
}

// wake is the span of the wake that a request waited for. However many waited, there is one: below the wait of the first whose trace is kept.
// The others are linked with it.
func (t *Tracer) wake(wait context.Context, v *proxy.Visit, b *router.Backend) trace.SpanContext {
	w := &b.Woken
	if w.Wanted.IsZero() {
		return trace.SpanContext{}
	}
	end := w.Ready
	if b.State == router.Failed {
		end = b.Since
	}
	key := wakeKey{b.ID, w.Wanted.UnixNano()}
	own := ids{trace.SpanContextFromContext(wait).TraceID(), randomSpan()}
	t.mu.Lock()
	known, found := t.wakes.get(key)
	if !found {
		known = trace.NewSpanContext(trace.SpanContextConfig{TraceID: own.trace, SpanID: own.span, TraceFlags: trace.FlagsSampled})
		t.wakes.put(key, known, end)
	}
	t.mu.Unlock()
	if found {
		return known
	}
	ctx, span := t.tracer.Start(context.WithValue(wait, idsKey{}, own), "wake "+b.Model, trace.WithTimestamp(w.Wanted), trace.WithAttributes(
		genModel.String(b.Model), keyBackend.String(b.ID), keyNode.String(b.Node), keyFrom.String(w.From.String()), keyEvicted.StringSlice(w.Evicted),
		semconv.FaaSColdstart(true),
	))
	ctx = context.WithValue(ctx, idsKey{}, nil) // those of the wake are taken
	t.phases(ctx, b, end)
	if first := firstToken(v); b.State != router.Failed && !w.Ready.IsZero() {
		span.AddEvent("first healthy", trace.WithTimestamp(w.Ready))
		t.between(ctx, "first token", w.Ready, first)
	}
	if b.State == router.Failed {
		span.SetStatus(codes.Error, b.Reason)
	}
	span.End(trace.WithTimestamp(end))
	return known
}

// phases make a span of each of the wake's phases that was seen.
func (t *Tracer) phases(ctx context.Context, b *router.Backend, end time.Time) {
	w := &b.Woken
	left := w.Wanted
	if len(w.Evicted) > 0 {
		t.between(ctx, "evict", w.Wanted, w.Left, keyEvicted.StringSlice(w.Evicted))
		left = w.Left
	}
	t.between(ctx, "memory", left, w.Room)
	if w.Answered.IsZero() {
		t.between(ctx, "start", w.Room, end)
		return
	}
	t.between(ctx, "start", w.Room, w.Answered)
	t.between(ctx, "weights", w.Answered, end)
}

// firstToken is when the first of an answer came; zero: none did.
func firstToken(v *proxy.Visit) time.Time {
	switch {
	case v.FirstToken > 0:
		return v.At.Add(v.FirstToken)
	case v.FirstByte > 0:
		return v.At.Add(v.FirstByte)
	}
	return time.Time{}
}
