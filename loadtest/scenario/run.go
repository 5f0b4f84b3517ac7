package scenario

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"slices"
	"strconv"
	"sync"
	"time"

	"pilotlight/loadtest"
	"pilotlight/loadtest/report"
)

// Options are how a scenario is run.
type Options struct {
	Program  string  // pilotlight
	Consul   string  // empty: fleets of several agents do without
	Faults   *Faults // nil: those of the scenario, if it has some
	Seed     uint64
	Prices   Prices
	Progress io.Writer // nil: nowhere
	Terminal bool      // Progress is one
}

// outcome is all that a run left behind.
type outcome struct {
	scenario  Scenario
	options   Options
	result    *loadtest.Result
	record    record
	memory    int64 // the most that the first edge had, in bytes
	done      []deed
	wrong     []error
	complains []string
}

// Run runs a scenario and returns its report. An error says that it could not be run; what did not hold is in the report.
func (s Scenario) Run(ctx context.Context, o Options) (*report.Report, error) {
	slos, err := s.slos()
	if err != nil {
		return nil, err
	}
	if o.Faults == nil {
		o.Faults = s.Faults
	}
	s.Gaps = slices.DeleteFunc(slices.Clone(s.Gaps), func(g Gap) bool { return g.At >= s.For })
	f, err := s.start(ctx, o)
	if err != nil {
		return nil, err
	}
	if o.Faults != nil {
		if err := o.Faults.fits(f); err != nil {
			return nil, errors.Join(err, f.stop())
		}
	}
	out := outcome{scenario: s, options: o, result: loadtest.NewResult()}
	err = out.measure(ctx, f)
	pids := f.pids(ctx)
	err = errors.Join(err, f.end())
	if alive := survivors(pids); len(alive) > 0 {
		out.wrong = append(out.wrong, fmt.Errorf("model servers outlived the fleet: %v", alive))
	}
	if err == nil {
		err = out.read(f)
	}
	if err := errors.Join(err, os.RemoveAll(f.dir)); err != nil {
		return nil, err
	}
	p := out.report(slos)
	p.Stopped = ctx.Err() != nil
	return p, nil
}

func (s Scenario) slos() (all []loadtest.SLO, err error) {
	for _, text := range s.SLOs {
		var slo loadtest.SLO
		if err := slo.UnmarshalText([]byte(text)); err != nil {
			return nil, err
		}
		all = append(all, slo)
	}
	return all, nil
}

// targets are the edges: a request goes to one of them, by chance.
func (f *fleet) targets() (ask loadtest.Asker, done func(), err error) {
	var all []*loadtest.Target
	for _, addr := range f.addrs {
		t, err := loadtest.NewTarget("http://"+addr, loadtest.Shape{Stream: true, Exact: true}, 0)
		if err != nil {
			return nil, nil, err
		}
		all = append(all, t)
	}
	ask = func(ctx context.Context, r *loadtest.Request) loadtest.Answer {
		return all[r.Seed%uint64(len(all))].Ask(ctx, r)
	}
	return ask, func() {
		for _, t := range all {
			t.Close()
		}
	}, nil
}

// measure puts the load on the fleet, and then looks for what should not be left of it.
func (out *outcome) measure(ctx context.Context, f *fleet) error {
	ask, closeTargets, err := f.targets()
	if err != nil {
		return err
	}
	if out.scenario.Awake {
		if err := f.wakeAll(ctx, out.scenario); err != nil {
			return err
		}
	}
	var before []gauges
	for _, p := range f.edges() {
		now, err := p.readGauges(ctx)
		if err != nil {
			return err
		}
		before = append(before, now)
	}
	out.load(ctx, f, ask)
	closeTargets()
	out.memory = peakMemory(f.edges()[0].pid())
	return out.lookAround(context.WithoutCancel(ctx), f, before)
}

