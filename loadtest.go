package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"iter"
	"math/rand/v2"
	"net/http"
	"os"
	"strings"
	"time"

	"pilotlight/loadtest"
	"pilotlight/loadtest/report"
	"pilotlight/loadtest/trace"
)

// loadtestCmd measures what clients see.
type loadtestCmd struct {
	Run      loadCmd     `cmd:"" default:"withargs" help:"Put a load on an address: any API of OpenAI's kind, or anything that takes a POST."`
	Scenario scenarioCmd `cmd:"" help:"Run one of the uses that pilotlight exists for, on a fleet of its own: cold starts, latency, and what the GPUs cost."`
}

// Help is what kong prints below the usage of loadtest.
func (loadtestCmd) Help() string {
	return `A load is open: when its requests begin is fixed before it does, and no slow answer delays the next request. The time of a request counts
from when it was to begin. So the percentiles are those of the clients who would have come, a server that pauses included.

  pilotlight loadtest http://127.0.0.1:8080                          10 requests a second for 30 s, of the models that /v1/models lists
  pilotlight loadtest :8080 --model llama-8b --rate 5..50 --for 2m   a ramp from 5 to 50 a second
  pilotlight loadtest :8080 --concurrency 64                         64 clients that wait for their answers: how much can it do?
  pilotlight loadtest :8080 --slo 'ttft.p99<500ms' --slo 'errors<1%' ends with status 1 if a threshold does not hold
  pilotlight loadtest :8080 --html report.html --json report.json    the report as a page and as data
  pilotlight loadtest https://host/v1 --header 'Authorization: Bearer sk-...'
  pilotlight loadtest http://host/predict --body request.json        any HTTP POST, whose answer is read to its end
  pilotlight loadtest :8080 --trace conversation_trace.jsonl --speed 4 recorded traffic, four times as fast
  pilotlight loadtest scenario zero-to-thousands                     a use, on a fleet that it starts itself
  pilotlight loadtest :8080 --compare nginx=http://127.0.0.1:8088    the same load for each in turn, medians and ratios

Ctrl-C ends a load early, with a report of what was measured until then. All flags: pilotlight loadtest run --help`
}

// loadFlags are what a load is like.
type loadFlags struct {
	Rate        loadtest.Rate `default:"10" group:"Load" help:"Requests that begin in a second (${default}), such as 20 or 0.5; 1..200 is a ramp."`
	Arrivals    string        `enum:"poisson,constant" default:"poisson" group:"Load" help:"How they are spread: poisson, as many clients who know nothing of one another would come, or constant (${default})."`
	Concurrency int           `placeholder:"N" group:"Load" help:"So many requests at once, each after the answer to the one before, instead of a rate. Who waits is not measured then."`
	For         time.Duration `group:"Load" placeholder:"30s" help:"How long requests begin, the warm-up included. Default: 30s, or all of a recording."`
	Requests    int           `placeholder:"N" group:"Load" help:"No more requests than these."`
	WarmUp      time.Duration `default:"0s" group:"Load" help:"What begins earlier does not count (${default})."`
	Patience    time.Duration `default:"5m" group:"Load" help:"How long a client waits for the end of its answer before it leaves (${default})."`
	MaxOpen     int           `default:"10000" placeholder:"N" group:"Load" help:"Requests at once, at most: further ones are sent late, and that counts as their time (${default})."`
	Connections int           `placeholder:"N" group:"Load" help:"Connections, at most. Default: as many as there are requests at once."`
	Seed        uint64        `default:"1" group:"Load" help:"The same seed makes the same requests at the same times (${default})."`
}

// askFlags are what requests are like.
type askFlags struct {
	Model  []string `placeholder:"NAME" group:"Requests" help:"Model to ask for; repeat it for more. Default: those that /v1/models lists."`
	Models int      `placeholder:"N" group:"Requests" help:"Only the first N of them."`
	Zipf   float64  `default:"1" placeholder:"S" group:"Requests" help:"How much more popular earlier models are: the k-th is asked for 1/k^S as often as the first (${default}); 0: all alike."`
	Prompt int      `default:"128" placeholder:"TOKENS" group:"Requests" help:"Length of prompts (${default})."`
	Answer int      `default:"64" placeholder:"TOKENS" group:"Requests" help:"Length of answers, at most (${default}); 0: as the model likes."`
	Exact  bool     `group:"Requests" help:"Ask for answers of just that length (ignore_eos, which vLLM, SGLang and the simulated servers know)."`
	Stream bool     `default:"true" negatable:"" group:"Requests" help:"Ask for a stream (the default), or with --no-stream for one piece."`
	Body   string   `placeholder:"FILE" group:"Requests" help:"Send this as the body of a plain POST, instead of chats. - is standard input."`
	Header []string `placeholder:"'NAME: VALUE'" sep:"none" group:"Requests" help:"Header of every request; repeat it for more."`
}

