package proc

import (
	"fmt"
	"math/rand/v2"
	"net"
	"os"
)

// FreePorts finds n different ports of the loopback address that nobody listens on. None of them is one that the system gives
// to those who connect, if it can be helped: while a server is down, a client that asks for its address may be given that very
// port, and the server cannot come back.
func FreePorts(n int) ([]int, error) {
	ports := make([]int, 0, n)
	for range n {
		listener, err := listenBelow(firstEphemeral())
		if err != nil {
			return nil, fmt.Errorf("find a free port: %w", err)
		}
		defer listener.Close() //nolint:errcheck // when all are found, so that they differ; nothing can be lost by it
		ports = append(ports, listener.Addr().(*net.TCPAddr).Port)
	}
	return ports, nil
}

// lowest is the first port that FreePorts may find; those below belong to services that people know by their number.
const lowest = 15_000

// listenBelow listens on any port from lowest up to a limit, or on any at all where there is no room.
func listenBelow(limit int) (net.Listener, error) {
	for range 100 {
		if limit-lowest < 1000 {
			break
		}
		if listener, err := net.Listen("tcp", fmt.Sprintf("127.0.0.1:%d", lowest+rand.IntN(limit-lowest))); err == nil {
			return listener, nil
		}
	}
	return net.Listen("tcp", "127.0.0.1:0")
}

// firstEphemeral is the lowest port that Linux gives to those who connect; 32,768 unless somebody changed it.
func firstEphemeral() int {
	first := 32_768
	if text, err := os.ReadFile("/proc/sys/net/ipv4/ip_local_port_range"); err == nil {
		_, _ = fmt.Sscan(string(text), &first)
	}
	return first
}
