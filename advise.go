package main

import (
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"iter"
	"math"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"text/tabwriter"
	"time"

	"pilotlight/config"
	"pilotlight/loadtest/trace"
	"pilotlight/proxy/ledger"
	"pilotlight/warmpool/advise"
	"pilotlight/warmpool/policy"
	"pilotlight/warmpool/simulate"
)

// adviseCmd says what models would cost in other ways.
type adviseCmd struct {
	Trace string   `placeholder:"FILE" xor:"from" group:"Demand" help:"Recorded demand, gzip or not: the log of pilotlight serve, a table (model,start_s,duration_s,requests), or one of the published recordings that simulate reads. Default: the ledger."`
	Admin []string `sep:"none" placeholder:"ADDR" group:"Demand" help:"Edges whose ledgers are added up, by their admin ports. Default: 127.0.0.1:8081."`
	Since string   `default:"30d" placeholder:"TIME" group:"Demand" help:"From when on the ledgers count, as of usage (${default})."`
	Files []string `arg:"" optional:"" type:"existingfile" name:"FILE" help:"Ledgers of edges that do not run, by file."`

	Config string   `short:"c" type:"existingfile" placeholder:"FILE" group:"Prices and models" help:"A configuration, for its prices, and for each model's slots, GPUs and idle_time."`
	Prices []string `type:"existingfile" placeholder:"FILE" group:"Prices and models" help:"What stands under prices in a configuration; repeat it to compare. deploy/prices has some."`
	GPU    string   `name:"gpu" default:"default" placeholder:"NAME" group:"Prices and models" help:"The GPU whose price counts (${default})."`

	Each   time.Duration `default:"2s" placeholder:"TIME" group:"Prices and models" help:"How long a request is served, where the demand does not say (${default})."`
	Slots  int           `placeholder:"N" group:"Prices and models" help:"Requests that a replica serves at once. Default: the configuration's, else 8."`
	GPUs   int           `name:"gpus" placeholder:"N" group:"Prices and models" help:"GPUs of a replica. Default: the configuration's, else 1."`
	Idle   time.Duration `placeholder:"TIME" group:"Prices and models" help:"How long an idle replica stays awake. Default: the configuration's idle_time, else 5m."`
	Load   time.Duration `default:"30s" placeholder:"TIME" group:"Prices and models" help:"How long a cold start takes (${default})."`
	Policy string        `placeholder:"NAME[:k=v]" group:"Prices and models" help:"What decides when a model's first replica sleeps, of those that simulate lists, as in hybrid:range=4h. Default: idle_time."`
	Wait   float64       `name:"wait-price" placeholder:"MONEY" group:"Prices and models" help:"What a second is worth in which requests wait for a cold start. Default: nothing."`

	Top   int    `default:"20" placeholder:"N" group:"Report" help:"How many models are listed, the most expensive first (${default}); all others are one line."`
	SVG   string `name:"svg" placeholder:"FILE" group:"Report" help:"Draw every replica's use and cost. With several prices, their name is added to the file's."`
	PNG   string `name:"png" placeholder:"FILE" group:"Report" help:"The same as PNG."`
	JSON  bool   `group:"Report" help:"Print JSON in place of tables."`
	Check bool   `group:"Report" help:"Replay it all by brute force as well, and say how far that is from what was counted."`
}

// Help says what is compared.
func (adviseCmd) Help() string {
	return `For each model: what it would cost to have it always on, at its peak's number of replicas; scaled to zero, where an idle replica sleeps after idle_time
and its GPU is given back or used by others; and on a serverless platform, which charges from the start of a container until a while after its last
request. Then what to keep on, and what that saves against always on, with the interval in which nine of ten draws of the recorded days lie.

  pilotlight advise -c pilotlight.yaml                                    from this edge's ledger, at the configuration's prices
  pilotlight advise --trace access.log --prices deploy/prices/aws-cloudrun-l4.yaml --svg advice.svg

Below stands where the cheapest way changes. USE is how much of the time the replicas are in use; at the top of the table of prices stands how much
of it must be paid for until always on is cheaper. Where use comes in long blocks that is the limit; requests that come one by one pay for a window each,
so their limit is lower.`
}

// adviseReport is what advise found at one list of prices.
type adviseReport struct {
	Prices   string          `json:"prices"`
	Currency string          `json:"currency"`
	Models   []advise.Advice `json:"models"`
	Total    advise.Advice   `json:"total"`
	Flips    []adviseFlip    `json:"flips"`
	Checked  float64         `json:"off_by,omitempty"` // the most that a replay by brute force was off, as a share of a model's cost
}

// adviseFlip is a Flip whose numbers JSON can hold: null where scaling to zero is always cheaper.
type adviseFlip struct {
	Way      advise.Way `json:"way"`
	Price    *float64   `json:"price"`
	Steady   *float64   `json:"steady"`
	Recorded *float64   `json:"recorded"`
	Parted   float64    `json:"parted"`
}

