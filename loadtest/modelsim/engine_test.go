package modelsim_test

import (
	"context"
	"net/http"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"
)

func TestRequestsThatRunTogetherShareTheirSteps(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		l := newLab(t, quick())
		synctest.Wait()
		var first, second []time.Duration
		var both sync.WaitGroup
		both.Go(func() { first, _ = l.arrivals(t.Context(), "one", 4) })
		time.Sleep(5 * time.Millisecond) // the second comes in the middle of a step, and joins the next
		both.Go(func() { second, _ = l.arrivals(t.Context(), "two", 4) })
		both.Wait()
		if got, want := show(first), ms(11, 23, 35, 47); got != want {
			t.Errorf("first: got tokens at %s, want %s", got, want)
		}
		if got, want := show(second), ms(23, 35, 47, 58); got != want {
			t.Errorf("second: got tokens at %s, want %s", got, want)
		}
		l.wantMetrics("vllm:prompt_tokens_total 2", "vllm:generation_tokens_total 8", "modelsim_gpu_busy_seconds_total 0.058",
			`vllm:request_success_total{finished_reason="length"} 2`,
			`vllm:time_to_first_token_seconds_bucket{le="0.01"} 0`, `vllm:time_to_first_token_seconds_bucket{le="0.02"} 2`)
	})
}

func TestALongPromptHoldsUpEveryRunningRequest(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		o := quick()
		o.Prefill = time.Millisecond
		l := newLab(t, o)
		synctest.Wait()
		var short, long []time.Duration
		var both sync.WaitGroup
		both.Go(func() { short, _ = l.arrivals(t.Context(), "hi", 3) })
		time.Sleep(5 * time.Millisecond)
		both.Go(func() { long, _ = l.arrivals(t.Context(), strings.Repeat("word", 100), 2) })
		both.Wait()
		if got, want := show(short), ms(12, 124, 136); got != want {
			t.Errorf("short prompt: got tokens at %s, want %s", got, want)
		}
		if got, want := show(long), ms(124, 136); got != want {
			t.Errorf("long prompt: got tokens at %s, want %s", got, want)
		}
	})
}

func TestRequestsBeyondTheSlotsWaitInOrderOfArrival(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		o := quick()
		o.Slots = 1
		l := newLab(t, o)
		synctest.Wait()
		var all sync.WaitGroup
		for i, want := range []string{ms(11, 22), ms(33, 44), ms(55, 66)} {
			all.Go(func() {
				time.Sleep(time.Duration(i) * time.Millisecond)
				if at, err := l.arrivals(t.Context(), "hi", 2); show(at) != want || err != nil {
					t.Errorf("request %d: got tokens at %s (%v), want %s", i, show(at), err, want)
				}
			})
		}
		time.Sleep(20 * time.Millisecond)
		l.wantMetrics("vllm:num_requests_running 1", "vllm:num_requests_waiting 2")
		all.Wait()
	})
}

func TestARequestWaitsWhileTheKVCacheIsFull(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		o := quick()
		o.KVTokens = 40
		l := newLab(t, o)
		synctest.Wait()
		prompt := strings.Repeat("word", 30)
		var both sync.WaitGroup
		both.Go(func() { _, _ = l.arrivals(t.Context(), prompt, 2) })
		time.Sleep(15 * time.Millisecond)
		both.Go(func() {
			if at, _ := l.arrivals(t.Context(), prompt, 2); show(at) != ms(33, 44) {
				t.Errorf("got tokens at %s, want %s", show(at), ms(33, 44))
			}
		})
		synctest.Wait()
		l.wantMetrics("vllm:kv_cache_usage_perc 0.775", "vllm:gpu_cache_usage_perc 0.775", "vllm:num_requests_waiting 1")
		both.Wait()
		l.wantMetrics("vllm:kv_cache_usage_perc 0", "vllm:num_preemptions_total 0")
		l.want(http.MethodPost, "/v1/chat/completions", chat(prompt, 11, false), http.StatusBadRequest, "maximum context length is 40 tokens")
	})
}

// Two prompts of 5 tokens fill a cache of 16 when each has 3 tokens of its answer. The newer gives way, and is read again,
// with what it has said, when the older has ended.
func TestTheNewestIsPreemptedWhenTheKVCacheRunsOut(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		o := quick()
		o.KVTokens, o.Prefill = 16, time.Millisecond
		l := newLab(t, o)
		synctest.Wait()
		prompt := strings.Repeat("word", 5)
		var older, newer []time.Duration
		var both sync.WaitGroup
		both.Go(func() { older, _ = l.arrivals(t.Context(), prompt, 6) })
		time.Sleep(time.Millisecond)
		both.Go(func() { newer, _ = l.arrivals(t.Context(), prompt, 4) })
		both.Wait()
		// 16: read the older. 17: read the newer. 12, 12 together: 5+4 and 5+3 are more than 16 with the next two.
		if got, want := show(older), ms(16, 33, 45, 56, 67, 78); got != want {
			t.Errorf("older: got tokens at %s, want %s", got, want)
		}
		if got, want := show(newer), ms(33, 45, 96, 107); got != want {
			t.Errorf("newer: got tokens at %s, want %s", got, want)
		}
		l.wantMetrics("vllm:num_preemptions_total 1", "vllm:prompt_tokens_total 10", "vllm:generation_tokens_total 10")
	})
}

func TestAClientThatLeavesFreesItsSlot(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		o := quick()
		o.Slots = 1
		l := newLab(t, o)
		synctest.Wait()
		leaver, leave := context.WithCancel(t.Context())
		var all sync.WaitGroup
		all.Go(func() { _, _ = l.arrivals(leaver, "long", 64) })
		time.Sleep(15 * time.Millisecond)
		inLine, leaveLine := context.WithCancel(t.Context())
		all.Go(func() {
			if _, err := l.try(inLine, http.MethodPost, "/v1/chat/completions", chat("never", 5, false)); err == nil {
				t.Error("who left the line was answered")
			}
		})
		all.Go(func() {
			time.Sleep(time.Millisecond)
			if at, _ := l.arrivals(t.Context(), "next", 2); show(at) != ms(44, 55) {
				t.Errorf("next: got tokens at %s, want %s", show(at), ms(44, 55))
			}
		})
		time.Sleep(10 * time.Millisecond)
		leave()
		leaveLine()
		synctest.Wait()
		l.wantMetrics("vllm:num_requests_running 0", "vllm:num_requests_waiting 1", "vllm:kv_cache_usage_perc 0")
		all.Wait()
		l.wantMetrics(`vllm:request_success_total{finished_reason="abort"} 2`, "modelsim_gpu_busy_seconds_total 0.055")
	})
}
