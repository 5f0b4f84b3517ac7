//go:build linux

// Command benchproxy measures what the edge costs, side by side with nginx, HAProxy and the ReverseProxy of net/http.
//
//	go run ./loadtest/benchproxy [-only requests,streams,memory] [-among pilotlight,nginx] [-rounds 5] [-for 2s] ...
//
// Each proxy runs on one core, clients and model server on another; they take turns, and what counts is the processor time of
// the proxy's own processes. The edge is `pilotlight serve` with a file for its log, nginx writes the same things to a file of
// its own, HAProxy logs nothing, or each request where it is haproxy+log, net/http nothing. What is not installed is left out.
package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"os"
	"os/signal"
	"slices"
	"strings"
	"syscall"
	"time"
)

type options struct {
	only, among           string
	rounds                int
	turn                  time.Duration
	connections, rate     int
	streams, tokens, idle int
	reverse               string
	pilotlight            string
	profile               string
}

func main() {
	var o options
	flag.StringVar(&o.only, "only", "requests,streams,memory", "`parts` to measure, with commas between them")
	flag.StringVar(&o.among, "among", "pilotlight,nginx,haproxy,haproxy+log,net/http", "`proxies` to measure")
	flag.IntVar(&o.rounds, "rounds", 5, "how many times each proxy has its turn")
	flag.DurationVar(&o.turn, "for", 2*time.Second, "how long each measurement of a turn takes")
	flag.IntVar(&o.connections, "connections", 64, "clients that send requests; each keeps its connection")
	flag.IntVar(&o.rate, "rate", 4000, "requests/s where the time of an answer is measured")
	flag.IntVar(&o.streams, "streams", 500, "streams that tokens flow on")
	flag.IntVar(&o.tokens, "tokens", 20, "tokens/s of each of them")
	flag.IntVar(&o.idle, "idle", 10000, "streams that idle; fewer where there are not enough descriptors")
	flag.StringVar(&o.pilotlight, "pilotlight", "", "the edge's `binary`; it is built if none is given")
	flag.StringVar(&o.profile, "profile", "", "write a profile of the edge at each measurement to `file`, with what was measured appended to its name")
	flag.StringVar(&o.reverse, "reverse", "", "be net/http's ReverseProxy: `listen,backend`")
	flag.Parse()
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer stop()
	if err := run(ctx, o); err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
}

func run(ctx context.Context, o options) (err error) {
	if o.reverse != "" {
		return serveReverse(ctx, o.reverse)
	}
	parts := map[string]part{"requests": requests, "streams": streams, "memory": memory}
	wanted := strings.Split(o.only, ",")
	for _, name := range wanted {
		if parts[name] == nil {
			return fmt.Errorf("-only %s: there are requests, streams and memory", name)
		}
	}
	dir, err := os.MkdirTemp("", "benchproxy-")
	if err != nil {
		return err
	}
	defer os.RemoveAll(dir)
	b, err := newBench(ctx, dir, o)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, b.stop()) }()
	for _, name := range []string{"requests", "streams", "memory"} {
		if slices.Contains(wanted, name) {
			if err := parts[name](ctx, b); err != nil {
				return fmt.Errorf("%s: %w", name, err)
			}
		}
	}
	return b.report()
}

func pause(ctx context.Context, d time.Duration) error {
	select {
	case <-time.After(d):
		return nil
	case <-ctx.Done():
		return context.Cause(ctx)
	}
}