// Run advises.
func (c *adviseCmd) Run(ctx context.Context) error {
	cfg, lists, err := c.prices()
	if err != nil {
		return err
	}
	models, length, from, err := c.demand(ctx, cfg)
	if err != nil {
		return err
	}
	if !c.JSON {
		fmt.Printf("%s: models: %d, days: %.1f. A cold start takes %s.\n", from, len(models), length.Hours()/24, c.Load)
	}
	var reports []adviseReport
	for _, list := range lists {
		o := advise.Options{Length: length, Prices: list.prices, GPU: c.GPU, Wait: c.Wait, First: c.first(ctx)}
		r, err := c.advise(ctx, models, o)
		if err != nil {
			return fmt.Errorf("%s: %w", list.name, err)
		}
		r.Prices = list.name
		reports = append(reports, r)
		if err := c.draw(&r, len(lists) > 1); err != nil {
			return err
		}
		if !c.JSON {
			if err := c.print(os.Stdout, &r, o); err != nil {
				return err
			}
		}
	}
	if c.JSON {
		e := json.NewEncoder(os.Stdout)
		e.SetIndent("", "  ")
		return e.Encode(reports)
	}
	return nil
}

// first is how a policy keeps a model's first replica. Each model is replayed alone: what a policy learns of one says nothing of others here.
func (c *adviseCmd) first(ctx context.Context) func(*advise.Model, iter.Seq2[time.Duration, time.Duration]) (advise.Kept, error) {
	if c.Policy == "" {
		return nil
	}
	return func(m *advise.Model, uses iter.Seq2[time.Duration, time.Duration]) (advise.Kept, error) {
		p, err := policy.ParseRecorded(c.Policy)
		if err != nil {
			return advise.Kept{}, err
		}
		d, err := simulate.NewDemand(time.Time{}, func(yield func(simulate.Use) bool) {
			for begin, end := range uses {
				if !yield(simulate.Use{Model: m.Name, At: begin, Took: end - begin, Requests: 1}) {
					return
				}
			}
		})
		if err != nil {
			return advise.Kept{}, err
		}
		r, err := simulate.Run(ctx, d, p, simulate.Options{Load: m.Load})
		if err != nil {
			return advise.Kept{}, err
		}
		return advise.Kept{Idle: r.Idle, Loads: r.Loads, Starts: r.Starts}, nil
	}
}

// priceList is prices, and where they are from.
type priceList struct {
	name   string
	prices *config.Prices
}

// prices are those of the files that are given, else those of the configuration.
func (c *adviseCmd) prices() (cfg *config.Config, lists []priceList, err error) {
	if c.Config != "" {
		if cfg, err = config.Load(c.Config); err != nil {
			return nil, nil, err
		}
		if cfg.Prices != nil && len(c.Prices) == 0 {
			lists = append(lists, priceList{filepath.Base(c.Config), cfg.Prices})
		}
	}
	for _, file := range c.Prices {
		p, err := config.LoadPrices(file)
		if err != nil {
			return nil, nil, err
		}
		lists = append(lists, priceList{strings.TrimSuffix(filepath.Base(file), filepath.Ext(file)), p})
	}
	if len(lists) == 0 {
		return nil, nil, errors.New("there are no prices; give --prices FILE, as in deploy/prices/aws-cloudrun-l4.yaml, or -c FILE with a configuration that has prices")
	}
	return cfg, lists, nil
}

// demand is what there was, by model, from a recording or from ledgers.
func (c *adviseCmd) demand(ctx context.Context, cfg *config.Config) (models []advise.Model, length time.Duration, from string, err error) {
	var uses map[string][]advise.Use
	if c.Trace != "" {
		if uses, length, err = c.recorded(); err != nil {
			return nil, 0, "", err
		}
		from = filepath.Base(c.Trace)
	} else {
		if uses, length, err = c.written(ctx); err != nil {
			return nil, 0, "", err
		}
		from = "The ledger"
	}
	for name, all := range uses {
		m := advise.Model{Name: name, Uses: all, Slots: 8, GPUs: 1, Idle: 5 * time.Minute, Load: c.Load}
		if cfg != nil {
			configuredAs(&m, cfg.Models[name])
		}
		m.Slots, m.GPUs, m.Idle = cmp.Or(c.Slots, m.Slots), cmp.Or(c.GPUs, m.GPUs), cmp.Or(c.Idle, m.Idle)
		if m.Slots < 1 || m.GPUs < 1 || m.Idle < 0 || m.Load < 0 || c.Each <= 0 {
			return nil, 0, "", errors.New("--slots, --gpus and --each must be more than 0, and --idle and --load not less")
		}
		models = append(models, m)
	}
	if len(models) == 0 {
		return nil, 0, "", errors.New("nobody asked for anything in that time")
	}
	slices.SortFunc(models, func(a, b advise.Model) int { return strings.Compare(a.Name, b.Name) })
	return models, length, from, nil
}

