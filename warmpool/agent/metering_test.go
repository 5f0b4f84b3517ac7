package agent

import (
	"maps"
	"testing"
	"testing/synctest"
	"time"

	"pilotlight/probe"
	"pilotlight/probe/meter"
	"pilotlight/router"
)

// meterLab is a lab whose one backend is on a GPU that is busy half of the time.
type meterLab struct {
	*lab
	ran time.Duration
}

func newMeterLab(t *testing.T, edges int) *meterLab {
	l := &meterLab{lab: newLab(t, edges, router.Backend{ID: "n/m-0", Model: "m", Slots: 8, GPUs: []int{0}, Width: 1, Memory: 1 << 30, State: router.Ready})}
	l.look()
	return l
}

func (l *meterLab) look() {
	l.meter.See(probe.GPUs{At: time.Now(), GPUs: []probe.GPU{{RanAt: time.Now(), Ran: l.ran, Energy: -1}}})
}

// pass lets time pass, while flights go on at edges: by edge. An edge that is away reports nothing.
func (l *meterLab) pass(long time.Duration, flights ...[]meter.Flight) {
	for ; long > 0; long -= 200 * time.Millisecond {
		time.Sleep(200 * time.Millisecond)
		l.ran += 100 * time.Millisecond
		l.look()
		for i, all := range flights {
			for j := range all {
				all[j].Pieces++
			}
			l.edges[i].links.Report(all)
		}
	}
}

func flight(id uint64) meter.Flight {
	return meter.Flight{ID: id, Backend: "n/m-0", Began: time.Now(), First: time.Now()}
}

func end(all []meter.Flight) []meter.Flight {
	ended := append([]meter.Flight(nil), all...)
	for i := range ended {
		ended[i].Ended = time.Now()
	}
	return ended
}

// booked is all that edges were told.
func (l *meterLab) booked() (all time.Duration) {
	for _, e := range l.edges {
		e.mu.Lock()
		for _, d := range e.gpu {
			all += d
		}
		for _, d := range e.kinds {
			all += d
		}
		e.mu.Unlock()
	}
	return all
}

// wantBooked has the GPU rest, and wants all booked that it did before.
func (l *meterLab) wantBooked() {
	l.t.Helper()
	for range 20 {
		time.Sleep(200 * time.Millisecond)
		l.look()
	}
	if got := l.booked(); got != l.ran {
		l.t.Errorf("%v were measured, and %v are booked", l.ran, got)
	}
}

func (e *testEdge) accounts() map[string]time.Duration {
	e.mu.Lock()
	defer e.mu.Unlock()
	return maps.Clone(e.kinds)
}

func (e *testEdge) of(id uint64) (gpu time.Duration, told bool) {
	e.mu.Lock()
	defer e.mu.Unlock()
	gpu, told = e.gpu[id]
	return gpu, told
}

func TestGPUTimeComesBackToTheEdgeThatAskedAndTheRestToOne(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		l := newMeterLab(t, 2)
		l.pass(2 * time.Second)
		first, second := []meter.Flight{flight(1)}, []meter.Flight{flight(2)}
		l.pass(4*time.Second, first, second)
		l.edges[0].links.Report(end(first))
		l.edges[1].links.Report(end(second))
		l.pass(4 * time.Second)
		one, told := l.edges[0].of(1)
		two, toldToo := l.edges[1].of(2)
		if !told || !toldToo || one+two < 1900*time.Millisecond || one+two > 2200*time.Millisecond || (one-two).Abs() > 20*time.Millisecond {
			t.Errorf("twins took %v and %v of 2s", one, two)
		}
		if mine, others := l.edges[0].accounts(), l.edges[1].accounts(); len(mine) == 0 || len(others) != 0 {
			t.Errorf("accounts came to %v and %v; want all of them at the first", mine, others)
		}
		l.wantBooked()
	})
}

func TestALinkThatIsCutForAWhileLosesNoGPUTime(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		l := newMeterLab(t, 2)
		mine := []meter.Flight{flight(1)}
		l.pass(2*time.Second, mine)
		l.edges[0].sever(true)
		l.pass(2*time.Second, mine)
		l.edges[0].links.Report(end(mine))
		l.pass(2 * time.Second)
		l.edges[0].sever(false)
		l.pass(6 * time.Second)
		if gpu, told := l.edges[0].of(1); !told || gpu < 1900*time.Millisecond || gpu > 3500*time.Millisecond { // it ended unheard: what came until its edge was heard is its own
			t.Errorf("it was settled with %v, %t", gpu, told)
		}
		l.wantBooked()
	})
}

func TestWhatAnEdgeLeavesIsToldToAnother(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		l := newMeterLab(t, 2)
		mine := []meter.Flight{flight(1)}
		l.pass(2*time.Second, mine)
		gone := l.edges[0]
		gone.sever(true)
		l.edges[0] = l.edges[1]
		l.pass(2 * LeaseTime)
		l.edges = l.edges[1:]
		left := l.edges[0].accounts()[meter.Unattributed]
		if left < 5*time.Second || left > 8*time.Second { // half of the time until its lease ended
			t.Errorf("%v are unattributed", left)
		}
	})
}
