package planner

import (
	"cmp"
	"math"
	"slices"
	"time"

	"pilotlight/router"
)

const (
	muchMore  = 1.5 // by which what is woken must be worth more than those that make room for it
	plenty    = math.MaxInt64 / 4
	mostSwaps = 2 // per node, where the budget does not say
)

// room is the memory of a node that is free if the plan, as far as it is made, is done.
type room struct {
	name      string
	gpu, host int64
	swaps     int // wakes ahead for which others leave
	units     []*unit
}

// count takes in what is free now.
func (p *plan) count() {
	p.nodes = make(map[string]*room, len(p.in.Nodes))
	for i := range p.in.Nodes {
		n := &p.in.Nodes[i]
		p.nodes[n.Name] = &room{name: n.Name, gpu: n.GPUFree, host: n.HostFree}
	}
}

func (p *plan) room(node string) *room {
	r := p.nodes[node]
	if r == nil {
		r = &room{name: node, gpu: plenty, host: plenty}
		p.nodes[node] = r
	}
	return r
}

// density is what a GiB of GPU memory is worth with this backend in it.
func (u *unit) density() float64 { return u.worth / gib(max(u.b.GPU, 1)) }

// relieve makes room on nodes that hold more than there is.
func (p *plan) relieve() {
	for _, r := range p.nodes {
		for _, victim := range r.victims() {
			if r.gpu < 0 {
				p.leave(victim, RuleMemory, "its node has too little GPU memory for all")
			}
		}
	}
}

// victims are those that may leave their GPUs, the least worth of a GiB first.
func (r *room) victims() (all []*unit) {
	for _, u := range r.units {
		if u.item.Want == router.OnGPU && u.b.Tier == router.OnGPU && !u.held {
			all = append(all, u)
		}
	}
	slices.SortStableFunc(all, func(a, b *unit) int {
		return cmp.Or(cmp.Compare(a.density(), b.density()), cmp.Compare(a.b.ID, b.b.ID))
	})
	return all
}

// wakes answers the calls: people's first, then the policy's by what a GiB is worth.
func (p *plan) wakes() {
	slices.SortStableFunc(p.calls, func(a, b *call) int {
		if a.ahead != b.ahead {
			return cmp.Compare(bit(a.ahead), bit(b.ahead))
		}
		if !a.ahead {
			return cmp.Compare(urgency(a.rule), urgency(b.rule))
		}
		return cmp.Compare(b.density(), a.density())
	})
	for _, c := range p.calls {
		p.answer(c)
	}
}

// density is what a GiB of GPU memory is worth with the best of those that may answer in it.
func (c *call) density() float64 { return c.units[0].density() }

func bit(b bool) int {
	if b {
		return 1
	}
	return 0
}

// urgency orders people's calls, the most urgent first.
func urgency(r Rule) int {
	return slices.Index([]Rule{RuleBusy, RuleMin, RuleNeverSleep, RuleSchedule}, r)
}

// answer wakes one backend for a call, where there is room or it can be made.
func (p *plan) answer(c *call) {
	if c.ahead && p.spent() {
		c.refuse(RuleBudget, "enough is being loaded ahead of requests now")
		p.again(p.Loads[0].Add(p.per()))
		return
	}
	for _, u := range c.units {
		if u.item.Want != router.OnGPU && u.b.GPU-u.b.residual(u.b.Tier) <= u.room.gpu {
			p.wake(u, c)
			return
		}
	}
	for _, u := range c.units {
		if u.item.Want == router.OnGPU {
			continue
		}
		victims, enough := p.makeWay(u, c)
		if !enough {
			continue
		}
		for _, v := range victims {
			p.leave(v, RuleMemory, "its GPU memory is needed for "+u.m.Name)
		}
		if c.ahead {
			u.room.swaps++
		}
		p.wake(u, c)
		return
	}
	c.refuse(RuleMemory, "others are worth more of the GPU memory there is")
}

// makeWay is who must leave for a unit to be woken, and whether that is enough and it is worth that.
func (p *plan) makeWay(u *unit, c *call) (victims []*unit, enough bool) {
	most := mostSwaps
	if p.in.Budget.Swaps > 0 {
		most = p.in.Budget.Swaps
	}
	if c.ahead && u.room.swaps >= most {
		return nil, false
	}
	needs, worth := u.b.GPU-u.b.residual(u.b.Tier)-u.room.gpu, 0.0
	for _, v := range u.room.victims() {
		if v.m == u.m || v.b.rests() == router.OnDisk && v.b.CannotStop {
			continue
		}
		if worth += v.worth; c.ahead && worth*muchMore > u.worth {
			return nil, false
		}
		victims = append(victims, v)
		if needs -= v.b.GPU - v.b.residual(v.b.rests()); needs <= 0 {
			return victims, true
		}
	}
	return nil, false
}

// wake brings a unit to its GPU.
func (p *plan) wake(u *unit, c *call) {
	u.room.gpu -= u.b.GPU - u.b.residual(u.b.Tier)
	u.room.host += u.b.hosted(u.b.Tier)
	u.held = true
	u.item.Want, u.item.At, u.item.Rule, u.item.Why, u.item.Ahead = router.OnGPU, p.in.Now, c.rule, c.why, c.ahead
	if c.ahead {
		p.Loads = append(p.Loads, p.in.Now)
	}
}

// refuse says of those that might have been woken why they are not.
func (c *call) refuse(rule Rule, why string) {
	for _, u := range c.units {
		if u.item.Want != router.OnGPU {
			u.item.Rule, u.item.Why = rule, why
		}
	}
}

func (p *plan) per() time.Duration { return p.in.per() }

func (in *Input) per() time.Duration { return cmp.Or(in.Budget.Per, time.Minute) }

// spent says whether no more may be loaded ahead now.
func (p *plan) spent() bool { return p.in.Budget.Loads > 0 && len(p.Loads) >= p.in.Budget.Loads }

// loads are those that were begun ahead within the budget's time, oldest first.
func (in *Input) loads() (some []time.Time) {
	if in.Before == nil {
		return nil
	}
	for _, at := range in.Before.Loads {
		if in.Now.Sub(at) < in.per() && !at.After(in.Now) {
			some = append(some, at)
		}
	}
	return some
}
