package proxy

import "bytes"

// tailOfUsage is how much of a piece of an answer is looked at: what an engine says of tokens stands at the end.
const tailOfUsage = 1 << 10

// countTokens takes note of what a piece of an answer says of tokens, as OpenAI's API, Anthropic's and Ollama's do; the last word counts. In a text the
// quotes would be escaped. A piece that ends within the numbers says nothing: the ledger then knows of no tokens.
func (v *visit) countTokens(piece []byte) {
	if len(v.edge.listeners) == 0 {
		return
	}
	tail := piece[max(0, len(piece)-tailOfUsage):]
	switch {
	case bytes.Contains(tail, []byte(`_tokens"`)):
		note(&v.PromptTokens, tail, `"prompt_tokens"`, `"input_tokens"`)
		note(&v.Tokens, tail, `"completion_tokens"`, `"output_tokens"`)
	case bytes.Contains(tail, []byte(`eval_count"`)):
		note(&v.PromptTokens, tail, `"prompt_eval_count"`)
		note(&v.Tokens, tail, `"eval_count"`)
	}
}

// note stores the number behind the last of the first of these names that is there.
func note(into *int64, text []byte, names ...string) {
	for _, name := range names {
		at := bytes.LastIndex(text, []byte(name))
		if at < 0 {
			continue
		}
		rest := bytes.TrimLeft(text[at+len(name):], ": \t\r\n")
		end := 0
		for end < len(rest) && '0' <= rest[end] && rest[end] <= '9' {
			end++
		}
		if n, ok := decimal(rest[:end]); ok && end < len(rest) {
			*into = n
			return
		}
	}
}
