package modelsim

import (
	"bytes"
	"crypto/sha256"
	"encoding/hex"
	"io"
	"net/http"
)

// echoHeader asks for an echo of the request in the answer's header of the same name.
const echoHeader = "X-Modelsim-Echo"

// echo says what of a request arrived: method, host, path, query, headers, and the length and SHA-256 of its body. It also
// returns the body.
func echo(r *http.Request) (arrived object, body []byte, err error) {
	body, err = io.ReadAll(r.Body)
	sum := sha256.Sum256(body)
	return object{
		"method": r.Method, "host": r.Host, "path": r.URL.Path, "query": r.URL.RawQuery, "headers": r.Header,
		"body_length": len(body), "body_sha256": hex.EncodeToString(sum[:]),
	}, body, err
}

// serveEcho answers with an echo and nothing else.
func serveEcho(w http.ResponseWriter, r *http.Request) {
	arrived, _, err := echo(r)
	if err != nil {
		refuse(w, openAIRefusal, &refusal{http.StatusBadRequest, err.Error()})
		return
	}
	reply(w, http.StatusOK, arrived)
}

// withEcho puts the echo into the header of an answer that next gives as it always does.
func withEcho(next http.Handler) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if r.Header.Get(echoHeader) != "" {
			arrived, body, err := echo(r)
			if err != nil {
				refuse(w, openAIRefusal, &refusal{http.StatusBadRequest, err.Error()})
				return
			}
			w.Header().Set(echoHeader, string(encode(arrived)))
			r.Body = io.NopCloser(bytes.NewReader(body))
		}
		next.ServeHTTP(w, r)
	})
}
