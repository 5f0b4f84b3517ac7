package trace

import (
	"context"
	"encoding/binary"
	"fmt"
	"log/slog"
	"os"
	"sync"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"go.opentelemetry.io/otel"
	"go.opentelemetry.io/otel/sdk/resource"
	sdk "go.opentelemetry.io/otel/sdk/trace"
	semconv "go.opentelemetry.io/otel/semconv/v1.43.0"
	"go.opentelemetry.io/otel/trace"

	"pilotlight/config"
	"pilotlight/proxy"
	"pilotlight/router"
)

// Options are what a Tracer is made of.
type Options struct {
	Config  config.Telemetry
	Edge    string // what this edge is called
	Version string // of pilotlight
	Log     *slog.Logger
	// Registry gets the counts of spans.
	Registry prometheus.Registerer
	// Cost is what GPU time of a backend costs, in billionths of Currency. If nil, nothing has a price.
	Cost     func(backend string, gpu time.Duration) int64
	Currency string
	// Fleet is asked which wake failed that a request waited for.
	Fleet func() *router.Fleet
}

// Tracer makes spans of visits and sends them. It is a proxy.Listener. The nil Tracer traces nothing.
type Tracer struct {
	Options
	keeps     keeps
	threshold uint64 // of the lower 63 bits of a trace's ID: those below it are kept
	provider  *sdk.TracerProvider
	tracer    trace.Tracer

	mu    sync.Mutex           // guards what follows
	late  halves[uint64, late] // of requests that have ended, whose traces are kept
	early halves[uint64, late] // of all others
	wakes halves[wakeKey, trace.SpanContext]
}

// keeps is what is kept in any case.
type keeps struct{ cold, errors, slow bool }

// How much is remembered: of requests whose GPU time is not settled, and of wakes that more requests may have waited for.
const (
	maxLate  = 1 << 14
	maxWakes = 1 << 10
)

// patience is how long GPU time is waited for at least before it is told without what is still to come. Whoever measures needs some seconds.
const patience = time.Minute

// New makes a Tracer; nil where nothing says where traces go.
func New(ctx context.Context, o Options) (*Tracer, error) {
	if o.Config.Endpoint == "" && !inEnvironment() {
		return nil, nil
	}
	exporter, err := newExporter(ctx, o.Config)
	if err != nil {
		return nil, fmt.Errorf("send traces: %w", err)
	}
	about, err := resource.New(ctx, resource.WithTelemetrySDK(), resource.WithHost(),
		resource.WithAttributes(semconv.ServiceName("pilotlight"), semconv.ServiceVersion(o.Version), semconv.ServiceInstanceID(o.Edge)),
		resource.WithFromEnv(), resource.WithSchemaURL(semconv.SchemaURL))
	if err != nil {
		return nil, fmt.Errorf("send traces: %w", err)
	}
	otel.SetErrorHandler(otel.ErrorHandlerFunc(func(err error) { o.Log.Warn("OpenTelemetry", "error", err) }))
	t := &Tracer{
		Options: o, keeps: keeps{cold: o.Config.Keeps(config.KeepCold), errors: o.Config.Keeps(config.KeepErrors), slow: o.Config.Keeps(config.KeepSlow)}, threshold: uint64(float64(o.Config.Ratio) * (1 << 63)),
		late: newHalves[uint64, late](maxLate, patience), early: newHalves[uint64, late](maxLate, patience), wakes: newHalves[wakeKey, trace.SpanContext](maxWakes, 0),
	}
	t.provider = sdk.NewTracerProvider(sdk.WithIDGenerator(generator{}), sdk.WithSampler(sdk.AlwaysSample()), sdk.WithResource(about),
		sdk.WithSpanProcessor(newGate(exporter, o.Config.Queue, o.Log, o.Registry)))
	t.tracer = t.provider.Tracer("pilotlight", trace.WithInstrumentationVersion(o.Version), trace.WithSchemaURL(semconv.SchemaURL))
	return t, nil
}

// inEnvironment says whether the environment names a receiver, as OpenTelemetry has it.
func inEnvironment() bool {
	if os.Getenv("OTEL_SDK_DISABLED") == "true" || os.Getenv("OTEL_TRACES_EXPORTER") == "none" {
		return false
	}
	return os.Getenv("OTEL_EXPORTER_OTLP_ENDPOINT") != "" || os.Getenv("OTEL_EXPORTER_OTLP_TRACES_ENDPOINT") != ""
}

// Tracing is what the edge asks of the Tracer; nil for the nil Tracer.
func (t *Tracer) Tracing() *proxy.Tracing {
	if t == nil {
		return nil
	}
	return &proxy.Tracing{Clients: t.Config.Clients, Cold: t.keeps.cold, Sample: t.sample, Keep: t.keep}
}

// sample decides as OpenTelemetry's TraceIDRatioBased does.
func (t *Tracer) sample(id [16]byte) bool {
	return binary.BigEndian.Uint64(id[8:])>>1 < t.threshold
}

// keep says whether a request is kept for what became of it.
func (t *Tracer) keep(v *proxy.Visit) bool {
	switch {
	case t.keeps.cold && v.Cold, t.keeps.errors && failed(v):
		return true
	}
	first := v.FirstToken
	if first == 0 {
		first = v.FirstByte
	}
	return t.keeps.slow && first >= t.Config.Slow.Std()
}

// failed says that a request was not answered for a reason that is not the client's.
func failed(v *proxy.Visit) bool {
	switch v.Outcome {
	case router.Broken:
		return true
	case router.Refused:
		return v.Status >= 500 || wakeFailed(v)
	case router.OK, router.Left:
	}
	return false
}

func wakeFailed(v *proxy.Visit) bool {
	return v.Code == router.WakeFailed || v.Code == router.WakeStalled
}

// Close tells what is not settled as far as it is, and returns when all has been sent, or ctx ends.
func (t *Tracer) Close(ctx context.Context) error {
	if t == nil {
		return nil
	}
	t.mu.Lock()
	rest := []map[uint64]late{t.late.young, t.late.old}
	t.late = newHalves[uint64, late](maxLate, patience)
	t.mu.Unlock()
	for _, forgotten := range rest {
		t.forget(forgotten)
	}
	if err := t.provider.Shutdown(ctx); err != nil {
		return fmt.Errorf("send the last traces: %w", err)
	}
	return nil
}
