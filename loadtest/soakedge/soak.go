package main

import (
	"bufio"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"math/rand/v2"
	"net/http"
	"os"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"time"

	"pilotlight/loadtest/edge"
)

// soak is a run against one edge.
type soak struct {
	options options
	edge    *edge.Edge
	self    string
	file    string // of the configuration
	ports   []int  // on which the model servers speak gRPC

	began                                    time.Time
	answered, refused, broken, left, strange atomic.Int64
	kills, reloads                           atomic.Int64
	seen                                     []state // at each report

	mu    sync.Mutex // guards first
	first error      // that was strange
}

// load keeps the edge busy for a while, and has report called thirty times.
func (s *soak) load(ctx context.Context, howLong time.Duration, report func()) error {
	s.began = time.Now()
	loading, stop := context.WithTimeout(ctx, howLong)
	defer stop()
	var all sync.WaitGroup
	for i := range s.options.clients {
		all.Go(func() { s.client(loading, i) })
	}
	all.Go(func() { every(loading, 5*time.Second, func() { s.kill(loading) }) })
	all.Go(func() { every(loading, 7*time.Second, s.reload) })
	all.Go(func() { every(loading, howLong/30, report) })
	all.Wait()
	return context.Cause(ctx)
}

// every does something again and again, until ctx ends.
func every(ctx context.Context, pause time.Duration, do func()) {
	tick := time.NewTicker(pause)
	defer tick.Stop()
	for {
		select {
		case <-tick.C:
			do()
		case <-ctx.Done():
			return
		}
	}
}

// client asks until ctx ends. A request that has begun is given the time to end.
func (s *soak) client(ctx context.Context, id int) {
	c := newClient(s.edge.Addr, id)
	defer c.close()
	asking, cancel := context.WithTimeout(context.WithoutCancel(ctx), s.options.time+2*time.Minute)
	defer cancel()
	for ctx.Err() == nil {
		s.count(c.ask(asking))
		pause := time.Duration(rand.Int64N(int64(2 * time.Second * time.Duration(s.options.clients) / time.Duration(s.options.rate))))
		select {
		case <-time.After(pause):
		case <-ctx.Done():
		}
	}
}

func (s *soak) count(err error) {
	switch {
	case err == nil:
		s.answered.Add(1)
	case errors.Is(err, errRefused):
		s.refused.Add(1)
	case errors.Is(err, errBroken):
		s.broken.Add(1)
	case errors.Is(err, errLeft):
		s.left.Add(1)
	default:
		s.strange.Add(1)
		fmt.Println(err)
		s.mu.Lock()
		defer s.mu.Unlock()
		if s.first == nil {
			s.first = err
		}
	}
}

// shortLife is how long a model server must have been up to be killed. One that dies sooner is left to rest by the edge, longer
// each time, and in the end nothing would be answered.
const shortLife = 12 * time.Second

// kill ends one of the model servers that are up, as a crash does.
func (s *soak) kill(ctx context.Context) {
	status, err := s.status(ctx)
	if err != nil {
		return // quiet will say so if it stays like that
	}
	var up []int
	for _, m := range status.Models {
		for _, b := range m.Backends {
			if b.PID > 0 && b.State == "ready" && time.Since(b.Since) > shortLife {
				up = append(up, b.PID)
			}
		}
	}
	if len(up) > 0 && syscall.Kill(up[rand.IntN(len(up))], syscall.SIGKILL) == nil {
		s.kills.Add(1)
	}
}

// reload changes the configuration, which the edge takes over by itself.
func (s *soak) reload() {
	n := s.reloads.Add(1)
	text := s.configuration(usualLine + n%2)
	if n%2 == 0 {
		text += strings.TrimPrefix(fmt.Sprintf(sometimes, s.self), "\n")
	}
	s.configure(text)
}

func (s *soak) configure(text string) {
	if err := errors.Join(os.WriteFile(s.file+".new", []byte(text), 0o600), os.Rename(s.file+".new", s.file)); err != nil {
		fmt.Println(err)
	}
}

// state is what an edge holds at some time.
type state struct {
	memory                  int64 // bytes
	goroutines, descriptors int
	busy                    int // requests, places in lines and slots
	models, up              int // models, and their servers that are not stopped
	reloaded                bool
}

func (s *soak) state(ctx context.Context) (got state, err error) {
	if got.memory, err = edge.Memory(s.edge.PID); err != nil {
		return got, err
	}
	status, err := s.status(ctx)
	if err != nil {
		return got, err
	}
	for _, m := range status.Models {
		got.models++
		got.busy += m.Line.Waiting
		for _, b := range m.Backends {
			got.busy += b.InFlight
			if b.State != "stopped" {
				got.up++
			}
		}
	}
	return got, s.get(ctx, "/metrics", func(in *bufio.Scanner) error {
		for in.Scan() {
			name, value, _ := strings.Cut(in.Text(), " ")
			n, _ := strconv.ParseFloat(value, 64)
			switch name {
			case "go_goroutines":
				got.goroutines = int(n)
			case "process_open_fds":
				got.descriptors = int(n)
			case "pilotlight_requests_in_flight":
				got.busy += int(n)
			case "pilotlight_config_last_reload_successful":
				got.reloaded = n == 1
			}
		}
		return in.Err()
	})
}

