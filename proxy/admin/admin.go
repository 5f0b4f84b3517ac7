// Package admin is the port for operators: status, moves by hand, metrics and /debug. It is plain net/http, on loopback unless it has a token.
package admin

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net/http"
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"pilotlight/proxy/jwt"
	"pilotlight/proxy/ledger"
	"pilotlight/router"
	"pilotlight/router/consul"
)

// Lives moves backends by hand: the keeper.
type Lives interface {
	// WakeModel wakes one more backend of a model and returns when it is ready.
	WakeModel(ctx context.Context, model string) error
	// Dismiss puts the backends of a model to sleep, or stops them, and returns when that is done.
	Dismiss(ctx context.Context, model string, stop bool) error
}

// Options are what the admin port shows and does. What may be nil says so.
type Options struct {
	Router  *router.Router
	Lives   Lives
	GPUs    func() GPUsStatus
	Nodes   func() any                // what is known of the agents
	Consul  func() *consul.Status     // what is known of Consul; nil: it is not used
	Visits  func() any                // the last requests
	Issuers func() []jwt.IssuerStatus // of tokens; nil: there are none
	Planned func() PlanStatus         // how planning goes; nil: nobody plans
	Plan    func() any                // the plan, with reasons
	// WhatIf is the plan that another configuration would make, which is in the form of the file. Its error says what is wrong with that.
	WhatIf   func(policy []byte) (any, error)
	Config   func() any     // what is loaded, and how the last reload went
	Ledger   *ledger.Ledger // what was used; nil: nobody writes that down
	Registry *prometheus.Registry
	Log      *slog.Logger

	TokenFile string // holds the token that whoever asks must show; empty: none, and only this host may ask
	Pins      Pins   // models kept awake by hand; nil: none can be

	// What the dashboard shows besides; where it is nil it shows none.
	Machines func() []Machine              // nodes, by name
	Expected func() map[string]Expectation // by model
	Recent   func(most int) []Request      // the last requests, the latest first
	Cost     func() *Cost                  // nil: nothing has a price
	Ending   <-chan struct{}               // closed when the edge ends, and with it whoever watches; nil: never

	watch *watch
}

// Handler answers the admin port's requests, as Guard lets them through.
func Handler(o Options) http.Handler {
	mux, free := http.NewServeMux(), map[string]bool{}
	o.watch = &watch{options: &o}
	for _, r := range routes() {
		pattern := r.method + " " + r.path
		free[pattern] = r.open
		mux.HandleFunc(pattern, func(w http.ResponseWriter, q *http.Request) { r.serve(&o, w, q) })
	}
	return Guard(o.TokenFile, func(r *http.Request) bool {
		_, pattern := mux.Handler(r)
		return free[pattern]
	}, mux)
}

// status is what /api/status answers.
func (o *Options) status() Status {
	status := Status{Models: []ModelStatus{}}
	for _, m := range o.Router.Fleet().Models {
		status.Models = append(status.Models, o.statusOf(m))
	}
	if o.Consul != nil {
		status.Consul = o.Consul()
	}
	if o.Issuers != nil {
		status.Issuers = o.Issuers()
	}
	if o.Planned != nil {
		status.Plan = new(o.Planned())
	}
	return status
}

// plan answers with the plan.
func (o *Options) plan(w http.ResponseWriter, _ *http.Request) {
	if o.Planned == nil {
		reply(w, http.StatusNotFound, Problem{"nobody plans here"})
		return
	}
	reply(w, http.StatusOK, o.Plan())
}

