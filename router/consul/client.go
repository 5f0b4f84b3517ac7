package consul

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"net/http"
	"os"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"github.com/hashicorp/consul/api"
	"github.com/prometheus/client_golang/prometheus"
	"golang.org/x/time/rate"

	"pilotlight/config"
)

// The bounds on what is asked of Consul.
const (
	askTime    = 10 * time.Second // for an answer that does not wait for a change
	askRate    = 250              // requests per second, in sum
	askBurst   = 50
	maxConns   = 64          // beside those for services of others; Consul takes 200 from one address
	firstRetry = time.Second // after a failure; then twice as long each time, up to lastRetry, all with jitter
	lastRetry  = 15 * time.Second
)

// Client speaks to Consul. All its methods may be called from any goroutine.
type Client struct {
	cfg   config.Consul
	api   *api.Client
	log   *slog.Logger
	rate  *rate.Limiter
	bytes atomic.Int64 // received
	asked atomic.Int64 // requests

	mu       sync.Mutex // guards what follows
	contact  time.Time  // of the last answer
	failure  string     // of the last request; empty after an answer
	problems map[string]string
	holds    map[string]string // locks, and who holds them
	counts   counts
}

type counts struct{ agents, edges, services, backends int }

// New makes a client. It reads the files that the configuration names, and asks Consul nothing yet.
func New(cfg config.Consul, log *slog.Logger, registry prometheus.Registerer) (*Client, error) {
	c := &Client{
		cfg: cfg, log: log, rate: rate.NewLimiter(askRate, askBurst),
		problems: map[string]string{}, holds: map[string]string{}, failure: "not asked yet",
	}
	transport := &http.Transport{DialContext: c.dial, MaxIdleConnsPerHost: cfg.Watches + maxConns, MaxConnsPerHost: cfg.Watches + maxConns, IdleConnTimeout: time.Minute}
	scheme := "http"
	if cfg.TLS != nil {
		if _, err := cfg.TLS.Client(cfg.Address, "http/1.1"); err != nil {
			return nil, fmt.Errorf("speak TLS to Consul: %w", err)
		}
		scheme = "https"
		transport.DialTLSContext = c.dialTLS
	}
	identity := &bearer{file: cfg.TokenFile, next: transport}
	if _, err := identity.token(); err != nil {
		return nil, err
	}
	made, err := api.NewClient(&api.Config{
		Address: cfg.Address, Scheme: scheme, HttpClient: &http.Client{Transport: identity},
		Namespace: cfg.Namespace, Partition: cfg.Partition,
	})
	if err != nil {
		return nil, fmt.Errorf("speak to Consul: %w", err)
	}
	c.api = made
	c.register(registry)
	return c, nil
}

// dial counts what comes over its connections.
func (c *Client) dial(ctx context.Context, network, addr string) (net.Conn, error) {
	dialer := net.Dialer{Timeout: 5 * time.Second}
	conn, err := dialer.DialContext(ctx, network, addr)
	if err != nil {
		return nil, err
	}
	return counted{conn, &c.bytes}, nil
}

func (c *Client) dialTLS(ctx context.Context, network, addr string) (net.Conn, error) {
	conn, err := c.dial(ctx, network, addr)
	if err != nil {
		return nil, err
	}
	return c.cfg.TLS.Over(ctx, conn, addr, "http/1.1")
}

type counted struct {
	net.Conn
	bytes *atomic.Int64
}

func (c counted) Read(p []byte) (int, error) {
	n, err := c.Conn.Read(p)
	c.bytes.Add(int64(n))
	return n, err
}

// bearer sends the token of a file, which is read again when it has changed.
type bearer struct {
	file string
	next http.RoundTripper

	mu    sync.Mutex // guards what follows
	seen  os.FileInfo
	value string
}

func (b *bearer) RoundTrip(r *http.Request) (*http.Response, error) {
	token, err := b.token()
	if err != nil {
		return nil, err
	}
	r = r.Clone(r.Context())
	r.Header.Del("X-Consul-Token") // that of the environment
	if token != "" {
		r.Header.Set("X-Consul-Token", token)
	}
	return b.next.RoundTrip(r)
}

func (b *bearer) token() (string, error) {
	if b.file == "" {
		return "", nil
	}
	now, err := os.Stat(b.file)
	if err != nil {
		return "", fmt.Errorf("read Consul's token: %w", err)
	}
	b.mu.Lock()
	defer b.mu.Unlock()
	if b.seen != nil && os.SameFile(now, b.seen) && now.ModTime().Equal(b.seen.ModTime()) && now.Size() == b.seen.Size() {
		return b.value, nil
	}
	text, err := os.ReadFile(b.file)
	if err != nil {
		return "", fmt.Errorf("read Consul's token: %w", err)
	}
	b.seen, b.value = now, strings.TrimSpace(string(text))
	if b.value == "" {
		return "", fmt.Errorf("read Consul's token: %s is empty", b.file)
	}
	return b.value, nil
}

// request is one thing that Consul is asked for, in words.
type request struct {
	doing string // as in: look for agents
	right string // what an ACL token needs for it, as in: service:read for "pilotlight-agent"
}

// do asks Consul once, within limit. Its error says what was being done, and which right the token lacks if that was it.
func (c *Client) do(ctx context.Context, q request, limit time.Duration, ask func(ctx context.Context) error) error {
	if err := c.rate.Wait(ctx); err != nil {
		return context.Cause(ctx)
	}
	c.asked.Add(1)
	asking, cancel := context.WithTimeout(ctx, limit)
	defer cancel()
	err := ask(asking)
	if ctx.Err() != nil {
		return context.Cause(ctx) // nobody wants to know any more, and it says nothing of Consul
	}
	if err == nil {
		c.answered()
		return nil
	}
	err = q.explain(err, c.cfg.Address)
	if status, ok := errors.AsType[api.StatusError](err); ok && status.Code < http.StatusInternalServerError {
		c.answered() // whoever asks says what is wrong with the answer
	} else {
		c.failed(err)
	}
	return err
}

// explain puts an error into words for the person who must act.
func (q request) explain(err error, address string) error {
	status, ok := errors.AsType[api.StatusError](err)
	switch {
	case errors.Is(err, context.DeadlineExceeded):
		return fmt.Errorf("%s: Consul at %s does not answer", q.doing, address)
	case !ok:
		return fmt.Errorf("%s: %w", q.doing, err)
	case status.Code == http.StatusForbidden || strings.Contains(status.Body, "ACL not found") || strings.Contains(status.Body, "Permission denied"):
		return fmt.Errorf("%s: the token lacks %s; deploy/consul/policy.hcl has all that is needed: %w", q.doing, q.right, err)
	}
	return fmt.Errorf("%s: %w", q.doing, err)
}

// retryAfter is how long to wait after the n-th failure in a row, from 1. The jitter is whole: many ask the same Consul.
func retryAfter(n int, random func() float64) time.Duration {
	most := min(firstRetry<<min(n-1, 10), lastRetry)
	return most/8 + time.Duration(random()*float64(most-most/8))
}

// pause waits, or says that ctx has ended.
func pause(ctx context.Context, d time.Duration) bool {
	if d <= 0 {
		return ctx.Err() == nil
	}
	timer := time.NewTimer(d)
	defer timer.Stop()
	select {
	case <-timer.C:
		return true
	case <-ctx.Done():
		return false
	}
}