// replayFlags are which part of a recording is sent again, and how.
type replayFlags struct {
	Trace     string        `placeholder:"FILE" group:"Replay" help:"Send recorded traffic instead of a rate: Azure LLM 2023, Mooncake (whose prompts share their beginnings), ServeGen, Azure Functions 2019, a table (model,start_s,duration_s,requests), or the log of pilotlight serve; gzip or not."`
	Speed     float64       `default:"1" group:"Replay" placeholder:"X" help:"How many times as fast as it was recorded (${default})."`
	From      time.Duration `group:"Replay" placeholder:"TIME" help:"Leave out what was recorded earlier."`
	Clients   int           `placeholder:"N" group:"Replay" help:"Only the busiest N clients (or functions) of the recording. Each has its model, of which --zipf says how popular they are."`
	MaxPrompt int           `placeholder:"TOKENS" group:"Replay" help:"Cut longer prompts off."`
}

// reportFlags are where the report goes.
type reportFlags struct {
	SLO   []loadtest.SLO `name:"slo" sep:"none" placeholder:"THRESHOLD" group:"Report" help:"What must hold, such as ttft.p99<500ms, gap.p99<=80ms, errors<1% or rate>=100; repeat it for more."`
	JSON  string         `name:"json" placeholder:"FILE" group:"Report" help:"Write the report as JSON; - is standard output, and nothing else is printed there."`
	CSV   string         `name:"csv" placeholder:"FILE" group:"Report" help:"Write what happened in each second as CSV."`
	HTML  string         `name:"html" placeholder:"FILE" group:"Report" help:"Write a page with plots, which needs nothing else."`
	Quiet bool           `short:"q" group:"Report" help:"Say nothing while the load runs."`
}

type loadCmd struct {
	URL     string   `arg:"" help:"Where to: http://127.0.0.1:8080, :8080, a URL that ends in /v1, or a whole one."`
	Compare []string `sep:"none" placeholder:"NAME=URL" group:"Report" help:"Put the same load on this address too, in turns, and say how they compare; repeat it for more."`
	Rounds  int      `default:"3" placeholder:"N" group:"Report" help:"How many turns each gets with --compare (${default})."`

	loadFlags
	askFlags
	replayFlags
	reportFlags

	recording *trace.Trace // nil: there is none
}

// Run runs the load and prints its report.
func (c *loadCmd) Run(ctx context.Context) error {
	if c.URL != "" && c.URL[0] == ':' {
		c.URL = "127.0.0.1" + c.URL
	}
	shape, err := c.shape()
	if err != nil {
		return err
	}
	target, err := loadtest.NewTarget(c.URL, shape, c.Connections)
	if err != nil {
		return err
	}
	defer target.Close()
	if err := c.open(); err != nil {
		return err
	}
	if err := c.check(); err != nil {
		return err
	}
	models, err := c.models(ctx, shape)
	if err != nil {
		return err
	}
	requests, err := c.requests(models)
	if err != nil {
		return err
	}
	if len(c.Compare) > 0 {
		return c.compare(ctx, shape, models, requests)
	}
	result := c.measure(ctx, target, requests)
	p := report.Of("Load on "+c.URL, result, c.SLO)
	c.describe(p, models)
	p.Stopped = ctx.Err() != nil
	return c.write(p)
}

// open reads the recording, and knows then how long the load is.
func (c *loadCmd) open() (err error) {
	whole := 30 * time.Second
	if c.Trace != "" {
		if c.Speed <= 0 || c.From < 0 {
			return errors.New("--speed must be more than 0, and --from not negative")
		}
		if c.recording, err = trace.Open(c.Trace); err != nil {
			return err
		}
		whole = time.Duration(float64(c.recording.Length-c.From)/c.Speed) + time.Nanosecond // what comes at its end still does
	}
	if c.For == 0 {
		c.For = whole
	}
	return nil
}

