package scenario

import (
	"bufio"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"os"
	"slices"
	"strconv"
	"strings"
	"time"

	"pilotlight/loadtest"
)

// gauges are what an edge says of itself.
type gauges struct {
	ended                   map[string]int64 // requests, by outcome
	inFlight                int64            // requests
	goroutines, descriptors int64
}

// readGauges reads them from the metrics of an edge.
func (p *process) readGauges(ctx context.Context) (gauges, error) {
	g := gauges{ended: map[string]int64{}}
	text, err := get(ctx, p.admin, "/metrics")
	if err != nil {
		return g, err
	}
	for lines := bufio.NewScanner(strings.NewReader(text)); lines.Scan(); {
		name, labels, _ := strings.Cut(lines.Text(), "{")
		if labels == "" {
			name, _, _ = strings.Cut(name, " ")
		}
		value, err := strconv.ParseFloat(lines.Text()[strings.LastIndexByte(lines.Text(), ' ')+1:], 64)
		if err != nil {
			continue
		}
		switch name {
		case "pilotlight_requests_total":
			_, after, _ := strings.Cut(labels, `outcome="`)
			outcome, _, _ := strings.Cut(after, `"`)
			g.ended[outcome] += int64(value)
		case "pilotlight_requests_in_flight":
			g.inFlight = int64(value)
		case "go_goroutines":
			g.goroutines = int64(value)
		case "process_open_fds":
			g.descriptors = int64(value)
		}
	}
	return g, nil
}

// status is what matters of the operators' picture.
type status struct {
	Models []struct {
		Name     string
		Line     struct{ Waiting int }
		Backends []struct {
			ID       string
			State    string
			PID      int
			InFlight int `json:"in_flight"`
		}
	}
}

func (p *process) status(ctx context.Context) (s status, err error) {
	text, err := get(ctx, p.admin, "/api/status")
	if err == nil {
		err = json.Unmarshal([]byte(text), &s)
	}
	return s, err
}

// status is what some edge says.
func (f *fleet) status(ctx context.Context) (s status, err error) {
	ctx, cancel := context.WithTimeout(ctx, time.Second)
	defer cancel()
	for _, p := range f.edges() {
		if s, err = p.status(ctx); err == nil {
			return s, nil
		}
	}
	return s, err
}

// used is how many slots and places in lines are taken.
func (s status) used() (n int) {
	for _, m := range s.Models {
		n += m.Line.Waiting
		for _, b := range m.Backends {
			n += b.InFlight
		}
	}
	return n
}

// pids are the model servers.
func (s status) pids() (all []int) {
	for _, m := range s.Models {
		for _, b := range m.Backends {
			if b.PID != 0 {
				all = append(all, b.PID)
			}
		}
	}
	return all
}

// up are the models that have a backend which is not stopped.
func (s status) up() (names []string) {
	for _, m := range s.Models {
		for _, b := range m.Backends {
			if b.State != "stopped" && b.State != "failed" {
				names = append(names, m.Name)
				break
			}
		}
	}
	return names
}

// Times that a fleet has to let go of what it no longer needs.
const (
	settleTime = time.Minute
	lookTime   = 200 * time.Millisecond
	shaky      = 4 // goroutines and descriptors: timers and connections of libraries come and go
)

// checked waits until something is well, and returns what is wrong with it after settleTime.
func checked(ctx context.Context, look func() (error, error)) (wrong, err error) {
	ctx, cancel := context.WithTimeout(ctx, settleTime)
	defer cancel()
	for {
		w, err := look()
		if ctx.Err() != nil {
			return wrong, nil // what was seen last counts
		}
		if err != nil || w == nil {
			return nil, err
		}
		wrong = w
		select {
		case <-time.After(lookTime):
		case <-ctx.Done():
			return wrong, nil
		}
	}
}

// accounts compares what clients saw with what the edges counted: each request has one outcome, and it is the same one. Clients that left may
// have been answered, or broken off, in the same moment.
func (f *fleet) accounts(ctx context.Context, r *loadtest.Result, before []gauges) (wrong, err error) {
	seen, open := r.Everything()
	return checked(ctx, func() (error, error) {
		counted, inFlight := map[string]int64{}, int64(0)
		for i, p := range f.edges() {
			now, err := p.readGauges(ctx)
			if err != nil {
				return nil, err
			}
			inFlight += now.inFlight
			for o, n := range now.ended {
				counted[o] += n - before[i].ended[o]
			}
		}
		var all []error
		if open != 0 || inFlight != 0 {
			all = append(all, fmt.Errorf("%d requests are open at their clients, %d at the edges", open, inFlight))
		}
		return errors.Join(append(all, compare(seen, counted))...), nil
	})
}

