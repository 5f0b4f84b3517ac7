package proxy

import (
	"bytes"
	"cmp"
	"fmt"
	"net"
	"net/url"
	"os"
	"strings"

	"pilotlight/config"
	"pilotlight/router"
)

// destination is where a request is sent: a backend, or the upstream that its model overflows to.
type destination struct {
	id     string         // for people
	addr   string         // host:port
	model  string         // as it is known there
	answer *config.Answer // how slowly it may answer
	lease  *router.Lease  // of a backend
	away   *away          // nil: a backend
}

// away is the upstream that a model overflows to, a server of somebody else's. It is told nothing of the client but what it
// asks.
type away struct {
	*config.Overflow
	base *url.URL
	key  string // empty: none is sent
}

// mayOverflow says whether a request may go to another upstream, which understands OpenAI's API only.
func (v *visit) mayOverflow() bool {
	return !v.stayed && v.upload == nil && v.upgrade == nil && v.ask.api == openAI && under(v.ask.came.target, "/v1")
}

// overflow directs the request to the other upstream of its model. Where that cannot be, the request goes back to the line.
func (v *visit) overflow() error {
	model, ok := v.edge.router.Model(v.ask.model)
	if !ok || model.Config.Overflow == nil {
		return v.stay() // the configuration has just changed
	}
	a, err := newAway(model.Config.Overflow)
	if err != nil {
		v.edge.log.Error("a request could not overflow", "model", model.Name, "error", err)
		return v.stay()
	}
	v.known, v.Model, v.Backend, v.Overflow = model.Name, model.Name, a.base.Host, true
	v.Cold = v.Cold || model.State() != router.Ready
	v.to = destination{id: a.base.Host, addr: a.addr(), model: a.Model, answer: &model.Config.Answer, away: a}
	v.edge.metrics.overflows.WithLabelValues(model.Name).Inc()
	return nil
}

// stay has the request wait for a backend of ours after all.
func (v *visit) stay() error {
	v.stayed, v.Overflow, v.to = true, false, destination{}
	return v.acquire()
}

// newAway reads the key anew each time: keys are changed.
func newAway(to *config.Overflow) (*away, error) {
	base, err := url.Parse(to.URL)
	if err != nil {
		return nil, err
	}
	a := &away{Overflow: to, base: base}
	if to.KeyFile != "" {
		key, err := os.ReadFile(to.KeyFile)
		if err != nil {
			return nil, fmt.Errorf("read the key: %w", err)
		}
		if a.key = strings.TrimSpace(string(key)); !visible([]byte(a.key)) || a.key == "" {
			return nil, fmt.Errorf("%s holds no key on a line of its own", to.KeyFile)
		}
	}
	return a, nil
}

// pool names the idle connections that can be used again.
func (d *destination) pool() string {
	if d.away == nil {
		return d.addr
	}
	return d.away.base.Scheme + "://" + d.addr + " " + d.away.CA
}

// configured is what the configuration says of connecting.
func (d *destination) configured() config.Backend {
	if d.away == nil {
		return configured(d.lease)
	}
	return d.away.configured()
}

// addr is the upstream's host:port.
func (a *away) addr() string {
	port := map[string]string{"http": "80", "https": "443"}[a.base.Scheme]
	return net.JoinHostPort(a.base.Hostname(), cmp.Or(a.base.Port(), port))
}

// configured is how to connect to the upstream, as if it were a backend.
func (a *away) configured() config.Backend {
	b := config.Backend{ConnectTime: config.Duration(dialTime)}
	if a.base.Scheme == "https" {
		b.TLS = &config.BackendTLS{CA: a.CA}
	}
	return b
}

// appendTo appends a request line and a header in which nothing is left of the client's own credentials, cookies, query and
// address.
func (a *away) appendTo(dst []byte, m *message) []byte {
	dst = append(append(dst, m.method...), ' ')
	dst = append(a.appendPath(dst, m.target), " HTTP/1.1\r\n"...)
	dst = appendField(dst, "Host", a.base.Host)
	dst = m.head.appendFields(dst, keptAtHome)
	if a.key != "" {
		dst = appendField(dst, "Authorization", "Bearer "+a.key)
	}
	if m.length > 0 || m.head.chunked || m.head.length >= 0 {
		dst = appendLength(dst, m.length)
	}
	return append(dst, "\r\n"...)
}

// appendPath joins base and target. Both have the /v1: clients are given a base with it, and ask us with it.
func (a *away) appendPath(dst, target []byte) []byte {
	path, _, _ := bytes.Cut(target, []byte("?"))
	base := strings.TrimSuffix(a.base.EscapedPath(), "/")
	if strings.HasSuffix(base, "/v1") {
		path = path[len("/v1"):]
	}
	return append(append(dst, base...), path...)
}

// keptAtHome names the fields of a request that do not go to a server of somebody else's: all but a few.
func keptAtHome(name []byte) bool {
	for _, known := range [...]string{
		"accept", "accept-encoding", "accept-language", "content-type", "content-encoding",
		"user-agent", "openai-beta", "idempotency-key",
	} {
		if is(name, known) {
			return false
		}
	}
	return true
}
