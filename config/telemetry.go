package config

import (
	"cmp"
	"fmt"
	"math"
	"net/url"
	"path/filepath"
	"slices"
	"strconv"
)

// Telemetry is where traces go, and which requests have one. Metrics need nothing of it: Prometheus asks the admin port for them.
type Telemetry struct {
	// Endpoint is the URL of a receiver of OTLP, as in http://127.0.0.1:4318, or http://127.0.0.1:4317 for gRPC; https speaks TLS. Default: what
	// the environment says in OTEL_EXPORTER_OTLP_TRACES_ENDPOINT or OTEL_EXPORTER_OTLP_ENDPOINT. If that says nothing, nothing is traced.
	// Where this section is silent the rest of OTEL_EXPORTER_OTLP_* counts, too, such as OTEL_EXPORTER_OTLP_COMPRESSION.
	Endpoint string `yaml:"endpoint,omitempty"`
	// Protocol is grpc or http/protobuf. Default: what OTEL_EXPORTER_OTLP_TRACES_PROTOCOL or OTEL_EXPORTER_OTLP_PROTOCOL says, else grpc for port
	// 4317 and http/protobuf for others.
	Protocol OTLPProtocol `yaml:"protocol,omitempty"`
	// Headers are sent to the receiver with everything. Default: those of OTEL_EXPORTER_OTLP_HEADERS.
	Headers map[string]string `yaml:"headers,omitempty"`
	// SecretHeaders are more of them: each value is the path of a file that holds the header's. They are read at the start.
	SecretHeaders map[string]string `yaml:"secret_headers,omitempty"`
	// CA is the path of the authorities, as PEM, that must have signed the receiver's certificate. Default: those that this host trusts.
	CA string `yaml:"ca,omitempty"`
	// Ratio is the part of the requests whose traces are kept from the beginning, where the client has not decided: from 0 to 1. Default 1.
	Ratio Ratio `yaml:"ratio"`
	// Keep says which requests are kept in any case: cold, those that waited for a wake; errors, those that broke or were refused with a 5xx; slow,
	// those whose first token took slow or longer. Default [cold errors slow]; [] keeps none.
	Keep []KeepTrace `yaml:"keep"`
	// Slow is the time to the first token, or byte, from which a request is slow. Default 10s.
	Slow Duration `yaml:"slow"`
	// Clients says what becomes of the trace that a client says its request is part of: follow, it goes on here, and the client has decided
	// whether it is kept; link, a trace of our own begins, which is linked with the client's; ignore. Use link where clients are not trusted.
	// What they bring as baggage goes no further in any case. Default follow.
	Clients ClientTraces `yaml:"clients"`
	// Queue is how many spans may wait to be sent. More are dropped, and counted in pilotlight_spans_total. Default 8192.
	Queue int `yaml:"queue"`
}

func defaultTelemetry() Telemetry {
	const second = 1e9
	return Telemetry{Ratio: 1, Keep: keepTraces(), Slow: 10 * second, Clients: FollowTraces, Queue: 8192}
}

// OTLPProtocol is how OTLP is spoken.
type OTLPProtocol string

// The protocols.
const (
	OTLPgRPC OTLPProtocol = "grpc"
	OTLPHTTP OTLPProtocol = "http/protobuf"
)

// UnmarshalText reads a protocol.
func (p *OTLPProtocol) UnmarshalText(text []byte) error {
	return oneOf(p, text, "protocol", otlpProtocols())
}

func otlpProtocols() []OTLPProtocol { return []OTLPProtocol{OTLPgRPC, OTLPHTTP} }

// KeepTrace is a reason for which a request's trace is kept.
type KeepTrace string

// The reasons.
const (
	KeepCold   KeepTrace = "cold"
	KeepErrors KeepTrace = "errors"
	KeepSlow   KeepTrace = "slow"
)

// UnmarshalText reads a reason.
func (k *KeepTrace) UnmarshalText(text []byte) error {
	return oneOf(k, text, "reason to keep a trace", keepTraces())
}

func keepTraces() []KeepTrace { return []KeepTrace{KeepCold, KeepErrors, KeepSlow} }

// ClientTraces says what becomes of clients' traces.
type ClientTraces string

// What becomes of them.
const (
	FollowTraces ClientTraces = "follow"
	LinkTraces   ClientTraces = "link"
	IgnoreTraces ClientTraces = "ignore"
)

// UnmarshalText reads what becomes of clients' traces.
func (c *ClientTraces) UnmarshalText(text []byte) error {
	return oneOf(c, text, "way to treat clients' traces", clientTraces())
}

func clientTraces() []ClientTraces { return []ClientTraces{FollowTraces, LinkTraces, IgnoreTraces} }

// SendTrace says which requests take their trace along to a backend.
type SendTrace string

// Which requests do.
const (
	SendAlways  SendTrace = "always"
	SendSampled SendTrace = "sampled"
	SendNever   SendTrace = "never"
)

// UnmarshalText reads which requests take their trace along.
func (s *SendTrace) UnmarshalText(text []byte) error {
	return oneOf(s, text, "choice of requests that take their trace along", sendTraces())
}

func sendTraces() []SendTrace { return []SendTrace{SendAlways, SendSampled, SendNever} }

// Sends says which requests take their trace along to the backend. Triton traces every request that names a trace, kept or not.
func (b *Backend) Sends() SendTrace {
	other := SendAlways
	if b.Engine == Triton {
		other = SendSampled
	}
	return cmp.Or(b.Trace, other)
}

// Ratio is a part of a whole.
type Ratio float64

// UnmarshalText reads a number from 0 to 1.
func (r *Ratio) UnmarshalText(text []byte) error {
	n, err := strconv.ParseFloat(string(text), 64)
	if err != nil || math.IsNaN(n) || n < 0 || n > 1 {
		return fmt.Errorf("%s is not a ratio; it is a number from 0 to 1, as in 0.01", quote(string(text)))
	}
	*r = Ratio(n)
	return nil
}

func (t *Telemetry) check(at *place) {
	if given := at.get("endpoint"); given != nil && !given.bad {
		u, err := url.Parse(t.Endpoint)
		if err != nil || u.Scheme != "http" && u.Scheme != "https" || u.Host == "" {
			given.problem("%s is no URL of a receiver; write one like http://127.0.0.1:4318", quote(t.Endpoint))
		} else if t.CA != "" && u.Scheme != "https" {
			at.problemIn("ca", "ca is for a receiver that speaks TLS, and endpoint begins with http://")
		}
	}
	if t.CA != "" && !filepath.IsAbs(t.CA) {
		at.problemIn("ca", "%s is not a whole path", quote(t.CA))
	}
	if at := at.below("queue"); t.Queue == 0 && !at.bad {
		at.problem("telemetry.queue is 0; no span could be sent")
	}
	for name := range t.SecretHeaders {
		if _, both := t.Headers[name]; both {
			at.problemIn("secret_headers", "the header %s is in headers, too", quote(name))
		}
	}
}

// Keeps says whether requests are kept for a reason.
func (t *Telemetry) Keeps(k KeepTrace) bool { return slices.Contains(t.Keep, k) }
