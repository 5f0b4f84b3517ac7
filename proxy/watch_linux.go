package proxy

import (
	"log/slog"
	"net"
	"os"
	"sync"
	"syscall"
	"unsafe"

	sys "golang.org/x/sys/unix"
)

// A watch notices, within the moment, that a peer closed its connection or its sending half, while nobody reads from
// that connection. One epoll instance stands for all of them: each is registered once, edge-triggered, for the peer's
// close alone, so that traffic does not wake it. The instance's own descriptor is polled by Go's netpoller: no thread is
// held, and a connection costs a map entry.
type watch struct {
	log  *slog.Logger
	once sync.Once // starts it: tests without descriptors need no epoll
	done chan struct{}

	mu    sync.Mutex // guards what follows
	poll  *os.File   // nil: not started, or not to be had
	fd    int
	last  uint64            // key given last
	peers map[uint64]func() // by key: what to call when the peer has gone
}

func newWatch(log *slog.Logger) *watch {
	return &watch{log: log, done: make(chan struct{}), peers: map[uint64]func(){}}
}

// add watches a connection, and has left called once its peer has gone. Keys are never used again, unlike
// descriptors: an event that comes late finds nobody. It says 0 where the connection cannot be watched.
func (w *watch) add(raw syscall.RawConn, left func()) uint64 {
	if raw == nil {
		return 0
	}
	w.once.Do(w.start)
	w.mu.Lock()
	defer w.mu.Unlock()
	if w.poll == nil {
		return 0
	}
	w.last++
	key := w.last
	event := sys.EpollEvent{Events: sys.EPOLLRDHUP | sys.EPOLLET, Fd: int32(uint32(key)), Pad: int32(uint32(key >> 32))}
	var err error
	if e := raw.Control(func(fd uintptr) { err = sys.EpollCtl(w.fd, sys.EPOLL_CTL_ADD, int(fd), &event) }); e != nil || err != nil {
		return 0
	}
	w.peers[key] = left
	return key
}

// remove ends the watch over a connection that is about to be closed, which takes it out of the epoll instance.
func (w *watch) remove(key uint64) {
	w.mu.Lock()
	defer w.mu.Unlock()
	delete(w.peers, key)
}

func (w *watch) start() {
	poll, fd, err := newPoll()
	if err != nil {
		w.log.Error("no watch over connections", "error", err)
		close(w.done)
		return
	}
	w.mu.Lock()
	w.poll, w.fd = poll, fd
	w.mu.Unlock()
	go w.run(poll)
}

func newPoll() (*os.File, int, error) {
	fd, err := sys.EpollCreate1(sys.EPOLL_CLOEXEC)
	if err != nil {
		return nil, 0, os.NewSyscallError("epoll_create1", err)
	}
	if err := sys.SetNonblock(fd, true); err != nil { // or else os.File would not poll it
		sys.Close(fd)
		return nil, 0, os.NewSyscallError("fcntl", err)
	}
	return os.NewFile(uintptr(fd), "epoll"), fd, nil
}

// run calls whoever is concerned until the watch is closed.
func (w *watch) run(poll *os.File) {
	defer close(w.done)
	raw, err := poll.SyscallConn()
	events := make([]sys.EpollEvent, 128)
	for err == nil {
		n := 0
		err = raw.Read(func(fd uintptr) bool {
			n, _ = sys.EpollWait(int(fd), events, 0)
			return n > 0
		})
		for _, event := range events[:max(n, 0)] {
			key := uint64(uint32(event.Fd)) | uint64(uint32(event.Pad))<<32
			w.mu.Lock()
			left := w.peers[key]
			w.mu.Unlock()
			if left != nil {
				left()
			}
		}
	}
	w.mu.Lock()
	defer w.mu.Unlock()
	if w.poll != nil { // not closed by us
		w.log.Error("the watch over connections ended", "error", err)
	}
}

// close ends the watch. Connections added later are not watched.
func (w *watch) close() {
	w.once.Do(func() { close(w.done) })
	w.mu.Lock()
	poll := w.poll
	w.poll = nil
	w.mu.Unlock()
	if poll != nil {
		poll.Close()
	}
	<-w.done
}

// rawConn gives access to a connection's descriptor, or nil where it has none.
func rawConn(c net.Conn) syscall.RawConn {
	s, ok := c.(syscall.Conn)
	if !ok {
		return nil
	}
	raw, err := s.SyscallConn()
	if err != nil {
		return nil
	}
	return raw
}

// readFD and writeFD do not wait, so the scheduler need not know of them: see sink. They ask for what only sockets have, since
// what the system does for files in read and write costs a few per cent of each.
func readFD(fd uintptr, p []byte) (int, error) {
	return callFD(sys.SYS_RECVFROM, fd, p, sys.MSG_DONTWAIT)
}

func writeFD(fd uintptr, p []byte) (int, error) {
	return callFD(sys.SYS_SENDTO, fd, p, sys.MSG_DONTWAIT|sys.MSG_NOSIGNAL)
}

func callFD(call, fd uintptr, p []byte, flags uintptr) (int, error) {
	for {
		n, _, err := sys.RawSyscall6(call, fd, uintptr(unsafe.Pointer(unsafe.SliceData(p))), uintptr(len(p)), flags, 0, 0)
		switch err {
		case 0:
			return int(n), nil
		case syscall.EINTR:
		default:
			return -1, err
		}
	}
}

// bytesAcked is how many bytes the peer's system has acknowledged since the connection was opened.
func bytesAcked(raw syscall.RawConn) (n uint64, known bool) {
	if raw == nil {
		return 0, false
	}
	var info *sys.TCPInfo
	var err error
	if e := raw.Control(func(fd uintptr) { info, err = sys.GetsockoptTCPInfo(int(fd), sys.IPPROTO_TCP, sys.TCP_INFO) }); e != nil || err != nil {
		return 0, false
	}
	return max(info.Bytes_acked, 1) - 1, true // the SYN counts as one
}

// pending says whether a read from a descriptor would give something, be it the end. It does not wait, so the scheduler need
// not know of it, which every request saves.
func pending(fd uintptr) bool {
	var b [1]byte
	_, _, err := sys.RawSyscall6(sys.SYS_RECVFROM, fd, uintptr(unsafe.Pointer(&b)), 1, sys.MSG_PEEK|sys.MSG_DONTWAIT, 0, 0)
	return err != syscall.EAGAIN
}
