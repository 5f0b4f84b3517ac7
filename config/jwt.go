package config

import (
	"fmt"
	"net/url"
	"slices"
	"strconv"
	"strings"
	"time"
)

// JWT is an issuer of JSON Web Tokens (RFC 7519) that count as keys: what signs them, and what of them says who asks.
type JWT struct {
	// Issuer is what the claim iss of its tokens says, to the letter. Required.
	Issuer string `yaml:"issuer" jsonschema:"required"`
	// Audience are names for us; the claim aud must hold one of them. Required: a token that was made for another service is none for us.
	Audience []string `yaml:"audience" jsonschema:"required"`
	// JWKS is where the issuer's public keys stand, as a JWK set (RFC 7517): the path of a file, or an https URL. What it holds is taken over in the
	// background; while it cannot be had, or is no good, the last that was good counts. Required.
	JWKS string `yaml:"jwks" jsonschema:"required"`
	// CA is the path of the authorities, as PEM, that must have signed the certificate of the URL's server. Default: those that this host trusts.
	CA string `yaml:"ca,omitempty"`
	// Refresh is how often the URL is asked, from 10s. It is asked sooner, though not more than every 10s, when a token names a key that is not known. A file is
	// read when it changes. Default 5m.
	Refresh Duration `yaml:"refresh"`
	// Algorithms are those that its tokens may be signed with, of RS256, RS384, RS512, PS256, PS384, PS512, ES256, ES384, ES512 and EdDSA. Default [RS256 ES256 EdDSA].
	Algorithms []JWTAlgorithm `yaml:"algorithms"`
	// Leeway is how far the issuer's clock may be from ours, up to 5m: so long a token counts after it has expired, and before it is valid. Default 30s.
	Leeway Duration `yaml:"leeway"`
	// Claims are what of a token is read.
	Claims JWTClaims `yaml:"claims"`
	// Limits are what a holder of a token may, where that does not say.
	Limits JWTLimits `yaml:"limits"`
}

// JWTClaims are names of claims. One with dots may stand for a claim within others, as realm_access.tenant does.
type JWTClaims struct {
	// Tenant is the claim that says who asks, for shares and bills. A token without it is refused. Limits are for each sub, or for each tenant where tokens
	// have none. Default sub.
	Tenant string `yaml:"tenant"`
	// Models is the claim that says which models may be asked for: a list, or names with spaces between them; * stands for any characters but /. Default: none
	// is read, limits.models counts. A token without it may do what limits.models says, and nothing if that is not given.
	Models string `yaml:"models,omitempty"`
	// Priority is the claim that says which place its requests have in lines: high, normal or low. Default: none is read.
	Priority string `yaml:"priority,omitempty"`
	// Rate is the claim with the requests per second. Default: none is read.
	Rate string `yaml:"rate,omitempty"`
	// Concurrency is the claim with the requests at once. Default: none is read.
	Concurrency string `yaml:"concurrency,omitempty"`
	// TokensPerMinute is the claim with the tokens per minute. Default: none is read.
	TokensPerMinute string `yaml:"tokens_per_minute,omitempty"`
}

// JWTLimits are what the holders of tokens may, each.
type JWTLimits struct {
	// Models that may be asked for; * stands for any characters but /. Default: all, unless claims.models is given.
	Models []string `yaml:"models,omitempty"`
	// Priority is their place in lines: high, normal or low. Default normal.
	Priority KeyPriority `yaml:"priority"`
	// Rate is how many requests per second, over some time. Default: any number.
	Rate Rate `yaml:"rate,omitempty"`
	// Concurrency is how many requests at once. Default 0: any number.
	Concurrency int `yaml:"concurrency"`
	// TokensPerMinute are those of prompts and answers. Default: any number.
	TokensPerMinute Rate `yaml:"tokens_per_minute,omitempty"`
}

func defaultJWT() JWT {
	return JWT{
		Refresh: Duration(5 * time.Minute), Algorithms: []JWTAlgorithm{"RS256", "ES256", "EdDSA"}, Leeway: Duration(30 * time.Second),
		Claims: JWTClaims{Tenant: "sub"}, Limits: JWTLimits{Priority: "normal"},
	}
}

