package trace

import (
	"context"
	"io"
	"log/slog"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/testutil"

	"pilotlight/config"
	"pilotlight/loadtest/otlpsim"
	"pilotlight/proxy"
	"pilotlight/router"
)

// rig is a Tracer and who receives its spans.
type rig struct {
	*Tracer
	t        *testing.T
	received *otlpsim.Receiver
	registry *prometheus.Registry
}

func newRig(t *testing.T, change func(*Options, *otlpsim.Receiver)) *rig {
	t.Helper()
	received, err := otlpsim.Start(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	r := &rig{t: t, received: received, registry: prometheus.NewRegistry()}
	o := Options{
		Config: config.Telemetry{
			Endpoint: "http://" + received.HTTP, Ratio: 1, Queue: 100, Slow: config.Duration(10 * time.Second),
			Keep: []config.KeepTrace{config.KeepCold, config.KeepErrors, config.KeepSlow},
		},
		Edge: "here:8080", Version: "v1", Log: slog.New(slog.DiscardHandler), Registry: r.registry,
		Currency: "USD", Cost: func(_ string, gpu time.Duration) int64 { return int64(gpu) },
	}
	if change != nil {
		change(&o, received)
	}
	if r.Tracer, err = New(t.Context(), o); err != nil {
		t.Fatal(err)
	}
	return r
}

// close sends everything, and gives what was received by its name.
func (r *rig) close() map[string][]otlpsim.Span {
	r.t.Helper()
	if err := r.Close(context.WithoutCancel(r.t.Context())); err != nil {
		r.t.Fatal(err)
	}
	by := map[string][]otlpsim.Span{}
	for _, s := range r.received.Spans() {
		by[s.Name] = append(by[s.Name], s)
	}
	return by
}

// spans is a count of spans by what became of them.
func (r *rig) spans(result string) float64 {
	r.t.Helper()
	all, err := r.registry.Gather()
	if err != nil {
		r.t.Fatal(err)
	}
	for _, f := range all {
		for _, m := range f.Metric {
			if f.GetName() == "pilotlight_spans_total" && m.Label[0].GetValue() == result {
				return m.Counter.GetValue()
			}
		}
	}
	r.t.Fatalf("no spans are counted as %s", result)
	return 0
}

var came = time.Date(2026, 11, 26, 12, 0, 0, 0, time.UTC)

// visit is a kept request that waited for a wake.
func visit(number uint64) *proxy.Visit {
	ready := came.Add(4 * time.Second)
	b := &router.Backend{
		ID: "b-0", Model: "b", Node: "gpu-1", Addr: "127.0.0.1:9000", Engine: config.VLLM, GPUs: []int{1}, State: router.Ready,
		Woken: router.Woken{
			From: router.OnHost, Wanted: came.Add(time.Millisecond), Evicted: []string{"a-0"}, Left: came.Add(time.Second), Room: came.Add(1500 * time.Millisecond),
			Answered: came.Add(2 * time.Second), Ready: ready,
		},
	}
	return &proxy.Visit{
		Number: number, At: came, Client: "192.0.2.1", Method: "POST", Path: "/v1/chat/completions", Model: "b", Backend: "b-0", Status: 200, Outcome: router.OK,
		Cold: true, Waited: 4 * time.Second, FirstByte: 5 * time.Second, FirstToken: 5 * time.Second, Total: 8 * time.Second, PromptTokens: 12, Tokens: 34,
		Context: proxy.Context{Trace: [16]byte{1, 2}, Span: [8]byte{byte(number), 9}, Flags: 3},
		Last:    proxy.Try{Stood: true, Queued: time.Millisecond, Leased: 4 * time.Second, Asked: 4 * time.Second}, Served: b,
	}
}

func share(number uint64, gpu time.Duration, final bool) *proxy.Share {
	return &proxy.Share{ID: number, Model: "b", Backend: "b-0", GPU: gpu, Joules: 10, Method: "nvml", Final: final, At: came.Add(8 * time.Second)}
}

func TestOneTreeShowsWhatAColdRequestTook(t *testing.T) {
	for protocol, endpoint := range map[config.OTLPProtocol]func(*otlpsim.Receiver) string{
		config.OTLPHTTP: func(r *otlpsim.Receiver) string { return r.HTTP },
		config.OTLPgRPC: func(r *otlpsim.Receiver) string { return r.GRPC },
	} {
		t.Run(string(protocol), func(t *testing.T) {
			secret := filepath.Join(t.TempDir(), "secret")
			if err := os.WriteFile(secret, []byte("Bearer x\n"), 0o600); err != nil {
				t.Fatal(err)
			}
			r := newRig(t, func(o *Options, received *otlpsim.Receiver) {
				o.Config.Endpoint, o.Config.Protocol = "http://"+endpoint(received), protocol
				o.Config.Headers, o.Config.SecretHeaders = map[string]string{"x-scope": "ml"}, map[string]string{"authorization": secret}
			})
			r.Ended(visit(1))
			r.Settled(share(1, 2*time.Second, false))
			r.Settled(share(1, time.Second, true))
			by := r.close()
			parent := func(name, want string) otlpsim.Span {
				t.Helper()
				if len(by[name]) != 1 {
					t.Fatalf("there are %d spans %s, want 1", len(by[name]), name)
				}
				s := by[name][0]
				if want != "" && (len(by[want]) != 1 || s.Parent != by[want][0].ID || s.Trace != by[want][0].Trace) {
					t.Errorf("%s is below %s, want %s", name, s.Parent, want)
				}
				return s
			}
			const root = "POST /v1/chat/completions"
			server := parent(root, "")
			wait, upstream, gpu, wake := parent("wait", root), parent("upstream "+root, root), parent("gpu", root), parent("wake b", "wait")
			for _, phase := range []string{"evict", "memory", "start", "weights", "first token"} {
				parent(phase, "wake b")
			}
			if !slices.Equal(wait.Links, []otlpsim.Link{{Trace: wake.Trace, ID: wake.ID}}) {
				t.Errorf("the wait is linked with %v, want the wake", wait.Links)
			}
			if server.ID != "0109000000000000" || upstream.ID != "0109000000000001" {
				t.Errorf("the IDs are %s and %s; others were told", server.ID, upstream.ID)
			}
			if !gpu.From.Equal(came.Add(4*time.Second)) || !gpu.Till.Equal(came.Add(8*time.Second)) {
				t.Errorf("the gpu span is from %s until %s", gpu.From, gpu.Till)
			}
			wantAttributes(t, server, map[string]any{
				"faas.coldstart": true, "http.request.method": "POST", "http.response.status_code": int64(200), "gen_ai.operation.name": "chat",
				"gen_ai.request.model": "b", "gen_ai.usage.output_tokens": int64(34), "pilotlight.outcome": "ok",
			})
			wantAttributes(t, upstream, map[string]any{"server.address": "127.0.0.1", "server.port": int64(9000), "gen_ai.provider.name": "vllm", "pilotlight.node": "gpu-1"})
			wantAttributes(t, gpu, map[string]any{
				"pilotlight.gpu.time": 3.0, "pilotlight.gpu.energy": 20.0, "pilotlight.gpu.method": "nvml", "pilotlight.gpu.complete": true,
				"pilotlight.gpu.cost": 3.0, "pilotlight.gpu.currency": "USD", "hw.type": "gpu",
			})
			if server.Resource["service.name"] != "pilotlight" || server.Resource["service.instance.id"] != "here:8080" {
				t.Errorf("the resource is %v", server.Resource)
			}
			if scope, key := r.received.Header("x-scope"), r.received.Header("authorization"); scope != "ml" || key != "Bearer x" {
				t.Errorf("the headers are %q and %q", scope, key)
			}
		})
	}
}

func wantAttributes(t *testing.T, s otlpsim.Span, want map[string]any) {
	t.Helper()
	for key, value := range want {
		if got := s.Attributes[key]; got != value {
			t.Errorf("%s of %s is %v, want %v", key, s.Name, got, value)
		}
	}
}

func TestAWakeHasOneSpanHoweverManyWaited(t *testing.T) {
	r := newRig(t, nil)
	var all sync.WaitGroup
	for n := range uint64(5) {
		v := visit(n + 1)
		v.Context.Trace = [16]byte{byte(n + 1)}
		all.Go(func() { r.Ended(v) })
	}
	all.Wait()
	by := r.close()
	if len(by["wake b"]) != 1 || len(by["wait"]) != 5 {
		t.Fatalf("there are %d wakes and %d waits, want 1 and 5", len(by["wake b"]), len(by["wait"]))
	}
	wake := by["wake b"][0]
	for _, wait := range by["wait"] {
		if !slices.Equal(wait.Links, []otlpsim.Link{{Trace: wake.Trace, ID: wake.ID}}) {
			t.Errorf("a wait is linked with %v, want %s", wait.Links, wake.ID)
		}
	}
}

func TestAWakeThatFailedIsWhatItsWaitersAreLinkedWith(t *testing.T) {
	failed := router.Backend{
		ID: "b-0", Model: "b", State: router.Failed, Since: came.Add(3 * time.Second), Reason: "out of GPU memory",
		Woken: router.Woken{Wanted: came.Add(time.Second), Room: came.Add(2 * time.Second)},
	}
	lines := router.New(map[string]config.Model{"b": {}}, nil, slog.New(slog.DiscardHandler))
	lines.Observe(router.Node{Name: "gpu-1", Backends: []router.Backend{failed}})
	r := newRig(t, func(o *Options, _ *otlpsim.Receiver) { o.Fleet = lines.Fleet })
	v := visit(1)
	v.Outcome, v.Code, v.Status, v.Cold, v.Served, v.Backend = router.Refused, router.WakeFailed, 503, false, nil, ""
	v.Last = proxy.Try{Stood: true, Leased: 3 * time.Second}
	v.Total = 3 * time.Second
	if !r.keep(v) {
		t.Error("it is not kept")
	}
	r.Ended(v)
	by := r.close()
	if len(by["wake b"]) != 1 || !by["wake b"][0].Failed || !by["POST /v1/chat/completions"][0].Failed || len(by["wait"][0].Links) != 1 {
		t.Errorf("got %+v", by)
	}
}

func TestGPUTimeSettlesBeforeOrAfterTheEnd(t *testing.T) {
	r := newRig(t, nil)
	before, after, never, unkept := visit(1), visit(2), visit(3), visit(4)
	unkept.Context.Flags = 0
	r.Settled(share(1, time.Second, true))
	r.Settled(share(4, time.Second, true))
	for _, v := range []*proxy.Visit{before, after, never, unkept} {
		r.Ended(v)
	}
	r.Settled(share(2, time.Second, true))
	r.Settled(share(3, time.Second, false))
	if left := len(r.late.young); left != 1 {
		t.Errorf("%d requests are remembered, want the one that is not settled", left)
	}
	complete := map[any]int{}
	for _, s := range r.close()["gpu"] {
		complete[s.Attributes["pilotlight.gpu.complete"]]++
	}
	if complete[true] != 2 || complete[false] != 1 {
		t.Errorf("complete are %v, want 2 that are and 1 that is not", complete)
	}
}

func TestWhatIsNotSettledIsForgottenInTheEndAndToldBefore(t *testing.T) {
	r := newRig(t, nil)
	r.late.most = 10
	r.Ended(visit(1))
	r.Settled(share(1, time.Second, false))
	r.early.most = 10
	for n := range uint64(30) { // of requests whose traces are not kept, for all that is known
		r.Settled(share(n+2, time.Second, true))
	}
	if _, still := r.late.get(1); !still || len(r.early.young)+len(r.early.old) > 20 {
		t.Errorf("the kept one is remembered: %t, and %d others", still, len(r.early.young)+len(r.early.old))
	}
	for n := range uint64(30) {
		r.Ended(visit(n + 100))
	}
	if n := len(r.late.young) + len(r.late.old); n > 20 {
		t.Errorf("%d are remembered", n)
	}
	if gpu := r.close()["gpu"]; len(gpu) != 1 || gpu[0].Attributes["pilotlight.gpu.complete"] != false {
		t.Errorf("got %+v", gpu)
	}
}

func TestGPUTimeThatIsNeverSettledIsToldAfterAWhile(t *testing.T) {
	h := newHalves[int, int](10, time.Minute)
	h.put(1, 1, came)
	if forgotten := h.put(2, 2, came.Add(time.Minute)); len(forgotten) != 0 {
		t.Errorf("%v are forgotten after a minute", forgotten)
	}
	if forgotten := h.put(2, 3, came.Add(2*time.Minute)); len(forgotten) != 1 || forgotten[1] != 1 {
		t.Errorf("%v are forgotten after two", forgotten)
	}
	if v, ok := h.get(2); !ok || v != 3 {
		t.Errorf("got %d, %v", v, ok)
	}
}

func TestATryThatReachedNobodyHasASpanOfItsOwn(t *testing.T) {
	r := newRig(t, nil)
	v := visit(1)
	v.Tries = []proxy.Try{{Backend: "b-1", Asked: time.Second, Ended: 2 * time.Second}}
	r.Ended(v)
	by := r.close()["upstream POST /v1/chat/completions"]
	if len(by) != 2 {
		t.Fatalf("there are %d tries", len(by))
	}
	slices.SortFunc(by, func(a, b otlpsim.Span) int { return a.From.Compare(b.From) })
	if !by[0].Failed || by[0].Attributes["pilotlight.backend"] != "b-1" || by[1].Failed || by[1].Attributes["http.request.resend_count"] != int64(1) {
		t.Errorf("got %+v", by)
	}
}

func TestSpansThatAreNotSentAreCounted(t *testing.T) {
	refused := newRig(t, func(_ *Options, received *otlpsim.Receiver) { received.Refuse = true })
	refused.Ended(visit(1))
	refused.close()
	if n := refused.spans("failed"); n != 9 || refused.spans("sent") != 0 {
		t.Errorf("%v spans have failed, want all 9", n)
	}
	full := newRig(t, func(o *Options, _ *otlpsim.Receiver) { o.Config.Queue = 3 })
	full.Ended(visit(1))
	full.close()
	got := len(full.received.Spans())
	if sent, dropped := full.spans("sent"), full.spans("dropped"); sent+dropped != 9 || int(sent) != got || dropped == 0 {
		t.Errorf("%v were sent and %v dropped of 9; %d were received", sent, dropped, got)
	}
}

func TestKeep(t *testing.T) {
	for what, c := range map[string]struct {
		change func(*proxy.Visit)
		want   bool
	}{
		"an ordinary one":            {func(*proxy.Visit) {}, false},
		"one that waited for a wake": {func(v *proxy.Visit) { v.Cold = true }, true},
		"one that broke":             {func(v *proxy.Visit) { v.Outcome = router.Broken }, true},
		"a refusal of ours":          {func(v *proxy.Visit) { v.Outcome, v.Status = router.Refused, 503 }, true},
		"a mistake of the client's":  {func(v *proxy.Visit) { v.Outcome, v.Status = router.Refused, 400 }, false},
		"one whose client left":      {func(v *proxy.Visit) { v.Outcome = router.Left }, false},
		"a slow first token":         {func(v *proxy.Visit) { v.FirstToken = 10 * time.Second }, true},
		"a slow first byte":          {func(v *proxy.Visit) { v.FirstToken, v.FirstByte = 0, 11*time.Second }, true},
	} {
		v := visit(1)
		v.Cold, v.FirstToken, v.FirstByte = false, 2*time.Second, time.Second
		c.change(v)
		r := newRig(t, nil)
		if got := r.keep(v); got != c.want {
			t.Errorf("%s is kept: %v", what, got)
		}
		r.keeps = keeps{}
		if r.keep(v) {
			t.Errorf("%s is kept where nothing is", what)
		}
		r.close()
	}
}

func TestTheRatioIsOfTraces(t *testing.T) {
	for ratio, want := range map[config.Ratio][2]int{0: {0, 0}, 0.25: {2200, 2800}, 1: {10000, 10000}} {
		r := newRig(t, func(o *Options, _ *otlpsim.Receiver) { o.Config.Ratio = ratio })
		kept := 0
		for range 10000 {
			id, _ := generator{}.NewIDs(t.Context())
			if r.sample(id) {
				kept++
			}
		}
		if kept < want[0] || kept > want[1] {
			t.Errorf("with %v %d of 10000 are kept", ratio, kept)
		}
		r.close()
	}
}

func TestTheEnvironmentSaysWhereTracesGo(t *testing.T) {
	received, err := otlpsim.Start(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	none, err := New(t.Context(), Options{})
	if none != nil || err != nil || none.Tracing() != nil || none.Close(t.Context()) != nil {
		t.Errorf("got %v, %v where nothing says where to", none, err)
	}
	for protocol, addr := range map[string]string{"grpc": received.GRPC, "http/protobuf": received.HTTP} {
		t.Setenv("OTEL_EXPORTER_OTLP_ENDPOINT", "http://"+addr)
		t.Setenv("OTEL_EXPORTER_OTLP_PROTOCOL", protocol)
		t.Setenv("OTEL_EXPORTER_OTLP_HEADERS", "x-of="+protocol[:4])
		before := len(received.Spans())
		tracer, err := New(t.Context(), Options{Config: config.Telemetry{Queue: 10}, Log: slog.New(slog.DiscardHandler), Registry: prometheus.NewRegistry()})
		if err != nil {
			t.Fatal(err)
		}
		v := visit(1)
		v.Last, v.Served = proxy.Try{}, nil
		tracer.Ended(v)
		if err := tracer.Close(context.WithoutCancel(t.Context())); err != nil {
			t.Error(err)
		}
		if got := len(received.Spans()) - before; got != 1 || received.Header("x-of") != protocol[:4] {
			t.Errorf("%d spans were received by %s, with the header %q", got, protocol, received.Header("x-of"))
		}
	}
	t.Setenv("OTEL_SDK_DISABLED", "true")
	if off, err := New(t.Context(), Options{}); off != nil || err != nil {
		t.Errorf("got %v, %v where the SDK is disabled", off, err)
	}
}

func TestWhatIsSentNowIsNoLongerWaitedFor(t *testing.T) {
	r := newRig(t, nil)
	r.Ended(visit(1))
	r.close()
	if err := testutil.GatherAndCompare(r.registry, wantWaiting(), "pilotlight_spans_waiting"); err != nil {
		t.Error(err)
	}
}

func wantWaiting() *strings.Reader {
	return strings.NewReader("# HELP pilotlight_spans_waiting Spans that wait to be sent.\n# TYPE pilotlight_spans_waiting gauge\npilotlight_spans_waiting 0\n")
}

// BenchmarkRequest is what tracing adds to a request after it has ended: whose trace is not kept, and whose is.
func BenchmarkRequest(b *testing.B) {
	receiver := httptest.NewServer(http.HandlerFunc(func(_ http.ResponseWriter, r *http.Request) { _, _ = io.Copy(io.Discard, r.Body) }))
	defer receiver.Close()
	for name, flags := range map[string]byte{"unsampled": 0, "sampled": 3} {
		b.Run(name, func(b *testing.B) {
			t, err := New(b.Context(), Options{
				Config:   config.Telemetry{Endpoint: receiver.URL, Queue: 1 << 20, Keep: []config.KeepTrace{config.KeepCold, config.KeepErrors, config.KeepSlow}, Slow: config.Duration(time.Minute)},
				Registry: prometheus.NewRegistry(), Log: slog.New(slog.DiscardHandler),
			})
			if err != nil {
				b.Fatal(err)
			}
			v := visit(1)
			v.Context.Flags, v.Cold, v.Last = flags, false, proxy.Try{Asked: time.Millisecond}
			s := share(1, time.Second, true)
			b.ReportAllocs()
			for b.Loop() {
				if !v.Context.Sampled() {
					_ = t.keep(v)
				}
				t.Settled(s)
				t.Ended(v)
			}
			b.StopTimer()
			ctx, cancel := context.WithCancel(context.Background())
			cancel() // nothing needs to arrive
			_ = t.Close(ctx)
		})
	}
}
