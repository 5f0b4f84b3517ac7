package modelsim

import (
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"strconv"
)

func (s *server) anthropic(mux *http.ServeMux) {
	mux.Handle("POST /v1/messages", s.generate(readMessages, anthropicRefusal))
}

func anthropicRefusal(r refusal) any {
	kind := "invalid_request_error"
	switch {
	case r.status == http.StatusNotFound:
		kind = "not_found_error"
	case r.status == http.StatusRequestEntityTooLarge:
		kind = "request_too_large"
	case r.status >= 500:
		kind = "api_error"
	}
	return object{"type": "error", "error": object{"type": kind, "message": r.message}}
}

func readMessages(body []byte) (request, form, error) {
	var in struct {
		Model     string
		System    prose
		Messages  []message
		MaxTokens *int `json:"max_tokens"`
		Stream    bool
	}
	err := json.Unmarshal(body, &in)
	if err == nil && (in.MaxTokens == nil || len(in.Messages) == 0) {
		err = errors.New("max_tokens and messages: Field required")
	}
	r := request{model: in.Model, prompt: string(in.System) + transcript(in.Messages), limit: in.MaxTokens, stream: in.Stream}
	return r, form{
		contentType: eventStream,
		whole: func(a *answer) any {
			return anthropicMessage(a, []object{{"type": "text", "text": a.text.String()}}, anthropicStop[a.finish])
		},
		event: func(a *answer, token string) (b []byte) {
			add := func(kind string, v object) {
				v["type"] = kind
				b = fmt.Appendf(b, "event: %s\n%s", kind, sse(v))
			}
			if a.tokens == 1 {
				add("message_start", object{"message": anthropicMessage(a, []object{}, nil)})
				add("content_block_start", object{"index": 0, "content_block": object{"type": "text", "text": ""}})
			}
			add("content_block_delta", object{"index": 0, "delta": object{"type": "text_delta", "text": token}})
			if a.finish != "" {
				add("content_block_stop", object{"index": 0})
				stop := object{"stop_reason": anthropicStop[a.finish], "stop_sequence": nil}
				add("message_delta", object{"delta": stop, "usage": object{"output_tokens": a.tokens}})
				add("message_stop", object{})
			}
			return b
		},
	}, err
}

// anthropicStop is Anthropic's word for why an answer ended.
var anthropicStop = map[string]string{"stop": "end_turn", "length": "max_tokens"}

func anthropicMessage(a *answer, content []object, stop any) object {
	return object{
		"id": "msg_" + strconv.Itoa(a.id), "type": "message", "role": "assistant", "model": a.model,
		"content": content, "stop_reason": stop, "stop_sequence": nil,
		"usage": object{"input_tokens": a.ofPrompt, "output_tokens": a.tokens},
	}
}