// load runs the load, and what goes wrong meanwhile.
func (out *outcome) load(ctx context.Context, f *fleet, ask loadtest.Asker) {
	whole := out.scenario.real(out.scenario.For)
	meanwhile, stop := context.WithCancel(ctx)
	var others sync.WaitGroup
	if out.options.Progress != nil {
		others.Go(func() { loadtest.Progress(meanwhile, out.options.Progress, out.options.Terminal, out.result, whole) })
	}
	if out.options.Faults != nil {
		others.Go(func() { // nothing goes wrong once nobody asks
			failing, cancel := context.WithTimeout(meanwhile, whole)
			defer cancel()
			out.done = out.options.Faults.run(failing, f, out.options.Seed)
		})
	}
	loadtest.Run(ctx, ask, loadtest.Load{
		Requests: out.scenario.requests(out.scenario, out.options.Seed), For: whole, Patience: out.scenario.patience(), Most: 10000,
	}, out.result)
	if rest := time.Until(out.result.Began.Add(whole)); rest > 0 && ctx.Err() == nil {
		pause(ctx, rest) // what is held to the end counts
	}
	out.result.Ended = time.Now()
	stop()
	others.Wait()
}

// patience is how long clients wait.
func (s Scenario) patience() time.Duration {
	if s.Patience > 0 {
		return s.Patience
	}
	return 5 * time.Minute
}

// lookAround looks for what should not be left.
func (out *outcome) lookAround(ctx context.Context, f *fleet, before []gauges) error {
	looks := []func() (error, error){func() (error, error) { return f.nothingLeft(ctx, before) }}
	if !slices.ContainsFunc(out.done, func(d deed) bool { return d.edge }) {
		looks = append(looks, func() (error, error) { return f.accounts(ctx, out.result, before) })
	}
	for _, look := range looks {
		wrong, err := look()
		if err != nil {
			return err
		}
		if wrong != nil {
			out.wrong = append(out.wrong, wrong)
		}
	}
	for _, d := range out.done {
		if d.err != nil {
			out.wrong = append(out.wrong, fmt.Errorf("%s: %w", d.what, d.err))
		}
	}
	return nil
}

func pause(ctx context.Context, d time.Duration) {
	select {
	case <-time.After(d):
	case <-ctx.Done():
	}
}

func (f *fleet) pids(ctx context.Context) []int {
	s, err := f.status(context.WithoutCancel(ctx))
	if err != nil {
		return nil
	}
	return s.pids()
}

// read takes in what the fleet's logs say.
func (out *outcome) read(f *fleet) error {
	files, err := f.logs()
	if err != nil {
		return err
	}
	for _, file := range files {
		log, err := os.Open(file)
		if err != nil {
			return fmt.Errorf("read a log of the fleet: %w", err)
		}
		err = errors.Join(out.record.read(log), log.Close())
		if err != nil {
			return err
		}
		more, err := complaints(file)
		if err != nil {
			return err
		}
		out.complains = append(out.complains, more...)
	}
	if wrong := accountsInLogs(out.result, out.record.outcomes, out.done); wrong != nil {
		out.wrong = append(out.wrong, wrong)
	}
	return nil
}

// counted is a number of things.
func counted(n int, thing string) string {
	if n == 1 {
		return "1 " + thing
	}
	return fmt.Sprintf("%d %ss", n, thing)
}