// configuredAs takes over what the configuration says of a model.
func configuredAs(m *advise.Model, is config.Model) {
	if len(is.Backends) > 0 {
		m.Slots, m.GPUs, m.Idle = max(1, is.Backends[0].Slots), max(1, is.Backends[0].GPUs), is.IdleTime.Std()
	}
}

// recorded reads a recording.
func (c *adviseCmd) recorded() (map[string][]advise.Use, time.Duration, error) {
	t, err := trace.Open(c.Trace)
	if err != nil {
		return nil, 0, err
	}
	uses := map[string][]advise.Use{}
	for u := range t.Uses() {
		is := useOf(u)
		one := advise.Use{At: is.At, Took: is.Took, Requests: is.Requests, Each: c.Each}
		if is.Requests == 1 && is.Took > 0 {
			one.Each = is.Took
		}
		uses[is.Model] = append(uses[is.Model], one)
	}
	return uses, t.Length + c.Each, nil
}

// written reads ledgers. A minute in which there were requests is a time over which they were spread.
func (c *adviseCmd) written(ctx context.Context) (map[string][]advise.Use, time.Duration, error) {
	since, err := moment(c.Since, time.Now())
	if err != nil {
		return nil, 0, fmt.Errorf("--since: %w", err)
	}
	book, err := booksOf(ctx, c.Admin, c.Files, ledger.Query{By: []ledger.By{ledger.ByModel, ledger.ByMinute}, Since: since})
	if err != nil {
		return nil, 0, err
	}
	type minute struct {
		model string
		at    int64
	}
	sums := map[minute]ledger.Sums{}
	first, last := int64(math.MaxInt64), int64(0)
	for _, e := range book.Entries {
		if e.Kind != ledger.KindRequest || e.Backend == "" {
			continue
		}
		k := minute{e.Model, e.Minute}
		s := sums[k]
		s.Add(&e.Sums)
		sums[k] = s
		first, last = min(first, e.Minute), max(last, e.Minute)
	}
	uses := map[string][]advise.Use{}
	for k, s := range sums {
		if s.Requests == 0 {
			continue
		}
		at := time.Duration(k.at-first) * time.Minute
		uses[k.model] = append(uses[k.model], advise.Use{At: at, Took: time.Minute, Requests: s.Requests, Each: max(time.Millisecond, s.Served/time.Duration(s.Requests))})
	}
	for _, all := range uses {
		slices.SortFunc(all, func(a, b advise.Use) int { return cmp.Compare(a.At, b.At) })
	}
	return uses, time.Duration(max(0, last-first)+1) * time.Minute, nil
}

// advise counts all models, the most expensive first.
func (c *adviseCmd) advise(ctx context.Context, models []advise.Model, o advise.Options) (r adviseReport, err error) {
	r.Currency = o.Prices.Currency
	for _, m := range models {
		if err := ctx.Err(); err != nil {
			return r, fmt.Errorf("it was ended: %w", err)
		}
		a, err := advise.Advise(m, o)
		if err != nil {
			return r, err
		}
		r.Models = append(r.Models, a)
		if c.Check {
			again, err := advise.Replay(m, o)
			if err != nil {
				return r, err
			}
			r.Checked = max(r.Checked, off(a.Serverless, again.Serverless))
			if c.Policy == "" { // the replay knows idle times alone
				r.Checked = max(r.Checked, off(a.Sleeping, again.Sleeping))
			}
		}
	}
	slices.SortStableFunc(r.Models, func(a, b advise.Advice) int { return cmp.Compare(b.AlwaysOn, a.AlwaysOn) })
	r.Total = advise.Total(r.Models)
	flips, err := advise.Flips(r.Models, o, c.Each, cmp.Or(c.Idle, 5*time.Minute), c.Load)
	for _, f := range flips {
		r.Flips = append(r.Flips, adviseFlip{f.Way, finite(f.Price), finite(f.Steady), finite(f.Recorded), f.Parted})
	}
	return r, err
}

// off is how far two costs are apart. One that is not to be had is -1.
func off(a, b float64) float64 {
	if a <= 0 {
		return 0
	}
	return math.Abs(b/a - 1)
}

func finite(x float64) *float64 {
	if math.IsInf(x, 0) || math.IsNaN(x) {
		return nil
	}
	return &x
}

