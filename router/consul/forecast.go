package consul

import (
	"context"

	"github.com/hashicorp/consul/api"
)

// MaxForecast is how many bytes SaveForecast takes: what Consul takes of one key, and some way below.
const MaxForecast = maxHistory

func (c *Client) forecastKey() string { return c.cfg.Prefix + "/forecast" }

// SaveForecast keeps what the planner has learned, for edges that start later. It is the planner's work.
func (c *Client) SaveForecast(ctx context.Context, learned []byte) error {
	key := c.forecastKey()
	return c.do(ctx, request{"save the forecast", `key:write for "` + key + `"`}, askTime, func(ctx context.Context) error {
		_, err := c.api.KV().Put(&api.KVPair{Key: key, Value: learned}, (&api.WriteOptions{}).WithContext(ctx))
		return err
	})
}

// LoadForecast is what a planner saved last; nil: none has.
func (c *Client) LoadForecast(ctx context.Context) (learned []byte, err error) {
	key := c.forecastKey()
	err = c.do(ctx, request{"read the forecast", `key:read for "` + key + `"`}, askTime, func(ctx context.Context) error {
		pair, _, err := c.api.KV().Get(key, (&api.QueryOptions{AllowStale: true}).WithContext(ctx))
		if pair != nil {
			learned = pair.Value
		}
		return err
	})
	return learned, err
}
