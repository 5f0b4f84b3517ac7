package consul

import (
	"context"
	"fmt"
	"maps"
	"math/rand/v2"
	"strings"
	"sync"
	"time"

	"github.com/hashicorp/consul/api"
)

// maxFolder bounds the values of a folder.
const maxFolder = 200_000

// Folder follows the values below PREFIX/name/ in KV until ctx ends, and hands them on by the rest of their keys, at first and at each change. Of those
// that the token may not see any more the last that was seen stands. The error is ctx's.
//
// To read 100,000 values takes seconds, and one that is taken away may not count for as long. So only their names are waited on, which are read fast: gone, if not nil,
// hears at once of those that are no more. All values are read then, some seconds later where that was all. Both are called one at a time.
func (c *Client) Folder(ctx context.Context, name string, gone func(names []string), changed func(map[string][]byte)) error {
	f := &folder{c: c, prefix: c.cfg.Prefix + "/" + name + "/", gone: gone, changed: changed, read: make(chan struct{}, 1)}
	f.what = request{"read " + f.prefix, `key:read for "` + f.prefix + `"`}
	var reading sync.WaitGroup
	reading.Go(func() { f.readValues(ctx) })
	c.poll(ctx, query{request: f.what, every: changesIn, ask: f.askNames})
	f.stop()
	reading.Wait()
	return context.Cause(ctx)
}

// folder is one that is followed.
type folder struct {
	c       *Client
	prefix  string
	what    request
	gone    func([]string)
	changed func(map[string][]byte)
	read    chan struct{} // has the values be read

	mu    sync.Mutex      // guards what follows, and is held during gone and changed
	names map[string]bool // that there are; nil: the token may not see all
	index uint64          // of the names
	later *time.Timer     // when the values are to be read that may have changed while others were taken away
	last  map[string][]byte
}

// rest is a key without the prefix; empty: it is that of a folder.
func (f *folder) rest(key string) string {
	rest := strings.TrimPrefix(key, f.prefix)
	if strings.HasSuffix(rest, "/") {
		return ""
	}
	return rest
}

// askNames asks for the names, and takes in what is gone. There being an answer, something has changed.
func (f *folder) askNames(opts *api.QueryOptions) (*api.QueryMeta, func(), error) {
	all, meta, err := f.c.api.KV().Keys(f.prefix, "", opts)
	return meta, func() {
		f.mu.Lock()
		defer f.mu.Unlock()
		before := f.names
		f.names, f.index = nil, meta.LastIndex
		if !meta.ResultsFilteredByACLs { // what a token may not see is not gone
			f.names = make(map[string]bool, len(all))
			for _, key := range all {
				f.names[f.rest(key)] = true
			}
		}
		if gone := f.lost(before); len(gone) > 0 && f.gone != nil {
			f.gone(gone)
			if len(gone) == len(before)-len(f.names) { // and none is new
				f.soon()
				return
			}
		}
		f.readNow()
	}, err
}

// readLater is how long the values are not read after some were taken away, and nothing else is known to have changed: others may be, and who follows them has no time then.
const readLater = 5 * time.Second

// lost are the names that were there before and are no more.
func (f *folder) lost(before map[string]bool) (gone []string) {
	if f.names == nil {
		return nil
	}
	for name := range before {
		if !f.names[name] && name != "" {
			gone = append(gone, name)
		}
	}
	return gone
}

// soon has the values be read a while after the first of what was taken away. f.mu is held.
func (f *folder) soon() {
	if f.later != nil {
		return
	}
	f.later = time.AfterFunc(readLater, func() {
		f.mu.Lock()
		f.later = nil
		f.mu.Unlock()
		f.readNow()
	})
}

// readNow has the values be read.
func (f *folder) readNow() {
	select {
	case f.read <- struct{}{}:
	default:
	}
}

// stop is at the end.
func (f *folder) stop() {
	f.mu.Lock()
	defer f.mu.Unlock()
	if f.later != nil {
		f.later.Stop()
	}
}

// readValues reads the values as often as it is to, and no longer than half of the time.
func (f *folder) readValues(ctx context.Context) {
	failures := 0
	for {
		select {
		case <-f.read:
		case <-ctx.Done():
			return
		}
		for began := time.Now(); ctx.Err() == nil; {
			err := f.readOnce(ctx)
			if err == nil {
				failures = 0
				pause(ctx, time.Since(began))
				break
			}
			failures++
			pause(ctx, retryAfter(failures, rand.Float64))
		}
	}
}

// readOnce reads the values, of that time or later when the names were read: a server that lags behind waits until it has caught up.
func (f *folder) readOnce(ctx context.Context) error {
	f.mu.Lock()
	index := max(f.index, 1) - 1
	f.mu.Unlock()
	var pairs api.KVPairs
	var meta *api.QueryMeta
	err := f.c.do(ctx, f.what, 2*askTime, func(ctx context.Context) (err error) {
		pairs, meta, err = f.c.api.KV().List(f.prefix, (&api.QueryOptions{AllowStale: true, WaitIndex: index, WaitTime: askTime}).WithContext(ctx))
		return err
	})
	if err != nil {
		return err
	}
	f.mu.Lock()
	defer f.mu.Unlock()
	f.take(pairs, meta)
	return nil
}

// take hands values on. f.mu is held.
func (f *folder) take(pairs api.KVPairs, meta *api.QueryMeta) {
	values := make(map[string][]byte, len(pairs))
	if meta.ResultsFilteredByACLs {
		maps.Copy(values, f.last)
	}
	newer := f.names != nil && f.index > meta.LastIndex
	problem := ""
	for _, pair := range pairs {
		name := f.rest(pair.Key)
		if _, known := values[name]; name == "" || newer && !f.names[name] {
			continue // it is gone since
		} else if !known && len(values) >= maxFolder {
			problem = fmt.Sprintf("%s has more than %d values; the others are left out", f.prefix, maxFolder)
			continue
		}
		values[name] = pair.Value
	}
	f.c.note(f.prefix, problem)
	f.last = values
	f.changed(maps.Clone(values))
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
