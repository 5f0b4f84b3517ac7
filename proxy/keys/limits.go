package keys

import (
	"cmp"
	"crypto/sha256"
	"fmt"
	"math"
	"path"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"pilotlight/router"
)

// Holder is who asks, and what he may.
type Holder struct {
	Key

	// What follows, and the end of Key, is all that a check looks at.
	used     *Used
	globs    []glob
	next     *Holder
	until    int64 // Unix time in nanoseconds; 0: for ever
	sum      [sha256.Size]byte
	revoked  atomic.Bool
	kind     kind
	priority router.Priority
}

// kind is what a holder has shown.
type kind uint8

// The kinds.
const (
	apiKey kind = iota
	certificate
	token
)

// NewHolder is the holder of a verified token, which says what k says, and has used so much; its Hash counts for nothing. The error says what is wrong with k.
func NewHolder(k Key, used *Used) (*Holder, error) {
	if k.ID == "" || len(k.ID) > maxID {
		return nil, fmt.Errorf("its id has from 1 to %d bytes", maxID)
	}
	if err := k.checkLimits(); err != nil {
		return nil, err
	}
	h := newHolder(k, newGlobs(k.Models), used)
	h.kind = token
	return h, nil
}

// newHolder makes a holder. If used is nil it has used nothing, and what it will use stands beside it in memory.
func newHolder(k Key, globs []glob, used *Used) *Holder {
	var h *Holder
	if used == nil {
		both := &struct {
			Holder
			Used
		}{}
		h, used = &both.Holder, &both.Used
	} else {
		h = &Holder{}
	}
	h.Key, h.used, h.globs = k, used, globs
	if h.Tenant == "" {
		h.Tenant = h.ID
	}
	if !k.Expires.IsZero() {
		h.until = k.Expires.UnixNano()
	}
	h.priority, _ = k.Priority.of()
	return h
}

// is says whether a holder is that of this key, which may have been read anew, and counts.
func (h *Holder) is(k *Key) bool {
	return !h.revoked.Load() && h.Hash == k.Hash && h.Certificate == k.Certificate && h.Tenant == cmp.Or(k.Tenant, k.ID) && h.Expires.Equal(k.Expires) && h.Key.Priority == k.Priority &&
		h.Rate == k.Rate && h.Concurrency == k.Concurrency && h.Tokens == k.Tokens && slices.Equal(h.Models, k.Models)
}

// again is the same holder before another of those whose hashes have the same beginning.
func (h *Holder) again(next *Holder) *Holder {
	n := newHolder(h.Key, h.globs, h.used)
	n.sum, n.next = h.sum, next
	return n
}

func (h *Holder) expired(now time.Time) bool { return h.until != 0 && now.UnixNano() >= h.until }

// Name is what refusals call what was shown.
func (h *Holder) Name() string {
	return [...]string{"the API key ", "the certificate ", "the token of "}[h.kind] + h.ID
}

// Used is what was used of limits. All versions of a key share it. The zero Used is nothing.
type Used struct {
	mu       sync.Mutex // guards what follows
	inFlight int
	requests bucket
	tokens   bucket
}

// bucket fills with time.
type bucket struct {
	level float64
	at    int64 // Unix time in nanoseconds; 0: it is full
}

// fill lets time pass, at so much per second and up to most.
func (b *bucket) fill(now time.Time, rate, most float64) {
	at := now.UnixNano()
	if b.at == 0 {
		b.level = most
	} else {
		b.level = min(most, b.level+rate*max(0, float64(at-b.at)/1e9))
	}
	b.at = at
}

// wait is how long it takes until there is so much.
func (b *bucket) wait(much, rate float64) time.Duration {
	return time.Duration(math.Ceil((much-b.level)/rate)) * time.Second
}

// Priority is that of the holder's requests.
func (h *Holder) Priority() router.Priority { return h.priority }

// May says whether the holder may ask for a model, by the model's own name.
func (h *Holder) May(model string) bool {
	for i := range h.globs {
		if h.globs[i].match(model) {
			return true
		}
	}
	return len(h.globs) == 0
}

// glob is a name of models. Most are a name, or the beginning of one, and are not worth path.Match.
type glob struct {
	text   string // up to the first * where that is the last character
	prefix bool
	odd    bool
}

func newGlobs(all []string) []glob {
	globs := make([]glob, len(all))
	for i, text := range all {
		globs[i] = newGlob(text)
	}
	return globs
}

func newGlob(text string) glob {
	switch at := strings.IndexAny(text, `*?[\`); {
	case at < 0:
		return glob{text: text}
	case at == len(text)-1 && text[at] == '*':
		return glob{text: text[:at], prefix: true}
	}
	return glob{text: text, odd: true}
}

func (g *glob) match(model string) bool {
	switch {
	case g.odd:
		ok, _ := path.Match(g.text, model)
		return ok
	case g.prefix:
		return strings.HasPrefix(model, g.text) && strings.IndexByte(model[len(g.text):], '/') < 0
	}
	return g.text == model
}

// Enter begins a request for a model, by its own name. Where it is nil, Leave must follow.
func (h *Holder) Enter(model string, now time.Time) *router.Refusal {
	if !h.May(model) {
		return &router.Refusal{Status: 403, Code: router.ModelForbidden, Reason: h.Name() + " may not ask for " + model}
	}
	if h.Concurrency == 0 && h.Rate == 0 && h.Tokens == 0 {
		return nil
	}
	l := h.used
	l.mu.Lock()
	defer l.mu.Unlock()
	if h.Concurrency > 0 && l.inFlight >= h.Concurrency {
		return limited(time.Second, "%s has %d requests in flight, which is its limit", h.Name(), l.inFlight)
	}
	perSecond := h.Tokens / 60
	if h.Tokens > 0 {
		if l.tokens.fill(now, perSecond, h.Tokens); l.tokens.level <= 0 {
			return limited(l.tokens.wait(1, perSecond), "%s has used its %v tokens per minute", h.Name(), h.Tokens)
		}
	}
	if h.Rate > 0 {
		if l.requests.fill(now, h.Rate, max(1, 2*h.Rate)); l.requests.level < 1 {
			return limited(l.requests.wait(1, h.Rate), "%s has used its %v requests per second", h.Name(), h.Rate)
		}
		l.requests.level--
	}
	l.inFlight++
	return nil
}

func limited(after time.Duration, format string, args ...any) *router.Refusal {
	return &router.Refusal{Status: 429, Code: router.RateLimited, RetryAfter: max(after, time.Second), Reason: fmt.Sprintf(format, args...)}
}

// Leave ends a request that took so many tokens.
func (h *Holder) Leave(tokens int64, now time.Time) {
	if h.Concurrency == 0 && h.Rate == 0 && h.Tokens == 0 {
		return
	}
	l := h.used
	l.mu.Lock()
	defer l.mu.Unlock()
	l.inFlight = max(0, l.inFlight-1) // a limit may have come while it was in flight
	if h.Tokens > 0 {
		l.tokens.fill(now, h.Tokens/60, h.Tokens)
		l.tokens.level -= float64(tokens)
	}
}
