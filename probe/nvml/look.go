//go:build linux && cgo

package nvml

import (
	"context"
	"fmt"
	"slices"
	"sync"
	"time"

	"github.com/NVIDIA/go-nvml/pkg/nvml"

	"pilotlight/probe"
)

// How often what is looked at. The driver samples utilisation six times a second at best; what changes slowly, or is dear
// to ask for, is looked at less often.
const (
	tick       = 200 * time.Millisecond // utilisation, and one reading
	everySlow  = 5                      // ticks: memory, processes, energy, clocks
	everyRare  = 25                     // ticks: health, and which GPUs there are
	afresh     = 30 * time.Second       // how long a GPU may be lost before the driver is asked anew which there are
	eventPause = 5 * time.Second        // after a wait for events that failed
)

// looker looks at the GPUs. It belongs to the goroutine of Look, but for events.
type looker struct {
	*library
	said    probe.GPUs
	devices []*device
	links   [][]probe.Link
	lost    time.Time // since when a GPU is out of order
	procs   processes

	mu     sync.Mutex // guards what follows
	events []event
}

// event is an Xid that has not been told.
type event struct {
	handle nvml.Device
	xid    probe.Xid
}

// Look loads the library at path, or the system's where that is empty, and calls see with a reading some five times a second
// until ctx ends. It must run in a process of its own: see the package. It returns when the driver needs to be
// loaded anew, and ErrNoLibrary where there is none.
func Look(ctx context.Context, path string, see func(probe.GPUs)) error {
	l := &looker{procs: seen(procDir())}
	var r nvml.Return
	if l.library, r = open(path); r == nvml.ERROR_LIBRARY_NOT_FOUND {
		name := path
		if name == "" {
			name = "libnvidia-ml.so.1"
		}
		return fmt.Errorf("%w: %s cannot be loaded", ErrNoLibrary, name)
	} else if r != nvml.SUCCESS {
		see(probe.GPUs{At: time.Now(), Problem: "the NVIDIA driver does not start: " + say(r)})
		return fmt.Errorf("start NVML: %s", say(r))
	}
	l.ask(func() (r nvml.Return) { l.said.Driver, r = l.SystemGetDriverVersion(); return r }, "nvmlSystemGetDriverVersion")
	if err := l.inventory(); err != nil {
		see(probe.GPUs{At: time.Now(), Driver: l.said.Driver, Problem: err.Error()})
		return err
	}
	go l.listen(ctx)

	ticker := time.NewTicker(tick)
	defer ticker.Stop()
	for n := 0; ; n++ {
		if err := l.look(n); err != nil {
			return err
		}
		see(l.reading())
		select {
		case <-ticker.C:
		case <-ctx.Done():
			return ctx.Err()
		}
	}
}

// look brings the devices up to date; n counts the ticks.
func (l *looker) look(n int) error {
	if n > 0 && n%everyRare == 0 {
		if err := l.inventory(); err != nil {
			return err
		}
	}
	for _, d := range l.devices {
		d.begin()
		d.use(l.library)
		if n%everySlow == 0 || d.moving > 0 {
			d.memory(l.library)
			d.processes(l.library, &l.procs)
		}
		if n%everySlow == 0 {
			d.power(l.library)
		}
		if n%everyRare == 0 {
			d.wear(l.library)
		}
		if broken(d.failed) {
			return fmt.Errorf("look at GPU %d: %s", d.gpu.Index, say(d.failed))
		}
	}
	return l.relook()
}

// relook ends a process that has seen a lost GPU for a while: its handles are of no use any more, and whether the GPU is back is
// told only to who asks anew.
func (l *looker) relook() error {
	if !slices.ContainsFunc(l.devices, func(d *device) bool { return gone(d.failed) }) {
		l.lost = time.Time{}
		return nil
	}
	if l.lost.IsZero() {
		l.lost = time.Now()
	}
	if time.Since(l.lost) > afresh {
		return errAfresh
	}
	return nil
}

// reading is a copy of what has been seen.
func (l *looker) reading() probe.GPUs {
	l.take()
	g := l.said
	g.At, g.Foreign, g.Links = time.Now(), l.procs.foreign, l.links
	g.HostTotal, g.HostFree = hostMemory()
	if len(l.devices) == 0 {
		g.Problem = "the NVIDIA driver finds no GPU"
	}
	for _, d := range l.devices {
		g.GPUs = append(g.GPUs, d.reading())
	}
	return g
}

// take gives the events that have come to their devices. Those of a GPU are those of all its instances.
func (l *looker) take() {
	l.mu.Lock()
	events := l.events
	l.events = nil
	l.mu.Unlock()
	for _, e := range events {
		for _, d := range l.devices {
			if d.handle == e.handle || d.board == e.handle {
				d.gpu.Xids = append(d.gpu.Xids, e.xid)
				d.gpu.Xids = d.gpu.Xids[max(0, len(d.gpu.Xids)-keptXids):]
			}
		}
	}
}
