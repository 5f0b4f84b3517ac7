package meter

import (
	"fmt"
	"math/rand/v2"
	"testing"
	"time"

	"pilotlight/probe"
)

// gpuAt is a look at a GPU that has been busy for so long.
func gpuAt(ms float64, ran time.Duration, energy int64, processes ...probe.Process) probe.GPUs {
	return probe.GPUs{At: at(ms), GPUs: []probe.GPU{{RanAt: at(ms), Ran: ran, Energy: energy, Processes: processes}}}
}

// given adds up what a meter gave out.
type given struct {
	requests map[string]time.Duration // by edge and ID
	methods  map[string]string
	kinds    map[string]time.Duration
	joules   float64
	memory   float64
}

func newGiven() *given {
	return &given{requests: map[string]time.Duration{}, methods: map[string]string{}, kinds: map[string]time.Duration{}}
}

func (g *given) take(r Result) {
	for edge, all := range r.Settled {
		for _, s := range all {
			key := fmt.Sprint(edge, s.ID)
			g.requests[key] += s.GPU
			g.methods[key] = s.Method
			g.joules += s.Joules
		}
	}
	for _, a := range r.Accounts {
		g.kinds[a.Backend+" "+a.Kind] += a.GPU
		g.joules += a.Joules
		g.memory += a.MemoryByteSeconds
	}
}

func (g *given) sum() (all time.Duration) {
	for _, d := range g.requests {
		all += d
	}
	for _, d := range g.kinds {
		all += d
	}
	return all
}

func TestWhatIsMeasuredGoesToRequestsWakesAndIdleBackends(t *testing.T) {
	m, g := New("self"), newGiven()
	on := []Backend{{ID: "a", Model: "A", GPUs: []int{0}, Waking: true, Memory: 40 << 30}}
	m.Know(on)
	m.See(gpuAt(0, 0, 0))
	m.See(gpuAt(1000, 700*time.Millisecond, 300_000)) // it wakes
	g.take(m.Settle(at(1500)))
	on[0].Waking = false
	m.Know(on)
	m.See(gpuAt(2000, 710*time.Millisecond, 400_000)) // it has nothing to do
	g.take(m.Settle(at(2500)))
	m.Report("e", at(2600), []Flight{{ID: 7, Backend: "a", Began: at(2000)}})
	m.See(gpuAt(3000, 1610*time.Millisecond, 800_000))
	m.Report("e", at(3000), []Flight{{ID: 7, Backend: "a", Began: at(2000), First: at(2100), Ended: at(2900), Pieces: 30}})
	g.take(m.Settle(at(3400)))
	if len(g.requests) != 0 {
		t.Error("it was settled before its last window was due")
	}
	g.take(m.Settle(at(3500)))
	for what, c := range map[string]struct{ got, want time.Duration }{
		"the wake": {g.kinds["a wake"], 700 * time.Millisecond}, "idle": {g.kinds["a idle"], 10 * time.Millisecond}, "the request": {g.requests["e7"], 900 * time.Millisecond},
	} {
		if c.got != c.want {
			t.Errorf("%s took %v, want %v", what, c.got, c.want)
		}
	}
	if g.methods["e7"] != NVML || g.joules != 800 {
		t.Errorf("by %s, and %v J; want nvml, and 800 J", g.methods["e7"], g.joules)
	}
	if want := float64(40<<30) * 2; g.memory != want { // from the first Settle on
		t.Errorf("held %v byte-seconds, want %v", g.memory, want)
	}
	m.Report("e", at(3600), []Flight{{ID: 7, Backend: "a", Began: at(2000), First: at(2100), Ended: at(2900), Pieces: 30}})
	if g.take(m.Settle(at(4200))); g.requests["e7"] != 900*time.Millisecond {
		t.Error("what was said twice is settled twice")
	}
}

