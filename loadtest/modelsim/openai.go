package modelsim

import (
	"encoding/base64"
	"encoding/binary"
	"encoding/json"
	"errors"
	"fmt"
	"math"
	"net/http"
	"strconv"
	"time"
)

func (s *server) openAI(mux *http.ServeMux) {
	started := time.Now().Unix()
	mux.HandleFunc("GET /v1/models", func(w http.ResponseWriter, _ *http.Request) {
		var list []object
		for _, name := range s.Models {
			list = append(list, object{"id": name, "object": "model", "created": started, "owned_by": "modelsim", "root": name, "max_model_len": s.KVTokens})
		}
		reply(w, http.StatusOK, object{"object": "list", "data": list})
	})
	mux.Handle("POST /v1/chat/completions", s.generate(api{readChat, openAIRefusal}))
	mux.Handle("POST /v1/completions", s.generate(api{readCompletion, openAIRefusal}))
	mux.HandleFunc("POST /v1/embeddings", s.embed)
}

// openAIRefusal says no as vLLM does.
func openAIRefusal(r refusal) any {
	kind, param := "BadRequestError", any(nil)
	switch {
	case r.status == http.StatusNotFound:
		kind, param = "NotFoundError", "model"
	case r.status >= 500:
		kind = "InternalServerError"
	}
	return object{"error": object{"message": r.message, "type": kind, "param": param, "code": r.status}}
}

// openAIRequest is what chats and completions have in common.
type openAIRequest struct {
	Model               string
	Messages            []message
	Prompt              prose
	MaxTokens           *int `json:"max_tokens"`
	MaxCompletionTokens *int `json:"max_completion_tokens"`
	IgnoreEOS           bool `json:"ignore_eos"` // of vLLM
	Stream              bool
	StreamOptions       struct {
		IncludeUsage bool `json:"include_usage"`
	} `json:"stream_options"`
}

func readOpenAI(body []byte) (o openAIRequest, r request, err error) {
	if err := json.Unmarshal(body, &o); err != nil {
		return o, r, err
	}
	r = request{model: o.Model, prompt: string(o.Prompt), limit: o.MaxTokens, endless: o.IgnoreEOS, stream: o.Stream}
	if o.MaxCompletionTokens != nil {
		r.limit = o.MaxCompletionTokens
	}
	return o, r, nil
}

func readChat(body []byte) (request, form, error) {
	o, r, err := readOpenAI(body)
	if err == nil && len(o.Messages) == 0 {
		err = errors.New("messages must have at least one message")
	}
	r.prompt = transcript(o.Messages)
	delta := func(a *answer, delta object, finish any) []byte {
		return sse(openAIBody(a, "chat.completion.chunk", object{"index": 0, "delta": delta, "logprobs": nil, "finish_reason": finish}))
	}
	return r, form{
		contentType: eventStream,
		whole: func(a *answer) any {
			said := object{"role": "assistant", "content": a.text.String(), "refusal": nil}
			v := openAIBody(a, "chat.completion", object{"index": 0, "message": said, "logprobs": nil, "finish_reason": a.finish})
			v["usage"] = openAIUsage(a)
			return v
		},
		event: func(a *answer, token string) (b []byte) {
			if a.tokens == 1 {
				b = append(b, delta(a, object{"role": "assistant", "content": ""}, nil)...)
			}
			b = append(b, delta(a, object{"content": token}, nil)...)
			if a.finish != "" {
				b = append(b, delta(a, object{}, a.finish)...)
			}
			return append(b, openAIEnd(a, "chat.completion.chunk", o.StreamOptions.IncludeUsage)...)
		},
	}, err
}

