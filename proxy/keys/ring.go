package keys

import (
	"crypto/sha256"
	"crypto/subtle"
	"encoding/binary"
	"encoding/hex"
	"fmt"
	"strings"
	"sync/atomic"
	"time"

	"pilotlight/router"
)

// Ring is the keys that count now. Its methods may be called from any goroutine.
type Ring struct {
	held atomic.Pointer[held]
}

// held are keys. A check costs what it takes to fetch from memory what nobody has looked at for a while, so that there is little of it.
type held struct {
	byHash        map[uint64]*Holder // by the beginning of the hash; those with the same beginning hang on each other
	byCertificate map[string]*Holder
	byID          map[string]*Holder
}

// NewRing makes a ring without keys: nobody may do anything.
func NewRing() *Ring {
	r := &Ring{}
	r.held.Store(&held{})
	return r
}

// Set replaces the keys. What a key has used of its limits stays used. Of several with one ID the first counts.
func (r *Ring) Set(keys []Key) {
	was := r.held.Load()
	next := &held{byHash: make(map[uint64]*Holder, len(keys)), byCertificate: map[string]*Holder{}, byID: make(map[string]*Holder, len(keys))}
	same := map[string][]glob{}
	for _, k := range keys {
		if next.byID[k.ID] != nil {
			continue
		}
		before := was.byID[k.ID]
		h := before
		if before == nil || !before.is(&k) {
			h = r.holder(k, before, same)
		}
		next.byID[k.ID] = h
		if k.Certificate != "" {
			next.byCertificate[k.Certificate] = h
		} else {
			next.add(h)
		}
	}
	r.held.Store(next)
}

// holder is that of a key which has changed, or is new: then there is none before. Same are lists of models that others have too.
func (*Ring) holder(k Key, before *Holder, same map[string][]glob) *Holder {
	var used *Used
	if before != nil {
		used = before.used
	}
	names := strings.Join(k.Models, "\x00")
	if _, known := same[names]; !known {
		same[names] = newGlobs(k.Models)
	}
	h := newHolder(k, same[names], used)
	if k.Certificate != "" {
		h.kind = certificate
	}
	_, _ = hex.Decode(h.sum[:], []byte(k.Hash)) // it was checked
	return h
}

// add takes in whoever has an API key.
func (h *held) add(one *Holder) {
	at := beginning(&one.sum)
	first := h.byHash[at]
	if one.next != first { // it may be in use, and have stood before another
		one = one.again(first)
		h.byID[one.ID] = one
	}
	h.byHash[at] = one
}

func beginning(sum *[sha256.Size]byte) uint64 { return binary.NativeEndian.Uint64(sum[:]) }

// Len is how many keys there are.
func (r *Ring) Len() int { return len(r.held.Load().byID) }

// Revoke has keys count no more, at once, whatever Set takes. They come back only with Set.
func (r *Ring) Revoke(ids ...string) {
	held := r.held.Load()
	for _, id := range ids {
		if h := held.byID[id]; h != nil {
			h.revoked.Store(true)
		}
	}
}

// Find is whose a key is.
func (r *Ring) Find(secret []byte, now time.Time) (*Holder, *router.Refusal) {
	if len(secret) == 0 {
		return nil, Unauthorized("the request has no API key; send it as Authorization: Bearer KEY, x-api-key or api-key")
	}
	sum := sha256.Sum256(secret)
	h := r.held.Load().byHash[beginning(&sum)]
	for h != nil && subtle.ConstantTimeCompare(h.sum[:], sum[:]) == 0 {
		h = h.next
	}
	switch {
	case h == nil, h.revoked.Load():
		return nil, Unauthorized("the API key is not known here")
	case h.expired(now):
		return nil, Unauthorized("the API key " + h.ID + " has expired")
	}
	return h, nil
}

// Certified is whose certificate bears one of those names, the first that is known. The certificate has been verified.
func (r *Ring) Certified(names []string, now time.Time) (*Holder, *router.Refusal) {
	all := r.held.Load().byCertificate
	for _, name := range names {
		switch h := all[name]; {
		case h == nil, h.revoked.Load():
		case h.expired(now):
			return nil, Unauthorized("the certificate " + h.ID + " has expired here")
		default:
			return h, nil
		}
	}
	return nil, Unauthorized(fmt.Sprintf("no tenant has a certificate with the name %.200q; an API key would do, too", strings.Join(names, " ")))
}

// Unauthorized refuses whoever is not known.
func Unauthorized(reason string) *router.Refusal {
	return &router.Refusal{Status: 401, Code: router.BadKey, Reason: reason}
}
