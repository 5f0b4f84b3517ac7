package main

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"time"

	"pilotlight/config"
	"pilotlight/proxy/admin"
	"pilotlight/router"
)

// maxPins bounds how many models are pinned at once.
const maxPins = 1000

// pinWorth is what memory of a pinned backend is worth, beside which nothing that is computed counts.
const pinWorth = 1e12

// Pin keeps a model awake until then, whatever is planned; a zero time: until it is unpinned. Its rules become min: 1, at least, and never_sleep: true.
func (l *lives) Pin(model string, until time.Time) error {
	l.fleet.mu.Lock()
	if _, again := l.fleet.pins[model]; !again && len(l.fleet.pins) >= maxPins {
		l.fleet.mu.Unlock()
		return fmt.Errorf("%d models are pinned already, and more may not be; unpin one", maxPins)
	}
	l.fleet.pins[model] = until
	l.fleet.mu.Unlock()
	l.repin()
	if !until.IsZero() {
		time.AfterFunc(time.Until(until), l.repin)
	}
	return nil
}

// Unpin takes a pin away.
func (l *lives) Unpin(model string) {
	l.fleet.mu.Lock()
	delete(l.fleet.pins, model)
	l.fleet.mu.Unlock()
	l.repin()
}

// Pinned says until when a model is pinned, and whether it is.
func (l *lives) Pinned(model string) (until time.Time, pinned bool) {
	l.fleet.mu.Lock()
	defer l.fleet.mu.Unlock()
	until, pinned = l.fleet.pins[model]
	return until, pinned
}

// repin takes pins away that have ended, and tells everybody of the rest.
func (l *lives) repin() {
	l.repinning.Lock()
	defer l.repinning.Unlock()
	models := l.fleet.repin(time.Now())
	if l.keeper != nil {
		l.keeper.Update(models) // without fleet.mu: the keeper may be waiting for that to say something
	}
}

// repin takes pins away that have ended, and returns the models of the file by the rules of the rest.
func (f *fleet) repin(now time.Time) map[string]config.Model {
	f.mu.Lock()
	defer f.mu.Unlock()
	maps.DeleteFunc(f.pins, func(_ string, until time.Time) bool { return !until.IsZero() && !now.Before(until) })
	f.update()
	return withPins(f.file, f.pins)
}

// withPins are models by the rules of their pins.
func withPins(models map[string]config.Model, pins map[string]time.Time) map[string]config.Model {
	if len(pins) == 0 {
		return models
	}
	all := maps.Clone(models)
	for name := range pins {
		if m, known := all[name]; known {
			m.Min, m.NeverSleep = max(m.Min, 1), true
			all[name] = m
		}
	}
	return all
}

// wishPins asks agents elsewhere, who know nothing of pins, for one backend of each pinned model; those that are awake stay.
func (l *lives) wishPins(wishes map[string]router.Wish, now time.Time) {
	for _, m := range l.fleet.Fleet().Models {
		if _, pinned := l.Pinned(m.Name); !pinned {
			continue
		}
		awake := m.State() == router.Ready || m.State() == router.Waking
		for _, b := range m.Backends {
			if on := b.State == router.Ready || b.State == router.Waking; on || !awake && b.State != router.Failed {
				wishes[b.ID] = router.Wish{Tier: router.OnGPU, Made: now, Until: now.Add(3 * time.Minute), Why: "it is pinned by hand", Worth: pinWorth}
				awake = true
			}
		}
	}
}

type pinCmd struct {
	mover
	For time.Duration `placeholder:"TIME" help:"Unpin it after this time, as in 2h. Default: when it is unpinned, or pilotlight ends."`
}

// Help says what a pin is.
func (pinCmd) Help() string {
	return `A pinned model has a backend that is awake, and none of those that are awake sleeps, whatever is planned or asked for. It counts over reloads of the
configuration, and ends with unpin, with --for, and with the process; what is to last belongs in the file, as min and never_sleep. Ask the edge that plans.`
}

func (c pinCmd) Run(ctx context.Context) error {
	if c.For < 0 {
		return errors.New("--for is less than nothing")
	}
	m, err := c.client().Pin(ctx, c.Model, c.For)
	if err != nil {
		return err
	}
	return c.show(m, m)
}

type unpinCmd struct{ mover }

func (c unpinCmd) Run(ctx context.Context) error { return c.move(ctx, "unpin") }

// client asks the pilotlight that is meant.
func (c remote) client() admin.Client { return admin.Client{Addr: c.Admin, TokenFile: c.TokenFile} }
