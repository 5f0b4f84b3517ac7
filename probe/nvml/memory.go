package nvml

import (
	"fmt"
	"slices"
	"time"

	"pilotlight/probe"
)

// memory is what the parent knows of a node's GPUs, over all processes that have looked. GPUs keep their places in
// it: one that the driver no longer lists is Sick, and those behind it do not move up.
type memory struct {
	last  probe.GPUs // as it was judged
	pasts map[string]*past
	heard time.Time // when the last reading came
	why   string    // there has been none since, where that is known
}

// know takes in a reading that came now, and answers it judged.
func (m *memory) know(r probe.GPUs, now time.Time) probe.GPUs {
	m.heard, m.why = now, r.Problem
	if len(r.GPUs) == 0 && len(m.last.GPUs) > 0 { // the driver does not work any more
		return m.unknown(now)
	}
	placed := make([]int, 0, len(r.GPUs)) // where m.last has r.GPUs[i]
	gpus := make([]probe.GPU, len(m.last.GPUs), len(m.last.GPUs)+len(r.GPUs))
	for i, g := range m.last.GPUs {
		gpus[i] = missing(g)
	}
	for _, g := range r.GPUs {
		at := m.place(g, placed)
		if at < 0 {
			at = len(gpus)
			gpus = append(gpus, g)
		}
		if g.UUID == "" { // lost before it could be named
			g.UUID, g.Name = gpus[at].UUID, gpus[at].Name
		}
		gpus[at] = g
		placed = append(placed, at)
	}
	for i := range gpus {
		gpus[i].Index = i
		m.past(gpus[i].UUID).judge(&gpus[i], r.At)
	}
	if r.Links != nil {
		r.Links = rearranged(r.Links, placed, len(gpus))
	}
	r.GPUs = gpus
	m.last = r
	return r
}

// place is where a GPU stood before; -1 for one that is new.
func (m *memory) place(g probe.GPU, taken []int) int {
	at := slices.IndexFunc(m.last.GPUs, func(old probe.GPU) bool {
		return g.UUID != "" && old.UUID == g.UUID || g.UUID == "" && old.Index == g.Index
	})
	if slices.Contains(taken, at) {
		return -1
	}
	return at
}

func (m *memory) past(uuid string) *past {
	p := m.pasts[uuid]
	if p == nil {
		p = &past{ecc: -1}
		m.pasts[uuid] = p
	}
	return p
}

// missing is a GPU that the driver no longer lists.
func missing(g probe.GPU) probe.GPU {
	g.Health, g.Reason = probe.Sick, "the driver no longer lists it"
	g.Busy, g.Used, g.Free, g.Power, g.Processes = -1, -1, -1, -1, nil
	return g
}

// rearranged are the links among n places, where placed[i] is the place of what was i.
func rearranged(links [][]probe.Link, placed []int, n int) [][]probe.Link {
	all := make([][]probe.Link, n)
	for i := range all {
		all[i] = slices.Repeat([]probe.Link{probe.LinkUnknown}, n)
		all[i][i] = probe.LinkSelf
	}
	for i, row := range links {
		for j, link := range row {
			if i < len(placed) && j < len(placed) {
				all[placed[i]][placed[j]] = link
			}
		}
	}
	return all
}

// unknown is what is known while nobody can look: what the last reading said, of which nothing may be true any more.
func (m *memory) unknown(now time.Time) probe.GPUs {
	why := m.why
	if why == "" {
		why = fmt.Sprintf("the driver has not answered for %v", now.Sub(m.heard).Round(time.Second))
	}
	r := m.last
	if len(r.GPUs) == 0 {
		r.Problem = why
	}
	r.GPUs = slices.Clone(r.GPUs)
	for i := range r.GPUs {
		r.GPUs[i].Health, r.GPUs[i].Reason = probe.Unknown, why
	}
	return r
}
