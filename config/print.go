package config

import (
	"crypto/sha256"
	"encoding/hex"
	"io"
	"maps"
	"slices"

	"go.yaml.in/yaml/v4"
)

// Print writes the whole configuration as YAML, defaults filled in and secrets masked.
func (c *Config) Print(w io.Writer) error {
	_, err := io.WriteString(w, c.String())
	return err
}

// String is what Print writes.
func (c *Config) String() string { return string(dump(c)) }

// MarshalYAML masks the secrets, so that no printing of a configuration can show them.
func (c *Config) MarshalYAML() (any, error) { return (*open)(c.masked()), nil }

// Hash is a short name of the configuration: equal for files that mean the same, whatever their comments and layout.
// A changed secret changes it.
func (c *Config) Hash() string {
	sum := sha256.Sum256(dump((*open)(c)))
	return hex.EncodeToString(sum[:6])
}

// open is a configuration that prints with its secrets.
type open Config

func dump(v any) []byte {
	text, err := yaml.Dump(v, yaml.WithLineWidth(-1))
	if err != nil {
		panic("BUG: a configuration cannot be written as YAML: " + err.Error())
	}
	return text
}

// masked is a copy whose environments show no secrets.
func (c *Config) masked() *Config {
	masked := *c
	masked.Models = maps.Clone(c.Models)
	for name, m := range masked.Models {
		m.Backends = slices.Clone(m.Backends)
		for i := range m.Backends {
			if m.Backends[i].Process != nil {
				m.Backends[i].Process = m.Backends[i].Process.masked()
			}
		}
		masked.Models[name] = m
	}
	return &masked
}

func (p *Process) masked() *Process {
	masked := *p
	masked.Env = maps.Clone(p.Env)
	for key := range masked.Env {
		if looksSecret(key) {
			masked.Env[key] = secret
		}
	}
	return &masked
}
