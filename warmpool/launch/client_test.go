package launch

import (
	"context"
	"errors"
	"log/slog"
	"net/http"
	"strings"
	"sync"
	"testing"
	"time"

	"pilotlight/config"
	"pilotlight/router"
	"pilotlight/warmpool"
)

// unheard is an edge that nothing is in flight on.
type unheard struct{}

func (unheard) Observe(router.Node)                   {}
func (unheard) Use(string) router.Use                 { return router.Use{} }
func (unheard) Drained(context.Context, string) error { return nil }
func (unheard) Read(string, router.Readings)          {}

// TestWhatAClientIsToldOfAnOrchestrator is the table of docs/wakers.md: it asks a keeper as a request does that finds nothing ready.
func TestWhatAClientIsToldOfAnOrchestrator(t *testing.T) {
	type make func(t *testing.T) *Launcher
	inNomad := func(set func(*fakeNomad)) make {
		return func(t *testing.T) *Launcher {
			f := newFakeNomad(t)
			set(f)
			return f.launcher(t, func(b *config.Backend) { b.Stall = config.Duration(time.Second) })
		}
	}
	inKube := func(set func(*fakeKube)) make {
		return func(t *testing.T) *Launcher {
			f := newFakeKube(t)
			set(f)
			return f.launcher(t, func(b *config.Backend) { b.Stall = config.Duration(time.Second); f.onPort(b) })
		}
	}
	for name, test := range map[string]struct {
		make make
		code router.Code // empty: it is served
		says string
	}{
		"nomad, from zero":    {inNomad(func(*fakeNomad) {}), "", ""},
		"nomad, no room":      {inNomad(func(f *fakeNomad) { f.noRoom = true }), router.WakeStalled, "Nomad cannot place it: of 3 nodes 2 were filtered and 1 exhausted"},
		"nomad, it fails":     {inNomad(func(f *fakeNomad) { f.fails = true }), router.WakeFailed, "Terminated: Exit Code: 1"},
		"nomad, forbidden":    {inNomad(func(f *fakeNomad) { f.denied = "/scale" }), router.WakeFailed, "Permission denied; it takes a token in"},
		"nomad, gone":         {inNomad(func(f *fakeNomad) { f.gone = true }), router.WakeFailed, "job not found"},
		"kubernetes, zero":    {inKube(func(*fakeKube) {}), "", ""},
		"kubernetes, no room": {inKube(func(f *fakeKube) { f.pod = unschedulable }), router.WakeStalled, "Unschedulable: 0/3 nodes are available: 3 Insufficient nvidia.com/gpu."},
		"kubernetes, no image": {
			inKube(func(f *fakeKube) { f.pod = waits("ImagePullBackOff", "Back-off pulling image \"vllm\"", nil) }), router.WakeFailed, "ImagePullBackOff",
		},
		"kubernetes, forbidden": {inKube(func(f *fakeKube) { f.denied = "PUT" }), router.WakeFailed, "is forbidden: User"},
		"kubernetes, gone":      {inKube(func(f *fakeKube) { f.gone = true }), router.WakeFailed, `deployments.apps "llama" not found`},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			l := test.make(t)
			err := askedFor(t, l)
			if test.code == "" {
				if err != nil {
					t.Errorf("it is not served: %v", err)
				}
				return
			}
			refusal, ok := errors.AsType[*router.Refusal](err)
			if !ok || refusal.Status != http.StatusServiceUnavailable || refusal.Code != test.code || refusal.RetryAfter < time.Second ||
				!strings.HasPrefix(refusal.Reason, "m could not be woken: wake m-0: ") || !strings.Contains(refusal.Reason, test.says) {
				t.Errorf("got %v, want %s: %s", err, test.code, test.says)
			}
			t.Log(err)
		})
	}
}

// askedFor has a keeper wake the backend.
func askedFor(t *testing.T, l *Launcher) error {
	learned, err := warmpool.LoadLearned(t.TempDir() + "/learned.json")
	if err != nil {
		t.Fatal(err)
	}
	b := l.spec.Backend
	b.Name, b.Slots = "m-0", 1
	models := map[string]config.Model{"m": {IdleTime: config.Duration(time.Hour), Backends: []config.Backend{b}}}
	k := warmpool.New(config.Node{Name: "n"}, models, unheard{}, func(string, config.Model, config.Backend) warmpool.Launcher { return l }, learned, slog.New(slog.DiscardHandler))
	ctx, stop := context.WithCancel(t.Context())
	var running sync.WaitGroup
	running.Go(func() { _ = k.Run(ctx) })
	defer running.Wait()
	defer stop()
	return k.Wake(ctx, "m-0")
}
