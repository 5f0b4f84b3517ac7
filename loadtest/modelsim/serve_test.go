package modelsim_test

import (
	"context"
	"io"
	"net"
	"net/http"
	"path/filepath"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"pilotlight/loadtest/modelsim"
)

func TestThePortOpensWhenTheModelIsLoaded(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		o := quick()
		o.Load = 3 * time.Second
		l := newLab(t, o)
		time.Sleep(3*time.Second - time.Millisecond)
		if _, err := l.try(t.Context(), http.MethodGet, "/health", nil); err == nil {
			t.Error("the port is open before the model is loaded")
		}
		time.Sleep(time.Millisecond)
		synctest.Wait()
		l.want(http.MethodGet, "/health", nil, 200, "")
	})
}

func TestAPortThatOpensEarlySaysThatItLoads(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		o := quick()
		o.Load, o.ListenEarly = 3*time.Second, true
		l := newLab(t, o)
		synctest.Wait()
		l.want(http.MethodGet, "/health", nil, 503, "Loading model")
		l.want(http.MethodPost, "/v1/chat/completions", chat("hi", 1, false), 503, "Loading model")
		time.Sleep(3 * time.Second)
		synctest.Wait()
		l.want(http.MethodPost, "/v1/chat/completions", chat("hi", 1, false), 200, "")
		l.wantTime("answered", 3*time.Second+11*time.Millisecond)
	})
}

func TestALoadThatStallsGoesOnForEverWithoutAWord(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		o := quick()
		o.Load, o.StallAfter = 10*time.Second, 4*time.Second
		l := newLab(t, o)
		time.Sleep(time.Hour)
		l.stop()
		if err := <-l.ended; err != nil {
			t.Errorf("got %v, want an end as it was told", err)
		}
		if got := l.output.String(); !strings.HasSuffix(got, "Loading weights: 40%\n") {
			t.Errorf("got %q, want it to stop at 40%%", got)
		}
	})
}

func TestALoadThatFailsEndsTheServerHalfWay(t *testing.T) {
	for kind, says := range map[string]string{
		modelsim.CrashOnLoad: "RuntimeError: Engine core initialization failed",
		modelsim.OutOfMemory: "torch.OutOfMemoryError: CUDA out of memory. Tried to allocate",
	} {
		synctest.Test(t, func(t *testing.T) {
			o := quick()
			o.Load, o.Fail.Kind = 4*time.Second, kind
			l := newLab(t, o)
			if err := <-l.ended; err == nil || !strings.HasPrefix(err.Error(), says) {
				t.Errorf("got %v, want %s", err, says)
			}
			l.wantTime("ended", 2*time.Second)
			if !strings.Contains(l.output.String(), "Traceback") {
				t.Errorf("got %q, want a traceback", l.output)
			}
		})
	}
}

func TestAServerThatHangsAcceptsAndNeverAnswers(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		o := quick()
		o.Fail.Kind = modelsim.Hang
		l := newLab(t, o)
		synctest.Wait()
		patient, cancel := context.WithTimeout(t.Context(), time.Hour)
		defer cancel()
		if resp, err := l.try(patient, http.MethodPost, "/health", nil); err == nil {
			t.Errorf("got %s, want no answer", resp.Status)
		}
		l.wantTime("gave up", time.Hour)
	})
}

func TestAServerThatDiesMidStreamCutsItsConnections(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		o := quick()
		if err := o.Fail.UnmarshalText([]byte("die-mid-stream=3")); err != nil {
			t.Fatal(err)
		}
		l := newLab(t, o)
		synctest.Wait()
		l.want(http.MethodPost, "/v1/chat/completions", chat("hi", 3, false), 200, "")
		at, err := l.arrivals(t.Context(), "hi", 50)
		if len(at) != 3 || err == nil {
			t.Errorf("got %d tokens and %v, want 3 and a break", len(at), err)
		}
		if err := <-l.ended; err == nil {
			t.Error("it ended well, want an error")
		}
	})
}

