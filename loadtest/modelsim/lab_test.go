package modelsim_test

import (
	"bufio"
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"regexp"
	"strings"
	"sync"
	"testing"
	"time"

	"pilotlight/loadtest/modelsim"
)

// quick are options whose times are easy to add up: a step takes 10 ms and 1 ms for each running request; prompts are free.
func quick() modelsim.Options {
	o := modelsim.Defaults()
	o.Models, o.Load, o.Step, o.StepPerSeq, o.Prefill = []string{"m"}, 0, 10*time.Millisecond, time.Millisecond, 0
	return o
}

// lab is a model server on an in-memory network, in a bubble.
type lab struct {
	t      *testing.T
	start  time.Time
	client *http.Client
	output *bytes.Buffer // to be read after stop
	stop   context.CancelFunc
	ended  chan error
}

// newLab serves until the test ends. It waits until a model that loads in no time is loaded.
func newLab(t *testing.T, o modelsim.Options) *lab {
	ctx, stop := context.WithCancel(t.Context())
	l := &lab{t: t, start: time.Now(), output: new(bytes.Buffer), stop: stop, ended: make(chan error, 1)}
	network := &pipes{conns: make(chan net.Conn), closed: make(chan struct{})}
	l.client = &http.Client{Transport: &http.Transport{DisableKeepAlives: true, DialContext: network.dial}}
	o.Output = l.output
	go func() {
		defer close(l.ended)
		l.ended <- modelsim.Serve(ctx, func() (net.Listener, error) { network.open(); return network, nil }, o)
	}()
	t.Cleanup(func() {
		stop()
		<-l.ended
	})
	return l
}

// post sends a request whose answer is read by the caller, within the test or until ctx ends.
func (l *lab) post(ctx context.Context, path string, body any) *http.Response {
	l.t.Helper()
	resp, err := l.try(ctx, http.MethodPost, path, body)
	if err != nil {
		l.t.Fatal(err)
	}
	return resp
}

func (l *lab) try(ctx context.Context, method, path string, body any) (*http.Response, error) {
	raw, err := json.Marshal(body)
	if err != nil {
		return nil, err
	}
	req, err := http.NewRequestWithContext(ctx, method, "http://sim"+path, bytes.NewReader(raw))
	if err != nil {
		return nil, err
	}
	return l.client.Do(req)
}

// do sends a request and reads all of the answer.
func (l *lab) do(method, path string, body any) (status int, answer string) {
	l.t.Helper()
	resp, err := l.try(l.t.Context(), method, path, body)
	if err != nil {
		l.t.Errorf("%s %s: %v", method, path, err)
		return 0, ""
	}
	defer resp.Body.Close()
	raw, err := io.ReadAll(resp.Body)
	if err != nil {
		l.t.Errorf("%s %s: %v after %q", method, path, err, raw)
	}
	return resp.StatusCode, string(raw)
}

// want sends a request and wants an answer that contains some text.
func (l *lab) want(method, path string, body any, status int, part string) {
	l.t.Helper()
	if got, answer := l.do(method, path, body); got != status || !strings.Contains(answer, part) {
		l.t.Errorf("%s %s: got %d %s, want %d and %q", method, path, got, answer, status, part)
	}
}

// wantMetrics wants lines of the metrics page, without their labels except for those that differ.
func (l *lab) wantMetrics(want ...string) {
	l.t.Helper()
	_, page := l.do(http.MethodGet, "/metrics", nil)
	page = strings.NewReplacer(`{engine="0",model_name="m"}`, "", `engine="0",model_name="m",`, "", `engine="0",`, "", `,model_name="m"}`, "}").Replace(page)
	for _, line := range want {
		if !strings.Contains(page, "\n"+line+"\n") {
			name, _, _ := strings.Cut(line, " ")
			l.t.Errorf("want %s, got no such line but%q", line, regexp.MustCompile("\n"+regexp.QuoteMeta(name)+".*").FindAllString(page, -1))
		}
	}
}

// wantTime wants to be at an instant, counted from the start of the lab.
func (l *lab) wantTime(what string, want time.Duration) {
	l.t.Helper()
	if got := time.Since(l.start); got != want {
		l.t.Errorf("%s at %v, want %v", what, got, want)
	}
}

// chat asks for a number of tokens.
func chat(prompt string, tokens int, stream bool) any {
	return map[string]any{
		"model": "m", "max_tokens": tokens, "stream": stream,
		"messages": []any{map[string]any{"role": "user", "content": prompt}},
	}
}

// arrivals streams a chat and says when each token came, counted from the start of the lab.
func (l *lab) arrivals(ctx context.Context, prompt string, tokens int) (at []time.Duration, err error) {
	resp := l.post(ctx, "/v1/chat/completions", chat(prompt, tokens, true))
	defer resp.Body.Close()
	if resp.StatusCode != http.StatusOK {
		return nil, errors.New(resp.Status)
	}
	lines := bufio.NewScanner(resp.Body)
	for lines.Scan() {
		if strings.Contains(lines.Text(), `"delta":{"content":`) && !strings.Contains(lines.Text(), `"role"`) {
			at = append(at, time.Since(l.start))
		}
	}
	return at, lines.Err()
}

// ms are instants in milliseconds.
func ms(at ...float64) string {
	var b strings.Builder
	for _, x := range at {
		fmt.Fprintf(&b, "%v ", time.Duration(x*float64(time.Millisecond)))
	}
	return b.String()
}

func show(at []time.Duration) string {
	var b strings.Builder
	for _, d := range at {
		fmt.Fprintf(&b, "%v ", d)
	}
	return b.String()
}

// pipes is a network with one port, which refuses connections until it is open. It buffers nothing.
type pipes struct {
	conns  chan net.Conn
	closed chan struct{}
	once   sync.Once

	mu     sync.Mutex // guards isOpen
	isOpen bool
}

func (p *pipes) open() {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.isOpen = true
}

func (p *pipes) dial(ctx context.Context, _, _ string) (net.Conn, error) {
	p.mu.Lock()
	isOpen := p.isOpen
	p.mu.Unlock()
	if !isOpen {
		return nil, errors.New("connection refused")
	}
	near, far := net.Pipe()
	select {
	case p.conns <- far:
		return near, nil
	case <-p.closed:
		return nil, errors.New("connection refused")
	case <-ctx.Done():
		return nil, ctx.Err()
	}
}

func (p *pipes) Accept() (net.Conn, error) {
	select {
	case c := <-p.conns:
		return c, nil
	case <-p.closed:
		return nil, net.ErrClosed
	}
}

func (p *pipes) Close() error {
	p.once.Do(func() { close(p.closed) })
	return nil
}

func (p *pipes) Addr() net.Addr { return &net.UnixAddr{Name: "memory", Net: "unix"} }