// report is what there is to say.
func (out *outcome) report(slos []loadtest.SLO) *report.Report {
	s := out.scenario
	p := report.Of("Scenario "+s.Name, out.result, slos)
	p.Set("what", "%s", s.About)
	p.Set("fleet", "%s%s of %d GiB, %s; backends sleep when they were idle for %s", out.processes(), counted(s.gpus(), "simulated GPU"), gpuMemory, counted(len(s.names()), "model"), s.Idle)
	if s.Speed != 1 {
		p.Set("time", "%s in %s, %v times as fast: arrivals, loads, wakes, answers and idle times are. What pilotlight itself takes is not, so in the world's time it counts for too much",
			s.For, s.real(s.For), s.Speed)
	}
	for _, g := range s.Gaps {
		how := map[bool]string{true: "%s more after %s are as they were until then, and are not waited for", false: "%s idle after %s are not waited for: what was held then counts for all of it"}
		p.Set("gap", how[g.Busy], g.Long, g.At)
	}
	if len(out.done) > 0 {
		p.Tables = append(p.Tables, out.faults())
	}
	p.Set("memory", "the edge had %.1f MiB at most", float64(out.memory)/(1<<20))
	p.Tables = append(p.Tables, out.coldStarts(), out.costs())
	p.Plot("GPUs held, by share of their memory", "", out.heldOverTime())
	accounted := "Every request has one outcome, the same at its client and at the edge; no slot, place in a line, goroutine, descriptor or process is left."
	if len(out.wrong) > 0 {
		accounted = "NOT AS IT SHOULD BE: " + errors.Join(out.wrong...).Error()
	}
	p.SLOs = append(p.SLOs, report.SLO{SLO: "invariants", Got: accounted, Held: len(out.wrong) == 0})
	for _, c := range out.complains {
		p.Note("From the log: %s", c)
	}
	return p
}

// gpus are those of all nodes.
func (s Scenario) gpus() int { return s.GPUs * max(s.Agents, 1) }

// processes says what the fleet consists of where it is more than one edge.
func (out *outcome) processes() string {
	s := out.scenario
	if s.Agents == 0 {
		return ""
	}
	with := map[bool]string{true: "Consul, ", false: ""}[out.options.Consul != ""]
	return fmt.Sprintf("%s%d agents and %d edges, each a process; ", with, s.Agents, s.Edges)
}

// faults are what went wrong on purpose.
func (out *outcome) faults() report.Table {
	t := report.Table{Title: "Faults on purpose", Columns: []string{"", "times", "first after"}}
	for _, what := range deeds() {
		n, first := 0, time.Duration(0)
		for _, d := range out.done {
			if d.what == what {
				if n++; n == 1 {
					first = d.at.Sub(out.result.Began)
				}
			}
		}
		if n > 0 {
			t.Rows = append(t.Rows, []string{what, strconv.Itoa(n), loadtest.Short(first)})
		}
	}
	return t
}

// shares are what backends hold of GPUs.
func (s Scenario) shares() map[string]share {
	all := map[string]share{}
	for _, m := range s.Fleet {
		for _, name := range m.names() {
			all[name] = share{m.Memory / gpuMemory, asleepMemory / gpuMemory}
		}
	}
	return all
}

// coldStarts say how often nobody was awake, and for how long requests waited then.
func (out *outcome) coldStarts() report.Table {
	var cold, all []time.Duration
	for _, v := range out.record.visits {
		all = append(all, v.waited)
		if v.cold {
			cold = append(cold, v.waited)
		}
	}
	wakes := 0
	for _, m := range out.record.moves {
		if m.from == "waking" && m.to == "ready" {
			wakes++
		}
	}
	t := report.Table{Title: fmt.Sprintf("Cold starts: %d of %d requests found no backend ready; %d wakes", len(cold), len(all), wakes), Columns: []string{"time in line", "p50", "p90", "p99", "max"}}
	for _, row := range []struct {
		name  string
		waits []time.Duration
		speed float64
	}{
		{"all requests", all, 1},
		{"cold starts", cold, 1},
		{"cold starts, in the world's time", cold, out.scenario.Speed},
	} {
		if len(row.waits) == 0 || row.speed == 1 && row.name == "cold starts, in the world's time" {
			continue
		}
		slices.Sort(row.waits)
		cells := []string{row.name}
		for _, percent := range []int{50, 90, 99, 100} {
			at := row.waits[(len(row.waits)-1)*percent/100]
			cells = append(cells, loadtest.Short(time.Duration(float64(at)*row.speed)))
		}
		t.Rows = append(t.Rows, cells)
	}
	return t
}

