package config

import (
	"bytes"
	"reflect"
	"strings"
)

// Consul is where nodes, edges and backends find one another.
type Consul struct {
	// Address is host:port of Consul's HTTP API, that of the Consul agent on this host where there is one. Default 127.0.0.1:8500.
	Address string `yaml:"address"`
	// TokenFile is the path of a file that holds the ACL token. It is read again when it changes. Default: none is sent.
	TokenFile string `yaml:"token_file,omitempty"`
	// TLS makes us speak TLS to Consul. Default: none.
	TLS *BackendTLS `yaml:"tls,omitempty"`
	// Datacenters are those where backends and agents are looked for. We register in that of the Consul agent we speak to.
	// Default: that one alone.
	Datacenters []string `yaml:"datacenters,omitempty"`
	// Namespace is that of Consul Enterprise. Default: the token's own.
	Namespace string `yaml:"namespace,omitempty"`
	// Partition is the admin partition of Consul Enterprise. Default: the Consul agent's own.
	Partition string `yaml:"partition,omitempty"`
	// Prefix is where our keys begin: PREFIX/models, locks, history, changed. Default pilotlight.
	Prefix string `yaml:"prefix"`
	// Service is the name under which this node's backends are registered. Default: that of the model, in lower case and with
	// dashes for what a host name cannot hold.
	Service string `yaml:"service,omitempty"`
	// Services maps names of services to models, or comma-separated ones: for registrations whose meta does not say pilotlight-model.
	Services map[string]string `yaml:"services,omitempty"`
	// Watches is how many services that no agent of ours registered are watched at once, with a connection to Consul each; if
	// there are more they take turns. Consul allows 200 connections from one address by default. Default 64.
	Watches int `yaml:"watches"`
}

func (c *Consul) check(at *place) {
	if given := at.get("address"); given != nil {
		checkAddress(given, c.Address, 1)
	}
	if c.TLS != nil && (c.TLS.Cert == "") != (c.TLS.Key == "") {
		at.below("tls").problem("cert and key come together")
	}
	if prefix := at.below("prefix"); c.Prefix == "" || strings.HasPrefix(c.Prefix, "/") || strings.HasSuffix(c.Prefix, "/") {
		prefix.problem("%s is not a prefix of keys; write one like pilotlight or team/pilotlight", quote(c.Prefix))
	}
	if watches := at.below("watches"); c.Watches == 0 && !watches.bad {
		watches.problem("watches is 0; nothing that others registered would be seen")
	}
	services := at.get("services")
	if services == nil {
		return
	}
	for _, service := range services.pairs() {
		for model := range strings.SplitSeq(c.Services[service.key.Value], ",") {
			if wrong := checkName(strings.TrimSpace(model), maxName); wrong != "" {
				service.problem("%s", wrong)
			}
		}
	}
}

// ParseModel reads one model's policy, in the form it has in the file under its name, from a text called source; an empty one is a
// model with all defaults. Backends are refused: what a node starts stands in that node's own file. The error is Problems.
func ParseModel(source, name string, text []byte) (Model, error) {
	doc := &document{name: source}
	if wrong := checkName(name, maxName); wrong != "" {
		doc.problem(0, 0, "%s", wrong)
		return Model{}, doc.problems
	}
	if len(bytes.TrimSpace(text)) == 0 {
		text = []byte("{}")
	}
	m := DefaultModel(name)
	m.ServedAs = ""
	doc.compose(text)
	if doc.root != nil {
		doc.root.decode(reflect.ValueOf(&m).Elem())
		m.derive(doc.root, name)
		if given := doc.root.get("backends"); given != nil {
			doc.problemAt(given.key, "backends cannot stand here; those that a node starts stand in its own file, others are services in Consul")
		} else {
			m.check(doc.root, Node{})
		}
		checkAliases(doc.root, name, m.Aliases, map[string]int{})
	}
	if len(doc.problems) > 0 {
		return Model{}, doc.sortedProblems()
	}
	return m, nil
}

// DefaultModel is a model of which nothing is known but its name.
func DefaultModel(name string) Model {
	m := Model{}
	setDefaults(&m)
	m.ServedAs = name
	return m
}
