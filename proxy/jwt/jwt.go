// Package jwt knows who has a JSON Web Token (RFC 7519): one that an issuer signed with a key of its JWK set (RFC 7517). go-jose does the cryptography.
//
// A token is verified once and then known by its SHA-256 until it expires, or the issuer's keys change. So what a request costs is a hash and a look-up,
// as with an API key, and the issuer is never asked for one.
package jwt

import (
	"bytes"
	"context"
	"crypto/sha256"
	"fmt"
	"log/slog"
	"strings"
	"sync"
	"time"

	"github.com/hashicorp/golang-lru/v2"
	"github.com/prometheus/client_golang/prometheus"

	"pilotlight/config"
	"pilotlight/proxy/keys"
	"pilotlight/router"
)

// The bounds of what is remembered and looked at.
const (
	maxToken   = 8 << 10 // bytes
	shards     = 16
	perShard   = 2048    // verified tokens, of which the one that was not used for longest goes
	maxSubject = 1 << 15 // of whom it is known what they used of their limits, likewise
)

// Verifier knows the holders of tokens. Its methods may be called from any goroutine.
type Verifier struct {
	issuers  map[string]*issuer
	order    []*issuer
	verified [shards]*lru.Cache[sum, *known] // by a token's hash, of which the first byte says in which
	used     *lru.Cache[string, *keys.Used]  // by issuer and subject
}

type sum [sha256.Size]byte

// known is a token that was verified.
type known struct {
	holder *keys.Holder
	issuer *issuer
	by     *keySet // in which the key stood
}

// New makes the verifier of tokens of these issuers. A file of keys must be good now; a URL is asked once Run runs. Its metrics are registered.
func New(issuers []config.JWT, log *slog.Logger, registry prometheus.Registerer) (*Verifier, error) {
	v := &Verifier{issuers: map[string]*issuer{}}
	gauges := newGauges()
	for i := range issuers {
		is, err := newIssuer(&issuers[i], log, gauges)
		if err != nil {
			return nil, fmt.Errorf("read the keys of %s: %w", issuers[i].Issuer, err)
		}
		v.issuers[is.Issuer] = is
		v.order = append(v.order, is)
	}
	var err error
	for i := range v.verified {
		if v.verified[i], err = lru.New[sum, *known](perShard); err != nil {
			return nil, fmt.Errorf("remember tokens: %w", err)
		}
	}
	if v.used, err = lru.New[string, *keys.Used](maxSubject); err != nil {
		return nil, fmt.Errorf("remember what tokens used: %w", err)
	}
	gauges.register(registry, v)
	return v, nil
}

// Run follows the issuers' keys until ctx ends.
func (v *Verifier) Run(ctx context.Context) {
	var all sync.WaitGroup
	for _, is := range v.order {
		all.Go(func() { is.run(ctx) })
	}
	all.Wait()
}

// Is says whether a secret looks like a token: three parts with dots between them, of which the first begins as JSON does. No API key of ours does.
func Is(secret []byte) bool {
	return bytes.HasPrefix(secret, []byte("eyJ")) && bytes.Count(secret, []byte(".")) == 2
}

// Find is whose a token is. It waits, for two seconds at most, where the token names a key that we do not have and the issuer's keys are just being read.
func (v *Verifier) Find(token []byte, now time.Time) (*keys.Holder, *router.Refusal) {
	if len(token) > maxToken {
		return nil, keys.Unauthorized(fmt.Sprintf("the token has more than %d bytes", maxToken))
	}
	s := sum(sha256.Sum256(token))
	shard := v.verified[s[0]%shards]
	found, _ := shard.Get(s)
	if found == nil || found.by != found.issuer.keys.Load() {
		var no *router.Refusal
		if found, no = v.verify(string(token), now); no != nil {
			shard.Remove(s)
			return nil, no
		}
		shard.Add(s, found)
	}
	if !now.Before(found.holder.Expires) {
		shard.Remove(s)
		return nil, keys.Unauthorized(found.holder.Name() + " has expired")
	}
	return found.holder, nil
}

// sharing is what a subject has used of its limits, whichever token it showed.
func (v *Verifier) sharing(issuer, subject string) *keys.Used {
	name := issuer + "\x00" + subject
	if used, found := v.used.Get(name); found {
		return used
	}
	fresh := &keys.Used{}
	if before, found, _ := v.used.PeekOrAdd(name, fresh); found {
		return before
	}
	return fresh
}

// IssuerStatus is how it is with an issuer's keys.
type IssuerStatus struct {
	Issuer  string    `json:"issuer"`
	JWKS    string    `json:"jwks"`
	Keys    int       `json:"keys"`              // that count now
	Read    time.Time `json:"read,omitzero"`     // when they were last seen to be good
	Problem string    `json:"problem,omitempty"` // why what is there now does not count; those of before do
}

// Status says how it is with each issuer's keys, in the order of the configuration.
func (v *Verifier) Status() []IssuerStatus {
	all := make([]IssuerStatus, len(v.order))
	for i, is := range v.order {
		all[i] = is.status()
	}
	return all
}

// gauges are the metrics of issuers' keys. Issuers are those of the configuration.
type gauges struct {
	fresh *prometheus.GaugeVec
	read  *prometheus.GaugeVec
	keys  *prometheus.GaugeVec
}

func newGauges() *gauges {
	of := []string{"issuer"}
	return &gauges{
		fresh: prometheus.NewGaugeVec(prometheus.GaugeOpts{Name: "pilotlight_jwks_last_refresh_successful", Help: "1 if the issuer's keys were good when they were last read, else 0: then those of before count."}, of),
		read:  prometheus.NewGaugeVec(prometheus.GaugeOpts{Name: "pilotlight_jwks_last_refresh_timestamp_seconds", Help: "When the issuer's keys were last read and good, in Unix time."}, of),
		keys:  prometheus.NewGaugeVec(prometheus.GaugeOpts{Name: "pilotlight_jwks_keys", Help: "Keys of the issuer that count."}, of),
	}
}

func (g *gauges) register(registry prometheus.Registerer, v *Verifier) {
	registry.MustRegister(g.fresh, g.read, g.keys, prometheus.NewGaugeFunc(prometheus.GaugeOpts{
		Name: "pilotlight_jwt_verified", Help: "Tokens that are known to be good.",
	}, func() float64 {
		n := 0
		for _, shard := range v.verified {
			n += shard.Len()
		}
		return float64(n)
	}))
}

// listed is names in a sentence.
func listed[T ~string](names []T) string {
	all := make([]string, len(names))
	for i, name := range names {
		all[i] = string(name)
	}
	return strings.Join(all, ", ")
}
