package consul

import (
	"log/slog"
	"strings"
	"testing"
	"time"

	"github.com/hashicorp/consul/api"

	"pilotlight/config"
)

func client(t *testing.T) *Client {
	t.Helper()
	c, err := New(config.Consul{Address: "127.0.0.1:1", Prefix: "pilotlight", Watches: 4}, slog.New(slog.DiscardHandler), nil)
	if err != nil {
		t.Fatal(err)
	}
	return c
}

func TestABadValueKeepsTheLastGoodOne(t *testing.T) {
	c := client(t)
	p := &policies{c: c, prefix: "pilotlight/models/", seen: map[string]policy{}}
	pair := func(index uint64, value string) api.KVPairs {
		return api.KVPairs{{Key: "pilotlight/models/", ModifyIndex: 1}, {Key: "pilotlight/models/org/llama", ModifyIndex: index, Value: []byte(value)}}
	}
	if !p.take(pair(5, "idle_time: 1m"), false) || p.good()["org/llama"].IdleTime != config.Duration(time.Minute) {
		t.Fatalf("got %v", p.good())
	}
	if p.take(pair(5, "idle_time: 1m"), false) {
		t.Error("the same value is a change")
	}
	if p.take(pair(6, "idle_tim: 2m"), false) || p.good()["org/llama"].IdleTime != config.Duration(time.Minute) {
		t.Errorf("a bad value changes something: %v", p.good())
	}
	if all := c.Status().Problems; len(all) != 1 || !strings.Contains(all[0], "pilotlight/models/org/llama:1:1") {
		t.Errorf("problems: %q", all)
	}
	if !p.take(pair(7, "idle_time: 2m"), false) || len(c.Status().Problems) != 0 {
		t.Errorf("a good value after a bad one: %v", c.Status().Problems)
	}
	if p.take(nil, true) || len(p.good()) != 1 {
		t.Error("what a token may not see is gone")
	}
	if !p.take(nil, false) || len(p.good()) != 0 {
		t.Error("a key that was deleted stays")
	}
	p.take(api.KVPairs{{Key: "pilotlight/models/big", ModifyIndex: 9, Value: make([]byte, maxPolicy+1)}}, false)
	if all := c.Status().Problems; len(all) != 1 || !strings.Contains(all[0], "65537 bytes") {
		t.Errorf("problems: %q", all)
	}
}
