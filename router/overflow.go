package router

import (
	"errors"
	"slices"

	"pilotlight/config"
)

// ErrOverflow is Acquire's answer to a request that goes to its model's other upstream. The wake goes on without it.
var ErrOverflow = errors.New("the model overflows")

// overflows says whether a request that would be refused goes to another upstream instead.
func overflows(to *config.Overflow, err error) bool {
	no, ok := errors.AsType[*Refusal](err)
	if to == nil || !ok {
		return false
	}
	switch no.Code {
	case LineFull, WaitTooLong:
		return slices.Contains(to.When, config.OverflowFull)
	case WakeFailed, WakeStalled:
		return slices.Contains(to.When, config.OverflowCold)
	case BadRequest, NoModel, BodyTooLarge, UnknownModel, BadKey, IssuerUnknown, ModelForbidden, RateLimited, ShuttingDown, BackendBroken: // it would be no better elsewhere
	}
	return false
}

// overflow has a waiter leave the line if its model still wakes. The wake is then owed to those who come later. l.mu
// is not held.
func (l *line) overflow(w *waiter) bool {
	l.mu.Lock()
	defer l.mu.Unlock()
	if !l.waiting(w) || !l.warmSince.IsZero() {
		return false
	}
	l.leave(w)
	l.owed = true
	return true
}
