package advise

import "time"

// Replayed is what a replay found that a model costs.
type Replayed struct {
	Sleeping, Serverless  float64
	ColdStarts, ColdThere int64
	Replicas              int
}

// Replay does by brute force what Advise counts: it goes through the recording from one change to the next, with replicas that are awake or not, each of
// which notes for how long it has lived and been idle. It shares nothing with Advise but what is in flight, and is there to hold it to account.
func Replay(m Model, o Options) (Replayed, error) {
	p, err := o.prices(m.GPUs)
	if err != nil {
		return Replayed{}, err
	}
	var r Replayed
	own, there := pool{keep: m.Idle, load: m.Load}, pool{keep: p.server.Window.Std(), load: m.Load, round: p.server.Round.Std()}
	inFlight, now := 0.0, time.Duration(0)
	for _, c := range append(changes(m.Uses, m.shortest(p)), change{at: o.Length}) {
		at := min(c.at, o.Length)
		if at > now {
			need := needed(inFlight, m.Slots)
			r.Replicas = max(r.Replicas, need)
			own.pass(need, at-now)
			there.pass(need, at-now)
			now = at
		}
		inFlight += c.more
	}
	own.close()
	there.close()
	r.ColdStarts, r.ColdThere = own.cold, there.cold
	r.Sleeping = own.paid.Seconds()*p.paid + o.Wait*m.Load.Seconds()*float64(own.cold)
	r.Serverless = there.paid.Seconds()*p.there + o.Wait*m.Load.Seconds()*float64(there.cold)
	return r, nil
}

// pool is a number of replicas that are awake or not.
type pool struct {
	keep, load, round time.Duration
	all               []replica
	awake             int // no replica from here on is
	paid              time.Duration
	cold              int64
}

// replica is one of them.
type replica struct {
	awake bool
	lived time.Duration // since it woke
	idle  time.Duration
}

// pass lets a time pass in which so many replicas are needed: the first ones.
func (p *pool) pass(need int, took time.Duration) {
	for len(p.all) < need {
		p.all = append(p.all, replica{})
	}
	for i := range max(need, p.awake) {
		r := &p.all[i]
		switch {
		case i < need && !r.awake:
			*r = replica{awake: true, lived: p.load + took}
			p.cold++
		case i < need:
			r.idle = 0
			r.lived += took
		case r.awake && r.idle+took > p.keep:
			r.lived += p.keep - r.idle
			p.sleep(r)
		case r.awake:
			r.idle += took
			r.lived += took
		}
	}
	p.awake = max(need, p.awake)
	for p.awake > 0 && !p.all[p.awake-1].awake {
		p.awake--
	}
}

// sleep ends a replica's life, which is paid for then.
func (p *pool) sleep(r *replica) {
	r.awake = false
	if p.round > 0 {
		r.lived = (r.lived + p.round - 1) / p.round * p.round
	}
	p.paid += r.lived
}

func (p *pool) close() {
	for i := range p.all {
		if p.all[i].awake {
			p.sleep(&p.all[i])
		}
	}
}
