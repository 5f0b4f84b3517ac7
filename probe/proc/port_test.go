package proc

import (
	"fmt"
	"net"
	"testing"
)

func TestFreePortsAreFreeDifferentAndNotTheSystemsToGive(t *testing.T) {
	ports, err := FreePorts(50)
	if err != nil || len(ports) != 50 {
		t.Fatalf("got %d ports, %v", len(ports), err)
	}
	seen := map[int]bool{}
	for _, port := range ports {
		if seen[port] || port < lowest || port >= firstEphemeral() {
			t.Errorf("port %d: seen before %t, first of the system's %d", port, seen[port], firstEphemeral())
		}
		seen[port] = true
		listener, err := net.Listen("tcp", fmt.Sprintf("127.0.0.1:%d", port))
		if err != nil {
			t.Error(err)
			continue
		}
		listener.Close()
	}
}
