// Package trace makes OpenTelemetry's spans of visits, when they have ended: whether a request is worth a trace is known only then, and one that is not costs
// next to nothing. It is a proxy.Listener. Spans of GPU time follow when that is settled, spans of wakes with the first request that waited for one.
package trace
