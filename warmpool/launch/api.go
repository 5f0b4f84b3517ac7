package launch

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"net"
	"net/http"
	"net/url"
	"os"
	"strings"
	"syscall"
	"time"

	"pilotlight/config"
)

const (
	apiTime    = 15 * time.Second // one request to an orchestrator's API, if it is not meant to last
	maxPicture = 16 << 20         // of an answer that is read; a job of thousands of allocations has some MiB
	tries      = 5                // of a change that others make at the same time
)

// api is the HTTP API of an orchestrator. What it is asked with (tokens, certificates) is read from files again and again, since they
// are exchanged while we run.
type api struct {
	name      string // Nomad, Kubernetes, Docker
	base      string // scheme://host[:port], without a path
	client    *http.Client
	authorize func(*http.Request) error // adds who we are; may be nil
	rights    func(request string) string
}

// refused is an answer that is not the one that was asked for.
type refused struct {
	api, request, said string
	status             int
	needs              string // what right the request needs, where it is known
}

func (r *refused) Error() string {
	text := fmt.Sprintf("%s answered %d to %s: %s", r.api, r.status, r.request, r.said)
	switch r.status {
	case http.StatusUnauthorized:
		return text + "; it does not know our token or certificate"
	case http.StatusForbidden:
		if r.needs != "" {
			return text + "; it takes " + r.needs
		}
	}
	return text
}

// isStatus tells whether the API refused with that status.
func isStatus(err error, status int) bool {
	r, ok := errors.AsType[*refused](err)
	return ok && r.status == status
}

// errNoAddress says that nobody can tell where the model server listens.
var errNoAddress = errors.New("its address is not known")

// isFinal tells whether asking again would get the same answer until a person has done something.
func isFinal(err error) bool {
	return errors.Is(err, errNoAddress) || isStatus(err, http.StatusUnauthorized) || isStatus(err, http.StatusForbidden) || isStatus(err, http.StatusNotFound)
}

// call is one request to an API.
type call struct {
	method, path string
	query        url.Values
	body         any           // as JSON; nil: none
	into         any           // its answer's JSON; nil: not read
	lasts        time.Duration // beyond apiTime that the answer may take, as it is meant to
}

// do sends a request and reads its answer, which must be 2xx or 304.
func (a *api) do(ctx context.Context, c call) (http.Header, error) {
	ctx, cancel := context.WithTimeout(ctx, apiTime+c.lasts)
	defer cancel()
	resp, err := a.open(ctx, c)
	if err != nil {
		return nil, err
	}
	defer resp.Body.Close() //nolint:errcheck // nothing can be lost by it
	answer, err := io.ReadAll(io.LimitReader(resp.Body, maxPicture))
	if err == nil && c.into != nil {
		err = json.Unmarshal(answer, c.into)
	}
	if err != nil {
		return nil, fmt.Errorf("read what %s answered to %s %s: %w", a.name, c.method, c.path, err)
	}
	return resp.Header, nil
}

// open sends a request and gives its answer, whose body the caller closes.
func (a *api) open(ctx context.Context, c call) (*http.Response, error) {
	var body io.Reader
	if c.body != nil {
		data, err := json.Marshal(c.body)
		if err != nil {
			panic("BUG: a request has no JSON: " + err.Error())
		}
		body = bytes.NewReader(data)
	}
	target := a.base + c.path
	if len(c.query) > 0 {
		target += "?" + c.query.Encode()
	}
	req, err := http.NewRequestWithContext(ctx, c.method, target, body)
	if err != nil {
		return nil, err
	}
	req.Header.Set("Accept", "application/json")
	if c.body != nil {
		req.Header.Set("Content-Type", "application/json")
	}
	if a.authorize != nil {
		if err := a.authorize(req); err != nil {
			return nil, err
		}
	}
	resp, err := a.client.Do(req)
	if err != nil {
		return nil, a.unreached(err)
	}
	if resp.StatusCode/100 != 2 && resp.StatusCode != http.StatusNotModified {
		defer resp.Body.Close() //nolint:errcheck // nothing can be lost by it
		r := &refused{api: a.name, request: c.method + " " + c.path, status: resp.StatusCode, said: saidIn(resp.Body)}
		if a.rights != nil {
			r.needs = a.rights(r.request)
		}
		return nil, r
	}
	return resp, nil
}

