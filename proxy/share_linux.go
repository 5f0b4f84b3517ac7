package proxy

import (
	"context"
	"fmt"
	"net"
	"os"
	"syscall"

	sys "golang.org/x/sys/unix"
)

// ListenShared listens on a port that other edges may listen on as well: the system deals new connections out among them.
func ListenShared(ctx context.Context, addr string) (net.Listener, error) {
	share := net.ListenConfig{Control: func(_, _ string, raw syscall.RawConn) error {
		return control(raw, func(fd int) error { return sys.SetsockoptInt(fd, sys.SOL_SOCKET, sys.SO_REUSEPORT, 1) })
	}}
	share.SetMultipathTCP(false) // its sockets take no filter
	return share.Listen(ctx, "tcp", addr)
}

// refuseNew has the system ignore whoever begins to connect. They try again, after a second mostly, and then reach another
// edge. Connections that have begun already still come. Closing the listener at once would reset those that wait to be accepted.
func refuseNew(ln net.Listener) error {
	l, ok := ln.(syscall.Conn)
	if !ok {
		return fmt.Errorf("%T has no descriptor", ln)
	}
	raw, err := l.SyscallConn()
	if err != nil {
		return err
	}
	const flags, syn = 13, 2 // of a TCP header
	program := []sys.SockFilter{
		{Code: sys.BPF_LD | sys.BPF_B | sys.BPF_ABS, K: flags},
		{Code: sys.BPF_JMP | sys.BPF_JSET | sys.BPF_K, K: syn, Jf: 1},
		{Code: sys.BPF_RET | sys.BPF_K, K: 0},          // drop it
		{Code: sys.BPF_RET | sys.BPF_K, K: 0xffffffff}, // let it pass
	}
	return control(raw, func(fd int) error {
		return sys.SetsockoptSockFprog(fd, sys.SOL_SOCKET, sys.SO_ATTACH_FILTER, &sys.SockFprog{Len: uint16(len(program)), Filter: &program[0]})
	})
}

func control(raw syscall.RawConn, do func(fd int) error) error {
	var err error
	if e := raw.Control(func(fd uintptr) { err = do(int(fd)) }); e != nil {
		return e
	}
	return os.NewSyscallError("setsockopt", err)
}
