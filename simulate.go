package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"runtime"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"golang.org/x/sync/errgroup"

	"pilotlight/loadtest/trace"
	"pilotlight/warmpool/policy"
	"pilotlight/warmpool/simulate"
	"pilotlight/warmpool/simulate/report"
)

// simulateCmd replays recorded demand against policies of the warm pool.
type simulateCmd struct {
	Trace       string   `required:"" placeholder:"FILE" group:"Demand" help:"What was asked for, and when; gzip or not. Formats: below."`
	MeasureFrom span     `placeholder:"TIME" default:"0s" group:"Demand" help:"What arrives earlier is learned from and not counted, such as 8h or 4d (${default})."`
	Policy      []string `sep:"none" placeholder:"NAME[:k=v]" group:"Policies" help:"Policy to try; repeat it for more. Default: several settings of each."`
	Load        loads    `placeholder:"TIME" group:"Policies" help:"How long a load takes, or disk=30s,host=2s: from the host's memory too, once a model was loaded. Default: 30s, and with --memory by size."`

	WaitPrice float64 `default:"0.067" placeholder:"MONEY" group:"Policies" help:"What a second is worth that somebody waits for a load (${default})."`
	GPUPrice  float64 `name:"gpu-price" default:"2" placeholder:"MONEY" group:"Policies" help:"What an hour costs in which a model holds its GPU without work (${default})."`

	poolFlags
	simulateOut
}

// simulateOut is where the report goes.
type simulateOut struct {
	JSON  string `name:"json" placeholder:"FILE" group:"Report" help:"Write one object for each policy; - is standard output, and nothing else is printed there."`
	HTML  string `name:"html" placeholder:"FILE" group:"Report" help:"Write a page with the frontier, which needs nothing else."`
	SVG   string `name:"svg" placeholder:"FILE" group:"Report" help:"Draw the frontier: cold starts against memory held for nothing."`
	PNG   string `name:"png" placeholder:"FILE" group:"Report" help:"The same as PNG."`
	Quiet bool   `short:"q" group:"Report" help:"Show no progress."`
}

// Help is what kong prints below the usage of simulate.
func (simulateCmd) Help() string {
	var b strings.Builder
	b.WriteString(`Replays recorded demand in virtual time against policies that say when an idle model stays on its GPU or is woken ahead: the code that would decide
live. Every policy trades cold starts against memory that is held for nothing; the report shows both, and which policies are the best at each level.

  pilotlight simulate --trace access.log                                    what would our own last days have cost?
  pilotlight simulate --trace demand.csv.gz --measure-from 4d --html r.html  after four days of learning; with a picture
  pilotlight simulate --trace demand.csv --policy fixed:idle=10m --policy predictive:k=60m --load 45s
  pilotlight simulate --trace access.log --memory gpu=160GiB,host=512GiB -c pilotlight.yaml   what would this much memory do?

A trace is a table (model,start_s,duration_s and maybe requests, how many arrive at once), the log of pilotlight serve, or a published recording: Azure
Functions 2019 (an active minute is a busy one), sessions from ServeGen, Azure LLM 2023, Mooncake. The last two name no model: all is one.

Policies:
`)
	for _, k := range policy.Kinds() {
		fmt.Fprintf(&b, "  %-22s %s\n", k.Spec, k.Help)
	}
	b.WriteString("For comparison only:\n")
	for _, k := range policy.Clairvoyants() {
		fmt.Fprintf(&b, "  %-22s %s\n", k.Spec, k.Help)
	}
	return b.String()
}

// span is a time that may be in days.
type span time.Duration

// UnmarshalText reads it.
func (s *span) UnmarshalText(text []byte) error {
	d, err := policy.Duration(string(text))
	if err == nil && d < 0 {
		err = errors.New("it may not be negative")
	}
	*s = span(d)
	return err
}

// loads are how long a load takes from each tier; 0: the tier is not there.
type loads struct{ disk, host time.Duration }

