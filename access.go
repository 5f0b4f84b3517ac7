package main

import (
	"context"
	"fmt"
	"log/slog"
	"maps"
	"slices"
	"sync"

	"pilotlight/config"
	"pilotlight/proxy"
	"pilotlight/proxy/keys"
	"pilotlight/router/consul"
)

// access is where the keys of an edge come from.
type access struct {
	ring *keys.Ring
	cfg  *config.Keys
	log  *slog.Logger

	mu     sync.Mutex // guards what follows
	file   []keys.Key
	consul []keys.Key
}

// access makes the keys of an edge; nil: everybody may ask. A file that is no good at the start is an error.
func (s site) access() (*access, error) {
	if s.cfg.Keys == nil {
		return nil, nil
	}
	a := &access{ring: keys.NewRing(), cfg: s.cfg.Keys, log: s.log}
	if a.cfg.File != "" {
		all, err := keys.ReadFile(a.cfg.File)
		if err != nil {
			return nil, err
		}
		a.set(&a.file, all)
	}
	return a, nil
}

// held says who may ask, nil where everybody may.
func (a *access) held() proxy.Access {
	if a == nil {
		return nil
	}
	return a.ring
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
	a.ring.Set(slices.Concat(a.consul, a.file))
}

// run follows the places until ctx ends.
func (a *access) run(ctx context.Context, c *consul.Client) {
	if a == nil {
		return
	}
	var following sync.WaitGroup
	if a.cfg.File != "" {
		following.Go(func() { keys.Follow(ctx, a.cfg.File, a.log, func(all []keys.Key) { a.set(&a.file, all) }) })
	}
	if a.cfg.Consul {
		k := inConsul{note: c.Note, good: map[string]keys.Key{}, bad: map[string]bool{}}
		following.Go(func() {
			_ = c.Folder(ctx, "keys", func(values map[string][]byte) { a.set(&a.consul, k.take(values)) }) // it ends when ctx does
		})
	}
	following.Wait()
}

// inConsul are the keys in Consul's KV. They belong to one goroutine.
type inConsul struct {
	note func(name, problem string)
	good map[string]keys.Key // by ID, as last seen to be good
	bad  map[string]bool     // those whose value now is not
}

// take takes in all that stands there. A key that is no good stays what it was before.
func (k *inConsul) take(values map[string][]byte) []keys.Key {
	for id := range k.bad {
		if _, there := values[id]; !there {
			k.note("keys/"+id, "")
			delete(k.bad, id)
		}
	}
	maps.DeleteFunc(k.good, func(id string, _ keys.Key) bool { _, there := values[id]; return !there })
	for id, value := range values {
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
		k.good[id] = key
	}
	return slices.Collect(maps.Values(k.good))
}
