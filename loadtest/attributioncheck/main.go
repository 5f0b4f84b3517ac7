// Attributioncheck compares what requests took of a real GPU, as pilotlight settles it, with what a real model says that they took.
// It wants an NVIDIA GPU with 30 GiB free, and python3 with PyTorch.
package main

import (
	"bufio"
	"bytes"
	"context"
	_ "embed"
	"encoding/json"
	"errors"
	"flag"
	"fmt"
	"io"
	"maps"
	"math"
	"math/rand/v2"
	"net/http"
	"os"
	"os/signal"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"syscall"
	"time"

	"pilotlight/loadtest/edge"
)

//go:embed model.py
var model []byte

// fleet is two backends with the same model, which fit a GPU together.
const fleet = `
%[3]s
models:
  a: {idle_time: 10m, heartbeat: 5s, backends: [{process: {command: [python3, %[1]s, "{port}", a], env: {PRETEND: "%[2]d"}}, engine: vllm, memory: 14GiB, slots: 16}]}
  b: {idle_time: 10m, heartbeat: 5s, backends: [{process: {command: [python3, %[1]s, "{port}", b], env: {PRETEND: "%[2]d"}}, engine: vllm, memory: 14GiB, slots: 16}]}
`

// phases are how many clients ask for which model.
var phases = []struct {
	name    string
	clients map[string]int
}{
	{"1 client", map[string]int{"a": 1}},
	{"4 clients", map[string]int{"a": 4}},
	{"16 clients", map[string]int{"a": 16}},
	{"4 clients of each of two backends on the GPU", map[string]int{"a": 4, "b": 4}},
}

func main() {
	each := flag.Duration("for", 15*time.Second, "how long each number of clients asks")
	binary := flag.String("binary", "", "the pilotlight; default: it is built")
	pretend := flag.Bool("pretend", false, "try the check itself, without a GPU and PyTorch: the model waits in place of computing")
	flag.Parse()
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer stop()
	if err := check(ctx, *binary, *each, *pretend); err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
}

func check(ctx context.Context, binary string, each time.Duration, pretend bool) error {
	dir, err := os.MkdirTemp("", "pilotlight-attributioncheck-")
	if err != nil {
		return err
	}
	defer os.RemoveAll(dir) //nolint:errcheck // it is a temporary one
	if binary == "" {
		if binary, err = edge.Build(ctx, dir); err != nil {
			return err
		}
	}
	script := filepath.Join(dir, "model.py")
	if err := os.WriteFile(script, model, 0o600); err != nil {
		return err
	}
	configuration := fmt.Sprintf(fleet, script, 0, "")
	if pretend {
		configuration = fmt.Sprintf(fleet, script, 1, "node: {name: pretended, nvml: 'off', gpus: [{memory: 80GiB}]}")
	}
	e, err := edge.Start(ctx, binary, dir, configuration)
	if err != nil {
		return err
	}
	defer e.Stop() //nolint:errcheck // what matters has been seen by then
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	s := settled{gpu: map[string]float64{}}
	watching := make(chan error, 1)
	go func() { watching <- s.watch(ctx, "http://"+e.Admin+"/api/events") }()
	for _, name := range []string{"a", "b"} {
		a, err := ask(ctx, e.Addr, name, 64, 50)
		if err != nil {
			return fmt.Errorf("wake %s: %w", name, err)
		}
		fmt.Printf("%s woke: its first token came after %.1f s\n", name, a.first.Seconds())
	}
	fmt.Printf("\n%-46s %8s %12s %12s %8s %20s %12s\n", "", "requests", "worked, ms", "settled, ms", "", "of one: mean, 9 in 10", "first token")
	for _, p := range phases {
		all, err := load(ctx, e.Addr, p.clients, each)
		if err == nil {
			err = s.await(ctx, all, watching)
		}
		if err != nil {
			return err
		}
		for _, name := range slices.Sorted(maps.Keys(p.clients)) {
			s.print(p.name+": "+name, all[name])
		}
	}
	return nil
}

// answered is a request that was.
type answered struct {
	id    string
	first time.Duration // until its first event
	truth float64       // ms
}

