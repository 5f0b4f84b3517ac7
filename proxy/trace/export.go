package trace

import (
	"cmp"
	"context"
	"crypto/tls"
	"crypto/x509"
	"fmt"
	"log/slog"
	"maps"
	"net/url"
	"os"
	"strings"
	"sync/atomic"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"go.opentelemetry.io/otel/exporters/otlp/otlptrace"
	"go.opentelemetry.io/otel/exporters/otlp/otlptrace/otlptracegrpc"
	"go.opentelemetry.io/otel/exporters/otlp/otlptrace/otlptracehttp"
	sdk "go.opentelemetry.io/otel/sdk/trace"
	"google.golang.org/grpc/credentials"

	"pilotlight/config"
)

// newExporter makes what sends spans. Where the configuration is silent the exporters go by the environment.
func newExporter(ctx context.Context, cfg config.Telemetry) (*otlptrace.Exporter, error) {
	headers, err := headersOf(cfg)
	if err != nil {
		return nil, err
	}
	authorities, err := authoritiesOf(cfg.CA)
	if err != nil {
		return nil, err
	}
	to := &receiver{cfg: cfg, headers: headers, authorities: authorities}
	if to.protocol() == config.OTLPgRPC {
		return to.byGRPC(ctx)
	}
	return to.byHTTP(ctx)
}

// receiver is where spans go.
type receiver struct {
	cfg         config.Telemetry
	headers     map[string]string
	authorities *tls.Config // nil: those that this host trusts
}

// protocol is what is spoken with the receiver.
func (r *receiver) protocol() config.OTLPProtocol {
	said := cmp.Or(string(r.cfg.Protocol), os.Getenv("OTEL_EXPORTER_OTLP_TRACES_PROTOCOL"), os.Getenv("OTEL_EXPORTER_OTLP_PROTOCOL"))
	if said != "" {
		return config.OTLPProtocol(said)
	}
	endpoint := cmp.Or(r.cfg.Endpoint, os.Getenv("OTEL_EXPORTER_OTLP_TRACES_ENDPOINT"), os.Getenv("OTEL_EXPORTER_OTLP_ENDPOINT"))
	if u, err := url.Parse(endpoint); err == nil && u.Port() == "4317" {
		return config.OTLPgRPC
	}
	return config.OTLPHTTP
}

func (r *receiver) byGRPC(ctx context.Context) (*otlptrace.Exporter, error) {
	var options []otlptracegrpc.Option
	if r.cfg.Endpoint != "" {
		options = append(options, otlptracegrpc.WithEndpointURL(r.cfg.Endpoint))
	}
	if len(r.headers) > 0 {
		options = append(options, otlptracegrpc.WithHeaders(r.headers))
	}
	if r.authorities != nil {
		options = append(options, otlptracegrpc.WithTLSCredentials(credentials.NewTLS(r.authorities)))
	}
	return otlptracegrpc.New(ctx, options...)
}

func (r *receiver) byHTTP(ctx context.Context) (*otlptrace.Exporter, error) {
	var options []otlptracehttp.Option
	if r.cfg.Endpoint != "" {
		u, err := url.Parse(r.cfg.Endpoint)
		if err != nil {
			return nil, err
		}
		if u.Path == "" || u.Path == "/" {
			u.Path = "/v1/traces"
		}
		options = append(options, otlptracehttp.WithEndpointURL(u.String()))
	}
	if len(r.headers) > 0 {
		options = append(options, otlptracehttp.WithHeaders(r.headers))
	}
	if r.authorities != nil {
		options = append(options, otlptracehttp.WithTLSClientConfig(r.authorities))
	}
	return otlptracehttp.New(ctx, options...)
}