func (c *loadFlags) check() error {
	switch {
	case c.For <= 0:
		return errors.New("--for is how long requests begin: more than 0")
	case c.WarmUp < 0 || c.WarmUp >= c.For:
		return fmt.Errorf("the warm-up of %s leaves nothing to measure of the %s", c.WarmUp, c.For)
	case c.Concurrency < 0 || c.Requests < 0 || c.MaxOpen < 1 || c.Connections < 0 || c.Patience <= 0:
		return errors.New("--concurrency, --requests and --connections may not be negative; --max-open and --patience must be more than 0")
	}
	return nil
}

// shape is what all requests have in common.
func (c *askFlags) shape() (s loadtest.Shape, err error) {
	s = loadtest.Shape{Stream: c.Stream, Exact: c.Exact, Header: http.Header{}}
	for _, h := range c.Header {
		name, value, found := strings.Cut(h, ":")
		if !found || strings.TrimSpace(name) == "" {
			return s, fmt.Errorf("%q is no header: say 'NAME: VALUE'", h)
		}
		s.Header.Add(strings.TrimSpace(name), strings.TrimSpace(value))
	}
	switch {
	case c.Prompt < 1 || c.Answer < 0 || c.Models < 0 || c.Zipf < 0:
		return s, errors.New("a prompt has a token at least; --answer, --models and --zipf may not be negative")
	case c.Body == "-":
		s.Body, err = io.ReadAll(os.Stdin)
	case c.Body != "":
		s.Body, err = os.ReadFile(c.Body)
	}
	if err != nil {
		return s, fmt.Errorf("read the body of the requests: %w", err)
	}
	if c.Body != "" && s.Body == nil {
		s.Body = []byte{}
	}
	return s, nil
}

// models are the names to ask for.
func (c *loadCmd) models(ctx context.Context, shape loadtest.Shape) ([]string, error) {
	if shape.Body != nil {
		return []string{""}, nil
	}
	if c.recorded() {
		return nil, nil
	}
	names := c.Model
	if len(names) == 0 {
		var err error
		if names, err = listModels(ctx, c.URL, shape.Header); err != nil {
			return nil, fmt.Errorf("name a model with --model, since %w", err)
		}
	}
	if c.Models > len(names) {
		return nil, fmt.Errorf("--models %d: there are no more than %d: %s", c.Models, len(names), strings.Join(names, ", "))
	}
	if c.Models > 0 {
		names = names[:c.Models]
	}
	return names, nil
}

// recorded says whether the models are those of the recording.
func (c *loadCmd) recorded() bool {
	return c.recording != nil && c.recording.Named && len(c.Model) == 0
}

// listModels asks for them.
func listModels(ctx context.Context, base string, header http.Header) (names []string, err error) {
	chats, err := loadtest.Endpoint(base, true)
	if err != nil {
		return nil, err
	}
	root, is := strings.CutSuffix(chats, "/chat/completions")
	if !is {
		return nil, errors.New("the address says nothing of where they are listed")
	}
	ctx, cancel := context.WithTimeout(ctx, 10*time.Second)
	defer cancel()
	r, err := http.NewRequestWithContext(ctx, http.MethodGet, root+"/models", http.NoBody)
	if err != nil {
		return nil, err
	}
	r.Header = header.Clone()
	answer, err := http.DefaultClient.Do(r)
	if err != nil {
		return nil, fmt.Errorf("nobody lists them: %w", err)
	}
	defer answer.Body.Close()
	var list struct{ Data []struct{ ID string } }
	if err := json.NewDecoder(io.LimitReader(answer.Body, 1<<20)).Decode(&list); err != nil || len(list.Data) == 0 {
		return nil, fmt.Errorf("%s/models lists none (%s)", root, answer.Status)
	}
	for _, m := range list.Data {
		names = append(names, m.ID)
	}
	return names, nil
}

// requests are those that the flags describe.
func (c *loadCmd) requests(models []string) (iter.Seq[loadtest.Request], error) {
	if c.recording != nil {
		requests, err := loadtest.Replay{
			Speed: c.Speed, From: c.From, Clients: c.Clients, Models: models, Zipf: c.Zipf, Prompt: c.Prompt, Answer: c.Answer, MaxPrompt: c.MaxPrompt, Seed: c.Seed,
		}.Requests(c.recording)
		return first(c.Requests, requests), err
	}
	arrivals := loadtest.Poisson(c.Rate, c.For, c.Seed)
	switch {
	case c.Concurrency > 0:
		arrivals = always
	case c.Arrivals == "constant":
		arrivals = loadtest.Constant(c.Rate, c.For)
	}
	popular := loadtest.NewZipf(len(models), c.Zipf)
	return first(c.Requests, func(yield func(loadtest.Request) bool) {
		random := rand.New(rand.NewPCG(c.Seed, 'r'))
		for at := range arrivals {
			r := loadtest.Request{At: at, Model: models[popular.Draw(random.Float64())], Prompt: c.Prompt, Answer: c.Answer, Seed: random.Uint64()}
			if !yield(r) {
				return
			}
		}
	}), nil
}

