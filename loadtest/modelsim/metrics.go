package modelsim

import (
	"net/http"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/promhttp"
)

// counts are what the engine adds up, under vLLM's names.
type counts struct {
	promptTokens, generatedTokens, preempted prometheus.Counter
	finished                                 *prometheus.CounterVec
	firstToken                               prometheus.Histogram
}

// labels are those of every metric.
func labels(model string) prometheus.Labels {
	return prometheus.Labels{"engine": "0", "model_name": model}
}

func newCounts(model string) counts {
	counter := func(name, help string) prometheus.Counter {
		return prometheus.NewCounter(prometheus.CounterOpts{Name: name, Help: help, ConstLabels: labels(model)})
	}
	c := counts{
		promptTokens:    counter("vllm:prompt_tokens_total", "Number of prefill tokens processed."),
		generatedTokens: counter("vllm:generation_tokens_total", "Number of generation tokens processed."),
		preempted:       counter("vllm:num_preemptions_total", "Cumulative number of preemptions from the engine."),
		finished: prometheus.NewCounterVec(prometheus.CounterOpts{
			Name: "vllm:request_success_total", Help: "Count of processed requests, by why they finished.", ConstLabels: labels(model),
		}, []string{"finished_reason"}),
		firstToken: prometheus.NewHistogram(prometheus.HistogramOpts{
			Name: "vllm:time_to_first_token_seconds", Help: "Histogram of time to first token in seconds.", ConstLabels: labels(model),
			Buckets: []float64{.001, .005, .01, .02, .04, .06, .08, .1, .25, .5, .75, 1, 2.5, 5, 7.5, 10, 20, 40, 80, 160, 640, 2560},
		}),
	}
	for _, reason := range []string{"stop", "length", "abort"} {
		c.finished.WithLabelValues(reason) // there from the start, as in vLLM
	}
	return c
}

// metrics is the page that Prometheus reads.
func (e *engine) metrics(model string) http.Handler {
	page := prometheus.NewRegistry()
	locked := func(read func() float64) func() float64 {
		return func() float64 {
			e.mu.Lock()
			defer e.mu.Unlock()
			return read()
		}
	}
	gauge := func(name, help string, read func() float64) {
		page.MustRegister(prometheus.NewGaugeFunc(prometheus.GaugeOpts{Name: name, Help: help, ConstLabels: labels(model)}, locked(read)))
	}
	gauge("vllm:num_requests_running", "Number of requests in model execution batches.", func() float64 { return float64(len(e.running)) })
	gauge("vllm:num_requests_waiting", "Number of requests waiting to be processed.", func() float64 { return float64(len(e.waiting)) })
	used := func() float64 { return float64(e.held()) / float64(e.KVTokens) }
	gauge("vllm:kv_cache_usage_perc", "KV-cache usage. 1 means 100 percent usage.", used)
	gauge("vllm:gpu_cache_usage_perc", "The same, as it was called before vLLM 0.11.", used)
	gauge("modelsim_gpu_memory_bytes", "Memory that is held of the simulated GPUs.", func() float64 {
		if e.asleep.any() {
			return e.AsleepMemory * (1 << 30)
		}
		return e.Memory * (1 << 30)
	})
	c := e.counts
	page.MustRegister(c.promptTokens, c.generatedTokens, c.preempted, c.finished, c.firstToken)
	page.MustRegister(prometheus.NewCounterFunc(prometheus.CounterOpts{
		Name: "modelsim_gpu_busy_seconds_total", Help: "Time for which the simulated GPU took steps.", ConstLabels: labels(model),
	}, locked(func() float64 { return e.busy.Seconds() })))
	return promhttp.HandlerFor(page, promhttp.HandlerOpts{})
}
