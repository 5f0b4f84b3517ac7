package consul

import (
	"bytes"
	"encoding/json"
	"errors"
	"io"
	"log/slog"
	"net/http"
	"slices"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/hashicorp/consul/api"
	"golang.org/x/time/rate"

	"pilotlight/config"
)

// fake is as much of Consul's API as discovery needs, inside the process, so that its times are those of a bubble. What Consul
// itself does is tested with the real one.
type fake struct {
	mu       sync.Mutex // guards what follows
	index    uint64
	services map[string][]*api.ServiceEntry
	indexes  map[string]uint64 // of services
	keys     api.KVPairs
	names    uint64 // index of the list of services
	kv       uint64 // index of the keys
	away     bool
	filtered bool
	slow     time.Duration // that it takes to answer with values
	asked    []string      // paths
	changed  chan struct{}
}

func newFake() *fake {
	return &fake{index: 10, names: 10, kv: 10, services: map[string][]*api.ServiceEntry{}, indexes: map[string]uint64{}, changed: make(chan struct{})}
}

// client is a client of f.
func (f *fake) client(t *testing.T, change func(*config.Consul)) *Client {
	t.Helper()
	cfg := config.Consul{Address: "127.0.0.1:8500", Prefix: "pilotlight", Watches: 4}
	if change != nil {
		change(&cfg)
	}
	c, err := New(cfg, slog.New(slog.DiscardHandler), nil)
	if err != nil {
		t.Fatal(err)
	}
	c.rate = rate.NewLimiter(askRate, askBurst)
	c.api, err = api.NewClient(&api.Config{Address: cfg.Address, HttpClient: &http.Client{Transport: f}})
	if err != nil {
		t.Fatal(err)
	}
	return c
}

// do changes f and lets those who wait look.
func (f *fake) do(change func()) {
	f.mu.Lock()
	defer f.mu.Unlock()
	change()
	close(f.changed)
	f.changed = make(chan struct{})
}

// set registers the instances of a service; none takes it away.
func (f *fake) set(service string, entries ...*api.ServiceEntry) {
	f.do(func() {
		f.index++
		if _, known := f.services[service]; !known || len(entries) == 0 {
			f.names = f.index
		}
		f.services[service], f.indexes[service] = entries, f.index
		if len(entries) == 0 {
			delete(f.services, service)
		}
	})
}

func (f *fake) touch(service string) {
	f.do(func() {
		f.index++
		f.kv = f.index
		key := "pilotlight/changed/" + service
		f.keys = slices.DeleteFunc(f.keys, func(p *api.KVPair) bool { return p.Key == key })
		f.keys = append(f.keys, &api.KVPair{Key: key, ModifyIndex: f.index})
	})
}

// RoundTrip answers as Consul does: at once if the index is above that of the query, else when it is, or when the time is up.
func (f *fake) RoundTrip(r *http.Request) (*http.Response, error) {
	query := r.URL.Query()
	wanted, _ := strconv.ParseUint(query.Get("index"), 10, 64)
	wait, _ := time.ParseDuration(query.Get("wait"))
	f.mu.Lock()
	f.asked = append(f.asked, r.URL.Path)
	f.mu.Unlock()
	limit := time.After(wait)
	for {
		f.mu.Lock()
		away, changed := f.away, f.changed
		index, body := f.read(r.URL.Path)
		if query.Has("keys") {
			body = f.keyNames()
		}
		filtered, slow := f.filtered, f.slow
		f.mu.Unlock()
		if away {
			return nil, errors.New("connection refused")
		}
		if index <= wanted && wanted > 0 {
			select {
			case <-changed:
				continue
			case <-limit:
			case <-r.Context().Done():
				return nil, r.Context().Err()
			}
		}
		if slow > 0 && strings.HasPrefix(r.URL.Path, "/v1/kv/") && !query.Has("keys") {
			select {
			case <-time.After(slow):
			case <-r.Context().Done():
				return nil, r.Context().Err()
			}
		}
		text, err := json.Marshal(body)
		if err != nil {
			return nil, err
		}
		header := http.Header{"X-Consul-Index": {strconv.FormatUint(index, 10)}, "X-Consul-Lastcontact": {"0"}, "X-Consul-Knownleader": {"true"}}
		if filtered {
			header.Set("X-Consul-Results-Filtered-By-Acls", "true")
		}
		return &http.Response{StatusCode: http.StatusOK, Header: header, Body: io.NopCloser(bytes.NewReader(text)), Request: r}, nil
	}
}

// read is what stands under a path. f.mu is held.
func (f *fake) read(path string) (index uint64, body any) {
	switch name, ok := strings.CutPrefix(path, "/v1/health/service/"); {
	case ok:
		index = max(f.indexes[name], 1)
		if entries := f.services[name]; entries != nil {
			return index, entries
		}
		return index, []string{}
	case path == "/v1/catalog/services":
		names := map[string][]string{"consul": {}}
		for name := range f.services {
			names[name] = []string{}
		}
		return f.names, names
	case strings.HasPrefix(path, "/v1/kv/"):
		return f.kv, f.keys
	}
	panic("the fake Consul does not know " + path)
}

// keyNames are those of all keys. f.mu is held.
func (f *fake) keyNames() []string {
	all := []string{}
	for _, pair := range f.keys {
		all = append(all, pair.Key)
	}
	return all
}

// counted is how often a path was asked for since the last call.
func (f *fake) counted(path string) (n int) {
	f.mu.Lock()
	defer f.mu.Unlock()
	for _, asked := range f.asked {
		if asked == path {
			n++
		}
	}
	f.asked = nil
	return n
}
