// Benchtrace measures what tracing costs an edge: processor time of the process for each request, with tracing off, on and nothing kept, 1 % kept, and all.
package main

import (
	"bufio"
	"bytes"
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"flag"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"os/signal"
	"slices"
	"strconv"
	"sync"
	"syscall"
	"time"

	"pilotlight/loadtest/edge"
)

func main() {
	rounds := flag.Int("rounds", 5, "how often each way is measured; they take turns")
	requests := flag.Int("requests", 40000, "requests of a round")
	clients := flag.Int("clients", 8, "connections that they come on")
	flag.Parse()
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer stop()
	b := &bench{rounds: *rounds, requests: *requests, clients: *clients}
	if err := b.run(ctx); err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
}

type bench struct{ rounds, requests, clients int }

// way is one way to trace.
type way struct {
	name      string
	telemetry string // in the configuration
	edge      *edge.Edge
	took      []time.Duration // processor time of a request, by round
}

func ways(receiver string) []*way {
	at := func(ratio string) string {
		return fmt.Sprintf("telemetry: {endpoint: 'http://%s', protocol: http/protobuf, ratio: %s}\n", receiver, ratio)
	}
	return []*way{{name: "off"}, {name: "unsampled", telemetry: at("0")}, {name: "sampled_1_percent", telemetry: at("0.01")}, {name: "sampled_all", telemetry: at("1")}}
}

// run measures, and prints what it found as a line of JSON: µs of a request.
func (b *bench) run(ctx context.Context) error {
	dir, err := os.MkdirTemp("", "pilotlight-benchtrace-")
	if err != nil {
		return err
	}
	defer os.RemoveAll(dir) //nolint:errcheck // it is a temporary one
	binary, err := edge.Build(ctx, dir)
	if err != nil {
		return err
	}
	model, err := serve(ctx, func(w http.ResponseWriter, r *http.Request) {
		_, _ = io.Copy(io.Discard, r.Body)
		_, _ = io.WriteString(w, `{"choices":[]}`)
	})
	if err != nil {
		return err
	}
	receiver, err := serve(ctx, func(_ http.ResponseWriter, r *http.Request) { _, _ = io.Copy(io.Discard, r.Body) })
	if err != nil {
		return err
	}
	all := ways(receiver)
	for _, w := range all {
		state, err := os.MkdirTemp(dir, w.name)
		if err != nil {
			return err
		}
		config := w.telemetry + "node: {nvml: 'off'}\nmodels: {m: {heartbeat: 0s, backends: [{address: '" + model + "', slots: 64, ready: /}]}}\n"
		if w.edge, err = edge.Start(ctx, binary, state, config); err != nil {
			return err
		}
		defer w.edge.Stop()                        //nolint:errcheck // it is measured by then
		if _, err := b.round(ctx, w); err != nil { // which warms it up
			return err
		}
	}
	for n := range b.rounds {
		for i := range all {
			w := all[(i+n)%len(all)]
			took, err := b.round(ctx, w)
			if err != nil {
				return err
			}
			w.took = append(w.took, took)
			fmt.Fprintf(os.Stderr, "round %d, %s: %.2f µs\n", n+1, w.name, micro(took))
		}
	}
	return report(all)
}

func report(all []*way) error {
	found := map[string]any{"benchmark": "trace"}
	for _, w := range all {
		found[w.name+"_us"] = micro(median(w.took))
		var more []time.Duration
		for i, took := range w.took {
			more = append(more, took-all[0].took[i])
		}
		if w != all[0] {
			found[w.name+"_more_us"] = micro(median(more))
		}
	}
	return json.NewEncoder(os.Stdout).Encode(found)
}

func micro(d time.Duration) float64 { return float64(d.Nanoseconds()/10) / 100 }

func median(all []time.Duration) time.Duration {
	sorted := slices.SortedFunc(slices.Values(all), cmp.Compare[time.Duration])
	return sorted[len(sorted)/2]
}

// serve answers on a free port of loopback until ctx ends.
func serve(ctx context.Context, handle http.HandlerFunc) (addr string, err error) {
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		return "", err
	}
	s := &http.Server{Handler: handle, ReadHeaderTimeout: time.Minute}
	go s.Serve(ln) //nolint:errcheck // it ends with ctx
	context.AfterFunc(ctx, func() { _ = s.Close() })
	return ln.Addr().String(), nil
}

// round has an edge answer requests, and returns the processor time of one.
func (b *bench) round(ctx context.Context, w *way) (time.Duration, error) {
	before, err := edge.CPU(w.edge.PID)
	if err != nil {
		return 0, err
	}
	errs := make([]error, b.clients)
	var clients sync.WaitGroup
	for i := range b.clients {
		clients.Go(func() { errs[i] = client(ctx, w.edge.Addr, b.requests/b.clients) })
	}
	clients.Wait()
	after, err := edge.CPU(w.edge.PID)
	if err := errors.Join(append(errs, err)...); err != nil {
		return 0, err
	}
	return (after - before) / time.Duration(b.requests/b.clients*b.clients), nil
}

// client asks for so many answers on one connection, one after the other.
func client(ctx context.Context, addr string, requests int) error {
	c, err := new(net.Dialer).DialContext(ctx, "tcp", addr)
	if err != nil {
		return err
	}
	defer c.Close() //nolint:errcheck // nothing is left to be read
	const body = `{"model":"m","messages":[{"role":"user","content":"hello"}]}`
	request := []byte("POST /v1/chat/completions HTTP/1.1\r\nHost: p\r\nContent-Type: application/json\r\nContent-Length: " + strconv.Itoa(len(body)) + "\r\n\r\n" + body)
	in := bufio.NewReader(c)
	for range requests {
		if _, err := c.Write(request); err != nil {
			return err
		}
		resp, err := http.ReadResponse(in, nil)
		if err != nil {
			return err
		}
		answer, err := io.ReadAll(resp.Body)
		resp.Body.Close() //nolint:errcheck // it is read to its end
		if err != nil || !bytes.Contains(answer, []byte("choices")) {
			return fmt.Errorf("%s: %s, %w", resp.Status, answer, err)
		}
	}
	return ctx.Err()
}
