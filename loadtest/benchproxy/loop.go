//go:build linux

package main

import (
	"context"
	"errors"
	"fmt"
	"net/netip"
	"runtime"
	"time"

	"golang.org/x/sys/unix"
)

// A loop is all clients and the model server, on one thread over one epoll instance. What it spends on a request decides
// which proxies can be brought to their limit from one core, so it reads and writes sockets itself and parses no more than
// where a message ends.
type loop struct {
	poll, wake, timer int
	calls             chan func()
	stopped           chan struct{}
	ends              map[int32]end
	events            []unix.EpollEvent
	began             time.Time
	pace              pace
	err               error // the first thing that went wrong since it was asked for
}

// end is what a descriptor belongs to. An error that it returns is what went wrong with the whole measurement.
type end interface{ ready() error }

// pace calls something at even intervals, and says when each call was due.
type pace struct {
	every, next time.Duration // since loop.began
	call        func(due time.Duration) error
}

func newLoop() (*loop, error) {
	poll, err := unix.EpollCreate1(unix.EPOLL_CLOEXEC)
	if err != nil {
		return nil, fmt.Errorf("epoll_create1: %w", err)
	}
	wake, err := unix.Eventfd(0, unix.EFD_NONBLOCK|unix.EFD_CLOEXEC)
	if err != nil {
		return nil, fmt.Errorf("eventfd: %w", err)
	}
	timer, err := unix.TimerfdCreate(unix.CLOCK_MONOTONIC, unix.TFD_NONBLOCK|unix.TFD_CLOEXEC)
	if err != nil {
		return nil, fmt.Errorf("timerfd_create: %w", err)
	}
	l := &loop{
		poll: poll, wake: wake, timer: timer, calls: make(chan func(), 1), stopped: make(chan struct{}), ends: map[int32]end{},
		events: make([]unix.EpollEvent, 128), began: time.Now(),
	}
	return l, errors.Join(l.add(wake, ender(l.called)), l.add(timer, ender(l.ticked)))
}

type ender func() error

func (f ender) ready() error { return f() }

// run serves until ctx ends.
func (l *loop) run(ctx context.Context) {
	runtime.LockOSThread()
	defer close(l.stopped)
	defer context.AfterFunc(ctx, l.rouse)()
	for ctx.Err() == nil {
		n, err := unix.EpollWait(l.poll, l.events, -1)
		if err != nil && err != unix.EINTR {
			l.failed(fmt.Errorf("epoll_wait: %w", err))
			return
		}
		for _, event := range l.events[:max(n, 0)] {
			if e := l.ends[event.Fd]; e != nil {
				l.failed(e.ready())
			}
		}
	}
}

func (l *loop) failed(err error) {
	if l.err == nil {
		l.err = err
	}
}

func (l *loop) rouse() { unix.Write(l.wake, []byte{1, 0, 0, 0, 0, 0, 0, 0}) }

// do has the loop call f between two events, and returns what went wrong since the last time.
func (l *loop) do(f func() error) (err error) {
	done := make(chan struct{})
	call := func() {
		defer close(done)
		l.failed(f())
		err, l.err = l.err, nil
	}
	select {
	case l.calls <- call:
		l.rouse()
	case <-l.stopped:
		return context.Canceled
	}
	select {
	case <-done:
		return err
	case <-l.stopped:
		return context.Canceled
	}
}

func (l *loop) called() error {
	var b [8]byte
	unix.Read(l.wake, b[:])
	for {
		select {
		case call := <-l.calls:
			call()
		default:
			return nil
		}
	}
}

// now is how long the loop has been there.
func (l *loop) now() time.Duration { return time.Since(l.began) }

// setPace has call called every so often from now on; 0: never.
func (l *loop) setPace(every time.Duration, call func(due time.Duration) error) error {
	l.pace = pace{every, l.now() + every, call}
	spec := unix.NsecToTimespec(int64(every))
	if err := unix.TimerfdSettime(l.timer, 0, &unix.ItimerSpec{Interval: spec, Value: spec}, nil); err != nil {
		return fmt.Errorf("timerfd_settime: %w", err)
	}
	return nil
}

func (l *loop) ticked() error {
	var b [8]byte
	unix.Read(l.timer, b[:])
	for p := &l.pace; p.every > 0 && p.next <= l.now(); {
		due := p.next
		p.next += p.every
		if err := p.call(due); err != nil {
			return err
		}
	}
	return nil
}

func (l *loop) add(fd int, e end) error {
	l.ends[int32(fd)] = e
	if err := unix.EpollCtl(l.poll, unix.EPOLL_CTL_ADD, fd, &unix.EpollEvent{Events: unix.EPOLLIN, Fd: int32(fd)}); err != nil {
		return fmt.Errorf("epoll_ctl: %w", err)
	}
	return nil
}

func (l *loop) close(fd int) {
	delete(l.ends, int32(fd))
	unix.Close(fd)
}

// dial connects, and has e called when there is something to read.
func (l *loop) dial(addr string, e end) (int, error) {
	to, err := sockaddr(addr)
	if err != nil {
		return 0, err
	}
	fd, err := unix.Socket(unix.AF_INET, unix.SOCK_STREAM|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		return 0, fmt.Errorf("socket: %w", err)
	}
	if err := unix.Connect(fd, to); err != nil {
		unix.Close(fd)
		return 0, fmt.Errorf("connect to %s: %w", addr, err)
	}
	return fd, errors.Join(ready(fd), l.add(fd, e))
}

func sockaddr(addr string) (unix.Sockaddr, error) {
	at, err := netip.ParseAddrPort(addr)
	if err != nil {
		return nil, err
	}
	return &unix.SockaddrInet4{Port: int(at.Port()), Addr: at.Addr().As4()}, nil
}

// ready prepares a connected socket.
func ready(fd int) error {
	return errors.Join(unix.SetNonblock(fd, true), unix.SetsockoptInt(fd, unix.IPPROTO_TCP, unix.TCP_NODELAY, 1))
}

var errClosed = errors.New("the connection was closed")

// read appends what there is to b, which has room for more than one message.
func read(fd int, b []byte) ([]byte, error) {
	if len(b) == cap(b) {
		return b, errors.New("a message is longer than expected")
	}
	n, err := unix.Read(fd, b[len(b):cap(b)])
	switch {
	case err == unix.EAGAIN || err == unix.EINTR:
		return b, nil
	case err != nil:
		return b, err
	case n == 0:
		return b, errClosed
	}
	return b[:len(b)+n], nil
}

// write writes all of b, which the socket has room for as long as its peer reads.
func write(fd int, b []byte) error {
	n, err := unix.Write(fd, b)
	if err == nil && n < len(b) {
		err = errors.New("the peer does not read")
	}
	return err
}
