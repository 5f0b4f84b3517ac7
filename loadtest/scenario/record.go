package scenario

import (
	"bufio"
	"encoding/json"
	"fmt"
	"io"
	"slices"
	"time"
)

// line is what matters of a line of an edge's log.
type line struct {
	Time     time.Time
	Msg      string
	Level    string
	Model    string
	Backend  string
	From, To string // of a backend that moved
	Outcome  string
	Code     string
	Cold     bool
	WaitedMS float64 `json:"waited_ms"`
	TotalMS  float64 `json:"total_ms"`
	Listen   string
}

// record is what an edge's log says.
type record struct {
	visits   []visit
	moves    []move
	outcomes map[string]int64
	cold     int
}

// visit is a request that reached a model.
type visit struct {
	model      string
	begin, end time.Time
	waited     time.Duration
	cold       bool
	outcome    string
}

// move is a backend that moved.
type move struct {
	at       time.Time
	model    string
	backend  string
	from, to string
}

// read reads a log. What is no JSON in it is none of ours: model servers write there as well.
func (rec *record) read(r io.Reader) error {
	if rec.outcomes == nil {
		rec.outcomes = map[string]int64{}
	}
	lines := bufio.NewScanner(r)
	lines.Buffer(make([]byte, 64<<10), 1<<20)
	for lines.Scan() {
		var l line
		if json.Unmarshal(lines.Bytes(), &l) != nil {
			continue
		}
		switch l.Msg {
		case "request":
			took := time.Duration(l.TotalMS * float64(time.Millisecond))
			rec.visits = append(rec.visits, visit{
				l.Model, l.Time.Add(-took), l.Time, time.Duration(l.WaitedMS * float64(time.Millisecond)), l.Cold, l.Outcome,
			})
			rec.outcomes[l.Outcome]++
			if l.Cold {
				rec.cold++
			}
		case "backend moved":
			rec.moves = append(rec.moves, move{l.Time, l.Model, l.Backend, l.From, l.To})
		}
	}
	if err := lines.Err(); err != nil {
		return fmt.Errorf("read the log of an edge or an agent: %w", err)
	}
	slices.SortStableFunc(rec.moves, func(a, b move) int { return a.at.Compare(b.at) })
	return nil
}

// share is what a backend holds of GPUs in a state: 1 is the whole memory of one.
type share struct{ awake, asleep float64 }

func (s share) of(state string) float64 {
	switch state {
	case "waking", "ready", "draining":
		return s.awake
	case "asleep":
		return s.asleep
	}
	return 0
}

// held is what backends hold of GPUs over time.
type held struct {
	at  []time.Time
	sum []float64
}

// heldBy adds up what the backends of models hold, from each move on. A backend that wakes may still wait for what another is about to give
// back, so there is never more than the GPUs have.
func (rec *record) heldBy(shares map[string]share, gpus int) held {
	var h held
	sum, states := 0.0, map[string]string{}
	for _, m := range rec.moves {
		s := shares[m.model]
		sum += s.of(m.to) - s.of(states[m.backend])
		states[m.backend] = m.to
		h.at, h.sum = append(h.at, m.at), append(h.sum, min(sum, float64(gpus)))
	}
	return h
}

// over is the integral from one time to another, in GPU time, and the most that was held.
func (h held) over(from, to time.Time) (total time.Duration, most float64) {
	now := from
	level := 0.0
	for i, at := range h.at {
		if at.After(to) {
			break
		}
		if at.After(now) {
			total += time.Duration(level * float64(at.Sub(now)))
			most, now = max(most, level), at
		}
		level = h.sum[i]
	}
	if to.After(now) {
		total += time.Duration(level * float64(to.Sub(now)))
		most = max(most, level)
	}
	return total, most
}

// at is what is held at a time.
func (h held) level(t time.Time) (level float64) {
	for i, at := range h.at {
		if at.After(t) {
			break
		}
		level = h.sum[i]
	}
	return level
}