// UnmarshalText reads one time, or disk=30s,host=2s.
func (l *loads) UnmarshalText(text []byte) error {
	*l = loads{}
	for one := range strings.SplitSeq(string(text), ",") {
		tier, took, named := strings.Cut(one, "=")
		if !named {
			tier, took = "disk", one
		}
		d, err := policy.Duration(took)
		if err != nil || d <= 0 || d > 24*time.Hour {
			return fmt.Errorf("%q is no time that a load takes, such as 30s", took)
		}
		switch tier {
		case "disk":
			l.disk = d
		case "host":
			l.host = d
		default:
			return fmt.Errorf("nothing is loaded from %q, only from disk and host", tier)
		}
	}
	if l.disk == 0 {
		return errors.New("say how long a load from disk takes: disk=30s")
	}
	return nil
}

// defaultPolicies are several settings of each, so that frontiers can be compared.
func defaultPolicies() []string {
	return []string{
		"fixed:idle=2m", "fixed:idle=5m", "fixed:idle=10m", "fixed:idle=20m", "fixed:idle=60m", "fixed:idle=2h", "fixed:idle=4h", "fixed:idle=24h",
		"hybrid:range=1h", "hybrid:range=2h", "hybrid:range=4h", "hybrid:range=8h", "ttl:k=10m", "ttl:k=60m", "ttl:k=4h", "ttl:k=16h",
		"predictive:k=1m", "predictive:k=2m", "predictive:k=5m", "predictive:k=10m", "predictive:k=20m", "predictive:k=60m", "predictive:k=2h", "predictive:k=4h", "predictive:k=8h",
		"predictive:k=16h", "predictive:k=48h",
		"clairvoyant:keep=10m", "clairvoyant:keep=60m", "clairvoyant:keep=4h", "oracle",
	}
}

// Run simulates, and writes the report.
func (c *simulateCmd) Run(ctx context.Context) error {
	if c.WaitPrice < 0 || c.GPUPrice < 0 {
		return errors.New("--wait-price and --gpu-price may not be negative")
	}
	fixed := c.Memory.gpu != quantity{}
	if !fixed && (c.Config != "" || c.Rare > 0) {
		return errors.New("--config and --rare are for --memory: without, a model is a model, whatever its size")
	}
	if fixed && (c.SVG != "" || c.PNG != "") {
		return errors.New("with --memory there is no frontier to draw")
	}
	switch {
	case len(c.Policy) == 0 && fixed:
		c.Policy = defaultRankers()
	case len(c.Policy) == 0:
		c.Policy = defaultPolicies()
	}
	policies := make([]policy.Policy, len(c.Policy))
	for i, spec := range c.Policy {
		var err error
		if policies[i], err = policy.ParseRecorded(spec); err != nil {
			return err
		}
	}
	demand, format, err := readDemand(c.Trace)
	if err != nil {
		return err
	}
	if fixed {
		return c.pool(ctx, demand, c.describe(demand, format))
	}
	if c.Load.disk == 0 {
		c.Load.disk = 30 * time.Second
	}
	p := c.describe(demand, format)
	if p.Rows, err = c.replay(ctx, demand, policies); err != nil {
		return err
	}
	return c.write(p)
}

// readDemand reads a recording as demand for models.
func readDemand(file string) (*simulate.Demand, trace.Format, error) {
	t, err := trace.Open(file)
	if err != nil {
		return nil, "", err
	}
	d, err := simulate.NewDemand(t.Began, func(yield func(simulate.Use) bool) {
		for u := range t.Uses() {
			if !yield(useOf(u)) {
				return
			}
		}
	})
	if err != nil {
		return nil, "", fmt.Errorf("%s: %w", file, err)
	}
	return d, t.Format, nil
}

// useOf is a recorded use as demand: for the model that it names, else for a model of whoever asked, else for the only one. How long it took is guessed from
// its tokens where the recording does not say.
func useOf(u trace.Use) simulate.Use {
	const (
		promptToken = 200 * time.Microsecond
		answerToken = 25 * time.Millisecond
	)
	if u.Took == 0 {
		u.Took = time.Duration(u.Prompt)*promptToken + time.Duration(u.Answer)*answerToken
	}
	name := u.Model
	if name == "" {
		name = u.Client
	}
	if name == "" {
		name = "model"
	}
	return simulate.Use{Model: name, At: u.At, Took: u.Took, Requests: u.Requests}
}

