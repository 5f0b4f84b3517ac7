// Benchconsul measures what discovery costs an edge: it puts a fleet into a real Consul, as its agents would have, and watches another
// process that follows it. `make bench-consul` runs it.
package main

import (
	"context"
	"flag"
	"fmt"
	"log/slog"
	"os"
	"os/signal"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"time"

	"pilotlight/config"
	"pilotlight/loadtest/realconsul"
	"pilotlight/router/consul"
)

// options are the size of the fleet and the length of what is measured.
type options struct {
	backends, models, nodes, changes int
	idle                             time.Duration
	follow                           string
}

func main() {
	var o options
	flag.IntVar(&o.backends, "backends", 5000, "backends to register")
	flag.IntVar(&o.models, "models", 500, "models that they serve")
	flag.IntVar(&o.nodes, "nodes", 200, "nodes that they are on, each with an agent")
	flag.IntVar(&o.changes, "changes", 100, "changes, one after the other")
	flag.DurationVar(&o.idle, "idle", time.Minute, "how long to watch an edge to which nothing happens")
	flag.StringVar(&o.follow, "follow", "", "be the edge that is measured; the address of Consul")
	flag.Parse()
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer stop()
	run := measure
	if o.follow != "" {
		run = follow
	}
	if err := run(ctx, o); err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
}

func client(addr string) (*consul.Client, error) {
	return consul.New(config.Consul{Address: addr, Prefix: "pilotlight", Watches: 16}, slog.New(slog.DiscardHandler), nil)
}

func measure(ctx context.Context, o options) error {
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	memory := "/dev/shm" // the generator has one Consul agent in place of one a node: that its writes wait for a disk in turn says nothing
	if _, err := os.Stat(memory); err != nil {
		memory = ""
	}
	dir, err := os.MkdirTemp(memory, "benchconsul")
	if err != nil {
		return err
	}
	defer os.RemoveAll(dir)
	cluster, err := realconsul.Start(ctx, realconsul.Options{Dir: dir})
	if err != nil {
		return err
	}
	defer cluster.Close()
	addr := cluster.Servers[0].Addr
	edge, err := startEdge(ctx, addr)
	if err != nil {
		return err
	}
	defer edge.end()
	f := newFleet(o, cluster.API(0))
	fmt.Printf("%d backends of %d models on %d nodes, %d CPUs\n\n| what | measured |\n|---|---|\n", o.backends, o.models, o.nodes, numCPU())
	began := time.Now()
	if err := f.register(); err != nil {
		return err
	}
	registered := time.Since(began)
	if err := edge.await(ctx, "all are routable", 10*time.Minute, func() bool { return edge.ready() == o.backends }); err != nil {
		return err
	}
	row("from nothing until all are routable", "%s, of which registering them took %s", time.Since(began).Round(100*time.Millisecond), registered.Round(100*time.Millisecond))
	if err := edge.rest(ctx, 20*time.Second); err != nil {
		return err
	}
	if err := another(ctx, o, addr); err != nil {
		return err
	}
	if err := idle(ctx, o, edge); err != nil {
		return err
	}
	if err := changes(ctx, o, f, edge); err != nil {
		return err
	}
	if err := registrations(ctx, f, edge); err != nil {
		return err
	}
	if err := burst(ctx, o, f, edge); err != nil {
		return err
	}
	row("memory of the edge's process", "%s", config.Size(edge.memory())/config.MiB*config.MiB)
	size, err := wholeFleet(ctx, addr)
	if err != nil {
		return err
	}
	row("for comparison: one answer with all checks", "%s on the wire, at every change", kib(size))
	return nil
}

func row(what, format string, args ...any) {
	fmt.Printf("| %s | %s |\n", what, fmt.Sprintf(format, args...))
}

func kib(n int64) string { return strconv.FormatFloat(float64(n)/1024, 'f', 1, 64) + " KiB" }

