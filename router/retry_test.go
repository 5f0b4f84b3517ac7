package router

import (
	"testing"
	"testing/synctest"
	"time"
)

func TestRetriesAreBounded(t *testing.T) {
	for name, c := range map[string]struct {
		inFlight int           // besides the one that asks
		served   int           // requests before
		wait     time.Duration // before retries are asked for
		want     int           // of 1000 that are
	}{
		"a reserve of three":                   {0, 0, 0, 3},
		"it is not saved up":                   {0, 1000, time.Hour, 3},
		"a fifth of what is in flight besides": {99, 0, 0, 23},
		"however many there were before":       {99, 1000, time.Hour, 23},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				f := newFleetOf(t, wide, Backend{ID: "a", State: Ready, Slots: 1000})
				take := func() Lease {
					lease, err := f.TryAcquire(Request{Model: "m"})
					if err != nil {
						t.Fatal(err)
					}
					return lease
				}
				for range c.served {
					lease := take()
					lease.Release(OK)
				}
				for range c.inFlight {
					take()
				}
				lease := take()
				time.Sleep(c.wait)
				if got := granted(&lease); got != c.want {
					t.Errorf("%d retries, want %d", got, c.want)
				}
				time.Sleep(2 * time.Second)
				if got := granted(&lease); got != 2 {
					t.Errorf("%d retries two seconds later, want 2", got)
				}
				for range 50 {
					lease := take()
					lease.Release(OK)
				}
				if got := granted(&lease); got != min(10, 3+c.inFlight/5) {
					t.Errorf("%d retries after 50 requests", got)
				}
			})
		})
	}
}

// granted is how many of 1000 retries are.
func granted(lease *Lease) (n int) {
	for range 1000 {
		if lease.Retry() {
			n++
		}
	}
	return n
}
