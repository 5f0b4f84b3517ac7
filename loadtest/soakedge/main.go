// Command soakedge keeps the edge busy for a while with everything at once, and checks that no answer goes to the wrong request
// and that nothing is left of any of them.
//
//	go run ./loadtest/soakedge [-for 1m] [-rate 200] [-clients 32]
//
// Clients ask in JSON, for streams, with large uploads whose length they say or not, over upgraded connections, over HTTP/2 and by gRPC,
// and leave at any moment. Meanwhile model servers, which are this program too, are killed, put to sleep and started again, and
// the configuration changes.
// Each request carries a nonce that every piece of its answer must repeat. The program fails if one does not, if
// a slot, a goroutine or a descriptor is left at the end, or if memory has grown.
package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"os"
	"os/signal"
	"path/filepath"
	"syscall"
	"time"

	"pilotlight/loadtest/edge"
	"pilotlight/probe/proc"
)

func main() {
	if len(os.Args) == 4 && os.Args[1] == "server" {
		end(serve("127.0.0.1:"+os.Args[2], "127.0.0.1:"+os.Args[3]))
		return
	}
	var o options
	flag.DurationVar(&o.time, "for", time.Minute, "how long")
	flag.IntVar(&o.rate, "rate", 200, "requests per second, all in all")
	flag.IntVar(&o.clients, "clients", 32, "how many clients ask, each for one thing at a time")
	flag.Parse()
	o.rate, o.clients = max(o.rate, 1), max(o.clients, 1)
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer stop()
	end(run(ctx, o))
}

func end(err error) {
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
}

type options struct {
	time          time.Duration
	rate, clients int
}

// The configuration has a model with two servers, one whose server is stopped whenever it idles for a second, and, every other
// time, one that nobody asks for.
const (
	configuration = `
limits: {body_held: 256KiB}
models:
  steady:
    never_sleep: true
    line: {requests: %[2]d}
    backends:
      - {gpus: 0, slots: 16, grpc: ":%[3]d", process: {command: [%[1]q, server, "{port}", "%[3]d"]}}
      - {gpus: 0, slots: 16, grpc: ":%[4]d", process: {command: [%[1]q, server, "{port}", "%[4]d"]}}
  sleepy:
    idle_time: 1s
    stop_after: 1s
    backends: [{gpus: 0, slots: 16, grpc: ":%[5]d", process: {command: [%[1]q, server, "{port}", "%[5]d"]}}]
`
	sometimes = `
  sometimes: {backends: [{gpus: 0, process: {command: [%[1]q, server, "{port}", "0"]}}]}
`
)

// usualLine is how many requests may stand in line, when the configuration is not just another one.
const usualLine = 500

func (s *soak) configuration(line int64) string {
	return fmt.Sprintf(configuration, s.self, line, s.ports[0], s.ports[1], s.ports[2])
}

func run(ctx context.Context, o options) (err error) {
	dir, err := os.MkdirTemp("", "soakedge-")
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
	s := &soak{options: o, self: self, file: filepath.Join(dir, "pilotlight.yaml")}
	if s.ports, err = proc.FreePorts(3); err != nil {
		return err
	}
	p, err := edge.Start(ctx, binary, dir, s.configuration(usualLine))
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, p.Stop()) }()
	s.edge = p

	const warmUp = 10 * time.Second // after which everything is there that is there once
	if err := s.load(ctx, warmUp, func() {}); err != nil {
		return err
	}
	before, err := s.quiet(ctx, nil)
	if err != nil {
		return err
	}
	fmt.Printf("%8s %9s %8s %7s %9s %8s %6s %8s %7s %10s %10s\n",
		"TIME", "ANSWERED", "REFUSED", "BROKEN", "LEFT", "WRONG", "KILLS", "RELOADS", "MIB", "GOROUTINES", "DESCRIPTORS")
	if err := s.load(ctx, o.time, func() { s.report(ctx) }); err != nil {
		return err
	}
	after, err := s.quiet(ctx, before)
	if err != nil {
		return err
	}
	return s.verdict(before, after)
}
