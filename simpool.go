package main

import (
	"context"
	"errors"
	"fmt"
	"runtime"
	"strconv"
	"strings"
	"sync/atomic"
	"time"

	"golang.org/x/sync/errgroup"

	"pilotlight/config"
	"pilotlight/warmpool/policy"
	"pilotlight/warmpool/simulate"
	"pilotlight/warmpool/simulate/report"
)

// poolFlags are fixed memory.
type poolFlags struct {
	Memory poolMemory `placeholder:"gpu=SIZE,host=SIZE" group:"Fixed memory" help:"Simulate a pool of so much memory: sizes such as 640GiB, or shares of what all models need together, such as gpu=10%,host=16%."`
	Config string     `short:"c" placeholder:"FILE" group:"Fixed memory" help:"Configuration file that says how large models are. Default: 6 to 68 GB, by a hash of the name."`
	Rare   portion    `placeholder:"PERCENT" group:"Fixed memory" help:"Leave out models that are busy for that share of the time or more: they need GPUs of their own, and there is nothing to decide."`
	Ahead  int        `default:"1" placeholder:"N" group:"Fixed memory" help:"Loads that may begin in a minute before somebody asks, of those policies that know when to (${default})."`
}

// poolMemory is how much memory a pool has; each 0 if it has none.
type poolMemory struct{ gpu, host quantity }

// quantity is so many bytes, or a share of what all models need.
type quantity struct {
	bytes int64
	share float64
}

func (a quantity) of(whole int64) int64 { return a.bytes + int64(a.share*float64(whole)) }

// UnmarshalText reads gpu=10%,host=640GiB, or a quantity for GPUs alone.
func (m *poolMemory) UnmarshalText(text []byte) error {
	*m = poolMemory{}
	for one := range strings.SplitSeq(string(text), ",") {
		where, much, named := strings.Cut(one, "=")
		if !named {
			where, much = "gpu", one
		}
		into := &m.gpu
		switch where {
		case "gpu":
		case "host":
			into = &m.host
		default:
			return fmt.Errorf("there is no memory of %q, only of gpu and host", where)
		}
		if err := into.UnmarshalText([]byte(much)); err != nil {
			return err
		}
	}
	if m.gpu == (quantity{}) {
		return errors.New("say how much GPU memory there is: gpu=10% or gpu=640GiB")
	}
	return nil
}

// UnmarshalText reads 10% or 640GiB.
func (a *quantity) UnmarshalText(text []byte) error {
	if strings.HasSuffix(string(text), "%") {
		var p portion
		err := p.UnmarshalText(text)
		*a = quantity{share: float64(p)}
		return err
	}
	var size config.Size
	err := size.UnmarshalText(text)
	*a = quantity{bytes: int64(size)}
	return err
}

// portion is a share that is written in per cent; 0 where nothing is said.
type portion float64

// UnmarshalText reads 10%, or 10.
func (p *portion) UnmarshalText(text []byte) error {
	x, err := strconv.ParseFloat(strings.TrimSuffix(string(text), "%"), 64)
	if err != nil || !(x > 0 && x <= 1000) {
		return fmt.Errorf("%q is no share such as 10%%", text)
	}
	*p = portion(x / 100)
	return nil
}

// defaultRankers are those that can say what memory is worth.
func defaultRankers() []string { return []string{"lru", "gdsf", "predictive", "clairvoyant"} }

// pool replays demand in fixed memory, and writes the report.
func (c *simulateCmd) pool(ctx context.Context, d *simulate.Demand, p *report.Report) (err error) {
	from := time.Duration(c.MeasureFrom)
	if c.Ahead < 0 {
		return errors.New("--ahead may not be negative")
	}
	if c.Rare > 0 {
		if d, err = d.Rarely(float64(c.Rare), from); err != nil {
			return err
		}
	}
	size, known, err := c.sizes(d)
	if err != nil {
		return err
	}
	m := simulate.Memory{Size: size, From: from, Disk: simulate.DiskTime, Wake: simulate.WakeTime}
	if c.Load.disk > 0 {
		m.Disk = func(int64) time.Duration { return c.Load.disk }
	}
	if c.Load.host > 0 {
		m.Wake = func(int64) time.Duration { return c.Load.host }
	}
	whole := int64(0)
	for _, name := range d.Models {
		whole += size(name)
	}
	m.GPU, m.Host = c.Memory.gpu.of(whole), c.Memory.host.of(whole)
	c.describePool(p, d, &m, whole, known)
	if p.Pool, err = c.replayPool(ctx, d, &m); err != nil {
		return err
	}
	return c.write(p)
}

