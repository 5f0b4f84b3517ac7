package consul

import (
	"context"
	"fmt"
	"maps"
	"strings"

	"github.com/hashicorp/consul/api"
)

// maxFolder bounds the values of a folder.
const maxFolder = 200_000

// Folder follows the values below PREFIX/name/ in KV until ctx ends, and hands them on by the rest of their keys, at first and at each change. Of those
// that the token may not see any more the last that was seen stands. The error is ctx's.
func (c *Client) Folder(ctx context.Context, name string, changed func(map[string][]byte)) error {
	prefix := c.cfg.Prefix + "/" + name + "/"
	q := query{request: request{"read " + prefix, `key:read for "` + prefix + `"`}, every: changesIn}
	var last map[string][]byte
	q.ask = func(opts *api.QueryOptions) (*api.QueryMeta, func(), error) {
		pairs, meta, err := c.api.KV().List(prefix, opts)
		return meta, func() {
			values := make(map[string][]byte, len(pairs))
			if meta.ResultsFilteredByACLs {
				maps.Copy(values, last) // what a token may not see is not gone
			}
			problem := ""
			for _, pair := range pairs {
				rest := strings.TrimPrefix(pair.Key, prefix)
				if rest == "" || strings.HasSuffix(rest, "/") {
					continue
				}
				if _, known := values[rest]; !known && len(values) >= maxFolder {
					problem = fmt.Sprintf("%s has more than %d values; the others are left out", prefix, maxFolder)
					continue
				}
				values[rest] = pair.Value
			}
			c.note(prefix, problem)
			last = values
			changed(maps.Clone(values))
		}, err
	}
	c.poll(ctx, q)
	return context.Cause(ctx)
}

// Put writes a value at PREFIX/name.
func (c *Client) Put(ctx context.Context, name string, value []byte) error {
	key := c.cfg.Prefix + "/" + name
	return c.do(ctx, request{"write " + key, `key:write for "` + key + `"`}, askTime, func(ctx context.Context) error {
		_, err := c.api.KV().Put(&api.KVPair{Key: key, Value: value}, (&api.WriteOptions{}).WithContext(ctx))
		return err
	})
}

// Delete takes the value at PREFIX/name away, if there is one.
func (c *Client) Delete(ctx context.Context, name string) error {
	key := c.cfg.Prefix + "/" + name
	return c.do(ctx, request{"delete " + key, `key:write for "` + key + `"`}, askTime, func(ctx context.Context) error {
		_, err := c.api.KV().Delete(key, (&api.WriteOptions{}).WithContext(ctx))
		return err
	})
}

// Note says what is wrong with a value that was read, among the problems of Status; empty: nothing is.
func (c *Client) Note(name, problem string) { c.note(c.cfg.Prefix+"/"+name, problem) }
