package warmpool

import (
	"context"
	"errors"
	"time"

	"pilotlight/router"
)

// A Launcher moves one backend between the tiers. warmpool/launch has the real ones: a process of ours, an engine's own sleep
// mode, HTTP hooks, and Nomad, Kubernetes and container engines. The keeper calls one method at a time, and may cancel it by its context; the launcher
// then leaves the backend in a state that Stop can clear.
type Launcher interface {
	// Find says what is there already: a model server that outlived its keeper, or one that somebody else runs.
	// Nothing to find is Stopped and no error. A server that is up but not ready yet is Waking: call Wake to see it through.
	Find(ctx context.Context) (Found, error)
	// Wake makes the backend ready on the given GPUs and returns as soon as its engine says that it can answer.
	// It gives up on lack of progress, with ErrStalled, never on a deadline, and at once when the process ends: with
	// ErrOutOfMemory where the GPUs had too little left for it.
	Wake(ctx context.Context, gpus []int) (Up, error)
	// Sleep gives the GPU memory back and keeps the process. The backend must have nothing in flight. It returns the
	// tier where the weights are now; ErrCannotSleep where only Stop will do; ErrBusy, with nothing changed, where the
	// engine goes on working for others than us.
	Sleep(ctx context.Context) (router.Tier, error)
	// Stop ends the backend, whatever it is doing, and returns when its memory is free. Where nobody can stop it
	// (a server that somebody else runs and that has no stop hook), it returns ErrCannotStop.
	Stop(ctx context.Context) error
	// Close lets go of the backend and leaves it as it is. It is the last call.
	Close()
}

// Up is a backend that can answer.
type Up struct {
	Addr     string       // host:port
	PID      int          // of its process; 0 where we do not know it
	GPUs     []int        // where it is
	Answered time.Time    // when it first answered a probe of the wake that made it so; zero: nobody saw that
	Gone     <-chan error // gives why, once, when the model server ends by itself; nil where nobody can tell
}

// Found is what a launcher found at start.
type Found struct {
	State router.State // Stopped, Asleep, Waking or Ready
	Tier  router.Tier
	Up    Up
}

// What launchers say.
var (
	ErrCannotSleep = errors.New("it has no sleep mode")
	ErrCannotStop  = errors.New("it is not ours to stop")
	ErrBusy        = errors.New("its engine is busy")
	ErrStalled     = errors.New("no progress")
	ErrOutOfMemory = errors.New("out of GPU memory")
)