// first are the first n requests; 0: all.
func first(n int, all iter.Seq[loadtest.Request]) iter.Seq[loadtest.Request] {
	if n == 0 {
		return all
	}
	return func(yield func(loadtest.Request) bool) {
		sent := 0
		for r := range all {
			if sent++; !yield(r) || sent == n {
				return
			}
		}
	}
}

// always is due at once, again and again.
func always(yield func(time.Duration) bool) {
	for yield(0) {
	}
}

// measure runs the load.
func (c *loadCmd) measure(ctx context.Context, target *loadtest.Target, requests iter.Seq[loadtest.Request]) *loadtest.Result {
	result := loadtest.NewResult()
	watching, stop := context.WithCancel(ctx)
	watched := make(chan struct{})
	go func() {
		defer close(watched)
		if !c.Quiet {
			loadtest.Progress(watching, os.Stderr, isTerminal(os.Stderr), result, c.For)
		}
	}()
	loadtest.Run(ctx, target.Ask, loadtest.Load{
		Requests: requests, Concurrency: c.Concurrency, For: c.For, WarmUp: c.WarmUp, Patience: c.Patience, Most: c.MaxOpen,
	}, result)
	stop()
	<-watched
	return result
}

// isTerminal says whether somebody looks at what is written there.
func isTerminal(f *os.File) bool {
	info, err := f.Stat()
	return err == nil && info.Mode()&os.ModeCharDevice != 0
}

// describe says what was run.
func (c *loadCmd) describe(p *report.Report, models []string) {
	p.Command = commandLine()
	if c.Concurrency > 0 {
		p.Set("load", "closed, %d requests at once for %s; time that requests waited to be sent is not in the times below", c.Concurrency, c.For)
	} else if c.recording != nil {
		p.Set("recording", "%s: %s, %d requests in %s; %v times as fast from %s, for %s", c.Trace, c.recording.Format, c.recording.Count,
			c.recording.Length.Round(time.Second), c.Speed, c.From, c.For.Round(time.Millisecond))
	} else {
		p.Set("load", "open, %s requests/s (%s) for %s", c.Rate, c.Arrivals, c.For)
	}
	if c.Body != "" {
		p.Set("requests", "POST with the body %s", c.Body)
		return
	}
	lengths := ""
	if c.recording != nil {
		lengths = " where the recording does not say"
	}
	p.Set("requests", "prompts of %d tokens, answers of %d at most%s; stream: %t", c.Prompt, c.Answer, lengths, c.Stream)
	if !c.recorded() {
		p.Set("models", "%d, Zipf %v", len(models), c.Zipf)
	}
}

// commandLine is how this process was started.
func commandLine() string {
	words := []string{"pilotlight"}
	for _, w := range os.Args[1:] {
		if strings.ContainsAny(w, " <>'\"$*") {
			w = "'" + strings.ReplaceAll(w, "'", `'\''`) + "'"
		}
		words = append(words, w)
	}
	return strings.Join(words, " ")
}

// write puts the report where the flags want it. It is an error if a threshold does not hold.
func (c *reportFlags) write(p *report.Report) error {
	if c.JSON != "-" {
		if err := p.Text(os.Stdout); err != nil {
			return err
		}
	}
	for _, out := range []struct {
		file  string
		write func(io.Writer) error
	}{{c.JSON, p.JSON}, {c.CSV, p.CSV}, {c.HTML, p.HTML}} {
		if err := writeFile(out.file, out.write); err != nil {
			return fmt.Errorf("write the report: %w", err)
		}
	}
	if !p.Held() {
		return errors.New("not every threshold holds")
	}
	return nil
}

// writeFile writes a file; "-" is standard output, and "" is nowhere.
func writeFile(name string, write func(io.Writer) error) error {
	switch name {
	case "":
		return nil
	case "-":
		return write(os.Stdout)
	}
	f, err := os.Create(name)
	if err != nil {
		return err
	}
	return errors.Join(write(f), f.Close())
}
