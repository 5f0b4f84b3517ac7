package launch

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"maps"
	"math/rand/v2"
	"net/http"
	"slices"
	"strings"
	"sync"
	"time"

	"pilotlight/config"
	"pilotlight/warmpool"
)

// An orchestrator runs a backend's model server in our place, and is asked for it over its API: *nomad, *kubernetes, *docker.
type orchestrator interface {
	// raise asks for the model server. It is no error if it runs already.
	raise(ctx context.Context) error
	// lower asks for its end, and does not wait for it. It is no error if it does not run.
	lower(ctx context.Context) error
	// look says what is there.
	look(ctx context.Context) (sight, error)
	// notify calls happened whenever there may be something new to see, until ctx or its connection ends.
	notify(ctx context.Context, happened func()) error
	// logged is the end of what the model server has logged so far.
	logged(ctx context.Context, s sight) ([]byte, error)
	close()
}

// sight is what an orchestrator says of a backend.
type sight struct {
	asked    bool   // it is to run
	left     bool   // something of it is there, and be it ending
	addr     string // where the model server listens; empty until it runs
	instance string // which of its lives this is, where its end is ours; empty where others stand beside it
	gpus     []int  // of this node, where they are known
	said     string // in the orchestrator's words: what it waits for, or how it ended
	failed   bool   // it fails again and again
	log      string // which log is its, in the orchestrator's terms
}

// newOrchestrator is what runs the backend, nil if nothing but ourselves does.
func newOrchestrator(b config.Backend) orchestrator {
	switch {
	case b.Nomad != nil:
		return newNomad(*b.Nomad, b.Address)
	case b.Kubernetes != nil:
		return newKubernetes(*b.Kubernetes, b.Address)
	case b.Docker != nil:
		return newDocker(*b.Docker, b.Address)
	}
	return nil
}

func sortedKeys[V any](m map[string]V) []string { return slices.Sorted(maps.Keys(m)) }

const (
	lookSoon  = 20 * time.Millisecond // after something happened: it rarely comes alone
	lookOften = time.Second           // unasked, while it comes up
	lookRare  = 15 * time.Second      // unasked, while it runs
	maxDeaf   = 30 * time.Second      // between two tries to hear of what happens
	tailLines = 100                   // of a log that are looked through
)

// lookout follows what an orchestrator says of the backend.
type lookout struct {
	of       orchestrator
	log      func(msg string, args ...any)
	happened chan struct{}      // capacity 1
	gone     chan error         // capacity 1: why a backend that was up is so no more
	fell     chan struct{}      // closed when it will not come up
	stop     context.CancelFunc // and then wait
	watchers sync.WaitGroup

	mu   sync.Mutex // guards what follows
	last sight
	err  error  // of the last look
	up   *sight // as it was when it came up
	why  error  // set before fell is closed
	over bool   // fell is closed, or gone is told
}

// watchOver begins to follow the backend, which was last seen so, until halt.
func (l *Launcher) watchOver(s sight) *lookout {
	ctx, stop := context.WithCancel(context.Background())
	o := &lookout{
		of: l.remote, log: l.log.Warn, stop: stop,
		happened: make(chan struct{}, 1), gone: make(chan error, 1), fell: make(chan struct{}),
		last: s,
	}
	o.watchers.Go(func() { o.listen(ctx) })
	o.watchers.Go(func() { o.follow(ctx) })
	return o
}

func (o *lookout) halt() {
	o.stop()
	o.watchers.Wait()
}

// listen hears of what happens, however often the connection breaks.
func (o *lookout) listen(ctx context.Context) {
	pause := lookOften
	for ctx.Err() == nil {
		began := time.Now()
		err := o.of.notify(ctx, o.wakeUp)
		if time.Since(began) > maxDeaf {
			pause = lookOften
		}
		if err != nil && ctx.Err() == nil {
			pause = min(2*pause, maxDeaf)
		}
		o.wakeUp() // what was missed is seen
		select {
		case <-ctx.Done():
		case <-time.After(pause/2 + rand.N(pause)):
		}
	}
}

func (o *lookout) wakeUp() {
	select {
	case o.happened <- struct{}{}:
	default:
	}
}

// follow looks whenever something has happened, and now and then unasked.
func (o *lookout) follow(ctx context.Context) {
	for {
		s, err := o.of.look(ctx)
		if ctx.Err() != nil {
			return
		}
		pause := o.note(s, err)
		select {
		case <-ctx.Done():
			return
		case <-time.After(pause):
			continue
		case <-o.happened:
		}
		select {
		case <-ctx.Done():
			return
		case <-time.After(lookSoon):
		}
		select { // what came along with it
		case <-o.happened:
		default:
		}
	}
}

