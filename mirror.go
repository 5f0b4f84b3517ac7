package main

import (
	"context"
	"log/slog"

	"github.com/prometheus/client_golang/prometheus"

	"pilotlight/config"
	"pilotlight/router"
	"pilotlight/router/consul"
	"pilotlight/warmpool/agent"
)

// mirror is a hub whose node Consul knows too, if the configuration says so.
type mirror struct {
	*agent.Hub
	client *consul.Client       // nil: Consul is not used
	entry  *consul.Registration // likewise
	wakes  map[string]string    // how backends are woken, by ID; never changed
	log    *slog.Logger
}

// mirror makes the mirror of a hub whose link is at addr.
func (s site) mirror(hub *agent.Hub, addr string, registry prometheus.Registerer) (*mirror, error) {
	m := &mirror{Hub: hub, wakes: map[string]string{}, log: s.log}
	if s.cfg.Consul == nil {
		return m, nil
	}
	client, err := consul.New(*s.cfg.Consul, s.log, registry)
	if err != nil {
		return nil, err
	}
	m.client, m.entry = client, client.RegisterAgent(consul.Agent{Node: s.cfg.Node.Name, Link: addr, Version: version()})
	for _, model := range onNode(s.cfg.Node.Name, s.cfg.Models) {
		for _, b := range model.Backends {
			m.wakes[b.Name] = wakeOf(b)
		}
	}
	return m, nil
}

// wakeOf is how a backend is woken, in a word; empty: nobody here can.
func wakeOf(b config.Backend) string {
	switch {
	case b.Process != nil:
		return "process"
	case b.Sleep != config.SleepNone:
		return string(b.Sleep)
	}
	return ""
}

// Observe implements warmpool.Edge.
func (m *mirror) Observe(n router.Node) {
	m.Hub.Observe(n)
	if m.entry == nil {
		return
	}
	all := make([]consul.Backend, len(n.Backends))
	for i, b := range n.Backends {
		b.Node, b.Addr = n.Name, m.Reached(b.Addr)
		all[i] = consul.Backend{Backend: b, Agent: n.Name, Wake: m.wakes[b.ID]}
	}
	m.entry.Set(all)
}

// run keeps the node registered until ctx ends.
func (m *mirror) run(ctx context.Context) error {
	if m.entry != nil {
		_ = m.entry.Run(ctx) // it ends when ctx does, and else never
	}
	return nil
}

// withdraw has Consul forget the node, whose model servers have ended. It is called once run has returned.
func (m *mirror) withdraw(ctx context.Context) {
	if m.entry == nil {
		return
	}
	if err := m.entry.Withdraw(ctx); err != nil {
		m.log.Warn("Consul goes on naming what has ended", "error", err)
	}
}

// status is what the admin port shows.
func (m *mirror) status() any {
	if m.client == nil {
		return nil
	}
	return m.client.Status()
}
