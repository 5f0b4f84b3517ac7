package consul

import (
	"context"
	secret "crypto/rand"
	"errors"
	"fmt"
	"math/rand/v2"
	"strings"
	"sync"
	"time"

	"github.com/hashicorp/consul/api"
)

// A lock is held by a session, and the session ends with a check that its process keeps passing, to the second; who holds the lock gives it up earlier,
// when that was last confirmed letGo ago. So no two hold it, and who waits gets it checkTTL and lockDelay after the last beat of a process that was killed or
// cannot reach Consul. Where a host is lost, and Consul's agent there with it, nobody is left to say that the check fails: then the session's own TTL counts, of which 10s is the
// least that Consul takes, and after which it waits as long again (SessionTTLMultiplier).
const (
	checkTTL  = 6 * time.Second
	letGo     = 4 * time.Second
	lockBeat  = 1500 * time.Millisecond
	lockTTL   = 10 * time.Second
	lockDelay = 2 * time.Second // for which Consul keeps a lock free that was lost rather than given back: the next beat hears that it was
)

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
	entry          api.AgentServiceRegistration // whose check the session ends with
	session        string
}

// once makes a session, waits for the lock, and holds it for as long as it can be held.
func (l *lock) once(ctx context.Context, hold func(context.Context)) error {
	made, beat, err := l.open(ctx)
	if err != nil {
		return err
	}
	alive, lost := context.WithCancelCause(ctx)
	defer lost(nil)
	var keeping sync.WaitGroup
	keeping.Go(func() { l.keep(alive, beat, lockBeat, letGo, lost, l.beat) })
	keeping.Go(func() { l.keep(alive, made, lockTTL/3, lockTTL, lost, l.renew) })
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
			pause(alive, lockDelay/10) // Consul may refuse for a moment yet
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

// open makes the session, and the check that it ends with. Each session has its own: that of a process which was killed must fail though the process was
// started anew. It returns when the session was asked for, and when the check was last passed: Consul may take its time for the session.
func (l *lock) open(ctx context.Context) (made, beat time.Time, err error) {
	id := LockService + ":" + l.name + ":" + secret.Text()
	l.entry = api.AgentServiceRegistration{ID: id, Name: LockService, Meta: map[string]string{"pilotlight-lock": l.key, "pilotlight-holder": l.who}, Check: &api.AgentServiceCheck{
		CheckID: checkOf(id), Name: l.who + " lives", TTL: checkTTL.String(), Status: api.HealthPassing, DeregisterCriticalServiceAfter: time.Minute.String(),
	}}
	if err := l.c.put(ctx, "register who asks for the lock "+l.key, l.entry); err != nil {
		return made, beat, err
	}
	if made, err = l.makeSession(ctx); err == nil {
		beat = time.Now()
		_, err = l.beat(ctx, letGo)
	}
	if err != nil {
		l.close(context.WithoutCancel(ctx))
	}
	return made, beat, err
}

// makeSession returns when the session was asked for.
func (l *lock) makeSession(ctx context.Context) (asked time.Time, err error) {
	// A map, since api.Session.Create leaves out that there are no checks of the node. There are none: serfHealth of a host that its servers do not reach fails sooner than
	// that the process there, which reaches its agent, lets go.
	entry := map[string]any{
		"Name": "pilotlight " + l.name, "TTL": lockTTL.String(), "LockDelay": lockDelay.String(), "Behavior": api.SessionBehaviorRelease,
		"NodeChecks": []string{}, "ServiceChecks": []api.ServiceCheck{{ID: l.entry.Check.CheckID}},
	}
	q := request{"make a session for the lock " + l.key, "session:write for the node"}
	for tries := 1; ; tries++ {
		missing := false
		asked = time.Now()
		err := l.c.do(ctx, q, askTime, func(ctx context.Context) (err error) {
			var made struct{ ID string }
			_, err = l.c.api.Raw().Write("/v1/session/create", entry, &made, (&api.WriteOptions{}).WithContext(ctx))
			l.session = made.ID
			missing = err != nil && strings.Contains(err.Error(), "Missing check")
			return err
		})
		if missing && tries < 20 && pause(ctx, 50*time.Millisecond) {
			continue // the agent has the check, and its servers hear of it in a moment
		}
		return asked, err
	}
}

// beat says that this process lives.
func (l *lock) beat(ctx context.Context, limit time.Duration) (gone bool, err error) {
	ctx, cancel := context.WithTimeout(ctx, limit)
	defer cancel()
	err = l.c.pass(ctx, l.entry, api.HealthPassing, "")
	return errors.Is(err, errUnknown), err
}

// renew renews the session.
func (l *lock) renew(ctx context.Context, limit time.Duration) (gone bool, err error) {
	q := request{"renew the session of the lock " + l.key, "session:write for the node"}
	err = l.c.do(ctx, q, limit, func(ctx context.Context) error {
		entry, _, err := l.c.api.Session().Renew(l.session, (&api.WriteOptions{}).WithContext(ctx))
		gone = err == nil && entry == nil
		return err
	})
	return gone, err
}

// keep confirms, every so often, that the session lives, and says that the lock is lost when it is, or may be: when nothing was confirmed for limit.
func (l *lock) keep(ctx context.Context, confirmed time.Time, every, limit time.Duration, lost context.CancelCauseFunc, confirm func(context.Context, time.Duration) (bool, error)) {
	for pause(ctx, min(every, time.Until(confirmed.Add(limit)))) {
		began := time.Now()
		gone, err := confirm(ctx, max(time.Until(confirmed.Add(limit)), time.Millisecond))
		switch {
		case gone:
			lost(fmt.Errorf("the session of the lock %s has ended", l.key))
			return
		case err == nil:
			confirmed = began
		case time.Since(confirmed) >= limit:
			lost(fmt.Errorf("the lock %s may be another's: %w", l.key, err))
			return
		default:
			pause(ctx, min(time.Second, time.Until(confirmed.Add(limit))))
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

// close gives the lock back. What of it fails ends by itself.
func (l *lock) close(ctx context.Context) {
	ctx, cancel := context.WithTimeout(ctx, 2*time.Second)
	defer cancel()
	if l.session != "" {
		q := request{"end the session of the lock " + l.key, "session:write for the node"}
		_ = l.c.do(ctx, q, askTime, func(ctx context.Context) error {
			pair := &api.KVPair{Key: l.key, Session: l.session}
			if _, _, err := l.c.api.KV().Release(pair, (&api.WriteOptions{}).WithContext(ctx)); err != nil {
				return err
			}
			_, err := l.c.api.Session().Destroy(l.session, (&api.WriteOptions{}).WithContext(ctx))
			return err
		})
		l.session = ""
	}
	_ = l.c.deregister(ctx, l.entry.ID, l.entry.Name)
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