func TestBackendsOnOneGPUAndOthersHaveWhatTheirProcessesHad(t *testing.T) {
	m, g := New("self"), newGiven()
	m.Know([]Backend{{ID: "a", GPUs: []int{0}, PID: 1 << 28, Memory: 1}, {ID: "b", GPUs: []int{0}, PID: 1<<28 + 1, Memory: 1}})
	processes := []probe.Process{{PID: 1 << 28, Busy: 0.4}, {PID: 1<<28 + 1, Busy: 0.2}, {PID: 1<<28 + 2, Busy: 0.2}}
	m.See(gpuAt(0, 0, -1))
	m.Report("e", at(100), []Flight{{ID: 1, Backend: "a", Began: at(0)}, {ID: 2, Backend: "b", Began: at(0)}})
	m.See(gpuAt(1000, 800*time.Millisecond, -1, processes...))
	m.Report("e", at(1100), []Flight{{ID: 1, Backend: "a", Began: at(0), Ended: at(1000)}, {ID: 2, Backend: "b", Began: at(0), Ended: at(1000)}})
	g.take(m.Settle(at(1600)))
	near := func(got, want time.Duration) bool { return (got - want).Abs() < time.Microsecond }
	if !near(g.requests["e1"], 400*time.Millisecond) || !near(g.requests["e2"], 200*time.Millisecond) || !near(g.kinds[" others"], 200*time.Millisecond) {
		t.Errorf("got %v and %v, want 400ms, 200ms and 200ms of others", g.requests, g.kinds)
	}
	if g.sum() != 800*time.Millisecond {
		t.Errorf("%v were given out of 800ms", g.sum())
	}
}

func TestWithoutADriverTheClockCounts(t *testing.T) {
	m, g := New("self"), newGiven()
	m.Know([]Backend{{ID: "a", Width: 2}})
	m.Report("e", at(200), []Flight{{ID: 1, Backend: "a", Began: at(0)}})
	g.take(m.Settle(at(700)))
	m.Report("e", at(1000), []Flight{{ID: 1, Backend: "a", Began: at(0), Ended: at(800)}, {ID: 2, Backend: "a", Began: at(400), Ended: at(1000)}})
	g.take(m.Settle(at(2000)))
	if g.sum() != 2*time.Second || len(g.requests) != 2 || g.methods["e1"] != Wallclock { // two GPUs for a second
		t.Errorf("got %v by %v, want 2s", g.requests, g.methods)
	}
}

func TestAtTheEndAllIsGivenOutAndNoMemoryOfLater(t *testing.T) {
	m, g := New("self"), newGiven()
	m.Know([]Backend{{ID: "a", Width: 1, Memory: 8}})
	g.take(m.Settle(at(0)))
	m.Report("e", at(1000), []Flight{{ID: 1, Backend: "a", Began: at(200), Ended: at(1000)}})
	if g.take(m.Close(at(1000))); g.requests["e1"] != 800*time.Millisecond || g.memory != 8 {
		t.Errorf("got %v, and %v byte-seconds; want 800ms and 8", g.requests, g.memory)
	}
}

func TestADriverThatFallsSilentIsReplacedByTheClockAndCountsNothingTwice(t *testing.T) {
	m, g := New("self"), newGiven()
	m.Know([]Backend{{ID: "a", GPUs: []int{0}, Memory: 1}})
	m.See(gpuAt(0, 0, -1))
	m.See(gpuAt(1000, time.Second, -1))
	m.Report("e", at(200), []Flight{{ID: 1, Backend: "a", Began: at(0)}})
	m.Report("e", at(5000), nil)
	g.take(m.Settle(at(5000))) // silent for 4 s: the clock gives out what was up to 4.5 s
	m.Report("e", at(6100), []Flight{{ID: 1, Backend: "a", Began: at(0), Ended: at(5000)}})
	m.See(gpuAt(6000, 5*time.Second, -1)) // 4 s of 5: by that 2.8 s were measured of what the clock gave 3.5 s for
	g.take(m.Settle(at(6600)))
	if got, want := g.requests["e1"], 5700*time.Millisecond; got != want || g.methods["e1"] != Wallclock || g.sum() != want {
		t.Errorf("got %v by %s, and %v in all; want %v by wallclock, and no more", got, g.methods["e1"], g.sum(), want)
	}
	m.See(gpuAt(7000, 5*time.Second, -1))
	if g.take(m.Settle(at(7600))); g.sum() != 5700*time.Millisecond {
		t.Errorf("later there are %v", g.sum())
	}
}

func TestAnEdgeThatIsGoneLeavesItsShareToNobody(t *testing.T) {
	m, g := New("self"), newGiven()
	m.Know([]Backend{{ID: "a", GPUs: []int{0}, Memory: 1}})
	m.See(gpuAt(0, 0, -1))
	m.Report("e", at(100), []Flight{{ID: 1, Backend: "a", Began: at(0)}})
	m.See(gpuAt(1000, time.Second, -1))
	m.Lose("e", at(1000))
	if g.take(m.Settle(at(1600))); g.sum() != 0 {
		t.Errorf("%v before it is certain", g.kinds)
	}
	m.Forget("e", at(1000))
	if g.take(m.Settle(at(1700))); g.kinds["a unattributed"] != time.Second {
		t.Errorf("got %v, want 1s unattributed", g.kinds)
	}
}

