package proxy

import (
	"math/rand/v2"
	"testing"
	"time"
)

// TestTheClocksSharesAddUp: whoever comes and goes when, what they had is the time in which anybody was there, to the nanosecond.
func TestTheClocksSharesAddUp(t *testing.T) {
	random := rand.New(rand.NewPCG(3, 4))
	for range 200 {
		var c clock
		now := time.Unix(0, 0)
		var began []time.Duration
		var busy, had time.Duration
		for i := 0; i < 100 || len(began) > 0; i++ {
			step := time.Duration(random.Int64N(1000))
			if len(began) > 0 {
				busy += step
			}
			now = now.Add(step)
			if i < 100 && random.IntN(2) == 0 {
				began = append(began, c.begin("b", now))
				continue
			}
			if n := len(began); n > 0 {
				gone := random.IntN(n)
				had += c.end("b", began[gone], now)
				began[gone] = began[n-1]
				began = began[:n-1]
			}
		}
		if had != busy || len(c.backends) != 0 {
			t.Fatalf("they had %d ns of %d, and %d backends are left", had, busy, len(c.backends))
		}
	}
}

func TestTheClockSharesEvenly(t *testing.T) {
	var c clock
	at := func(s int) time.Time { return time.Unix(int64(s), 0) }
	first := c.begin("b", at(0))
	second := c.begin("b", at(10)) // alone for 10 s, then two of them for 20 s
	if got, want := c.end("b", second, at(30)), 10*time.Second; got != want {
		t.Errorf("the second had %s, want %s", got, want)
	}
	if got, want := c.end("b", first, at(35)), 25*time.Second; got != want {
		t.Errorf("the first had %s, want %s", got, want)
	}
}
