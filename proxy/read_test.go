package proxy

import (
	"encoding/json"
	"fmt"
	"strings"
	"testing"

	"pilotlight/router"
)

// request makes a request of a head, whose lines end in \n, and a body.
func request(t testing.TB, head, body string) *intake {
	t.Helper()
	in := &intake{}
	line, fields, _ := strings.Cut(head, "\n")
	method, target, _ := strings.Cut(line, " ")
	in.is(&requestLine{[]byte(method), []byte(target), true})
	if fields != "" {
		fields = strings.ReplaceAll(fields, "\n", "\r\n") + "\r\n"
	}
	if err := in.head.scan([]byte(fields)); err != nil {
		t.Fatalf("%q: %v", head, err)
	}
	in.request.SetBodyRaw([]byte(body))
	return in
}

const asJSON = "\nContent-Type: application/json"

// asForm is the header of a form whose boundary is B.
const asForm = "\nContent-Type: multipart/form-data; boundary=B"

func formField(name, value string) string {
	return "--B\r\nContent-Disposition: form-data; name=\"" + name + "\"\r\n\r\n" + value + "\r\n"
}

func formFile(name, value string) string {
	return "--B\r\nContent-Disposition: form-data; name=\"" + name + "\"; filename=\"a.wav\"\r\nContent-Type: audio/wav\r\n\r\n" + value + "\r\n"
}

func TestReadFindsTheModelWhereverItIs(t *testing.T) {
	tests := []struct {
		name, head, body string
		model            string
		api              api
		stream           bool
	}{
		{"a JSON body", "POST /v1/chat/completions" + asJSON, `{"model":"m","stream":true}`, "m", openAI, true},
		{"a JSON body without stream", "POST /v1/chat/completions" + asJSON, `{"messages":[{"model":"no"}],"model":"m"}`, "m", openAI, false},
		{"a JSON body with a charset", "POST /v1/embeddings" + asJSON + "; charset=utf-8", `{"model":"m"}`, "m", openAI, false},
		{"a JSON dialect", "POST /x\ncontent-type: application/vnd.api+json", `{"model":"m"}`, "m", openAI, false},
		{"curl -d", "POST /v1/completions\nContent-Type: application/x-www-form-urlencoded", "\n {\"model\":\"m\"}", "m", openAI, false},
		{"no content type", "POST /v1/completions", `{"model":"m"}`, "m", openAI, false},
		{"Anthropic", "POST /v1/messages?beta=true" + asJSON, `{"model":"m","stream":true}`, "m", anthropic, true},
		{"Ollama streams lines, not events", "POST /api/chat" + asJSON, `{"model":"m","stream":true}`, "m", ollama, false},
		{"Ollama's older word", "POST /api/show" + asJSON, `{"name":"m"}`, "m", ollama, false},
		{"Ollama's newer word first", "POST /api/show" + asJSON, `{"name":"n","model":"m"}`, "m", ollama, false},
		{"name means something else elsewhere", "POST /v1/x?model=m" + asJSON, `{"name":"n"}`, "m", openAI, false},
		{"KServe v2", "POST /v2/models/m/infer" + asJSON, `{"inputs":[]}`, "m", kserve, false},
		{"a version", "POST /v2/models/m/versions/1/infer", "", "m", kserve, false},
		{"is it ready", "GET /v2/models/m/ready", "", "m", kserve, false},
		{"its metadata", "GET /v2/models/m?x=y", "", "m", kserve, false},
		{"Triton streams by path", "POST /v2/models/m/generate_stream" + asJSON, `{"text":"x"}`, "m", kserve, true},
		{"KServe v1", "POST /v1/models/m:predict" + asJSON, `{"instances":[]}`, "m", kserve, false},
		{"TensorFlow Serving with a version", "POST /v1/models/m/versions/2:predict", "", "m", kserve, false},
		{"a name with a colon", "DELETE /v1/models/llama3:8b", "", "llama3:8b", openAI, false},
		{"a name with a colon and a verb", "POST /v1/models/llama3:8b:predict", "", "llama3:8b", kserve, false},
		{"Gemini", "POST /v1beta/models/m:generateContent", "", "m", openAI, false},
		{"Azure", "POST /openai/deployments/m/chat/completions?api-version=1" + asJSON, `{"stream":true}`, "m", openAI, true},
		{"upstream", "GET /upstream/m/metrics", "", "m", openAI, false},
		{"upstream alone", "GET /upstream/m?x=y", "", "m", openAI, false},
		{"upstream with a slash in the name", "POST /upstream/org%2Fm/v1/messages" + asJSON, `{"stream":true}`, "org/m", anthropic, true},
		{"a header in any case", "POST /v1/x\nx-PilotLight-model: m", "raw", "m", openAI, false},
		{"a header, with an encoded body", "POST /v1/x\nX-Pilotlight-Model: m\nContent-Encoding: gzip" + asJSON, "\x1f\x8b", "m", openAI, false},
		{"identity is no encoding", "POST /v1/x\ncontent-encoding: identity" + asJSON, `{"model":"m"}`, "m", openAI, false},
		{"a form", "POST /v1/audio/transcriptions" + asForm, formFile("file", "\r\n--x") + formField("model", "m") + formField("stream", "true") + "--B--\r\n", "m", openAI, true},
		{"a query", "GET /v1/realtime?a=b&model=org%2Fm+1&c", "", "org/m 1", openAI, false},
		{"a whole URL", "GET http://example.test/v2/models/m", "", "m", kserve, false},
		{"a whole URL without a path", "GET http://example.test?model=m", "", "m", openAI, false},
		{"Anthropic's client elsewhere", "POST /v1/other\nanthropic-version: 2023-06-01" + asJSON, `{"model":"m"}`, "m", anthropic, false},

		{"upstream before the path", "POST /upstream/m/v2/models/n/infer", "", "m", kserve, false},
		{"the path before the header", "POST /v2/models/m/infer\nX-Pilotlight-Model: n", "", "m", kserve, false},
		{"the header before the body", "POST /v1/x\nX-Pilotlight-Model: m" + asJSON, `{"model":"n"}`, "m", openAI, false},
		{"the body before the query", "POST /v1/x?model=n" + asJSON, `{"model":"m"}`, "m", openAI, false},
		{"the query where the body has null", "POST /v1/x?model=m" + asJSON, `{"model":null}`, "m", openAI, false},
		{"a body that is the backend's business", "POST /upstream/m/x" + asJSON, `[1]`, "m", openAI, false},
		{"two models in a body that is the backend's business", "POST /upstream/m/x" + asJSON, `{"model":"a","model":"b"}`, "m", openAI, false},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			r := request(t, tt.head, tt.body)
			a := &r.ask
			if no := r.read(); no != nil {
				t.Fatalf("refused: %v", no)
			}
			if a.model != tt.model || a.api != tt.api || a.stream != tt.stream {
				t.Errorf("got model %q, api %d, stream %t; want %q, %d, %t", a.model, a.api, a.stream, tt.model, tt.api, tt.stream)
			}
			if string(a.body()) != tt.body {
				t.Errorf("the body was touched: %q", a.body())
			}
		})
	}
}

