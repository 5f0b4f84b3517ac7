// Command benchwake measures what pilotlight adds to a wake: the time from the moment a model server can answer until the
// first byte of the request that waited for it arrives there.
//
//	go run ./loadtest/benchwake [-n 50]
//
// Each model is asked for once. Its server becomes ready between 50 ms and 5 s after its start: half of the servers open
// their port only then, as vLLM does, half open it at once and answer 503 until then, as llama.cpp does. The model
// servers are this program too.
package main

import (
	"context"
	"encoding/json"
	"flag"
	"fmt"
	"io"
	"math"
	"net/http"
	"os"
	"os/signal"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"time"

	"pilotlight/loadtest/edge"
)

const (
	shortest = 50 * time.Millisecond
	longest  = 5 * time.Second
)

func main() {
	if len(os.Args) > 1 && os.Args[1] == "server" {
		end(server(os.Args[2:]))
		return
	}
	n := flag.Int("n", 50, "how many wakes; their load times are spread evenly on a logarithmic scale")
	flag.Parse()
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer stop()
	end(measure(ctx, max(*n, 2)))
}

func end(err error) {
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
}

// measure wakes n models, one after the other, and prints what each wake took more than it had to.
func measure(ctx context.Context, n int) (err error) {
	ctx, cancel := context.WithTimeoutCause(ctx, 3*time.Minute, fmt.Errorf("not done after 3 minutes"))
	defer cancel()
	dir, err := os.MkdirTemp("", "benchwake-")
	if err != nil {
		return err
	}
	defer os.RemoveAll(dir)
	binary, err := edge.Build(ctx, dir)
	if err != nil {
		return err
	}
	wakes, configuration, err := plan(n)
	if err != nil {
		return err
	}
	p, err := edge.Start(ctx, binary, dir, configuration)
	if err != nil {
		return err
	}
	defer func() {
		if stopped := p.Stop(); err == nil {
			err = stopped
		}
	}()
	var machine lateness
	stop := machine.watch(ctx)
	defer stop()
	fmt.Printf("%-12s %-16s %10s   %s\n", "READY AFTER", "PORT OPENS", "ADDED", "THE MACHINE WAS LATE BY")
	for i := range wakes {
		w := &wakes[i]
		machine.worst.Store(0)
		if w.added, err = ask(ctx, "http://"+p.Addr, w.model); err != nil {
			return fmt.Errorf("wake %s: %w", w.model, err)
		}
		fmt.Printf("%-12v %-16s %7.2f ms   %.2f ms\n", w.after.Round(time.Millisecond), w.port, ms(w.added), ms(time.Duration(machine.worst.Load())))
	}
	cpu, err := edge.CPU(p.PID)
	if err != nil {
		return err
	}
	return report(os.Stdout, wakes, cpu)
}

// wake is one measurement.
type wake struct {
	model string
	after time.Duration
	port  port
	added time.Duration
}

// port is when a model server opens its port.
type port string

const (
	whenReady port = "when ready"
	atOnce    port = "at once, 503"
)

// plan spreads the load times and writes the configuration that belongs to them.
func plan(n int) (wakes []wake, configuration string, err error) {
	self, err := os.Executable()
	if err != nil {
		return nil, "", fmt.Errorf("find the model server, which is this program: %w", err)
	}
	var yaml strings.Builder
	yaml.WriteString("models:\n")
	for i := range n {
		w := wake{model: fmt.Sprintf("model-%d", i), port: whenReady}
		w.after = time.Duration(float64(shortest) * math.Pow(float64(longest)/float64(shortest), float64(i)/float64(n-1)))
		if i%2 == 1 {
			w.port = atOnce
		}
		wakes = append(wakes, w)
		fmt.Fprintf(&yaml, "  %s: {idle_time: 1s, backends: [{gpus: 0, process: {command: [%q, server, \"{port}\", %v, %q]}}]}\n",
			w.model, self, w.after, w.port)
	}
	return wakes, yaml.String(), nil
}

// ask sends a model one request and returns how long its server was ready before the request's first byte came.
func ask(ctx context.Context, url, model string) (time.Duration, error) {
	body := strings.NewReader(`{"model":"` + model + `","messages":[{"role":"user","content":"hello"}]}`)
	r, err := http.NewRequestWithContext(ctx, http.MethodPost, url+"/v1/chat/completions", body)
	if err != nil {
		return 0, err
	}
	r.Header.Set("Content-Type", "application/json")
	resp, err := http.DefaultClient.Do(r)
	if err != nil {
		return 0, err
	}
	defer resp.Body.Close()
	text, err := io.ReadAll(io.LimitReader(resp.Body, 64<<10))
	if err != nil {
		return 0, err
	}
	if resp.StatusCode != http.StatusOK {
		return 0, fmt.Errorf("got %s: %s", resp.Status, text)
	}
	var got answer
	if err := json.Unmarshal(text, &got); err != nil {
		return 0, fmt.Errorf("got %q: %w", text, err)
	}
	return time.Duration(got.AddedNS), nil
}

// lateness is by how much the machine lets a process oversleep: what no proxy can be blamed for.
type lateness struct {
	worst atomic.Int64 // ns
}

// watch sleeps again and again until it is stopped.
func (l *lateness) watch(ctx context.Context) (stop func()) {
	ctx, cancel := context.WithCancel(ctx)
	var watching sync.WaitGroup
	watching.Go(func() {
		const nap = 2 * time.Millisecond
		for ctx.Err() == nil {
			began := time.Now()
			time.Sleep(nap)
			l.worst.Store(max(l.worst.Load(), int64(time.Since(began)-nap)))
		}
	})
	return func() { cancel(); watching.Wait() }
}

// report sums up. Its last line is JSON.
func report(w io.Writer, wakes []wake, cpu time.Duration) error {
	slices.SortFunc(wakes, func(a, b wake) int { return int(a.added - b.added) })
	rank := func(p float64) float64 { return ms(wakes[int(math.Ceil(p*float64(len(wakes))))-1].added) }
	fmt.Fprintf(w, "\n%d wakes: min %.2f ms, median %.2f ms, p90 %.2f ms, p99 %.2f ms, max %.2f ms; pilotlight used %.2f s of processor time\n",
		len(wakes), ms(wakes[0].added), rank(0.5), rank(0.9), rank(0.99), rank(1), cpu.Seconds())
	return json.NewEncoder(w).Encode(map[string]float64{"median_ms": rank(0.5), "p99_ms": rank(0.99)})
}

// ms is d in milliseconds, to a hundredth.
func ms(d time.Duration) float64 { return math.Round(d.Seconds()*1e5) / 100 }
