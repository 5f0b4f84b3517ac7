package admin

import (
	"context"
	_ "embed"
	"fmt"
	"net/http"
	"net/http/pprof"

	"github.com/prometheus/client_golang/prometheus/promhttp"
)

// route is one thing that may be asked of the admin port. This table registers it, documents it (openapi.json) and tells tests who may call it.
type route struct {
	method, path string
	open         bool   // whoever reaches the port may ask, without the token: nothing of the fleet is in the answer
	says         string // what it does, for the documentation
	query        []parameter
	body         string // the media type of the request's body; empty: it has none
	form         string // the media type of the answer
	serve        func(*Options, http.ResponseWriter, *http.Request)
}

// parameter is one of a query.
type parameter struct{ name, says string }

const (
	asJSON   = "application/json"
	asText   = "text/plain"
	asHTML   = "text/html"
	asEvents = "text/event-stream"
)

// routes are all that there is on an edge's admin port.
func routes() []route {
	return append([]route{
		{"GET", "/{$}", true, "The dashboard. It shows nothing before it has the token, where one is needed.", nil, "", asHTML, dashboard},
		{"GET", "/dashboard/{file}", true, "The dashboard's scripts and styles.", nil, "", "*/*", dashboard},
		{"GET", "/openapi.json", true, "This document.", nil, "", asJSON, func(_ *Options, w http.ResponseWriter, _ *http.Request) {
			w.Header().Set("Content-Type", asJSON)
			_, _ = w.Write(openAPI()) // the client went away
		}},
		{"GET", "/healthz", true, "Whether the process answers.", nil, "", asText, func(_ *Options, w http.ResponseWriter, _ *http.Request) { fmt.Fprintln(w, "ok") }},
		{"GET", "/readyz", true, "Whether the edge knows its fleet; 503 and what is missing if not.", nil, "", asText, (*Options).ready},
		{"GET", "/metrics", false, "Metrics, as Prometheus reads them.", nil, "", asText, func(o *Options, w http.ResponseWriter, r *http.Request) {
			promhttp.HandlerFor(o.Registry, promhttp.HandlerOpts{EnableOpenMetrics: true}).ServeHTTP(w, r)
		}},
		{"GET", "/api/status", false, "Models, their lines and their backends.", nil, "", asJSON, func(o *Options, w http.ResponseWriter, _ *http.Request) { reply(w, http.StatusOK, o.status()) }},
		{"GET", "/api/gpus", false, "The GPUs of the edge's own node: who holds their memory, how busy they are, their health.", nil, "", asJSON, func(o *Options, w http.ResponseWriter, _ *http.Request) { reply(w, http.StatusOK, o.GPUs()) }},
		{"GET", "/api/nodes", false, "What the edge knows of the agents of other nodes.", nil, "", asJSON, func(o *Options, w http.ResponseWriter, _ *http.Request) { reply(w, http.StatusOK, o.Nodes()) }},
		{"GET", "/api/usage", false, "Who used how much, as the edge's ledger has it.", []parameter{
			{"by", "What to tell apart, with commas: tenant, model, backend, edge, minute, hour, day."},
			{"since", "From when on, as in 2026-11-26T00:00:00Z. Default: a day ago."},
			{"until", "Until when. Default: now."},
		}, "", asJSON, (*Options).usage},
		{"GET", "/api/plan", false, "Where every backend should be, and why.", nil, "", asJSON, (*Options).plan},
		{"POST", "/api/plan", false, "The plan that another configuration would make now. Nothing is moved.", nil, "application/yaml", asJSON, (*Options).whatIf},
		{"GET", "/api/events", false, "The fleet as server-sent events: a snapshot, then what changes, twice a second at most.", nil, "", asEvents, (*Options).events},
	}, append(moves(), debug()...)...)
}

// Route is what may be said of a route.
type Route struct {
	Method, Path string // as http.ServeMux takes them
	Open         bool   // whoever reaches the port may ask, without the token
	Says         string
	Query        map[string]string // what its parameters are, by name
	Body, Form   string            // media types of the request's body, if it has one, and of the answer
}

