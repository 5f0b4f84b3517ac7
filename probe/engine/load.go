package engine

import (
	"encoding/json"
	"iter"
	"math"
	"net"
	"strconv"
	"strings"
)

// load is what a server has to do. A field is -1 where the server does not say.
type load struct {
	running, waiting int
	kvCache          float64
}

var unknown = load{running: -1, waiting: -1, kvCache: -1}

// vllmLoad reads vLLM's metrics. Data-parallel engines report one sample each.
func vllmLoad(page []byte) load {
	return load{
		running: count(total(page, "vllm:num_requests_running")),
		waiting: count(total(page, "vllm:num_requests_waiting")),
		kvCache: share(page, "vllm:kv_cache_usage_perc", "vllm:gpu_cache_usage_perc"), // the second before 0.11
	}
}

// sglangLoad reads SGLang's metrics. Ranks of one data-parallel rank repeat the same number, and a sample without a
// priority is the sum of those with one.
func sglangLoad(page []byte) load {
	perRank := func(name string) int {
		most := map[string]float64{}
		for labels, v := range samples(page, name) {
			rank := label(labels, "dp_rank")
			most[rank] = max(most[rank], v)
		}
		if len(most) == 0 {
			return -1
		}
		sum := 0.0
		for _, v := range most {
			sum += v
		}
		return count(sum)
	}
	return load{
		running: perRank("sglang:num_running_reqs"),
		waiting: perRank("sglang:num_queue_reqs"),
		kvCache: share(page, "sglang:token_usage"),
	}
}

func tgiLoad(page []byte) load {
	return load{
		running: count(total(page, "tgi_batch_current_size")),
		waiting: count(total(page, "tgi_queue_size")),
		kvCache: -1,
	}
}

func llamaLoad(page []byte) load {
	return load{
		running: count(total(page, "llamacpp:requests_processing")),
		waiting: count(total(page, "llamacpp:requests_deferred")),
		kvCache: share(page, "llamacpp:kv_cache_usage_ratio"), // not in every version
	}
}

// llamaSlots reads llama.cpp's GET /slots, which knows nothing of requests that wait.
func llamaSlots(page []byte) load {
	var slots []struct {
		IsProcessing bool `json:"is_processing"`
	}
	if page == nil || json.Unmarshal(page, &slots) != nil {
		return unknown
	}
	busy := load{running: 0, waiting: -1, kvCache: -1}
	for _, s := range slots {
		if s.IsProcessing {
			busy.running++
		}
	}
	return busy
}

// tritonLoad reads Triton's metrics, which count what waits for each version of each model, and not what runs.
func tritonLoad(page []byte, model string) load {
	busy := unknown
	for labels, v := range samples(page, "nv_inference_pending_request_count") {
		if label(labels, "model") == model {
			busy.waiting = max(busy.waiting, 0) + count(v)
		}
	}
	return busy
}

// metricsAddr is where Triton's metrics are: two ports above its HTTP port, as 8002 is above 8000.
func metricsAddr(addr string) string {
	host, port, err := net.SplitHostPort(addr)
	n, bad := strconv.Atoi(port)
	if err != nil || bad != nil || n+2 > math.MaxUint16 {
		return addr
	}
	return net.JoinHostPort(host, strconv.Itoa(n+2))
}

// total adds the samples of one metric, -1 where there are none.
func total(page []byte, name string) float64 {
	sum, found := 0.0, false
	for _, v := range samples(page, name) {
		sum, found = sum+v, true
	}
	if !found {
		return -1
	}
	return sum
}

// share is the largest sample of the first metric that has any, between 0 and 1, or -1.
func share(page []byte, names ...string) float64 {
	for _, name := range names {
		most := -1.0
		for _, v := range samples(page, name) {
			most = max(most, min(v, 1))
		}
		if most >= 0 {
			return most
		}
	}
	return -1
}

// count is a gauge as a number of requests.
func count(v float64) int { return int(min(v, math.MaxInt32)) }

// samples are the labels, as they are written, and the values of one metric on a page in Prometheus' text format. What is no
// finite number of at least 0 is left out.
func samples(page []byte, name string) iter.Seq2[string, float64] {
	return func(yield func(string, float64) bool) {
		for line := range strings.Lines(string(page)) {
			rest, ok := strings.CutPrefix(line, name)
			if !ok || rest == "" {
				continue
			}
			labels := ""
			switch rest[0] {
			case '{':
				end := strings.LastIndexByte(rest, '}') // neither value nor time has one
				if end < 0 {
					continue
				}
				labels, rest = rest[1:end], rest[end+1:]
			case ' ', '\t':
			default:
				continue // another metric, whose name begins like ours
			}
			fields := strings.Fields(rest)
			if len(fields) == 0 {
				continue
			}
			v, err := strconv.ParseFloat(fields[0], 64)
			if err != nil || math.IsNaN(v) || math.IsInf(v, 0) || v < 0 {
				continue
			}
			if !yield(labels, v) {
				return
			}
		}
	}
}

// label finds the value of a label in a sample's labels. A label that is not there is empty.
func label(labels, name string) string {
	for labels != "" {
		key, rest, ok := strings.Cut(labels, "=")
		if !ok {
			return ""
		}
		quoted, err := strconv.QuotedPrefix(rest)
		if err != nil {
			return ""
		}
		if strings.Trim(key, ", ") == name {
			value, err := strconv.Unquote(quoted)
			if err != nil {
				return ""
			}
			return value
		}
		labels = rest[len(quoted):]
	}
	return ""
}
