package consul

import (
	"context"
	"fmt"
	"math/rand/v2"
	"sync"
	"time"

	"github.com/hashicorp/consul/api"
)

// lockTTL is the session's: who holds a lock and is not heard of for that long gives it up. Consul waits up to twice as long before
// somebody else gets it (SessionTTLMultiplier), so no two hold it; 10s is the least that Consul takes.
const lockTTL = 10 * time.Second

// lockDelay is how long Consul keeps a lock free that was lost rather than given back.
const lockDelay = time.Second

// Lock calls hold whenever this process holds the lock called key, one call at a time, until ctx ends. The context of hold ends as soon as
// the lock may be lost; hold must return then. Who is what others are told of the holder.
//
// It is not api.Lock, which believes to hold a lock for as long as its query for it hangs, as it does where Consul is frozen or cut off.
func (c *Client) Lock(ctx context.Context, key, who string, hold func(ctx context.Context)) error {
	l := &lock{c: c, name: key, key: c.cfg.Prefix + "/locks/" + key, who: who}
	failures := 0
	for ctx.Err() == nil {
		err := l.once(ctx, hold)
		if err == nil {
			failures = 0
			continue
		}
		failures++
		if ctx.Err() == nil {
			c.note("lock "+key, err.Error())
			pause(ctx, retryAfter(failures, rand.Float64))
		}
	}
	return context.Cause(ctx)
}

type lock struct {
	c              *Client
	name, key, who string
	session        string
}

// once makes a session, waits for the lock, and holds it for as long as it can be held.
func (l *lock) once(ctx context.Context, hold func(context.Context)) error {
	began := time.Now()
	if err := l.open(ctx); err != nil {
		return err
	}
	alive, lost := context.WithCancelCause(ctx)
	defer lost(nil)
	var keeping sync.WaitGroup
	keeping.Go(func() { l.keep(alive, began, lost) })
	defer func() {
		lost(nil)
		keeping.Wait()
		l.close(context.WithoutCancel(ctx))
	}()
	for alive.Err() == nil {
		got, err := l.acquire(alive)
		if err != nil {
			return err
		}
		l.c.note("lock "+l.name, "")
		if !got {
			if err := l.await(alive, func(pair *api.KVPair) bool { return pair == nil || pair.Session == "" }); err != nil {
				return err
			}
			pause(alive, lockDelay/4) // Consul may refuse for a moment yet
			continue
		}
		l.hold(alive, hold)
	}
	return nil
}

// hold holds the lock until it is lost.
func (l *lock) hold(ctx context.Context, hold func(context.Context)) {
	l.c.log.Info("the lock is ours", "lock", l.key)
	l.c.setHolder(l.name, l.who)
	holding, stop := context.WithCancel(ctx)
	var watching sync.WaitGroup
	watching.Go(func() {
		defer stop()
		for holding.Err() == nil { // an error says nothing of the lock: keep knows how long it is safe
			err := l.await(holding, func(pair *api.KVPair) bool { return pair == nil || pair.Session != l.session })
			if err == nil {
				return
			}
			pause(holding, time.Second)
		}
	})
	hold(holding)
	<-holding.Done()
	watching.Wait()
	l.c.log.Info("the lock is not ours any more", "lock", l.key)
}

// open makes the session.
func (l *lock) open(ctx context.Context) error {
	q := request{"make a session for the lock " + l.key, "session:write for the node"}
	return l.c.do(ctx, q, askTime, func(ctx context.Context) (err error) {
		entry := &api.SessionEntry{Name: "pilotlight " + l.name, TTL: lockTTL.String(), LockDelay: lockDelay, Behavior: api.SessionBehaviorRelease}
		l.session, _, err = l.c.api.Session().CreateNoChecks(entry, (&api.WriteOptions{}).WithContext(ctx))
		return err
	})
}

// keep renews the session, and says that it is lost when it is, or may be.
func (l *lock) keep(ctx context.Context, renewed time.Time, lost context.CancelCauseFunc) {
	q := request{"renew the session of the lock " + l.key, "session:write for the node"}
	for pause(ctx, min(lockTTL/3, time.Until(renewed.Add(lockTTL)))) {
		began := time.Now()
		gone := false
		err := l.c.do(ctx, q, max(time.Until(renewed.Add(lockTTL)), time.Millisecond), func(ctx context.Context) error {
			entry, _, err := l.c.api.Session().Renew(l.session, (&api.WriteOptions{}).WithContext(ctx))
			gone = err == nil && entry == nil
			return err
		})
		switch {
		case gone:
			lost(fmt.Errorf("the session of the lock %s has ended", l.key))
			return
		case err == nil:
			renewed = began
		case time.Since(renewed) >= lockTTL:
			lost(fmt.Errorf("the lock %s may be another's: %w", l.key, err))
			return
		default:
			pause(ctx, min(time.Second, time.Until(renewed.Add(lockTTL))))
		}
	}
}

// acquire asks for the lock. It is false where another has it.
func (l *lock) acquire(ctx context.Context) (got bool, err error) {
	q := request{"take the lock " + l.key, `key:write for "` + l.key + `"`}
	err = l.c.do(ctx, q, askTime, func(ctx context.Context) error {
		pair := &api.KVPair{Key: l.key, Value: []byte(l.who), Session: l.session}
		got, _, err = l.c.api.KV().Acquire(pair, (&api.WriteOptions{}).WithContext(ctx))
		return err
	})
	return got, err
}

// await waits until the key of the lock is as wanted. nil is a key that is not there.
func (l *lock) await(ctx context.Context, wanted func(*api.KVPair) bool) error {
	q := query{request: request{"look at the lock " + l.key, `key:read for "` + l.key + `"`}}
	var pair *api.KVPair
	q.ask = func(opts *api.QueryOptions) (meta *api.QueryMeta, _ func(), err error) {
		opts.AllowStale = false
		pair, meta, err = l.c.api.KV().Get(l.key, opts)
		return meta, nil, err
	}
	var index uint64
	for ctx.Err() == nil {
		meta, _, err := l.c.block(ctx, q, index, waitTime)
		if err != nil {
			return err
		}
		index, _ = following(index, meta.LastIndex)
		holder := ""
		if pair != nil && pair.Session != "" {
			holder = string(pair.Value)
		}
		l.c.setHolder(l.name, holder)
		if wanted(pair) {
			return nil
		}
	}
	return context.Cause(ctx)
}

// close gives the lock back.
func (l *lock) close(ctx context.Context) {
	ctx, cancel := context.WithTimeout(ctx, 2*time.Second)
	defer cancel()
	q := request{"end the session of the lock " + l.key, "session:write for the node"}
	_ = l.c.do(ctx, q, askTime, func(ctx context.Context) error { // else it ends by itself
		pair := &api.KVPair{Key: l.key, Session: l.session}
		if _, _, err := l.c.api.KV().Release(pair, (&api.WriteOptions{}).WithContext(ctx)); err != nil {
			return err
		}
		_, err := l.c.api.Session().Destroy(l.session, (&api.WriteOptions{}).WithContext(ctx))
		return err
	})
}

// setHolder keeps who holds a lock, for status. Nobody is the empty name.
func (c *Client) setHolder(name, who string) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.holds[name] = who
	if who == "" {
		delete(c.holds, name)
	}
}
