package main

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"math"
	"os"
	"path/filepath"
	"sync/atomic"
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"pilotlight/config"
	"pilotlight/proxy"
	"pilotlight/proxy/admin"
	"pilotlight/router"
	"pilotlight/router/consul"
	"pilotlight/warmpool/live"
	"pilotlight/warmpool/planner"
)

const (
	// useEvery is how often it is looked how backends are used.
	useEvery = time.Second
	// tellEvery is how often wishes are told that have not changed: they count for three minutes.
	tellEvery = time.Minute
	// planShare bounds the share of a processor that plans take.
	planShare = 0.05
)

// planning is what an edge does as a planner. Every edge learns how the fleet is used, so that what one has learned is not lost with it; only
// the one that holds the planner's lock tells keepers what it plans, or the only one that there is.
type planning struct {
	*live.Planner
	site  site
	pool  *lives
	clock func() time.Time // the planner's
	pace  time.Duration    // how often it is looked how backends are used
	acts  atomic.Bool
	cfg   atomic.Pointer[config.Pool]
}

// planning makes the planner of an edge.
func (s site) planning(pool *lives, registry prometheus.Registerer) *planning {
	clock, speed := time.Now, 1.0
	if s.clock != nil {
		clock, speed = s.clock, s.speed
	}
	p := &planning{Planner: live.New(overview{pool}, s.cfg.Pool, speed), site: s, pool: pool, clock: clock}
	if s.planner != nil {
		s.planner(p.Planner)
	}
	p.pace = max(time.Duration(float64(useEvery)/speed), 10*time.Millisecond)
	p.cfg.Store(&s.cfg.Pool)
	p.acts.Store(s.cfg.Consul == nil)
	registry.MustRegister(prometheus.CollectorFunc(p.collect))
	return p
}

// checkPolicies says which of the policies in a configuration cannot be used.
func checkPolicies(cfg *config.Config) error {
	errs := []error{}
	if err := live.Check(cfg.Pool.Policy); err != nil {
		errs = append(errs, fmt.Errorf("pool.policy: %w", err))
	}
	for name, m := range cfg.Models {
		if err := live.Check(m.Policy); err != nil && m.Policy != cfg.Pool.Policy {
			errs = append(errs, fmt.Errorf("models.%s.policy: %w", name, err))
		}
	}
	return errors.Join(errs...)
}

// update takes over a new file's pool.
func (p *planning) update(pool config.Pool) {
	p.cfg.Store(&pool)
	p.Update(pool)
}

// run plans until ctx ends. What was learned before is there when it begins.
func (p *planning) run(ctx context.Context) {
	told, when := map[string]router.Wish{}, time.Time{}
	for {
		began := time.Now()
		plan := p.Step(p.clock())
		took := time.Since(began)
		if p.acts.Load() {
			wishes := live.Wishes(&plan, p.pool.fleet.Fleet(), time.Now())
			p.pool.wishPins(wishes, time.Now())
			if time.Since(when) >= min(tellEvery, 60*p.pace) || !maps.EqualFunc(told, wishes, sameWish) {
				p.pool.wish(wishes)
				told, when = wishes, time.Now()
			}
		} else if len(told) > 0 {
			p.pool.wish(nil)
			told, when = nil, time.Time{}
		}
		if !wait(ctx, max(p.pace, time.Duration(float64(took)/planShare))) {
			return
		}
	}
}

// sameWish says whether two wishes ask for the same. What memory is worth changes all the time, and counts only by its order of magnitude.
func sameWish(a, b router.Wish) bool {
	return a.Tier == b.Tier && math.Round(math.Log2(1e-9+max(0, a.Worth))) == math.Round(math.Log2(1e-9+max(0, b.Worth)))
}

// forecastFile is where what was learned outlives the process.
const forecastFile = "forecast"

// loadFile takes over what this edge saved.
func (p *planning) loadFile() {
	saved, err := os.ReadFile(filepath.Join(p.site.cfg.Node.StateDir, forecastFile))
	if errors.Is(err, os.ErrNotExist) {
		return
	}
	if err == nil {
		err = p.Load(saved)
	}
	if err != nil {
		p.site.log.Warn("what was learned of demand is lost", "error", err)
	}
}

// loadConsul takes over what a planner saved in Consul. It says whether there was anything.
func (p *planning) loadConsul(ctx context.Context, c *consul.Client) bool {
	saved, err := c.LoadForecast(ctx)
	if err == nil && saved == nil {
		return false
	}
	if err == nil {
		err = p.Load(saved)
	}
	if err != nil {
		p.site.log.Warn("what other edges learned of demand is not known", "error", err)
	}
	return err == nil
}