// sizes are those that the configuration file says, and how many models have one.
func (c *simulateCmd) sizes(d *simulate.Demand) (size func(string) int64, known int, err error) {
	if c.Config == "" {
		return simulate.HashSize, 0, nil
	}
	cfg, err := config.Load(c.Config)
	if err != nil {
		return nil, 0, err
	}
	sizes := map[string]int64{}
	for name, m := range cfg.Models {
		for _, b := range m.Backends {
			for _, each := range append([]string{name}, m.Aliases...) {
				sizes[each] = max(sizes[each], int64(b.Memory))
			}
		}
	}
	for _, name := range d.Models {
		if sizes[name] > 0 {
			known++
		}
	}
	if known == 0 {
		return nil, 0, fmt.Errorf("%s says of no model in the recording how large it is (memory of a backend)", c.Config)
	}
	return func(name string) int64 {
		if s := sizes[name]; s > 0 {
			return s
		}
		return simulate.HashSize(name)
	}, known, nil
}

// describePool says what is simulated, and whether it can be.
func (c *simulateCmd) describePool(p *report.Report, d *simulate.Demand, m *simulate.Memory, whole int64, known int) {
	const gb = 1e9
	models := fmt.Sprintf("%d models of %.0f GB together, %d sizes made up", len(d.Models), float64(whole)/gb, len(d.Models)-known)
	if c.Rare > 0 {
		models = fmt.Sprintf("busy for less than %.3g %% of the time: %s", 100*float64(c.Rare), models)
	}
	working := d.Working(m.Size, m.From)
	memory := fmt.Sprintf("%.0f GB of GPUs, %.0f GB of hosts; on average %.0f GB are busy", float64(m.GPU)/gb, float64(m.Host)/gb, float64(working)/gb)
	if 2*working > m.GPU {
		memory += ". That leaves little to choose: waiting for room decides. --rare 20% leaves those out that are always busy"
	}
	loads := fmt.Sprintf("6 GB take %s from disk and %s from the host, 68 GB %s and %s", m.Disk(6*gb), m.Wake(6*gb), m.Disk(68*gb), m.Wake(68*gb))
	p.Title = "Fixed memory on " + strings.TrimPrefix(p.Title, "Warm pool on ")
	p.Settings = append(p.Settings[:1], [2]string{"models", models}, [2]string{"memory", memory}, [2]string{"loads", loads})
}

// replayPool runs all policies. Those that could load ahead are tried without, too.
func (c *simulateCmd) replayPool(ctx context.Context, d *simulate.Demand, m *simulate.Memory) ([]report.PoolRow, error) {
	var rows []report.PoolRow
	var ahead []int
	for _, spec := range c.Policy {
		p, err := policy.ParseRecorded(spec)
		if err != nil {
			return nil, err
		}
		if _, is := p.(policy.Ranker); !is {
			return nil, fmt.Errorf("policy %s does not say whose memory is worth the least; of those with --memory there are %s", spec, strings.Join(defaultRankers(), ", "))
		}
		if f, is := p.(policy.Foresighted); is && f.Ahead() && c.Ahead > 0 {
			rows, ahead = append(rows, report.PoolRow{Policy: spec + ", evicts only"}), append(ahead, 0)
			rows, ahead = append(rows, report.PoolRow{Policy: spec}), append(ahead, c.Ahead)
			continue
		}
		rows, ahead = append(rows, report.PoolRow{Policy: spec}), append(ahead, 0)
	}
	var handled atomic.Int64
	done := c.progress(ctx, &handled, int64(d.Rows())*int64(len(rows)))
	defer done()
	all, ctx := errgroup.WithContext(ctx)
	all.SetLimit(runtime.GOMAXPROCS(0))
	for i := range rows {
		all.Go(func() error {
			spec, _, _ := strings.Cut(rows[i].Policy, ", ")
			p, err := policy.ParseRecorded(spec)
			if err != nil {
				return err
			}
			own := *m
			own.Ahead, own.Handled = ahead[i], &handled
			rows[i].PoolResult, err = simulate.RunPool(ctx, d, p.(policy.Ranker), own)
			return err
		})
	}
	return rows, all.Wait()
}
