package launch

import (
	"encoding/pem"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"pilotlight/config"
	"pilotlight/probe"
	"pilotlight/probe/engine"
)

func TestABackendThatSpeaksTLSIsAskedOverTLS(t *testing.T) {
	server := httptest.NewTLSServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {}))
	defer server.Close()
	ca := filepath.Join(t.TempDir(), "ca.pem")
	if err := os.WriteFile(ca, pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: server.Certificate().Raw}), 0o600); err != nil {
		t.Fatal(err)
	}
	addr := strings.TrimPrefix(server.URL, "https://")
	for tls, want := range map[*config.BackendTLS]probe.Status{{CA: ca}: probe.Ready, {}: probe.Away, nil: probe.Loading} {
		transport := &http.Transport{DialContext: Dial(config.Backend{Address: addr, TLS: tls})}
		defer transport.CloseIdleConnections()
		status, said := engine.New(config.HTTP, "m", "/health").Status(t.Context(), &http.Client{Transport: transport}, addr)
		if status != want {
			t.Errorf("%+v: got %v (%s), want %v", tls, status, said, want)
		}
	}
}
