// Package engine reads model servers through their own endpoints: are they ready, what do they do, do they sleep. It asks
// and never moves them; warmpool/launch does that.
package engine

import (
	"context"
	"net/http"
	"net/url"
	"time"

	"pilotlight/config"
	"pilotlight/probe"
)

// Engine reads the model servers of one kind that serve one model. It is a value; make it with New.
type Engine struct {
	kind  config.Engine
	model string // as the server names it
	ready string // the path of its health check; empty: the model's own endpoint says it all
}

// New makes the reader of one kind of model server. Model is the name by which the server itself knows the model; ready is
// the path whose 2xx answer says that the server is up, in place of the engine's own. If ready is empty, it is the
// engine's own. A server whose engine sleeps or has not loaded the model is not ready, whatever that path answers.
func New(kind config.Engine, model, ready string) Engine {
	if ready == "" {
		ready = health(kind)
	}
	return Engine{kind: kind, model: model, ready: ready}
}

// health is the path of an engine's own health check.
func health(kind config.Engine) string {
	switch kind {
	case config.Ollama, config.Triton:
		return ""
	case config.VLLM, config.SGLang, config.LlamaCPP, config.TGI, config.HTTP:
	}
	return "/health"
}

// SaysAsleep reports whether the engine can be asked if it sleeps. Where it cannot, whoever put it to sleep has to remember,
// and must not read it meanwhile: SGLang's health check generates a token, which a sleeping SGLang does not survive.
func (e Engine) SaysAsleep() bool {
	switch e.kind {
	case config.VLLM, config.LlamaCPP, config.Ollama, config.Triton:
		return true
	case config.SGLang, config.TGI, config.HTTP:
	}
	return false
}

// Paths are those that Status asks for, for those who read a server's access log.
func (e Engine) Paths() []string {
	var paths []string
	if e.ready != "" {
		paths = append(paths, e.ready)
	}
	switch e.kind {
	case config.VLLM:
		paths = append(paths, vllmSleeping)
	case config.LlamaCPP:
		paths = append(paths, llamaModels)
	case config.Ollama:
		paths = append(paths, ollamaLoaded)
	case config.Triton:
		paths = append(paths, e.modelReady(), tritonIndex)
	case config.SGLang, config.TGI, config.HTTP:
	}
	return paths
}

// The engines' endpoints that say whether a model can answer.
const (
	vllmSleeping = "/is_sleeping"
	llamaModels  = "/models"
	ollamaLoaded = "/api/ps"
	tritonIndex  = "/v2/repository/index"
)

func (e Engine) modelReady() string { return "/v2/models/" + url.PathEscape(e.model) + "/ready" }

// Read says what the server at addr (host:port) is doing. It asks for the load of a server that is ready only; the load
// of others is -1. For said see Status.
func (e Engine) Read(ctx context.Context, client *http.Client, addr string) (reading probe.Reading, said string) {
	status, said := e.Status(ctx, client, addr)
	busy := unknown
	if status == probe.Ready {
		busy = e.load(ctx, client, addr)
	}
	return probe.Reading{
		At: time.Now(), Status: status,
		Running: busy.running, Waiting: busy.waiting, KVCache: busy.kvCache,
	}, said
}

// Load is Read of a server that was ready when it was last asked. Where the engine cannot be put to sleep without our knowing,
// it asks for nothing but the load: a health check may cost as much as a request.
func (e Engine) Load(ctx context.Context, client *http.Client, addr string) probe.Reading {
	if e.SaysAsleep() {
		reading, _ := e.Read(ctx, client, addr)
		return reading
	}
	busy := e.load(ctx, client, addr)
	return probe.Reading{At: time.Now(), Status: probe.Ready, Running: busy.running, Waiting: busy.waiting, KVCache: busy.kvCache}
}

// Status says how far the server at addr (host:port) is from answering. Said is what it said to that, for people; when it
// changes, something goes on there. A server that does not answer before ctx ends is Away.
func (e Engine) Status(ctx context.Context, client *http.Client, addr string) (status probe.Status, said string) {
	base := "http://" + addr
	if e.ready != "" {
		if a := ask(ctx, client, http.MethodGet, base, e.ready); !a.ok() {
			return a.notReady()
		}
	}
	switch e.kind {
	case config.VLLM:
		return vllmStatus(ask(ctx, client, http.MethodGet, base, vllmSleeping))
	case config.LlamaCPP:
		return llamaStatus(ask(ctx, client, http.MethodGet, base, llamaModels), e.model)
	case config.Ollama:
		return ollamaStatus(ask(ctx, client, http.MethodGet, base, ollamaLoaded), e.model)
	case config.Triton:
		a := ask(ctx, client, http.MethodGet, base, e.modelReady())
		switch {
		case a.ok():
			return probe.Ready, "ready"
		case a.err != nil:
			return a.notReady()
		}
		return tritonStatus(ask(ctx, client, http.MethodPost, base, tritonIndex), e.model)
	case config.SGLang, config.TGI, config.HTTP:
	}
	return probe.Ready, "ready"
}

// load asks a server that is ready for what it has to do.
func (e Engine) load(ctx context.Context, client *http.Client, addr string) load {
	base := "http://" + addr
	get := func(path string) []byte {
		if a := ask(ctx, client, http.MethodGet, base, path); a.ok() {
			return a.body
		}
		return nil
	}
	switch e.kind {
	case config.VLLM:
		return vllmLoad(get("/metrics"))
	case config.SGLang:
		return sglangLoad(get("/metrics"))
	case config.TGI:
		return tgiLoad(get("/metrics"))
	case config.LlamaCPP:
		// Only a router needs to be told the model; it must not load one because we ask.
		query := "?autoload=false&model=" + url.QueryEscape(e.model)
		if busy := llamaLoad(get("/metrics" + query)); busy != unknown {
			return busy
		}
		return llamaSlots(get("/slots" + query)) // there is no /metrics without --metrics
	case config.Triton:
		base = "http://" + metricsAddr(addr)
		return tritonLoad(get("/metrics"), e.model)
	case config.Ollama, config.HTTP:
	}
	return unknown
}
