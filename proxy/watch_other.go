//go:build !linux

package proxy

import (
	"log/slog"
	"net"
	"syscall"
)

// A watch notices that a peer has gone. Here it watches nobody: each connection has a goroutine instead, see reader.
type watch struct{}

func newWatch(*slog.Logger) *watch { return &watch{} }

func (*watch) add(syscall.RawConn, func()) uint64 { return 0 }
func (*watch) remove(uint64)                      {}
func (*watch) close()                             {}

func rawConn(net.Conn) syscall.RawConn { return nil }

func readFD(uintptr, []byte) (int, error)  { panic("BUG: there is no descriptor") }
func writeFD(uintptr, []byte) (int, error) { panic("BUG: there is no descriptor") }

func bytesAcked(syscall.RawConn) (uint64, bool) { return 0, false }
func pending(uintptr) bool                      { panic("BUG: there is no descriptor") }
