package launch

import (
	"context"
	"errors"
	"slices"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"pilotlight/probe"
	"pilotlight/warmpool"
)

// readyAfter is the status of a server that is ready some time from now on.
func readyAfter(after time.Duration) func(context.Context) (probe.Status, string) {
	at := time.Now().Add(after)
	return func(context.Context) (probe.Status, string) {
		if time.Now().Before(at) {
			return probe.Away, "connection refused"
		}
		return probe.Ready, "ready"
	}
}

func TestReadinessIsNoticedWithinMilliseconds(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var late []time.Duration
		for after := 50 * time.Millisecond; after <= 5*time.Second; after += 101 * time.Millisecond {
			began := time.Now()
			r := readiness{status: readyAfter(after), stall: time.Minute, maxPause: nearPause}
			if err := r.await(t.Context()); err != nil {
				t.Fatal(err)
			}
			late = append(late, time.Since(began)-after)
		}
		slices.Sort(late)
		if median, most := late[len(late)/2], late[len(late)-1]; median > 5*time.Millisecond || most > nearPause {
			t.Errorf("noticed %v late in the median, %v at most", median, most)
		}
	})
}

func TestAWaitWithoutProgressStallsAndSaysWhatItSawLast(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		began := time.Now()
		r := readiness{stall: time.Minute, maxPause: nearPause, status: func(context.Context) (probe.Status, string) {
			return probe.Loading, "GET /health answered 503"
		}}
		err := r.await(t.Context())
		if !errors.Is(err, warmpool.ErrStalled) {
			t.Fatal(err)
		}
		if want := "no progress for 1m0s; it is loading: GET /health answered 503"; err.Error() != want {
			t.Errorf("got  %v\nwant %s", err, want)
		}
		if waited := time.Since(began); waited < time.Minute || waited > time.Minute+time.Second {
			t.Errorf("it gave up after %v", waited)
		}
	})
}

func TestAWaitWithProgressGoesOnForAsLongAsItTakes(t *testing.T) {
	for name, r := range map[string]func(ready func(context.Context) (probe.Status, string)) readiness{
		"its answers change": func(ready func(context.Context) (probe.Status, string)) readiness {
			return readiness{status: func(ctx context.Context) (probe.Status, string) {
				if status, said := ready(ctx); status == probe.Ready {
					return status, said
				}
				return probe.Loading, time.Now().Truncate(50 * time.Second).String()
			}}
		},
		"its process works": func(ready func(context.Context) (probe.Status, string)) readiness {
			return readiness{status: ready, worked: func(int) bool { return true }}
		},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				r := r(readyAfter(5 * time.Minute))
				r.stall, r.maxPause = time.Minute, nearPause
				if err := r.await(t.Context()); err != nil {
					t.Error(err)
				}
			})
		})
	}
}

func TestASleepingEngineIsRousedOnceAndNotBelievedBeforeItsAnswer(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var calls atomic.Int32
		began := time.Now()
		r := readiness{
			stall: time.Minute, maxPause: nearPause,
			status: func(context.Context) (probe.Status, string) {
				if calls.Load() > 0 { // as Ollama lists a model that it is still loading
					return probe.Ready, "ready"
				}
				return probe.Asleep, "m is not loaded"
			},
			rouse: func(context.Context) error {
				calls.Add(1)
				time.Sleep(10 * time.Second)
				return nil
			},
		}
		if err := r.await(t.Context()); err != nil {
			t.Fatal(err)
		}
		if waited := time.Since(began); calls.Load() != 1 || waited != 10*time.Second {
			t.Errorf("roused %d times, ready after %v", calls.Load(), waited)
		}
	})
}

func TestAnEngineThatCannotBeRousedFailsTheWait(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		refused := errors.New("model 'm' not found")
		r := readiness{
			stall: time.Minute, maxPause: nearPause, atOnce: true,
			status: func(context.Context) (probe.Status, string) { return probe.Ready, "ready" },
			rouse:  func(context.Context) error { return refused },
		}
		if err := r.await(t.Context()); !errors.Is(err, refused) {
			t.Errorf("got %v, want %v", err, refused)
		}
	})
}

func TestACancelledWaitEndsAtOnceAndCancelsWhatItBegan(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		left := errors.New("the last waiter left")
		ctx, cancel := context.WithCancelCause(t.Context())
		r := readiness{
			stall: time.Minute, maxPause: nearPause, atOnce: true,
			status: func(ctx context.Context) (probe.Status, string) {
				<-ctx.Done() // it hangs
				return probe.Away, "context canceled"
			},
			rouse: func(ctx context.Context) error {
				<-ctx.Done()
				return ctx.Err()
			},
		}
		time.AfterFunc(time.Second, func() { cancel(left) })
		began := time.Now()
		if err := r.await(ctx); !errors.Is(err, left) || time.Since(began) != time.Second {
			t.Errorf("got %v after %v", err, time.Since(began))
		}
	})
}

func TestTheEndOfTheProcessEndsTheWaitAtOnceEvenInTheMiddleOfAProbe(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		ended := make(chan struct{})
		time.AfterFunc(time.Second, func() { close(ended) })
		r := readiness{
			stall: time.Minute, maxPause: nearPause, ended: ended,
			status: func(ctx context.Context) (probe.Status, string) {
				<-ctx.Done()
				return probe.Away, ""
			},
		}
		began := time.Now()
		if err := r.await(t.Context()); !errors.Is(err, errEnded) || time.Since(began) != time.Second {
			t.Errorf("got %v after %v", err, time.Since(began))
		}
	})
}
