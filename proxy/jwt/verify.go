package jwt

import (
	"errors"
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/go-jose/go-jose/v4"
	"github.com/go-jose/go-jose/v4/jwt"

	"pilotlight/config"
	"pilotlight/proxy/keys"
	"pilotlight/router"
)

// verify reads a token. What its refusals say of it is short and quoted, and never the token.
func (v *Verifier) verify(token string, now time.Time) (*known, *router.Refusal) {
	parsed, err := jwt.ParseSigned(token, algorithms(config.JWTAlgorithms()))
	if unexpected, ok := errors.AsType[*jose.ErrUnexpectedSignatureAlgorithm](err); ok {
		return nil, refuse("it is signed with %.20q, which is no way to sign that is taken here; known are %s", unexpected.Got, listed(config.JWTAlgorithms()))
	}
	if err != nil || len(parsed.Headers) != 1 {
		return nil, refuse("it is malformed")
	}
	var claims jwt.Claims
	if err := parsed.UnsafeClaimsWithoutVerification(&claims); err != nil {
		return nil, refuse("its claims are malformed")
	}
	is := v.issuers[claims.Issuer]
	if is == nil {
		return nil, refuse("its issuer %.100q is not known here", claims.Issuer)
	}
	header := parsed.Headers[0]
	if !slices.Contains(is.Algorithms, config.JWTAlgorithm(header.Algorithm)) {
		return nil, refuse("it is signed with %s; %s signs with %s", header.Algorithm, is.Issuer, listed(is.Algorithms))
	}
	set, all, no := is.find(header.KeyID, header.Algorithm)
	if no != nil {
		return nil, no
	}
	more := map[string]any{}
	claims = jwt.Claims{}
	if !verifies(parsed, all, &claims, &more) {
		return nil, refuse("its signature does not fit")
	}
	holder, err := v.holder(is, &claims, more, now)
	if err != nil {
		return nil, refuse("%v", err)
	}
	return &known{holder, is, set}, nil
}

// verifies reads the claims, if one of the keys has signed them.
func verifies(token *jwt.JSONWebToken, by []any, claims ...any) bool {
	return slices.ContainsFunc(by, func(key any) bool { return token.Claims(key, claims...) == nil })
}

// holder is who has a token with these claims, which are the issuer's.
func (v *Verifier) holder(is *issuer, claims *jwt.Claims, all map[string]any, now time.Time) (*keys.Holder, error) {
	err := claims.ValidateWithLeeway(jwt.Expected{Issuer: is.Issuer, AnyAudience: is.Audience, Time: now}, is.Leeway.Std())
	switch {
	case errors.Is(err, jwt.ErrExpired):
		return nil, fmt.Errorf("it expired at %s", claims.Expiry.Time().UTC().Format(time.RFC3339))
	case errors.Is(err, jwt.ErrNotValidYet):
		return nil, fmt.Errorf("it counts from %s on", claims.NotBefore.Time().UTC().Format(time.RFC3339))
	case errors.Is(err, jwt.ErrIssuedInTheFuture):
		return nil, errors.New("it was issued in the future; are both clocks right?")
	case errors.Is(err, jwt.ErrInvalidAudience):
		return nil, fmt.Errorf("it is for %.100q and not for us, %s", strings.Join(claims.Audience, " "), listed(is.Audience))
	case err != nil:
		return nil, fmt.Errorf("its claims do not hold: %w", err)
	case claims.Expiry == nil:
		return nil, errors.New("it never expires, as no token may that nobody can revoke")
	}
	k, err := is.says(claims.Subject, all)
	if err != nil {
		return nil, err
	}
	k.Expires = claims.Expiry.Time().Add(is.Leeway.Std())
	return keys.NewHolder(k, v.sharing(is.Issuer, k.ID))
}

func refuse(format string, args ...any) *router.Refusal {
	return keys.Unauthorized("the token is not taken: " + fmt.Sprintf(format, args...))
}

func algorithms(names []config.JWTAlgorithm) []jose.SignatureAlgorithm {
	all := make([]jose.SignatureAlgorithm, len(names))
	for i, name := range names {
		all[i] = jose.SignatureAlgorithm(name)
	}
	return all
}
