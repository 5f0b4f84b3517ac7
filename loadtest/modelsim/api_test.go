package modelsim_test

import (
	"crypto/sha256"
	"encoding/base64"
	"encoding/binary"
	"encoding/json"
	"fmt"
	"math"
	"net/http"
	"strings"
	"testing"
	"testing/synctest"
)

type object = map[string]any

// The same question in every API, the place of the text in a whole answer, and in an event of a stream.
var questions = []struct {
	path         string
	body         object
	whole, event []any
	usage        string // of the whole answer
}{
	{
		"/v1/chat/completions",
		object{"max_tokens": 5, "messages": []object{{"role": "user", "content": "why?"}}},
		[]any{"choices", 0, "message", "content"},
		[]any{"choices", 0, "delta", "content"},
		`"usage":{"completion_tokens":5,"prompt_tokens":1,"total_tokens":6}`,
	},
	{
		"/v1/chat/completions",
		object{"max_completion_tokens": 5, "messages": []object{{"role": "user", "content": []object{{"type": "text", "text": "why?"}}}}},
		[]any{"choices", 0, "message", "content"},
		[]any{"choices", 0, "delta", "content"},
		`"finish_reason":"length"`,
	},
	{
		"/v1/completions",
		object{"max_tokens": 5, "prompt": "why?"},
		[]any{"choices", 0, "text"},
		[]any{"choices", 0, "text"},
		`"usage":{"completion_tokens":5,"prompt_tokens":1,"total_tokens":6}`,
	},
	{
		"/v1/messages",
		object{"max_tokens": 5, "messages": []object{{"role": "user", "content": "why?"}}},
		[]any{"content", 0, "text"},
		[]any{"delta", "text"},
		`"usage":{"input_tokens":1,"output_tokens":5}`,
	},
	{
		"/api/chat",
		object{"options": object{"num_predict": 5}, "messages": []object{{"role": "user", "content": "why?"}}},
		[]any{"message", "content"},
		[]any{"message", "content"},
		`"eval_count":5`,
	},
	{
		"/api/generate",
		object{"options": object{"num_predict": 5}, "prompt": "why?"},
		[]any{"response"},
		[]any{"response"},
		`"prompt_eval_count":1`,
	},
}

func TestEveryAPIGivesTheSameAnswerWholeAndInPieces(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		l := newLab(t, quick())
		synctest.Wait()
		const answer = "from from spark the by" // also tomorrow, and on another machine
		for _, q := range questions {
			q.body["model"], q.body["stream"] = "m", false
			_, got := l.do(http.MethodPost, q.path, q.body)
			if text := at(t, got, q.whole); text != answer || !strings.Contains(got, q.usage) {
				t.Errorf("%s: got %s, want %q and %s", q.path, got, answer, q.usage)
			}
			q.body["stream"] = true
			_, got = l.do(http.MethodPost, q.path, q.body)
			pieces := ""
			for line := range strings.Lines(got) {
				if line = strings.TrimPrefix(line, "data: "); strings.HasPrefix(line, "{") {
					pieces += at(t, line, q.event)
				}
			}
			if pieces != answer {
				t.Errorf("%s: got the pieces %q, want %q, from\n%s", q.path, pieces, answer, got)
			}
		}
	})
}

// at is the text at a place in a JSON document, or nothing.
func at(t *testing.T, document string, place []any) string {
	t.Helper()
	var v any
	if err := json.Unmarshal([]byte(document), &v); err != nil {
		t.Errorf("%s: %v", document, err)
	}
	for _, key := range place {
		switch key := key.(type) {
		case string:
			in, _ := v.(object)
			v = in[key]
		case int:
			in, _ := v.([]any)
			if key >= len(in) {
				return ""
			}
			v = in[key]
		}
	}
	text, _ := v.(string)
	return text
}

