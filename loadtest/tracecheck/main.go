// Tracecheck has a real Jaeger take the trace of a request to a model that sleeps, reads it back, and prints it. It fails where something is missing.
package main

import (
	"context"
	"encoding/json"
	"errors"
	"flag"
	"fmt"
	"io"
	"net/http"
	"os"
	"os/exec"
	"os/signal"
	"strconv"
	"strings"
	"syscall"
	"time"

	"pilotlight/loadtest/edge"
	"pilotlight/probe/proc"
)

func main() {
	jaeger := flag.String("jaeger", "bin/jaeger", "the Jaeger")
	collector := flag.String("collector", "", "an OpenTelemetry collector to stand in front of it, which keeps some traces; default: none does")
	hold := flag.Bool("hold", false, "say where Jaeger shows the trace, and let it run until it is interrupted")
	flag.Parse()
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer stop()
	if err := check(ctx, *jaeger, *collector, *hold); err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
}

// fleet is two models of which one fits at a time; %s is pilotlight.
const fleet = `
node: {name: demo, nvml: 'off', gpus: [{memory: 24GiB}]}
prices: {gpus: {default: {on_demand: 0.8048, memory: 24GiB}}}
telemetry: {endpoint: 'http://127.0.0.1:%d', protocol: grpc, ratio: %v}
models:
  llama-8b:
    backends: [{process: {command: [%[3]s, modelsim, --port, "{port}", --model, llama-8b, --load, 1s]}, engine: vllm, sleep: engine, memory: 18GiB, asleep_memory: 1GiB}]
  qwen-14b:
    backends: [{process: {command: [%[3]s, modelsim, --port, "{port}", --model, qwen-14b, --load, 2s]}, engine: vllm, sleep: engine, memory: 20GiB, asleep_memory: 1GiB}]
`

// The client's trace, and its span there.
const (
	client = "4bf92f3577b34da6a3ce929d0e0e4736"
	span   = "00f067aa0ba902b7"
)

func check(ctx context.Context, jaeger, collector string, hold bool) error {
	dir, err := os.MkdirTemp("", "pilotlight-tracecheck-")
	if err != nil {
		return err
	}
	defer os.RemoveAll(dir) //nolint:errcheck // it is a temporary one
	ports, err := proc.FreePorts(6)
	if err != nil {
		return err
	}
	stop, err := run(ctx, ports[:4], jaeger, "--config", "deploy/jaeger/jaeger.yaml")
	if err != nil {
		return err
	}
	defer stop()
	to := ports[0]
	if collector != "" {
		stop, err := run(ctx, []int{ports[4], ports[5], ports[0]}, collector, "--config", "deploy/otel/collector.yaml")
		if err != nil {
			return err
		}
		defer stop()
		to = ports[4]
	}
	query := "http://127.0.0.1:" + strconv.Itoa(ports[2])
	if err := answers(ctx, query); err != nil {
		return err
	}
	binary, err := edge.Build(ctx, dir)
	if err != nil {
		return err
	}
	e, err := edge.Start(ctx, binary, dir, fmt.Sprintf(fleet, to, 1, binary))
	if err != nil {
		return err
	}
	defer e.Stop() //nolint:errcheck // what matters has been seen by then
	for model, parent := range inOrder() {
		if err := ask(ctx, e.Addr, model, parent); err != nil {
			return err
		}
	}
	const warm = 20
	if collector != "" {
		for range warm {
			if err := ask(ctx, e.Addr, "qwen-14b", ""); err != nil {
				return err
			}
		}
	}
	t, err := await(ctx, query, client)
	if err != nil {
		return err
	}
	t.print(os.Stdout)
	if err = t.check("qwen-14b"); err == nil && collector != "" {
		err = checkKept(ctx, query, warm)
	}
	if hold && err == nil {
		fmt.Printf("\n%s/trace/%s\n", query, client)
		<-ctx.Done()
	}
	return err
}

// checkKept wants the collector to have kept both cold requests, and few of the others.
func checkKept(ctx context.Context, query string, warm int) error {
	select {
	case <-time.After(decided):
	case <-ctx.Done():
		return ctx.Err()
	}
	text, err := get(ctx, query+"/api/traces?service=pilotlight&limit=1000")
	var kept tree
	if err == nil {
		err = json.Unmarshal(text, &kept)
	}
	if err != nil {
		return err
	}
	fmt.Printf("\nThe collector kept %d of %d traces.\n", len(kept.Data), warm+2)
	if len(kept.Data) < 2 || len(kept.Data) > warm/2 {
		return errors.New("it should have kept the two cold ones, and one in a hundred of the others")
	}
	return nil
}

