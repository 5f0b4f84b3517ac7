package proxy

import (
	"encoding/hex"
	"fmt"
	"maps"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"

	"pilotlight/config"
	"pilotlight/router"
)

const (
	clientTrace  = "4bf92f3577b34da6a3ce929d0e0e4736"
	clientSpan   = "00f067aa0ba902b7"
	clientParent = "00-" + clientTrace + "-" + clientSpan + "-01"
)

func withTracing(t Tracing) rigOption {
	return func(_ *rig, o *Options) {
		if t.Sample == nil {
			t.Sample = func([16]byte) bool { return true }
		}
		if t.Keep == nil {
			t.Keep = func(*Visit) bool { return false }
		}
		o.Tracing = &t
	}
}

// askTraced is what a backend is told of a request's trace.
func askTraced(t *testing.T, header http.Header, options ...rigOption) (http.Header, Visit) {
	t.Helper()
	got := make(chan http.Header, 1)
	backend := httptest.NewServer(http.HandlerFunc(func(_ http.ResponseWriter, r *http.Request) { got <- r.Header }))
	defer backend.Close()
	r := real(t, backend.Listener.Addr().String(), options...)
	req, err := http.NewRequestWithContext(t.Context(), http.MethodPost, "http://"+r.addr+"/v1/chat/completions", strings.NewReader(`{"model":"m"}`))
	if err != nil {
		t.Fatal(err)
	}
	maps.Copy(req.Header, header)
	resp, err := http.DefaultClient.Do(req)
	if err != nil {
		t.Fatal(err)
	}
	resp.Body.Close()
	return within(t, got), r.last(1)
}

func TestABackendIsToldOfTheTrace(t *testing.T) {
	client := http.Header{"Traceparent": {clientParent}, "Tracestate": {"a=1"}, "Baggage": {"secret=1"}}
	backends := func(send config.SendTrace) rigOption {
		return withModel(func(m *config.Model) {
			m.Backends = []config.Backend{{Name: "m-0", Trace: send, ConnectTime: config.Duration(patience)}}
		})
	}
	unsampled := func([16]byte) bool { return false }
	ours, theirs := "a trace of ours", "the client's trace"
	for what, c := range map[string]struct {
		header  http.Header
		options []rigOption
		trace   string // empty: nothing is told
		flags   string
		state   string
	}{
		"followed":               {client, []rigOption{withTracing(Tracing{Clients: config.FollowTraces})}, theirs, "01", "a=1"},
		"linked":                 {client, []rigOption{withTracing(Tracing{Clients: config.LinkTraces})}, ours, "03", ""},
		"ignored":                {client, []rigOption{withTracing(Tracing{Clients: config.IgnoreTraces})}, ours, "03", ""},
		"begun here":             {nil, []rigOption{withTracing(Tracing{Clients: config.FollowTraces})}, ours, "03", ""},
		"not kept":               {nil, []rigOption{withTracing(Tracing{Sample: unsampled})}, ours, "02", ""},
		"not kept by the client": {http.Header{"Traceparent": {clientParent[:53] + "00"}}, []rigOption{withTracing(Tracing{Clients: config.FollowTraces})}, theirs, "00", ""},
		"never sent":             {client, []rigOption{withTracing(Tracing{}), backends(config.SendNever)}, "", "", ""},
		"sent if kept":           {client, []rigOption{withTracing(Tracing{}), backends(config.SendSampled)}, theirs, "01", "a=1"},
		"not kept, so not sent":  {nil, []rigOption{withTracing(Tracing{Sample: unsampled}), backends(config.SendSampled)}, "", "", ""},
		"two parents": {
			http.Header{"Traceparent": {clientParent, clientParent}, "Tracestate": {"a=1"}},
			[]rigOption{withTracing(Tracing{})},
			ours, "03", "",
		},
		"a state that is too long": {
			http.Header{"Traceparent": {clientParent}, "Tracestate": {"a=" + strings.Repeat("x", maxState)}},
			[]rigOption{withTracing(Tracing{})},
			theirs, "01", "",
		},
	} {
		t.Run(what, func(t *testing.T) {
			header, v := askTraced(t, c.header, c.options...)
			if baggage := header.Get("Baggage"); baggage != "" {
				t.Errorf("the backend got the baggage %s", baggage)
			}
			if state := header.Get("Tracestate"); state != c.state {
				t.Errorf("the backend got the state %q, want %q", state, c.state)
			}
			parent := header.Get("Traceparent")
			if c.trace == "" {
				if parent != "" {
					t.Errorf("the backend got %s, want nothing", parent)
				}
				return
			}
			trace, span, _, ok := parseParent([]byte(parent))
			if !ok || len(header.Values("Traceparent")) != 1 || parent[53:] != c.flags {
				t.Fatalf("the backend got %q, want the flags %s", header.Values("Traceparent"), c.flags)
			}
			if trace != v.Context.Trace || span != v.Context.Try(0) || (hex.EncodeToString(trace[:]) == clientTrace) != (c.trace == theirs) {
				t.Errorf("the backend got %s, the visit is in %x, span %x; want %s", parent, v.Context.Trace, v.Context.Try(0), c.trace)
			}
			if linked := v.Context.Linked != [24]byte{}; linked != (what == "linked") {
				t.Errorf("linked: %v", linked)
			}
		})
	}
}

