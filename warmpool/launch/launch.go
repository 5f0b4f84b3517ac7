// Package launch has the real ways to wake a backend and to put it to sleep: a process of ours, an engine's own sleep mode,
// HTTP hooks, or what runs model servers in our place: Nomad, Kubernetes, Docker, Podman. One Launcher moves one backend; what has to outlive pilotlight (which process is whose, what sleeps) it
// keeps as a record in the state directory, by which a later Launcher finds the backend again.
package launch

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"net/http"
	"path/filepath"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"pilotlight/config"
	"pilotlight/probe"
	"pilotlight/probe/engine"
	"pilotlight/router"
	"pilotlight/warmpool"
)

// Spec is what a Launcher needs to know of its backend.
type Spec struct {
	ID       string         // unique on the node; names its record and its log
	ServedAs string         // the model's name as the model server knows it
	Backend  config.Backend // with its defaults filled in
	// Checkpoint is the path or name of the cuda-checkpoint program; empty where no backend sleeps by it.
	Checkpoint string
	StateDir   string // of the node; records go to backends/, logs to logs/
	Log        *slog.Logger
}

// Launcher moves one backend between the tiers. It is a warmpool.Launcher: its methods are called one at a time.
type Launcher struct {
	spec   Spec
	engine engine.Engine
	client *http.Client
	mode   mode
	log    *slog.Logger

	checkpointer checkpointer

	record record    // what outlives us
	child  *child    // the process, nil where there is none
	there  *presence // of a server that somebody else runs; nil where it is not looked for

	pid atomic.Int64 // of child, for those who ask at any time; 0: none

	answered time.Time // when the server first answered a probe of the last wake; zero: it has not

	remote orchestrator // runs the model server in our place; nil where none does
	out    *lookout     // for what becomes of it; nil while it is not to run

	closing  chan struct{}  // closed by Close
	watchers sync.WaitGroup // of processes, until they end or closing
}

// New makes the Launcher of one backend. It does nothing yet.
func New(spec Spec) *Launcher {
	client := &http.Client{
		CheckRedirect: func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse },
		Transport: &http.Transport{
			DialContext:         Dial(spec.Backend),
			MaxIdleConnsPerHost: 2,
			IdleConnTimeout:     time.Minute,
			DisableCompression:  true,
		},
	}
	l := &Launcher{
		spec:    spec,
		engine:  engine.New(spec.Backend.Engine, spec.ServedAs, spec.Backend.Ready),
		client:  client,
		log:     spec.Log.With("backend", spec.ID),
		closing: make(chan struct{}),

		checkpointer: checkpointer{spec.Checkpoint},
	}
	l.mode = newMode(spec, l.engine, client)
	l.remote = newOrchestrator(spec.Backend)
	l.record = l.readRecord()
	return l
}

// Dial connects, and speaks TLS where that is the backend's own address: who asks need not know.
func Dial(b config.Backend) func(ctx context.Context, network, addr string) (net.Conn, error) {
	return func(ctx context.Context, network, addr string) (net.Conn, error) {
		ctx, cancel := context.WithTimeout(ctx, probeTime)
		defer cancel()
		c, err := new(net.Dialer).DialContext(ctx, network, addr)
		if err == nil && b.TLS != nil && addr == b.Address {
			return b.TLS.Over(ctx, c, addr, "http/1.1")
		}
		return c, err
	}
}

// Close lets go of the backend, whose process goes on, and returns when nobody watches over it any more. No method may be called
// after it.
func (l *Launcher) Close() {
	l.leave()
	close(l.closing)
	l.watchers.Wait()
	l.client.CloseIdleConnections()
	if l.remote != nil {
		l.remote.close()
	}
}

