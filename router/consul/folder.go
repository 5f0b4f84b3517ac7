package consul

import (
	"context"
	"fmt"
	"strings"

	"github.com/hashicorp/consul/api"
)

// maxFolder bounds the values of a folder.
const maxFolder = 200_000

// Folder follows the values below PREFIX/name/ in KV until ctx ends, and hands them on by the rest of their keys, at first and at each change. The error
// is ctx's.
func (c *Client) Folder(ctx context.Context, name string, changed func(map[string][]byte)) error {
	prefix := c.cfg.Prefix + "/" + name + "/"
	q := query{request: request{"read " + prefix, `key:read for "` + prefix + `"`}, every: changesIn}
	told := false
	q.ask = func(opts *api.QueryOptions) (*api.QueryMeta, func(), error) {
		pairs, meta, err := c.api.KV().List(prefix, opts)
		return meta, func() {
			if meta.ResultsFilteredByACLs && told {
				return // what a token may not see is not gone
			}
			c.note(prefix, "")
			if len(pairs) > maxFolder {
				c.note(prefix, fmt.Sprintf("%s has more than %d values; the others are left out", prefix, maxFolder))
				pairs = pairs[:maxFolder]
			}
			values := make(map[string][]byte, len(pairs))
			for _, pair := range pairs {
				if rest := strings.TrimPrefix(pair.Key, prefix); rest != "" && !strings.HasSuffix(rest, "/") {
					values[rest] = pair.Value
				}
			}
			told = true
			changed(values)
		}, err
	}
	c.poll(ctx, q)
	return context.Cause(ctx)
}

// Note says what is wrong with a value that was read, among the problems of Status; empty: nothing is.
func (c *Client) Note(name, problem string) { c.note(c.cfg.Prefix+"/"+name, problem) }

// Put writes a value of a folder.
func (c *Client) Put(ctx context.Context, name string, value []byte) error {
	key := c.cfg.Prefix + "/" + name
	return c.do(ctx, request{"write " + key, `key:write for "` + key + `"`}, askTime, func(ctx context.Context) error {
		_, err := c.api.KV().Put(&api.KVPair{Key: key, Value: value}, (&api.WriteOptions{}).WithContext(ctx))
		return err
	})
}
