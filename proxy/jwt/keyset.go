package jwt

import (
	"crypto/ecdsa"
	"crypto/ed25519"
	"crypto/elliptic"
	"crypto/rsa"
	"encoding/json"
	"errors"
	"fmt"

	"github.com/go-jose/go-jose/v4"
)

// keySet is an issuer's keys at one time. It is never changed: whoever has verified something by it asks whether it is still the one that counts.
type keySet struct {
	text  string // of which it was made
	byID  map[string][]*key
	all   []*key
	other int // keys that are none for us: secrets, those for encryption, weak ones and such that we do not know
}

// key is a public key that may have signed tokens.
type key struct {
	public any
	only   string // the algorithm that it is for; empty: all that fit
}

// The bounds of a set.
const (
	maxSet    = 1 << 20 // bytes
	maxKeys   = 256
	leastBits = 2048 // of RSA (RFC 7518 section 3.3)
	maxSame   = 4    // keys of one name that are tried
)

// parseSet reads a JWK set.
func parseSet(text []byte) (*keySet, error) {
	var raw struct {
		Keys []json.RawMessage `json:"keys"`
	}
	if err := json.Unmarshal(text, &raw); err != nil {
		return nil, fmt.Errorf("it is no JWK set: %w", err)
	}
	if len(raw.Keys) > maxKeys {
		return nil, fmt.Errorf("it has %d keys; more than %d are not taken", len(raw.Keys), maxKeys)
	}
	set := &keySet{text: string(text), byID: map[string][]*key{}}
	for _, one := range raw.Keys {
		var k jose.JSONWebKey
		if k.UnmarshalJSON(one) != nil || !signs(&k) { // a kind that we do not know is no reason to do without the others
			set.other++
			continue
		}
		mine := &key{k.Public().Key, k.Algorithm}
		set.all = append(set.all, mine)
		set.byID[k.KeyID] = append(set.byID[k.KeyID], mine)
	}
	if len(set.all) == 0 {
		return nil, errors.New("it holds no public key that could have signed a token")
	}
	return set, nil
}

// signs says whether a key is one that tokens may be signed with.
func signs(k *jose.JSONWebKey) bool {
	if k.Use != "" && k.Use != "sig" {
		return false
	}
	switch public := k.Public().Key.(type) {
	case *rsa.PublicKey:
		return public.N.BitLen() >= leastBits
	case *ecdsa.PublicKey, ed25519.PublicKey:
		return true
	}
	return false
}

// fits says whether a key can have signed with an algorithm. That one is meant for one algorithm only keeps it from being taken for another's.
func (k *key) fits(algorithm string) bool {
	if k.only != "" && k.only != algorithm {
		return false
	}
	switch public := k.public.(type) {
	case *rsa.PublicKey:
		return algorithm[:2] == "RS" || algorithm[:2] == "PS"
	case *ecdsa.PublicKey:
		return public.Curve == elliptic.P256() && algorithm == "ES256" || public.Curve == elliptic.P384() && algorithm == "ES384" || public.Curve == elliptic.P521() && algorithm == "ES512"
	case ed25519.PublicKey:
		return algorithm == "EdDSA"
	}
	return false
}

// find are the keys that a token may be signed with, few. One that names no key must be signed with the only one that fits.
func (s *keySet) find(id, algorithm string) (public []any) {
	if s == nil {
		return nil
	}
	from := s.byID[id]
	if id == "" {
		from = s.all
	}
	for _, k := range from {
		if k.fits(algorithm) {
			public = append(public, k.public)
		}
	}
	if id == "" && len(public) > 1 {
		return nil
	}
	return public[:min(len(public), maxSame)]
}
