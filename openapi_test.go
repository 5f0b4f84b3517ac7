package main

import (
	"bytes"
	"encoding"
	"encoding/json"
	"flag"
	"maps"
	"os"
	"path"
	"reflect"
	"regexp"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/invopop/jsonschema"

	"pilotlight/config"
	"pilotlight/proxy"
	"pilotlight/proxy/admin"
	"pilotlight/proxy/ledger"
	"pilotlight/router"
	"pilotlight/warmpool/agent"
)

const openAPIFile = "proxy/admin/openapi.json"

// TestTheDocumentIsOfTheRoutes holds openapi.json to the table of routes and to the types of what they answer.
func TestTheDocumentIsOfTheRoutes(t *testing.T) {
	want := openAPIOf(t)
	if flag.Lookup("update").Value.String() == "true" {
		if err := os.WriteFile(openAPIFile, want, 0o644); err != nil {
			t.Fatal(err)
		}
	}
	got, err := os.ReadFile(openAPIFile)
	if err != nil || !bytes.Equal(got, want) {
		t.Errorf("%s is stale (%v); make it anew by: go test . -run Document -update", openAPIFile, err)
	}
}

// answers are the types of what is answered in JSON.
func answers() map[string]any {
	return map[string]any{
		"GET /api/status": admin.Status{}, "GET /api/gpus": admin.GPUsStatus{}, "GET /api/usage": ledger.Book{}, "GET /api/nodes": []agent.NodeStatus{},
		"GET /api/plan": planned{}, "POST /api/plan": planned{}, "GET /api/events": admin.Message{},
		"POST /api/wake/{model}": admin.ModelStatus{}, "POST /api/sleep/{model}": admin.ModelStatus{}, "POST /api/stop/{model}": admin.ModelStatus{}, "POST /api/pin/{model}": admin.ModelStatus{}, "POST /api/unpin/{model}": admin.ModelStatus{},
		"GET /debug/config": config.Status{}, "GET /debug/visits": []proxy.Visit{}, "GET /debug/route": router.Explanation{},
	}
}

var wild = regexp.MustCompile(`\{(\w+)(\.\.\.)?\}`)

func openAPIOf(t *testing.T) []byte {
	t.Helper()
	paths, schemas := map[string]map[string]any{}, map[string]any{}
	refuses := map[string]any{"description": "Refused; the body says why.", "content": map[string]any{"application/json": map[string]any{"schema": schemaOf(t, admin.Problem{}, schemas)}}}
	for _, r := range admin.Routes() {
		path := wild.ReplaceAllString(strings.ReplaceAll(r.Path, "{$}", ""), "{$1}")
		answer := map[string]any{}
		if v, known := answers()[r.Method+" "+path]; known {
			answer["schema"] = schemaOf(t, v, schemas)
		}
		says := map[string]any{"summary": r.Says, "responses": map[string]any{"200": map[string]any{"description": "As asked.", "content": map[string]any{r.Form: answer}}, "default": refuses}}
		if r.Open {
			says["security"] = []any{}
		}
		if r.Body != "" {
			says["requestBody"] = map[string]any{"required": true, "content": map[string]any{r.Body: map[string]any{}}}
		}
		if all := parametersOf(r); len(all) > 0 {
			says["parameters"] = all
		}
		if paths[path] == nil {
			paths[path] = map[string]any{}
		}
		paths[path][strings.ToLower(r.Method)] = says
	}
	text, err := json.MarshalIndent(map[string]any{
		"openapi": "3.1.0",
		"info": map[string]any{"title": "Pilotlight's admin API", "version": "1", "description": "Sizes are in bytes; times are those of RFC 3339. Where admin_token_file is configured " +
			"the token is needed, else the port answers this host only. Requests that change something are refused when a page of another site sends them."},
		"paths": paths, "security": []any{map[string]any{"token": []any{}}},
		"components": map[string]any{"schemas": schemas, "securitySchemes": map[string]any{"token": map[string]any{"type": "http", "scheme": "bearer"}}},
	}, "", "  ")
	if err != nil {
		t.Fatal(err)
	}
	return append(text, '\n')
}

func parametersOf(r admin.Route) (all []any) {
	text := map[string]any{"type": "string"}
	for _, m := range wild.FindAllStringSubmatch(r.Path, -1) {
		all = append(all, map[string]any{"name": m[1], "in": "path", "required": true, "schema": text})
	}
	for _, name := range slices.Sorted(maps.Keys(r.Query)) {
		all = append(all, map[string]any{"name": name, "in": "query", "description": r.Query[name], "schema": text})
	}
	return all
}

// nameOf is a type's name among the schemas; those of other packages may have the same.
func nameOf(t reflect.Type) string {
	name := strings.ToUpper(t.Name()[:min(1, len(t.Name()))]) + t.Name()[min(1, len(t.Name())):]
	switch of := path.Base(t.PkgPath()); of {
	case "consul", "config", "agent":
		return strings.ToUpper(of[:1]) + of[1:] + strings.TrimPrefix(name, strings.ToUpper(of[:1])+of[1:])
	}
	return name
}

// textOf is the schema of what is written as a text.
func textOf(t reflect.Type) *jsonschema.Schema {
	if t == reflect.TypeFor[time.Time]() || !t.Implements(reflect.TypeFor[encoding.TextMarshaler]()) {
		return nil
	}
	return &jsonschema.Schema{Type: "string"}
}

// schemaOf is the schema of a type, whose parts are put among the schemas of all.
func schemaOf(t *testing.T, v any, all map[string]any) any {
	t.Helper()
	text, err := json.Marshal((&jsonschema.Reflector{Anonymous: true, AllowAdditionalProperties: true, Namer: nameOf, Mapper: textOf}).Reflect(v))
	if err != nil {
		t.Fatal(err)
	}
	var s map[string]any
	if err := json.Unmarshal(bytes.ReplaceAll(text, []byte("#/$defs/"), []byte("#/components/schemas/")), &s); err != nil {
		t.Fatal(err)
	}
	parts, _ := s["$defs"].(map[string]any)
	for name, part := range parts {
		if other, twice := all[name]; twice && !reflect.DeepEqual(other, part) {
			t.Errorf("two types are called %s", name)
		}
		all[name] = part
	}
	delete(s, "$defs")
	delete(s, "$schema")
	return s
}
