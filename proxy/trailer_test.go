package proxy

import (
	"bufio"
	"errors"
	"io"
	"net"
	"net/http"
	"reflect"
	"strings"
	"testing"

	"pilotlight/config"
)

func TestTheTrailerOfARequestPasses(t *testing.T) {
	seen := make(chan *http.Request, 1)
	r := real(t, backend(t, func(c net.Conn, in *bufio.Reader, _ int) {
		for req := readRequest(in); req != nil; req = readRequest(in) {
			seen <- req
			io.WriteString(c, ok)
		}
	}), withModel(func(m *config.Model) { m.ServedAs = "served" }))
	for name, ask := range map[string]func(body string, trailer http.Header) (*http.Response, string){
		"HTTP/1.1": func(body string, trailer http.Header) (*http.Response, string) {
			text := "POST /v1/chat/completions HTTP/1.1\r\nHost: e\r\nContent-Type: application/json\r\nTrailer: X-Sum\r\nTransfer-Encoding: chunked\r\n\r\n"
			half := len(body) / 2
			for _, piece := range []string{body[:half], body[half:]} {
				text += string(appendChunk(nil, []byte(piece)))
			}
			var fields []byte
			for name := range trailer {
				fields = appendField(fields, name, trailer.Get(name))
			}
			return say(t, r.dial(), text+string(appendEnd(nil, fields)))
		},
		"HTTP/2": func(body string, trailer http.Header) (*http.Response, string) {
			req, err := http.NewRequestWithContext(t.Context(), http.MethodPost, "http://e/v1/chat/completions", struct{ io.Reader }{strings.NewReader(body)})
			if err != nil {
				t.Fatal(err)
			}
			req.Header.Set("Content-Type", "application/json")
			req.Trailer = trailer
			resp, err := over2(t, r.dial).Do(req)
			return hear2(t, resp, err)
		},
	} {
		for _, size := range []int{10, 100_000} { // one write to the backend, and two
			trailer := http.Header{"X-Sum": {"7"}}
			filler := strings.Repeat("x", size)
			if resp, _ := ask(`{"model":"m","filler":"`+filler+`"}`, trailer); resp.StatusCode != 200 {
				t.Errorf("%s: got %s", name, resp.Status)
			}
			req := within(t, seen)
			body, _ := io.ReadAll(req.Body)
			if !reflect.DeepEqual(req.Trailer, trailer) || string(body) != `{"model":"served","filler":"`+filler+`"}` {
				t.Errorf("%s: the backend got %.100q and the trailer %v", name, body, req.Trailer)
			}
		}
	}
}

func TestATrailerTellsNothingThatAHeaderMayNot(t *testing.T) {
	for field, want := range map[string]error{
		"X-Sum: 7": nil, "x-forwarded-for: 6.6.6.6": errTrailer, "X_Forwarded_For: 6.6.6.6": errTrailer, "Forwarded: for=6.6.6.6": errTrailer, "TE: trailers": errTrailer,
		"Content-Encoding: gzip": errTrailer, "cookie: a=b": errTrailer,
	} {
		d := requestBody(&head{chunked: true, length: -1})
		if _, _, err := d.take([]byte("0\r\n" + field + "\r\n\r\n")); !errors.Is(err, want) || d.done != (want == nil) {
			t.Errorf("%s: got %q, %v; want %v", field, d.trailer, err, want)
		}
	}
}