func TestReadRefuses(t *testing.T) {
	tests := []struct {
		name, head, body string
		status           int
		code             router.Code
		reason           string // part of it
	}{
		{"no model", "POST /v1/chat/completions" + asJSON, `{}`, 400, router.NoModel, "names no model"},
		{"an empty model", "POST /v1/chat/completions" + asJSON, `{"model":""}`, 400, router.NoModel, "names no model"},
		{"no body", "POST /v1/chat/completions" + asJSON, ``, 400, router.NoModel, "names no model"},
		{"an empty segment", "POST /upstream//v1/x", ``, 400, router.NoModel, "names no model"},
		{"a path of no API", "GET /favicon.ico", ``, 400, router.NoModel, "names no model"},
		{"a number for a model", "POST /v1/x" + asJSON, `{"model":5}`, 400, router.BadRequest, `"model" must be a string`},
		{"two models", "POST /v1/x" + asJSON, `{"model":"a","mod\u0065l":"a"}`, 400, router.BadRequest, "twice"},
		{"two models in a form", "POST /v1/x" + asForm, formField("model", "a") + formField("model", "a") + "--B--", 400, router.BadRequest, "twice"},
		{"malformed JSON", "POST /v1/x" + asJSON, `{"model":"m","a" 5}`, 400, router.BadRequest, "malformed JSON at byte 17: expected a colon"},
		{"an array", "POST /v1/x" + asJSON, `[]`, 400, router.BadRequest, "malformed JSON at byte 0: expected an object"},
		{"a form that ends early", "POST /v1/x" + asForm, formField("model", "m"), 400, router.BadRequest, "expected a closing boundary"},
		{"a form without a boundary", "POST /v1/x\nContent-Type: multipart/form-data", "x", 400, router.BadRequest, "must give its boundary"},
		{"an encoded body", "POST /v1/x\ncontent-encoding: gzip" + asJSON, "\x1f\x8b", 415, router.BadRequest, "X-Pilotlight-Model"},
		{"a very long name", "POST /v1/x" + asJSON, `{"model":"` + strings.Repeat("m", maxName+1) + `"}`, 400, router.BadRequest, "longer than 512 bytes"},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			r := request(t, tt.head, tt.body)
			r.ask.model = "the last one"
			no := r.read()
			if no == nil {
				t.Fatalf("read model %q; want a refusal", r.ask.model)
			}
			if no.Status != tt.status || no.Code != tt.code || !strings.Contains(no.Reason, tt.reason) {
				t.Errorf("got %d %s %q; want %d %s with %q", no.Status, no.Code, no.Reason, tt.status, tt.code, tt.reason)
			}
			if r.ask.model != "" {
				t.Errorf("a refused request has the model %q", r.ask.model)
			}
		})
	}
}

