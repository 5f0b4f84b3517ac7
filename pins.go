package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"net/url"
	"slices"
	"time"

	"pilotlight/config"
	"pilotlight/proxy/admin"
	"pilotlight/router"
	"pilotlight/router/consul"
)

// maxPins bounds how many models are pinned at once.
const maxPins = 1000

// pinWorth is what memory of a pinned backend is worth, beside which nothing that is computed counts.
const pinWorth = 1e12

// pin keeps a model awake.
type pin struct {
	Until time.Time `json:"until,omitzero"` // zero: until it is taken away
	Edge  string    `json:"edge,omitempty"` // that was asked for it; empty: this one, and pins are not shared
}

func (p pin) over(now time.Time) bool { return !p.Until.IsZero() && !now.Before(p.Until) }

// Pin keeps a model awake until then, whatever is planned; a zero time: until it is unpinned. Its rules become min: 1, at least, and never_sleep: true.
// With Consul every edge hears of it, the one that plans among them.
func (l *lives) Pin(ctx context.Context, model string, until time.Time) error {
	l.fleet.mu.Lock()
	_, again := l.fleet.pins[model]
	n := len(l.fleet.pins)
	l.fleet.mu.Unlock()
	if !again && n >= maxPins {
		return fmt.Errorf("%d models are pinned already, and more may not be; unpin one", maxPins)
	}
	p := pin{Until: until}
	if l.shared != nil {
		p.Edge = l.shared.name
		if err := l.shared.pin(ctx, model, p); err != nil {
			return fmt.Errorf("the pin could not be told to the edge that plans: %w", err)
		}
	}
	l.fleet.mu.Lock()
	l.fleet.pins[model] = p
	l.fleet.mu.Unlock()
	l.repin()
	return nil
}

// Unpin takes a pin away, whichever edge was asked for it.
func (l *lives) Unpin(ctx context.Context, model string) error {
	if l.shared != nil {
		if err := l.shared.unpin(ctx, model); err != nil {
			return fmt.Errorf("the edge that plans could not be told that the pin is taken away: %w", err)
		}
	}
	l.fleet.mu.Lock()
	delete(l.fleet.pins, model)
	l.fleet.mu.Unlock()
	l.repin()
	return nil
}

// Pinned says until when a model is pinned, and whether it is.
func (l *lives) Pinned(model string) (until time.Time, pinned bool) {
	l.fleet.mu.Lock()
	defer l.fleet.mu.Unlock()
	p, pinned := l.fleet.pins[model]
	return p.Until, pinned
}

// repin takes pins away that have ended, and tells everybody of the models and the rest. It comes back when the next one ends.
func (l *lives) repin() {
	l.repinning.Lock()
	defer l.repinning.Unlock()
	own := ""
	if l.shared != nil {
		own = l.shared.name
	}
	models, next := l.fleet.repin(time.Now(), own)
	if l.keeper != nil {
		l.keeper.Update(models) // without fleet.mu: the keeper may be waiting for that to say something
	}
	l.fleet.mu.Lock()
	l.fleet.update() // behind the keeper: a new model is known once its backends are
	l.fleet.mu.Unlock()
	if l.unpins != nil {
		l.unpins.Stop()
	}
	if !next.IsZero() {
		l.unpins = time.AfterFunc(time.Until(next), l.repin)
	}
}

// repin takes pins away that have ended. It returns the models of the file by the rules of those for which the edge own was asked, and when the next pin ends. For the pins of
// other edges it is the planner who wishes for a backend, one in all, as agents are asked.
func (f *fleet) repin(now time.Time, own string) (models map[string]config.Model, next time.Time) {
	f.mu.Lock()
	defer f.mu.Unlock()
	mine := map[string]pin{}
	for model, p := range f.pins {
		switch {
		case p.over(now):
			delete(f.pins, model)
			continue
		case p.Edge == own:
			mine[model] = p
		}
		if !p.Until.IsZero() && (next.IsZero() || p.Until.Before(next)) {
			next = p.Until
		}
	}
	return withPins(f.file, mine), next
}

// sharedPins are the pins of all edges, in Consul's KV at PREFIX/pins/MODEL. Whoever reads them leaves out what has ended; the planner takes that away.
type sharedPins struct {
	*consul.Client
	name string          // of this edge
	bad  map[string]bool // values that are no pins; it belongs to followPins
}

const pinsFolder = "pins"

func pinKey(model string) string { return pinsFolder + "/" + url.PathEscape(model) }

func (s *sharedPins) pin(ctx context.Context, model string, p pin) error {
	text, err := json.Marshal(p)
	if err != nil {
		return fmt.Errorf("write a pin: %w", err)
	}
	return s.Put(ctx, pinKey(model), text)
}

func (s *sharedPins) unpin(ctx context.Context, model string) error {
	return s.Delete(ctx, pinKey(model))
}

// followPins takes over the pins of all edges until ctx ends.
func (l *lives) followPins(ctx context.Context) error {
	return l.shared.Folder(ctx, pinsFolder, nil, func(values map[string][]byte) {
		pins := l.shared.read(values)
		l.fleet.mu.Lock()
		l.fleet.pins = pins
		l.fleet.mu.Unlock()
		l.repin()
	})
}

// read are the pins of a folder, as many as there may be.
func (s *sharedPins) read(values map[string][]byte) map[string]pin {
	pins := map[string]pin{}
	for key := range s.bad {
		s.Note(pinsFolder+"/"+key, "")
	}
	clear(s.bad)
	for _, key := range slices.Sorted(maps.Keys(values)) {
		var p pin
		model, err := url.PathUnescape(key)
		if err == nil {
			err = json.Unmarshal(values[key], &p)
		}
		if err == nil && p.Edge == "" {
			err = errors.New("it does not say which edge was asked for it")
		}
		if err == nil && len(pins) >= maxPins {
			err = fmt.Errorf("there are more than %d", maxPins)
		}
		if err != nil {
			s.bad[key] = true
			s.Note(pinsFolder+"/"+key, fmt.Sprintf("the pin at %s/%s is not taken over: %v", pinsFolder, key, err))
			continue
		}
		if !p.over(time.Now()) {
			pins[model] = p
		}
	}
	return pins
}

// forgetPins takes pins away that have ended.
func (s *sharedPins) forgetPins(ctx context.Context) error {
	once, stop := context.WithCancel(ctx)
	defer stop()
	var errs []error
	_ = s.Folder(once, pinsFolder, nil, func(values map[string][]byte) { // it ends when once does
		for key, text := range values {
			var p pin
			if json.Unmarshal(text, &p) == nil && p.over(time.Now()) {
				errs = append(errs, s.Delete(ctx, pinsFolder+"/"+key))
			}
		}
		stop()
	})
	return errors.Join(errs...)
}

// withPins are models by the rules of their pins.
func withPins(models map[string]config.Model, pins map[string]pin) map[string]config.Model {
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

// wishPins asks agents elsewhere, who know nothing of pins, and edges that were not asked for them, for one backend of each pinned model; those that are awake stay.
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
	For time.Duration `placeholder:"TIME" help:"Unpin it after this time, as in 2h. Default: when it is unpinned, or pilotlight ends, where there is no Consul."`
}

// Help says what a pin is.
func (pinCmd) Help() string {
	return `A pinned model has a backend that is awake, and none of those that are awake sleeps, whatever is planned or asked for. It counts over reloads of the
configuration, and ends with unpin and with --for. With Consul any edge may be asked: all of them know it, the one that plans acts on it, and it outlives them. Without, it
ends with the process. What is to last belongs in the file, as min and never_sleep.`
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