// note takes in what a look saw, and says after how long to look again. An API that does not answer changes nothing.
func (o *lookout) note(s sight, err error) (pause time.Duration) {
	o.mu.Lock()
	defer o.mu.Unlock()
	if (err == nil) != (o.err == nil) && err != nil {
		o.log("an orchestrator cannot be asked", "error", err)
	}
	o.err = err
	missing := isStatus(err, http.StatusNotFound)
	if err == nil {
		o.last = s
	}
	pause = lookRare
	switch {
	case o.over:
	case o.up == nil:
		pause = lookOften
		if isFinal(err) {
			o.end(err)
		} else if err == nil && (s.failed || !s.asked) {
			o.end(errors.New(s.said))
		}
	case missing:
		o.lose(err)
	case err != nil:
		pause = lookOften
	case s.failed || !s.asked || s.addr == "":
		o.lose(errors.New(s.said))
	case s.instance != o.up.instance || s.addr != o.up.addr:
		o.lose(fmt.Errorf("another has taken its place, at %s", s.addr))
	}
	return pause
}

// end says that the backend will not come up. o.mu is held.
func (o *lookout) end(why error) {
	o.why, o.over = why, true
	close(o.fell)
}

// lose says that the backend is no more. o.mu is held.
func (o *lookout) lose(why error) {
	o.over = true
	o.gone <- why
}

// seen is what was seen last, and what came of looking since.
func (o *lookout) seen() (sight, error) {
	o.mu.Lock()
	defer o.mu.Unlock()
	return o.last, o.err
}

// awaits says what is waited for as long as there is no address.
func (o *lookout) awaits() string {
	s, err := o.seen()
	if err != nil {
		return err.Error()
	}
	return s.said
}

// isUp notes, once, that the backend is up as it was seen: from now on its end is told to gone.
func (o *lookout) isUp(s sight) {
	o.mu.Lock()
	defer o.mu.Unlock()
	if o.over {
		o.gone <- o.why
		return
	}
	o.up = &s
	o.wakeUp()
}

// ended is why it does not come up.
func (o *lookout) ended() error {
	o.mu.Lock()
	defer o.mu.Unlock()
	return o.why
}

// news tells, when asked, whether the model server has logged anything since it was last asked. That it answers our probes is nothing.
func (l *Launcher) news() func(probes int) bool {
	last := ""
	return func(int) bool {
		ctx, cancel := context.WithTimeout(context.Background(), probeTime)
		defer cancel()
		now := strings.Join(l.loggedLines(ctx), "\n")
		if now == "" || now == last {
			return false
		}
		last = now
		return true
	}
}

// loggedLines are the last that the model server has logged, but for those about our probes; none where nobody can tell.
func (l *Launcher) loggedLines(ctx context.Context) (lines []string) {
	s, _ := l.out.seen()
	text, err := l.remote.logged(ctx, s)
	if err != nil {
		return nil
	}
	for line := range bytes.FieldsFuncSeq(text, func(r rune) bool { return r == '\n' || r == '\r' }) {
		if !aboutUs(line, l.engine.Paths()) {
			lines = append(lines, string(line))
		}
	}
	return lines
}

// withLog adds to a failure what the model server logged last, as far as that can be had.
func (l *Launcher) withLog(ctx context.Context, err error) error {
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), probeTime)
	defer cancel()
	if line := causeOf([]byte(strings.Join(l.loggedLines(ctx), "\n"))); line != "" {
		return fmt.Errorf("%w; the last it logged: %s", err, line)
	}
	return err
}

// lower has the orchestrator end the backend, and waits until nothing of it is left. It gives up when nothing changes for as long as a wake may stall.
func (l *Launcher) lower(ctx context.Context) error {
	if err := l.remote.lower(ctx); err != nil {
		return err
	}
	began, said := time.Now(), ""
	for pause := nearPause; ; pause = min(2*pause, lookOften) {
		s, err := l.remote.look(ctx)
		switch {
		case isStatus(err, http.StatusNotFound) || err == nil && !s.left:
			return nil
		case isFinal(err):
			return err
		case err != nil:
			s.said = err.Error()
		case s.asked:
			return errors.New("somebody has asked for it again meanwhile")
		}
		if s.said != said {
			began, said = time.Now(), s.said
		}
		if time.Since(began) > l.spec.Backend.Stall.Std() {
			return fmt.Errorf("it was told to and does not end: %w for %v; %s", warmpool.ErrStalled, l.spec.Backend.Stall, said)
		}
		select {
		case <-ctx.Done():
			return context.Cause(ctx)
		case <-time.After(pause):
		}
	}
}

// findRemote tells whether the backend is to run, and if so begins to follow it.
func (l *Launcher) findRemote(ctx context.Context) (asked bool, err error) {
	s, err := l.remote.look(ctx)
	if err != nil {
		return false, fmt.Errorf("find %s: %w", l.spec.ID, err)
	}
	l.leave()
	if !s.asked {
		if l.record.Slept != nil { // its engine slept, and is no more
			l.dropRecord()
		}
		return false, nil
	}
	l.out = l.watchOver(s)
	return true, nil
}

// wakeRemote asks for the backend and waits until its engine says that it can answer.
func (l *Launcher) wakeRemote(ctx context.Context) error {
	l.leave()
	if err := l.remote.raise(ctx); err != nil {
		return err
	}
	l.out = l.watchOver(sight{asked: true, said: "it was asked for"})
	return l.awaitReady(ctx)
}