// decided is how long it takes until spans are sent and the collector has decided on them: five seconds each, by default.
const decided = 12 * time.Second

// inOrder are the requests: the second finds a model on the GPU that must make room for it.
func inOrder() func(yield func(model, parent string) bool) {
	return func(yield func(model, parent string) bool) {
		_ = yield("llama-8b", "") && yield("qwen-14b", "00-"+client+"-"+span+"-01")
	}
}

// run starts a program of OpenTelemetry's or Jaeger's, which finds its ports in the environment.
func run(ctx context.Context, ports []int, program string, args ...string) (stop func(), err error) {
	cmd := exec.CommandContext(ctx, program, args...)
	cmd.Stderr, cmd.Env = os.Stderr, append(os.Environ(), "OTEL_TRACES_SAMPLER=always_off") // of its own work
	for i, name := range []string{"OTLP_GRPC", "OTLP_HTTP", "JAEGER_HTTP", "JAEGER_GRPC"} {
		if i < len(ports) {
			cmd.Env = append(cmd.Env, fmt.Sprintf("%s=%d", name, ports[i]))
		}
	}
	if len(ports) == 3 { // a collector, which sends to Jaeger
		cmd.Env = append(cmd.Env, fmt.Sprintf("JAEGER_OTLP=%d", ports[2]))
	}
	if err := cmd.Start(); err != nil {
		return nil, fmt.Errorf("start %s, which `make trace-check` builds: %w", program, err)
	}
	return func() {
		_ = cmd.Process.Signal(os.Interrupt)
		_ = cmd.Wait()
	}, nil
}

// patience is how long anything is waited for.
const patience = time.Minute

// answers waits until Jaeger does.
func answers(ctx context.Context, query string) error {
	for end := time.Now().Add(patience); ; time.Sleep(100 * time.Millisecond) {
		_, err := get(ctx, query+"/api/services")
		if err == nil || time.Now().After(end) {
			return err
		}
	}
}

func ask(ctx context.Context, addr, model, parent string) error {
	body := fmt.Sprintf(`{"model":%q,"stream":true,"stream_options":{"include_usage":true},"max_tokens":20,"messages":[{"role":"user","content":"hello"}]}`, model)
	req, err := http.NewRequestWithContext(ctx, http.MethodPost, "http://"+addr+"/v1/chat/completions", strings.NewReader(body))
	if err != nil {
		return err
	}
	if parent != "" {
		req.Header.Set("Traceparent", parent)
	}
	resp, err := http.DefaultClient.Do(req)
	if err != nil {
		return err
	}
	defer resp.Body.Close() //nolint:errcheck // it is read to its end
	answer, err := io.ReadAll(resp.Body)
	if err == nil && resp.StatusCode != http.StatusOK {
		err = fmt.Errorf("%s: %s: %s", model, resp.Status, answer)
	}
	return err
}

// await waits until Jaeger has the whole trace.
func await(ctx context.Context, query, id string) (*tree, error) {
	for end := time.Now().Add(patience); ; time.Sleep(250 * time.Millisecond) {
		text, err := get(ctx, query+"/api/traces/"+id)
		t := &tree{}
		if err == nil {
			err = json.Unmarshal(text, t)
		}
		if err == nil && t.has("gpu") {
			return t, nil
		}
		if time.Now().After(end) {
			return nil, fmt.Errorf("jaeger never had the whole trace; what it had last: %d spans, %w", len(t.spans()), err)
		}
	}
}

func get(ctx context.Context, url string) ([]byte, error) {
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, url, nil)
	if err != nil {
		return nil, err
	}
	resp, err := http.DefaultClient.Do(req)
	if err != nil {
		return nil, err
	}
	defer resp.Body.Close() //nolint:errcheck // it is read to its end
	text, err := io.ReadAll(resp.Body)
	if err == nil && resp.StatusCode != http.StatusOK {
		err = fmt.Errorf("%s: %s", url, resp.Status)
	}
	return text, err
}
