//go:build linux

package main

import (
	"context"
	"errors"
	"fmt"
	"os"
	"runtime"
	"slices"
	"strings"
	"time"

	"golang.org/x/sys/unix"

	"pilotlight/loadtest/edge"
)

// bench is what the parts share.
type bench struct {
	options options
	dir     string
	binary  string // of pilotlight
	loop    *loop
	server  *server
	files   int // descriptors that a process may have
	idle    int // streams that fit
	stop    func() error
	ours    unix.CPUSet // where clients and model server run
	theirs  unix.CPUSet // where a proxy runs

	names   []string // of those measured, in order
	figures map[string]map[string][]float64
}

// rival is who has a turn: a proxy, or the model server itself.
type rival struct {
	name, addr string
	*proxy
}

func newBench(ctx context.Context, dir string, o options) (*bench, error) {
	b := &bench{options: o, dir: dir, binary: o.pilotlight, figures: map[string]map[string][]float64{}}
	if b.binary == "" {
		var err error
		if b.binary, err = edge.Build(ctx, dir); err != nil {
			return nil, err
		}
	}
	if err := b.divide(); err != nil {
		return nil, err
	}
	var err error
	if b.loop, err = newLoop(); err != nil {
		return nil, err
	}
	if b.server, err = newServer(b.loop); err != nil {
		return nil, err
	}
	ctx, cancel := context.WithCancel(ctx)
	go b.loop.run(ctx)
	b.stop = func() error { cancel(); <-b.loop.stopped; return nil }
	return b, nil
}

// divide gives each proxy a core, and us another one. It allows as many descriptors as it may.
func (b *bench) divide() error {
	var may unix.CPUSet
	if err := unix.SchedGetaffinity(0, &may); err != nil {
		return fmt.Errorf("sched_getaffinity: %w", err)
	}
	var cores []int
	for cpu := range len(may) * 64 {
		if may.IsSet(cpu) {
			cores = append(cores, cpu)
		}
	}
	b.theirs.Set(cores[0])
	b.ours.Set(cores[len(cores)-1])
	if len(cores) == 1 {
		fmt.Println("there is one core only: proxies, clients and model server share it")
	}
	threads, err := os.ReadDir("/proc/self/task")
	if err != nil {
		return err
	}
	for _, thread := range threads { // those to come inherit it
		var id int
		fmt.Sscan(thread.Name(), &id)
		unix.SchedSetaffinity(id, &b.ours) // one that has ended meanwhile needs none
	}
	return b.allowFiles()
}

// allowFiles has processes have as many descriptors as the streams need that idle, if they may: a proxy has two for each, and
// so do client and model server together.
func (b *bench) allowFiles() error {
	const others = 500
	b.files = 2*b.options.idle + others
	var may unix.Rlimit
	if err := unix.Getrlimit(unix.RLIMIT_NOFILE, &may); err != nil {
		return fmt.Errorf("getrlimit: %w", err)
	}
	want := uint64(b.files)
	if unix.Setrlimit(unix.RLIMIT_NOFILE, &unix.Rlimit{Cur: want, Max: max(want, may.Max)}) != nil {
		b.files = int(min(may.Max, want))
		if err := unix.Setrlimit(unix.RLIMIT_NOFILE, &unix.Rlimit{Cur: uint64(b.files), Max: may.Max}); err != nil {
			return fmt.Errorf("setrlimit: %w", err)
		}
	}
	b.idle = (b.files - others) / 2
	return nil
}

// onTheirs starts a process on the core of the proxies.
func (b *bench) onTheirs(start func() error) error {
	runtime.LockOSThread() // a process inherits the core of the thread that starts it
	defer runtime.UnlockOSThread()
	if err := unix.SchedSetaffinity(0, &b.theirs); err != nil {
		return fmt.Errorf("sched_setaffinity: %w", err)
	}
	err := start()
	return errors.Join(err, unix.SchedSetaffinity(0, &b.ours))
}

// start has all proxies run, and no proxy as well.
func (b *bench) start(ctx context.Context) (rivals []*rival, stop func() error, err error) {
	stop = func() (err error) {
		for _, r := range rivals {
			if r.proxy != nil {
				err = errors.Join(err, r.proxy.stop())
			}
		}
		return err
	}
	for _, l := range b.launchers() {
		p, err := l.start(ctx, b)
		if err != nil {
			return rivals, stop, fmt.Errorf("%s: %w", l.name, err)
		}
		rivals = append(rivals, &rival{l.name, p.addr, p})
	}
	return append(rivals, &rival{name: direct, addr: b.server.addr}), stop, nil
}

// direct is the rival that is no proxy.
const direct = "none"

func (r *rival) cpu() (sum time.Duration, err error) {
	if r.proxy == nil {
		return 0, nil
	}
	return r.proxy.cpu()
}

func (b *bench) note(rival, what string, figure float64) {
	if b.figures[rival] == nil {
		b.figures[rival] = map[string][]float64{}
		b.names = append(b.names, rival)
	}
	b.figures[rival][what] = append(b.figures[rival][what], figure)
}

// launcher is how a proxy is started.
type launcher struct {
	name  string
	start func(context.Context, *bench) (*proxy, error)
}

// launchers are those of the proxies that are wanted and installed.
func (b *bench) launchers() (found []launcher) {
	wanted := strings.Split(b.options.among, ",")
	for _, l := range []launcher{{"pilotlight", startPilotlight}, {"nginx", startNginx}, {"haproxy", startHAProxy("")}, {"haproxy+log", startHAProxy(haproxyLog)}, {"net/http", startReverse}} {
		if !slices.Contains(wanted, l.name) {
			continue
		}
		if _, err := find(l.name); err != nil {
			fmt.Printf("%s is not installed\n", l.name)
			continue
		}
		found = append(found, l)
	}
	return found
}
