package modelsim

import (
	"encoding/base64"
	"encoding/binary"
	"encoding/json"
	"fmt"
	"math"
	"net/http"
	"strconv"
	"time"
)

func (s *server) openAI(mux *http.ServeMux) {
	list := make([]object, len(s.Models))
	for i, name := range s.Models {
		list[i] = object{"id": name, "object": "model", "created": time.Now().Unix(), "owned_by": "modelsim", "root": name, "max_model_len": s.KVTokens}
	}
	mux.HandleFunc("GET /v1/models", func(w http.ResponseWriter, _ *http.Request) {
		reply(w, http.StatusOK, object{"object": "list", "data": list})
	})
	mux.Handle("POST /v1/chat/completions", s.generate(chatShape.read, openAIRefusal))
	mux.Handle("POST /v1/completions", s.generate(completionShape.read, openAIRefusal))
	mux.Handle("POST /v1/embeddings", endpoint(openAIRefusal, s.embed))
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

// openAIShape is in what chats and completions differ.
type openAIShape struct {
	prefix, whole, chunk string
	required             string
	said                 func(text string) object                  // of a choice of a whole answer
	pieces               func(a *answer, token string) []openAIBit // of the choices of a stream, one for each chunk
}

// openAIBit is a part of a choice, and why the answer ends with it, if it does.
type openAIBit struct {
	said   object
	finish any
}

var chatShape = openAIShape{
	prefix: "chatcmpl-", whole: "chat.completion", chunk: "chat.completion.chunk", required: "messages",
	said: func(text string) object {
		return object{"message": object{"role": "assistant", "content": text, "refusal": nil}}
	},
	pieces: func(a *answer, token string) (bits []openAIBit) {
		if a.tokens == 1 {
			bits = append(bits, openAIBit{object{"delta": object{"role": "assistant", "content": ""}}, nil})
		}
		bits = append(bits, openAIBit{object{"delta": object{"content": token}}, nil})
		if a.finish != "" {
			bits = append(bits, openAIBit{object{"delta": object{}}, a.finish})
		}
		return bits
	},
}

var completionShape = openAIShape{
	prefix: "cmpl-", whole: "text_completion", chunk: "text_completion", required: "prompt",
	said: func(text string) object { return object{"text": text} },
	pieces: func(a *answer, token string) []openAIBit {
		bit := openAIBit{said: object{"text": token}}
		if a.finish != "" {
			bit.finish = a.finish
		}
		return []openAIBit{bit}
	},
}

func (o openAIShape) read(body []byte) (request, form, error) {
	var in struct {
		Model               string
		Messages            []message
		Prompt              *prose
		MaxTokens           *int `json:"max_tokens"`
		MaxCompletionTokens *int `json:"max_completion_tokens"`
		IgnoreEOS           bool `json:"ignore_eos"` // of vLLM
		Stream              bool
		StreamOptions       struct {
			IncludeUsage bool `json:"include_usage"`
		} `json:"stream_options"`
	}
	if err := json.Unmarshal(body, &in); err != nil {
		return request{}, form{}, err
	}
	r := request{model: in.Model, prompt: transcript(in.Messages), limit: in.MaxTokens, endless: in.IgnoreEOS, stream: in.Stream}
	if in.MaxCompletionTokens != nil {
		r.limit = in.MaxCompletionTokens
	}
	if o.required == "prompt" && in.Prompt != nil {
		in.Messages, r.prompt = []message{{*in.Prompt}}, string(*in.Prompt)
	}
	if len(in.Messages) == 0 {
		return r, form{}, fmt.Errorf("%s: Field required", o.required)
	}
	return r, form{
		contentType: eventStream,
		whole: func(a *answer) any {
			v := o.body(a, o.whole, openAIBit{o.said(a.text.String()), a.finish})
			v["usage"] = openAIUsage(a)
			return v
		},
		event: func(a *answer, token string) (b []byte) {
			for _, bit := range o.pieces(a, token) {
				b = append(b, sse(o.body(a, o.chunk, bit))...)
			}
			if a.finish == "" {
				return b
			}
			if in.StreamOptions.IncludeUsage {
				v := o.body(a, o.chunk)
				v["usage"] = openAIUsage(a)
				b = append(b, sse(v)...)
			}
			return append(b, "data: [DONE]\n\n"...)
		},
	}, nil
}

// body is a document with one choice or none.
func (o openAIShape) body(a *answer, kind string, bits ...openAIBit) object {
	choices := []object{}
	for _, bit := range bits {
		bit.said["index"], bit.said["logprobs"], bit.said["finish_reason"] = 0, nil, bit.finish
		choices = append(choices, bit.said)
	}
	return object{"id": o.prefix + strconv.Itoa(a.id), "object": kind, "created": a.came.Unix(), "model": a.model, "choices": choices}
}

func openAIUsage(a *answer) object {
	return object{"prompt_tokens": a.ofPrompt, "completion_tokens": a.tokens, "total_tokens": a.ofPrompt + a.tokens}
}

// embed answers with vectors of length 1 that follow from model and text alone.
func (s *server) embed(_ http.ResponseWriter, r *http.Request, body []byte) (any, error) {
	in := struct {
		Model          string
		Input          json.RawMessage
		EncodingFormat string `json:"encoding_format"`
		Dimensions     int
	}{Dimensions: 64}
	if err := json.Unmarshal(body, &in); err != nil || in.Input == nil || in.Dimensions < 1 || in.Dimensions > 4096 {
		return nil, &refusal{http.StatusBadRequest, fmt.Sprintf("An embedding takes an input, and 1 to 4096 dimensions (%v).", err)}
	}
	if err := s.knows(in.Model); err != nil {
		return nil, err
	}
	var texts []prose
	if json.Unmarshal(in.Input, &texts) != nil {
		texts = []prose{prose(in.Input)}
		_ = json.Unmarshal(in.Input, &texts[0]) // prose takes anything
	}
	tokens, data := 0, make([]object, len(texts))
	for i, text := range texts {
		tokens += countTokens(string(text))
		v := vector(in.Model, string(text), in.Dimensions)
		data[i] = object{"object": "embedding", "index": i, "embedding": v}
		if in.EncodingFormat == "base64" { // as OpenAI's clients have it unless told otherwise
			packed, _ := binary.Append(nil, binary.LittleEndian, v)
			data[i]["embedding"] = base64.StdEncoding.EncodeToString(packed)
		}
	}
	if err := s.pool(r, max(tokens, 1)); err != nil {
		return nil, err
	}
	return object{
		"object": "list", "model": in.Model, "data": data,
		"usage": object{"prompt_tokens": tokens, "total_tokens": tokens},
	}, nil
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
