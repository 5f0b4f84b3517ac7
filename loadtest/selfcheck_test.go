package loadtest

import (
	"context"
	"fmt"
	"io"
	"math"
	"net"
	"net/http"
	"slices"
	"strings"
	"testing"
	"testing/synctest"
	"time"
)

// pipes is a network in memory, of one server.
type pipes struct {
	conns chan net.Conn
	done  chan struct{}
}

func newPipes() *pipes { return &pipes{make(chan net.Conn), make(chan struct{})} }

func (p *pipes) Accept() (net.Conn, error) {
	select {
	case c := <-p.conns:
		return c, nil
	case <-p.done:
		return nil, net.ErrClosed
	}
}

func (p *pipes) Close() error   { close(p.done); return nil }
func (p *pipes) Addr() net.Addr { return &net.TCPAddr{} }

func (p *pipes) dial(ctx context.Context, _, _ string) (net.Conn, error) {
	ours, theirs := net.Pipe()
	select {
	case p.conns <- theirs:
		return ours, nil
	case <-ctx.Done():
		return nil, ctx.Err()
	}
}

// against runs a load against a server in memory.
func against(t *testing.T, server http.HandlerFunc, load Load) *Result {
	t.Helper()
	network := newPipes()
	web := &http.Server{Handler: server}
	served := make(chan error, 1)
	go func() { served <- web.Serve(network) }()
	target, err := NewTarget("http://server", Shape{Stream: true}, 0)
	if err != nil {
		t.Fatal(err)
	}
	target.http.Transport.(*http.Transport).DialContext = network.dial
	r := NewResult()
	Run(t.Context(), target.Ask, load, r)
	target.Close()
	if err := web.Close(); err != nil {
		t.Error(err)
	}
	<-served
	return r
}

// The server that is measured answers within answerTime, except that it stands still for a while.
const (
	answerTime            = 20 * time.Millisecond
	pauseBegins, pauseEnd = 20 * time.Second, 30 * time.Second
	perSecond             = 50
	wholeLoad             = 60 * time.Second
)

// pausing is that server. Who comes while it stands still waits for its end.
func pausing() http.HandlerFunc {
	began := time.Now()
	return func(w http.ResponseWriter, r *http.Request) {
		_, _ = io.Copy(io.Discard, r.Body)
		if at := time.Since(began); at >= pauseBegins && at < pauseEnd {
			time.Sleep(pauseEnd - at)
		}
		time.Sleep(answerTime)
		w.Header().Set("Content-Type", "text/event-stream")
		fmt.Fprint(w, `data: {"choices":[{"delta":{"content":"x"}}]}`+"\n\ndata: [DONE]\n\n")
	}
}

// evenly are requests, one every fiftieth of a second.
func evenly(yield func(Request) bool) {
	for at := range Constant(Rate{perSecond, perSecond}, wholeLoad) {
		if !yield(Request{At: at, Model: "m", Prompt: 1}) {
			return
		}
	}
}

// truth is the time that each client would see, sorted: it follows from when it comes and from the pause alone.
func truth() (all []time.Duration) {
	for at := range Constant(Rate{perSecond, perSecond}, wholeLoad) {
		took := answerTime
		if at >= pauseBegins && at < pauseEnd {
			took += pauseEnd - at
		}
		all = append(all, took)
	}
	slices.Sort(all)
	return all
}

// TestAPauseIsChargedForEverybodyItKeptWaiting is the check of the load test itself: against a server whose pause is known,
// percentiles are those that follow from it. A load that waits for answers reports a hundredth of them.
func TestAPauseIsChargedForEverybodyItKeptWaiting(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := against(t, pausing(), Load{Requests: evenly, For: wholeLoad, Most: 10000})
		want := truth()
		if got := r.Requests(); got != int64(len(want)) || r.Count(OK) != got {
			t.Fatalf("%d requests, %d of them ok; want %d", got, r.Count(OK), len(want))
		}
		for _, percent := range []float64{50, 80, 83, 84, 90, 95, 99, 99.9, 100} {
			rank := max(0, int(math.Ceil(percent/100*float64(len(want))))-1)
			for what, times := range map[string]Times{"first token": r.TTFT, "total": r.Total} {
				if got := times.At(percent); !near(got, want[rank]) && !near(got, want[max(0, rank-1)]) { // a percentile lies between two
					t.Errorf("p%v of %s is %v, and was really %v", percent, what, got, want[rank])
				}
			}
		}
		if late := r.Late.Max(); late > time.Millisecond {
			t.Errorf("the load was up to %v late, in time that does not pass by itself", late)
		}
	})
	synctest.Test(t, func(t *testing.T) {
		closed := against(t, pausing(), Load{Requests: evenly, For: wholeLoad, Concurrency: 1})
		if got := closed.Total.At(99); !near(got, answerTime) {
			t.Errorf("a load that waits has a p99 of %v: then there is no need for one that does not", got)
		}
	})
}