func TestStreamsHaveTheEventsOfTheirAPI(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		l := newLab(t, quick())
		synctest.Wait()
		l.want(http.MethodPost, "/v1/chat/completions", object{
			"model": "m", "max_tokens": 1, "stream": true, "stream_options": object{"include_usage": true},
			"messages": []object{{"role": "user", "content": "hi"}},
		}, 200, `"choices":[],"created":946684800,"id":"chatcmpl-1","model":"m","object":"chat.completion.chunk",`+
			`"usage":{"completion_tokens":1,"prompt_tokens":1,"total_tokens":2}}`+"\n\ndata: [DONE]\n\n")

		_, got := l.do(http.MethodPost, "/v1/messages", object{
			"model": "m", "max_tokens": 2, "stream": true, "messages": []object{{"role": "user", "content": "hi"}},
		})
		var events []string
		for line := range strings.Lines(got) {
			if name, is := strings.CutPrefix(line, "event: "); is {
				events = append(events, strings.TrimSpace(name))
			}
		}
		if got, want := strings.Join(events, " "), "message_start content_block_start content_block_delta content_block_delta "+
			"content_block_stop message_delta message_stop"; got != want {
			t.Errorf("got  %s\nwant %s", got, want)
		}

		_, got = l.do(http.MethodPost, "/api/generate", object{"model": "m", "prompt": "hi", "options": object{"num_predict": 3}})
		if lines := strings.Split(strings.TrimSpace(got), "\n"); len(lines) != 4 || !strings.Contains(lines[3], `"done":true,"done_reason":"length"`) {
			t.Errorf("got %s, want three tokens and the end, since Ollama streams by default", got)
		}
	})
}

func TestTheLengthOfAnAnswer(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		o := quick()
		o.Answer, o.KVTokens = 8, 40
		l := newLab(t, o)
		synctest.Wait()
		for _, test := range []struct {
			body   object
			tokens int
			finish string
		}{
			{object{}, 8, "stop"},
			{object{"max_tokens": 100}, 8, "stop"},
			{object{"max_tokens": 3}, 3, "length"},
			{object{"max_tokens": 30, "ignore_eos": true}, 30, "length"},
			{object{"ignore_eos": true}, 39, "length"}, // what the KV cache has room for
		} {
			test.body["model"], test.body["messages"] = "m", []object{{"role": "user", "content": "hi"}}
			_, got := l.do(http.MethodPost, "/v1/chat/completions", test.body)
			if !strings.Contains(got, fmt.Sprintf(`"completion_tokens":%d,`, test.tokens)) || !strings.Contains(got, `"finish_reason":"`+test.finish) {
				t.Errorf("%v: got %s, want %d tokens and %s", test.body, got, test.tokens, test.finish)
			}
		}
	})
}

func TestEmbeddingsAreTheSameAsNumbersAndPacked(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		l := newLab(t, quick())
		synctest.Wait()
		var numbers struct {
			Data  []struct{ Embedding []float32 }
			Usage struct {
				PromptTokens int `json:"prompt_tokens"`
			}
		}
		_, got := l.do(http.MethodPost, "/v1/embeddings", object{"model": "m", "input": []string{"one", "two and a half"}, "dimensions": 8})
		if err := json.Unmarshal([]byte(got), &numbers); err != nil || len(numbers.Data) != 2 || numbers.Usage.PromptTokens != 5 {
			t.Fatalf("got %s (%v), want two vectors of 5 tokens", got, err)
		}
		l.wantTime("embedded", 11e6)
		var packed struct{ Data []struct{ Embedding string } }
		_, got = l.do(http.MethodPost, "/v1/embeddings", object{"model": "m", "input": "two and a half", "dimensions": 8, "encoding_format": "base64"})
		if err := json.Unmarshal([]byte(got), &packed); err != nil || len(packed.Data) != 1 {
			t.Fatalf("got %s (%v), want one vector", got, err)
		}
		raw, err := base64.StdEncoding.DecodeString(packed.Data[0].Embedding)
		if err != nil || len(raw) != 32 {
			t.Fatalf("got %d bytes (%v), want 8 numbers", len(raw), err)
		}
		for i, want := range numbers.Data[1].Embedding {
			if got := math.Float32frombits(binary.LittleEndian.Uint32(raw[4*i:])); got != want {
				t.Errorf("number %d: got %v packed, want %v", i, got, want)
			}
		}
		l.wantMetrics("vllm:generation_tokens_total 0", "vllm:prompt_tokens_total 9")
	})
}

