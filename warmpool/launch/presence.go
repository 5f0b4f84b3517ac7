package launch

import (
	"context"
	"fmt"
	"net"
	"time"
)

const (
	presencePause = time.Second // between two looks
	absences      = 3           // looks in a row at which nobody answered, until a server counts as gone
)

// presence watches over a server that somebody else runs: nobody tells us when it ends.
type presence struct {
	gone chan error // capacity 1: why it counts as gone
	stop context.CancelFunc
}

// watchPresence begins to look whether anybody accepts connections at the address, until stop, Close or gone.
func (l *Launcher) watchPresence() *presence {
	ctx, stop := context.WithCancel(context.Background())
	p := &presence{gone: make(chan error, 1), stop: stop}
	addr := l.spec.Backend.Address
	l.watchers.Go(func() {
		defer stop()
		ticker := time.NewTicker(presencePause)
		defer ticker.Stop()
		for missed := 0; missed < absences; missed++ {
			select {
			case <-ticker.C:
			case <-ctx.Done():
				return
			case <-l.closing:
				return
			}
			if accepts(ctx, addr) {
				missed = -1
			}
		}
		p.gone <- fmt.Errorf("nobody has answered at %s for %v", addr, absences*presencePause)
	})
	return p
}

// accepts tells whether anybody accepts connections.
func accepts(ctx context.Context, addr string) bool {
	ctx, cancel := context.WithTimeout(ctx, probeTime)
	defer cancel()
	c, err := (&net.Dialer{}).DialContext(ctx, "tcp", addr)
	return err == nil && c.Close() == nil
}
