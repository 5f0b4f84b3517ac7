package main

import (
	"context"
	"errors"
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"pilotlight/proxy"
	"pilotlight/proxy/ledger"
	"pilotlight/proxy/trace"
	"pilotlight/router"
)

// sendTime is how long the end of an edge waits until the last spans have been sent.
const sendTime = 5 * time.Second

// openTraces makes what traces this edge's requests; nil where nothing says where traces go.
func (s site) openTraces(ctx context.Context, edge string, fleet func() *router.Fleet, p *pricer, registry prometheus.Registerer) (*trace.Tracer, error) {
	return trace.New(ctx, trace.Options{
		Config: s.cfg.Telemetry, Edge: edge, Version: version(), Log: s.log, Registry: registry, Fleet: fleet, Currency: currency(s.cfg),
		Cost: func(backend string, gpu time.Duration) int64 { return ledger.Cost(gpu, p.of(backend, "").Nano) },
	})
}

// closeTraces sends what there is left to send.
func (s site) closeTraces(ctx context.Context, t *trace.Tracer) {
	ctx, cancel := context.WithTimeoutCause(context.WithoutCancel(ctx), sendTime, errors.New("the receiver took too long"))
	defer cancel()
	if err := t.Close(ctx); err != nil {
		s.log.Warn("traces are lost", "error", err)
	}
}

// listeners are who hears of requests.
func listeners(l *ledger.Ledger, t *trace.Tracer) (all []proxy.Listener) {
	if l != nil {
		all = append(all, l)
	}
	if t != nil {
		all = append(all, t)
	}
	return all
}