func readCompletion(body []byte) (request, form, error) {
	o, r, err := readOpenAI(body)
	if err == nil && r.limit == nil {
		r.limit = new(16) // OpenAI's default
	}
	choice := func(text string, finish any) object {
		return object{"index": 0, "text": text, "logprobs": nil, "finish_reason": finish}
	}
	return r, form{
		contentType: eventStream,
		whole: func(a *answer) any {
			v := openAIBody(a, "text_completion", choice(a.text.String(), a.finish))
			v["usage"] = openAIUsage(a)
			return v
		},
		event: func(a *answer, token string) []byte {
			finish := any(nil)
			if a.finish != "" {
				finish = a.finish
			}
			b := sse(openAIBody(a, "text_completion", choice(token, finish)))
			return append(b, openAIEnd(a, "text_completion", o.StreamOptions.IncludeUsage)...)
		},
	}, err
}

func openAIBody(a *answer, kind string, choices ...object) object {
	prefix := "chatcmpl-"
	if kind == "text_completion" {
		prefix = "cmpl-"
	}
	return object{
		"id": prefix + strconv.Itoa(a.id), "object": kind, "created": a.came.Unix(), "model": a.model,
		"choices": append([]object{}, choices...),
	}
}

func openAIUsage(a *answer) object {
	return object{"prompt_tokens": a.ofPrompt, "completion_tokens": a.tokens, "total_tokens": a.ofPrompt + a.tokens}
}

// openAIEnd is what comes after the last token of a stream.
func openAIEnd(a *answer, kind string, usage bool) (b []byte) {
	if a.finish == "" {
		return nil
	}
	if usage {
		v := openAIBody(a, kind)
		v["usage"] = openAIUsage(a)
		b = sse(v)
	}
	return append(b, "data: [DONE]\n\n"...)
}

const eventStream = "text/event-stream; charset=utf-8"

func sse(v any) []byte { return fmt.Appendf(nil, "data: %s\n\n", encode(v)) }

// embed answers with vectors of length 1 that follow from model and text alone.
func (s *server) embed(w http.ResponseWriter, r *http.Request) {
	body, ok := readBody(w, r, openAIRefusal)
	if !ok {
		return
	}
	in := struct {
		Model          string
		Input          json.RawMessage
		EncodingFormat string `json:"encoding_format"`
		Dimensions     int
	}{Dimensions: 64}
	err := json.Unmarshal(body, &in)
	var texts []prose
	if err == nil && json.Unmarshal(in.Input, &texts) != nil {
		texts = make([]prose, 1)
		err = json.Unmarshal(in.Input, &texts[0])
	}
	switch {
	case err != nil || len(texts) == 0 || in.Dimensions < 1 || in.Dimensions > 4096:
		err = &refusal{http.StatusBadRequest, fmt.Sprintf("want an input and 1 to 4096 dimensions (%v)", err)}
	default:
		err = s.knows(in.Model)
	}
	if err != nil {
		refuse(w, openAIRefusal, err)
		return
	}
	tokens := 0
	for _, text := range texts {
		tokens += countTokens(string(text))
	}
	if !s.pool(w, r, tokens, openAIRefusal) {
		return
	}
	data := make([]object, len(texts))
	for i, text := range texts {
		v := any(vector(in.Model, string(text), in.Dimensions))
		if in.EncodingFormat == "base64" {
			v = packed(v.([]float32))
		}
		data[i] = object{"object": "embedding", "index": i, "embedding": v}
	}
	reply(w, http.StatusOK, object{
		"object": "list", "model": in.Model, "data": data,
		"usage": object{"prompt_tokens": tokens, "total_tokens": tokens},
	})
}

func vector(model, text string, dimensions int) []float32 {
	voice, squares := newVoice(model, text), 0.0
	v := make([]float32, dimensions)
	for i := range v {
		x := voice.NormFloat64()
		v[i], squares = float32(x), squares+x*x
	}
	for i := range v {
		v[i] /= float32(math.Sqrt(squares))
	}
	return v
}

// packed is a vector as OpenAI's clients ask for it.
func packed(v []float32) string {
	b := make([]byte, 0, 4*len(v))
	for _, x := range v {
		b = binary.LittleEndian.AppendUint32(b, math.Float32bits(x))
	}
	return base64.StdEncoding.EncodeToString(b)
}
