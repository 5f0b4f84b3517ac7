package config

import (
	"fmt"
	"math"
	"path/filepath"
	"reflect"
	"strconv"
)

// Ledger is where an edge writes down, for each minute, tenant, model and backend: requests, tokens, GPU time, energy, cold starts.
type Ledger struct {
	// Keep says whether there is one. Default true.
	Keep bool `yaml:"keep"`
	// File is the path of its SQLite database, which belongs to one edge. Default: ledger.db in node.state_dir.
	File string `yaml:"file,omitempty"`
	// Retention is how long what was written down is kept. Default 2160h, 90 days.
	Retention Duration `yaml:"retention"`
}

// Prices are what GPU time costs.
type Prices struct {
	// Currency of all prices, as the tables name it. Default USD.
	Currency string `yaml:"currency"`
	// GPUs are the prices of GPUs by the name that the driver gives them, as in "NVIDIA L4"; those under default are for all that are not
	// named. Required.
	GPUs map[string]GPUPrice `yaml:"gpus" jsonschema:"required"`
	// Serverless is a platform that charges by the time in which a model is there, for `pilotlight advise` to compare with. Default: none.
	Serverless *Serverless `yaml:"serverless,omitempty"`
}

// GPUPrice is what one GPU costs. At least one of on_demand and reserved is needed.
type GPUPrice struct {
	// OnDemand is what an hour costs without any commitment. Default: that is not to be had.
	OnDemand Price `yaml:"on_demand,omitempty"`
	// Reserved is what an hour costs of one that is paid for whether it is used or not: reserved, on a savings plan, or bought. Default: that is
	// not to be had.
	Reserved Price `yaml:"reserved,omitempty"`
	// Pay says which of the two is paid for what is used here: on_demand or reserved. Default: on_demand where it has a price, else reserved.
	Pay Pay `yaml:"pay,omitempty"`
	// Memory of the GPU, of which what a backend holds is a share. Default: what the driver says.
	Memory Size `yaml:"memory,omitempty"`
}

// Pay is which of two prices is paid.
type Pay string

// The prices.
const (
	PayOnDemand Pay = "on_demand"
	PayReserved Pay = "reserved"
)

// Paid is what an hour of the GPU costs here.
func (g GPUPrice) Paid() Price {
	if g.Pay == PayReserved || g.OnDemand == 0 {
		return g.Reserved
	}
	return g.OnDemand
}

// AlwaysOn is the lowest price of an hour of a GPU that is never given back.
func (g GPUPrice) AlwaysOn() Price {
	if g.Reserved == 0 || g.OnDemand > 0 && g.OnDemand < g.Reserved {
		return g.OnDemand
	}
	return g.Reserved
}

// Serverless is a platform that charges for a container from its start until it ends, a while after its last request.
type Serverless struct {
	// Name of the platform, in tables. Default serverless.
	Name string `yaml:"name"`
	// Second is the price of a second with one GPU. Required.
	Second Price `yaml:"second" jsonschema:"required"`
	// GiBSecond is the price of a second with one GiB of the host's memory. Default: that is free.
	GiBSecond Price `yaml:"gib_second,omitempty"`
	// Memory is how much of the host's memory a container has. Default: none is charged.
	Memory Size `yaml:"memory,omitempty"`
	// Round is what the time of a container is rounded up to. Default 1ms.
	Round Duration `yaml:"round"`
	// Window is how long a container is kept, and charged for, after its last request. Default 1m.
	Window Duration `yaml:"window"`
}

// PerSecond is what a second of a container costs, with its memory.
func (s Serverless) PerSecond(gpus int) float64 {
	return float64(s.Second)*float64(gpus) + float64(s.GiBSecond)*float64(s.Memory)/float64(GiB)
}

// Price is an amount of money.
type Price float64

// maxPrice is what no GPU costs, in whatever currency: sums of it stay exact.
const maxPrice = 1e6

// Nano is the price in billionths.
func (p Price) Nano() int64 { return int64(math.Round(float64(p) * 1e9)) }

// UnmarshalText reads a number.
func (p *Price) UnmarshalText(text []byte) error {
	n, err := strconv.ParseFloat(string(text), 64)
	if err != nil || !(n >= 0 && n <= maxPrice) {
		return fmt.Errorf("%s is not a price; it is a number from 0 to %d, as in 0.8048", quote(string(text)), int(maxPrice))
	}
	*p = Price(n)
	return nil
}

// UnmarshalText reads which of two prices is paid.
func (p *Pay) UnmarshalText(text []byte) error { return oneOf(p, text, "price to pay", pays()) }

func pays() []Pay { return []Pay{PayOnDemand, PayReserved} }

// DefaultGPU is the key of the prices of GPUs that have none of their own.
const DefaultGPU = "default"

// Of is the price of a GPU by the name that its driver gives it, if there is one.
func (p *Prices) Of(gpu string) (GPUPrice, bool) {
	if p == nil {
		return GPUPrice{}, false
	}
	if g, ok := p.GPUs[gpu]; ok {
		return g, true
	}
	g, ok := p.GPUs[DefaultGPU]
	return g, ok
}

func (l *Ledger) check(at *place) {
	if given := at.get("file"); given != nil && !filepath.IsAbs(l.File) {
		given.problem("%s is not a whole path, as in /var/lib/pilotlight/ledger.db", quote(l.File))
	}
	if at := at.below("retention"); l.Retention == 0 && !at.bad {
		at.problem("ledger.retention is 0s; write keep: false for no ledger")
	}
}

func (p *Prices) check(at *place) {
	gpus := at.get("gpus")
	if gpus == nil {
		return
	}
	if len(p.GPUs) == 0 {
		gpus.problem("gpus names no GPU; default is one that all have")
	}
	for _, at := range gpus.pairs() {
		g := p.GPUs[at.key.Value]
		switch pay := at.get("pay"); {
		case at.bad || at.below("on_demand").bad || at.below("reserved").bad:
		case g.OnDemand == 0 && g.Reserved == 0:
			at.problem("%s has neither on_demand nor reserved", at.name())
		case pay != nil && !pay.bad && (g.Pay == PayOnDemand && g.OnDemand == 0 || g.Pay == PayReserved && g.Reserved == 0):
			pay.problem("there is no price %s", g.Pay)
		}
	}
	if s := p.Serverless; s != nil && s.Second == 0 && at.below("serverless").get("second") != nil {
		at.below("serverless").problemIn("second", "a second that costs nothing is not worth comparing with")
	}
}

// LoadPrices reads a file that holds what stands under prices in a configuration. Its error is Problems unless the file cannot be read.
func LoadPrices(file string) (*Prices, error) {
	text, err := read(file)
	if err != nil {
		return nil, err
	}
	doc, p := &document{name: file}, &Prices{}
	setDefaults(p)
	doc.compose(text)
	if doc.root != nil {
		doc.root.decode(reflect.ValueOf(p).Elem())
		p.check(doc.root)
	}
	if len(doc.problems) > 0 {
		return nil, doc.sortedProblems()
	}
	return p, nil
}

// Timing says which answers tell what they took.
type Timing string

// Which answers do.
const (
	TimingAsked  Timing = "asked"
	TimingAlways Timing = "always"
	TimingNever  Timing = "never"
)

// UnmarshalText reads which answers tell what they took.
func (t *Timing) UnmarshalText(text []byte) error {
	return oneOf(t, text, "choice of answers", timings())
}

func timings() []Timing { return []Timing{TimingAsked, TimingAlways, TimingNever} }