// Find says what is there already. A process of which there is a record is adopted even if the configuration's command is
// another by now: it serves, and a second copy would not.
func (l *Launcher) Find(ctx context.Context) (warmpool.Found, error) {
	stopped := warmpool.Found{State: router.Stopped, Tier: router.OnDisk}
	c := l.current()
	if l.spec.Backend.Process != nil && c == nil {
		return stopped, nil
	}
	if l.remote != nil {
		if asked, err := l.findRemote(ctx); !asked {
			return stopped, err
		}
	}
	status := probe.Asleep
	if l.record.Slept == nil || l.engine.SaysAsleep() && len(l.record.Checkpointed) == 0 {
		status, _ = l.status(ctx)
	}
	if err := ctx.Err(); err != nil {
		return stopped, fmt.Errorf("find %s: %w", l.spec.ID, err)
	}
	if status == probe.Away && c == nil && l.remote == nil {
		return stopped, nil
	}
	found := warmpool.Found{Tier: router.OnDisk}
	if status == probe.Ready || status == probe.Asleep || l.remote == nil {
		found.Up = l.up()
	}
	switch status {
	case probe.Ready:
		found.State, found.Tier = router.Ready, router.OnGPU
	case probe.Asleep:
		found.State, found.Tier = router.Asleep, l.asleepTier()
	case probe.Loading, probe.Away: // it lives, and listens soon
		found.State = router.Waking
	}
	return found, nil
}

// Wake makes the backend ready: it starts the process where there is none, has the engine wake up where it sleeps, and returns as
// soon as the engine says that it can answer. A Wake that fails or is cancelled stops the process again: what it has
// done so far to the GPU nobody knows.
func (l *Launcher) Wake(ctx context.Context, gpus []int) (warmpool.Up, error) {
	if err := l.wake(ctx, gpus); err != nil {
		if c := l.current(); c != nil {
			err = errors.Join(err, l.stopProcess(context.WithoutCancel(ctx), c))
		}
		return warmpool.Up{}, fmt.Errorf("wake %s: %w", l.spec.ID, err)
	}
	if l.record.Slept != nil {
		l.record.Slept, l.record.Checkpointed = nil, nil
		if err := l.saveRecord(); err != nil {
			return warmpool.Up{}, fmt.Errorf("wake %s: %w", l.spec.ID, err)
		}
	}
	up := l.up()
	up.Answered = l.answered
	return up, nil
}

func (l *Launcher) wake(ctx context.Context, gpus []int) error {
	if l.remote != nil {
		return l.wakeRemote(ctx)
	}
	if l.spec.Backend.Process == nil || l.current() != nil {
		err := l.awaitReady(ctx)
		if !errors.Is(err, errRestore) || errors.Is(err, warmpool.ErrOutOfMemory) || ctx.Err() != nil {
			return err
		}
		l.log.Warn("a process is started anew", "error", err)
		if err := l.stopProcess(ctx, l.child); err != nil {
			return err
		}
	}
	for attempt := 1; ; attempt++ {
		if ctx.Err() != nil {
			return context.Cause(ctx)
		}
		if err := l.start(gpus); err != nil {
			return err
		}
		err := l.awaitReady(ctx)
		if ended, ok := errors.AsType[*endedError](err); !ok || !ended.portTaken ||
			l.spec.Backend.Process.Port != 0 || attempt == maxPorts {
			return err
		}
		l.log.Info("the port was taken meanwhile, trying another", "addr", l.record.Addr)
	}
}

// maxPorts is how many ports a wake tries when others take them between our finding them free and the model server's use.
const maxPorts = 5

// Sleep gives the GPU memory back, once the engine says that it has nothing to do.
func (l *Launcher) Sleep(ctx context.Context) (router.Tier, error) {
	tier, err := l.sleep(ctx)
	if err != nil {
		return tier, fmt.Errorf("sleep %s: %w", l.spec.ID, err)
	}
	return tier, nil
}

