package modelsim

import (
	"encoding/json"
	"strings"
	"testing"
)

// Whatever a client sends, a server either says no or writes an answer that is JSON.
func FuzzEveryRequestIsReadOrRefused(f *testing.F) {
	f.Add(`{"model":"m","prompt":"hi","stream":true,"stream_options":{"include_usage":true}}`)
	f.Add(`{"model":"m","max_tokens":1,"messages":[{"role":"user","content":[{"type":"text","text":"hi"},"you",3]}]}`)
	f.Add(`{"messages":[{"content":null}],"system":{"text":7},"options":{"num_predict":-1},"prompt":[[1,2],"\ud800"]}`)
	readers := map[string]func([]byte) (request, form, error){
		"chat": chatShape.read, "completion": completionShape.read, "messages": readMessages,
		"ollama": readOllama("response", func(text string) any { return text }),
	}
	s := &server{Options: Defaults()}
	f.Fuzz(func(t *testing.T, body string) {
		for name, read := range readers {
			req, form, err := read([]byte(body))
			if err != nil {
				continue
			}
			req.model = "sim"
			q, err := s.sequence(req)
			if err != nil {
				continue
			}
			a := &answer{request: req, ofPrompt: q.prompt, tokens: 1, finish: q.finish}
			if _, err := json.Marshal(form.whole(a)); err != nil || q.want < 1 {
				t.Errorf("%s of %q: %v, %d tokens", name, body, err, q.want)
			}
			for line := range strings.Lines(string(form.event(a, "炎"))) {
				if line = strings.TrimPrefix(line, "data: "); line[0] == '{' && !json.Valid([]byte(line)) {
					t.Errorf("%s of %q: the event %q is not JSON", name, body, line)
				}
			}
		}
	})
}
