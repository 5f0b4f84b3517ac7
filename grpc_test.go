//go:build linux

package main_test

import (
	"fmt"
	"io"
	"net"
	"path/filepath"
	"strings"
	"testing"

	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials/insecure"

	"pilotlight/loadtest/grpcsim"
)

// A client of KServe's protocol, by grpc-go, does inference on a model that is stopped: the call starts its process.
func TestACallWakesAModelServer(t *testing.T) {
	t.Parallel()
	server := filepath.Join(t.TempDir(), "grpcsim")
	run(t, "", nil, "go", "build", "-o", server, "./loadtest/grpcsim/cmd")
	addr := freeAddr(t)
	_, port, err := net.SplitHostPort(addr)
	if err != nil {
		t.Fatal(err)
	}
	p := serve(t, t.TempDir(), fmt.Sprintf(`
models:
  capitals:
    served_as: m
    idle_time: 1s
    backends:
      - process: {command: [%q, -grpc, %q, -http, "127.0.0.1:{port}"]}
        grpc: ":%s"
`, server, addr, port))
	protocol, err := grpcsim.Load(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	client, err := grpc.NewClient("passthrough:///"+p.addr, grpc.WithTransportCredentials(insecure.NewCredentials()))
	if err != nil {
		t.Fatal(err)
	}
	defer client.Close()

	p.await(t, "capitals", "stopped")
	response, err := protocol.Call(t.Context(), client, "ModelInfer", protocol.Request("capitals", "1", []byte("unary")))
	if got := string(grpcsim.Tensor(response, "raw_output_contents")); err != nil || got != "UNARY" {
		t.Errorf("got %q, %v", got, err)
	}

	p.await(t, "capitals", "stopped")
	s, err := protocol.Stream(t.Context(), client)
	if err != nil {
		t.Fatal(err)
	}
	for _, word := range []string{"a", "stream"} {
		if err := s.SendMsg(protocol.Request("capitals", "1", []byte(word))); err != nil {
			t.Fatal(err)
		}
		response, err := s.Receive()
		if err != nil {
			t.Fatal(err)
		}
		if got := string(grpcsim.Tensor(response, "raw_output_contents")); got != strings.ToUpper(word) {
			t.Errorf("got %q, want %q", got, strings.ToUpper(word))
		}
	}
	if err := s.CloseSend(); err != nil {
		t.Error(err)
	}
	if _, err := s.Receive(); err != io.EOF {
		t.Errorf("the stream ended with %v", err)
	}
	eventually(t, "both calls are recorded as answered", func() bool { return strings.Join(p.outcomes(t), " ") == "ok ok" })
}
