package proxy

import (
	"bufio"
	"fmt"
	"io"
	"net"
	"sync"
	"testing"
	"time"

	"pilotlight/config"
	"pilotlight/router"
)

// metered has somebody measure what requests take of the one GPU that the model's backend uses.
func metered(r *rig, o *Options) {
	o.Metered = true
	r.model.Backends = []config.Backend{{Name: "m-0", GPUs: 1, ConnectTime: config.Duration(dialTime)}}
}

// TestFlightsTellWhatWhoeverMetersHasToKnow: from the slot to the end, with what came when.
func TestFlightsTellWhatWhoeverMetersHasToKnow(t *testing.T) {
	next := make(chan struct{})
	r := real(t, backend(t, func(c net.Conn, in *bufio.Reader, _ int) {
		for readRequest(in) != nil {
			io.WriteString(c, "HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\nTransfer-Encoding: chunked\r\n\r\n")
			for n := range 3 {
				<-next
				c.Write(appendChunk(nil, fmt.Appendf(nil, "data: {\"n\":%d}\n\n", n)))
			}
			<-next
			c.Write(appendEnd(appendChunk(nil, []byte(`data: {"usage":{"prompt_tokens":11,"completion_tokens":3}}`+"\n\n")), nil))
		}
	}), metered, func(_ *rig, o *Options) { o.Listeners = []Listener{deaf{}} })
	await := func(what string, is func(Flight) bool) Flight {
		t.Helper()
		for until := time.Now().Add(patience); time.Now().Before(until); {
			for _, f := range r.edge.Flights(nil) {
				if is(f) {
					return f
				}
			}
		}
		t.Fatalf("no flight says that %s", what)
		return Flight{}
	}
	before := time.Now()
	c := r.dial()
	go io.WriteString(c, post(`,"stream":true,"messages":[{"role":"user","content":"some forty bytes of a prompt, about"}]`))
	begun := await("it began", func(f Flight) bool { return f.First.IsZero() && f.Ended.IsZero() })
	if begun.Model != "m" || begun.Backend != "m-0" || begun.Whole || begun.Prompt < 15 || begun.Prompt > 40 || begun.Began.Before(before) {
		t.Errorf("it began as %+v", begun)
	}
	for n := range 3 {
		next <- struct{}{}
		await(fmt.Sprint(n+1, " pieces came"), func(f Flight) bool { return f.ID == begun.ID && f.Pieces == n+1 && f.First.After(begun.Began) })
	}
	if left := r.edge.Flights(nil); len(left) != 0 {
		t.Errorf("nothing happened, and there is news: %+v", left)
	}
	next <- struct{}{}
	hear(t, bufio.NewReader(c))
	ended := await("it ended", func(f Flight) bool { return !f.Ended.IsZero() })
	if ended.Prompt != 11 || ended.Tokens != 3 || ended.Pieces != 4 || ended.Number == 0 || ended.ID != begun.ID {
		t.Errorf("it ended as %+v", ended)
	}
}

// deaf is a listener: where there is one tokens are counted.
type deaf struct{}

func (deaf) Ended(*Visit)       {}
func (deaf) Settled(*Share)     {}
func (deaf) Accounted(*Account) {}

// TestNoFlightIsLostAmongManyGoroutines: each lands once, whoever looks when.
func TestNoFlightIsLostAmongManyGoroutines(t *testing.T) {
	e := &Edge{flights: &flights{}}
	const goroutines, each = 8, 2000
	landed := map[uint64]int{}
	count := func() {
		for _, f := range e.Flights(nil) {
			if !f.Ended.IsZero() {
				landed[f.ID]++
			}
		}
	}
	done := make(chan struct{})
	go func() {
		defer close(done)
		var all sync.WaitGroup
		for g := range goroutines {
			all.Go(func() {
				v := &visit{edge: e, intake: &intake{}}
				v.lease = router.Lease{Backend: &router.Backend{ID: "b", Width: 1}, Model: &router.Model{Name: "m"}}
				for i := range each {
					v.id, v.attempts = uint64(g*each+i), 0
					v.takes()
					v.came([]byte("x"))
					v.gives()
				}
			})
		}
		all.Wait()
	}()
	for over := false; !over; {
		select {
		case <-done:
			over = true
		default:
		}
		count()
	}
	count()
	if len(landed) != goroutines*each || e.Landed() != 0 {
		t.Fatalf("%d of %d landed, and %d are left", len(landed), goroutines*each, e.Landed())
	}
	for id, n := range landed {
		if n != 1 {
			t.Fatalf("flight %d landed %d times", id, n)
		}
	}
	for i := range e.flights.shards {
		if e.flights.shards[i].open != nil {
			t.Error("a flight is still open")
		}
	}
}

// TestWhatUsesNoGPUHasNoFlight: there is no time of one to divide.
func TestWhatUsesNoGPUHasNoFlight(t *testing.T) {
	v := &visit{edge: &Edge{flights: &flights{}}, intake: &intake{}}
	v.lease = router.Lease{Backend: &router.Backend{ID: "b"}, Model: &router.Model{Name: "m", Config: config.Model{Backends: []config.Backend{{Name: "b"}}}}}
	v.takes()
	v.came([]byte("x"))
	if v.gives(); len(v.edge.Flights(nil)) != 0 || v.edge.Landed() != 0 {
		t.Error("it has one")
	}
}

// BenchmarkFlight is what metering costs a request, on as many goroutines as there are processors.
func BenchmarkFlight(b *testing.B) {
	e := &Edge{flights: &flights{}}
	stop := make(chan struct{})
	var reports sync.WaitGroup
	reports.Go(func() {
		tick := time.NewTicker(5 * time.Millisecond) // there are some hundred times as many as on any edge
		defer tick.Stop()
		var all []Flight
		for {
			select {
			case <-stop:
				return
			case <-tick.C:
				all = e.Flights(all[:0])
			}
		}
	})
	event := []byte(`data: {"choices":[{"delta":{"content":" word"}}]}` + "\n\n")
	b.ReportAllocs()
	b.RunParallel(func(pb *testing.PB) {
		v := &visit{edge: e, intake: &intake{}}
		v.lease = router.Lease{Backend: &router.Backend{ID: "b", GPUs: []int{0}}, Model: &router.Model{Name: "m"}}
		for pb.Next() {
			v.id, v.attempts = e.lastID.Add(1), 0
			v.takes()
			v.came(event)
			v.gives()
		}
	})
	close(stop)
	reports.Wait()
}
