package agent

import (
	"net"
	"testing"
)

func TestOtherHostsReachWhatIsOnLoopbackByTheNodesName(t *testing.T) {
	for addr, want := range map[string]string{
		"127.0.0.1:8000": "gpu-1:8000", "localhost:8000": "gpu-1:8000", "[::1]:8000": "gpu-1:8000",
		"10.0.0.7:8000": "10.0.0.7:8000", "other:8000": "other:8000", "": "",
	} {
		if got := (&Hub{o: Options{Host: "gpu-1"}}).Reached(addr); got != want {
			t.Errorf("%q is reached by %q, want %q", addr, got, want)
		}
		if got := (&Hub{}).Reached(addr); got != addr {
			t.Errorf("%q is reached by %q where nothing is advertised", addr, got)
		}
	}
	all := &net.TCPAddr{IP: net.IPv6unspecified, Port: 8082}
	if got := (&Hub{o: Options{Host: "gpu-1"}}).Advertised(all); got != "gpu-1:8082" {
		t.Errorf("the link is at %s", got)
	}
}