// JWTAlgorithm is a way to sign a token with a private key (RFC 7518, RFC 8037). Those with a shared secret are none: whoever could check a token could make one.
type JWTAlgorithm string

// UnmarshalText reads the name of an algorithm.
func (a *JWTAlgorithm) UnmarshalText(text []byte) error {
	return oneOf(a, text, "way to sign a token", JWTAlgorithms())
}

// JWTAlgorithms are all ways to sign a token.
func JWTAlgorithms() []JWTAlgorithm {
	return []JWTAlgorithm{"RS256", "RS384", "RS512", "PS256", "PS384", "PS512", "ES256", "ES384", "ES512", "EdDSA"}
}

// KeyPriority is the priority of who asks.
type KeyPriority string

// UnmarshalText reads a priority.
func (p *KeyPriority) UnmarshalText(text []byte) error {
	return oneOf(p, text, "priority", keyPriorities())
}

func keyPriorities() []KeyPriority { return []KeyPriority{"high", "normal", "low"} }

// Rate is a number of something in some time.
type Rate float64

const maxRate = 1e12

// UnmarshalText reads a number.
func (r *Rate) UnmarshalText(text []byte) error {
	n, err := strconv.ParseFloat(string(text), 64)
	if err != nil || !(n > 0 && n <= maxRate) {
		return fmt.Errorf("%s is not a rate; it is a number above 0, as in 0.5 or 100000", quote(string(text)))
	}
	*r = Rate(n)
	return nil
}

// The bounds of an issuer.
const (
	maxIssuers   = 32
	leastRefresh = Duration(10 * time.Second)
	mostLeeway   = Duration(5 * time.Minute)
)

func checkIssuers(at *place, all []JWT) {
	if len(all) > maxIssuers {
		at.problem("keys.jwt has more than %d issuers", maxIssuers)
	}
	for i := range all {
		j, at := &all[i], at.item(i)
		j.check(at)
		if slices.ContainsFunc(all[:i], func(other JWT) bool { return other.Issuer == j.Issuer }) {
			at.problemIn("issuer", "%s is listed twice", quote(j.Issuer))
		}
	}
}

func (j *JWT) check(at *place) {
	if j.Issuer == "" {
		at.problemIn("issuer", "issuer is empty")
	}
	if len(j.Audience) == 0 || slices.Contains(j.Audience, "") {
		at.problemIn("audience", "audience names nobody, and so would any token be for us")
	}
	if given := at.get("algorithms"); given != nil && len(given.in) == 0 {
		given.problem("algorithms names none; no token could be checked")
	}
	if given := at.get("jwks"); given != nil {
		j.checkSource(at, given)
	}
	if j.Refresh < leastRefresh {
		at.below("refresh").problem("refresh is %s; it must be %s at least", j.Refresh, leastRefresh)
	}
	if j.Leeway > mostLeeway {
		at.below("leeway").problem("leeway is %s; it must be %s at most", j.Leeway, mostLeeway)
	}
	if j.Claims.Tenant == "" {
		at.below("claims", "tenant").problem("claims.tenant names no claim; sub is the one that every issuer has")
	}
}

// Remote says whether the keys are asked for at a URL.
func (j *JWT) Remote() bool { return strings.Contains(j.JWKS, "://") }

func (j *JWT) checkSource(at, given *place) {
	if !j.Remote() {
		if j.JWKS == "" {
			given.problem("jwks names no file and no URL")
		}
		if ca := at.get("ca"); ca != nil {
			ca.problem("ca is for a URL; jwks is a file")
		}
		return
	}
	u, err := url.Parse(j.JWKS)
	switch {
	case err != nil || u.Scheme != "http" && u.Scheme != "https" || u.Hostname() == "" || u.Fragment != "":
		given.problem("%s is no URL of a JWK set; write one like https://login.example.com/.well-known/jwks.json", quote(j.JWKS))
	case u.User != nil:
		given.problem("a password does not belong in the file; public keys need none")
	case u.Scheme == "http" && !loopback(u.Hostname()):
		given.problem("%s would let whoever is on the way say who may ask; use https", quote(j.JWKS))
	}
}
