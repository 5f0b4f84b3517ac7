package config

import (
	"fmt"
	"net/url"
	"path/filepath"
	"strings"
)

// ways are the keys of what runs a model server for us. A backend has one of them, or an address alone.
func ways() []string { return []string{"process", "nomad", "kubernetes", "docker"} }

// checkWay: exactly one way leads to a backend. A process of ours says itself where it listens.
func checkWay(at *place) {
	has := ""
	for _, way := range ways() {
		switch given := at.get(way); {
		case given == nil:
		case has != "":
			given.problem("the backend has %s already; it takes one of %s", has, strings.Join(ways(), ", "))
		default:
			has = way
		}
	}
	address := at.get("address")
	switch {
	case has == "" && address == nil && !at.bad:
		at.problem("the backend needs one of %s, or an address", strings.Join(ways(), ", "))
	case has == "process" && address != nil:
		address.problem("the backend has a process already; it takes either a process or an address")
	}
}

// checkOrchestrators looks at what runs the model server in our place.
func (b *Backend) checkOrchestrators(at *place) {
	if b.Nomad != nil {
		b.Nomad.check(at.below("nomad"), b.Address)
	}
	if b.Kubernetes != nil {
		b.Kubernetes.check(at.below("kubernetes"), b.Address)
	}
	if b.Docker != nil {
		b.Docker.check(at.below("docker"))
		if b.Docker.Action == DockerPause && b.GPUs > 0 && b.Memory > 0 {
			at.below("docker", "action").problem("a paused container keeps its GPU memory; use stop, or gpus: 0 for one that has none")
		}
	}
	stops := b.Nomad != nil || b.Kubernetes != nil || b.Docker != nil
	if stop := at.below("hooks").get("stop"); stop != nil && stops {
		stop.problem("hooks.stop is not needed: what starts the backend stops it, too")
	}
}

func (n *Nomad) check(at *place, address string) {
	if n.Job == "" {
		at.problemIn("job", "job names no job")
	}
	checkAPI(at.below("address"), n.Address, "http://127.0.0.1:4646", "http", "https")
	checkCount(at, n.Count, "the backend's address", address != "")
	n.TLS.checkOf(at, n.Address)
}

func (k *Kubernetes) check(at *place, address string) {
	named := ""
	for _, key := range []string{"deployment", "stateful_set", "target"} {
		switch given := at.get(key); {
		case given == nil:
		case named != "":
			given.problem("%s is scaled already; one of deployment, stateful_set and target is", named)
		default:
			named = key
			if given.node.Value == "" {
				given.problem("%s names nothing", key)
			}
		}
	}
	if named == "" && !at.bad {
		at.problem("kubernetes needs one of deployment, stateful_set and target")
	}
	if k.Target != "" {
		if _, _, _, _, err := k.Scaled(); err != nil {
			at.problemIn("target", "%s", err)
		}
	}
	checkCount(at, k.Count, "service or the backend's address", k.Service != "" || address != "")
	if given := at.get("context"); given != nil && k.Kubeconfig == "" {
		given.problem("context means nothing without kubeconfig")
	}
	if given := at.get("port"); given != nil && address != "" {
		given.problem("port means nothing where the backend has an address")
	}
}

// Scaled is what is scaled, in the API's terms.
func (k *Kubernetes) Scaled() (group, version, resource, name string, err error) {
	switch {
	case k.Deployment != "":
		return "apps", "v1", "deployments", k.Deployment, nil
	case k.StatefulSet != "":
		return "apps", "v1", "statefulsets", k.StatefulSet, nil
	}
	part := strings.Split(k.Target, "/")
	for _, p := range part {
		if p == "" || p != url.PathEscape(p) {
			part = nil
		}
	}
	if len(part) != 4 {
		return "", "", "", "", fmt.Errorf("%s is not group/version/resource/name, as in apps/v1/deployments/llama", quote(k.Target))
	}
	return part[0], part[1], part[2], part[3], nil
}

func (d *Docker) check(at *place) {
	if d.Container == "" {
		at.problemIn("container", "container names no container")
	}
	if path, ok := strings.CutPrefix(d.Host, "unix://"); ok {
		if !filepath.IsAbs(path) {
			at.problemIn("host", "%s has no absolute path; write one like unix:///var/run/docker.sock", quote(d.Host))
		}
	} else {
		checkAPI(at.below("host"), d.Host, "unix:///var/run/docker.sock, tcp://127.0.0.1:2375", "tcp", "http", "https")
	}
	if d.Port > 65535 {
		at.below("port").problem("port is %d; it must be 65535 at most", d.Port)
	}
	d.TLS.checkOf(at, d.Host)
}

// checkAPI: api is the base of an HTTP API, with nothing in it that would be lost, or that must not be in the file.
func checkAPI(at *place, api, like string, schemes ...string) {
	u, err := url.Parse(api)
	known := false
	for _, scheme := range schemes {
		known = known || err == nil && u.Scheme == scheme
	}
	switch {
	case !known || u.Hostname() == "" || u.RawQuery != "" || u.Fragment != "":
		at.problem("%s is not the address of an API; write one like %s", quote(api), like)
	case u.User != nil:
		at.problem("a password does not belong in the file")
	}
}

func checkCount(at *place, count int, needs string, has bool) {
	switch at := at.below("count"); {
	case count == 0:
		at.problem("count is 0; a backend that is awake has at least one")
	case count > 1 && !has:
		at.problem("count is %d; more than one needs %s, behind which they stand", count, needs)
	}
}

// checkOf: what is said of TLS to an API that speaks it.
func (t *BackendTLS) checkOf(at *place, api string) {
	if t == nil {
		return
	}
	at = at.below("tls")
	if !strings.HasPrefix(api, "https://") {
		at.problem("tls is for an https address; this one is %s", quote(api))
	}
	if (t.Cert == "") != (t.Key == "") {
		at.problem("cert and key come together")
	}
}

// checkShared: two backends that are one to their orchestrator would stop each other.
func (c *Config) checkShared(at *place) {
	lines := map[string]int{}
	for name, at := range at.models() {
		backends := at.below("backends")
		for i, b := range c.Models[name].Backends {
			at, what := backends.item(i), ""
			switch {
			case b.Nomad != nil && b.Nomad.Job != "":
				n := b.Nomad
				at, what = at.below("nomad", "job"), fmt.Sprint("group ", quote(n.Group), " of job ", quote(n.Job), n.Address, n.Region, n.Namespace)
			case b.Kubernetes != nil:
				k := b.Kubernetes
				group, version, resource, name, err := k.Scaled()
				if err != nil {
					continue
				}
				at, what = at.below("kubernetes"), fmt.Sprint(k.Kubeconfig, k.Context, "/", k.Namespace, "/", group, version, resource, "/", name)
			case b.Docker != nil && b.Docker.Container != "":
				at, what = at.below("docker", "container"), fmt.Sprint(b.Docker.Host, " ", b.Docker.Container)
			default:
				continue
			}
			if line, twice := lines[what]; twice {
				at.problem("the backend on line %d runs there already; two would stop each other", line)
			} else {
				lines[what] = at.mark().Line
			}
		}
	}
}
