package proxy

import (
	"bufio"
	"io"
	"net"
	"net/http"
	"strings"
	"testing"
	"time"

	"pilotlight/config"
)

// TestAnswersSayWhatTheyTook to whom asks, in the header or behind the body, and to nobody else.
func TestAnswersSayWhatTheyTook(t *testing.T) {
	chunks := "HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\nTransfer-Encoding: chunked\r\n\r\n" + string(appendChunk(nil, []byte("data: 1\n\n")))
	serve := func(c net.Conn, in *bufio.Reader, _ int) {
		for req := readRequest(in); req != nil; req = readRequest(in) {
			if req.Header.Get("X-Stream") == "" {
				io.WriteString(c, ok)
				continue
			}
			io.WriteString(c, chunks)
			io.WriteString(c, "0\r\nX-Sum: 7\r\n\r\n")
		}
	}
	estimate := func(backend string, served time.Duration) (time.Duration, int64) {
		if backend == "" || served <= 0 {
			t.Errorf("asked for %q, served for %s", backend, served)
		}
		return 1500 * time.Microsecond, 42
	}
	for name, tt := range map[string]struct {
		timing         config.Timing
		header         string
		told, trailing bool
	}{
		"who does not ask":                   {config.TimingAsked, "", false, false},
		"who asks":                           {config.TimingAsked, "X-Pilotlight-Timing: on\r\n", true, false},
		"who asks where nobody is told":      {config.TimingNever, "X-Pilotlight-Timing: on\r\nX-Stream: 1\r\nTE: trailers\r\n", false, false},
		"all of them":                        {config.TimingAlways, "", true, false},
		"a stream":                           {config.TimingAsked, "X-Pilotlight-Timing: on\r\nX-Stream: 1\r\n", true, false},
		"a stream whose client has trailers": {config.TimingAsked, "X-Pilotlight-Timing: on\r\nX-Stream: 1\r\nTE: trailers\r\nConnection: TE\r\n", true, true},
	} {
		t.Run(name, func(t *testing.T) {
			r := real(t, backend(t, serve), func(_ *rig, o *Options) { o.Timing, o.Estimate, o.Currency = tt.timing, estimate, "USD" })
			body := `{"model":"m"}`
			resp, _ := say(t, r.dial(), "POST /v1/chat/completions HTTP/1.1\r\nHost: e\r\nContent-Type: application/json\r\n"+tt.header+"Content-Length: 13\r\n\r\n"+body)
			if got := resp.Header.Get("X-Pilotlight-Backend") != "" && resp.Header.Get("X-Pilotlight-Cold") == "false"; got != tt.told {
				t.Errorf("told: %v, want %v: %v", got, tt.told, resp.Header)
			}
			from, stream := resp.Header, strings.Contains(tt.header, "X-Stream")
			if stream {
				from = resp.Trailer
			}
			wanted := tt.told && (!stream || tt.trailing)
			if !wanted {
				if cost := from.Get("X-Pilotlight-Cost"); cost != "" {
					t.Errorf("got a cost of %s, want none", cost)
				}
				return
			}
			if got, want := from.Get("X-Pilotlight-Cost")+"|"+from.Get("X-Pilotlight-GPU-Ms"), "0.000000042 USD; estimate|1.500; estimate"; got != want {
				t.Errorf("got %q, want %q", got, want)
			}
			if got := from.Get("Server-Timing"); !strings.HasPrefix(got, "wait;dur=0.000, gpu;dur=1.500;desc=") {
				t.Errorf("got Server-Timing %q", got)
			}
			if stream && resp.Trailer.Get("X-Sum") != "7" && len(resp.Trailer) > 3 {
				t.Errorf("the backend's own trailer is gone: %v", resp.Trailer)
			}
		})
	}
}

// TestAStreamOfHTTP2SaysWhatItTookBehindItsBody: TE says so there as well.
func TestAStreamOfHTTP2SaysWhatItTookBehindItsBody(t *testing.T) {
	r := real(t, backend(t, func(c net.Conn, in *bufio.Reader, _ int) {
		for req := readRequest(in); req != nil; req = readRequest(in) {
			io.WriteString(c, "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n"+string(appendEnd(appendChunk(nil, []byte("word")), nil)))
		}
	}), func(_ *rig, o *Options) {
		o.Timing, o.Currency = config.TimingAsked, "USD"
		o.Estimate = func(string, time.Duration) (time.Duration, int64) { return time.Second, 7 }
	})
	req, err := http.NewRequestWithContext(t.Context(), http.MethodPost, "http://e/v1/chat/completions", strings.NewReader(`{"model":"m"}`))
	if err != nil {
		t.Fatal(err)
	}
	req.Header = http.Header{"Content-Type": {"application/json"}, "X-Pilotlight-Timing": {"on"}, "Te": {"trailers"}}
	resp, err := over2(t, r.dial).Do(req)
	resp, body := hear2(t, resp, err)
	if got := resp.Trailer.Get("X-Pilotlight-Cost"); body != "word" || got != "0.000000007 USD; estimate" {
		t.Errorf("got %q, header %v, trailer %v", body, resp.Header, resp.Trailer)
	}
}
