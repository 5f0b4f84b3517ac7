package proxy

import (
	"io"
	"net"
	"testing"
	"time"
)

// A listener that refuses new connections still has those that have begun, and a client that it ignores reaches
// another one that shares its port.
func TestASharedPortIsHandedOver(t *testing.T) {
	old, err := ListenShared(t.Context(), "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer old.Close()
	addr := old.Addr().String()
	queued, err := net.Dial("tcp", addr)
	if err != nil {
		t.Fatal(err)
	}
	defer queued.Close()
	if err := refuseNew(old); err != nil {
		t.Fatal(err)
	}
	if c, err := net.DialTimeout("tcp", addr, 50*time.Millisecond); err == nil {
		c.Close()
		t.Error("it still accepts")
	}
	accepted, err := old.Accept()
	if err != nil {
		t.Fatal(err)
	}
	defer accepted.Close()
	go io.WriteString(queued, "hello")
	if b, err := io.ReadAll(io.LimitReader(accepted, 5)); string(b) != "hello" {
		t.Errorf("the connection that had begun brought %q, %v", b, err)
	}
	next, err := ListenShared(t.Context(), addr)
	if err != nil {
		t.Fatal(err)
	}
	defer next.Close()
	old.Close()
	c, err := net.Dial("tcp", addr)
	if err != nil {
		t.Fatal(err)
	}
	c.Close()
}
