package trace

import (
	"strings"

	"go.opentelemetry.io/otel/attribute"

	"pilotlight/config"
)

// What is said of generative AI is named here and nowhere else: those conventions are in development, in a repository of their own
// (open-telemetry/semantic-conventions-genai), which has no release yet.
const (
	genOperation    = attribute.Key("gen_ai.operation.name")
	genProvider     = attribute.Key("gen_ai.provider.name")
	genModel        = attribute.Key("gen_ai.request.model")
	genStream       = attribute.Key("gen_ai.request.stream")
	genInputTokens  = attribute.Key("gen_ai.usage.input_tokens")
	genOutputTokens = attribute.Key("gen_ai.usage.output_tokens")
	genFirstChunk   = attribute.Key("gen_ai.response.time_to_first_chunk")
)

// provider is the value of gen_ai.provider.name for an engine: there is none in the conventions.
func provider(e config.Engine) string {
	if e == config.HTTP || e == "" {
		return "_OTHER"
	}
	return string(e)
}

// routeOf is the route of a path, without what may be anything, and the operation that it stands for. Both are empty where we know neither.
func routeOf(path string) (route, operation string) {
	switch path {
	case "/v1/chat/completions", "/api/chat", "/v1/messages", "/v1/responses":
		return path, "chat"
	case "/v1/completions", "/api/generate":
		return path, "text_completion"
	case "/v1/embeddings", "/api/embed", "/api/embeddings":
		return path, "embeddings"
	case "/generate", "/generate_stream":
		return path, "generate_content"
	}
	if _, method, ok := strings.Cut(path, "/inference.GRPCInferenceService/"); ok && len(method) < len("ModelStreamInfer")+1 {
		return path, ""
	}
	if rest, ok := strings.CutPrefix(path, "/v2/models/"); ok && strings.HasSuffix(rest, "/infer") {
		return "/v2/models/{model}/infer", ""
	}
	return "", ""
}
