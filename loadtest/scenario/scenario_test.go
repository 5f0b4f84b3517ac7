package scenario

import (
	"slices"
	"strings"
	"testing"
	"time"

	"pilotlight/loadtest"
)

func TestScenariosAreSound(t *testing.T) {
	for _, s := range All() {
		if _, err := s.slos(); err != nil {
			t.Errorf("%s: %v", s.Name, err)
		}
		names, last, n := s.names(), time.Duration(0), 0
		for r := range s.requests(s, 1) {
			if n++; r.At < last || r.At >= s.real(s.For) || !slices.Contains(names, r.Model) || r.Prompt < 1 || r.Answer < 1 {
				t.Fatalf("%s: request %d is %+v", s.Name, n, r)
			}
			last = r.At
		}
		if n < 10 || n > 5000 {
			t.Errorf("%s has %d requests", s.Name, n)
		}
		if !slices.IsSortedFunc(s.Gaps, func(a, b Gap) int { return int(a.At - b.At) }) || len(s.Gaps) > 0 && s.Speed != 1 {
			t.Errorf("%s: gaps are in order, and in scenarios that take as long as the world", s.Name)
		}
	}
}

func TestServerlessGPUsAreChargedFromStartToEnd(t *testing.T) {
	const second = time.Second
	at := func(begin, end int) span { return span{time.Duration(begin) * second, time.Duration(end) * second} }
	for _, c := range []struct {
		name     string
		requests []span
		slots    int
		want     []span
	}{
		{"none", nil, 4, nil},
		{"one", []span{at(100, 110)}, 4, []span{at(60, 170)}},
		{"two within the window", []span{at(150, 151), at(100, 110)}, 4, []span{at(60, 211)}},
		{"two with a start between", []span{at(100, 110), at(171, 172)}, 4, []span{at(60, 170), at(131, 232)}},
		{"two at once in one container", []span{at(100, 110), at(105, 115)}, 2, []span{at(60, 175)}},
		{"two at once in two", []span{at(100, 110), at(105, 115)}, 1, []span{at(60, 170), at(65, 175)}},
	} {
		if got := serverless(c.requests, c.slots, 40*second, 60*second); !slices.Equal(got, c.want) {
			t.Errorf("%s: charged %v, want %v", c.name, got, c.want)
		}
	}
}

const log = `{"time":"2026-01-01T00:00:10Z","level":"INFO","msg":"backend moved","model":"a","backend":"a-0","from":"stopped","to":"waking"}
what a model server writes
{"time":"2026-01-01T00:00:20Z","level":"INFO","msg":"backend moved","model":"a","backend":"a-0","from":"waking","to":"ready"}
{"time":"2026-01-01T00:00:20Z","level":"INFO","msg":"backend moved","model":"b","backend":"b-0","from":"stopped","to":"waking"}
{"time":"2026-01-01T00:00:30Z","level":"INFO","msg":"backend moved","model":"a","backend":"a-0","from":"draining","to":"asleep"}
{"time":"2026-01-01T00:00:30Z","level":"INFO","msg":"request","model":"a","outcome":"ok","cold":true,"waited_ms":5000,"total_ms":6000}
{"time":"2026-01-01T00:00:31Z","level":"INFO","msg":"request","model":"a","outcome":"refused","total_ms":0.5}
{"time":"2026-01-01T00:00:40Z","level":"INFO","msg":"backend moved","model":"a","backend":"a-0","from":"asleep","to":"stopped"}
`

func TestALogSaysWhatWasHeld(t *testing.T) {
	var rec record
	if err := rec.read(strings.NewReader(log)); err != nil {
		t.Fatal(err)
	}
	if len(rec.visits) != 2 || rec.cold != 1 || rec.outcomes["refused"] != 1 || rec.visits[0].waited != 5*time.Second ||
		rec.visits[0].end.Sub(rec.visits[0].begin) != 6*time.Second {
		t.Errorf("%+v", rec)
	}
	shares := map[string]share{"a": {0.5, 0.1}, "b": {0.25, 0}}
	begin := time.Date(2026, 1, 1, 0, 0, 0, 0, time.UTC)
	for _, c := range []struct {
		gpus, from, to int
		want           time.Duration
		most           float64
	}{
		{1, 0, 10, 0, 0},
		{1, 0, 20, 5 * time.Second, 0.5},
		{1, 0, 30, 12500 * time.Millisecond, 0.75},
		{1, 35, 45, 3 * time.Second, 0.35}, // b goes on
		{1, 50, 60, 2500 * time.Millisecond, 0.25},
	} {
		h := rec.heldBy(shares, c.gpus)
		got, most := h.over(begin.Add(time.Duration(c.from)*time.Second), begin.Add(time.Duration(c.to)*time.Second))
		if (got-c.want).Abs() > time.Millisecond || most < c.most-1e-9 || most > c.most+1e-9 {
			t.Errorf("from %d to %d: %v was held, %v at most; want %v and %v", c.from, c.to, got, most, c.want, c.most)
		}
	}
	if got := rec.heldBy(shares, 1).level(begin.Add(25 * time.Second)); got != 0.75 {
		t.Errorf("%v is held while both are awake", got)
	}
}

func TestWhatDoesNotAddUpIsSaid(t *testing.T) {
	type seen = map[loadtest.Outcome]int64
	for _, c := range []struct {
		seen    seen
		counted map[string]int64
		want    string // empty: it adds up
	}{
		{seen{"ok": 5, "refused": 1}, map[string]int64{"ok": 5, "refused": 1}, ""},
		{seen{"ok": 5}, map[string]int64{"ok": 4}, "the end of 5 requests, the edge of 4"},
		{seen{"ok": 5, "broken": 1}, map[string]int64{"ok": 6}, "clients saw 5 requests end ok, the edge 6"},
		{seen{"ok": 5, "left": 1}, map[string]int64{"ok": 6}, ""},
		{seen{"ok": 5, "left": 1}, map[string]int64{"ok": 4, "left": 2}, ""},
		{seen{"ok": 5, "left": 1}, map[string]int64{"ok": 8}, "the end of 6"},
	} {
		err := compare(c.seen, c.counted)
		if (err == nil) != (c.want == "") || err != nil && !strings.Contains(err.Error(), c.want) {
			t.Errorf("clients saw %v, the edge %v: %v", c.seen, c.counted, err)
		}
	}
}
