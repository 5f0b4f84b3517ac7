package modelsim

import (
	"context"
	"net/http"
	"slices"
)

// asleep is what of an engine sleeps.
type asleep struct {
	weights, cache bool
	level          int // 1: the weights are in host memory; 2: they are on disk
}

func (a asleep) any() bool { return a.weights || a.cache }

// The tags of vLLM's /wake_up.
const (
	tagWeights = "weights"
	tagCache   = "kv_cache"
)

// sleepMode adds the endpoints that vLLM has in development mode. As there, a request to a sleeping engine waits for the
// wake, or kills the engine of older versions (Options.Asleep), and an engine that is put to sleep while it works answers
// 200 and is dead.
func (s *server) sleepMode(mux *http.ServeMux) {
	mux.Handle("POST /sleep", endpoint(openAIRefusal, func(_ http.ResponseWriter, r *http.Request, _ []byte) (any, error) {
		level := r.URL.Query().Get("level")
		if !slices.Contains([]string{"", "1", "2"}, level) {
			return nil, &refusal{http.StatusBadRequest, "The level of sleep is 1 or 2."}
		}
		return nil, s.engine.do(r.Context(), func(context.Context) { s.engine.sleep(level) })
	}))
	mux.Handle("POST /wake_up", endpoint(openAIRefusal, func(_ http.ResponseWriter, r *http.Request, _ []byte) (any, error) {
		tags := r.URL.Query()["tags"]
		if slices.ContainsFunc(tags, func(tag string) bool { return tag != tagWeights && tag != tagCache }) {
			return nil, &refusal{http.StatusBadRequest, "The tags are weights and kv_cache."}
		}
		return nil, s.engine.do(r.Context(), func(ctx context.Context) { s.engine.wake(ctx, tags) })
	}))
	// Who throws the weights away has them loaded anew after the wake; here the wake itself took as long.
	for _, path := range []string{"POST /collective_rpc", "POST /reset_prefix_cache"} {
		mux.Handle(path, endpoint(openAIRefusal, func(http.ResponseWriter, *http.Request, []byte) (any, error) {
			if s.engine.health() != nil {
				return nil, errEngineDead
			}
			return nil, nil
		}))
	}
	mux.Handle("GET /is_sleeping", endpoint(openAIRefusal, func(http.ResponseWriter, *http.Request, []byte) (any, error) {
		if s.engine.health() != nil {
			return nil, errEngineDead
		}
		return object{"is_sleeping": s.engine.isAsleep()}, nil
	}))
}

// do has the engine's loop sleep or wake, and returns when it has. A client that leaves does not stop it.
func (e *engine) do(ctx context.Context, move func(context.Context)) error {
	if e.health() != nil {
		return errEngineDead
	}
	moved := make(chan struct{})
	select {
	case e.moves <- func(ctx context.Context) { defer close(moved); move(ctx) }:
	case <-ctx.Done():
		return ctx.Err()
	}
	select {
	case <-moved:
		return nil
	case <-ctx.Done():
		return ctx.Err()
	}
}

func (e *engine) isAsleep() bool {
	e.mu.Lock()
	defer e.mu.Unlock()
	return e.asleep.any()
}

func (e *engine) sleep(level string) {
	e.mu.Lock()
	defer e.mu.Unlock()
	if !e.asleep.any() && len(e.running)+len(e.waiting) > 0 {
		e.die()
	}
	e.asleep = asleep{weights: true, cache: true, level: max(e.asleep.level, 1)}
	if level == "2" {
		e.asleep.level = 2
	}
}

// wake takes the time that it takes. No tags: it wakes all.
func (e *engine) wake(ctx context.Context, tags []string) {
	wanted := func(tag string) bool { return len(tags) == 0 || slices.Contains(tags, tag) }
	e.mu.Lock()
	a := e.asleep
	e.mu.Unlock() // only the loop changes it, and that is who wakes
	if a.weights && wanted(tagWeights) {
		took := e.WakeHost
		if a.level == 2 {
			took = e.WakeDisk
		}
		if pause(ctx, e.slowly(took)) != nil {
			return
		}
		a.weights = false
	}
	a.cache = a.cache && !wanted(tagCache)
	if !a.any() {
		a.level = 0
	}
	e.mu.Lock()
	e.asleep = a
	e.mu.Unlock()
}
