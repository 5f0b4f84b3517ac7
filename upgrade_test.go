//go:build linux

package main_test

import (
	"context"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"time"
)

const upgraded = `
listen: %s
admin: %s
reuse_port: true
node: {state_dir: %q}
models:
  m:
    never_sleep: true
    backends: [{address: %s, slots: 100, gpus: 0}]
`

// edition is one of the pilotlights that share a port.
func edition(t *testing.T, listen, backend string) (p *process, adminAddr string) {
	t.Helper()
	adminAddr = freeAddr(t)
	file := filepath.Join(t.TempDir(), "pilotlight.yaml")
	if err := os.WriteFile(file, fmt.Appendf(nil, upgraded, listen, adminAddr, t.TempDir(), backend), 0o600); err != nil {
		t.Fatal(err)
	}
	p = start(t, []string{raceOptions}, binary(t), "serve", "-c", file)
	eventually(t, "pilotlight is ready", func() bool { return get(t.Context(), "http://"+adminAddr+"/readyz", nil) == nil })
	return p, adminAddr
}

func TestAnUpgradeLosesNothing(t *testing.T) {
	backend := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, req *http.Request) {
		body, _ := io.ReadAll(req.Body)
		if strings.Contains(string(body), "stream") {
			for range 20 {
				io.WriteString(w, "data: token\n\n")
				http.NewResponseController(w).Flush()
				select {
				case <-time.After(100 * time.Millisecond):
				case <-req.Context().Done():
				}
			}
		}
		io.WriteString(w, "the end")
	}))
	defer backend.Close()
	listen := freeAddr(t)

	old, _ := edition(t, listen, backend.Listener.Addr().String())
	l := startLoad(t, "http://"+listen+"/v1/chat/completions")
	l.await(t, 1000)
	_, adminAddr := edition(t, listen, backend.Listener.Addr().String())
	l.await(t, 1000)
	old.end(t, syscall.SIGTERM)
	l.await(t, 1000)
	l.stop()

	if failed := l.failed.Load(); failed > 0 {
		t.Errorf("%d of %d requests failed, the first one with: %v", failed, l.done.Load(), l.first.Load())
	}
	var visits []any
	if err := get(t.Context(), "http://"+adminAddr+"/debug/visits", &visits); err != nil || len(visits) == 0 {
		t.Errorf("the new one has answered %d requests, %v", len(visits), err)
	}
	t.Logf("%d requests", l.done.Load())
}

// load is clients that ask one after the other: some on a connection that they keep, some on a new one each time, some for
// streams that take two seconds, and a third of each over HTTP/2. That tells clients which requests it has not taken, and they send those
// again by themselves.
type load struct {
	done, failed atomic.Int64
	first        atomic.Value // of error messages
	stop         func()
}

func startLoad(t *testing.T, url string) *load {
	l := &load{}
	ctx, cancel := context.WithCancel(context.Background())
	var all sync.WaitGroup
	var http2 http.Protocols
	http2.SetUnencryptedHTTP2(true)
	for i := range 18 {
		transport := &http.Transport{DisableKeepAlives: i%2 == 0}
		if i%3 == 0 {
			transport.Protocols = &http2
		}
		client := &http.Client{Transport: transport, Timeout: patience}
		body := `{"model":"m"}`
		if i >= 12 {
			body = `{"model":"m","stream":true}`
		}
		all.Go(func() {
			defer client.CloseIdleConnections()
			for ctx.Err() == nil {
				var reader io.Reader = strings.NewReader(body)
				if transport.Protocols == nil {
					reader = struct{ io.Reader }{reader} // cannot be read twice, so that the client does not try again by itself
				}
				if err := ask(client, url, reader); err != nil {
					l.failed.Add(1)
					l.first.CompareAndSwap(nil, err.Error())
				}
				l.done.Add(1)
			}
		})
	}
	l.stop = func() { cancel(); all.Wait() }
	t.Cleanup(l.stop)
	return l
}

// ask wants a whole answer.
func ask(client *http.Client, url string, body io.Reader) error {
	resp, err := client.Post(url, "application/json", body)
	if err != nil {
		return err
	}
	defer resp.Body.Close()
	text, err := io.ReadAll(resp.Body)
	if err == nil && (resp.StatusCode != http.StatusOK || !strings.HasSuffix(string(text), "the end")) {
		err = fmt.Errorf("%s: %q", resp.Status, text)
	}
	return err
}

// await waits for so many more requests.
func (l *load) await(t *testing.T, more int64) {
	t.Helper()
	until := l.done.Load() + more
	eventually(t, fmt.Sprintf("%d more requests are answered", more), func() bool { return l.done.Load() >= until })
}
