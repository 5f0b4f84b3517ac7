package router

import (
	"errors"
	"fmt"
	"time"
)

// Request is what the router needs to know of one request.
type Request struct {
	Model string // as the client named it: a model or an alias
	Bytes int64  // of its body, held while it waits
	Not   Tried

	Prefix Prefix // of its prompt; zero where nothing is known of it
	Stream bool   // its answer begins when its prompt has been read, and Lease.Began is told

	Overflow bool     // it may go to its model's other upstream, where there is one
	Tenant   string   // who asks: within a priority tenants take turns; empty is one like the others
	Priority Priority // Normal unless it is set
}

// Tried are the backends that could not be reached for a request: others come first.
type Tried [2]string

// Outcome is how a request ended.
type Outcome uint8

// The outcomes.
const (
	Broken  Outcome = iota // a backend failed; what is not said to be otherwise is broken
	OK                     // answered in full
	Refused                // we said no
	Left                   // the client went away
)

func (o Outcome) String() string { return [...]string{"broken", "ok", "refused", "left"}[o] }

// MarshalText is String, for JSON.
func (o Outcome) MarshalText() ([]byte, error) { return []byte(o.String()), nil }

// Refusal is a no that the client may read. It is made where the decision is and turned into the API's own form in one
// place, by the edge.
type Refusal struct {
	Status     int           // HTTP status
	Code       Code          // the kind, for machines
	Reason     string        // a sentence for the person who must act
	RetryAfter time.Duration // when asking again makes sense; 0: never, or unknown
}

func (r *Refusal) Error() string { return r.Reason }

// Code is a kind of refusal. It is a metric label, so there are few.
type Code string

// The refusals. The first half is about the request, the second about the fleet.
const (
	BadRequest     Code = "bad_request"
	NoModel        Code = "no_model"
	BodyTooLarge   Code = "body_too_large"
	UnknownModel   Code = "model_not_found"
	BadKey         Code = "invalid_api_key"
	IssuerUnknown  Code = "issuer_keys_unknown"
	ModelForbidden Code = "model_forbidden"
	RateLimited    Code = "rate_limited"
	LineFull       Code = "line_full"
	WaitTooLong    Code = "wait_too_long"
	WakeFailed     Code = "wake_failed"
	WakeStalled    Code = "wake_stalled"
	ShuttingDown   Code = "shutting_down"
	BackendBroken  Code = "backend_broken"
)

// ErrWait is TryAcquire's answer where a request would have to wait.
var ErrWait = errors.New("no slot is free")

// ErrLeft is the cause of a context that ended because the client went away.
var ErrLeft = errors.New("the client left")

// refuse makes a refusal.
func refuse(status int, code Code, after time.Duration, format string, args ...any) *Refusal {
	return &Refusal{Status: status, Code: code, Reason: fmt.Sprintf(format, args...), RetryAfter: after}
}
