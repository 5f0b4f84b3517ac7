// Command benchedge measures the processor time that the edge spends on a request, side by side with nginx.
//
//	go run ./loadtest/benchedge [-pairs 5] [-for 4s] [-connections 64]
//
// Clients and model server are this program; they take turns with both proxies, on kept-alive connections over loopback: a
// small JSON request and an answer of 1 KiB. Pilotlight writes a line of log for each request, as it always does, nginx
// none. Where nginx is not installed, the edge is measured alone.
package main

import (
	"context"
	"encoding/json"
	"errors"
	"flag"
	"fmt"
	"math"
	"os"
	"os/exec"
	"os/signal"
	"slices"
	"syscall"
	"time"

	"pilotlight/loadtest/edge"
)

func main() {
	var o options
	flag.IntVar(&o.pairs, "pairs", 5, "how many times each proxy has its turn")
	flag.DurationVar(&o.turn, "for", 4*time.Second, "how long a turn takes")
	flag.IntVar(&o.connections, "connections", 64, "clients; each sends its next request when it has its answer")
	flag.Parse()
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer stop()
	if err := run(ctx, o); err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
}

type options struct {
	pairs, connections int
	turn               time.Duration
}

// rival is a proxy in front of the model server, and what its turns gave.
type rival struct {
	name, addr string
	pids       func() ([]int, error)
	costs      []float64 // µs of processor time for each request, one for each turn
}

func run(ctx context.Context, o options) (err error) {
	dir, err := os.MkdirTemp("", "benchedge-")
	if err != nil {
		return err
	}
	defer os.RemoveAll(dir)
	server, err := serveModel(ctx)
	if err != nil {
		return err
	}
	pilotlight, stop, err := startPilotlight(ctx, dir, server)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, stop()) }()
	rivals := []*rival{pilotlight}
	nginx, stopNginx, err := startNginx(ctx, dir, server)
	switch {
	case errors.Is(err, exec.ErrNotFound):
		fmt.Println("nginx is not installed; pilotlight is measured alone")
	case err != nil:
		return err
	default:
		defer func() { err = errors.Join(err, stopNginx()) }()
		rivals = append(rivals, nginx)
	}

	for range o.pairs {
		for _, r := range rivals {
			requests, cost, err := r.turn(ctx, o)
			if err != nil {
				return fmt.Errorf("%s: %w", r.name, err)
			}
			r.costs = append(r.costs, cost)
			fmt.Printf("%-10s %7.0f requests/s  %6.2f µs of processor time each\n", r.name, requests/o.turn.Seconds(), cost)
		}
	}
	return report(rivals)
}

func startPilotlight(ctx context.Context, dir, server string) (*rival, func() error, error) {
	binary, err := edge.Build(ctx, dir)
	if err != nil {
		return nil, nil, err
	}
	p, err := edge.Start(ctx, binary, dir, "models: {m: {never_sleep: true, backends: [{address: \""+server+"\", gpus: 0, slots: 1024}]}}\n", "GOMAXPROCS=1")
	if err != nil {
		return nil, nil, err
	}
	return &rival{name: "pilotlight", addr: p.Addr, pids: func() ([]int, error) { return []int{p.PID}, nil }}, p.Stop, nil
}

// turn keeps the proxy busy and returns how many requests it served and what each of them cost, without the time until it
// is in its stride.
func (r *rival) turn(ctx context.Context, o options) (requests, cost float64, err error) {
	clients := startClients(ctx, r.addr, o.connections)
	defer func() { err = errors.Join(err, clients.stop()) }()
	const warmUp = 500 * time.Millisecond
	if err := pause(ctx, warmUp); err != nil {
		return 0, 0, err
	}
	count := clients.served.Load()
	before, err := r.cpu()
	if err != nil {
		return 0, 0, err
	}
	if err := pause(ctx, o.turn); err != nil {
		return 0, 0, err
	}
	after, err := r.cpu()
	if err != nil {
		return 0, 0, err
	}
	requests = float64(clients.served.Load() - count)
	if requests == 0 {
		return 0, 0, errors.New("not one request was answered")
	}
	return requests, float64((after - before).Microseconds()) / requests, nil
}

// cpu is the processor time of all processes of the proxy.
func (r *rival) cpu() (sum time.Duration, err error) {
	pids, err := r.pids()
	if err != nil {
		return 0, err
	}
	for _, pid := range pids {
		used, err := edge.CPU(pid)
		if err != nil {
			return 0, err
		}
		sum += used
	}
	return sum, nil
}

func pause(ctx context.Context, d time.Duration) error {
	select {
	case <-time.After(d):
		return nil
	case <-ctx.Done():
		return context.Cause(ctx)
	}
}

// report prints the medians. Its last line is JSON.
func report(rivals []*rival) error {
	medians := map[string]float64{}
	for _, r := range rivals {
		slices.Sort(r.costs)
		medians["cpu_us_"+r.name] = round(r.costs[len(r.costs)/2])
		fmt.Printf("%s: median %.2f µs of processor time for each request (%.2f to %.2f)\n", r.name,
			r.costs[len(r.costs)/2], r.costs[0], r.costs[len(r.costs)-1])
	}
	if nginx, measured := medians["cpu_us_nginx"]; measured {
		medians["ratio"] = round(medians["cpu_us_pilotlight"] / nginx)
	}
	return json.NewEncoder(os.Stdout).Encode(medians)
}

func round(x float64) float64 { return math.Round(x*100) / 100 }