// headersOf are those of the configuration, with those that files hold.
func headersOf(cfg config.Telemetry) (map[string]string, error) {
	all := maps.Clone(cfg.Headers)
	if all == nil {
		all = map[string]string{}
	}
	for name, file := range cfg.SecretHeaders {
		value, err := os.ReadFile(file)
		if err != nil {
			return nil, fmt.Errorf("read the header %s: %w", name, err)
		}
		all[name] = strings.TrimSpace(string(value))
	}
	return all, nil
}

func authoritiesOf(file string) (*tls.Config, error) {
	if file == "" {
		return nil, nil
	}
	text, err := os.ReadFile(file)
	if err != nil {
		return nil, fmt.Errorf("read the authorities: %w", err)
	}
	pool := x509.NewCertPool()
	if !pool.AppendCertsFromPEM(text) {
		return nil, fmt.Errorf("%s holds no certificate", file)
	}
	return &tls.Config{RootCAs: pool, MinVersion: tls.VersionTLS12}, nil
}

// gate bounds the spans that wait to be sent, and counts what becomes of all of them: the SDK's own processor, to which it hands them, drops silently
// what it has no room for. So it is given no more than it has room for.
type gate struct {
	sdk.SpanProcessor
	sender  *sender
	most    int64
	waiting atomic.Int64
	closed  atomic.Bool
}

// sender sends spans, and says what became of them.
type sender struct {
	sdk.SpanExporter
	gate    *gate
	log     *slog.Logger
	sent    prometheus.Counter
	failed  prometheus.Counter
	dropped prometheus.Counter
	said    time.Time // when it was last said that sending fails; the processor sends one batch at a time
}

func newGate(to sdk.SpanExporter, queue int, log *slog.Logger, registry prometheus.Registerer) *gate {
	spans := prometheus.NewCounterVec(prometheus.CounterOpts{
		Name: "pilotlight_spans_total", Help: "Spans, by what became of them: sent; failed, where the receiver did not take them; dropped, where too many waited to be sent.",
	}, []string{"result"})
	g := &gate{most: int64(queue)}
	g.sender = &sender{
		SpanExporter: to, gate: g, log: log,
		sent: spans.WithLabelValues("sent"), failed: spans.WithLabelValues("failed"), dropped: spans.WithLabelValues("dropped"),
	}
	registry.MustRegister(spans, prometheus.NewGaugeFunc(prometheus.GaugeOpts{Name: "pilotlight_spans_waiting", Help: "Spans that wait to be sent."},
		func() float64 { return float64(g.waiting.Load()) }))
	g.SpanProcessor = sdk.NewBatchSpanProcessor(g.sender, sdk.WithMaxQueueSize(queue), sdk.WithMaxExportBatchSize(min(queue, sdk.DefaultMaxExportBatchSize)))
	return g
}

// OnEnd takes a span, or drops it.
func (g *gate) OnEnd(s sdk.ReadOnlySpan) {
	switch {
	case g.closed.Load():
		g.sender.dropped.Inc()
	case g.waiting.Add(1) > g.most:
		g.waiting.Add(-1)
		g.sender.dropped.Inc()
	default:
		g.SpanProcessor.OnEnd(s)
	}
}

// Shutdown sends what waits.
func (g *gate) Shutdown(ctx context.Context) error {
	g.closed.Store(true)
	return g.SpanProcessor.Shutdown(ctx)
}

// quiet is how often it is said at most that spans cannot be sent.
const quiet = time.Minute

// ExportSpans sends a batch. What fails has been tried again for as long as it may be.
func (s *sender) ExportSpans(ctx context.Context, spans []sdk.ReadOnlySpan) error {
	err := s.SpanExporter.ExportSpans(ctx, spans)
	s.gate.waiting.Add(-int64(len(spans)))
	if err == nil {
		s.sent.Add(float64(len(spans)))
		return nil
	}
	s.failed.Add(float64(len(spans)))
	if now := time.Now(); now.Sub(s.said) >= quiet {
		s.said = now
		s.log.Warn("spans could not be sent", "spans", len(spans), "error", err)
	}
	return nil
}
