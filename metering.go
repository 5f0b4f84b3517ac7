package main

import (
	"context"
	"sync"
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"pilotlight/probe/meter"
	"pilotlight/proxy"
	"pilotlight/router"
	"pilotlight/warmpool/agent"
)

// How often something is done about GPU time.
const (
	reports = 200 * time.Millisecond // what requests do is told to whoever meters them
	settles = time.Second            // what they took is settled
	// overdue is how long after its end a request's GPU time is waited for. Then the time that it was served stands in for that: an agent that is gone
	// measures nothing.
	overdue = 15 * time.Second
)

// metering is how an edge comes to know what its requests took of GPUs. Those at backends of an agent are metered by that; all others here.
type metering struct {
	edge  *proxy.Edge
	own   *meter.Meter
	links *agent.Links // nil: there are none
	fleet func() *router.Fleet
	node  string

	changed []proxy.Flight // room for them

	mu       sync.Mutex // guards what follows
	awaiting map[uint64]landed
	settling int // whose share is being told
}

// landed is a flight that has ended and is not settled.
type landed struct {
	number                 uint64 // of its Visit
	model, backend, tenant string
	ended                  time.Time
	most                   time.Duration // of GPUs that it can have taken
}

// self is the edge among those that report to its own meter.
const self = "self"

func newMetering(edge *proxy.Edge, pool *lives, node string, registry prometheus.Registerer) *metering {
	m := &metering{edge: edge, own: meter.New(self), links: pool.links, fleet: pool.fleet.Fleet, node: node, awaiting: map[uint64]landed{}}
	pool.fleet.metered = m.told
	registry.MustRegister(prometheus.NewGaugeFunc(prometheus.GaugeOpts{
		Name: "pilotlight_gpu_unsettled_requests", Help: "Requests that have ended and whose GPU time is not settled.",
	}, func() float64 {
		m.mu.Lock()
		defer m.mu.Unlock()
		return float64(m.edge.Landed() + len(m.awaiting) + m.settling)
	}))
	if pool.links != nil {
		registry.MustRegister(prometheus.CollectorFunc(func(to chan<- prometheus.Metric) { measureWays(pool.links.Nodes(), to) }))
	}
	return m
}

// measureWays tells how long messages to agents are on their way, which GPU time is off by, and by how much their clocks are.
func measureWays(nodes []agent.NodeStatus, to chan<- prometheus.Metric) {
	way := prometheus.NewDesc("pilotlight_link_way_seconds", "How long a message to a node's agent takes, about: what it is told of requests is taken to happen when it comes.", []string{"node"}, nil)
	offset := prometheus.NewDesc("pilotlight_link_clock_offset_seconds", "By how much the clock of a node's agent is ahead of the edge's, about.", []string{"node"}, nil)
	said := map[string]bool{} // an agent that moves to another address has two links for a moment
	for i := range nodes {
		if n := &nodes[i]; n.Link == agent.Linked && n.Name != "" && !said[n.Name] {
			said[n.Name] = true
			to <- prometheus.MustNewConstMetric(way, prometheus.GaugeValue, n.Way/1000, n.Name)
			to <- prometheus.MustNewConstMetric(offset, prometheus.GaugeValue, n.Offset/1000, n.Name)
		}
	}
}

// run meters until ctx ends, when no request is left; then what is not settled is settled by what is known.
func (m *metering) run(ctx context.Context) {
	tick := time.NewTicker(reports)
	defer tick.Stop()
	settled := time.Now()
	for {
		select {
		case <-ctx.Done():
			now := time.Now()
			m.report(now)
			m.settle(now, m.own.Close, 0)
			return
		case now := <-tick.C:
			m.report(now)
			if now.Sub(settled) >= settles {
				settled = now
				m.settle(now, m.own.Settle, overdue)
			}
		}
	}
}

// report tells what requests do to whoever meters them.
func (m *metering) report(now time.Time) {
	m.mu.Lock()
	m.changed = m.edge.Flights(m.changed[:0])
	changed := m.changed
	own, theirs := make([]meter.Flight, 0, len(changed)), []meter.Flight(nil)
	for i := range changed {
		f := &changed[i]
		if !f.Ended.IsZero() {
			m.awaiting[f.ID] = landed{f.Number, f.Model, f.Backend, f.Tenant, f.Ended, f.Ended.Sub(f.Began) * time.Duration(f.Width)}
		}
		if m.links != nil && m.links.Has(f.Backend) {
			theirs = append(theirs, f.Flight)
		} else {
			own = append(own, f.Flight)
		}
	}
	m.mu.Unlock()
	m.own.Report(self, now, own)
	if m.links != nil {
		m.links.Report(theirs)
	}
}

// settle settles what has been measured here, and of what ended so long ago what nobody will say any more.
func (m *metering) settle(now time.Time, settle func(time.Time) meter.Result, ago time.Duration) {
	m.own.Know(m.backends())
	r := settle(now)
	m.told(m.node, r.Settled[self], r.Accounts)
	m.mu.Lock()
	var late []meter.Settled
	for id, f := range m.awaiting {
		if now.Sub(f.ended) >= ago {
			late = append(late, meter.Settled{ID: id, GPU: f.most, Method: meter.Wallclock, At: f.ended})
		}
	}
	m.mu.Unlock()
	m.told("", late, nil)
}

// told takes in what somebody says who meters. What nobody waits for has been settled before.
func (m *metering) told(node string, settled []meter.Settled, accounts []meter.Account) {
	for i := range settled {
		s := &settled[i]
		m.mu.Lock()
		f, waits := m.awaiting[s.ID]
		if waits {
			delete(m.awaiting, s.ID)
			m.settling++
		}
		m.mu.Unlock()
		if !waits {
			continue
		}
		m.edge.Settled(proxy.Share{ID: f.number, Model: f.model, Backend: f.backend, Tenant: f.tenant, GPU: s.GPU, Joules: s.Joules, Method: s.Method, Final: true, At: s.At})
		m.mu.Lock()
		m.settling--
		m.mu.Unlock()
	}
	for i := range accounts {
		a := &accounts[i]
		m.edge.Accounted(proxy.Account{
			Model: a.Model, Backend: a.Backend, Node: node, Kind: a.Kind, Method: a.Method, From: a.From, To: a.To, GPU: a.GPU, Joules: a.Joules,
			MemoryByteSeconds: a.MemoryByteSeconds,
		})
	}
}

// backends are those that are metered here. Where a backend is on GPUs of another node they cannot be seen.
func (m *metering) backends() (all []meter.Backend) {
	for _, of := range m.fleet().Models {
		for _, b := range of.Backends {
			if m.links != nil && m.links.Has(b.ID) {
				continue
			}
			is := agent.Metered(b)
			if b.Node != m.node {
				is.GPUs, is.PID, is.Memory, is.Width = nil, 0, 0, max(b.Width, len(b.GPUs))
			}
			all = append(all, is)
		}
	}
	return all
}
