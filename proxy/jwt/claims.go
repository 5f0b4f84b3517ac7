package jwt

import (
	"cmp"
	"fmt"
	"math"
	"strings"

	"pilotlight/config"
	"pilotlight/proxy/keys"
)

// says is what a token's claims say of its holder, and the configuration where they are silent.
func (is *issuer) says(subject string, claims map[string]any) (keys.Key, error) {
	names, limits := &is.Claims, &is.Limits
	tenant, err := text(claims, names.Tenant)
	if err == nil && tenant == "" {
		err = fmt.Errorf("it has no claim %s, which says who asks", names.Tenant)
	}
	if err != nil {
		return keys.Key{}, err
	}
	k := keys.Key{ID: cmp.Or(subject, tenant), Tenant: tenant, Models: limits.Models, Priority: keys.Priority(limits.Priority)}
	if len(tenant) > maxTenant {
		return k, fmt.Errorf("its claim %s has more than %d bytes", names.Tenant, maxTenant)
	}
	if err := is.mayAsk(&k, claims); err != nil {
		return k, err
	}
	priority, err := text(claims, names.Priority)
	if err != nil {
		return k, err
	}
	k.Priority = cmp.Or(keys.Priority(priority), k.Priority)
	concurrency, err := number(claims, names.Concurrency, float64(limits.Concurrency))
	if err != nil {
		return k, err
	}
	k.Concurrency = int(math.Ceil(concurrency))
	if k.Rate, err = number(claims, names.Rate, float64(limits.Rate)); err != nil {
		return k, err
	}
	k.Tokens, err = number(claims, names.TokensPerMinute, float64(limits.TokensPerMinute))
	return k, err
}

// The bounds of claims.
const (
	maxTenant = 128
	maxModels = 256
	maxNumber = 1e12
)

// mayAsk sets the models that may be asked for. Where a claim is to say that and does not, the token may do no more than everybody of its issuer.
func (is *issuer) mayAsk(k *keys.Key, claims map[string]any) error {
	if is.Claims.Models == "" {
		return nil
	}
	var models []string
	switch value := claim(claims, is.Claims.Models).(type) {
	case nil:
		if models = is.Limits.Models; len(models) == 0 {
			return fmt.Errorf("it has no claim %s, which says what may be asked for", is.Claims.Models)
		}
	case string:
		models = strings.Fields(value)
	case []any:
		for _, one := range value {
			name, ok := one.(string)
			if !ok {
				return fmt.Errorf("its claim %s holds what is no name", is.Claims.Models)
			}
			models = append(models, name)
		}
	default:
		return fmt.Errorf("its claim %s is no list of names", is.Claims.Models)
	}
	if len(models) == 0 || len(models) > maxModels {
		return fmt.Errorf("its claim %s names %d models; it takes from 1 to %d", is.Claims.Models, len(models), maxModels)
	}
	k.Models = models
	return nil
}

// claim finds a claim by its name, or else one within others by names with dots between them; nil: there is none.
func claim(claims map[string]any, name string) any {
	if value, found := claims[name]; found {
		return value
	}
	first, rest, dotted := strings.Cut(name, ".")
	within, _ := claims[first].(map[string]any)
	if !dotted || within == nil {
		return nil
	}
	return claim(within, rest)
}

// text is a claim that is a text; empty: there is none, or nobody asks.
func text(claims map[string]any, name string) (string, error) {
	if name == "" {
		return "", nil
	}
	switch value := claim(claims, name).(type) {
	case nil:
		return "", nil
	case string:
		return value, nil
	}
	return "", fmt.Errorf("its claim %s is no text", name)
}

// number is a claim that is a number above 0, or else what counts where there is none.
func number(claims map[string]any, name string, without float64) (float64, error) {
	if name == "" {
		return without, nil
	}
	switch value := claim(claims, name).(type) {
	case nil:
		return without, nil
	case float64:
		if value > 0 && value <= maxNumber {
			return value, nil
		}
	}
	return 0, fmt.Errorf("its claim %s is no number above 0", name)
}

// checkLimits says what is wrong with what holders of tokens may where those do not say.
func checkLimits(c *config.JWT) error {
	_, err := keys.NewHolder(keys.Key{ID: "limits", Models: c.Limits.Models}, &keys.Used{})
	if err != nil {
		return fmt.Errorf("limits: %w", err)
	}
	return nil
}
