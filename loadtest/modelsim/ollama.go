package modelsim

import (
	"encoding/json"
	"net/http"
	"time"
)

func (s *server) ollama(mux *http.ServeMux) {
	mux.Handle("POST /api/chat", s.generate(api{readOllama(func(text string) (string, any) {
		return "message", object{"role": "assistant", "content": text}
	}), ollamaRefusal}))
	mux.Handle("POST /api/generate", s.generate(api{readOllama(func(text string) (string, any) {
		return "response", text
	}), ollamaRefusal}))
	mux.HandleFunc("GET /api/tags", s.ollamaModels(func() bool { return true }))
	mux.HandleFunc("GET /api/ps", s.ollamaModels(func() bool { return !s.engine.isAsleep() }))
}

// ollamaModels lists the models while there are any to show.
func (s *server) ollamaModels(shown func() bool) http.HandlerFunc {
	return func(w http.ResponseWriter, _ *http.Request) {
		list := []object{}
		for _, name := range s.Models {
			if shown() {
				list = append(list, object{"name": name, "model": name, "size": 0, "details": object{"format": "modelsim"}})
			}
		}
		reply(w, http.StatusOK, object{"models": list})
	}
}

func ollamaRefusal(r refusal) any { return object{"error": r.message} }

// readOllama reads chats and generations, which differ in where an answer has its words.
func readOllama(say func(text string) (key string, v any)) func([]byte) (request, form, error) {
	line := func(a *answer, text string, done bool) object {
		key, v := say(text)
		return object{"model": a.model, "created_at": time.Now().UTC().Format(time.RFC3339Nano), key: v, "done": done}
	}
	last := func(a *answer, text string) object {
		v := line(a, text, true)
		v["done_reason"] = a.finish
		v["total_duration"] = time.Since(a.came).Nanoseconds()
		v["load_duration"] = 0
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
				b := append(encode(line(a, token, false)), '\n')
				if a.finish != "" {
					b = append(append(b, encode(last(a, ""))...), '\n')
				}
				return b
			},
		}, err
	}
}
