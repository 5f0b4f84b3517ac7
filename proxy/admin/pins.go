package admin

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"net/url"
	"time"

	"pilotlight/router"
)

// Pins keep models awake by hand. All that is said of a model is by its own name.
type Pins interface {
	// Pin keeps a model awake until then; the zero time: until Unpin. A later pin takes the place of one before.
	Pin(ctx context.Context, model string, until time.Time) error
	// Unpin takes the pin away, if there is one.
	Unpin(ctx context.Context, model string) error
	// Pinned says until when a model is pinned, and whether it is.
	Pinned(model string) (until time.Time, pinned bool)
}

// PinStatus is a pin.
type PinStatus struct {
	Until time.Time `json:"until,omitzero"` // zero: until it is taken away
}

// maxPin is the longest time that a pin may be given.
const maxPin = 365 * 24 * time.Hour

// pin answers POST /api/pin/MODEL?for=2h.
func (o *Options) pin(w http.ResponseWriter, r *http.Request) {
	var until time.Time
	if text := r.URL.Query().Get("for"); text != "" {
		d, err := time.ParseDuration(text)
		if err != nil || d <= 0 || d > maxPin {
			reply(w, http.StatusBadRequest, Problem{fmt.Sprintf("for=%s is no time to pin a model for; write one like 90s or 2h, of a year at most", text)})
			return
		}
		until = time.Now().Add(d)
	}
	o.move(w, r, func(ctx context.Context, model string) error {
		if o.Pins == nil {
			return errors.New("nothing can be pinned here")
		}
		return o.Pins.Pin(ctx, model, until)
	})
}

func (o *Options) unpin(w http.ResponseWriter, r *http.Request) {
	o.move(w, r, func(ctx context.Context, model string) error {
		if o.Pins == nil {
			return nil
		}
		return o.Pins.Unpin(ctx, model)
	})
}

// statusOf is a model with its pin.
func (o *Options) statusOf(m *router.Model) ModelStatus {
	s := statusOf(o.Router, m)
	if o.Pins != nil {
		if until, pinned := o.Pins.Pinned(m.Name); pinned {
			s.Pinned = &PinStatus{until}
		}
	}
	return s
}

// Pin keeps a model awake for a time; 0: until it is unpinned.
func (c Client) Pin(ctx context.Context, model string, d time.Duration) (ModelStatus, error) {
	path := "/api/pin/" + url.PathEscape(model)
	if d > 0 {
		path += "?for=" + d.String()
	}
	var s ModelStatus
	return s, c.ask(ctx, http.MethodPost, path, &s)
}
