package main

import (
	"bytes"
	"context"
	"fmt"
	"log/slog"
	"maps"
	"slices"
	"sync"
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"pilotlight/config"
	"pilotlight/proxy"
	"pilotlight/proxy/jwt"
	"pilotlight/proxy/keys"
	"pilotlight/router"
	"pilotlight/router/consul"
)

// access knows who asks an edge: by API keys and certificates from a file and from Consul, and by tokens.
type access struct {
	*keys.Ring
	tokens *jwt.Verifier // nil: none are taken
	cfg    *config.Keys
	log    *slog.Logger

	mu     sync.Mutex // guards what follows
	file   []keys.Key
	consul []keys.Key
}

// access makes the access to an edge; nil: everybody may ask. A file that is no good at the start is an error.
func (s site) access(registry prometheus.Registerer) (*access, error) {
	if s.cfg.Keys == nil {
		return nil, nil
	}
	a := &access{Ring: keys.NewRing(), cfg: s.cfg.Keys, log: s.log}
	if a.cfg.File != "" {
		all, err := keys.ReadFile(a.cfg.File)
		if err != nil {
			return nil, err
		}
		a.set(&a.file, all)
	}
	if len(a.cfg.JWT) > 0 {
		var err error
		if a.tokens, err = jwt.New(a.cfg.JWT, s.log, registry); err != nil {
			return nil, err
		}
	}
	return a, nil
}

// Find is who has an API key or a token.
func (a *access) Find(secret []byte, now time.Time) (*keys.Holder, *router.Refusal) {
	if a.tokens != nil && jwt.Is(secret) {
		return a.tokens.Find(secret, now)
	}
	return a.Ring.Find(secret, now)
}

// held says who may ask, nil where everybody may.
func (a *access) held() proxy.Access {
	if a == nil {
		return nil
	}
	return a
}

// issuers says how it is with the keys of tokens' issuers.
func (a *access) issuers() []jwt.IssuerStatus {
	if a == nil || a.tokens == nil {
		return nil
	}
	return a.tokens.Status()
}

// certificate is what of clients' certificates says who they are.
func (a *access) certificate() config.CertificateName {
	if a == nil {
		return ""
	}
	return a.cfg.Certificate
}

// pass says whether keys go on to backends.
func (a *access) pass() bool { return a != nil && a.cfg.Pass }

// set replaces the keys of one place. Those of the file go before those of Consul with the same id.
func (a *access) set(of *[]keys.Key, all []keys.Key) {
	a.mu.Lock()
	defer a.mu.Unlock()
	*of = all
	a.Set(slices.Concat(a.file, a.consul))
}

// gone revokes keys that are no more in Consul, unless the file has them too.
func (a *access) gone(ids []string) {
	a.mu.Lock()
	defer a.mu.Unlock()
	none := map[string]bool{}
	for _, id := range ids {
		none[id] = true
	}
	a.consul = slices.DeleteFunc(slices.Clone(a.consul), func(k keys.Key) bool { return none[k.ID] })
	for i := range a.file {
		delete(none, a.file[i].ID)
	}
	a.Revoke(slices.Collect(maps.Keys(none))...)
}

// run follows the places until ctx ends.
func (a *access) run(ctx context.Context, c *consul.Client) {
	if a == nil {
		return
	}
	var following sync.WaitGroup
	if a.tokens != nil {
		following.Go(func() { a.tokens.Run(ctx) })
	}
	if a.cfg.File != "" {
		following.Go(func() { keys.Follow(ctx, a.cfg.File, a.log, func(all []keys.Key) { a.set(&a.file, all) }) })
	}
	if a.cfg.Consul {
		k := inConsul{note: c.Note, good: map[string]kept{}, bad: map[string]bool{}}
		following.Go(func() {
			_ = c.Folder(ctx, "keys", a.gone, func(values map[string][]byte) { a.set(&a.consul, k.take(values)) }) // it ends when ctx does
		})
	}
	following.Wait()
}

// inConsul are the keys in Consul's KV. They belong to one goroutine.
type inConsul struct {
	note func(name, problem string)
	good map[string]kept // by ID, as last seen to be good
	bad  map[string]bool // those whose value now is not
}

// kept is a key and what it was read from.
type kept struct {
	value []byte
	key   keys.Key
}

// take takes in all that stands there. A key that is no good stays what it was before.
func (k *inConsul) take(values map[string][]byte) []keys.Key {
	for id := range k.bad {
		if _, there := values[id]; !there {
			k.note("keys/"+id, "")
			delete(k.bad, id)
		}
	}
	maps.DeleteFunc(k.good, func(id string, _ kept) bool { _, there := values[id]; return !there })
	for id, value := range values {
		if !k.bad[id] && k.good[id].value != nil && bytes.Equal(k.good[id].value, value) {
			continue // nothing is as common
		}
		key, err := keys.Parse(value)
		if err == nil && key.ID != id {
			err = fmt.Errorf("its id is %s", key.ID)
		}
		switch {
		case err != nil:
			k.note("keys/"+id, fmt.Sprintf("the API key at keys/%s is not taken over: %v", id, err))
			k.bad[id] = true
			continue
		case k.bad[id]:
			k.note("keys/"+id, "")
			delete(k.bad, id)
		}
		k.good[id] = kept{value, key}
	}
	all := make([]keys.Key, 0, len(k.good))
	for _, good := range k.good {
		all = append(all, good.key)
	}
	return all
}