// save keeps what was learned, in Consul too if this edge is the planner.
func (p *planning) save(ctx context.Context, c *consul.Client) {
	learned, err := p.Save(consul.MaxForecast)
	if err == nil {
		err = replaceFile(filepath.Join(p.site.cfg.Node.StateDir, forecastFile), learned)
	}
	if err == nil && c != nil && p.acts.Load() {
		ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), 3*time.Second)
		defer cancel()
		err = c.SaveForecast(ctx, learned)
	}
	if err != nil {
		p.site.log.Warn("what was learned of demand is not saved", "error", err)
	}
}

// keep saves what is learned now and then, and at the end.
func (p *planning) keep(ctx context.Context, c *consul.Client) {
	for more := true; more; {
		more = wait(ctx, saveEvery)
		p.save(ctx, c)
	}
}

// replaceFile writes a file in one step.
func replaceFile(file string, content []byte) error {
	if err := os.WriteFile(file+".new", content, 0o644); err != nil {
		return fmt.Errorf("save %s: %w", file, err)
	}
	if err := os.Rename(file+".new", file); err != nil {
		return fmt.Errorf("save %s: %w", file, err)
	}
	return nil
}

// planned is what the admin port shows of the plan.
type planned struct {
	admin.PlanStatus
	Plan   planner.Plan `json:"plan"`
	Scores []live.Score `json:"scores,omitempty"` // of models that were woken ahead
}

func (p *planning) status() admin.PlanStatus {
	sum, _ := p.Scores()
	plan := p.Plan()
	return admin.PlanStatus{
		Policy: string(p.cfg.Load().Policy), Acts: p.acts.Load(), DryRun: plan.DryRun, Made: plan.Made, Next: plan.Next,
		Used: sum.Used, Late: sum.Late, Wasted: sum.Wasted, WastedGPUHours: sum.GPUHours,
	}
}

func (p *planning) shown() planned {
	_, scores := p.Scores()
	return planned{PlanStatus: p.status(), Plan: p.Plan(), Scores: scores}
}

// whatIf is the plan that another configuration would make now.
func (p *planning) whatIf(text []byte) (any, error) {
	running := map[string]config.Model{}
	for _, m := range p.pool.fleet.Fleet().Models {
		running[m.Name] = m.Config
	}
	pool, models, err := config.WhatIf("policy", text, *p.cfg.Load(), running)
	if err != nil {
		return nil, err
	}
	if err := checkPolicies(&config.Config{Pool: pool, Models: models}); err != nil {
		return nil, err
	}
	return planned{PlanStatus: admin.PlanStatus{Policy: string(pool.Policy), DryRun: true}, Plan: p.WhatIf(p.clock(), pool, models)}, nil
}

// Ended hears of every request: how long it waited for a wake.
func (p *planning) Ended(v *proxy.Visit) {
	if p.cfg.Load().Target == nil || v.Model == "" {
		return
	}
	waited := time.Duration(0)
	if v.Cold {
		waited = v.Waited
	}
	p.Answered(waited)
}

// Settled and Accounted say nothing to it.
func (*planning) Settled(*proxy.Share)     {}
func (*planning) Accounted(*proxy.Account) {}

// collect is the planner's metrics.
func (p *planning) collect(to chan<- prometheus.Metric) {
	sum, _ := p.Scores()
	result := prometheus.NewDesc("pilotlight_plan_wakes_total", "Wakes ahead by what became of them: used, late (somebody asked before it was ready) or wasted.", []string{"result"}, nil)
	for name, n := range map[string]int{"used": sum.Used, "late": sum.Late, "wasted": sum.Wasted} {
		to <- prometheus.MustNewConstMetric(result, prometheus.CounterValue, float64(n), name)
	}
	to <- prometheus.MustNewConstMetric(prometheus.NewDesc("pilotlight_plan_wasted_gpu_seconds_total", "For how long wakes ahead held a GPU that nobody asked for.", nil, nil),
		prometheus.CounterValue, sum.GPUHours*3600)
	acts := 0.0
	if p.acts.Load() {
		acts = 1
	}
	to <- prometheus.MustNewConstMetric(prometheus.NewDesc("pilotlight_plan_acting", "1 if this edge is the fleet's planner, else 0.", nil, nil), prometheus.GaugeValue, acts)
}

// overview is the fleet as the planner sees it.
type overview struct{ pool *lives }

func (o overview) Fleet() *router.Fleet  { return o.pool.fleet.Fleet() }
func (o overview) Nodes() []*router.Node { return o.pool.fleet.Router.Nodes() }

// Use is how much a backend is used over all edges.
func (o overview) Use(backend string) router.Use {
	if o.pool.links != nil {
		if u, told := o.pool.links.Use(backend); told {
			return u
		}
	}
	return o.pool.fleet.Use(backend)
}

// wish tells all keepers what the planner wants.
func (l *lives) wish(wishes map[string]router.Wish) {
	if l.links != nil {
		l.links.Wish(wishes)
	}
	if l.keeper != nil {
		l.keeper.Wish(wishes)
	}
}
