package main

import (
	"context"
	"fmt"
	"net/http"
	"slices"
	"time"

	"pilotlight/proxy"
	"pilotlight/proxy/admin"
	"pilotlight/proxy/ledger"
	"pilotlight/router"
	"pilotlight/warmpool/agent"
)

// showing is what the dashboard shows of a fleet that runs, put together when somebody watches.
type showing struct {
	site  site
	pool  *lives
	eyes  *eyes
	plans *planning
	price *pricer
	books *ledger.Ledger
	edge  *proxy.Edge
	gpu   *admin.GPUTimes
	began time.Time
}

func (s *showing) recent(most int) []admin.Request {
	return admin.RequestsOf(s.edge.Visits(), s.gpu, most)
}

// expected is what the plan says, of each model what it says of the backend that would be the first to serve.
func (s *showing) expected() map[string]admin.Expectation {
	all := map[string]admin.Expectation{}
	plan := s.plans.Plan()
	for i := range plan.Items {
		it := &plan.Items[i]
		was, known := all[it.Model]
		if !known || was.Next.IsZero() && !it.Next.IsZero() {
			all[it.Model] = admin.Expectation{Next: it.Next.Truncate(time.Second), Chance: it.Chance, Rule: string(it.Rule), Why: it.Why}
		}
	}
	return all
}

// machines are the nodes, with who has what of their GPUs' memory.
func (s *showing) machines() []admin.Machine {
	known := map[string]agent.NodeStatus{}
	for _, n := range s.pool.Nodes() {
		known[n.Name] = n
	}
	all := []admin.Machine{}
	for _, n := range s.pool.fleet.Router.Nodes() {
		m := admin.Machine{Name: n.Name, GPUs: []admin.MachineGPU{}}
		for i, room := range n.GPUs {
			g := admin.MachineGPU{Index: i, Total: -1, Free: int64(room.Free), Others: -1, Busy: -1, Health: room.Health.String(), Held: held(n.Backends, i)}
			if told := known[n.Name]; i < len(told.GPUs) {
				g.Total = int64(told.GPUs[i].Memory)
			}
			m.GPUs = append(m.GPUs, g)
		}
		if told, is := known[n.Name]; is {
			m.Why = told.Why
		}
		if n.Name == s.site.cfg.Node.Name {
			s.own(&m)
		}
		all = append(all, m)
	}
	return all
}

// own adds what the edge itself sees of its node's GPUs.
func (s *showing) own(m *admin.Machine) {
	for i := range m.GPUs {
		if given := s.site.cfg.Node.GPUs; i < len(given) {
			m.GPUs[i].Total = int64(given[i].Memory)
		}
	}
	for _, g := range s.eyes.status(m.Name, pids(s.pool.fleet.Router, m.Name)).GPUs {
		if at := slices.IndexFunc(m.GPUs, func(is admin.MachineGPU) bool { return is.Index == g.Index }); at >= 0 {
			is := &m.GPUs[at]
			is.Name, is.Busy, is.Others, is.Health = g.Name, g.Busy, g.Others, g.Health
			if g.Total > 0 {
				is.Total = g.Total
			}
		}
	}
}

// held is what backends have of a GPU.
func held(backends []router.Backend, gpu int) []admin.Holding {
	all := []admin.Holding{}
	for i := range backends {
		b := &backends[i]
		if !slices.Contains(b.GPUs, gpu) {
			continue
		}
		bytes := b.Residual
		switch b.State {
		case router.Ready, router.Waking, router.Draining:
			bytes = b.Memory
		case router.Asleep, router.Stopped, router.Failed:
		}
		if each := int64(bytes) / int64(len(b.GPUs)); each > 0 {
			all = append(all, admin.Holding{Backend: b.ID, Model: b.Model, State: b.State.String(), Bytes: each})
		}
	}
	return all
}

// cost is what was paid since the edge began, or since midnight where that is later.
func (s *showing) cost() *admin.Cost {
	if s.books == nil || s.price.prices.Load() == nil {
		return nil
	}
	now := time.Now()
	since := time.Date(now.Year(), now.Month(), now.Day(), 0, 0, 0, 0, now.Location())
	if s.began.After(since) {
		since = s.began
	}
	ctx, cancel := context.WithTimeout(context.Background(), 2*time.Second)
	defer cancel()
	book, err := s.books.Book(ctx, ledger.Query{Since: since})
	if err != nil {
		return nil
	}
	table := book.Table(nil)
	c := &admin.Cost{Since: since, Currency: table.Currency, Paid: float64(table.Total.Allocated) / 1e9}
	for _, m := range s.pool.fleet.Fleet().Models {
		if len(m.Backends) == 0 {
			continue
		}
		b := m.Backends[0]
		if rate := s.price.of(b.ID, b.Node); rate.Memory > 0 {
			c.AlwaysOn += float64(rate.Nano) / 1e9 * float64(b.Memory) / float64(rate.Memory) * now.Sub(since).Hours()
		}
	}
	return c
}

// guarded stands before the admin port as the configuration says.
func (s site) guarded(next http.Handler) http.Handler {
	return admin.Guard(s.cfg.AdminTokenFile, func(r *http.Request) bool { return r.URL.Path == "/healthz" || r.URL.Path == "/readyz" }, next)
}

// checkToken says early what would keep everybody from the admin port.
func (s site) checkToken() error {
	if s.cfg.AdminTokenFile == "" {
		return nil
	}
	if _, err := admin.Token(s.cfg.AdminTokenFile); err != nil {
		return fmt.Errorf("admin_token_file: %w", err)
	}
	return nil
}
