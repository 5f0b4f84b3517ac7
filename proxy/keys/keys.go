// Package keys knows who may ask for what, and how much of it: API keys, kept as hashes, and clients' certificates by their names.
//
// A key is 256 bits from the system's random source, so a plain SHA-256 of it is as good as a slow hash: nobody can guess what he
// would have to hash. It is looked up by the hash, whose time tells nothing of keys: to find one that shares a part of another's hash is as
// hard as to find the key.
package keys

import (
	"bytes"
	"crypto/rand"
	"crypto/sha256"
	"encoding/base64"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"path"
	"strings"
	"time"

	"pilotlight/router"
)

// Key is an API key as it is kept, or a client's certificate that counts as one: one JSON object. What is left out limits nothing.
type Key struct {
	ID          string    `json:"id"`                    // for people and logs, unique
	Hash        string    `json:"sha256,omitempty"`      // of the key, as hexadecimal digits
	Certificate string    `json:"certificate,omitempty"` // in place of the hash: the name that the certificate bears
	Tenant      string    `json:"tenant,omitempty"`      // who asks; default: the ID
	Models      []string  `json:"models,omitempty"`      // that may be asked for: names, * for any characters but /
	Expires     time.Time `json:"expires,omitzero"`      // it counts until then
	Priority    Priority  `json:"priority,omitempty"`    // high, normal or low
	Rate        float64   `json:"rate,omitempty"`        // requests per second, over some time; twice as many at once, and one at least
	Concurrency int       `json:"concurrency,omitempty"`
	Tokens      float64   `json:"tokens_per_minute,omitempty"` // of prompts and answers, as engines count them; the request that goes over it is the last
}

// Priority is router.Priority by its name.
type Priority string

// of is the priority in a line.
func (p Priority) of() (router.Priority, bool) {
	switch p {
	case "high":
		return router.High, true
	case "", "normal":
		return router.Normal, true
	case "low":
		return router.Low, true
	}
	return router.Normal, false
}

// check says what is wrong with a key.
func (k *Key) check() error {
	_, err := hex.DecodeString(k.Hash)
	switch {
	case k.ID == "" || len(k.ID) > maxID:
		return fmt.Errorf("its id has from 1 to %d bytes", maxID)
	case k.Hash != "" && k.Certificate != "":
		return errors.New("it has a sha256 or the name of a certificate, not both")
	case len(k.Certificate) > maxName:
		return fmt.Errorf("the name of its certificate has more than %d bytes", maxName)
	case k.Certificate == "" && (err != nil || len(k.Hash) != 2*sha256.Size):
		return errors.New("its sha256 has 64 hexadecimal digits")
	}
	return k.checkLimits()
}

// checkLimits says what is wrong with what a key allows.
func (k *Key) checkLimits() error {
	if _, known := k.Priority.of(); !known {
		return fmt.Errorf("its priority %q is none of high, normal and low", k.Priority)
	}
	if k.Rate < 0 || k.Concurrency < 0 || k.Tokens < 0 {
		return errors.New("a limit is negative")
	}
	for _, glob := range k.Models {
		if _, err := path.Match(glob, ""); err != nil || glob == "" {
			return fmt.Errorf("%q is no name of models", glob)
		}
	}
	return nil
}

const (
	maxID   = 128
	maxName = 1024 // of a certificate
	maxLine = 64 << 10
	maxKeys = 1_000_000
)

// New makes a key, and what is kept of it. The key itself is shown once and kept nowhere.
func New(k Key) (secret string, kept Key, err error) {
	random := make([]byte, 32)
	if _, err := rand.Read(random); err != nil {
		return "", kept, fmt.Errorf("make a key: %w", err)
	}
	secret = "pl-" + base64.RawURLEncoding.EncodeToString(random)
	sum := sha256.Sum256([]byte(secret))
	k.Hash = hex.EncodeToString(sum[:])
	return secret, k, k.check()
}

// Parse reads one key.
func Parse(text []byte) (Key, error) {
	var k Key
	d := json.NewDecoder(bytes.NewReader(text))
	d.DisallowUnknownFields()
	if err := d.Decode(&k); err != nil {
		return k, fmt.Errorf("a key is a JSON object like {\"id\":\"team-a\",\"sha256\":\"…\"}: %w", err)
	}
	if d.More() {
		return k, errors.New("one line holds one key")
	}
	k.Hash = strings.ToLower(k.Hash)
	if err := k.check(); err != nil {
		return k, fmt.Errorf("key %s: %w", k.ID, err)
	}
	return k, nil
}
