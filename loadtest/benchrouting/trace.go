package main

import (
	"encoding/csv"
	"fmt"
	"io"
	"strconv"
	"time"
)

// arrival is one recorded request.
type arrival struct {
	at     time.Duration // after the first
	prompt int           // tokens
	answer int           // tokens, at least 1
}

// parse reads a recording, which must be in the order of time.
func parse(r io.Reader) ([]arrival, error) {
	rows, err := csv.NewReader(r).ReadAll()
	if err != nil {
		return nil, fmt.Errorf("read the trace: %w", err)
	}
	if len(rows) < 2 || len(rows[0]) != 3 || rows[0][0] != "TIMESTAMP" {
		return nil, fmt.Errorf("the trace does not begin with the line TIMESTAMP,ContextTokens,GeneratedTokens and a request")
	}
	var all []arrival
	var first time.Time
	for i, row := range rows[1:] {
		at, err := time.Parse("2006-01-02 15:04:05.9999999", row[0])
		if err != nil {
			return nil, fmt.Errorf("line %d of the trace: %w", i+2, err)
		}
		prompt, err := strconv.Atoi(row[1])
		if err != nil {
			return nil, fmt.Errorf("line %d of the trace: %w", i+2, err)
		}
		answer, err := strconv.Atoi(row[2])
		if err != nil {
			return nil, fmt.Errorf("line %d of the trace: %w", i+2, err)
		}
		if i == 0 {
			first = at
		}
		a := arrival{at.Sub(first), max(prompt, 1), max(answer, 1)}
		if i > 0 && a.at < all[i-1].at {
			return nil, fmt.Errorf("line %d of the trace is earlier than the one before", i+2)
		}
		all = append(all, a)
	}
	return all, nil
}