// print prints what was found at one list of prices.
func (c *adviseCmd) print(w io.Writer, r *adviseReport, o advise.Options) error {
	gpu, _ := o.Prices.Of(c.GPU)
	fmt.Fprintf(w, "\nAt the prices of %s a GPU's hour costs %s %v always on", r.Prices, r.Currency, gpu.AlwaysOn())
	if gpu.OnDemand > 0 {
		fmt.Fprintf(w, ", %v on demand", gpu.OnDemand)
	}
	if s := o.Prices.Serverless; s != nil {
		fmt.Fprintf(w, ", %.4g with %s, which charges for %s after the last request", s.PerSecond(1)*3600, s.Name, s.Window)
	}
	fmt.Fprint(w, ".\n\n")
	t := tabwriter.NewWriter(w, 0, 0, 2, ' ', tabwriter.AlignRight)
	fmt.Fprintln(t, "MODEL\tREQUESTS\tREPLICAS\tUSE\tALWAYS ON\tTO ZERO\tSERVERLESS\tCOLD STARTS\tBEST\tSAVES\t90 %\t")
	listed := r.Models[:min(len(r.Models), max(0, c.Top))]
	for i := range listed {
		adviceRow(t, &listed[i])
	}
	if rest := r.Models[len(listed):]; len(rest) > 0 {
		others := advise.Total(rest)
		others.Model = fmt.Sprintf("%d others", len(rest))
		adviceRow(t, &others)
	}
	r.Total.Model = "all"
	adviceRow(t, &r.Total)
	if err := t.Flush(); err != nil {
		return err
	}
	fmt.Fprintln(w)
	for _, f := range r.Flips {
		c.printFlip(w, &f, len(advise.Points(r.Models)))
	}
	if c.Check {
		fmt.Fprintf(w, "Replayed by brute force, no model's cost was off by more than %.4f %%.\n", 100*r.Checked)
	}
	return nil
}

// printFlip says where always on becomes cheaper than a way to scale to zero.
func (c *adviseCmd) printFlip(w io.Writer, f *adviseFlip, replicas int) {
	if f.Price == nil || *f.Price >= 1 {
		fmt.Fprintf(w, "%s: an hour is no dearer than always on, so always on is cheaper only where loads cost more than sleep saves", f.Way)
	} else {
		fmt.Fprintf(w, "%s: always on is cheaper where more than %.1f %% of the time must be paid for; that is as much use where it comes in long blocks, and %.1f %% use\n"+
			"  where requests of %s come one by one, at random", f.Way, 100**f.Price, 100**f.Steady, c.Each)
	}
	if f.Recorded != nil {
		fmt.Fprintf(w, ". Of the %d replicas here it is above %.1f %% use, by which %.1f %% of them are put right", replicas, 100**f.Recorded, 100*f.Parted)
	}
	fmt.Fprintln(w, ".")
}

func adviceRow(w io.Writer, a *advise.Advice) {
	fmt.Fprintf(w, "%s\t%d\t%d\t%.1f %%\t%s\t%s\t%s\t%d\t%s\t%.0f %%\t%.0f to %.0f %%\t\n", a.Model, a.Requests, a.Replicas, 100*a.Use, amount(a.AlwaysOn), amount(a.Sleeping),
		amount(a.Serverless), a.ColdStarts, bestOf(a), 100*a.Saving, 100*a.Low, 100*a.High)
}

// amount is money, or that something is not to be had.
func amount(x float64) string {
	switch {
	case x < 0:
		return "-"
	case x < 100:
		return fmt.Sprintf("%.2f", x)
	}
	return fmt.Sprintf("%.0f", x)
}

// bestOf is what to do with a model.
func bestOf(a *advise.Advice) string {
	switch {
	case a.Best == "" && a.Keep == 0:
		return "none on"
	case a.Best == "":
		return fmt.Sprintf("%d on", a.Keep)
	case a.Keep == a.Replicas:
		return "always on"
	case a.Keep > 0:
		return fmt.Sprintf("%d on, others %s", a.Keep, a.Best)
	}
	return string(a.Best)
}

// draw writes the pictures that are wanted.
func (c *adviseCmd) draw(r *adviseReport, several bool) error {
	limits := map[advise.Way]float64{}
	for _, l := range r.Flips {
		if l.Price != nil {
			limits[l.Way] = *l.Price
		}
	}
	for file, write := range map[string]func(io.Writer, string, []advise.Point, map[advise.Way]float64) error{c.SVG: advise.SVG, c.PNG: advise.PNG} {
		if file == "" {
			continue
		}
		if several {
			file = strings.TrimSuffix(file, filepath.Ext(file)) + "-" + r.Prices + filepath.Ext(file)
		}
		f, err := os.Create(file)
		if err != nil {
			return fmt.Errorf("draw: %w", err)
		}
		err = write(f, "What scaling to zero costs at the prices of "+r.Prices, advise.Points(r.Models), limits)
		if err := errors.Join(err, f.Close()); err != nil {
			return err
		}
	}
	return nil
}
