// Command benchleave measures how soon a departure is noticed while many streams are open: the time from the moment a client
// closes its connection until its model server sees the end of its own.
//
//	go run ./loadtest/benchleave [-streams 5000] [-tries 200] [-every 10s]
//
// Clients leave in each phase of a request. In line and while a model wakes there is no model server yet to notice: there
// the end is the moment at which the edge's record of the request ends, which is when its place in line is given up. Clients and
// model server are this program.
package main

import (
	"context"
	"encoding/json"
	"errors"
	"flag"
	"fmt"
	"math"
	"os"
	"os/signal"
	"slices"
	"sync"
	"sync/atomic"
	"syscall"
	"time"

	"pilotlight/loadtest/edge"
)

func main() {
	if len(os.Args) > 1 && os.Args[1] == "load" { // a model server that never gets ready
		time.Sleep(10 * time.Minute)
		return
	}
	var o options
	flag.IntVar(&o.streams, "streams", 5000, "how many streams are open all the while")
	flag.IntVar(&o.tries, "tries", 200, "how many clients leave in each phase, one after the other")
	flag.DurationVar(&o.every, "every", 10*time.Second, "how often an event comes on each stream")
	flag.Parse()
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer stop()
	if err := run(ctx, o); err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
}

type options struct {
	streams, tries int
	every          time.Duration
}

// configuration has a model that is ready, one whose only slot is taken, and one that loads for ever.
const configuration = `
models:
  ready: {never_sleep: true, backends: [{address: %[1]q, gpus: 0, slots: 100000}]}
  busy: {never_sleep: true, heartbeat: 10ms, backends: [{address: %[1]q, gpus: 0, slots: 1}]}
  asleep: {heartbeat: 10ms, backends: [{gpus: 0, process: {command: [%[2]q, load, "{port}"]}}]}
`

func run(ctx context.Context, o options) (err error) {
	ctx, cancel := context.WithTimeoutCause(ctx, 9*time.Minute, errors.New("not done after 9 minutes"))
	defer cancel()
	dir, err := os.MkdirTemp("", "benchleave-")
	if err != nil {
		return err
	}
	defer os.RemoveAll(dir)
	self, err := os.Executable()
	if err != nil {
		return fmt.Errorf("find the model server, which is this program: %w", err)
	}
	binary, err := edge.Build(ctx, dir)
	if err != nil {
		return err
	}
	server, err := startServer(ctx, o.every)
	if err != nil {
		return err
	}
	p, err := edge.Start(ctx, binary, dir, fmt.Sprintf(configuration, server.addr, self))
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, p.Stop()) }()
	b := bench{edge: p, server: server, options: o}
	if err := b.openStreams(ctx); err != nil {
		return err
	}
	defer b.close()
	return b.table(ctx)
}

// bench is an edge with its model server and the streams that are open.
type bench struct {
	edge    *edge.Edge
	server  *server
	options options

	mu      sync.Mutex // guards streams
	streams []*client
	last    int // try
}

// table measures each phase in turn. Its last line is JSON.
func (b *bench) table(ctx context.Context) error {
	var machine lateness
	defer machine.watch(ctx)()
	fmt.Printf("%d streams are open; an event comes on each every %v\n\n", len(b.streams), b.options.every)
	fmt.Printf("%-16s %5s  %9s %9s %9s   %s\n", "A CLIENT LEAVES", "TRIES", "MEDIAN", "P99", "MAX", "THE MACHINE WAS LATE BY")
	sum := map[string]float64{"streams": float64(len(b.streams)), "median_ms": 0, "p99_ms": 0}
	for _, p := range phases {
		machine.worst.Store(0)
		took, err := b.measure(ctx, p)
		if err != nil {
			return fmt.Errorf("%s: %w", p.name, err)
		}
		slices.Sort(took)
		rank := func(p float64) float64 { return ms(took[int(math.Ceil(p*float64(len(took))))-1]) }
		fmt.Printf("%-16s %5d  %6.2f ms %6.2f ms %6.2f ms   %.2f ms\n", p.name, len(took), rank(0.5), rank(0.99), rank(1), ms(time.Duration(machine.worst.Load())))
		sum["median_ms"], sum["p99_ms"] = max(sum["median_ms"], rank(0.5)), max(sum["p99_ms"], rank(0.99))
	}
	fmt.Println("\nthe worst phase:")
	return json.NewEncoder(os.Stdout).Encode(sum)
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

// ms is d in milliseconds, to a hundredth.
func ms(d time.Duration) float64 { return math.Round(d.Seconds()*1e5) / 100 }
