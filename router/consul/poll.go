package consul

import (
	"context"
	"math/rand/v2"
	"time"

	"github.com/hashicorp/consul/api"
)

// waitTime is how long Consul holds back an answer that has not changed; it adds up to a sixteenth.
const waitTime = 5 * time.Minute

// query is one blocking query: it asks with the given options and takes in the answer.
type query struct {
	request
	dc    string
	every time.Duration // at most one answer in this time: what changes in between comes as one
	// ask asks. The answer is taken in by take, which comes after lost where both are due.
	ask func(*api.QueryOptions) (meta *api.QueryMeta, take func(), err error)
	// lost, if not nil, is called where Consul may have lost some of its past: it was out of reach, or its index went back.
	lost func()
	// wait, if not nil, says how long Consul may hold an answer back.
	wait func() time.Duration
}

// poll asks q as long as ctx lasts, each time until the answer is another one. After a failure it asks afresh: the index of an answer
// means nothing to a Consul that was restarted, which would wait for it to be reached again.
func (c *Client) poll(ctx context.Context, q query) {
	var index, last uint64
	failures := 0
	for ctx.Err() == nil {
		began, wait := time.Now(), waitTime
		if q.wait != nil {
			wait = q.wait()
		}
		meta, take, err := c.block(ctx, q, index, wait)
		if err != nil {
			failures++
			c.log.Debug("Consul did not answer", "error", err, "in_a_row", failures)
			index = 0
			pause(ctx, retryAfter(failures, rand.Float64))
			continue
		}
		var back bool
		index, back = following(last, meta.LastIndex)
		last = meta.LastIndex
		if (back || failures > 0) && q.lost != nil {
			q.lost()
		}
		failures = 0
		take()
		pause(ctx, q.every-time.Since(began))
	}
}

// block asks once, and waits for an answer with an index above the given one; 0 asks for what there is.
func (c *Client) block(ctx context.Context, q query, index uint64, wait time.Duration) (meta *api.QueryMeta, take func(), err error) {
	limit := askTime
	if index > 0 {
		limit += wait + wait/16
	}
	err = c.do(ctx, q.request, limit, func(ctx context.Context) error {
		opts := &api.QueryOptions{Datacenter: q.dc, AllowStale: true, WaitIndex: index, WaitTime: wait}
		meta, take, err = q.ask(opts.WithContext(ctx))
		return err
	})
	if err == nil && meta.ResultsFilteredByACLs {
		c.note(q.doing, q.doing+": the token may not see all that is there; it needs "+q.right)
	} else if err == nil {
		c.note(q.doing, "")
	}
	return meta, take, err
}

// following is the index to wait for after an answer that came with got, where the one before came with last. An index that goes back is that
// of a Consul which lost its data or restored a snapshot: what is there then is asked for afresh.
// https://developer.hashicorp.com/consul/api-docs/features/blocking
func following(last, got uint64) (index uint64, back bool) {
	if got < last {
		return 0, true
	}
	return max(got, 1), false
}