func TestInferGivesItsInputsBack(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		l := newLab(t, quick())
		synctest.Wait()
		l.want(http.MethodGet, "/v2/health/ready", nil, 200, "")
		l.want(http.MethodGet, "/v2/models/m/ready", nil, 200, "")
		l.want(http.MethodPost, "/v2/models/m/infer", object{
			"id": "7", "inputs": []object{{"name": "INPUT0", "shape": []int{1, 2}, "datatype": "FP32", "data": []float64{1.5, 2}}},
		}, 200, `{"id":"7","model_name":"m","model_version":"1","outputs":[{"data":[1.5,2],"datatype":"FP32","name":"OUTPUT0","shape":[1,2]}]}`)
	})
}

func TestModelsAreListed(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		o := quick()
		o.Models = []string{"m", "alias"}
		l := newLab(t, o)
		synctest.Wait()
		for _, path := range []string{"/v1/models", "/api/tags", "/api/ps"} {
			l.want(http.MethodGet, path, nil, 200, `"m"`)
			l.want(http.MethodGet, path, nil, 200, `"alias"`)
		}
		l.want(http.MethodPost, "/sleep", nil, 200, "")
		l.want(http.MethodGet, "/api/ps", nil, 200, `{"models":[]}`)
	})
}

func TestEveryAPISaysNoInItsOwnWords(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		l := newLab(t, quick())
		synctest.Wait()
		hi := []object{{"role": "user", "content": "hi"}}
		for _, test := range []struct {
			path   string
			body   any
			status int
			want   string
		}{
			{
				"/v1/chat/completions",
				object{"model": "x", "messages": hi},
				404,
				"{\"error\":{\"code\":404,\"message\":\"The model `x` does not exist.\",\"param\":\"model\",\"type\":\"NotFoundError\"}}",
			},
			{"/v1/chat/completions", object{"model": "m"}, 400, `"type":"BadRequestError"`},
			{"/v1/chat/completions", object{"model": "m", "messages": hi, "max_tokens": 0}, 400, "at least 1"},
			{"/v1/chat/completions", object{"model": "m", "messages": hi, "max_tokens": math.MaxInt64, "ignore_eos": true}, 400, "maximum context length"},
			{"/v1/completions", "not an object", 400, `"type":"BadRequestError"`},
			{"/v1/embeddings", object{"model": "x", "input": "hi"}, 404, `"type":"NotFoundError"`},
			{"/v1/embeddings", object{"model": "m"}, 400, `"type":"BadRequestError"`},
			{"/v1/messages", object{"model": "x", "max_tokens": 1, "messages": hi}, 404, `{"error":{"message":"The model`},
			{"/v1/messages", object{"model": "m", "messages": hi}, 400, `"type":"invalid_request_error"`},
			{"/api/chat", object{"model": "x", "messages": hi}, 404, "{\"error\":\"The model `x` does not exist.\"}"},
			{"/v2/models/x/infer", object{}, 404, `{"error":`},
			{"/v2/models/m/infer", object{}, 400, `{"error":`},
		} {
			l.want(http.MethodPost, test.path, test.body, test.status, test.want)
		}
	})
}

func TestAnEchoSaysWhatArrived(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		l := newLab(t, quick())
		synctest.Wait()
		arrived := []string{
			`"method":"POST"`, `"path":"/echo"`, `"query":"a=b"`, `"X-Modelsim-Echo":["1"]`, `"body_length":9`,
			fmt.Sprintf(`"body_sha256":"%x"`, sha256.Sum256([]byte(`{"a":"b"}`))),
		}
		for path, status := range map[string]int{"/echo?a=b": 200, "/v1/completions?a=b": 400} { // an answer of its own, or in the header of another
			req, err := http.NewRequestWithContext(t.Context(), http.MethodPost, "http://sim"+path, strings.NewReader(`{"a":"b"}`))
			if err != nil {
				t.Fatal(err)
			}
			req.Header.Set("X-Modelsim-Echo", "1")
			resp, err := l.client.Do(req)
			if err != nil {
				t.Fatal(err)
			}
			_ = resp.Body.Close()
			got := resp.Header.Get("X-Modelsim-Echo")
			for _, want := range arrived {
				if want = strings.Replace(want, "/echo", req.URL.Path, 1); !strings.Contains(got, want) || resp.StatusCode != status {
					t.Errorf("%s: got %d and %s, want %d and %s", path, resp.StatusCode, got, status, want)
				}
			}
		}
		l.want(http.MethodPut, "/echo", "hi", 200, `"body_length":4`)
	})
}
