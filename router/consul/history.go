package consul

import (
	"bytes"
	"cmp"
	"compress/gzip"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"maps"
	"slices"
	"time"

	"github.com/hashicorp/consul/api"
)

// The bounds of history.
const (
	maxHistory  = 384 << 10          // bytes of one saved history, well below the 512 KiB that Consul takes
	maxUnpacked = 64 << 20           // bytes of one when it is read
	forget      = 8 * 24 * time.Hour // a model or an edge that was not heard of for so long
	saveEvery   = 5 * time.Minute
)

// Hours is how far back demand is kept.
const Hours = 7 * 24

// History is what an edge has learned, and saves so that those who start later begin informed: how much each model was asked for, and
// how long its backends took to wake.
type History struct {
	Models map[string]Demand                   `json:"models"`
	Wakes  map[string]map[string]time.Duration `json:"wakes"` // by backend and by the tier it began from
}

// Demand is how often one model was asked for.
type Demand struct {
	Last     time.Time     `json:"last"`                // when it was last asked for, or seen
	ServedAs string        `json:"served_as,omitempty"` // the model's name for its model servers
	Hours    map[int]int64 `json:"hours,omitempty"`     // requests, by hours since 1970 UTC; of the last week
}

// Count takes in that a model was asked for n times just now.
func (h *History) Count(model string, n int64, now time.Time) {
	if h.Models == nil {
		h.Models = map[string]Demand{}
	}
	d := h.Models[model]
	if d.Hours == nil {
		d.Hours = map[int]int64{}
	}
	d.Last = later(d.Last, now)
	if n > 0 {
		d.Hours[int(now.Unix()/3600)] += n
	}
	h.Models[model] = d
}

// Learn takes in how long a backend's wake takes from a tier.
func (h *History) Learn(backend, tier string, took time.Duration) {
	if h.Wakes == nil {
		h.Wakes = map[string]map[string]time.Duration{}
	}
	if h.Wakes[backend] == nil {
		h.Wakes[backend] = map[string]time.Duration{}
	}
	h.Wakes[backend][tier] = took
}

// merge adds what another edge has seen.
func (h *History) merge(other History) {
	for model, d := range other.Models {
		h.Count(model, 0, time.Time{})
		mine := h.Models[model]
		mine.Last = later(mine.Last, d.Last)
		mine.ServedAs = cmp.Or(mine.ServedAs, d.ServedAs)
		for hour, n := range d.Hours {
			mine.Hours[hour] += n
		}
		h.Models[model] = mine
	}
	for backend, tiers := range other.Wakes {
		for tier, took := range tiers {
			h.Learn(backend, tier, took)
		}
	}
}

func later(a, b time.Time) time.Time {
	if a.After(b) {
		return a
	}
	return b
}

// prune forgets what is too old. Models that keep says are still there stay.
func (h *History) prune(now time.Time) {
	oldest := int(now.Add(-Hours*time.Hour).Unix() / 3600)
	maps.DeleteFunc(h.Models, func(_ string, d Demand) bool {
		maps.DeleteFunc(d.Hours, func(hour int, _ int64) bool { return hour <= oldest })
		return now.Sub(d.Last) > forget
	})
}

// pack is the history as it is saved. What was asked for longest ago is left out where it would be too large.
func (h History) pack() ([]byte, error) {
	for {
		var packed bytes.Buffer
		zip := gzip.NewWriter(&packed)
		if err := json.NewEncoder(zip).Encode(h); err != nil {
			return nil, fmt.Errorf("save the history: %w", err)
		}
		if err := zip.Close(); err != nil {
			return nil, fmt.Errorf("save the history: %w", err)
		}
		if packed.Len() <= maxHistory {
			return packed.Bytes(), nil
		}
		h = h.half()
	}
}

// half is the history without the older half of its models, and without wakes where no model is left.
func (h History) half() History {
	models := slices.SortedFunc(maps.Keys(h.Models), func(a, b string) int { return h.Models[b].Last.Compare(h.Models[a].Last) })
	less := History{Models: map[string]Demand{}}
	for _, model := range models[:len(models)/2] {
		less.Models[model] = h.Models[model]
	}
	if len(models) > 1 {
		less.Wakes = h.Wakes
	}
	return less
}

// unpack reads a saved history.
func unpack(packed []byte) (h History, err error) {
	zip, err := gzip.NewReader(bytes.NewReader(packed))
	if err != nil {
		return h, fmt.Errorf("read a saved history: %w", err)
	}
	text, err := io.ReadAll(io.LimitReader(zip, maxUnpacked))
	if err != nil {
		return h, fmt.Errorf("read a saved history: %w", err)
	}
	if err := json.Unmarshal(text, &h); err != nil {
		return h, fmt.Errorf("read a saved history: %w", err)
	}
	return h, nil
}

func (c *Client) historyPrefix() string { return c.cfg.Prefix + "/history/" }

// LoadHistory is what all edges have saved, in sum, and own what the one called edge has. One that cannot be read is left out, and stands
// among the problems of Status.
func (c *Client) LoadHistory(ctx context.Context, edge string) (all, own History, err error) {
	prefix := c.historyPrefix()
	q := request{"read the history", `key:read for "` + prefix + `"`}
	var pairs api.KVPairs
	err = c.do(ctx, q, askTime, func(ctx context.Context) error {
		pairs, _, err = c.api.KV().List(prefix, (&api.QueryOptions{AllowStale: true}).WithContext(ctx))
		return err
	})
	if err != nil {
		return all, own, err
	}
	now := time.Now()
	for _, pair := range pairs {
		h, err := unpack(pair.Value)
		if err != nil {
			c.note(pair.Key, pair.Key+": "+err.Error())
			continue
		}
		c.note(pair.Key, "")
		h.prune(now)
		all.merge(h)
		if pair.Key == prefix+edge {
			own = h
		}
	}
	return all, own, nil
}

// SaveHistory saves what the edge has seen.
func (c *Client) SaveHistory(ctx context.Context, edge string, h History) error {
	h.prune(time.Now())
	packed, err := h.pack()
	if err != nil {
		return err
	}
	key := c.historyPrefix() + edge
	return c.do(ctx, request{"save the history", `key:write for "` + key + `"`}, askTime, func(ctx context.Context) error {
		_, err := c.api.KV().Put(&api.KVPair{Key: key, Value: packed}, (&api.WriteOptions{}).WithContext(ctx))
		return err
	})
}

// ForgetEdges takes away the histories of edges that saved nothing for more than a week. It is the planner's work.
func (c *Client) ForgetEdges(ctx context.Context) error {
	prefix := c.historyPrefix()
	return c.do(ctx, request{"forget old histories", `key:write for "` + prefix + `"`}, askTime, func(ctx context.Context) error {
		pairs, _, err := c.api.KV().List(prefix, (&api.QueryOptions{}).WithContext(ctx))
		if err != nil {
			return err
		}
		for _, pair := range pairs {
			h, err := unpack(pair.Value)
			if h.prune(time.Now()); err != nil || len(h.Models) > 0 {
				continue // what cannot be read may be a later version's
			}
			if _, _, err := c.api.KV().DeleteCAS(pair, (&api.WriteOptions{}).WithContext(ctx)); err != nil {
				return err
			}
		}
		return nil
	})
}
