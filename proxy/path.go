package proxy

import (
	"bytes"
	"net/url"
	"slices"
)

// originForm is the path and query of a request's target, which may be a whole URL.
func originForm(target []byte) []byte {
	if bytes.HasPrefix(target, []byte("/")) {
		return target
	}
	_, rest, ok := bytes.Cut(target, []byte("://"))
	if !ok {
		return target // OPTIONS *
	}
	if i := bytes.IndexAny(rest, "/?"); i >= 0 {
		return rooted(rest[i:])
	}
	return []byte("/")
}

// rooted is a path and query that begins with a slash.
func rooted(target []byte) []byte {
	if bytes.HasPrefix(target, []byte("/")) {
		return target
	}
	return append([]byte("/"), target...)
}

// cutUpstream takes /upstream/{m} off a target.
func cutUpstream(target []byte) (model, rest []byte) {
	rest, ok := bytes.CutPrefix(target, []byte("/upstream/"))
	if !ok {
		return nil, target
	}
	i := bytes.IndexAny(rest, "/?")
	if i < 0 {
		i = len(rest)
	}
	return unescape(rest[:i], url.PathUnescape), rooted(rest[i:])
}

// These paths name a model. It is one segment, in which a slash is written %2F, or all the rest but for a verb.
var (
	segmentPaths = [...]string{"/v2/models/", "/openai/deployments/"}
	restPaths    = [...]string{"/v1/models/", "/v1beta/models/"}
)

// The verbs of KServe v1 and TensorFlow Serving, and of Gemini. They are listed because names have colons too: llama3:8b.
var (
	kserveVerbs = []string{"predict", "explain", "classify", "regress"}
	geminiVerbs = []string{"generateContent", "streamGenerateContent", "countTokens", "embedContent", "batchEmbedContents"}
)

// inPath finds the model that a path names.
func inPath(path []byte) mention {
	for _, before := range segmentPaths {
		if rest, ok := bytes.CutPrefix(path, []byte(before)); ok {
			name, _, _ := bytes.Cut(rest, []byte("/"))
			return pathMention(len(before), name)
		}
	}
	for _, before := range restPaths {
		if rest, ok := bytes.CutPrefix(path, []byte(before)); ok {
			name, verb := cutVerb(rest)
			if verb != "" {
				name, _, _ = bytes.Cut(name, []byte("/versions/"))
			}
			return pathMention(len(before), name)
		}
	}
	return mention{}
}

func pathMention(from int, name []byte) mention {
	return mention{unescape(name, url.PathUnescape), span{from, from + len(name)}}
}

// cutVerb parts a name from a known verb behind its last colon.
func cutVerb(rest []byte) (name []byte, verb string) {
	if i := bytes.LastIndexByte(rest, ':'); i >= 0 {
		if verb := string(rest[i+1:]); slices.Contains(kserveVerbs, verb) || slices.Contains(geminiVerbs, verb) {
			return rest[:i], verb
		}
	}
	return rest, ""
}

// isKServe1 says whether a path is one of KServe's first protocol.
func isKServe1(path []byte) bool {
	rest, ok := bytes.CutPrefix(path, []byte("/v1/models/"))
	if !ok {
		return false
	}
	_, verb := cutVerb(rest)
	return slices.Contains(kserveVerbs, verb)
}

// inQuery finds the first model= in the query that begins at a position of target.
func inQuery(target []byte, at int) mention {
	for at < len(target) {
		at++ // ? or &
		pair, _, _ := bytes.Cut(target[at:], []byte("&"))
		if value, ok := bytes.CutPrefix(pair, []byte("model=")); ok {
			to := at + len(pair)
			return mention{unescape(value, url.QueryUnescape), span{to - len(value), to}}
		}
		at += len(pair)
	}
	return mention{}
}

// unescape decodes a name. One that cannot be decoded is taken as it is written: no model is called that.
func unescape(name []byte, decode func(string) (string, error)) []byte {
	if !bytes.ContainsAny(name, "%+") {
		return name
	}
	decoded, err := decode(string(name))
	if err != nil {
		return name
	}
	return []byte(decoded)
}

// under says whether a path is another or lies below it.
func under(path []byte, top string) bool {
	rest, ok := bytes.CutPrefix(path, []byte(top))
	return ok && (len(rest) == 0 || rest[0] == '/')
}
