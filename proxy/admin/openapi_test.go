package admin

import (
	"bytes"
	"encoding/json"
	"flag"
	"maps"
	"net/http"
	"os"
	"path"
	"reflect"
	"regexp"
	"strings"
	"testing"

	"github.com/invopop/jsonschema"

	"pilotlight/proxy/ledger"
)

var update = flag.Bool("update", false, "write openapi.json anew")

// TestTheDocumentIsOfTheRoutes holds openapi.json to the table of routes and to the types of what they answer.
func TestTheDocumentIsOfTheRoutes(t *testing.T) {
	want := openAPIOf(t)
	if *update {
		if err := os.WriteFile("openapi.json", want, 0o644); err != nil {
			t.Fatal(err)
		}
	}
	got, err := os.ReadFile("openapi.json")
	if err != nil || !bytes.Equal(got, want) {
		t.Errorf("openapi.json is stale (%v); make it anew by: go test ./proxy/admin -run Document -update", err)
	}
	d := open(t)
	if status, body := d.say(t, http.MethodGet, "/openapi.json", nil); !*update && (status != 200 || body != string(want)) {
		t.Errorf("/openapi.json answers %d and %d bytes, want the document", status, len(body))
	}
}

// answers are the types of what is answered in JSON. What /debug shows is for people, and changes.
func answers() map[string]any {
	return map[string]any{
		"GET /api/status": Status{}, "GET /api/gpus": GPUsStatus{}, "GET /api/usage": ledger.Book{},
		"POST /api/wake/{model}": ModelStatus{}, "POST /api/sleep/{model}": ModelStatus{}, "POST /api/stop/{model}": ModelStatus{}, "POST /api/pin/{model}": ModelStatus{}, "POST /api/unpin/{model}": ModelStatus{},
		"GET /api/events": message{},
	}
}

var wild = regexp.MustCompile(`\{(\w+)(\.\.\.)?\}`)

func openAPIOf(t *testing.T) []byte {
	t.Helper()
	paths, schemas := map[string]map[string]any{}, map[string]any{}
	refuses := map[string]any{"description": "Refused; the body says why.", "content": map[string]any{asJSON: map[string]any{"schema": schemaOf(t, problem{}, schemas)}}}
	for _, r := range routes() {
		path := wild.ReplaceAllString(strings.ReplaceAll(r.path, "{$}", ""), "{$1}")
		answer := map[string]any{}
		if v, known := answers()[r.method+" "+path]; known {
			answer["schema"] = schemaOf(t, v, schemas)
		}
		says := map[string]any{"summary": r.says, "responses": map[string]any{"200": map[string]any{"description": "As asked.", "content": map[string]any{r.form: answer}}, "default": refuses}}
		if r.open {
			says["security"] = []any{}
		}
		if r.body != "" {
			says["requestBody"] = map[string]any{"required": true, "content": map[string]any{r.body: map[string]any{}}}
		}
		if all := parametersOf(r); len(all) > 0 {
			says["parameters"] = all
		}
		if paths[path] == nil {
			paths[path] = map[string]any{}
		}
		paths[path][strings.ToLower(r.method)] = says
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

func parametersOf(r route) (all []any) {
	text := map[string]any{"type": "string"}
	for _, m := range wild.FindAllStringSubmatch(r.path, -1) {
		all = append(all, map[string]any{"name": m[1], "in": "path", "required": true, "schema": text})
	}
	for _, q := range r.query {
		all = append(all, map[string]any{"name": q.name, "in": "query", "description": q.says, "schema": text})
	}
	return all
}

// nameOf is a type's name among the schemas; those of other packages may have the same.
func nameOf(t reflect.Type) string {
	if path.Base(t.PkgPath()) == "consul" {
		return "Consul" + t.Name()
	}
	return ""
}

// schemaOf is the schema of a type, whose parts are put among the schemas of all.
func schemaOf(t *testing.T, v any, all map[string]any) any {
	t.Helper()
	text, err := json.Marshal((&jsonschema.Reflector{Anonymous: true, AllowAdditionalProperties: true, Namer: nameOf}).Reflect(v))
	if err != nil {
		t.Fatal(err)
	}
	var s map[string]any
	if err := json.Unmarshal(bytes.ReplaceAll(text, []byte("#/$defs/"), []byte("#/components/schemas/")), &s); err != nil {
		t.Fatal(err)
	}
	parts, _ := s["$defs"].(map[string]any)
	maps.Copy(all, parts)
	delete(s, "$defs")
	delete(s, "$schema")
	return s
}
