package proxy

import (
	"bytes"
	"crypto/sha256"
	"encoding/hex"
	"fmt"
	"net/url"
	"runtime/debug"
	"slices"
	"time"

	"github.com/valyala/fasthttp"

	"pilotlight/router"
)

// ollamaVersion is the release of Ollama whose API this is. Its clients switch features on by it.
const ollamaVersion = "0.6.8"

// page is an answer that the edge gives itself.
type page struct {
	status      int
	contentType string
	body        []byte
}

func textPage(s string) page { return page{fasthttp.StatusOK, "text/plain; charset=utf-8", []byte(s)} }

func jsonPage(v any) page { return page{fasthttp.StatusOK, "application/json", appendJSON(nil, v)} }

// listing answers what clients ask of the edge and not of a model: what there is, and whether it is up. It says
// false where the request is for a model. None of it wakes anything.
func (in *intake) listing(models func() []router.ModelStatus) (page, bool) {
	r := &in.request.Header
	if !r.IsGet() && !r.IsHead() {
		return page{}, false
	}
	path, _, _ := bytes.Cut(originForm(r.RequestURI()), []byte("?"))
	if len(path) > 1 {
		path = bytes.TrimSuffix(path, []byte("/"))
	}
	switch string(path) {
	case "/":
		return textPage("Pilotlight is running"), true
	case "/healthz":
		return textPage("ok"), true
	case "/v1/models":
		if in.head.anthropic {
			return jsonPage(anthropicModels(models())), true
		}
		return jsonPage(openAIModels(models())), true
	case "/api/tags":
		return jsonPage(ollamaModels(models())), true
	case "/api/ps":
		return jsonPage(ollamaRunning(models())), true
	case "/api/version":
		return jsonPage(map[string]string{"version": ollamaVersion}), true
	case "/v2":
		return jsonPage(map[string]any{"name": "pilotlight", "version": version(), "extensions": []string{}}), true
	case "/v2/health/live":
		return jsonPage(map[string]bool{"live": true}), true
	case "/v2/health/ready":
		return jsonPage(map[string]bool{"ready": true}), true
	}
	if id, ok := bytes.CutPrefix(path, []byte("/v1/models/")); ok {
		return oneModel(in.head.anthropic, string(unescape(id, url.PathUnescape)), models()), true
	}
	if id, ok := bytes.CutPrefix(path, []byte("/v2/models/")); ok {
		if id, ok := bytes.CutSuffix(id, []byte("/ready")); ok && bytes.IndexByte(id, '/') < 0 {
			return readyModel(string(unescape(id, url.PathUnescape)), models()), true
		}
	}
	return page{}, false
}

// readyModel is KServe's probe of a model. One that sleeps is ready: it is awake when it is asked for something, and a
// probe asks for nothing.
func readyModel(id string, models []router.ModelStatus) page {
	if find(models, id) < 0 {
		no := unknownModel(id)
		return page{no.Status, "application/json", kserve.refusal(nil, no)}
	}
	return jsonPage(map[string]any{"name": id, "ready": true})
}

// find is the place of a model by its name or an alias; -1 where there is none.
func find(models []router.ModelStatus, id string) int {
	return slices.IndexFunc(models, func(m router.ModelStatus) bool { return m.Name == id || slices.Contains(m.Aliases, id) })
}

func unknownModel(id string) *router.Refusal {
	return &router.Refusal{
		Status: fasthttp.StatusNotFound, Code: router.UnknownModel,
		Reason: fmt.Sprintf("no model is called %q; GET /v1/models lists those there are", id),
	}
}

// version is that of the program, as the Go tool recorded it.
func version() string {
	if b, ok := debug.ReadBuildInfo(); ok {
		return b.Main.Version
	}
	return "unknown"
}

// oneModel is a model by its name or an alias.
func oneModel(fromAnthropic bool, id string, models []router.ModelStatus) page {
	i := find(models, id)
	switch {
	case i >= 0 && fromAnthropic:
		return jsonPage(anthropicOf(models[i]))
	case i >= 0:
		return jsonPage(openAIOf(models[i]))
	}
	api := openAI
	if fromAnthropic {
		api = anthropic
	}
	no := unknownModel(id)
	return page{no.Status, "application/json", api.refusal(nil, no)}
}