// accountsInLogs compares what clients saw with what the edges' logs say. An edge that is killed takes the last tenth of a second of its log with
// it: what is missing then must have ended around that time, or not have come to an edge at all.
func accountsInLogs(r *loadtest.Result, logged map[string]int64, done []deed) error {
	seen, _ := r.Everything()
	missing, excused := int64(0), int64(0)
	for _, n := range seen {
		missing += n
	}
	for _, n := range logged {
		missing -= n
	}
	for _, d := range done {
		if d.edge {
			excused += r.EndedBetween(d.at.Add(-time.Second), d.at.Add(time.Second))
		}
	}
	if excused > 0 {
		excused += unreached(r)
	}
	if missing < 0 || missing > excused {
		return fmt.Errorf("clients saw the end of %d requests that no edge has in its log, and edges that were killed account for 0 to %d", missing, excused)
	}
	return nil
}

// unreached is how many requests may not have come to an edge.
func unreached(r *loadtest.Result) (n int64) {
	for _, k := range r.Kinds() {
		if k.Outcome == loadtest.Broken && strings.HasPrefix(k.Kind.Kind, "connection ") {
			n += k.Count
		}
	}
	return n
}

// compare says how what clients saw differs from what the edge counted.
func compare(seen map[loadtest.Outcome]int64, counted map[string]int64) error {
	sum := func(all []int64) (n int64) {
		for _, of := range all {
			n += of
		}
		return n
	}
	var wrong []error
	if a, b := sum(slices.Collect(maps.Values(seen))), sum(slices.Collect(maps.Values(counted))); a != b {
		wrong = append(wrong, fmt.Errorf("clients saw the end of %d requests, the edge of %d", a, b))
	}
	left := seen[loadtest.Left] + counted[string(loadtest.Left)]
	for _, o := range loadtest.Outcomes() {
		if d := seen[o] - counted[string(o)]; o != loadtest.Left && (d > left || -d > left) {
			wrong = append(wrong, fmt.Errorf("clients saw %d requests end %s, the edge %d", seen[o], o, counted[string(o)]))
		}
	}
	return errors.Join(wrong...)
}

// nothingLeft stops all models, and then wants neither a slot nor a place in a line to be taken, and no more goroutines and descriptors than
// before the load.
func (f *fleet) nothingLeft(ctx context.Context, before []gauges) (wrong, err error) {
	return checked(ctx, func() (error, error) {
		for i, p := range f.edges() {
			if wrong, err := p.nothingLeft(ctx, before[i]); wrong != nil || err != nil {
				return wrong, err
			}
		}
		return nil, nil //nolint:nilnil // all is well
	})
}

func (p *process) nothingLeft(ctx context.Context, before gauges) (wrong, err error) {
	s, err := p.status(ctx)
	if err != nil {
		return nil, err
	}
	for _, name := range s.up() {
		_ = post(ctx, p.admin, "/api/stop/"+name) // what cannot be stopped now can be a moment later
	}
	now, err := p.readGauges(ctx)
	if err != nil {
		return nil, err
	}
	switch {
	case s.used() > 0:
		return fmt.Errorf("%s: %d slots or places in lines are taken, and nobody is there", p.name, s.used()), nil
	case len(s.up()) > 0:
		return fmt.Errorf("%s: %d models cannot be stopped", p.name, len(s.up())), nil
	case now.goroutines > before.goroutines+shaky || now.descriptors > before.descriptors+shaky:
		return fmt.Errorf("%s: %d goroutines and %d descriptors are there, and were %d and %d before", p.name, now.goroutines, now.descriptors,
			before.goroutines, before.descriptors), nil
	}
	return nil, nil //nolint:nilnil // all is well
}

// survivors are those of some processes that are still there.
func survivors(pids []int) (alive []int) {
	for _, pid := range pids {
		if text, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", pid)); err == nil && !strings.Contains(string(text), ") Z ") {
			alive = append(alive, pid)
		}
	}
	return alive
}

// peakMemory is the most memory that a process ever had, in bytes; 0: nobody knows.
func peakMemory(pid int) (bytes int64) {
	text, err := os.ReadFile(fmt.Sprintf("/proc/%d/status", pid))
	if err != nil {
		return 0
	}
	_, after, _ := strings.Cut(string(text), "VmHWM:")
	if _, err := fmt.Sscan(after, &bytes); err != nil {
		return 0
	}
	return bytes << 10
}
