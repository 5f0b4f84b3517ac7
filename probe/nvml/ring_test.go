package nvml

import (
	"encoding/binary"
	"testing"
	"time"
)

func TestASampleThatIsAnsweredTwiceCountsOnce(t *testing.T) {
	var r ring
	now := time.Now()
	r.add([]sample{{1_000_000, 1}}, now)
	r.add([]sample{{1_200_000, 0.5}, {1_000_000, 1}}, now)
	busy, ran := r.add([]sample{{1_000_000, 1}, {1_200_000, 0.5}}, now)
	if busy != 0.5 || ran != 100*time.Millisecond {
		t.Errorf("busy %v, ran %v; want 0.5, 100ms", busy, ran)
	}
}

func TestAClockThatIsSetBackDoesNotSilenceARing(t *testing.T) {
	var r ring
	now := time.Now()
	r.add([]sample{{9_000_000_000, 1}}, now)
	if got := r.since(now.Add(time.Second)); got != 9_000_000_000 {
		t.Errorf("a second later it asks for what is newer than %d", got)
	}
	later := now.Add(deaf + time.Second)
	if got := r.since(later); got != 0 {
		t.Errorf("after a long silence it asks for what is newer than %d", got)
	}
	if busy, ran := r.add([]sample{{1_000_000, 0.2}, {1_200_000, 0.4}}, later); busy != 0.4 || ran != 0 {
		t.Errorf("busy %v, ran %v; want 0.4, 0s", busy, ran)
	}
	if _, ran := r.add([]sample{{1_400_000, 0.5}}, later); ran != 100*time.Millisecond {
		t.Errorf("then it ran for %v, want 100ms", ran)
	}
}

func TestWhatAGapHidesIsNotMadeUp(t *testing.T) {
	var r ring
	now := time.Now()
	r.add([]sample{{1_000_000, 1}}, now)
	if _, ran := r.add([]sample{{61_000_000, 1}}, now); ran != time.Second {
		t.Errorf("a kernel ran for %v, want 1s", ran)
	}
}

func FuzzRing(f *testing.F) {
	f.Add([]byte("12345678a12345679b"), int64(1))
	f.Fuzz(func(t *testing.T, data []byte, step int64) {
		var r ring
		now, before := time.Unix(1e9, 0), time.Duration(0)
		for len(data) >= 9 {
			s := sample{binary.LittleEndian.Uint64(data), float64(data[8]%101) / 100}
			data, now = data[9:], now.Add(time.Duration(step%int64(10*time.Second)))
			r.since(now)
			busy, ran := r.add([]sample{s}, now)
			if busy < -1 || busy > 1 || ran < before || ran-before > time.Second {
				t.Fatalf("busy %v, ran %v after %v", busy, ran, before)
			}
			before = ran
		}
	})
}
