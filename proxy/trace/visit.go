package trace

import (
	"context"
	"net"
	"strconv"
	"time"

	"go.opentelemetry.io/otel/attribute"
	"go.opentelemetry.io/otel/codes"
	semconv "go.opentelemetry.io/otel/semconv/v1.43.0"
	"go.opentelemetry.io/otel/trace"

	"pilotlight/proxy"
	"pilotlight/router"
)

// Ended makes the spans of a request, if its trace is kept.
func (t *Tracer) Ended(v *proxy.Visit) {
	// What asks for no model, and is answered, asks whether we are up or what there is.
	if !v.Context.Sampled() || v.Model == "" && v.Outcome == router.OK {
		t.drop(v.Number)
		return
	}
	server := t.server(v)
	parent := trace.ContextWithSpanContext(context.Background(), server.SpanContext())
	for i := range v.Tries {
		t.try(parent, v, &v.Tries[i], i)
	}
	last := v.Last
	last.Backend, last.Ended = v.Backend, v.Total
	t.try(parent, v, &last, len(v.Tries))
	server.End(trace.WithTimestamp(v.At.Add(v.Total)))
	if v.Served == nil || v.Overflow {
		t.drop(v.Number)
		return
	}
	t.ended(v.Number, &ended{span: server.SpanContext(), from: v.At.Add(last.Asked), till: v.At.Add(v.Total), backend: v.Served})
}

// server begins the span of a whole request.
func (t *Tracer) server(v *proxy.Visit) trace.Span {
	c := &v.Context
	ctx := context.WithValue(context.Background(), idsKey{}, ids{c.Trace, c.Span})
	if c.Parent != [8]byte{} {
		state, _ := trace.ParseTraceState(c.State) // one that is no good is empty
		ctx = trace.ContextWithSpanContext(ctx, trace.NewSpanContext(trace.SpanContextConfig{
			TraceID: c.Trace, SpanID: c.Parent, TraceFlags: trace.TraceFlags(c.Flags), TraceState: state, Remote: true,
		}))
	}
	route, operation := routeOf(v.Path)
	name := v.Method
	all := make([]attribute.KeyValue, 0, 20)
	if route != "" {
		name += " " + route
		all = append(all, semconv.HTTPRoute(route))
	}
	if operation != "" {
		all = append(all, genOperation.String(operation))
	}
	all = append(all, semconv.HTTPRequestMethodKey.String(v.Method), semconv.URLPath(v.Path), semconv.ClientAddress(v.Client),
		keyRequest.String(strconv.FormatUint(v.Number, 36)), keyOutcome.String(v.Outcome.String()), semconv.FaaSColdstart(v.Cold))
	all = appendOf(all, v)
	options := []trace.SpanStartOption{trace.WithSpanKind(trace.SpanKindServer), trace.WithTimestamp(v.At), trace.WithAttributes(all...)}
	if c.Linked != [24]byte{} {
		client := trace.NewSpanContext(trace.SpanContextConfig{TraceID: trace.TraceID(c.Linked[:16]), SpanID: trace.SpanID(c.Linked[16:]), Remote: true})
		options = append(options, trace.WithLinks(trace.Link{SpanContext: client}))
	}
	_, span := t.tracer.Start(ctx, name, options...)
	if failed(v) {
		span.SetStatus(codes.Error, v.Reason)
	}
	return span
}

// appendOf appends what not every request has.
func appendOf(all []attribute.KeyValue, v *proxy.Visit) []attribute.KeyValue {
	if v.Status != 0 {
		all = append(all, semconv.HTTPResponseStatusCode(v.Status))
	}
	if v.Code != "" {
		all = append(all, keyCode.String(string(v.Code)), semconv.ErrorTypeKey.String(string(v.Code)))
	} else if v.Status >= 500 {
		all = append(all, semconv.ErrorTypeKey.String(strconv.Itoa(v.Status)))
	}
	if v.Model != "" {
		all = append(all, genModel.String(v.Model))
	}
	if v.Tenant != "" {
		all = append(all, keyTenant.String(v.Tenant))
	}
	if v.Backend != "" {
		all = append(all, keyBackend.String(v.Backend))
	}
	if v.Overflow {
		all = append(all, keyOverflow.Bool(true))
	}
	if v.PromptTokens > 0 {
		all = append(all, genInputTokens.Int64(v.PromptTokens))
	}
	if v.Tokens > 0 {
		all = append(all, genOutputTokens.Int64(v.Tokens))
	}
	if v.FirstToken > 0 {
		all = append(all, genStream.Bool(true), genFirstChunk.Float64(v.FirstToken.Seconds()))
	}
	return all
}

