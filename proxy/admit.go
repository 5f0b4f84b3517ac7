package proxy

import (
	"bytes"
	"crypto/tls"
	"slices"
	"time"

	"github.com/valyala/fasthttp"

	"pilotlight/config"
	"pilotlight/proxy/keys"
	"pilotlight/router"
)

// Access knows who asks. *keys.Ring does, by API keys and by certificates.
type Access interface {
	// Find is who has a secret: an API key, or a token. Where the request brings none it is empty.
	Find(secret []byte, now time.Time) (*keys.Holder, *router.Refusal)
	// Certified is whose certificate, which has been verified, bears one of the names.
	Certified(names []string, now time.Time) (*keys.Holder, *router.Refusal)
}

// identify finds out who asks, where keys are asked for. What a request itself brings counts before the certificate of its connection: a proxy may
// have that, which speaks for many.
func (v *visit) identify() *router.Refusal {
	access := v.edge.access
	if access == nil {
		return nil
	}
	secret, shown := v.secret(), &v.conn.shown
	var holder *keys.Holder
	var no *router.Refusal
	switch {
	case len(secret) > 0 || len(shown.names) == 0:
		holder, no = access.Find(secret, v.At)
	case v.At.After(shown.until):
		no = keys.Unauthorized("the client's certificate has expired since it connected")
	default:
		holder, no = access.Certified(shown.names, v.At)
	}
	if no != nil {
		return no
	}
	v.holder, v.Tenant = holder, holder.Tenant
	return nil
}

// shownCertificate is what of a client's certificate says who it is.
type shownCertificate struct {
	names []string // empty: it has none, or nobody asks for it
	until time.Time
}

// maxNames is how many names of a certificate are looked at.
const maxNames = 16

// shows takes in the certificate that a client has proved to have.
func (c *conn) shows(state *tls.ConnectionState) {
	if len(state.VerifiedChains) == 0 {
		return
	}
	cert := state.PeerCertificates[0]
	var names []string
	switch c.ln.edge.certifies {
	case config.CertificateSubject:
		names = []string{cert.Subject.CommonName}
	case config.CertificateDNS:
		names = slices.Clone(cert.DNSNames)
	case config.CertificateURI:
		for _, uri := range cert.URIs {
			names = append(names, uri.String())
		}
	}
	names = slices.DeleteFunc(names, func(name string) bool { return name == "" })
	c.shown = shownCertificate{names[:min(len(names), maxNames)], cert.NotAfter}
}

// secret is the API key that a request brings, as OpenAI's, Anthropic's and Azure's clients do.
func (v *visit) secret() []byte {
	for name, value := range v.head.each {
		switch {
		case is(name, "authorization"):
			if scheme, key, found := bytes.Cut(value, []byte(" ")); found && is(scheme, "bearer") {
				return trim(key)
			}
		case is(name, "x-api-key"), is(name, "api-key"):
			return value
		}
	}
	return nil
}

// ofAKey names the fields that an API key may be in. They go no further where the key is ours.
func ofAKey(name []byte) bool {
	return is(name, "authorization") || is(name, "x-api-key") || is(name, "api-key")
}

// enter lets a request for a model begin, if its key allows that. It counts until the visit is closed. Whatever led here, nobody comes further whose key
// was not found.
func (v *visit) enter() *router.Refusal {
	if v.edge.access == nil {
		return nil
	}
	if v.holder == nil {
		return v.identify()
	}
	model, known := v.edge.router.Model(v.ask.model)
	if !known { // whoever has a key may hear that
		return unknownModel(v.ask.model)
	}
	if no := v.holder.Enter(model.Name, v.At); no != nil {
		return no
	}
	v.entered = true
	return nil
}

// leave ends what enter began.
func (v *visit) leave() {
	if v.entered {
		v.holder.Leave(v.PromptTokens+v.Tokens, v.At.Add(v.Total))
	}
}

// priority is that of the request in its model's line.
func (v *visit) priority() router.Priority {
	if v.holder == nil {
		return 0
	}
	return v.holder.Priority()
}

// mayAsk are the models that whoever asks may ask for.
func (v *visit) mayAsk() []router.ModelStatus {
	all := v.edge.router.Models()
	if v.holder == nil {
		return all
	}
	return allowed(v.holder, all)
}

func allowed(h *keys.Holder, all []router.ModelStatus) []router.ModelStatus {
	some := make([]router.ModelStatus, 0, len(all))
	for _, m := range all {
		if h.May(m.Name) {
			some = append(some, m)
		}
	}
	return some
}

// isOpen says whether a request is answered without a key: it asks whether the edge is up, and hears nothing else. It is one of those that listing
// answers, so that it comes to no backend.
func isOpen(h *fasthttp.RequestHeader) bool {
	if !h.IsGet() && !h.IsHead() {
		return false
	}
	path, _, _ := bytes.Cut(originForm(h.RequestURI()), []byte("?"))
	switch string(path) {
	case "/healthz", "/v2/health/live", "/v2/health/ready":
		return true
	}
	return false
}

// keyed says whether the client's key stays here.
func (v *visit) keyed() bool { return v.holder != nil && !v.edge.passKeys }