// FuzzAllThatIsMeasuredIsGivenOut: random loads on two GPUs and three backends, looks and reports that come late or never, two edges of which one vanishes. What
// edges say is as far off as a message is long on its way, one longer than another: what ended may even seem to have ended before it began.
func FuzzAllThatIsMeasuredIsGivenOut(f *testing.F) {
	for seed := range uint64(20) {
		f.Add(seed)
	}
	f.Fuzz(func(t *testing.T, seed uint64) {
		rng := rand.New(rand.NewPCG(seed, 2))
		m, g := New("self"), newGiven()
		backends := []Backend{{ID: "a", GPUs: []int{0}, PID: 1 << 28, Memory: 1}, {ID: "b", GPUs: []int{0}, PID: 1<<28 + 1, Memory: 1}, {ID: "c", GPUs: []int{0, 1}, Memory: 2}}
		var ran [2]time.Duration
		open := map[string]map[uint64]Flight{"x": {}, "y": {}}
		last := uint64(0)
		now := 0.0
		m.See(probe.GPUs{At: at(0), GPUs: []probe.GPU{{RanAt: at(0), Energy: -1}, {Index: 1, RanAt: at(0), Energy: -1}}})
		for range 200 {
			now += 20 + 200*rng.Float64()
			for i := range backends {
				backends[i].Waking = rng.IntN(20) == 0
			}
			m.Know(backends)
			var look probe.GPUs
			look.At = at(now)
			for i := range ran {
				ran[i] += time.Duration(rng.Int64N(2e8))
				seen := probe.GPU{Index: i, RanAt: at(now), Ran: ran[i], Energy: -1}
				for p := range 3 {
					if rng.IntN(3) == 0 {
						seen.Processes = append(seen.Processes, probe.Process{PID: 1<<28 + p, Busy: rng.Float64()})
					}
				}
				look.GPUs = append(look.GPUs, seen)
			}
			if rng.IntN(4) > 0 {
				m.See(look)
			}
			for edge, flights := range open {
				var said []Flight
				for range rng.IntN(3) {
					last++
					flights[last] = Flight{ID: last, Backend: backends[rng.IntN(3)].ID, Began: at(now - 100*rng.Float64()), Prompt: rng.IntN(4000), Whole: rng.IntN(4) == 0}
				}
				for id, f := range flights {
					if f.Pieces += rng.IntN(9); f.First.IsZero() && f.Pieces > 0 {
						f.First = at(now - 20*rng.Float64())
					}
					if rng.IntN(5) == 0 {
						f.Ended = at(now - 10*rng.Float64())
						delete(flights, id)
					} else {
						flights[id] = f
					}
					said = append(said, f)
				}
				way := 0.0
				if seed%2 == 1 {
					way = 400 * rng.Float64() * rng.Float64()
				}
				for i := range said {
					said[i].Began, said[i].First, said[i].Ended = off(said[i].Began, way, now), off(said[i].First, way, now), off(said[i].Ended, way, now)
				}
				if rng.IntN(10) > 0 {
					m.Report(edge, at(now), said)
				}
			}
			if rng.IntN(5) == 0 {
				g.take(m.Settle(at(now)))
			}
			if rng.IntN(100) == 0 {
				m.Forget("y", at(now))
			}
		}
		m.Forget("x", at(now))
		m.Forget("y", at(now))
		for i := range ran { // the last words: whatever was missed has been counted up
			now += 100
			m.See(probe.GPUs{At: at(now), GPUs: []probe.GPU{{RanAt: at(now), Ran: ran[0], Energy: -1}, {Index: 1, RanAt: at(now), Ran: ran[1], Energy: -1}}})
			g.take(m.Settle(at(now + 5000*float64(i))))
		}
		if got, want := g.sum(), ran[0]+ran[1]; got != want {
			t.Errorf("%d ns were measured, %d ns given out: %v", want, got, g.kinds)
		}
	})
}

// off is a time as a message says that was so many ms on its way and came then.
func off(t time.Time, way, came float64) time.Time {
	if t.IsZero() {
		return t
	}
	if t = t.Add(time.Duration(way * float64(time.Millisecond))); t.After(at(came)) {
		return at(came)
	}
	return t
}
