// Chaosconsul runs a fleet on a real Consul, harms the Consul in every way it can while requests flow, and says what became of them.
// `make chaos-consul` runs it.
package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"os"
	"os/signal"
	"slices"
	"syscall"
	"time"

	"github.com/hashicorp/consul/api"

	"pilotlight/loadtest/realconsul"
)

func main() {
	length := flag.Duration("for", 30*time.Second, "how long each harm lasts")
	only := flag.String("only", "", "one harm alone, in the words of the table")
	flag.Parse()
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer stop()
	var names []string
	if *only != "" {
		names = append(names, *only)
	}
	results, err := run(ctx, *length, names...)
	fmt.Println("| Consul | for | requests | failed | of a model that sleeps in between | back after | queries of an edge in the 10 s after |\n|---|---|---|---|---|---|---|")
	for _, r := range results {
		fmt.Printf("| %s | %s | %d | %d | %d | %s | %d |\n", r.harm, *length, r.requests, r.failed, r.cold, r.back.Round(100*time.Millisecond), r.queries)
		if r.failed > 0 {
			err = errors.Join(err, fmt.Errorf("%s: %d of %d requests failed, as in: %s", r.harm, r.failed, r.requests, r.reason))
		}
	}
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
}

// result is what became of the requests during one harm, and until ten seconds after it.
type result struct {
	harm                   string
	requests, failed, cold int
	reason                 string // of a failure
	back                   time.Duration
	queries                int
}

// harm is one way to hurt a Consul of three servers, and to end that.
type harm struct {
	name       string
	begin, end func(*realconsul.Cluster) error
}

func harms() []harm {
	each := func(do func(c *realconsul.Cluster, i int) error) func(*realconsul.Cluster) error {
		return func(c *realconsul.Cluster) (err error) {
			for i := range c.Servers {
				err = errors.Join(err, do(c, i))
			}
			return err
		}
	}
	leader := 0
	return []harm{
		{
			"loses its leader",
			func(c *realconsul.Cluster) error { leader = max(c.Leader(), 0); return c.Servers[leader].Kill() },
			func(c *realconsul.Cluster) error { return c.Restart(leader, true) },
		},
		{"is filled with bad values", bad, good},
		{
			"is frozen",
			each(func(c *realconsul.Cluster, i int) error { return c.Servers[i].Freeze() }),
			each(func(c *realconsul.Cluster, i int) error { return c.Servers[i].Thaw() }),
		},
		{
			"is killed",
			each(func(c *realconsul.Cluster, i int) error { return c.Servers[i].Kill() }),
			each(func(c *realconsul.Cluster, i int) error { return c.Restart(i, true) }),
		},
		{
			"is killed, and comes back without its data",
			each(func(c *realconsul.Cluster, i int) error { return c.Servers[i].Kill() }),
			each(func(c *realconsul.Cluster, i int) error { return c.Restart(i, false) }),
		},
	}
}

// bad puts values that nobody can use wherever anybody reads.
func bad(c *realconsul.Cluster) error {
	kv := c.API(0).KV()
	for _, key := range []string{"models/steady", "models/sleepy", "models/", "models/a/b/", "changed/nothing", "history/nobody"} {
		for _, value := range []string{"idle_time: soon", "{", "backends: [{process: {command: [sh]}}]", string(make([]byte, 300<<10))} {
			if _, err := kv.Put(&api.KVPair{Key: "pilotlight/" + key, Value: []byte(value)}, nil); err != nil {
				return err
			}
		}
	}
	return nil
}

// good takes them away.
func good(c *realconsul.Cluster) error {
	var failed []error
	for _, folder := range []string{"models", "changed/nothing", "history/nobody"} {
		_, err := c.API(0).KV().DeleteTree("pilotlight/"+folder, nil)
		failed = append(failed, err)
	}
	return errors.Join(failed...)
}

// run does every harm, or those that are named, to a fleet that serves.
func run(ctx context.Context, length time.Duration, only ...string) (results []result, err error) {
	dir, err := os.MkdirTemp("", "chaosconsul")
	if err != nil {
		return nil, err
	}
	defer os.RemoveAll(dir)
	cluster, err := realconsul.Start(ctx, realconsul.Options{Dir: dir, Servers: 3})
	if err != nil {
		return nil, err
	}
	defer cluster.Close()
	f, err := startFleet(ctx, dir, cluster)
	if err != nil {
		return nil, err
	}
	defer f.end()
	for _, h := range harms() {
		if len(only) > 0 && !slices.Contains(only, h.name) {
			continue
		}
		r, err := f.suffer(ctx, cluster, h, length)
		if err != nil {
			return results, fmt.Errorf("%s: %w", h.name, err)
		}
		results = append(results, r)
	}
	return results, nil
}

// suffer asks all the while for what a harm lasts and until all is well again.
func (f *fleet) suffer(ctx context.Context, cluster *realconsul.Cluster, h harm, length time.Duration) (result, error) {
	load := f.startLoad(ctx)
	defer load.stop()
	if err := h.begin(cluster); err != nil {
		return result{}, err
	}
	pause(ctx, length)
	if err := h.end(cluster); err != nil {
		return result{}, err
	}
	before, began := f.edges[0].queries(), time.Now()
	after := time.After(10 * time.Second)
	if err := f.well(ctx); err != nil {
		return result{}, err
	}
	back := time.Since(began)
	select {
	case <-after:
	case <-ctx.Done():
	}
	r := load.stop()
	r.harm, r.back, r.queries = h.name, back, f.edges[0].queries()-before
	return r, context.Cause(ctx)
}

func pause(ctx context.Context, d time.Duration) {
	select {
	case <-time.After(d):
	case <-ctx.Done():
	}
}