// openAIModel is OpenAI's model, and what else we know.
type openAIModel struct {
	ID      string   `json:"id"`
	Object  string   `json:"object"`
	Created int64    `json:"created"` // OpenAI's clients require it; ours is when the state came to be
	OwnedBy string   `json:"owned_by"`
	State   string   `json:"state"`
	Aliases []string `json:"aliases"`
}

func openAIOf(m router.ModelStatus) openAIModel {
	return openAIModel{m.Name, "model", unix(m.Since), "pilotlight", m.State.String(), append([]string{}, m.Aliases...)}
}

type openAIList struct {
	Object string        `json:"object"`
	Data   []openAIModel `json:"data"`
}

func openAIModels(models []router.ModelStatus) openAIList {
	return openAIList{"list", each(models, openAIOf)}
}

type anthropicModel struct {
	Type        string    `json:"type"`
	ID          string    `json:"id"`
	DisplayName string    `json:"display_name"`
	CreatedAt   time.Time `json:"created_at"`
}

func anthropicOf(m router.ModelStatus) anthropicModel {
	return anthropicModel{"model", m.Name, m.Name, time.Unix(unix(m.Since), 0).UTC()}
}

// anthropicList is one page, the only one.
type anthropicList struct {
	Data    []anthropicModel `json:"data"`
	HasMore bool             `json:"has_more"`
	FirstID *string          `json:"first_id"`
	LastID  *string          `json:"last_id"`
}

func anthropicModels(models []router.ModelStatus) anthropicList {
	l := anthropicList{Data: each(models, anthropicOf)}
	if len(models) > 0 {
		l.FirstID, l.LastID = &models[0].Name, &models[len(models)-1].Name
	}
	return l
}

type ollamaModel struct {
	Name       string        `json:"name"`
	Model      string        `json:"model"`
	ModifiedAt time.Time     `json:"modified_at"`
	Size       int64         `json:"size"`                // bytes
	SizeVRAM   int64         `json:"size_vram,omitempty"` // likewise, of those that are awake
	Digest     string        `json:"digest"`              // of the name: clients print the first 12 characters unseen
	Details    ollamaDetails `json:"details"`
}

// ollamaDetails are all there, and empty: only the model server knows them.
type ollamaDetails struct {
	ParentModel       string   `json:"parent_model"`
	Format            string   `json:"format"`
	Family            string   `json:"family"`
	Families          []string `json:"families"`
	ParameterSize     string   `json:"parameter_size"`
	QuantizationLevel string   `json:"quantization_level"`
}

func ollamaOf(m router.ModelStatus) ollamaModel {
	digest := sha256.Sum256([]byte(m.Name))
	return ollamaModel{
		Name: m.Name, Model: m.Name, ModifiedAt: time.Unix(unix(m.Since), 0).UTC(), Size: int64(m.Size),
		Digest: hex.EncodeToString(digest[:]), Details: ollamaDetails{Families: []string{}},
	}
}

type ollamaList struct {
	Models []ollamaModel `json:"models"`
}

func ollamaModels(models []router.ModelStatus) ollamaList { return ollamaList{each(models, ollamaOf)} }

// ollamaRunning lists the models that are awake.
func ollamaRunning(models []router.ModelStatus) ollamaList {
	awake := slices.DeleteFunc(slices.Clone(models), func(m router.ModelStatus) bool {
		return m.State != router.Ready && m.State != router.Draining
	})
	return ollamaList{each(awake, func(m router.ModelStatus) ollamaModel {
		o := ollamaOf(m)
		o.SizeVRAM = o.Size
		return o
	})}
}

// each turns every model into one of an API's own. It is never nil, so that an empty list is written [].
func each[T any](models []router.ModelStatus, turn func(router.ModelStatus) T) []T {
	turned := make([]T, 0, len(models))
	for _, m := range models {
		turned = append(turned, turn(m))
	}
	return turned
}

// unix is a time in seconds; 0 where there is none.
func unix(t time.Time) int64 {
	if t.IsZero() {
		return 0
	}
	return t.Unix()
}
