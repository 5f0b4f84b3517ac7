package meter

import (
	"math"
	"math/rand/v2"
	"testing"
	"time"
)

func at(ms float64) time.Time { return time.Unix(1000, 0).Add(time.Duration(ms * 1e6)) }

func window(from, to float64, busy time.Duration) Window {
	return Window{From: at(from), To: at(to), Busy: busy}
}

// stream is a request with tokens 10 ms apart from first on.
func stream(id uint64, began, first float64, prompt, tokens int) Request {
	r := Request{ID: id, Began: at(began), First: at(first), Prompt: prompt}
	for n := range tokens {
		r.Ticks = append(r.Ticks, Progress{At: at(first + 10*float64(n)), Tokens: n + 1})
	}
	r.Ended = r.Ticks[tokens-1].At
	return r
}

func TestSplit(t *testing.T) {
	unit := Weights{Step: 1e6}
	for name, c := range map[string]struct {
		window   Window
		requests []Request
		weights  Weights
		want     []time.Duration
		rest     time.Duration
	}{
		"nobody in flight":         {window(0, 100, 70), nil, unit, nil, 70},
		"it came after the window": {window(0, 100, 70), []Request{stream(1, 200, 210, 5, 3)}, unit, nil, 70},
		"it ended before":          {window(500, 600, 70), []Request{stream(1, 200, 210, 5, 3)}, unit, nil, 70},
		"alone it has everything":  {window(0, 100, 71), []Request{stream(1, 0, 10, 5, 30)}, unit, []time.Duration{71}, 0},
		"twins, an odd nanosecond": {window(0, 100, 71), []Request{stream(1, 0, 10, 5, 30), stream(2, 0, 10, 5, 30)}, unit, []time.Duration{36, 35}, 0},
		"silent ones by the time that they are there": {
			window(0, 100, 300),
			[]Request{{ID: 1, Began: at(0)}, {ID: 2, Began: at(50)}},
			Weights{Prompt: 1},
			[]time.Duration{200, 100},
			0,
		},
		"prompts by their tokens": {
			window(0, 100, 1000),
			[]Request{{ID: 1, Began: at(0), Prompt: 300}, {ID: 2, Began: at(0), Prompt: 100}},
			Weights{Prompt: 1},
			[]time.Duration{750, 250},
			0,
		},
		"an answer in one piece counts by its tokens": {
			window(100, 200, 1000),
			[]Request{
				{ID: 1, Began: at(0), Ended: at(300), Whole: true, Ticks: []Progress{{at(300), 30}}},
				{ID: 2, Began: at(0), Ended: at(300), Whole: true, Ticks: []Progress{{at(300), 90}}},
			},
			Weights{Token: 1},
			[]time.Duration{250, 750},
			0,
		},
	} {
		t.Run(name, func(t *testing.T) {
			shares, rest := Split(c.window, c.requests, c.weights, c.window.To)
			if len(shares) != len(c.want) || rest != c.rest {
				t.Fatalf("got %v and %v over, want %v and %v", shares, rest, c.want, c.rest)
			}
			for i := range shares {
				if shares[i].GPU != c.want[i] || shares[i].ID != c.requests[i].ID {
					t.Errorf("got %v, want %v", shares, c.want)
				}
			}
		})
	}
}

// anyRequest may be one that an edge with a wrong clock tells of.
func anyRequest(rng *rand.Rand, id uint64) Request {
	r := Request{ID: id, Began: at(rng.Float64()*2000 - 1000), Prompt: rng.IntN(20000), Whole: rng.IntN(4) == 0}
	t, tokens := r.Began.Add(time.Duration(rng.Int64N(1e9))), 0
	if rng.IntN(4) > 0 {
		r.First = t
	}
	for range rng.IntN(20) {
		tokens += rng.IntN(5)
		r.Ticks = append(r.Ticks, Progress{At: t, Tokens: tokens})
		t = t.Add(time.Duration(rng.Int64N(5e7)))
	}
	if rng.IntN(3) > 0 {
		r.Ended = t.Add(time.Duration(rng.Int64N(1e9)) - 2e8)
	}
	return r
}