// TestALoadThatMayNotSendStillCountsTheWait: with one request at a time the load itself is the line, and its clients wait in it.
func TestALoadThatMayNotSendStillCountsTheWait(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := against(t, pausing(), Load{Requests: evenly, For: wholeLoad, Most: 1})
		// The pause begins with the request that is due then, and 500 come meanwhile. After that one is answered in the time that the next
		// takes to come, so that the line stays as long as it was.
		if got, least := r.Total.At(50), pauseEnd-pauseBegins-time.Second; got < least {
			t.Errorf("half of the clients waited for less than %v: %v", least, got)
		}
		if got, want := r.Late.Max(), pauseEnd-pauseBegins; !near(got, want) {
			t.Errorf("the last one was sent %v late, want %v", got, want)
		}
	})
}

// near allows for the precision of a histogram.
func near(got, want time.Duration) bool {
	return math.Abs(float64(got-want)) <= 0.002*float64(want)+float64(2*time.Microsecond)
}

func TestTheWarmUpDoesNotCount(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := against(t, pausing(), Load{Requests: evenly, For: wholeLoad, WarmUp: pauseEnd, Most: 10000})
		ended, open := r.Everything()
		if r.Requests()+r.Warm() != ended[OK] || open != 0 || r.Warm() != perSecond*int64(pauseEnd/time.Second)-1 {
			t.Errorf("%d requests, %d in the warm-up, %v ended and %d did not", r.Requests(), r.Warm(), ended, open)
		}
		if got := r.Total.Max(); !near(got, answerTime) {
			t.Errorf("the pause of the warm-up is counted: a request took %v", got)
		}
	})
}

func TestWhoIsImpatientLeavesAndIsCounted(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := against(t, pausing(), Load{Requests: evenly, For: wholeLoad, Patience: 5 * time.Second, Most: 10000})
		left := int64(0) // the first half of the pause
		for _, took := range truth() {
			if took > 5*time.Second {
				left++
			}
		}
		if got := r.Count(Left); got < left-1 || got > left+1 {
			t.Errorf("%d left, want %d", got, left)
		}
		if kinds := r.Kinds(); len(kinds) != 1 || kinds[0].Kind != (Kind{Left, "it took too long"}) {
			t.Errorf("they left like this: %v", kinds)
		}
	})
}

func TestALoadThatIsStoppedAccountsForEverything(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		ctx, cancel := context.WithTimeout(t.Context(), 25*time.Second)
		defer cancel()
		began := time.Now()
		r := NewResult()
		Run(ctx, func(ctx context.Context, _ *Request) Answer {
			a := Answer{Sent: time.Now(), Outcome: OK}
			if time.Since(began) > pauseBegins {
				<-ctx.Done()
				a.Outcome, a.Kind = outcomeOf(ctx, ctx.Err())
			}
			a.Ended = time.Now()
			return a
		}, Load{Requests: evenly, Most: 10000}, r)
		if took := r.Ended.Sub(r.Began); took != 25*time.Second {
			t.Errorf("it went on for %v", took)
		}
		if ok, left := r.Count(OK), r.Count(Left); ok != 1000 || left < 248 || left > 250 {
			t.Errorf("%d ok and %d left of 1,250", ok, left)
		}
	})
}

func TestTokensAreTimedAsTheyCome(t *testing.T) {
	server := func(w http.ResponseWriter, r *http.Request) {
		_, _ = io.Copy(io.Discard, r.Body)
		w.Header().Set("Content-Type", "text/event-stream")
		say := func(wait time.Duration, text string) {
			time.Sleep(wait)
			fmt.Fprint(w, text+"\n\n")
			_ = http.NewResponseController(w).Flush()
		}
		say(time.Second, ": heartbeat") // is no token
		say(0, `data: {"choices":[{"delta":{"role":"assistant","content":""}}]}`)
		for range 10 {
			say(100*time.Millisecond, `data: {"choices":[{"delta":{"content":"`+strings.Repeat("word", 2000)+`"}}]}`)
		}
		say(300*time.Millisecond, `data: {"choices":[{"delta":{"content":"end"}}]}`)
		say(0, "data: [DONE]")
	}
	synctest.Test(t, func(t *testing.T) {
		r := against(t, server, Load{Requests: func(yield func(Request) bool) { yield(Request{Model: "m", Prompt: 3}) }, Most: 1})
		if r.Tokens() != 11 || !near(r.TTFT.Max(), 1100*time.Millisecond) || !near(r.Total.Max(), 2300*time.Millisecond) ||
			!near(r.Gaps.At(50), 100*time.Millisecond) || !near(r.Gaps.Max(), 300*time.Millisecond) || r.Gaps.Count() != 10 {
			t.Errorf("%d tokens, the first after %v, the end after %v; %d gaps, half of them %v or less, the longest %v",
				r.Tokens(), r.TTFT.Max(), r.Total.Max(), r.Gaps.Count(), r.Gaps.At(50), r.Gaps.Max())
		}
	})
}