// another measures an edge that starts when the fleet is there.
func another(ctx context.Context, o options, addr string) error {
	began := time.Now()
	edge, err := startEdge(ctx, addr)
	if err != nil {
		return err
	}
	defer edge.end()
	if err := edge.await(ctx, "a new edge knows all", 5*time.Minute, func() bool { return edge.ready() == o.backends }); err != nil {
		return err
	}
	took := time.Since(began)
	used := edge.usage()
	row("a new edge knows all", "%s after its start, of %s, with %d queries and %s of processor time",
		took.Round(10*time.Millisecond), kib(used.bytes), used.requests, used.cpu)
	return nil
}

// idle measures an edge to which nothing happens.
func idle(ctx context.Context, o options, edge *edge) error {
	before := edge.usage()
	select {
	case <-time.After(o.idle):
	case <-ctx.Done():
		return context.Cause(ctx)
	}
	used := edge.usage().minus(before)
	row("processor of an idle edge", "%.2f %% of one", 100*used.cpu.Seconds()/o.idle.Seconds())
	row("an idle edge's queries", "%d and %s in %s", used.requests, kib(used.bytes), o.idle)
	return nil
}

// changes measures changes of state that come one at a time.
func changes(ctx context.Context, o options, f *fleet, edge *edge) error {
	before := edge.usage()
	var took []time.Duration
	for i := range o.changes {
		node := i * 7 % o.nodes
		id, state := f.move(node, i)
		began := time.Now()
		if err := f.commit(); err != nil {
			return err
		}
		if err := edge.await(ctx, id+" is "+state, time.Minute, func() bool { return edge.state(id) == state }); err != nil {
			return err
		}
		took = append(took, edge.when(id).Sub(began))
		<-time.After(150 * time.Millisecond)
	}
	used := edge.usage().minus(before)
	slices.Sort(took)
	row("from a change of state until the edge has it", "median %s, 99 of 100 within %s, all within %s", round(took[len(took)/2]), round(took[len(took)*99/100]), round(took[len(took)-1]))
	n := int64(o.changes)
	row("a change costs the edge", "%s, %.1f queries, %s of processor time", kib(used.bytes/n), float64(used.requests)/float64(n), (used.cpu / time.Duration(n)).Round(10*time.Microsecond))
	return nil
}

func round(d time.Duration) time.Duration { return d.Round(time.Millisecond) }

// registrations measures new backends: half of them of models that exist, half of new ones.
func registrations(ctx context.Context, f *fleet, edge *edge) error {
	for what, model := range map[string]string{"of a model that exists": "model-%03d", "of a new model": "new-%03d"} {
		var took []time.Duration
		for i := range 20 {
			node := i * 3 % f.o.nodes
			b := backend{id: fmt.Sprintf("%s/%s-%d", nodeName(node), strings.ReplaceAll(what, " ", "-"), i), model: fmt.Sprintf(model, i), ready: true}
			f.add(node, b)
			began := time.Now()
			if err := f.commit(); err != nil {
				return err
			}
			if err := edge.await(ctx, b.id+" is routable", time.Minute, func() bool { return edge.state(b.id) == "ready" }); err != nil {
				return err
			}
			took = append(took, edge.when(b.id).Sub(began))
		}
		slices.Sort(took)
		row("from the registration of a backend "+what+" until it is routable", "median %s, at most %s", round(took[len(took)/2]), round(took[len(took)-1]))
	}
	return nil
}

// burst measures a tenth of the fleet that changes at once.
func burst(ctx context.Context, o options, f *fleet, edge *edge) error {
	before := edge.usage()
	want := map[string]string{}
	began := time.Now()
	for node := range o.nodes {
		for i := range max(len(f.backends[node])/10, 1) {
			id, state := f.move(node, i)
			want[id] = state
		}
	}
	if err := f.commit(); err != nil {
		return err
	}
	err := edge.await(ctx, "the burst has arrived", 5*time.Minute, func() bool {
		for id, state := range want {
			if edge.state(id) != state {
				return false
			}
		}
		return true
	})
	if err != nil {
		return err
	}
	used := edge.usage().minus(before)
	row(fmt.Sprintf("%d changes at once", len(want)), "%s, %s, %d queries, %s of processor time, %d catalogues",
		time.Since(began).Round(100*time.Millisecond), kib(used.bytes), used.requests, used.cpu.Round(10*time.Millisecond), used.catalogues)
	return nil
}
