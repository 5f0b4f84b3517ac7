//go:build linux

package main_test

import (
	"fmt"
	"net/http"
	"slices"
	"strings"
	"testing"

	"pilotlight/loadtest/otlpsim"
)

// TestOneTraceShowsAColdRequest asks for a model that sleeps and for which another must leave the GPU, with a trace of the client's, and looks at the spans
// that a receiver of OTLP gets.
func TestOneTraceShowsAColdRequest(t *testing.T) {
	t.Parallel()
	const client, parent = "4bf92f3577b34da6a3ce929d0e0e4736", "00f067aa0ba902b7"
	received, err := otlpsim.Start(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	for name, addr := range map[string]string{"grpc": received.GRPC, "http/protobuf": received.HTTP} {
		t.Run(name, func(t *testing.T) {
			before := len(received.Spans())
			p := serve(t, t.TempDir(), fmt.Sprintf("telemetry: {endpoint: 'http://%s', protocol: %s, ratio: 0}\nnode: {nvml: 'off', gpus: [{memory: 24GiB}]}\n", addr, name)+
				simulated(t, sim{name: "first", backend: "memory: 16GiB", args: "--load 10ms --step 1ms --answer 2"},
					sim{name: "second", backend: "memory: 16GiB", args: "--load 10ms --step 1ms --answer 2"}))
			askTraced(t, p, "first", "")
			askTraced(t, p, "second", "00-"+client+"-"+parent+"-01")
			askTraced(t, p, "second", "") // it is warm, and its trace is not kept
			var by map[string]otlpsim.Span
			eventually(t, "the spans of two cold requests have come", func() bool {
				all := received.Spans()[before:]
				by = map[string]otlpsim.Span{}
				for _, s := range all {
					if s.Trace == client {
						by[s.Name] = s
					}
				}
				traces := map[string]bool{}
				for _, s := range all {
					traces[s.Trace] = true
				}
				return len(traces) == 2 && by["gpu"].ID != ""
			})
			const server = "POST /v1/chat/completions"
			for child, of := range map[string]string{
				"wait": server, "upstream " + server: server, "gpu": server, "wake second": "wait",
				"evict": "wake second", "memory": "wake second", "start": "wake second", "weights": "wake second", "first token": "wake second",
			} {
				if by[child].ID == "" || by[child].Parent != by[of].ID {
					t.Errorf("%s is below %q; want it below %s, %s", child, by[child].Parent, of, by[of].ID)
				}
			}
			if by[server].Parent != parent || by[server].Attributes["faas.coldstart"] != true {
				t.Errorf("got %+v", by[server])
			}
			if wake := by["wake second"]; !slices.Equal(by["wait"].Links, []otlpsim.Link{{Trace: client, ID: wake.ID}}) {
				t.Errorf("the wait is linked with %v", by["wait"].Links)
			}
			if gpu := by["gpu"].Attributes; gpu["pilotlight.gpu.method"] != "wallclock" || gpu["pilotlight.gpu.time"].(float64) <= 0 {
				t.Errorf("the GPU time is %v", gpu)
			}
		})
	}
}

// askTraced asks a model for an answer.
func askTraced(t *testing.T, p *pilotlight, model, traceparent string) {
	t.Helper()
	req, err := http.NewRequestWithContext(t.Context(), http.MethodPost, p.base+"/v1/chat/completions", strings.NewReader(chatBody(model, "hello")))
	if err != nil {
		t.Fatal(err)
	}
	if traceparent != "" {
		req.Header.Set("Traceparent", traceparent)
	}
	resp, err := http.DefaultClient.Do(req)
	if err != nil {
		t.Fatal(err)
	}
	defer resp.Body.Close()
	if resp.StatusCode != http.StatusOK {
		t.Errorf("%s was answered with %s", model, resp.Status)
	}
}