func FuzzNothingIsLostOrMadeUp(f *testing.F) {
	for _, seed := range []uint64{0, 1, 2, 3, 1 << 40} {
		f.Add(seed, int64(seed*12345678), 1.0, 0.0)
	}
	f.Add(uint64(7), int64(math.MaxInt64), 1e300, 1e-300)
	f.Fuzz(func(t *testing.T, seed uint64, busy int64, step, token float64) {
		rng := rand.New(rand.NewPCG(seed, 1))
		if busy < 0 || step < 0 || token < 0 || math.IsInf(step+token, 0) || math.IsNaN(step+token) || step+token > 1e12 {
			t.Skip("no busy time and no weights are like that")
		}
		var requests []Request
		for i := range rng.IntN(20) {
			requests = append(requests, anyRequest(rng, uint64(i)))
		}
		w := window(0, 1+rng.Float64()*200, time.Duration(busy))
		shares, rest := Split(w, requests, Weights{Step: step, Prompt: rng.Float64(), Token: token, Context: rng.Float64()}, w.To.Add(time.Second))
		given := rest
		for _, s := range shares {
			if s.GPU < 0 {
				t.Errorf("request %d has %v", s.ID, s.GPU)
			}
			given += s.GPU
		}
		if given != w.Busy {
			t.Errorf("%d ns were measured, %d ns given out", w.Busy, given)
		}
		var l Learner
		for range enough + 1 {
			l.Learn(w, requests, w.To.Add(time.Second))
		}
		if got := l.Weights(); min(got.Step, got.Prompt, got.Token, got.Context) < 0 {
			t.Errorf("learned %+v", got)
		}
	})
}

func TestApportionIsExactBeyondWhatAFloatHolds(t *testing.T) {
	for _, weights := range [][]float64{{1}, {0, 0, 0}, {1, 1, 1}, {1e-300, 1, 1e300}, {3, 0, 7, 11}, {0.1, 0.2, 0.3}} {
		for _, whole := range []time.Duration{0, 1, 2, 100, 1<<53 + 1, math.MaxInt64} {
			var sum time.Duration
			for _, p := range Apportion(whole, weights) {
				sum += p
				if p < 0 {
					t.Errorf("%d by %v has a part of %d", whole, weights, p)
				}
			}
			if sum != whole {
				t.Errorf("the parts of %d by %v add up to %d", whole, weights, sum)
			}
		}
	}
}

func TestTheWeightsAreFound(t *testing.T) {
	want, rng := Weights{Step: 4e6, Prompt: 9e3, Token: 60e3, Context: 20}, rand.New(rand.NewPCG(1, 2))
	var l Learner
	if l.Weights() != Typical() || l.Residual() != 1 {
		t.Error("it knows something before it has seen anything")
	}
	for range 3000 {
		var requests []Request
		for i := range 1 + rng.IntN(8) {
			began := -rng.Float64() * 2000
			requests = append(requests, stream(uint64(i), began, began+20+rng.Float64()*500, 1+rng.IntN(4000), 2+rng.IntN(200)))
		}
		w := window(0, 167, 0)
		var did []work
		for i := range requests {
			did = append(did, requests[i].in(w, w.To, want))
		}
		w.Busy = time.Duration(sum(want.of(did)))
		l.Learn(w, requests, w.To)
	}
	got := l.Weights()
	for name, pair := range map[string][2]float64{
		"step": {got.Step, want.Step}, "prompt": {got.Prompt, want.Prompt}, "token": {got.Token, want.Token}, "context": {got.Context, want.Context},
	} {
		if math.Abs(pair[0]/pair[1]-1) > 0.05 {
			t.Errorf("%s: learned %v, want %v", name, pair[0], pair[1])
		}
	}
	if l.Residual() > 0.01 {
		t.Errorf("%v of the busy time is not explained", l.Residual())
	}
}

func TestAnswersInOnePieceTeachNothing(t *testing.T) {
	var l Learner
	there := Request{ID: 1, Began: at(0), Ended: at(100), Prompt: 9, Whole: true, Ticks: []Progress{{at(100), 20}}}
	under := Request{ID: 3, Began: at(0), Prompt: 9, Whole: true}
	for range enough {
		for _, whole := range []Request{there, under} {
			l.Learn(window(0, 100, 5e7), []Request{whole, stream(2, 0, 10, 5, 30)}, at(100))
		}
	}
	if l.seen != 0 {
		t.Errorf("it learned from %d windows", l.seen)
	}
}

func TestMarginsHold(t *testing.T) {
	busy := []time.Duration{100e6, 50e6, 167e6, 0, 83e6 + 1}
	totals := []time.Duration{250e6, 150e6}
	parts := Margins(busy, totals, [][]float64{{0.1, 0.1, 0.1, 0, 0.1}, {0, 0.1, 0.1, 0.1, 0.1}})
	for k, b := range busy {
		if parts[0][k]+parts[1][k] != b {
			t.Errorf("window %d: %v and %v are not %v", k, parts[0][k], parts[1][k], b)
		}
	}
	for o, total := range totals {
		got := 0.0
		for _, p := range parts[o] {
			got += float64(p)
		}
		if math.Abs(got/float64(total)-1) > 1e-3 {
			t.Errorf("owner %d has %v of %v", o, got, total)
		}
	}
	if parts[1][0] > 1e6 {
		t.Errorf("who was not there has %v", parts[1][0])
	}
}
