package modelsim

import (
	"encoding/json"
	"net/http"
	"time"
)

func (s *server) ollama(mux *http.ServeMux) {
	mux.Handle("POST /api/chat", s.generate(readOllama("message", func(text string) any {
		return object{"role": "assistant", "content": text}
	}), bareRefusal))
	mux.Handle("POST /api/generate", s.generate(readOllama("response", func(text string) any { return text }), bareRefusal))
	list := make([]object, len(s.Models))
	for i, name := range s.Models {
		list[i] = object{"name": name, "model": name, "size": 0, "details": object{"format": "modelsim"}}
	}
	mux.HandleFunc("GET /api/tags", func(w http.ResponseWriter, _ *http.Request) {
		reply(w, http.StatusOK, object{"models": list})
	})
	mux.HandleFunc("GET /api/ps", func(w http.ResponseWriter, _ *http.Request) { // those in memory
		if s.engine.isAsleep() {
			reply(w, http.StatusOK, object{"models": []object{}})
			return
		}
		reply(w, http.StatusOK, object{"models": list})
	})
}

// readOllama reads chats and generations, which differ in the key under which an answer has its words.
func readOllama(key string, said func(text string) any) func([]byte) (request, form, error) {
	line := func(a *answer, text string) object {
		return object{"model": a.model, "created_at": time.Now().UTC().Format(time.RFC3339Nano), key: said(text), "done": false}
	}
	last := func(a *answer, text string) object {
		v := line(a, text)
		v["done"], v["done_reason"] = true, a.finish
		v["total_duration"], v["load_duration"] = time.Since(a.came).Nanoseconds(), 0
		v["prompt_eval_count"], v["prompt_eval_duration"] = a.ofPrompt, a.spoke.Sub(a.came).Nanoseconds()
		v["eval_count"], v["eval_duration"] = a.tokens, time.Since(a.spoke).Nanoseconds()
		return v
	}
	return func(body []byte) (request, form, error) {
		var in struct {
			Model          string
			Messages       []message
			System, Prompt prose
			Stream         *bool
			Options        struct {
				NumPredict *int `json:"num_predict"`
			}
		}
		err := json.Unmarshal(body, &in)
		r := request{
			model: in.Model, prompt: string(in.System) + string(in.Prompt) + transcript(in.Messages),
			stream: in.Stream == nil || *in.Stream,
		}
		if n := in.Options.NumPredict; n != nil && *n > 0 { // -1: without a limit
			r.limit = n
		}
		return r, form{
			contentType: "application/x-ndjson",
			whole:       func(a *answer) any { return last(a, a.text.String()) },
			event: func(a *answer, token string) []byte {
				b := append(encode(line(a, token)), '\n')
				if a.finish != "" {
					b = append(append(b, encode(last(a, ""))...), '\n')
				}
				return b
			},
		}, err
	}
}