// Routes are all that there is on an edge's admin port, for whoever describes it.
func Routes() []Route {
	all := []Route{}
	for _, r := range routes() {
		query := map[string]string{}
		for _, p := range r.query {
			query[p.name] = p.says
		}
		all = append(all, Route{r.method, r.path, r.open, r.says, query, r.body, r.form})
	}
	return all
}

// moves are the routes that change something.
func moves() []route {
	dismiss := func(stop bool) func(*Options, http.ResponseWriter, *http.Request) {
		return func(o *Options, w http.ResponseWriter, r *http.Request) {
			o.move(w, r, func(ctx context.Context, model string) error { return o.Lives.Dismiss(ctx, model, stop) })
		}
	}
	return []route{
		{"POST", "/api/wake/{model...}", false, "Wake one more backend of a model; the answer comes when it is ready.", nil, "", asJSON, func(o *Options, w http.ResponseWriter, r *http.Request) { o.move(w, r, o.Lives.WakeModel) }},
		{"POST", "/api/sleep/{model...}", false, "Put a model to sleep, once it has finished what it does.", nil, "", asJSON, dismiss(false)},
		{"POST", "/api/stop/{model...}", false, "Stop a model's backends, once they have finished what they do.", nil, "", asJSON, dismiss(true)},
		{
			"POST", "/api/pin/{model...}", false, "Keep one backend of a model awake, and all that are awake, whatever is planned, until it is unpinned, or the edge ends where there is no Consul.",
			[]parameter{{"for", "For how long, as in 2h. Default: until it is unpinned."}},
			"", asJSON, (*Options).pin,
		},
		{"POST", "/api/unpin/{model...}", false, "Take a pin away.", nil, "", asJSON, (*Options).unpin},
	}
}

// debug are the routes for whoever looks for what is wrong.
func debug() []route {
	profile := func(f http.HandlerFunc) func(*Options, http.ResponseWriter, *http.Request) {
		return func(_ *Options, w http.ResponseWriter, r *http.Request) { f(w, r) }
	}
	return []route{
		{"GET", "/debug/{$}", false, "Links to all that can be looked at.", nil, "", asHTML, func(_ *Options, w http.ResponseWriter, _ *http.Request) { home(w) }},
		{"GET", "/debug/config", false, "What is loaded, and how the last reload went.", nil, "", asJSON, func(o *Options, w http.ResponseWriter, _ *http.Request) { reply(w, http.StatusOK, o.Config()) }},
		{"GET", "/debug/visits", false, "The last requests, the latest first.", nil, "", asJSON, func(o *Options, w http.ResponseWriter, _ *http.Request) { reply(w, http.StatusOK, o.Visits()) }},
		{"GET", "/debug/route", false, "How a model's next request would be decided, and why.", []parameter{{"model", "The model, or an alias of it."}}, "", asJSON, (*Options).route},
		{"GET", "/debug/pprof/", false, "Go's profiles of the edge.", nil, "", asHTML, profile(pprof.Index)},
		{"GET", "/debug/pprof/{profile}", false, "One of them.", nil, "", "*/*", profile(pprof.Index)},
		{"GET", "/debug/pprof/profile", false, "Where processor time goes, for some seconds.", []parameter{{"seconds", "For how long. Default: 30."}}, "", "*/*", profile(pprof.Profile)},
		{"GET", "/debug/pprof/symbol", false, "Names of addresses in profiles.", nil, "", asText, profile(pprof.Symbol)},
		{"GET", "/debug/pprof/trace", false, "What the scheduler does, for some seconds.", []parameter{{"seconds", "For how long. Default: 1."}}, "", "*/*", profile(pprof.Trace)},
	}
}

//go:embed openapi.json
var document string

// openAPI is the API's description in OpenAPI 3.1. A test of main, which knows all types of what is answered, makes it of Routes.
func openAPI() []byte { return []byte(document) }
