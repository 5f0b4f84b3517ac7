package admin

import (
	"context"
	"encoding/json"
	"fmt"
	"io"
	"log/slog"
	"net/http"
	"net/http/httptest"
	"strings"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"pilotlight/config"
	"pilotlight/proxy"
	"pilotlight/router"
)

// watched is a watch over a router with a model, and how often its nodes were looked at.
type watched struct {
	*watch
	router *router.Router
	looks  atomic.Int64
}

func newWatched(t *testing.T) *watched {
	t.Helper()
	is := &watched{router: router.New(map[string]config.Model{"llama": {}, "<b>gone</b>": {}}, nobody{}, slog.New(slog.DiscardHandler))}
	t.Cleanup(is.router.Close)
	is.watch = &watch{options: &Options{Router: is.router, Machines: func() []Machine {
		is.looks.Add(1)
		return []Machine{{Name: "n", GPUs: []MachineGPU{}}}
	}}}
	is.set(router.Asleep)
	return is
}

func (w *watched) set(s router.State) {
	w.router.Observe(router.Node{Name: "n", Backends: []router.Backend{{ID: "llama-0", Model: "llama", Node: "n", State: s, Since: time.Now(), Slots: 1}}})
}

// heard is the next message, nil where there is none.
func heard(t *testing.T, from chan []byte) *Message {
	t.Helper()
	select {
	case text := <-from:
		_, data, _ := strings.Cut(string(text), "data: ")
		m := &Message{}
		if err := json.Unmarshal([]byte(data), m); err != nil {
			t.Fatalf("%v: %s", err, text)
		}
		return m
	default:
		return nil
	}
}

func TestAWatcherHearsASnapshotThenWhatChanges(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWatched(t)
		to, _ := w.join()
		first := heard(t, to)
		if first == nil || !first.Snapshot || len(first.Models) != 2 || len(first.Nodes) != 1 || len(first.Changes) != 1 {
			t.Fatalf("at first it hears %+v", first)
		}
		time.Sleep(time.Minute)
		synctest.Wait()
		if m := heard(t, to); m != nil {
			t.Errorf("nothing changed, and it hears %+v", m)
		}
		for range 100 { // within a tenth of a second
			w.set(router.Waking)
			w.set(router.Ready)
			time.Sleep(time.Millisecond)
		}
		time.Sleep(time.Second)
		synctest.Wait()
		m := heard(t, to)
		if m == nil || m.Snapshot || len(m.Models) != 1 || len(m.Changes) != 1 || m.Changes[0].To != "ready" || m.Changes[0].From != "asleep" {
			t.Errorf("after many changes it hears %+v, want one of them", m)
		}
		if m := heard(t, to); m != nil {
			t.Errorf("it hears more than once of the same: %+v", m)
		}
		w.router.Update(map[string]config.Model{"llama": {}})
		time.Sleep(time.Second)
		synctest.Wait()
		if m := heard(t, to); m == nil || len(m.Gone) != 1 || m.Gone[0] != "<b>gone</b>" {
			t.Errorf("of a model that is gone it hears %+v", m)
		}
		w.leave(to)
		time.Sleep(time.Second)
	})
}

func TestNobodyLooksWhileNobodyWatches(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWatched(t)
		time.Sleep(time.Hour)
		if n := w.looks.Load(); n != 0 {
			t.Errorf("looked %d times before anybody watched", n)
		}
		var all []chan []byte
		for range maxWatchers {
			to, ok := w.join()
			if !ok {
				t.Fatal("it may not watch")
			}
			all = append(all, to)
		}
		if _, ok := w.join(); ok {
			t.Errorf("more than %d watch", maxWatchers)
		}
		before := w.looks.Load()
		time.Sleep(10*time.Second + lookEvery/2)
		synctest.Wait()
		if n := w.looks.Load() - before; n != 20 {
			t.Errorf("looked %d times in 10 s for %d watchers, want 20 for all", n, maxWatchers)
		}
		for _, to := range all {
			w.leave(to)
		}
		time.Sleep(time.Second)
		before = w.looks.Load()
		time.Sleep(time.Hour)
		if n := w.looks.Load() - before; n != 0 {
			t.Errorf("looked %d times after all had left", n)
		}
	})
}

func TestAWatcherThatDoesNotReadIsSentAway(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWatched(t)
		to, _ := w.join()
		for i := range 2 * maxBehind {
			w.set([]router.State{router.Ready, router.Asleep}[i%2])
			time.Sleep(lookEvery)
		}
		synctest.Wait()
		n := 0
		for range to {
			n++
		}
		if n != maxBehind || len(w.watchers) != 0 {
			t.Errorf("it was kept for %d messages, and %d watch", n, len(w.watchers))
		}
		time.Sleep(time.Second)
	})
}

func TestTheTimelineIsBounded(t *testing.T) {
	w := &watch{}
	for i := range 3 * maxChanges {
		w.changed([]ModelStatus{{Name: "m", Backends: []BackendStatus{{ID: "b", State: fmt.Sprint(i)}}}})
	}
	if len(w.changes) != maxChanges || w.changes[maxChanges-1].To != fmt.Sprint(3*maxChanges-1) {
		t.Errorf("%d changes are kept, the last of them %+v", len(w.changes), w.changes[len(w.changes)-1])
	}
}

func TestAStreamBeatsAndEndsWithTheEdge(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWatched(t)
		ending := make(chan struct{})
		w.options.Ending, w.options.watch = ending, w.watch
		answer, ended := httptest.NewRecorder(), make(chan struct{})
		go func() {
			w.options.events(answer, httptest.NewRequestWithContext(context.Background(), http.MethodGet, "/api/events", http.NoBody))
			close(ended)
		}()
		time.Sleep(time.Minute + time.Second)
		close(ending)
		<-ended
		body, _ := io.ReadAll(answer.Body)
		if text := string(body); !strings.HasPrefix(text, "event: snapshot\ndata: {") || strings.Count(text, ": still here\n\n") != 4 {
			t.Errorf("in a minute it said %s", text)
		}
		time.Sleep(time.Second)
	})
}

func TestRequestsHaveTheirGPUTime(t *testing.T) {
	g := &GPUTimes{}
	for id := range uint64(2000) {
		g.Settled(&proxy.Share{ID: id + 1, GPU: time.Second})
	}
	g.Settled(&proxy.Share{ID: 2000, GPU: 500 * time.Millisecond})
	visits := []proxy.Visit{{ID: proxy.VisitID(2000), Model: "<img>", Outcome: router.OK, Waited: time.Second}, {ID: proxy.VisitID(1)}, {ID: "another"}}
	all := RequestsOf(visits, g, 2)
	if len(all) != 2 || all[0].GPU != 1500 || all[0].Waited != 1000 || all[0].Outcome != "ok" || all[1].GPU != -1 {
		t.Errorf("got %+v", all)
	}
}
