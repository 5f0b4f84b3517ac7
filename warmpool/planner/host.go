package planner

import (
	"cmp"
	"slices"

	"pilotlight/router"
)

// hosts decides what stays in the hosts' memory: what is worth it by the prices, and of that as much as there is room for.
func (p *plan) hosts() {
	var all []*unit
	for _, u := range p.units {
		if u.item.Want != router.OnHost || u.b.Moving || u.b.CannotStop {
			continue
		}
		cost, spares := gib(u.b.Host)*p.in.Prices.Host, p.spares(u)
		if u.b.Tier == router.OnHost {
			spares *= muchMore // it need not be read again
		}
		if u.m.knows() && cost > spares {
			p.stop(u, RulePrices, "its memory on the host costs more than the longer wakes it spares")
			continue
		}
		all = append(all, u)
	}
	slices.SortStableFunc(all, func(a, b *unit) int {
		return cmp.Or(cmp.Compare(p.spares(a)/gib(a.b.Host), p.spares(b)/gib(b.b.Host)), cmp.Compare(a.b.ID, b.b.ID))
	})
	for _, u := range all {
		if u.room.host < 0 {
			p.stop(u, RuleMemory, "others are worth more of the host's memory there is")
		}
	}
}

// stop takes a unit out of the host's memory.
func (p *plan) stop(u *unit, rule Rule, why string) {
	u.room.host += u.b.Host
	u.room.gpu += u.b.residual(router.OnHost)
	u.item.Want, u.item.At = router.OnDisk, p.in.Now
	if u.b.Tier == router.OnGPU { // it leaves its GPU for another reason
		why = u.item.Why + "; " + why
		rule = u.item.Rule
	}
	u.item.Rule, u.item.Why = rule, why
}
