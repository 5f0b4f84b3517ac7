package live

import (
	"cmp"
	"time"

	"pilotlight/config"
	"pilotlight/router"
	"pilotlight/warmpool/planner"
	"pilotlight/warmpool/policy"
)

// input is what a plan is made of now. Models that others names are configured as they say there.
func (p *Planner) input(now time.Time, pool config.Pool, others map[string]config.Model) *planner.Input {
	in := &planner.Input{
		Now: now, DryRun: pool.DryRun, Before: &p.plan, Prices: prices(pool), Budget: planner.Budget{Loads: pool.Loads, Per: time.Minute, Swaps: pool.Swaps},
	}
	if t := pool.Target; t != nil {
		in.Seen = p.answers.seen(now, t.Wait.Std())
	}
	for _, n := range p.fleet.Nodes() {
		in.Nodes = append(in.Nodes, node(n))
	}
	for _, m := range p.fleet.Fleet().Models {
		c := m.Config
		if other, named := others[m.Name]; named {
			c = other
		}
		if len(m.Backends) > 0 {
			in.Models = append(in.Models, p.model(m, &c, pool, now, others == nil))
		}
	}
	return in
}

func prices(pool config.Pool) planner.Prices {
	all := planner.Prices{ColdStart: float64(pool.ColdStartCost), GPU: float64(pool.GPUPrice), Host: float64(pool.HostPrice), Alpha: float64(pool.Alpha)}
	if t := pool.Target; t != nil {
		all.Target = planner.Target{Share: float64(t.Share), Wait: t.Wait.Std()}
	}
	return all
}

// node is a node as the planner sees it. What of its memory nobody of ours holds and is not free is not counted.
func node(n *router.Node) planner.Node {
	is := planner.Node{Name: n.Name, HostFree: int64(max(0, n.Host)), Host: int64(max(0, n.Host))}
	for _, g := range n.GPUs {
		is.GPUFree += int64(max(0, g.Free))
	}
	is.GPU = is.GPUFree
	for i := range n.Backends {
		b := &n.Backends[i]
		switch b.State {
		case router.Ready, router.Waking, router.Draining:
			is.GPU += int64(b.Memory)
		case router.Asleep:
			is.GPU += int64(b.Residual)
			is.Host += int64(b.Host)
		case router.Stopped, router.Failed:
		}
	}
	return is
}

// model is a model as the planner sees it. keep notes what the policy decided.
func (p *Planner) model(m *router.Model, c *config.Model, pool config.Pool, now time.Time, keep bool) planner.Model {
	t := p.track(m)
	is := planner.Model{
		Name: m.Name, Idle: t.idle, Busy: t.busy, Rate: p.forecast.Rate(m.Name, now),
		Chance: func(within time.Duration) float64 { return p.forecast.Chance(m.Name, now, within) },
		Rules:  planner.Rules{Min: c.Min, Max: c.Max, NeverSleep: c.NeverSleep, Pin: c.Pin, Weight: float64(c.Weight), Schedule: windows(c.Schedule)},
	}
	warm, load, memory := false, time.Duration(-1), config.Size(0)
	for _, b := range m.Backends {
		is.Waiting = max(is.Waiting, p.fleet.Use(b.ID).Waiting)
		if b.State == router.Failed {
			continue // it rests
		}
		one := p.backend(b)
		one.Since = p.since(b, now)
		is.Backends = append(is.Backends, one)
		warm = warm || one.Tier == router.OnGPU
		if soon := one.Wake[rests(b)]; load < 0 || soon < load {
			load, memory = soon, b.Memory
		}
	}
	load = max(load, 0)
	spec := cmp.Or(string(c.Policy), string(pool.Policy))
	if spec == fixedForIdleTime {
		is.Rules.IdleTime, is.Decision.Chance = max(c.IdleTime.Std(), time.Millisecond), -1
		return is
	}
	chosen, k, err := p.policyOf(spec, keep)
	if err != nil { // another edge's configuration: it was checked where it came from, by another version
		is.Rules.IdleTime, is.Decision.Chance = c.IdleTime.Std(), -1
		return is
	}
	if priced := p.prices(pool).Worth(load, int64(memory), 1); priced > 0 && (pool.ColdStartCost > 0 || pool.Target != nil) {
		k = priced
	}
	is.Rules.K = k
	q := policy.Question{Model: m.Name, Now: now, Idle: t.idle, Warm: warm, Load: load, K: k, Trial: !keep}
	if !keep {
		is.Decision = chosen.Decide(q)
		return is
	}
	if !t.asked.stands(chosen, &q) {
		t.asked = answer{chosen, q, chosen.Decide(q)}
	}
	is.Decision = t.asked.Decision
	return is
}

// prices are those by which a model's K is found: where a target steers the price of waiting, as the last plan had it.
func (p *Planner) prices(pool config.Pool) planner.Prices {
	all := prices(pool)
	if pool.Target != nil && p.plan.ColdStart > 0 {
		all.ColdStart = p.plan.ColdStart
	}
	return all
}

// rests is the tier from which a backend would wake: where it is, or where it would go from its GPUs.
func rests(b *router.Backend) router.Tier {
	if b.Tier != router.OnGPU {
		return b.Tier
	}
	if b.NoSleep || b.Host == 0 {
		return router.OnDisk
	}
	return router.OnHost
}

// backend is a backend as the planner sees it.
func (p *Planner) backend(b *router.Backend) planner.Backend {
	is := planner.Backend{
		ID: b.ID, Node: b.Node, Tier: b.Tier, GPU: int64(b.Memory), CannotSleep: b.Stays, CannotStop: b.NoStop,
		Wake: map[router.Tier]time.Duration{router.OnDisk: p.scaled(b.Wakes.Disk), router.OnHost: p.scaled(b.Wakes.Host)},
	}
	if !b.NoSleep {
		is.Host = int64(b.Host)
	}
	switch b.State {
	case router.Waking:
		is.Tier, is.Moving = router.OnGPU, true
	case router.Draining:
		is.Tier, is.Moving = rests(b), true
	case router.Ready, router.Asleep, router.Stopped, router.Failed:
	}
	return is
}

// since is since when a backend is where it is, as far as the planner has seen.
func (p *Planner) since(b *router.Backend, now time.Time) time.Time {
	was, known := p.places[b.ID]
	switch {
	case !known:
		was = place{b.State, time.Time{}} // it may have been there for long
	case was.state != b.State:
		was = place{b.State, now}
	}
	p.places[b.ID] = was
	return was.since
}

// scaled is a time of the fleet in the planner's.
func (p *Planner) scaled(d time.Duration) time.Duration { return time.Duration(float64(d) * p.speed) }

func windows(all []config.Window) (some []planner.Window) {
	for _, w := range all {
		if begins, err := w.Begins(); err == nil { // it was checked when it was read
			some = append(some, planner.Window{Name: w.Cron, Begins: begins, For: w.For.Std(), Asleep: w.Asleep})
		}
	}
	return some
}
