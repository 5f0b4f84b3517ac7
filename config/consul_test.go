package config

import (
	"encoding/json"
	"reflect"
	"strings"
	"testing"
	"time"
)

func TestAModelCanStandAlone(t *testing.T) {
	m, err := ParseModel("pilotlight/models/llama", "llama", []byte("idle_time: 1m\naliases: [gpt-4]\noverflow: {url: 'https://api.example.com/v1'}\n"))
	if err != nil {
		t.Fatal(err)
	}
	if m.IdleTime != Duration(time.Minute) || m.ServedAs != "llama" || m.Overflow.Model != "llama" || m.Line.Requests != 1000 {
		t.Errorf("got %+v", m)
	}
	if m, err := ParseModel("pilotlight/models/llama", "llama", []byte(" \n")); err != nil || m.IdleTime != DefaultModel("llama").IdleTime {
		t.Errorf("a model with all defaults: %+v, %v", m, err)
	}
}

func TestWhatAModelAloneMayNotSay(t *testing.T) {
	for text, want := range map[string]string{
		"backends: [{address: '127.0.0.1:1'}]":   "llama:1:1: backends cannot stand here",
		"backends: [{process: {command: [sh]}}]": "llama:1:1: backends cannot stand here",
		"idle_tim: 1m":                           `did you mean "idle_time"?`,
		"idle_time: 1 minute":                    "is not a duration",
		"aliases: [llama]":                       `"llama" is the model's own name`,
		"answer: {total: 0s}":                    "answer.total is 0s",
		"- a\n- b":                               "takes keys, not a list",
		"{":                                      "this is not YAML",
		"\x00":                                   "cannot stand in the file",
		"a: &a [*a, *a]":                         "",
		"idle_time: 1m\n---\nidle_time: 2m":      "a second document starts here",
		strings.Repeat("# "+"x", maxFile/2) + "": "larger than 1MiB",
	} {
		_, err := ParseModel("llama", "llama", []byte(text))
		if err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%.40q: got %v, want %q in it", text, err, want)
		}
	}
	if _, err := ParseModel("pilotlight/models/", "", nil); err == nil || !strings.Contains(err.Error(), "a name cannot be empty") {
		t.Errorf("a model without a name: %v", err)
	}
}

func TestWithConsulAFileNeedsNoModels(t *testing.T) {
	cfg := parse(t, "consul: {address: '127.0.0.1:9500'}")
	if c := cfg.Consul; c.Address != "127.0.0.1:9500" || c.Prefix != "pilotlight" || c.Watches != 64 || len(cfg.Models) != 0 {
		t.Errorf("got %+v", cfg)
	}
	parse(t, "consul: {}\nmodels: {llama: {min: 1}}")
}

// TestAModelPassesThroughJSON holds what agents and edges rely on, who tell each other of models.
func TestAModelPassesThroughJSON(t *testing.T) {
	cfg, err := Load("testdata/every-key.yaml")
	if err != nil {
		t.Fatal(err)
	}
	for name, want := range cfg.Models {
		text, err := json.Marshal(want)
		if err != nil {
			t.Fatal(err)
		}
		var got Model
		if err := json.Unmarshal(text, &got); err != nil || !reflect.DeepEqual(got, want) {
			t.Errorf("%s: %v; got %+v, want %+v", name, err, got, want)
		}
	}
}
