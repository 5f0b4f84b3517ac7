package engine

import (
	"testing"

	"pilotlight/probe"
)

func TestTritonCountsWhatWaitsForOurModelOnly(t *testing.T) {
	page := `# TYPE nv_inference_pending_request_count gauge
nv_inference_pending_request_count{model="m",version="1"} 3
nv_inference_pending_request_count{model="m",version="2"} 1
nv_inference_pending_request_count{model="other",version="1"} 9
`
	if got, want := tritonLoad([]byte(page), "m"), (load{-1, 4, -1}); got != want {
		t.Errorf("got %+v, want %+v", got, want)
	}
	if got, want := metricsAddr("[::1]:8000"), "[::1]:8002"; got != want {
		t.Errorf("metrics at %s, want %s", got, want)
	}
}

func TestOllamaKnowsAModelByEveryWayToWriteItsName(t *testing.T) {
	a := answer{code: 200, body: []byte(`{"models":[{"name":"m:latest"}]}`)}
	for _, name := range []string{"m", "M:latest", "library/m", "registry.ollama.ai/library/m:latest"} {
		if got, _ := ollamaStatus(a, name); got != probe.Ready {
			t.Errorf("%s is %v, want ready", name, got)
		}
	}
	if got, _ := ollamaStatus(a, "m:8b"); got != probe.Asleep {
		t.Errorf("m:8b is %v, want asleep", got)
	}
}

func TestLabelsAreReadAsTheyAreQuoted(t *testing.T) {
	labels := `a="x,b=\"no\"}", b="yes",c=""`
	for name, want := range map[string]string{"a": `x,b="no"}`, "b": "yes", "c": "", "d": ""} {
		if got := label(labels, name); got != want {
			t.Errorf("label %s is %q, want %q", name, got, want)
		}
	}
}

func FuzzAnswers(f *testing.F) {
	for _, page := range []string{
		`{"is_sleeping":true}`, `{"data":[{"id":"m","status":{"value":"loaded"}}]}`, `{"models":[{"name":"m:latest"}]}`,
		`[{"name":"m","state":"LOADING"}]`, `[{"is_processing":true}]`, "vllm:num_requests_running{a=\"}\"} 1e300 17\n",
		"sglang:token_usage{dp_rank=\"0\"} NaN\nsglang:num_running_reqs{dp_rank=\"\\x\"} 1",
		"nv_inference_pending_request_count{model=\"m\"} 9999999999", "tgi_queue_size -3",
	} {
		f.Add([]byte(page))
	}
	f.Fuzz(func(t *testing.T, page []byte) {
		a := answer{request: "GET /", code: 200, body: page}
		for _, status := range []func() (probe.Status, string){
			func() (probe.Status, string) { return vllmStatus(a) },
			func() (probe.Status, string) { return llamaStatus(a, "m") },
			func() (probe.Status, string) { return ollamaStatus(a, "m") },
			func() (probe.Status, string) { return tritonStatus(a, "m") },
		} {
			if _, said := status(); said == "" {
				t.Error("it said nothing")
			}
		}
		for _, l := range []load{
			vllmLoad(page), sglangLoad(page), tgiLoad(page), llamaLoad(page), llamaSlots(page), tritonLoad(page, "m"),
		} {
			if l.running < -1 || l.waiting < -1 || l.kvCache > 1 || (l.kvCache < 0 && l.kvCache != -1) {
				t.Errorf("impossible load %+v of %q", l, page)
			}
		}
	})
}
