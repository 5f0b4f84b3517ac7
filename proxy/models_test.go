package proxy

import (
	"encoding/json"
	"strings"
	"testing"
	"time"

	"pilotlight/config"
	"pilotlight/router"
)

var since = time.Date(2026, 11, 1, 12, 0, 0, 0, time.UTC)

func someModels() []router.ModelStatus {
	return []router.ModelStatus{
		{Name: "llama-8b", Aliases: []string{"gpt-4o", "org/llama"}, State: router.Ready, Size: 16 * config.GiB, Since: since},
		{Name: "llama3:70b", State: router.Asleep, Size: 40 * config.GiB},
	}
}

func noModels() []router.ModelStatus { return nil }

const (
	llamaOpenAI = `{"id":"llama-8b","object":"model","created":1793534400,"owned_by":"pilotlight","state":"ready","aliases":["gpt-4o","org/llama"]}`
	bigOpenAI   = `{"id":"llama3:70b","object":"model","created":0,"owned_by":"pilotlight","state":"asleep","aliases":[]}`

	llamaAnthropic = `{"type":"model","id":"llama-8b","display_name":"llama-8b","created_at":"2026-11-01T12:00:00Z"}`
	bigAnthropic   = `{"type":"model","id":"llama3:70b","display_name":"llama3:70b","created_at":"1970-01-01T00:00:00Z"}`

	details     = `"details":{"parent_model":"","format":"","family":"","families":[],"parameter_size":"","quantization_level":""}`
	llamaDigest = `"digest":"e72766aa09ca06fe8ed6560aa2e0d7b0c86a9a3514b70d84b660174d21411ae0"`
)

func TestListingAnswersWhatIsAskedOfTheEdge(t *testing.T) {
	const byAnthropic = "\nanthropic-version: 2023-06-01"
	tests := []struct {
		name, head string
		models     func() []router.ModelStatus
		status     int
		want       string
	}{
		{"OpenAI's list", "GET /v1/models", someModels, 200, `{"object":"list","data":[` + llamaOpenAI + `,` + bigOpenAI + `]}`},
		{"OpenAI's list of none", "GET /v1/models/?x=y", noModels, 200, `{"object":"list","data":[]}`},
		{"OpenAI's model", "GET /v1/models/llama3:70b", someModels, 200, bigOpenAI},
		{"a model by its alias", "GET /v1/models/gpt-4o", someModels, 200, llamaOpenAI},
		{"a model by an alias with a slash", "GET /v1/models/org%2Fllama", someModels, 200, llamaOpenAI},
		{"a model by an alias with a slash as it is", "GET /v1/models/org/llama", someModels, 200, llamaOpenAI},
		{"an unknown model", "GET /v1/models/gpt-5", someModels, 404, `{"error":{"message":"no model is called \"gpt-5\"; GET /v1/models lists those there are",` +
			`"type":"invalid_request_error","param":"model","code":"model_not_found"}}`},
		{"Anthropic's list", "GET /v1/models" + byAnthropic, someModels, 200, `{"data":[` + llamaAnthropic + `,` + bigAnthropic + `],"has_more":false,"first_id":"llama-8b","last_id":"llama3:70b"}`},
		{"Anthropic's list of none", "GET /v1/models" + byAnthropic, noModels, 200, `{"data":[],"has_more":false,"first_id":null,"last_id":null}`},
		{"Anthropic's model", "GET /v1/models/llama-8b" + byAnthropic, someModels, 200, llamaAnthropic},
		{"Anthropic's unknown model", "GET /v1/models/x" + byAnthropic, someModels, 404, `{"type":"error","error":{"type":"not_found_error",` +
			`"message":"no model is called \"x\"; GET /v1/models lists those there are"}}`},
		{"Ollama's running models", "GET /api/ps", someModels, 200, `{"models":[{"name":"llama-8b","model":"llama-8b","modified_at":"2026-11-01T12:00:00Z","size":17179869184,` +
			`"size_vram":17179869184,` + llamaDigest + `,` + details + `}]}`},
		{"Ollama's list of none", "GET /api/tags", noModels, 200, `{"models":[]}`},
		{"Ollama's version", "GET /api/version", noModels, 200, `{"version":"0.6.8"}`},
		{"the root", "GET /", noModels, 200, "Pilotlight is running"},
		{"the root, as Ollama's client asks", "HEAD /", noModels, 200, "Pilotlight is running"},
		{"KServe, live", "GET /v2/health/live", noModels, 200, `{"live":true}`},
		{"KServe, a model that sleeps is ready", "GET /v2/models/llama-8b/ready", someModels, 200, `{"name":"llama-8b","ready":true}`},
		{"KServe, no such model", "GET /v2/models/nobody/ready", someModels, 404, `{"error":"no model is called \"nobody\"; GET /v1/models lists those there are"}`},
		{"KServe, ready", "GET /v2/health/ready", noModels, 200, `{"ready":true}`},
		{"health", "GET /healthz", noModels, 200, "ok"},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			p, ok := request(t, tt.head, "").listing(tt.models)
			if !ok {
				t.Fatal("not answered")
			}
			if p.status != tt.status || string(p.body) != tt.want {
				t.Errorf("got %d %s; want %d %s", p.status, p.body, tt.status, tt.want)
			}
			if isJSON := json.Valid(p.body); isJSON != (p.contentType == "application/json") {
				t.Errorf("got content type %s", p.contentType)
			}
		})
	}
}

func TestListingOfOllamaHasAllModels(t *testing.T) {
	p, _ := request(t, "GET /api/tags", "").listing(someModels)
	want := `{"models":[{"name":"llama-8b","model":"llama-8b","modified_at":"2026-11-01T12:00:00Z","size":17179869184,` + llamaDigest + `,` + details + `},{"name":"llama3:70b",`
	if !strings.HasPrefix(string(p.body), want) {
		t.Errorf("got %s; want %s...", p.body, want)
	}
}

func TestListingOfKServeNamesTheServer(t *testing.T) {
	p, ok := request(t, "GET /v2", "").listing(noModels)
	var got struct {
		Name       string
		Version    string
		Extensions []string
	}
	if err := json.Unmarshal(p.body, &got); !ok || err != nil || got.Name != "pilotlight" || got.Extensions == nil {
		t.Errorf("got %s, %v", p.body, err)
	}
}

func TestListingLeavesTheRestToTheModels(t *testing.T) {
	for _, head := range []string{"POST /v1/models", "DELETE /v1/models/m", "POST /v1/models/m:predict", "GET /v2/models/m", "GET /v2/models/m/versions/1/ready", "GET /api/show", "GET /upstream/m/v1/models", "OPTIONS *"} {
		models := func() []router.ModelStatus { t.Errorf("%s: asked for the models", head); return nil }
		if p, ok := request(t, head, "").listing(models); ok {
			t.Errorf("%s: answered %s", head, p.body)
		}
	}
}
