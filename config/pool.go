package config

import (
	"fmt"
	"math"
	"reflect"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/robfig/cron/v3"
)

// Pool is how idle models are kept warm, and which wake before anybody asks: the policy, and the prices by which it weighs waiting against
// memory. `pilotlight simulate` tries it on recorded traffic, `pilotlight plan` shows what comes of it.
type Pool struct {
	// Policy says when an idle model is kept on its GPU, and when it wakes ahead: predictive:k=TIME, fixed:idle=TIME, hybrid:range=TIME or ttl:k=TIME.
	// k is for how long idle memory may be held to spare one cold start. The predictive one keeps models for k until it has learned enough. Default predictive:k=20m.
	Policy PoolPolicy `yaml:"policy"`
	// ColdStartCost is what a second costs that somebody waits for a wake, in money of any currency. With gpu_price it takes the place of the policy's k.
	// Default 0: the policy's k counts.
	ColdStartCost Money `yaml:"cold_start_cost"`
	// Target derives the cost of waiting from a promise; cold_start_cost is then where it begins. Default: none.
	Target *ColdTarget `yaml:"target,omitempty"`
	// GPUPrice is what a GiB of GPU memory costs for an hour. Default 0.03, as for a GPU of 80 GiB at 2.40 an hour.
	GPUPrice Money `yaml:"gpu_price"`
	// HostPrice is what a GiB of the host's memory costs for an hour. Default 0.003.
	HostPrice Money `yaml:"host_price"`
	// Alpha is how much more a cold start of a rarely used model counts: (the median model's rate / its own) to the power of this. 0.25 gives
	// rare models about the share of cold starts that a fixed idle time gives them. Default 0: all count alike.
	Alpha Weight `yaml:"alpha"`
	// Loads is how many wakes ahead may begin in a minute over the whole fleet; 0: any number. Default 10.
	Loads int `yaml:"loads"`
	// Swaps is how many of them may take another model's place, on each node. Default 2.
	Swaps int `yaml:"swaps"`
	// DryRun plans and scores, and moves nothing: idle models sleep after their idle_time. Default false.
	DryRun bool `yaml:"dry_run"`
}

// ColdTarget is a promise: at most share of the requests wait for longer than wait.
type ColdTarget struct {
	// Share of the requests that may wait for longer, as in 0.01. Required.
	Share Weight `yaml:"share" jsonschema:"required"`
	// Wait is how long the others wait at most. Default 2s.
	Wait Duration `yaml:"wait"`
}

// Window is a time that returns.
type Window struct {
	// Cron is when it begins: minute, hour, day of the month, month, day of the week, as in "0 8 * * mon-fri". Required.
	Cron string `yaml:"cron" jsonschema:"required"`
	// For is how long it lasts, up to a week. Required.
	For Duration `yaml:"for" jsonschema:"required"`
	// Zone is the time zone of cron, as in Europe/Berlin. Default: this host's.
	Zone string `yaml:"zone,omitempty"`
	// Asleep makes it a time in which the model sleeps unless somebody asks. Default false: it is kept awake.
	Asleep bool `yaml:"asleep,omitempty"`
}

// Begins is when the window begins.
func (w Window) Begins() (cron.Schedule, error) {
	spec := w.Cron
	if w.Zone != "" {
		if _, err := time.LoadLocation(w.Zone); err != nil {
			return nil, fmt.Errorf("%s is no time zone; write one like Europe/Berlin or UTC", quote(w.Zone))
		}
		spec = "CRON_TZ=" + w.Zone + " " + spec
	}
	begins, err := cron.NewParser(cron.Minute | cron.Hour | cron.Dom | cron.Month | cron.Dow).Parse(spec)
	if err != nil || strings.Contains(w.Cron, "TZ=") {
		return nil, fmt.Errorf("%s is not a time that returns; write minute, hour, day of the month, month and day of the week, as in \"0 8 * * mon-fri\"", quote(w.Cron))
	}
	return begins, nil
}

// maxWindow is the longest window.
const maxWindow = Duration(7 * 24 * time.Hour)

func (w Window) check(at *place) {
	if _, err := w.Begins(); err != nil {
		at.problem("%s", err)
	}
	if w.For <= 0 || w.For > maxWindow {
		at.below("for").problem("for is %s; it is more than 0s and at most 168h", w.For)
	}
}

// Money is an amount of any currency: 0 or more.
type Money float64

// UnmarshalText reads a number.
func (m *Money) UnmarshalText(text []byte) error {
	n, err := strconv.ParseFloat(string(text), 64)
	if err != nil || math.IsNaN(n) || math.IsInf(n, 0) || n < 0 {
		return fmt.Errorf("%s is not an amount of money; it is a number of 0 or more, as in 0.03", quote(string(text)))
	}
	*m = Money(n)
	return nil
}

// PoolPolicy names a policy and its parameters, as in fixed:idle=10m.
type PoolPolicy string

// poolPolicies are those that may be chosen.
func poolPolicies() []string { return []string{"predictive", "fixed", "hybrid", "ttl"} }

// UnmarshalText reads the name of a policy; whoever uses it reads its parameters.
func (p *PoolPolicy) UnmarshalText(text []byte) error {
	name, _, _ := strings.Cut(string(text), ":")
	if name != "" && !slices.Contains(poolPolicies(), name) {
		return fmt.Errorf("%s is not a policy; write one like predictive:k=20m, fixed:idle=10m, hybrid:range=4h or ttl:k=20m", quote(string(text)))
	}
	*p = PoolPolicy(text)
	return nil
}

func (p *Pool) check(at *place) {
	if t := p.Target; t != nil {
		if share := at.below("target").below("share"); (t.Share <= 0 || t.Share >= 1) && !share.bad {
			share.problem("share is %v; it is more than 0 and less than 1, as in 0.01", float64(t.Share))
		}
	}
	if price := at.below("gpu_price"); (p.Target != nil || p.ColdStartCost > 0) && p.GPUPrice == 0 && !price.bad {
		price.problem("gpu_price is 0, so that nothing would ever be worth a cold start")
	}
}

// WhatIf reads what a person would change: keys of pool, and of models in the form they have in the file, over what is so now. The error is Problems.
func WhatIf(source string, text []byte, pool Pool, models map[string]Model) (Pool, map[string]Model, error) {
	doc := &document{name: source}
	changed := map[string]Model{}
	if doc.compose(text); doc.root == nil {
		return pool, nil, doc.sortedProblems()
	}
	for _, part := range doc.root.in {
		switch part.key.Value {
		case "pool":
			part.decode(reflect.ValueOf(&pool).Elem())
			pool.check(part)
		case "models":
			for _, at := range part.pairs() {
				name := at.key.Value
				m, known := models[name]
				if !known {
					doc.problemAt(at.key, "no model is called %s", quote(name))
					continue
				}
				if at.get("policy") == nil && at.get("idle_time") != nil {
					m.Policy = ""
				}
				at.decode(reflect.ValueOf(&m).Elem())
				backends := m.Backends
				m.Backends = nil // how they are started changes no plan
				m.derive(at, name)
				m.check(at, Node{})
				m.Backends = backends
				changed[name] = m
			}
		default:
			doc.problemAt(part.key, "%s does not change a plan; pool and models do", quote(part.key.Value))
		}
	}
	if len(doc.problems) > 0 {
		return pool, nil, doc.sortedProblems()
	}
	return pool, changed, nil
}
