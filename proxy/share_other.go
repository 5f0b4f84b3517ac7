//go:build !linux

package proxy

import (
	"context"
	"errors"
	"net"
)

// ListenShared works on Linux only.
func ListenShared(context.Context, string) (net.Listener, error) {
	return nil, errors.New("a port can be shared on Linux only; leave reuse_port out")
}

func refuseNew(net.Listener) error { return errors.New("not on this system") }
