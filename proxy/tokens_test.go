package proxy

import (
	"strings"
	"testing"
)

func TestTokensAreThoseThatTheEngineCounted(t *testing.T) {
	for name, tt := range map[string]struct {
		pieces         []string
		prompt, answer int64
	}{
		"OpenAI": {[]string{`{"choices":[],"usage":{"prompt_tokens":12,"prompt_tokens_details":{"cached_tokens":4},"completion_tokens": 345,"total_tokens":357}}`}, 12, 345},
		"a stream of it": {
			[]string{`data: {"usage":null}` + "\n\n", `data: {"choices":[],"usage":{"completion_tokens":7,"prompt_tokens":3}}` + "\n\n", "data: [DONE]\n\n"}, 3, 7,
		},
		"Anthropic": {
			[]string{`data: {"message":{"usage":{"input_tokens":25,"output_tokens":1}}}` + "\n\n", `data: {"usage":{"output_tokens":15}}` + "\n\n"}, 25, 15,
		},
		"Ollama":                   {[]string{`{"done":true,"prompt_eval_count":26,"prompt_eval_duration":1,"eval_count":290,"eval_duration":2}`}, 26, 290},
		"a text that speaks of it": {[]string{`{"text":"{\"completion_tokens\": 99999}"}`}, 0, 0},
		"a number that is cut off": {[]string{`{"usage":{"prompt_tokens":1`}, 0, 0},
		"a long answer":            {[]string{strings.Repeat("x", 1<<20) + `"usage":{"prompt_tokens":1,"completion_tokens":2}}`}, 1, 2},
		"a number of nobody":       {[]string{`"prompt_tokens":99999999999999999999,"completion_tokens":-1,`}, 0, 0},
	} {
		v := &visit{edge: &Edge{listeners: []Listener{nil}}}
		for _, p := range tt.pieces {
			v.countTokens([]byte(p))
		}
		if v.PromptTokens != tt.prompt || v.Tokens != tt.answer {
			t.Errorf("%s: got %d and %d tokens, want %d and %d", name, v.PromptTokens, v.Tokens, tt.prompt, tt.answer)
		}
	}
}

func BenchmarkCountTokens(b *testing.B) {
	v := &visit{edge: &Edge{listeners: []Listener{nil}}}
	piece := []byte(`data: {"id":"chatcmpl-123","object":"chat.completion.chunk","created":1,"model":"llama","choices":[{"index":0,"delta":{"content":" word"},"finish_reason":null}]}` + "\n\n")
	b.SetBytes(int64(len(piece)))
	for b.Loop() {
		v.countTokens(piece)
	}
}