// saidIn is what an answer that refuses says: the message of Kubernetes' and Docker's JSON, or the text itself.
func saidIn(body io.Reader) string {
	text, _ := io.ReadAll(io.LimitReader(body, maxAnswer))
	var object struct{ Message string }
	if json.Unmarshal(text, &object) == nil && object.Message != "" {
		text = []byte(object.Message)
	}
	return readable(bytes.Join(bytes.Fields(text), []byte(" ")))
}

// unreached says what may be done about an API that does not answer.
func (a *api) unreached(err error) error {
	if cause, ok := errors.AsType[*url.Error](err); ok {
		err = cause.Err // without the URL, which the message below has
	}
	where := a.base
	if unix, ok := a.client.Transport.(*unixTransport); ok {
		where = "unix://" + unix.path
		if errors.Is(err, syscall.EACCES) {
			return fmt.Errorf("reach %s at %s: %w; the user that runs pilotlight must be in the group of that socket", a.name, where, err)
		}
		if errors.Is(err, fs.ErrNotExist) || errors.Is(err, syscall.ECONNREFUSED) {
			return fmt.Errorf("reach %s at %s: %w; does the engine run?", a.name, where, err)
		}
	}
	return fmt.Errorf("reach %s at %s: %w", a.name, where, err)
}

// close lets go of the API's connections.
func (a *api) close() { a.client.CloseIdleConnections() }

// unixTransport speaks HTTP over a Unix socket.
type unixTransport struct {
	http.Transport

	path string
}

// newAPI makes the API at an address: unix:///path, tcp://host:port, http:// or https://. TLS may be nil.
func newAPI(name, address string, tls *config.BackendTLS) *api {
	if path, ok := strings.CutPrefix(address, "unix://"); ok {
		t := &unixTransport{path: path, Transport: http.Transport{MaxIdleConnsPerHost: 4, IdleConnTimeout: time.Minute}}
		t.DialContext = func(ctx context.Context, _, _ string) (net.Conn, error) {
			return new(net.Dialer).DialContext(ctx, "unix", path)
		}
		return &api{name: name, base: "http://localhost", client: noRedirects(t)}
	}
	if rest, ok := strings.CutPrefix(address, "tcp://"); ok {
		address = "http://" + rest
	}
	if tls == nil {
		tls = &config.BackendTLS{}
	}
	t := &http.Transport{MaxIdleConnsPerHost: 4, IdleConnTimeout: time.Minute, TLSHandshakeTimeout: apiTime}
	t.DialTLSContext = func(ctx context.Context, network, addr string) (net.Conn, error) {
		c, err := new(net.Dialer).DialContext(ctx, network, addr)
		if err != nil {
			return nil, err
		}
		return tls.Over(ctx, c, addr, "http/1.1")
	}
	return &api{name: name, base: strings.TrimSuffix(address, "/"), client: noRedirects(t)}
}

func noRedirects(t http.RoundTripper) *http.Client {
	return &http.Client{Transport: t, CheckRedirect: func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse }}
}

// secretIn reads a token from a file.
func secretIn(path string) (string, error) {
	token, err := os.ReadFile(path)
	if err != nil {
		return "", fmt.Errorf("read the token: %w", err)
	}
	return strings.TrimSpace(string(token)), nil
}

// retried makes a change again while others change the same thing at the same time.
func retried(ctx context.Context, change func() (conflict bool, err error)) error {
	pause := 20 * time.Millisecond
	for try := 1; ; try++ {
		conflict, err := change()
		if err == nil || !conflict || try == tries {
			return err
		}
		select {
		case <-ctx.Done():
			return context.Cause(ctx)
		case <-time.After(pause):
		}
		pause *= 3
	}
}