// ask has a model make so many tokens.
func ask(ctx context.Context, addr, name string, prompt, tokens int) (answered, error) {
	body, err := json.Marshal(map[string]any{"model": name, "stream": true, "max_tokens": tokens, "prompt_tokens": prompt, "prompt": strings.Repeat("w ", prompt)})
	if err != nil {
		return answered{}, err
	}
	req, err := http.NewRequestWithContext(ctx, http.MethodPost, "http://"+addr+"/v1/completions", bytes.NewReader(body))
	if err != nil {
		return answered{}, err
	}
	req.Header = http.Header{"Content-Type": {"application/json"}, "X-Pilotlight-Timing": {"on"}}
	began := time.Now()
	resp, err := http.DefaultClient.Do(req)
	if err != nil {
		return answered{}, err
	}
	defer resp.Body.Close()
	a := answered{id: resp.Header.Get("X-Pilotlight-Request")}
	var last struct {
		Truth float64 `json:"truth_ms"`
	}
	for data, err := range events(resp.Body) {
		if err != nil {
			return a, err
		}
		if a.first == 0 {
			a.first = time.Since(began)
		}
		if json.Unmarshal(data, &last) == nil && last.Truth > 0 {
			a.truth = last.Truth
		}
	}
	if resp.StatusCode != http.StatusOK || a.id == "" || a.truth == 0 {
		return a, fmt.Errorf("%s answered %s, request %q, without saying how long it worked", name, resp.Status, a.id)
	}
	return a, nil
}

// load has so many clients ask one thing after the other, and returns what they were answered, by model.
func load(ctx context.Context, addr string, clients map[string]int, long time.Duration) (map[string][]answered, error) {
	var mu sync.Mutex // guards all and failed
	all, failed := map[string][]answered{}, error(nil)
	var asking sync.WaitGroup
	end := time.Now().Add(long)
	for name, n := range clients {
		for i := range n {
			asking.Go(func() {
				r := rand.New(rand.NewPCG(uint64(i), uint64(n)))
				for time.Now().Before(end) {
					a, err := ask(ctx, addr, name, 32<<r.IntN(5), 30+r.IntN(170))
					mu.Lock()
					all[name], failed = append(all[name], a), errors.Join(failed, err)
					mu.Unlock()
					if err != nil {
						return
					}
				}
			})
		}
	}
	asking.Wait()
	return all, failed
}

// settled is what is known of requests by now.
type settled struct {
	mu  sync.Mutex
	gpu map[string]float64 // ms, by request
}

// watch listens to the edge's events until the context ends.
func (s *settled) watch(ctx context.Context, url string) error {
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, url, http.NoBody)
	if err != nil {
		return err
	}
	resp, err := http.DefaultClient.Do(req)
	if err != nil {
		return err
	}
	defer resp.Body.Close()
	for data, err := range events(resp.Body) {
		if err != nil {
			return err
		}
		var news struct {
			Recent []struct {
				ID  string  `json:"id"`
				GPU float64 `json:"gpu_ms"`
			} `json:"recent"`
		}
		if err := json.Unmarshal(data, &news); err != nil {
			return err
		}
		s.mu.Lock()
		for _, r := range news.Recent {
			if r.GPU >= 0 {
				s.gpu[r.ID] = r.GPU
			}
		}
		s.mu.Unlock()
	}
	return io.ErrUnexpectedEOF
}

// await waits until all are settled.
func (s *settled) await(ctx context.Context, all map[string][]answered, watching <-chan error) error {
	for began := time.Now(); ; {
		missing := 0
		s.mu.Lock()
		for _, of := range all {
			for _, a := range of {
				if _, ok := s.gpu[a.id]; !ok {
					missing++
				}
			}
		}
		s.mu.Unlock()
		switch {
		case missing == 0:
			return nil
		case time.Since(began) > 20*time.Second:
			return fmt.Errorf("%d requests are not settled after 20 s", missing)
		}
		select {
		case <-time.After(100 * time.Millisecond):
		case err := <-watching:
			return fmt.Errorf("follow the edge's events: %w", err)
		case <-ctx.Done():
			return ctx.Err()
		}
	}
}

// print compares.
func (s *settled) print(what string, all []answered) {
	s.mu.Lock()
	defer s.mu.Unlock()
	worked, got, sum := 0.0, 0.0, 0.0
	var errs []float64
	var first []time.Duration
	for _, a := range all {
		worked, got, first = worked+a.truth, got+s.gpu[a.id], append(first, a.first)
		errs = append(errs, math.Abs(s.gpu[a.id]/a.truth-1))
		sum += errs[len(errs)-1]
	}
	slices.Sort(errs)
	slices.Sort(first)
	n := len(all)
	fmt.Printf("%-46s %8d %12.0f %12.0f %+7.1f%% %12.1f%% %6.1f%% %9d ms\n", what, n, worked, got, 100*(got/worked-1), 100*sum/float64(n), 100*errs[n*9/10], first[n/2].Milliseconds())
}

// events are the data of server-sent events.
func events(from io.Reader) func(func([]byte, error) bool) {
	return func(yield func([]byte, error) bool) {
		lines := bufio.NewScanner(from)
		lines.Buffer(nil, 16<<20)
		for lines.Scan() {
			if data, ok := bytes.CutPrefix(lines.Bytes(), []byte("data: ")); ok && !yield(data, nil) {
				return
			}
		}
		if err := lines.Err(); err != nil {
			yield(nil, err)
		}
	}
}
