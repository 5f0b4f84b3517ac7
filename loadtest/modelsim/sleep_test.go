package modelsim_test

import (
	"context"
	"net/http"
	"strings"
	"testing"
	"testing/synctest"
	"time"
)

func TestWakingTakesTheTimeOfTheTier(t *testing.T) {
	for level, took := range map[string]time.Duration{"1": 300 * time.Millisecond, "2": 2 * time.Second} {
		synctest.Test(t, func(t *testing.T) {
			l := newLab(t, quick())
			synctest.Wait()
			l.want(http.MethodPost, "/sleep?level="+level, nil, 200, "")
			l.want(http.MethodGet, "/is_sleeping", nil, 200, `{"is_sleeping":true}`)
			l.want(http.MethodGet, "/health", nil, 200, "")
			l.wantTime("asleep", 0)

			l.want(http.MethodPost, "/wake_up", nil, 200, "")
			l.wantTime("awake", took)
			l.want(http.MethodGet, "/is_sleeping", nil, 200, `{"is_sleeping":false}`)
			l.want(http.MethodPost, "/v1/chat/completions", chat("hi", 1, false), 200, "")
			l.wantTime("answered", took+11*time.Millisecond)
		})
	}
}

func TestAnEngineOfWhichAPartSleepsSleeps(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		l := newLab(t, quick())
		synctest.Wait()
		l.want(http.MethodPost, "/sleep", nil, 200, "")
		l.want(http.MethodPost, "/wake_up?tags=weights", nil, 200, "")
		l.wantTime("weights awake", 300*time.Millisecond)
		l.want(http.MethodGet, "/is_sleeping", nil, 200, "true")
		l.want(http.MethodPost, "/collective_rpc", []byte(`{"method":"reload_weights"}`), 200, "")
		l.want(http.MethodPost, "/wake_up?tags=kv_cache", nil, 200, "")
		l.want(http.MethodPost, "/reset_prefix_cache", nil, 200, "")
		l.wantTime("all awake", 300*time.Millisecond)
		l.want(http.MethodGet, "/is_sleeping", nil, 200, "false")
		l.want(http.MethodPost, "/wake_up?tags=lungs", nil, 400, "weights and kv_cache")
		l.want(http.MethodPost, "/sleep?level=3", nil, 400, "1 or 2")
	})
}

func TestARequestToASleepingEngineWaitsForTheWake(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		l := newLab(t, quick())
		synctest.Wait()
		l.want(http.MethodPost, "/sleep", nil, 200, "")
		answered := make(chan string)
		go func() {
			_, answer := l.do(http.MethodPost, "/v1/chat/completions", chat("hi", 1, false))
			answered <- answer
		}()
		time.Sleep(time.Hour)
		l.wantMetrics("vllm:num_requests_waiting 1", "vllm:num_requests_running 0")
		impatient, cancel := context.WithTimeout(t.Context(), 100*time.Millisecond)
		defer cancel()
		if _, err := l.try(impatient, http.MethodPost, "/wake_up", nil); err == nil {
			t.Error("it woke in 100 ms, want 300 ms")
		}
		<-answered // the wake goes on without the one who asked for it
		l.wantTime("answered", time.Hour+311*time.Millisecond)
	})
}

func TestARequestToASleepingEngineOfOldKillsIt(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		o := quick()
		o.Asleep = "crash"
		l := newLab(t, o)
		synctest.Wait()
		l.want(http.MethodPost, "/sleep", nil, 200, "")
		l.want(http.MethodPost, "/v1/chat/completions", chat("hi", 1, true), 500, "InternalServerError")
		l.wantDead()
	})
}

func TestSleepInTheMiddleOfAnAnswerIsOKAndKillsTheEngine(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		l := newLab(t, quick())
		synctest.Wait()
		broken := make(chan error)
		go func() {
			_, err := l.arrivals(t.Context(), "hi", 50)
			broken <- err
		}()
		time.Sleep(25 * time.Millisecond)
		l.want(http.MethodPost, "/sleep", nil, 200, "")
		if err := <-broken; err == nil {
			t.Error("the answer looks complete, want it broken")
		}
		l.wantTime("broken", 33*time.Millisecond) // with the end of the step
		l.wantDead()
	})
}

// wantDead wants a server whose engine is dead.
func (l *lab) wantDead() {
	l.t.Helper()
	l.want(http.MethodGet, "/health", nil, 503, "")
	l.want(http.MethodPost, "/v1/chat/completions", chat("hi", 1, false), 500, "EngineCore encountered an issue")
	l.want(http.MethodPost, "/v1/embeddings", map[string]any{"model": "m", "input": "hi"}, 500, "EngineCore")
	l.want(http.MethodPost, "/wake_up", nil, 500, "EngineCore")
	l.stop()
	<-l.ended
	if out := l.output.String(); !strings.Contains(out, "illegal memory access") {
		l.t.Errorf("it printed %q, want what CUDA says", out)
	}
}
