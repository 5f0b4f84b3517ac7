package main

import (
	"context"
	"log/slog"
	"sync/atomic"
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"pilotlight/config"
	"pilotlight/proxy/ledger"
	"pilotlight/router"
)

// pricer knows what an hour of the GPUs costs that a backend is on. It is asked for every request.
type pricer struct {
	prices atomic.Pointer[config.Prices] // nil: nothing has a price
	node   string                        // our own, whose GPUs are seen
	gpus   []config.GPU                  // of it
	eyes   *eyes
	fleet  func() *router.Fleet
	last   atomic.Pointer[priced]
}

// priced are the backends' prices at a time, for as long as they are fresh.
type priced struct {
	at    time.Time
	rates map[string]ledger.Rate
}

// fresh is how long prices are taken for granted: which GPUs a backend is on changes when it wakes.
const fresh = time.Second

// of is the price of a backend, or of a node's GPUs if no backend is named; nothing for backends that are not ours, as those that models overflow to.
func (p *pricer) of(backend, node string) ledger.Rate {
	if p.prices.Load() == nil {
		return ledger.Rate{}
	}
	if backend == "" {
		return p.rate(node, nil)
	}
	now := p.last.Load()
	if now == nil || time.Since(now.at) > fresh {
		now = &priced{at: time.Now(), rates: map[string]ledger.Rate{}}
		for _, m := range p.fleet().Models {
			for _, b := range m.Backends {
				now.rates[b.ID] = p.rate(b.Node, b.GPUs)
			}
		}
		p.last.Store(now)
	}
	return now.rates[backend]
}

// rate is the price of a node's GPUs, by the name that the driver gives to the first of them; on other nodes by the default.
func (p *pricer) rate(node string, gpus []int) ledger.Rate {
	name, memory := "", int64(0)
	if node == p.node {
		first := 0
		if len(gpus) > 0 {
			first = gpus[0]
		}
		if look := p.eyes.last.Load(); look != nil {
			for _, g := range look.GPUs {
				if g.Index == first {
					name, memory = g.Name, int64(g.Total)
				}
			}
		}
		if memory <= 0 && first < len(p.gpus) {
			memory = int64(p.gpus[first].Memory)
		}
	}
	price, known := p.prices.Load().Of(name)
	if !known {
		return ledger.Rate{}
	}
	if price.Memory > 0 {
		memory = int64(price.Memory)
	}
	return ledger.Rate{Nano: price.Paid().Nano(), Memory: memory}
}

// newPricer makes the one of this edge.
func (s site) newPricer(e *eyes, fleet func() *router.Fleet) *pricer {
	p := &pricer{node: s.cfg.Node.Name, gpus: s.cfg.Node.GPUs, eyes: e, fleet: fleet}
	p.prices.Store(s.cfg.Prices)
	return p
}

// openLedger opens the ledger of this edge and is nil where none is kept.
func (s site) openLedger(ctx context.Context, edge string, p *pricer, registry prometheus.Registerer) (*ledger.Ledger, error) {
	if !s.cfg.Ledger.Keep {
		return nil, nil
	}
	l, err := ledger.New(ctx, ledger.Options{
		File: s.cfg.Ledger.File, Edge: edge, Retention: s.cfg.Ledger.Retention.Std(), Currency: currency(s.cfg), Log: s.log.With(slog.String("part", "ledger")), Rate: p.of,
	})
	if err != nil {
		return nil, err
	}
	registry.MustRegister(prometheus.NewCounterFunc(prometheus.CounterOpts{
		Name: "pilotlight_ledger_dropped_total", Help: "What was not written down because too much was waiting for that.",
	}, func() float64 { return float64(l.Dropped()) }))
	return l, nil
}

// currency is that of all prices, and empty where nothing has one.
func currency(cfg *config.Config) string {
	if cfg.Prices == nil {
		return ""
	}
	return cfg.Prices.Currency
}

// estimate is how answers say what they took.
func estimate(l *ledger.Ledger) func(string, time.Duration) (time.Duration, int64) {
	if l == nil {
		return nil
	}
	return l.Estimate
}
