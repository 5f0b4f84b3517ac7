package consul

import (
	"maps"
	"slices"
	"time"

	"github.com/prometheus/client_golang/prometheus"
)

// Status is what an operator wants to know of Consul, as seen from here.
type Status struct {
	Address  string
	Answers  bool      // the last request had an answer
	Contact  time.Time // of the last answer; the zero time: there was none
	Failure  string    `json:",omitempty"` // of the last request
	Problems []string  `json:",omitempty"` // what stands in Consul and cannot be used, or is hidden from us
	Agents   int
	Edges    int
	Services int // with backends
	Backends int
	Locks    map[string]string `json:",omitempty"` // who holds which
}

// Status may be asked for at any time.
func (c *Client) Status() Status {
	c.mu.Lock()
	defer c.mu.Unlock()
	return Status{
		Address: c.cfg.Address, Answers: c.failure == "", Contact: c.contact, Failure: c.failure, Problems: c.sorted(),
		Agents: c.counts.agents, Edges: c.counts.edges, Services: c.counts.services, Backends: c.counts.backends, Locks: maps.Clone(c.holds),
	}
}

// Received is how many bytes came from Consul so far, as they were on the wire, and how many requests were sent.
func (c *Client) Received() (bytes, requests int64) { return c.bytes.Load(), c.asked.Load() }

// sorted are the problems in a stable order. c.mu is held.
func (c *Client) sorted() []string {
	var all []string
	for _, key := range slices.Sorted(maps.Keys(c.problems)) {
		all = append(all, c.problems[key])
	}
	return all
}

// answered and failed take in how a request went. Only a change is news.
func (c *Client) answered() {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.contact = time.Now()
	if c.failure != "" {
		c.log.Info("Consul answers", "address", c.cfg.Address)
	}
	c.failure = ""
}

func (c *Client) failed(err error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if text := err.Error(); c.failure != text {
		if c.failure == "" || c.contact.IsZero() {
			c.log.Warn("Consul gives no answer; what it last said stands", "error", err)
		}
		c.failure = text
	}
}

// maxProblems bounds what is kept of what is wrong.
const maxProblems = 100

// note keeps a problem under its key, logs it once, and forgets it when text is empty.
func (c *Client) note(key, text string) {
	c.mu.Lock()
	defer c.mu.Unlock()
	was, is := c.problems[key]
	switch {
	case text == "":
		delete(c.problems, key)
	case is && was == text, !is && len(c.problems) >= maxProblems:
	default:
		c.problems[key] = text
		c.log.Warn("something in Consul cannot be used", "problem", text)
	}
}

// register makes the metrics.
func (c *Client) register(registry prometheus.Registerer) {
	if registry == nil {
		return
	}
	gauge := func(name, help string, value func(Status) float64) {
		registry.MustRegister(prometheus.NewGaugeFunc(prometheus.GaugeOpts{Name: name, Help: help}, func() float64 { return value(c.Status()) }))
	}
	gauge("pilotlight_consul_answers", "1 if the last request to Consul had an answer, else 0.", func(s Status) float64 {
		if s.Answers {
			return 1
		}
		return 0
	})
	gauge("pilotlight_consul_problems", "Keys, registrations and rights in Consul that cannot be used; status says which.", func(s Status) float64 { return float64(len(s.Problems)) })
	gauge("pilotlight_consul_agents", "Agents known from Consul.", func(s Status) float64 { return float64(s.Agents) })
	gauge("pilotlight_consul_edges", "Edges known from Consul.", func(s Status) float64 { return float64(s.Edges) })
	gauge("pilotlight_consul_backends", "Backends known from Consul.", func(s Status) float64 { return float64(s.Backends) })
	counter := func(name, help string, value func() int64) {
		registry.MustRegister(prometheus.NewCounterFunc(prometheus.CounterOpts{Name: name, Help: help}, func() float64 { return float64(value()) }))
	}
	counter("pilotlight_consul_requests_total", "Requests to Consul.", c.asked.Load)
	counter("pilotlight_consul_received_bytes_total", "Bytes received from Consul.", c.bytes.Load)
}
