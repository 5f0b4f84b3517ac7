// Package otlpsim is a receiver of OTLP, by HTTP and gRPC, that keeps the spans it is sent for tests to look at.
package otlpsim

import (
	"compress/gzip"
	"context"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"maps"
	"net"
	"net/http"
	"strings"
	"sync"
	"time"

	collector "go.opentelemetry.io/proto/otlp/collector/trace/v1"
	common "go.opentelemetry.io/proto/otlp/common/v1"
	otlp "go.opentelemetry.io/proto/otlp/trace/v1"
	"google.golang.org/grpc"
	"google.golang.org/grpc/metadata"
	"google.golang.org/protobuf/proto"
)

// Span is a span, as far as tests look at it.
type Span struct {
	Trace, ID, Parent string // in hexadecimal digits; Parent is empty where there is none
	Name              string
	Kind              string // as in SPAN_KIND_SERVER
	From, Till        time.Time
	Attributes        map[string]any // strings, bools, int64s, float64s and slices of them
	Links             []Link
	Events            []string // their names
	Failed            bool     // its status is an error
	Resource          map[string]any
}

// Link names another span.
type Link struct{ Trace, ID string }

// Receiver keeps what it is sent.
type Receiver struct {
	collector.UnimplementedTraceServiceServer
	HTTP, GRPC string // where it listens: host:port

	// Refuse has everything refused from now on. It may be set before anything is sent.
	Refuse bool

	mu      sync.Mutex // guards what follows
	spans   []Span
	headers map[string]string // of the last request; the names are in small letters
}

// Start listens on loopback, until ctx ends.
func Start(ctx context.Context) (*Receiver, error) {
	r := &Receiver{headers: map[string]string{}}
	byHTTP, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		return nil, fmt.Errorf("listen for OTLP by HTTP: %w", err)
	}
	byGRPC, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		return nil, fmt.Errorf("listen for OTLP by gRPC: %w", errors.Join(err, byHTTP.Close()))
	}
	r.HTTP, r.GRPC = byHTTP.Addr().String(), byGRPC.Addr().String()
	mux := http.NewServeMux()
	mux.HandleFunc("POST /v1/traces", r.receive)
	pages := &http.Server{Handler: mux, ReadHeaderTimeout: time.Minute}
	calls := grpc.NewServer()
	collector.RegisterTraceServiceServer(calls, r)
	go pages.Serve(byHTTP) //nolint:errcheck // it ends with ctx
	go calls.Serve(byGRPC) //nolint:errcheck // likewise
	context.AfterFunc(ctx, func() {
		pages.Close() //nolint:errcheck // nobody is left to tell
		calls.Stop()
	})
	return r, nil
}

// Spans are those that have come so far.
func (r *Receiver) Spans() []Span {
	r.mu.Lock()
	defer r.mu.Unlock()
	return append([]Span(nil), r.spans...)
}

// Header is a header, or metadata, of the last request.
func (r *Receiver) Header(name string) string {
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.headers[name]
}

// receive takes in spans by HTTP.
func (r *Receiver) receive(w http.ResponseWriter, req *http.Request) {
	var from io.Reader = req.Body
	if req.Header.Get("Content-Encoding") == "gzip" {
		z, err := gzip.NewReader(req.Body)
		if err != nil {
			http.Error(w, err.Error(), http.StatusBadRequest)
			return
		}
		from = z
	}
	body, err := io.ReadAll(from)
	message := &collector.ExportTraceServiceRequest{}
	if err == nil {
		err = proto.Unmarshal(body, message)
	}
	switch {
	case err != nil:
		http.Error(w, err.Error(), http.StatusBadRequest)
		return
	case r.Refuse:
		http.Error(w, "refused", http.StatusForbidden)
		return
	}
	headers := map[string]string{}
	for name := range req.Header {
		headers[strings.ToLower(name)] = req.Header.Get(name)
	}
	r.take(message, headers)
	w.Header().Set("Content-Type", "application/x-protobuf")
}

// Export takes in spans by gRPC.
func (r *Receiver) Export(ctx context.Context, message *collector.ExportTraceServiceRequest) (*collector.ExportTraceServiceResponse, error) {
	headers := map[string]string{}
	md, _ := metadata.FromIncomingContext(ctx)
	for name, values := range md {
		headers[name] = values[0]
	}
	r.take(message, headers)
	return &collector.ExportTraceServiceResponse{}, nil
}

func (r *Receiver) take(message *collector.ExportTraceServiceRequest, headers map[string]string) {
	r.mu.Lock()
	defer r.mu.Unlock()
	maps.Copy(r.headers, headers)
	for _, resource := range message.ResourceSpans {
		of := attributes(resource.Resource.GetAttributes())
		for _, scope := range resource.ScopeSpans {
			for _, s := range scope.Spans {
				r.spans = append(r.spans, span(s, of))
			}
		}
	}
}

func span(s *otlp.Span, resource map[string]any) Span {
	to := Span{
		Trace: hex.EncodeToString(s.TraceId), ID: hex.EncodeToString(s.SpanId), Parent: hex.EncodeToString(s.ParentSpanId),
		Name: s.Name, Kind: s.Kind.String(), From: at(s.StartTimeUnixNano), Till: at(s.EndTimeUnixNano),
		Attributes: attributes(s.Attributes), Failed: s.Status.GetCode() == otlp.Status_STATUS_CODE_ERROR, Resource: resource,
	}
	for _, l := range s.Links {
		to.Links = append(to.Links, Link{hex.EncodeToString(l.TraceId), hex.EncodeToString(l.SpanId)})
	}
	for _, e := range s.Events {
		to.Events = append(to.Events, e.Name)
	}
	return to
}

func at(nano uint64) time.Time { return time.Unix(0, int64(nano)) }

func attributes(all []*common.KeyValue) map[string]any {
	to := map[string]any{}
	for _, a := range all {
		to[a.Key] = value(a.Value)
	}
	return to
}

func value(v *common.AnyValue) any {
	switch v := v.GetValue().(type) {
	case *common.AnyValue_StringValue:
		return v.StringValue
	case *common.AnyValue_BoolValue:
		return v.BoolValue
	case *common.AnyValue_IntValue:
		return v.IntValue
	case *common.AnyValue_DoubleValue:
		return v.DoubleValue
	case *common.AnyValue_ArrayValue:
		var all []any
		for _, each := range v.ArrayValue.Values {
			all = append(all, value(each))
		}
		return all
	}
	return nil
}
