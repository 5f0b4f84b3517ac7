package proxy

import (
	"bytes"
	"encoding/json"

	"github.com/valyala/fasthttp"

	"pilotlight/router"
)

// api is the family of clients that a request comes from. It decides the form of errors.
type api uint8

const (
	openAI api = iota // whatever is none of the others
	anthropic
	ollama
	kserve // v1, v2 and Triton
	gRPC   // KServe v2 and any other; see appendRefusedCall
)

// apiOf tells the API by the path.
func apiOf(path []byte) api {
	_, path = cutUpstream(path)
	switch {
	case under(path, "/v1/messages"), under(path, "/v1/complete"):
		return anthropic
	case under(path, "/api"):
		return ollama
	case under(path, "/v2"), isKServe1(path):
		return kserve
	}
	return openAI
}

// streams says whether stream:true asks for server-sent events. Ollama streams lines of JSON, KServe by path.
func (a api) streams() bool { return a == openAI || a == anthropic }

// refusal appends a refusal in the API's own form, which is JSON in all of them.
func (a api) refusal(dst []byte, r *router.Refusal) []byte {
	switch a {
	case openAI:
		return appendJSON(dst, openAIError(r))
	case anthropic:
		return appendJSON(dst, anthropicError(r))
	case ollama, kserve:
		return appendJSON(dst, plainError{r.Reason})
	case gRPC:
	}
	panic("BUG: an API without a form of errors")
}

// event appends a refusal as the last event of a stream whose headers are already out.
func (a api) event(dst []byte, r *router.Refusal) []byte {
	switch a {
	case openAI, kserve:
		dst = append(dst, "data: "...)
	case anthropic:
		dst = append(dst, "event: error\ndata: "...)
	case ollama: // a line of its own
		return append(a.refusal(dst, r), '\n')
	case gRPC:
	}
	return append(a.refusal(dst, r), "\n\n"...)
}

// plainError is the error form of Ollama and of KServe.
type plainError struct {
	Error string `json:"error"`
}

type openAIErrorBody struct {
	Error struct {
		Message string      `json:"message"`
		Type    string      `json:"type"`
		Param   *string     `json:"param"`
		Code    router.Code `json:"code"`
	} `json:"error"`
}

func openAIError(r *router.Refusal) (e openAIErrorBody) {
	e.Error.Message, e.Error.Code = r.Reason, r.Code
	switch {
	case r.Status == fasthttp.StatusTooManyRequests:
		e.Error.Type = "rate_limit_error"
	case r.Status >= fasthttp.StatusInternalServerError:
		e.Error.Type = "server_error"
	case r.Status == fasthttp.StatusUnauthorized:
		e.Error.Type = "authentication_error"
	case r.Status == fasthttp.StatusForbidden:
		e.Error.Type = "permission_error"
	default:
		e.Error.Type = "invalid_request_error"
	}
	if r.Code == router.NoModel || r.Code == router.UnknownModel {
		e.Error.Param = new("model")
	}
	return e
}

type anthropicErrorBody struct {
	Type  string `json:"type"`
	Error struct {
		Type    string `json:"type"`
		Message string `json:"message"`
	} `json:"error"`
}

func anthropicError(r *router.Refusal) (e anthropicErrorBody) {
	e.Type, e.Error.Message = "error", r.Reason
	switch r.Status {
	case fasthttp.StatusNotFound:
		e.Error.Type = "not_found_error"
	case fasthttp.StatusUnauthorized:
		e.Error.Type = "authentication_error"
	case fasthttp.StatusForbidden:
		e.Error.Type = "permission_error"
	case fasthttp.StatusRequestEntityTooLarge:
		e.Error.Type = "request_too_large"
	case fasthttp.StatusTooManyRequests:
		e.Error.Type = "rate_limit_error"
	case fasthttp.StatusServiceUnavailable:
		e.Error.Type = "overloaded_error"
	default:
		e.Error.Type = "invalid_request_error"
		if r.Status >= fasthttp.StatusInternalServerError {
			e.Error.Type = "api_error"
		}
	}
	return e
}

// appendJSON appends v, whose type is one that can be encoded.
func appendJSON(dst []byte, v any) []byte {
	b := bytes.NewBuffer(dst)
	e := json.NewEncoder(b)
	e.SetEscapeHTML(false) // people read it
	if err := e.Encode(v); err != nil {
		panic("BUG: " + err.Error())
	}
	return bytes.TrimSuffix(b.Bytes(), []byte("\n"))
}
