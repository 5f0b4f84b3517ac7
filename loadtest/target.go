package loadtest

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/url"
	"os"
	"strings"
	"syscall"
	"time"
)

// Shape is what requests look like, but for what each says of itself.
type Shape struct {
	Stream bool        // chats ask for a stream
	Exact  bool        // they ask for answers that are as long as they may be (ignore_eos, of vLLM)
	Body   []byte      // of every request, instead of a chat; nil: they are chats
	Header http.Header // of every request
}

// Target is where a load goes.
type Target struct {
	url   string
	shape Shape
	http  *http.Client
}

// chatPath is where OpenAI's API has its chats.
const chatPath = "/v1/chat/completions"

// NewTarget is for a base URL, such as http://127.0.0.1:8080 or one that ends in /v1, or with the whole path. It opens so many
// connections at most; 0: as many as there are requests at once.
func NewTarget(base string, shape Shape, connections int) (*Target, error) {
	u, err := Endpoint(base, shape.Body == nil)
	if err != nil {
		return nil, err
	}
	transport := &http.Transport{
		DialContext:         (&net.Dialer{Timeout: 10 * time.Second}).DialContext,
		MaxConnsPerHost:     connections,
		MaxIdleConns:        0, // all that were needed at once stay open: a load measures the server, not connecting
		MaxIdleConnsPerHost: 1 << 20,
		IdleConnTimeout:     30 * time.Second,
		DisableCompression:  true,
		WriteBufferSize:     4096,
		ReadBufferSize:      4096,
	}
	return &Target{u, shape, &http.Client{Transport: transport, CheckRedirect: follow}}, nil
}

// follow follows nothing: a redirect is an answer.
func follow(*http.Request, []*http.Request) error { return http.ErrUseLastResponse }

// Endpoint is the URL that requests go to.
func Endpoint(base string, chat bool) (string, error) {
	if !strings.Contains(base, "://") {
		base = "http://" + base
	}
	u, err := url.Parse(base)
	if err != nil || u.Host == "" || u.Scheme != "http" && u.Scheme != "https" {
		return "", fmt.Errorf("%q is no address to send requests to: say http://127.0.0.1:8080", base)
	}
	path := strings.TrimSuffix(u.Path, "/")
	switch {
	case !chat:
	case path == "":
		u.Path = chatPath
	case strings.HasSuffix(path, "/v1"):
		u.Path = strings.TrimSuffix(path, "/v1") + chatPath
	}
	return u.String(), nil
}

// Close closes the connections that idle.
func (t *Target) Close() { t.http.CloseIdleConnections() }

// Ask sends a request, reads the answer, and says what became of it. A ctx that ends is the client leaving.
func (t *Target) Ask(ctx context.Context, r *Request) (a Answer) {
	a.Sent = time.Now()
	err := t.ask(ctx, r, &a)
	a.Ended = time.Now()
	a.Outcome, a.Kind = outcomeOf(ctx, err)
	return a
}

func (t *Target) ask(ctx context.Context, r *Request, a *Answer) error {
	open, size, err := t.shape.body(r)
	if err != nil {
		return err
	}
	request, err := http.NewRequestWithContext(ctx, http.MethodPost, t.url, io.NopCloser(open()))
	if err != nil {
		return err
	}
	request.ContentLength = size
	request.GetBody = func() (io.ReadCloser, error) { return io.NopCloser(open()), nil }
	request.Header = t.shape.Header.Clone()
	if request.Header == nil {
		request.Header = http.Header{}
	}
	if request.Header.Get("Content-Type") == "" {
		request.Header.Set("Content-Type", "application/json")
	}
	if host := request.Header.Get("Host"); host != "" {
		request.Host = host
	}
	response, err := t.http.Do(request)
	if err != nil {
		return err
	}
	defer response.Body.Close()
	return a.hear(response, t.shape.Body == nil)
}

// ErrTooLong ends a request that took longer than it may.
var ErrTooLong = errors.New("it took too long")

// outcomeOf names what an error means. The names are few, whatever the errors say.
func outcomeOf(ctx context.Context, err error) (Outcome, string) {
	f, isFault := errors.AsType[*fault](err)
	var timeout net.Error
	switch {
	case err == nil:
		return OK, ""
	case isFault:
		return f.outcome, f.kind
	case errors.Is(context.Cause(ctx), ErrTooLong):
		return Left, "it took too long"
	case ctx.Err() != nil:
		return Left, "the load was ended"
	case errors.Is(err, syscall.ECONNREFUSED):
		return Broken, "connection refused"
	case errors.Is(err, syscall.ECONNRESET), errors.Is(err, syscall.EPIPE):
		return Broken, "connection reset"
	case errors.Is(err, syscall.EMFILE), errors.Is(err, syscall.EADDRNOTAVAIL):
		return Broken, "this host is out of descriptors or ports"
	case errors.Is(err, os.ErrDeadlineExceeded), errors.As(err, &timeout) && timeout.Timeout():
		return Broken, "no connection within 10s"
	case errors.Is(err, io.ErrUnexpectedEOF), errors.Is(err, io.EOF):
		return Broken, "the connection closed before the end"
	}
	return Broken, "other"
}
