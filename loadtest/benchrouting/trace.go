package main

import (
	"fmt"
	"io"
	"time"

	"pilotlight/loadtest/trace"
)

// arrival is one recorded request.
type arrival struct {
	at     time.Duration // after the first
	prompt int           // tokens, at least 1
	answer int           // tokens, at least 1
}

// parse reads a recording.
func parse(r io.Reader) (all []arrival, err error) {
	t, err := trace.Read(r)
	if err != nil {
		return nil, fmt.Errorf("read the recorded requests: %w", err)
	}
	for a := range t.Arrivals() {
		all = append(all, arrival{a.At, max(a.Prompt, 1), max(a.Answer, 1)})
	}
	return all, nil
}
