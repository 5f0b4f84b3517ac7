package planner

import (
	"cmp"
	"slices"
	"time"

	"pilotlight/router"
)

// Make says what should become of every backend. It is pure: the same input gives the same plan, whatever the order of models, backends and nodes.
//
// For each model people's rules, then the policy, say how many of its backends should be on their GPUs. What need not be leaves. What people's rules
// ask for takes the place of whatever the policy alone keeps. What the policy would wake ahead takes free memory, or that of
// others worth much less, the most worth of a GiB first and within the budget. What is not on a GPU stays in the host's memory for as long as that costs
// less than the longer wakes it spares, and while there is room.
func Make(in *Input) Plan {
	p := &plan{in: in, Plan: Plan{Made: in.Now, DryRun: in.DryRun, ColdStart: in.coldStart()}, usual: in.usualRate(), hour: map[*Model]float64{}}
	p.Loads = in.loads()
	p.count()
	models := make([]*Model, len(in.Models))
	for i := range in.Models {
		models[i] = &in.Models[i]
	}
	slices.SortFunc(models, func(a, b *Model) int { return cmp.Compare(a.Name, b.Name) })
	for _, m := range models {
		p.model(m)
	}
	p.relieve()
	p.wakes()
	p.hosts()
	for _, u := range p.units {
		p.Items = append(p.Items, u.item)
	}
	slices.SortStableFunc(p.Items, func(a, b Item) int {
		return cmp.Or(cmp.Compare(a.Model, b.Model), cmp.Compare(a.Backend, b.Backend))
	})
	return p.Plan
}

// plan is a Plan in the making.
type plan struct {
	Plan
	in    *Input
	usual float64 // the median model's rate, for Alpha
	nodes map[string]*room
	units []*unit
	calls []*call
	hour  map[*Model]float64 // the chance of each within the hour, once asked
}

// unit is one backend in the making of a plan.
type unit struct {
	m    *Model
	b    *Backend
	room *room
	item Item

	held  bool    // nobody's memory need moves it off its GPU
	worth float64 // money an hour that its being on its GPU is expected to spare
}

// call asks for one more backend of a model on a GPU.
type call struct {
	wish
	units []*unit // that may answer, the best first
}

// again says that the plan must be made anew by then.
func (p *plan) again(at time.Time) {
	if at.After(p.in.Now) {
		p.Next = sooner(p.Next, at)
	}
}

// model takes in the backends of one model: what stays, what leaves, and what is asked for.
func (p *plan) model(m *Model) {
	backends := make([]*Backend, len(m.Backends))
	for i := range m.Backends {
		backends[i] = &m.Backends[i]
	}
	slices.SortFunc(backends, m.preferred)
	w := p.wish(m)
	asked := call{wish: w}
	stays := 0
	for _, b := range backends {
		u := p.unit(m, b, &w)
		switch {
		case b.Tier != router.OnGPU:
			if !b.Moving {
				asked.units = append(asked.units, u)
			}
		case b.Moving || p.stays(u, &w, stays):
			stays++
		default:
			p.leave(u, w.rule, w.why)
		}
	}
	if len(asked.units) > 0 {
		for range min(w.awake-stays, len(asked.units)) {
			p.calls = append(p.calls, &asked)
		}
	}
}

// preferred orders backends of one model by which should be awake first.
func (m *Model) preferred(a, b *Backend) int {
	pinned := func(b *Backend) int {
		if m.Rules.Pin == "" || b.Node == m.Rules.Pin {
			return 0
		}
		return 1
	}
	return cmp.Or(
		cmp.Compare(pinned(a), pinned(b)),
		-cmp.Compare(a.Tier, b.Tier),
		cmp.Compare(a.Wake[a.Tier], b.Wake[b.Tier]),
		cmp.Compare(a.ID, b.ID),
	)
}

// unit begins with a backend that stays where it is.
func (p *plan) unit(m *Model, b *Backend, w *wish) *unit {
	u := &unit{m: m, b: b, room: p.room(b.Node)}
	u.worth = p.worth(u)
	u.item = Item{
		Model: m.Name, Backend: b.ID, Node: b.Node, Now: b.Tier, Want: b.Tier, Chance: m.Decision.Chance, Next: m.Decision.Next,
		Rule: w.rule, Why: w.why, KeepCost: p.keepCost(b), SleepCost: p.sleepCost(u),
	}
	if b.Moving {
		u.held, u.item.Rule, u.item.Why = true, RuleMoving, "it is on its way"
	}
	p.units, u.room.units = append(p.units, u), append(u.room.units, u)
	return u
}

// stays says whether a backend that is on its GPU, with so many of its model before it, stays there.
func (p *plan) stays(u *unit, w *wish, before int) bool {
	young := u.b.Since.Add(2 * u.b.Wake[u.b.rests()])
	switch {
	case before < w.awake:
		u.held = urgency(w.rule) >= 0
	case u.m.Busy:
		u.held, u.item.Rule, u.item.Why = true, RuleBusy, "requests are in flight"
	case u.b.CannotSleep:
		u.held, u.item.Rule, u.item.Why = true, RuleFixed, "nobody can take it off its GPU"
	case w.rule == RuleForecast && p.in.Now.Before(young):
		u.held, u.item.Why = true, "it came only just now"
		p.again(young)
	default:
		return false
	}
	u.held = u.held || u.m.Busy || u.b.CannotSleep || p.in.Now.Before(young)
	return true
}

// rests is the tier to which a backend goes from its GPU, by what it can do.
func (b *Backend) rests() router.Tier {
	if b.Host > 0 {
		return router.OnHost
	}
	return router.OnDisk
}

// leave takes a unit off its GPU, if it can be: to the host's memory first.
func (p *plan) leave(u *unit, rule Rule, why string) {
	to := u.b.rests()
	if to == router.OnDisk && u.b.CannotStop {
		u.held, u.item.Rule, u.item.Why = true, RuleFixed, "it can neither sleep nor be stopped"
		return
	}
	u.room.gpu += u.b.GPU - u.b.residual(to)
	u.room.host -= u.b.hosted(to)
	u.item.Want, u.item.At, u.item.Rule, u.item.Why = to, p.in.Now, rule, why
}

// residual is what it holds of GPU memory in a tier other than its GPU.
func (b *Backend) residual(t router.Tier) int64 {
	if t == router.OnHost {
		return min(b.Residual, b.GPU)
	}
	return 0
}

// hosted is what it holds of the host's memory in a tier.
func (b *Backend) hosted(t router.Tier) int64 {
	if t == router.OnHost {
		return b.Host
	}
	return 0
}
