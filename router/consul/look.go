package consul

import (
	"context"
	"math/rand/v2"
	"time"

	"github.com/hashicorp/consul/api"
)

// fetch asks for one service, and has it asked for again when that is due.
func (w *watch) fetch(ctx context.Context, key serviceKey) {
	w.mu.Lock()
	s := w.services[key]
	if s == nil || s.fetching {
		if s != nil && !s.foreign { // else it is being waited on, and the change will be seen
			w.near.add(key, time.Now().Add(together))
		}
		w.mu.Unlock()
		return
	}
	s.fetching = true
	index := uint64(0)
	if s.touched {
		index = s.index
	}
	s.touched = false
	w.mu.Unlock()
	w.look(ctx, key, s, index, hintWait)
}

// follow waits for a service to change that nobody of ours registered. If there are many, it does so for a moment only.
func (w *watch) follow(ctx context.Context, key serviceKey) {
	w.mu.Lock()
	s := w.services[key]
	if s == nil || s.fetching {
		w.mu.Unlock()
		return
	}
	s.fetching = true
	index := s.index
	w.mu.Unlock()
	wait := w.patience()
	if w.others.len() > 0 {
		wait = turn
	}
	w.look(ctx, key, s, index, wait)
}

// look asks for the instances of a service, takes them in, and has the service asked for again when that is due. s is marked as being
// fetched.
func (w *watch) look(ctx context.Context, key serviceKey, s *service, index uint64, wait time.Duration) {
	entries, meta, err := w.ask(ctx, key, index, wait)
	w.mu.Lock()
	defer w.mu.Unlock()
	defer w.wake()
	s.fetching = false
	if ctx.Err() != nil || w.services[key] != s {
		return
	}
	if err != nil {
		s.failures++
		s.index = 0
		w.near.add(key, time.Now().Add(retryAfter(s.failures, rand.Float64)))
		return
	}
	s.failures = 0
	kept := w.take(key, s, entries, meta)
	switch {
	case kept:
		s.index = 0
		w.near.add(key, jittered(max(lastRetry, time.Until(w.forgetful)), lastRetry))
	case !s.listed && len(s.instances) == 0:
		w.drop(key)
	case s.foreign:
		w.others.add(key, time.Now().Add(together))
	case meta.LastIndex == index: // its key was touched, for a change that is to come yet
		w.near.add(key, jittered(lookSoon, lookSoon))
	default:
		w.near.add(key, jittered(lookAgain, lookAgain/4))
	}
}

// ask asks for the instances of a service that are backends.
func (w *watch) ask(ctx context.Context, key serviceKey, index uint64, wait time.Duration) (entries []*api.ServiceEntry, meta *api.QueryMeta, err error) {
	q := query{request: request{"look at service " + key.name, `service:read for "` + key.name + `" and node:read`}, dc: key.dc}
	q.ask = func(opts *api.QueryOptions) (meta *api.QueryMeta, _ func(), err error) {
		if _, mapped := w.c.cfg.Services[key.name]; !mapped {
			opts.Filter = `"` + metaModel + `" in Service.Meta`
		}
		entries, meta, err = w.c.api.Health().Service(key.name, "", false, opts)
		return meta, nil, err
	}
	meta, _, err = w.c.block(ctx, q, index, wait)
	return entries, meta, err
}

// take takes in the instances of a service. It says whether some are missing and were kept all the same. w.mu is held.
func (w *watch) take(key serviceKey, s *service, entries []*api.ServiceEntry, meta *api.QueryMeta) (kept bool) {
	if meta.LastIndex < s.index && w.remembers() && w.published {
		w.forgetful = time.Now().Add(settle)
	}
	s.index, s.foreign = max(meta.LastIndex, 1), false
	there := map[string]bool{}
	wrong := ""
	for _, e := range entries {
		instance := e.Node.Node + "/" + e.Service.ID
		there[instance] = true
		backends, problem := read(e, w.c.cfg.Services)
		if problem != "" {
			wrong = "service " + key.name + ", instance " + instance + ": " + problem
		}
		for i := range backends {
			s.foreign = s.foreign || backends[i].Agent == ""
		}
		w.replace(s, instance, backends)
	}
	for instance := range s.instances {
		if there[instance] {
			continue
		}
		if meta.ResultsFilteredByACLs || !w.remembers() {
			kept = true
		} else {
			w.replace(s, instance, nil)
		}
	}
	w.c.note("service "+key.name, wrong)
	return kept
}

// replace takes in one instance. w.mu is held.
func (w *watch) replace(s *service, instance string, backends []Backend) {
	was := s.instances[instance]
	if same(was, backends) {
		return
	}
	for i := range backends {
		backends[i].Since = time.Now()
		for j := range was {
			if was[j].ID == backends[i].ID && was[j].State == backends[i].State {
				backends[i].Since = was[j].Since
			}
		}
	}
	for _, all := range [][]Backend{was, backends} {
		for i := range all {
			w.dirty[all[i].Node] = true
		}
	}
	if len(backends) == 0 {
		delete(s.instances, instance)
	} else {
		s.instances[instance] = backends
	}
}
