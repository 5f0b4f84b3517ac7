package consul

import (
	"context"
	"fmt"
	"strings"

	"github.com/hashicorp/consul/api"

	"pilotlight/config"
)

// The bounds on what KV may configure.
const (
	maxModels = 10_000
	maxPolicy = 64 << 10 // bytes of one value
)

// Models follows the models in KV until ctx ends, and hands all that are good to changed, at first and at each change. A value that is not
// good leaves that model as it was, and stands among the problems of Status. The error is ctx's.
func (c *Client) Models(ctx context.Context, changed func(map[string]config.Model)) error {
	p := &policies{c: c, prefix: c.cfg.Prefix + "/models/", seen: map[string]policy{}}
	q := query{request: request{"look for models", `key:read for "` + p.prefix + `"`}, every: changesIn}
	q.ask = func(opts *api.QueryOptions) (*api.QueryMeta, func(), error) {
		pairs, meta, err := c.api.KV().List(p.prefix, opts)
		return meta, func() {
			if p.take(pairs, meta.ResultsFilteredByACLs) {
				changed(p.good())
			}
		}, err
	}
	c.poll(ctx, q)
	return context.Cause(ctx)
}

// policies are the models in KV. They belong to one goroutine.
type policies struct {
	c      *Client
	prefix string
	seen   map[string]policy
	told   bool
}

type policy struct {
	index uint64 // ModifyIndex of the value
	model config.Model
	good  bool // some value was
}

// take takes in what stands in KV. It says whether that changes any model.
func (p *policies) take(pairs api.KVPairs, filtered bool) (changed bool) {
	there := map[string]bool{}
	for _, pair := range pairs {
		name := strings.TrimPrefix(pair.Key, p.prefix)
		if name == "" || strings.HasSuffix(name, "/") && len(pair.Value) == 0 {
			continue // a folder, as Consul's own page makes them
		}
		was, known := p.seen[name]
		if !known && len(p.seen) >= maxModels {
			p.c.note(p.prefix, fmt.Sprintf("%s has more than %d models; the others are left out", p.prefix, maxModels))
			continue
		}
		there[name] = true
		if known && was.index == pair.ModifyIndex {
			continue
		}
		m, err := p.parse(pair.Key, name, pair.Value)
		if err != nil {
			p.c.note(pair.Key, err.Error())
			p.seen[name] = policy{pair.ModifyIndex, was.model, was.good}
			continue
		}
		p.c.note(pair.Key, "")
		p.seen[name] = policy{pair.ModifyIndex, m, true}
		changed = true
	}
	for name := range p.seen {
		if !there[name] && !filtered {
			p.c.note(p.prefix+name, "")
			changed = changed || p.seen[name].good
			delete(p.seen, name)
		}
	}
	changed = changed || !p.told
	p.told = true
	return changed
}

func (p *policies) parse(key, name string, value []byte) (config.Model, error) {
	if len(value) > maxPolicy {
		return config.Model{}, fmt.Errorf("%s has %d bytes; a model has %d at most", key, len(value), maxPolicy)
	}
	return config.ParseModel(key, name, value)
}

// good are the models with a good value.
func (p *policies) good() map[string]config.Model {
	models := map[string]config.Model{}
	for name, known := range p.seen {
		if known.good {
			models[name] = known.model
		}
	}
	return models
}