func TestWithoutTracingAllThatAClientSaysOfItsTraceGoesOn(t *testing.T) {
	client := http.Header{"Traceparent": {clientParent}, "Tracestate": {"a=1"}, "Baggage": {"b=1"}}
	header, v := askTraced(t, client)
	for name := range client {
		if header.Get(name) != client.Get(name) {
			t.Errorf("%s is %q, want %q", name, header.Get(name), client.Get(name))
		}
	}
	if v.Context.Trace != [16]byte{} {
		t.Errorf("the visit is in the trace %x", v.Context.Trace)
	}
}

func TestWhatBecameOfARequestDecidesWhetherItIsKept(t *testing.T) {
	header, v := askTraced(t, nil, withTracing(Tracing{
		Sample: func([16]byte) bool { return false },
		Keep:   func(v *Visit) bool { return v.Outcome == router.OK && v.Last.Asked > 0 && v.Served != nil },
	}))
	if !v.Context.Sampled() || v.TraceID != fmt.Sprintf("%x", v.Context.Trace) || !strings.HasSuffix(header.Get("Traceparent"), "-02") {
		t.Errorf("kept: %v; the backend was told %s", v.Context.Sampled(), header.Get("Traceparent"))
	}
}

func FuzzTraceparent(f *testing.F) {
	for _, s := range []string{
		clientParent, "", clientParent + "-x", "01" + clientParent[2:] + "-x", "cc" + clientParent[2:] + ".x", "ff" + clientParent[2:], strings.ToUpper(clientParent),
		"00-" + strings.Repeat("0", 32) + "-" + clientSpan + "-01", "00-" + clientTrace + "-" + strings.Repeat("0", 16) + "-01",
	} {
		f.Add(s)
	}
	f.Fuzz(func(t *testing.T, s string) {
		trace, span, flags, ok := parseParent([]byte(s))
		said := fmt.Sprintf("-%x-%x-%02x", trace, span, flags)
		switch {
		case !ok:
		case trace == [16]byte{} || span == [8]byte{} || s[:2] == "ff" || s[2:parentLength] != said:
			t.Errorf("%q is taken for %s", s, said)
		case len(s) > parentLength && (s[:2] == "00" || s[parentLength] != '-'):
			t.Errorf("%q is taken for one", s)
		}
	})
}

// BenchmarkTracing is what standing in a trace adds to a request until it has been sent to its backend.
func BenchmarkTracing(b *testing.B) {
	for name, fields := range map[string]string{"begun here": "Host: p\r\n", "followed": "Host: p\r\nTraceparent: " + clientParent + "\r\nTracestate: a=1\r\n"} {
		b.Run(name, func(b *testing.B) {
			e := New(Options{Tracing: &Tracing{Sample: func([16]byte) bool { return false }, Keep: func(*Visit) bool { return false }}})
			model := &router.Model{Config: config.Model{Backends: []config.Backend{{Name: "m-0"}}}}
			v := &visit{edge: e, intake: &intake{}, to: destination{id: "m-0"}}
			v.lease.Model = model
			if err := v.head.scan([]byte(fields)); err != nil {
				b.Fatal(err)
			}
			var dst []byte
			b.ReportAllocs()
			for b.Loop() {
				v.Context = Context{}
				v.trace()
				m := message{head: &v.head, carried: v.carries()}
				dst = m.appendFields(dst[:0])
				v.kept()
			}
		})
	}
}
