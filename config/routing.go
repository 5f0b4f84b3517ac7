package config

import (
	"fmt"
	"math"
	"strconv"
	"time"
)

// Routing is how one of a model's ready backends is picked for a request. `pilotlight explain MODEL` shows what comes of it.
type Routing struct {
	// Policy is scored, by all that is known of the backends; or, by less: least_connections, round_robin, random, or
	// power_of_two, the one with fewer requests of two that are drawn. None takes a backend without a free slot. Default scored.
	Policy RoutingPolicy `yaml:"policy"`
	// Weights are what the factors of the policy scored count.
	Weights Weights `yaml:"weights"`
	// ReadingAge is how old what probes have seen of a backend may be before it counts no more. Default 2s.
	ReadingAge Duration `yaml:"reading_age"`
}

// Weights are what the factors of a backend's score count: 0 is not at all. The lowest score is picked. It is
// (1 + load + queue + cache + prompts) × (1 + gpu) + memory + failures − prefix, each times its weight; the 1 is the request's own work.
type Weights struct {
	// Load is the share of the slots that would be taken, by whomever. Default 1.
	Load Weight `yaml:"load"`
	// Queue is the requests that wait inside the engine, as a share of the slots: they come first. Default 1.
	Queue Weight `yaml:"queue"`
	// Cache is the share of the KV cache in use. Default 0.5.
	Cache Weight `yaml:"cache"`
	// Prompts is how many streams have been sent there and not begun to be answered: their prompts are read before, or together
	// with, the next one. Default 0.5.
	Prompts Weight `yaml:"prompts"`
	// GPU is how much longer everything takes because others use the same GPU: 1 for twice as long. Default 1.
	GPU Weight `yaml:"gpu"`
	// Memory is the share of its fullest GPU's memory that is in use. Default 0.1.
	Memory Weight `yaml:"memory"`
	// Failures is how close the backend is to being left out because it broke requests, from 0 to 1. Default 1.
	Failures Weight `yaml:"failures"`
	// Prefix is 1 if the backend has lately been sent a prompt that began the same, and is not much busier than the others: it
	// may have that in its cache. Default 0.5.
	Prefix Weight `yaml:"prefix"`
}

// RoutingPolicy is a way to pick a backend.
type RoutingPolicy string

// The policies.
const (
	Scored           RoutingPolicy = "scored"
	LeastConnections RoutingPolicy = "least_connections"
	RoundRobin       RoutingPolicy = "round_robin"
	Random           RoutingPolicy = "random"
	PowerOfTwo       RoutingPolicy = "power_of_two"
)

func policies() []RoutingPolicy {
	return []RoutingPolicy{Scored, LeastConnections, RoundRobin, Random, PowerOfTwo}
}

// UnmarshalText reads the name of a policy.
func (p *RoutingPolicy) UnmarshalText(text []byte) error {
	return oneOf(p, text, "way to pick a backend", policies())
}

// DefaultRouting is that of a model whose file says nothing of it.
func DefaultRouting() Routing {
	return Routing{
		Policy:     Scored,
		Weights:    Weights{Load: 1, Queue: 1, Cache: 0.5, Prompts: 0.5, GPU: 1, Memory: 0.1, Failures: 1, Prefix: 0.5},
		ReadingAge: Duration(2 * time.Second),
	}
}

// Weight is what something counts: 0 or more.
type Weight float64

// UnmarshalJSON reads what encoding/json makes of a weight, which is a number: models pass from agents to edges.
func (w *Weight) UnmarshalJSON(text []byte) error { return w.UnmarshalText(text) }

// UnmarshalText reads a number.
func (w *Weight) UnmarshalText(text []byte) error {
	n, err := strconv.ParseFloat(string(text), 64)
	if err != nil || math.IsNaN(n) || n < 0 || n > maxWeight {
		return fmt.Errorf("%s is not a weight; it is a number from 0 to %d, as in 0.5", quote(string(text)), maxWeight)
	}
	*w = Weight(n)
	return nil
}

// maxWeight is more than anybody needs.
const maxWeight = 1000