// status is what matters of the operators' picture.
type status struct {
	Models []struct {
		Line     struct{ Waiting int }
		Backends []struct {
			State    string
			Since    time.Time
			PID      int
			InFlight int `json:"in_flight"`
		}
	}
}

func (s *soak) status(ctx context.Context) (got status, err error) {
	return got, s.get(ctx, "/api/status", func(in *bufio.Scanner) error {
		var text strings.Builder
		for in.Scan() {
			text.Write(in.Bytes())
		}
		return errors.Join(in.Err(), json.Unmarshal([]byte(text.String()), &got))
	})
}

// get asks the admin port.
func (s *soak) get(ctx context.Context, path string, read func(*bufio.Scanner) error) error {
	ctx, cancel := context.WithTimeout(ctx, time.Minute)
	defer cancel()
	r, err := http.NewRequestWithContext(ctx, http.MethodGet, "http://"+s.edge.Admin+path, http.NoBody)
	if err != nil {
		return err
	}
	r.Close = true // a kept connection would count as a goroutine
	resp, err := http.DefaultClient.Do(r)
	if err != nil {
		return err
	}
	defer resp.Body.Close()
	return read(bufio.NewScanner(resp.Body))
}

func (s *soak) report(ctx context.Context) {
	now, err := s.state(ctx)
	if err != nil {
		fmt.Println(err)
		return
	}
	s.seen = append(s.seen, now)
	fmt.Printf("%8v %9d %8d %7d %9d %8d %6d %8d %7.1f %10d %10d\n", time.Since(s.began).Round(time.Second), s.answered.Load(), s.refused.Load(),
		s.broken.Load(), s.left.Load(), s.strange.Load(), s.kills.Load(), s.reloads.Load(), mib(now.memory), now.goroutines, now.descriptors)
}

func mib(bytes int64) float64 { return float64(bytes) / (1 << 20) }

// quiet waits until nothing is in flight and no model server is up, and until no more is held than before, for so long as what
// idles is kept.
func (s *soak) quiet(ctx context.Context, before *state) (*state, error) {
	s.configure(s.configuration(usualLine))
	const kept = 90 * time.Second
	for end := time.Now().Add(kept); ; {
		now, err := s.state(ctx)
		if err != nil {
			return nil, err
		}
		over := time.Now().After(end)
		if now.busy == 0 && now.up == 0 && before != nil && now.goroutines <= before.goroutines && now.descriptors <= before.descriptors || over {
			return &now, nil
		}
		if now.busy == 0 && now.up > 0 {
			s.stopModels(ctx)
		}
		select {
		case <-time.After(time.Second):
		case <-ctx.Done():
			return nil, context.Cause(ctx)
		}
	}
}

// stopModels has the model servers stopped. What cannot be stopped just now can be a second later.
func (s *soak) stopModels(ctx context.Context) {
	for _, model := range []string{"steady", "sleepy"} {
		r, err := http.NewRequestWithContext(ctx, http.MethodPost, "http://"+s.edge.Admin+"/api/stop/"+model, http.NoBody)
		if err != nil {
			continue
		}
		r.Close = true
		if resp, err := http.DefaultClient.Do(r); err == nil {
			resp.Body.Close()
		}
	}
}

// verdict compares what is held after the load with what was held before.
func (s *soak) verdict(before, after *state) error {
	fmt.Printf("\nquiet again: %.1f MiB, %d goroutines and %d descriptors, before %.1f MiB, %d and %d; %d requests or slots in use\n",
		mib(after.memory), after.goroutines, after.descriptors, mib(before.memory), before.goroutines, before.descriptors, after.busy)
	var wrong []error
	if s.first != nil {
		wrong = append(wrong, fmt.Errorf("%d answers were not what was asked for, the first one: %w", s.strange.Load(), s.first))
	}
	if s.answered.Load() == 0 {
		wrong = append(wrong, errors.New("nothing was answered"))
	}
	if after.up > 0 || after.models != before.models {
		wrong = append(wrong, fmt.Errorf("%d model servers are up, of %d models", after.up, after.models))
	}
	if after.busy > 0 {
		wrong = append(wrong, fmt.Errorf("%d requests or slots are left", after.busy))
	}
	const shaky = 3 // timers of libraries come and go
	if after.goroutines > before.goroutines+shaky || after.descriptors > before.descriptors+shaky {
		wrong = append(wrong, errors.New("goroutines or descriptors are left"))
	}
	if !after.reloaded {
		wrong = append(wrong, errors.New("the last reload failed"))
	}
	if early, late := s.memory(1, 2), s.memory(3, 4); late > early*1.1+4 {
		wrong = append(wrong, fmt.Errorf("memory grew from %.1f to %.1f MiB", early, late))
	}
	return errors.Join(wrong...)
}

// memory is the mean from one quarter of the run to another, in MiB.
func (s *soak) memory(from, to int) (mean float64) {
	part := s.seen[len(s.seen)*from/4 : len(s.seen)*to/4]
	for _, at := range part {
		mean += mib(at.memory) / float64(len(part))
	}
	return mean
}
