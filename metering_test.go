//go:build linux

package main_test

import (
	"bytes"
	"encoding/json"
	"fmt"
	"math"
	"strings"
	"testing"
	"time"

	"pilotlight/proxy/admin"
)

// gpuSeconds are the GPU seconds that an edge has settled, by kind and method.
func gpuSeconds(t *testing.T, addr string) (all map[string]float64, sum float64) {
	t.Helper()
	var page bytes.Buffer
	if err := get(t.Context(), "http://"+addr+"/metrics", &page); err != nil {
		t.Fatal(err)
	}
	all = map[string]float64{}
	for line := range strings.Lines(page.String()) {
		if !strings.HasPrefix(line, "pilotlight_gpu_seconds_total{") {
			continue
		}
		_, labels, _ := strings.Cut(line, "{")
		labels, value, _ := strings.Cut(labels, "} ")
		kind, method := "", ""
		for label := range strings.SplitSeq(labels, ",") {
			switch name, text, _ := strings.Cut(label, "="); name {
			case "kind":
				kind = strings.Trim(text, `"`)
			case "method":
				method = strings.Trim(text, `"`)
			}
		}
		var seconds float64
		if _, err := fmt.Sscan(value, &seconds); err != nil {
			t.Fatalf("%s: %v", line, err)
		}
		all[kind+" by "+method] += seconds
		sum += seconds
	}
	return all, sum
}

// TestGPUTimeIsWhatTheGPUsWereBusy: what requests took, by the simulated GPUs' word, adds up to what those say of themselves, and who asked for more took more.
func TestGPUTimeIsWhatTheGPUsWereBusy(t *testing.T) {
	t.Parallel()
	desk := freeAddr(t)
	p := serve(t, t.TempDir(), "node: {gpus: [{memory: 24GiB}]}\nadmin: "+desk+"\n"+simulated(t,
		sim{name: "m", backend: "slots: 8, memory: 10GiB", args: "--load 100ms"}), "--simulate", "--admin", desk)
	small, large := p.call(t, chat("m", "hello", streamed, `"max_tokens":20`)), p.call(t, chat("m", "hello", streamed, `"max_tokens":200`))
	small.reply(t)
	large.reply(t)
	var kinds map[string]float64
	var sum, ran float64
	eventually(t, "all that the GPU was busy with is settled", func() bool {
		var gpus admin.GPUsStatus
		if err := get(t.Context(), "http://"+desk+"/api/gpus", &gpus); err != nil || len(gpus.GPUs) != 1 {
			return false
		}
		ran = gpus.GPUs[0].Ran
		kinds, sum = gpuSeconds(t, desk)
		return metric(t, desk, "pilotlight_gpu_unsettled_requests") == 0 && ran > 0 && math.Abs(sum-ran) < 1e-6
	})
	if kinds["request by simulated"] < 0.9*ran {
		t.Errorf("of %v s the requests took %v", ran, kinds)
	}
	var entries struct {
		Rows []struct {
			GPU time.Duration `json:"gpu_ns"`
		} `json:"rows"`
	}
	if err := json.Unmarshal(run(t, "", []string{raceOptions}, binary(t), "usage", "--json", "--by", "model", "--admin", desk), &entries); err != nil {
		t.Fatal(err)
	}
	var used time.Duration
	for _, r := range entries.Rows {
		used += r.GPU
	}
	if math.Abs(used.Seconds()-sum) > 1e-6 {
		t.Errorf("usage says %s, the metrics %v s", used, sum)
	}
}