// try makes the spans of one try: its wait, and what it was at a backend.
func (t *Tracer) try(parent context.Context, v *proxy.Visit, try *proxy.Try, n int) {
	final := n == len(v.Tries)
	if try.Stood {
		t.wait(parent, v, try, final)
	}
	if try.Asked == 0 {
		return
	}
	name := v.Method
	if route, _ := routeOf(v.Path); route != "" && !v.Overflow {
		name += " " + route
	}
	all := []attribute.KeyValue{semconv.HTTPRequestMethodKey.String(v.Method), keyBackend.String(try.Backend)}
	if n > 0 {
		all = append(all, semconv.HTTPRequestResendCount(n))
	}
	if final {
		all = appendServer(all, v)
	}
	ctx := context.WithValue(parent, idsKey{}, ids{v.Context.Trace, v.Context.Try(n)})
	_, span := t.tracer.Start(ctx, "upstream "+name, trace.WithSpanKind(trace.SpanKindClient), trace.WithTimestamp(v.At.Add(try.Asked)), trace.WithAttributes(all...))
	switch {
	case !final:
		span.SetStatus(codes.Error, "the backend could not be reached")
	case v.Outcome == router.Broken:
		span.SetStatus(codes.Error, v.Reason)
	}
	if final && v.FirstByte > 0 {
		span.AddEvent("first byte", trace.WithTimestamp(v.At.Add(v.FirstByte)))
	}
	if final && v.FirstToken > 0 {
		span.AddEvent("first token", trace.WithTimestamp(v.At.Add(v.FirstToken)))
	}
	span.End(trace.WithTimestamp(v.At.Add(try.Ended)))
}

// appendServer appends where the answer came from.
func appendServer(all []attribute.KeyValue, v *proxy.Visit) []attribute.KeyValue {
	if v.FirstByte > 0 {
		all = append(all, semconv.HTTPResponseStatusCode(v.Status))
	}
	if v.Served == nil || v.Overflow {
		return append(all, semconv.ServerAddress(v.Backend))
	}
	all = append(all, keyNode.String(v.Served.Node), genProvider.String(provider(v.Served.Engine)))
	if host, port, err := net.SplitHostPort(v.Served.Addr); err == nil {
		number, _ := strconv.Atoi(port)
		all = append(all, semconv.ServerAddress(host), semconv.ServerPort(number))
	}
	return all
}

// wait makes the span of standing in line, linked with the wake that was waited for.
func (t *Tracer) wait(parent context.Context, v *proxy.Visit, try *proxy.Try, final bool) {
	until := try.Leased
	if until < try.Queued {
		until = try.Ended
	}
	cold := final && (v.Cold || wakeFailed(v))
	why := "busy"
	if cold {
		why = "cold"
	}
	ctx, span := t.tracer.Start(parent, "wait", trace.WithTimestamp(v.At.Add(try.Queued)), trace.WithAttributes(keyWhy.String(why)))
	if cold {
		if woken := t.woken(v); woken != nil {
			if wake := t.wake(ctx, v, woken); wake.IsValid() {
				span.AddLink(trace.Link{SpanContext: wake})
			}
		}
	}
	span.End(trace.WithTimestamp(v.At.Add(until)))
}

// woken is the backend whose wake a request waited for.
func (t *Tracer) woken(v *proxy.Visit) *router.Backend {
	if !wakeFailed(v) {
		return v.Served
	}
	model, ok := t.Fleet().Model(v.Model)
	if !ok {
		return nil
	}
	var last *router.Backend
	for _, b := range model.Backends {
		if b.State == router.Failed && b.Since.After(v.At) && (last == nil || b.Since.After(last.Since)) {
			last = b
		}
	}
	return last
}

// between makes a span of which only the times are known. It makes none where they are not.
func (t *Tracer) between(parent context.Context, name string, from, till time.Time, all ...attribute.KeyValue) {
	if from.IsZero() || till.IsZero() || till.Before(from) {
		return
	}
	_, span := t.tracer.Start(parent, name, trace.WithTimestamp(from), trace.WithAttributes(all...))
	span.End(trace.WithTimestamp(till))
}
