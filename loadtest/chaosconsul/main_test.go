package main

import (
	"testing"
	"time"
)

// TestNoRequestFailsWhateverBecomesOfConsul is `make chaos-consul` in short.
func TestNoRequestFailsWhateverBecomesOfConsul(t *testing.T) {
	results, err := run(t.Context(), 2*time.Second, "is frozen", "is killed, and comes back without its data")
	if err != nil {
		t.Fatal(err)
	}
	for _, r := range results {
		t.Logf("%s: %d requests, %d failed, %d of what slept; back after %s", r.harm, r.requests, r.failed, r.cold, r.back.Round(time.Millisecond))
		if r.failed > 0 {
			t.Errorf("%s: %d of %d requests failed: %s", r.harm, r.failed, r.requests, r.reason)
		}
		if r.requests == 0 {
			t.Errorf("%s: nothing was asked", r.harm)
		}
	}
}