func TestRenameChangesEveryPlaceThatNamesTheModel(t *testing.T) {
	form := func(model string) string {
		return formFile("file", "m") + formField("model", model) + formField("language", "m") + "--B--\r\n"
	}
	tests := []struct {
		name, head, body string
		to               string
		target, sent     string
	}{
		{"a JSON body", "POST /v1/x?a=b" + asJSON, `{"a":"m", "model" : "m" ,"b":"m"}`, `new/"one"`, "/v1/x?a=b", `{"a":"m", "model" : "new/\"one\"" ,"b":"m"}`},
		{"an escaped name", "POST /v1/x" + asJSON, `{"model":"\u006d"}`, "n", "/v1/x", `{"model":"n"}`},
		{"to the same", "POST /v1/x" + asJSON, `{"model":"\u006d"}`, "m", "/v1/x", `{"model":"\u006d"}`},
		{"Ollama's older word", "POST /api/show" + asJSON, `{"name":"m"}`, "n", "/api/show", `{"name":"n"}`},
		{"a path", "POST /v2/models/m/infer", "m", "org/n", "/v2/models/org%2Fn/infer", "m"},
		{"a path with a verb", "POST /v1/models/m:predict?x", "", "n", "/v1/models/n:predict?x", ""},
		{"a path and a query", "POST /v2/models/m/infer?x=y&model=m&z", "", "o n", "/v2/models/o%20n/infer?x=y&model=o+n&z", ""},
		{"upstream is cut off", "POST /upstream/m/v1/x?y" + asJSON, `{"model":"m"}`, "n", "/v1/x?y", `{"model":"n"}`},
		{"upstream alone", "GET /upstream/m?y", "", "n", "/?y", ""},
		{"another name in the body is the backend's business", "POST /upstream/m/v1/x" + asJSON, `{"model":"other"}`, "n", "/v1/x", `{"model":"other"}`},
		{"a header and a body that agree", "POST /v1/x\nX-Pilotlight-Model: m" + asJSON, `{"model":"m"}`, "n", "/v1/x", `{"model":"n"}`},
		{"a form", "POST /v1/x" + asForm, form("m"), "longer", "/v1/x", form("longer")},
		{"a whole URL", "GET http://example.test/v2/models/m", "", "n", "/v2/models/n", ""},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			r := request(t, tt.head, tt.body)
			a := &r.ask
			if no := r.read(); no != nil {
				t.Fatalf("refused: %v", no)
			}
			a.rename("something else first")
			a.rename(tt.to)
			if got := string(a.target()); got != tt.target {
				t.Errorf("got target %s; want %s", got, tt.target)
			}
			if got := string(a.body()); got != tt.sent {
				t.Errorf("got body %s; want %s", got, tt.sent)
			}
			if string(r.request.Body()) != tt.body {
				t.Errorf("the client's own body was changed: %q", r.request.Body())
			}
		})
	}
}

func TestCheckReadsWhatReadSkims(t *testing.T) {
	r := request(t, "POST /v1/x"+asJSON, `{"model":"m","n":1.2.3}`)
	a := &r.ask
	if no := r.read(); no != nil {
		t.Fatalf("refused: %v", no)
	}
	no := a.check()
	if no == nil || no.Status != 400 || !strings.HasPrefix(no.Reason, "malformed JSON at byte 20: ") {
		t.Errorf("got %v; want malformed JSON at byte 20", no)
	}
}

// FuzzRename: what is sent on is the same object, but for the model.
func FuzzRename(f *testing.F) {
	f.Add([]byte(`{"a":"m","model":"m"}`), "n")
	f.Add([]byte(` {"model" : "\u006d\"" ,"x":[]}`), "a/\"b\"<é>\xff")
	f.Fuzz(func(t *testing.T, src []byte, name string) {
		r := request(t, "POST /v1/x"+asJSON, string(src))
		a := &r.ask
		var want map[string]any
		if no := r.read(); no != nil || json.Unmarshal(src, &want) != nil {
			return
		}
		a.rename(name)
		if name != a.model {
			want["model"] = strings.ToValidUTF8(name, "\ufffd")
		}
		var got map[string]any
		if err := json.Unmarshal(a.body(), &got); err != nil {
			t.Fatalf("%q became %q: %v", src, a.body(), err)
		}
		gotText, wantText := fmt.Sprintf("%#v", got), fmt.Sprintf("%#v", want)
		if invalid := strings.ToValidUTF8(name, "") != name; !invalid && gotText != wantText {
			t.Errorf("got %s; want %s", gotText, wantText)
		}
	})
}

func TestReadDoesNotAllocateForTheModelItReadLast(t *testing.T) {
	r := request(t, "POST /v1/chat/completions\nAuthorization: Bearer x\nUser-Agent: y"+asJSON, chat(1<<10))
	got := testing.AllocsPerRun(100, func() {
		if no := r.read(); no != nil {
			t.Fatal(no)
		}
	})
	if got != 0 {
		t.Errorf("%v allocations; want 0", got)
	}
}

func BenchmarkRead(b *testing.B) {
	r := request(b, "POST /v1/chat/completions\nAuthorization: Bearer x\nUser-Agent: y\nAccept: */*"+asJSON, chat(1<<10))
	b.ReportAllocs()
	for b.Loop() {
		if no := r.read(); no != nil {
			b.Fatal(no)
		}
	}
}
