package main_test

import (
	"context"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/http"
	"net/http/httptest"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"pilotlight/config"
	"pilotlight/loadtest/realconsul"
	"pilotlight/router"
	"pilotlight/router/consul"
	"pilotlight/warmpool"
	"pilotlight/warmpool/launch"
)

// contested is a container's engine with one container, and that container's model server, too.
type contested struct {
	*httptest.Server

	mu      sync.Mutex
	running bool
	starts  int
}

func newContested() *contested {
	c := &contested{}
	c.Server = httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		c.mu.Lock()
		defer c.mu.Unlock()
		switch {
		case r.URL.Path == "/v1.40/containers/m/json":
			fmt.Fprintf(w, `{"Id":"m","State":{"Running":%v,"Status":"exited","StartedAt":"then"}}`, c.running)
		case r.URL.Path == "/v1.40/containers/m/start":
			c.running, c.starts = true, c.starts+1
		case r.URL.Path == "/v1.40/containers/m/stop":
			c.running = false
		case r.URL.Path == "/health" && !c.running:
			http.Error(w, "stopped", http.StatusServiceUnavailable)
		}
	}))
	return c
}

// wire carries connections to Consul until it is cut.
type wire struct {
	listener net.Listener
	to       string

	mu    sync.Mutex
	cut   bool
	conns []net.Conn
}

func newWire(t *testing.T, to string) *wire {
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	w := &wire{listener: listener, to: to}
	t.Cleanup(func() { listener.Close() })
	go func() {
		for {
			from, err := listener.Accept()
			if err != nil {
				return
			}
			go w.carry(from)
		}
	}()
	return w
}

func (w *wire) carry(from net.Conn) {
	defer from.Close()
	to, err := net.Dial("tcp", w.to)
	if err != nil {
		return
	}
	defer to.Close()
	w.mu.Lock()
	w.conns = append(w.conns, from, to)
	cut := w.cut
	w.mu.Unlock()
	if !cut {
		go io.Copy(to, from)
		io.Copy(from, to)
	}
}

func (w *wire) Cut() {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.cut = true
	for _, c := range w.conns {
		c.Close()
	}
}

// quiet is an edge with nothing in flight.
type quiet struct{}

func (quiet) Observe(router.Node)                   {}
func (quiet) Use(string) router.Use                 { return router.Use{} }
func (quiet) Drained(context.Context, string) error { return nil }
func (quiet) Read(string, router.Readings)          {}

// TestTwoAgentsElectTheOwnerInConsul: of two agents one wakes the backend that is on no node; when it is cut off from Consul it stops before
// the other begins, which finds what runs.
func TestTwoAgentsElectTheOwnerInConsul(t *testing.T) {
	ctx, stop := context.WithCancel(t.Context())
	defer stop()
	cluster, err := realconsul.Start(ctx, realconsul.Options{Dir: t.TempDir()})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = cluster.Close() })
	engine := newContested()
	t.Cleanup(engine.Close)
	_, port, _ := strings.Cut(engine.Listener.Addr().String(), ":")

	type event struct {
		who    string
		keeper *warmpool.Keeper // nil: it has ended
		at     time.Time
	}
	events := make(chan event, 8)
	wires := map[string]*wire{}
	var agents sync.WaitGroup
	for _, who := range []string{"a", "b"} {
		wires[who] = newWire(t, cluster.Servers[0].Addr)
		client, err := consul.New(config.Consul{Address: wires[who].listener.Addr().String(), Prefix: "pilotlight"}, slog.New(slog.DiscardHandler), prometheus.NewRegistry())
		if err != nil {
			t.Fatal(err)
		}
		state := t.TempDir()
		backend := config.Backend{
			Name: "m-0", Slots: 1, Engine: config.HTTP, Ready: "/health", Stall: config.Duration(time.Minute), Address: "127.0.0.1:" + port,
			Docker: &config.Docker{Container: "m", Host: "http://127.0.0.1:" + port},
		}
		models := map[string]config.Model{"m": {IdleTime: config.Duration(time.Hour), Backends: []config.Backend{backend}}}
		agents.Go(func() {
			err := warmpool.Elect(ctx, client, "nodes/shared", who, func(ctx context.Context) error {
				learned, err := warmpool.LoadLearned(state + "/learned.json")
				if err != nil {
					return err
				}
				k := warmpool.New(config.Node{Name: "shared"}, models, quiet{}, func(_ string, m config.Model, b config.Backend) warmpool.Launcher {
					return launch.New(launch.Spec{ID: b.Name, ServedAs: "m", Backend: b, StateDir: state, Log: slog.New(slog.DiscardHandler)})
				}, learned, slog.New(slog.DiscardHandler))
				events <- event{who, k, time.Now()}
				defer func() { events <- event{who: who, at: time.Now()} }()
				return k.Run(ctx)
			})
			if err != nil {
				t.Error(err)
			}
		})
	}
	defer agents.Wait()
	defer stop()

	first := <-events
	if err := first.keeper.Wake(ctx, "m-0"); err != nil {
		t.Fatal(err)
	}
	cut := time.Now()
	wires[first.who].Cut()
	ended, second := <-events, <-events
	if ended.keeper != nil || ended.who != first.who || second.keeper == nil || second.who == first.who {
		t.Fatalf("%s was cut off; then came %+v and %+v, want its end and then the other", first.who, ended, second)
	}
	t.Logf("the owner ended after %v, the other took over after %v", ended.at.Sub(cut), second.at.Sub(cut))
	if err := first.keeper.Wake(ctx, "m-0"); err == nil {
		t.Error("an owner that is none any more still wakes")
	}
	if err := second.keeper.Wake(ctx, "m-0"); err != nil {
		t.Error(err)
	}
	engine.mu.Lock()
	defer engine.mu.Unlock()
	if engine.starts != 1 {
		t.Errorf("it was started %d times, want once: the next owner finds it running", engine.starts)
	}
}