// describe says what is simulated.
func (c *simulateCmd) describe(d *simulate.Demand, format trace.Format) *report.Report {
	load := "loads take " + c.Load.disk.String()
	if c.Load.host > 0 {
		load += ", and " + c.Load.host.String() + " where a model was loaded before"
	}
	return &report.Report{
		Title: "Warm pool on " + filepath.Base(c.Trace), Command: commandLine(), Ours: "predictive",
		Settings: [][2]string{
			{"demand", fmt.Sprintf("%s: %d models, %d rows in %s, measured from %s", format, len(d.Models), d.Rows(), days(d.Length), days(time.Duration(c.MeasureFrom)))},
			{"loads", load},
			{"money", fmt.Sprintf("%v for a second that somebody waits, %v for an hour of a model's GPU memory", c.WaitPrice, c.GPUPrice)},
		},
	}
}

// days is a time as people say it who think in days.
func days(d time.Duration) string {
	if day := 24 * time.Hour; d >= 2*day {
		return fmt.Sprintf("%.4gd", float64(d)/float64(day))
	}
	return d.Round(time.Second).String()
}

// replay runs all policies, as many at once as there are processors.
func (c *simulateCmd) replay(ctx context.Context, d *simulate.Demand, policies []policy.Policy) ([]report.Row, error) {
	rows := make([]report.Row, len(policies))
	var handled atomic.Int64
	done := c.progress(ctx, &handled, int64(d.Rows())*int64(len(policies)))
	defer done()
	all, ctx := errgroup.WithContext(ctx)
	all.SetLimit(runtime.GOMAXPROCS(0))
	for i, p := range policies {
		all.Go(func() error {
			r, err := simulate.Run(ctx, d, p, simulate.Options{
				Load: c.Load.disk, Host: c.Load.host, From: time.Duration(c.MeasureFrom), Handled: &handled,
				Prices: simulate.Prices{Wait: c.WaitPrice, GPU: c.GPUPrice},
			})
			_, bound := p.(policy.Clairvoyant)
			rows[i] = report.Row{Policy: c.Policy[i], Bound: bound, Result: r}
			return err
		})
	}
	return rows, all.Wait()
}

// progress draws a bar on a terminal until the function is called that it gives.
func (o *simulateOut) progress(ctx context.Context, handled *atomic.Int64, whole int64) (done func()) {
	if o.Quiet || !isTerminal(os.Stderr) {
		return func() {}
	}
	ctx, stop := context.WithCancel(ctx)
	var drawing sync.WaitGroup
	drawing.Go(func() {
		began := time.Now()
		tick := time.NewTicker(200 * time.Millisecond)
		defer tick.Stop()
		for {
			select {
			case <-tick.C:
				fmt.Fprint(os.Stderr, "\r\x1b[K"+bar(handled.Load(), whole, time.Since(began)))
			case <-ctx.Done():
				fmt.Fprint(os.Stderr, "\r\x1b[K")
				return
			}
		}
	})
	return func() { stop(); drawing.Wait() }
}

// bar is a bar for so much of the whole, and how long the rest will take at that speed.
func bar(is, whole int64, passed time.Duration) string {
	const length = 40
	part := float64(is) / float64(max(whole, 1))
	full := int(part * length)
	text := fmt.Sprintf("[%s%s] %3.0f %%  %s", strings.Repeat("#", full), strings.Repeat(".", length-full), 100*part, passed.Round(time.Second))
	if part > 0 {
		text += fmt.Sprintf(", about %s left", time.Duration(float64(passed)*(1-part)/part).Round(time.Second))
	}
	return text
}

// write puts the report where the flags want it.
func (o *simulateOut) write(p *report.Report) error {
	if o.JSON != "-" {
		if err := p.Text(os.Stdout); err != nil {
			return err
		}
	}
	for _, out := range []struct {
		file  string
		write func(io.Writer) error
	}{{o.JSON, p.JSON}, {o.HTML, p.HTML}, {o.SVG, p.SVG}, {o.PNG, p.PNG}} {
		if err := writeFile(out.file, out.write); err != nil {
			return fmt.Errorf("write the report: %w", err)
		}
	}
	return nil
}