func TestOnlyTheFirstStartsFail(t *testing.T) {
	state := filepath.Join(t.TempDir(), "starts")
	for _, fails := range []bool{true, true, false, false} {
		synctest.Test(t, func(t *testing.T) {
			o := quick()
			o.Fail.Kind, o.FailTimes, o.FailState = modelsim.CrashOnLoad, 2, state
			l := newLab(t, o)
			synctest.Wait()
			if !fails {
				l.want(http.MethodGet, "/health", nil, 200, "")
			}
			l.stop()
			if err := <-l.ended; (err != nil) != fails {
				t.Errorf("got %v, want a failure: %v", err, fails)
			}
		})
	}
}

func TestAServerThatIsToldToStopFinishesWhatTakesASecondAtMost(t *testing.T) {
	for tokens, finishes := range map[int]bool{50: true, 500: false} {
		synctest.Test(t, func(t *testing.T) {
			o := quick()
			o.Answer = 1000
			l := newLab(t, o)
			synctest.Wait()
			answered := make(chan error)
			go func() {
				_, err := l.arrivals(t.Context(), "hi", tokens)
				answered <- err
			}()
			time.Sleep(100 * time.Millisecond)
			l.stop()
			if err := <-answered; (err == nil) != finishes {
				t.Errorf("%d tokens: got %v, want it to finish: %v", tokens, err, finishes)
			}
			if err := <-l.ended; err != nil {
				t.Errorf("%d tokens: the server ended with %v", tokens, err)
			}
			if got := time.Since(l.start); got > 1100*time.Millisecond {
				t.Errorf("%d tokens: it ended at %v, want 1.1s at most", tokens, got)
			}
		})
	}
}

func TestFailuresAreReadStrictly(t *testing.T) {
	for text, want := range map[string]modelsim.Failure{
		"oom": {Kind: "oom"}, "hang": {Kind: "hang"}, "crash-on-load": {Kind: "crash-on-load"},
		"die-mid-stream": {Kind: "die-mid-stream", Tokens: 20}, "die-mid-stream=0": {Kind: "die-mid-stream"},
	} {
		var got modelsim.Failure
		if err := got.UnmarshalText([]byte(text)); err != nil || got != want {
			t.Errorf("%s: got %+v, %v", text, got, err)
		}
	}
	for _, text := range []string{"", "fire", "oom=3", "die-mid-stream=", "die-mid-stream=-1", "die-mid-stream=x"} {
		if err := new(modelsim.Failure).UnmarshalText([]byte(text)); err == nil {
			t.Errorf("%q is accepted", text)
		}
	}
}

func TestOptionsThatCannotWorkAreRefused(t *testing.T) {
	for name, spoil := range map[string]func(*modelsim.Options){
		"no model":         func(o *modelsim.Options) { o.Models = nil },
		"no step":          func(o *modelsim.Options) { o.Step = 0 },
		"a negative load":  func(o *modelsim.Options) { o.Load = -1 },
		"no slots":         func(o *modelsim.Options) { o.Slots = 0 },
		"starts uncounted": func(o *modelsim.Options) { o.FailTimes = 1 },
	} {
		o := modelsim.Defaults()
		spoil(&o)
		if err := modelsim.Serve(t.Context(), nil, o); err == nil {
			t.Errorf("%s is accepted", name)
		}
	}
}

func TestOnARealSocket(t *testing.T) {
	o := quick()
	o.Step, o.StepPerSeq = time.Microsecond, 0
	ctx, stop := context.WithCancel(t.Context())
	defer stop()
	opened, ended := make(chan string, 1), make(chan error, 1)
	go func() {
		ended <- modelsim.Serve(ctx, func() (net.Listener, error) {
			port, err := net.Listen("tcp", "127.0.0.1:0")
			if err == nil {
				opened <- port.Addr().String()
			}
			return port, err
		}, o)
	}()
	base := "http://" + <-opened
	resp, err := http.Post(base+"/v1/completions", "application/json",
		strings.NewReader(`{"model":"m","prompt":"hi","max_tokens":30,"stream":true}`))
	if err != nil {
		t.Fatal(err)
	}
	answer, err := io.ReadAll(resp.Body)
	_ = resp.Body.Close()
	if n := strings.Count(string(answer), `"text_completion"`); err != nil || n != 30 || !strings.HasSuffix(string(answer), "data: [DONE]\n\n") {
		t.Errorf("got %d tokens in %s (%v), want 30", n, answer, err)
	}
	stop()
	if err := <-ended; err != nil {
		t.Errorf("it ended with %v", err)
	}
}