func (l *Launcher) sleep(ctx context.Context) (router.Tier, error) {
	if !l.mode.canSleep() {
		return router.OnGPU, warmpool.ErrCannotSleep
	}
	if l.spec.Backend.Process != nil && l.current() == nil {
		return router.OnGPU, errors.New("its process has ended")
	}
	if err := l.awaitIdle(ctx); err != nil {
		return router.OnGPU, err
	}
	tier, err := l.putToSleep(ctx)
	if err != nil {
		return router.OnGPU, err
	}
	if l.mode.says() {
		if err := l.awaitStatus(ctx, probe.Asleep); err != nil {
			return router.OnGPU, err
		}
	}
	l.record.Slept = &tier
	return tier, l.saveRecord()
}

// putToSleep has the engine give its memory back, or takes it.
func (l *Launcher) putToSleep(ctx context.Context) (tier router.Tier, err error) {
	if l.spec.Backend.Sleep != config.SleepCheckpoint {
		return l.mode.sleep(ctx, l.addr())
	}
	l.record.Checkpointed, err = l.checkpointer.sleep(ctx, members(l.child.pid))
	return router.OnHost, err
}

// Stop ends the backend. A process is gone with its whole group when Stop returns.
func (l *Launcher) Stop(ctx context.Context) error {
	l.leave()
	err := warmpool.ErrCannotStop
	switch c := l.current(); {
	case c != nil:
		err = l.stopProcess(ctx, c)
	case l.spec.Backend.Process != nil:
		err = nil
	case l.remote != nil:
		err = l.lower(ctx)
	case l.spec.Backend.Hooks != nil && l.spec.Backend.Hooks.Stop != "":
		err = l.mode.hook(ctx, l.spec.Backend.Hooks.Stop)
	}
	if err != nil {
		return fmt.Errorf("stop %s: %w", l.spec.ID, err)
	}
	return nil
}

// PID is the process of the backend, from the moment in which it is started; 0 where there is none. It may be asked at any time.
func (l *Launcher) PID() int { return int(l.pid.Load()) }

// Read is what the engine at addr is doing. It may be asked at any time.
func (l *Launcher) Read(ctx context.Context, addr string) probe.Reading {
	return l.engine.Load(ctx, l.client, addr)
}

// addr is where the model server listens; empty as long as only its orchestrator could know.
func (l *Launcher) addr() string {
	switch {
	case l.child != nil:
		return l.record.Addr
	case l.out != nil:
		seen, _ := l.out.seen()
		return seen.addr
	}
	return l.spec.Backend.Address
}

// leave looks no longer what becomes of a server that is not a process of ours.
func (l *Launcher) leave() {
	if l.out != nil {
		l.out.halt()
		l.out = nil
	}
	if l.there != nil {
		l.there.stop()
		l.there = nil
	}
}

// up is the backend as it is; from now on its end is noticed.
func (l *Launcher) up() warmpool.Up {
	up := warmpool.Up{Addr: l.addr()}
	switch {
	case l.child != nil:
		up.PID, up.GPUs, up.Gone = l.child.pid, slices.Clone(l.record.GPUs), l.child.gone
	case l.remote != nil:
		seen, _ := l.out.seen()
		l.out.isUp(seen)
		up.Addr, up.GPUs, up.Gone = seen.addr, seen.gpus, l.out.gone
	case l.spec.Backend.Process == nil:
		if l.there == nil {
			l.there = l.watchPresence()
		}
		up.Gone = l.there.gone
	}
	return up
}

// asleepTier is where the weights of an engine that sleeps are: what the sleep said that put it there, or what ours would.
func (l *Launcher) asleepTier() router.Tier {
	if l.record.Slept != nil {
		return *l.record.Slept
	}
	return l.mode.tier()
}

// status asks the model server how far it is, for no longer than one probe may take.
func (l *Launcher) status(ctx context.Context) (probe.Status, string) {
	ctx, cancel := context.WithTimeout(ctx, probeTime)
	defer cancel()
	addr := l.addr()
	if addr == "" {
		return probe.Away, l.out.awaits()
	}
	return l.engine.Status(ctx, l.client, addr)
}

// path of one of the backend's files in the state directory.
func (l *Launcher) path(folder, suffix string) string {
	return filepath.Join(l.spec.StateDir, folder, fileName(l.spec.ID)+suffix)
}