// move answers wake, sleep and stop.
func (o *Options) move(w http.ResponseWriter, r *http.Request, move func(context.Context, string) error) {
	m, ok := o.Router.Model(r.PathValue("model"))
	if !ok {
		reply(w, http.StatusNotFound, Problem{fmt.Sprintf("no model is called %q", r.PathValue("model"))})
		return
	}
	began := time.Now()
	if err := move(r.Context(), m.Name); err != nil {
		o.Log.Info("moved by hand", "path", r.URL.Path, "model", m.Name, "error", err)
		status := http.StatusConflict
		if refusal, ok := errors.AsType[*router.Refusal](err); ok {
			status = refusal.Status
		}
		reply(w, status, Problem{err.Error()})
		return
	}
	o.Log.Info("moved by hand", "path", r.URL.Path, "model", m.Name, "took", time.Since(began).String())
	m, _ = o.Router.Model(m.Name)
	reply(w, http.StatusOK, o.statusOf(m))
}

// route says how the next request of a model would be decided.
func (o *Options) route(w http.ResponseWriter, r *http.Request) {
	model := r.URL.Query().Get("model")
	e, ok := o.Router.Explain(model)
	switch {
	case model == "":
		reply(w, http.StatusBadRequest, Problem{"which model? /debug/route?model=MODEL"})
	case !ok:
		reply(w, http.StatusNotFound, Problem{fmt.Sprintf("no model is called %q", model)})
	default:
		reply(w, http.StatusOK, e)
	}
}

// maxPolicy is the largest configuration that a plan is made of.
const maxPolicy = 1 << 20

// whatIf answers with the plan that another configuration would make. It changes nothing.
func (o *Options) whatIf(w http.ResponseWriter, r *http.Request) {
	if o.Planned == nil {
		reply(w, http.StatusNotFound, Problem{"nobody plans here"})
		return
	}
	text, err := io.ReadAll(http.MaxBytesReader(w, r.Body, maxPolicy))
	if err != nil {
		reply(w, http.StatusRequestEntityTooLarge, Problem{"the configuration is larger than 1MiB"})
		return
	}
	plan, err := o.WhatIf(text)
	if err != nil {
		reply(w, http.StatusBadRequest, Problem{err.Error()})
		return
	}
	reply(w, http.StatusOK, plan)
}

// ready says whether the edge knows its fleet: every model has a backend that somebody keeps. With Consul a model is known for longer
// than its backends.
func (o *Options) ready(w http.ResponseWriter, _ *http.Request) {
	remembered := o.Consul != nil && o.Consul() != nil
	for _, m := range o.Router.Fleet().Models {
		if len(m.Backends) == 0 && !remembered {
			http.Error(w, "no backend of "+m.Name+" is known yet", http.StatusServiceUnavailable)
			return
		}
	}
	fmt.Fprintln(w, "ok")
}

// Problem is the body of every answer that is not a success.
type Problem struct {
	Error string `json:"error"`
}

func reply(w http.ResponseWriter, status int, body any) {
	w.Header().Set("Content-Type", "application/json")
	w.WriteHeader(status)
	e := json.NewEncoder(w)
	e.SetIndent("", "  ")
	_ = e.Encode(body) // the client went away
}

func home(w http.ResponseWriter) {
	w.Header().Set("Content-Type", "text/html; charset=utf-8")
	fmt.Fprint(w, `<!doctype html><html lang="en"><meta charset="utf-8"><title>Pilotlight</title><h1>Pilotlight</h1><ul>
<li><a href="/">the dashboard</a>
<li><a href="/openapi.json">/openapi.json</a>: all that can be asked here
<li><a href="/api/status">/api/status</a>: models, backends, lines
<li><a href="/api/gpus">/api/gpus</a>: GPUs, who holds their memory, their health
<li><a href="/api/usage?by=tenant,model">/api/usage</a>: who used how much in the last day
<li><a href="/api/plan">/api/plan</a>: where every backend should be, and why
<li><a href="/debug/visits">/debug/visits</a>: the last requests
<li>/debug/route?model=MODEL: how its next request would be decided
<li><a href="/debug/config">/debug/config</a>: what is loaded
<li><a href="/metrics">/metrics</a>
<li><a href="/debug/pprof/">/debug/pprof/</a>
<li><a href="/healthz">/healthz</a>, <a href="/readyz">/readyz</a>
</ul></html>`)
}