// at is when something that happened in the run would have happened in the world, gaps included.
func (out *outcome) at(t time.Time) time.Duration {
	d := t.Sub(out.result.Began)
	world := out.scenario.world(d)
	for _, g := range out.scenario.Gaps {
		if d >= g.At {
			world += g.Long
		}
	}
	return world
}

// heldOverTime is what was held, as steps.
func (out *outcome) heldOverTime() report.Series {
	s := report.Series{Name: "GPUs held"}
	h := out.record.heldBy(out.scenario.shares(), out.scenario.gpus())
	level, x := 0.0, func(t time.Time) float64 { return max(0, t.Sub(out.result.Began).Seconds()) }
	for i, at := range h.at {
		if at.After(out.result.Ended) {
			break
		}
		s.Points = append(s.Points, report.Point{X: x(at), Y: level}, report.Point{X: x(at), Y: h.sum[i]})
		level = h.sum[i]
	}
	s.Points = append(s.Points, report.Point{X: x(out.result.Ended), Y: level})
	return s
}

// heldTime is the GPU time that was held in the world, gaps included.
func (out *outcome) heldTime() (total time.Duration, most float64) {
	s := out.scenario
	h := out.record.heldBy(s.shares(), s.gpus())
	total, most = h.over(out.result.Began, out.result.Ended)
	total = s.world(total)
	for _, g := range s.Gaps {
		total += time.Duration(h.level(out.result.Began.Add(g.At)) * float64(g.Long))
	}
	return total, most
}

// costs compare what was held with what others would charge.
func (out *outcome) costs() report.Table {
	s, prices := out.scenario, out.options.Prices
	whole := out.at(out.result.Ended)
	backends := 0
	for _, m := range s.Fleet {
		backends += m.Count * m.Backends * max(s.Agents, 1)
	}
	heldTime, most := out.heldTime()
	t := report.Table{Title: fmt.Sprintf("GPU-hours in %.1f hours", whole.Hours()), Columns: []string{"", "GPUs", "GPU-hours", "US$", "of always-on"}}
	base := float64(backends) * whole.Hours() * prices.GPUHour
	add := func(name, gpus string, hours, dollars float64) {
		t.Rows = append(t.Rows, []string{name, gpus, fmt.Sprintf("%.3f", hours), fmt.Sprintf("%.3f", dollars), fmt.Sprintf("%.1f %%", 100*dollars/base)})
	}
	add("always on: a GPU for each backend", strconv.Itoa(backends), float64(backends)*whole.Hours(), base)
	add("this fleet's GPUs, all of the time", strconv.Itoa(s.gpus()), float64(s.gpus())*whole.Hours(), float64(s.gpus())*whole.Hours()*prices.GPUHour)
	add("held, by share of memory", fmt.Sprintf("%.2f at most", most), heldTime.Hours(), heldTime.Hours()*prices.GPUHour)
	charged, starts := out.serverless()
	for _, by := range prices.Serverless {
		add(fmt.Sprintf("serverless, %s: %d starts", by.Name, starts), "", charged.Hours(), charged.Seconds()*by.Second)
	}
	return t
}

// serverless is for how long serverless GPUs would be charged with the same requests, and how often they would start.
func (out *outcome) serverless() (charged time.Duration, starts int) {
	requests := map[string][]span{}
	for _, v := range out.record.visits {
		begin := out.at(v.begin)
		took := out.scenario.world(v.end.Sub(v.begin) - v.waited)
		requests[v.model] = append(requests[v.model], span{begin, begin + max(took, 0)})
	}
	for name, all := range requests {
		m := out.scenario.of(name)
		for _, s := range serverless(all, m.Slots, m.Load, out.options.Prices.Window) {
			charged, starts = charged+s.end-s.begin, starts+1
			for _, g := range out.scenario.Gaps {
				if at := out.at(out.result.Began.Add(g.At)) - g.Long; g.Busy && s.begin <= at && at <= s.end-out.options.Prices.Window {
					charged += min(g.Long, max(0, at+g.Long-s.end))
				}
			}
		}
	}
	return charged, starts
}
