package consul

import (
	"cmp"
	"fmt"
	"net"
	"strconv"
	"strings"

	"github.com/hashicorp/consul/api"

	"pilotlight/config"
	"pilotlight/router"
)

// defaultSlots are those of a registration that does not say.
const defaultSlots = 8

// read makes backends of one registered instance: one for each model it serves, none where it serves no model. What is wrong with
// the registration comes as the second value; what is right of it is used all the same.
func read(e *api.ServiceEntry, services map[string]string) (backends []Backend, wrong string) {
	meta := e.Service.Meta
	models := names(cmp.Or(meta[metaModel], services[e.Service.Service]))
	if len(models) == 0 {
		return nil, ""
	}
	node := cmp.Or(meta[metaNode], e.Node.Node)
	b := Backend{Agent: meta[metaAgent], Wake: meta[metaWake], ServedAs: meta[metaServedAs]}
	b.Node, b.Engine, b.Slots = node, config.HTTP, defaultSlots
	b.ID = e.Service.ID
	if b.Agent == "" {
		b.ID = e.Node.Node + "/" + e.Service.ID
	}
	if e.Service.Port > 0 {
		b.Addr = net.JoinHostPort(cmp.Or(e.Service.Address, e.Node.Address), strconv.Itoa(e.Service.Port))
	}
	wrong = b.readMeta(meta)
	b.State, b.Reason = b.judge(e.Checks)
	if b.Addr == "" && b.State == router.Ready {
		b.State, b.Reason, wrong = router.Failed, "it is registered without a port", "it has no port"
	}
	b.Tier = tier(b.State)
	for _, model := range models {
		one := b
		one.Model = model
		if len(models) > 1 {
			one.ID += ":" + model
		}
		backends = append(backends, one)
	}
	return backends, wrong
}

// tier is where the weights of a backend are that is in the given state, as far as that can be told from outside.
func tier(s router.State) router.Tier {
	if s == router.Ready {
		return router.OnGPU
	}
	return router.OnDisk
}

// names takes a comma-separated list apart.
func names(list string) (names []string) {
	for name := range strings.SplitSeq(list, ",") {
		if name = strings.TrimSpace(name); name != "" {
			names = append(names, name)
		}
	}
	return names
}

// readMeta takes over what the meta says, and says what of it is not understood.
func (b *Backend) readMeta(meta map[string]string) (wrong string) {
	if s := meta[metaEngine]; s != "" && b.Engine.UnmarshalText([]byte(s)) != nil {
		wrong, b.Engine = fmt.Sprintf("%s is %q", metaEngine, s), config.HTTP
	}
	if s := meta[metaMemory]; s != "" && b.Memory.UnmarshalText([]byte(s)) != nil {
		wrong = fmt.Sprintf("%s is %q", metaMemory, s)
	}
	if s := meta[metaSlots]; s != "" {
		if n, err := strconv.Atoi(s); err == nil && n > 0 {
			b.Slots = n
		} else {
			wrong = fmt.Sprintf("%s is %q", metaSlots, s)
		}
	}
	if s := meta[metaGPUs]; s != "" {
		if n, err := strconv.Atoi(s); err == nil && n >= 0 {
			b.Width = n
		} else {
			wrong = fmt.Sprintf("%s is %q", metaGPUs, s)
		}
	}
	return wrong
}

// What Consul calls its own checks.
const (
	nodeMaintenance    = "_node_maintenance"
	serviceMaintenance = "_service_maintenance:"
)

// judge says from the checks of a backend which state it is in, and why. It sets Hold and Silent on the way.
func (b *Backend) judge(checks api.HealthChecks) (router.State, string) {
	var own, worst *api.HealthCheck
	for _, check := range checks {
		switch {
		case check.CheckID == nodeMaintenance || strings.HasPrefix(check.CheckID, serviceMaintenance):
			b.Hold = "in maintenance"
			if check.Notes != "" {
				b.Hold += ": " + check.Notes
			}
		case check.ServiceID == "" && check.Status == api.HealthCritical:
			return router.Failed, fmt.Sprintf("its node fails the check %s", check.CheckID)
		case check.CheckID == checkOf(check.ServiceID) && b.Agent != "":
			own = check
		case worst == nil || severity(check.Status) > severity(worst.Status):
			worst = check
		}
	}
	switch {
	case b.Hold != "":
		return router.Draining, b.Hold
	case b.Agent != "" && own != nil:
		return b.lastWord(own)
	case worst == nil || worst.Status == api.HealthPassing:
		return router.Ready, ""
	case worst.Status == api.HealthWarning && b.Wake != "":
		return router.Asleep, worst.Output
	case worst.Status == api.HealthWarning:
		return router.Ready, worst.Output
	}
	return router.Failed, fmt.Sprintf("it fails the check %s: %s", cmp.Or(worst.Name, worst.CheckID), worst.Output)
}

// severity orders the states of checks.
func severity(status string) int {
	switch status {
	case api.HealthPassing:
		return 0
	case api.HealthWarning:
		return 1
	}
	return 2
}

// Consul's words for a check whose owner was not heard of in time.
const (
	expired  = "TTL expired"
	lastSaid = "(last output before timeout follows): "
)

// lastWord is the state that an agent last gave to its backend's check. That the agent is silent changes nothing about the model
// server, which outlives it.
func (b *Backend) lastWord(check *api.HealthCheck) (router.State, string) {
	output := check.Output
	if strings.HasPrefix(output, expired) {
		b.Silent = true
		_, output, _ = strings.Cut(output, lastSaid)
	}
	word, reason, _ := strings.Cut(output, ": ")
	for s := router.Stopped; s <= router.Failed; s++ {
		if s.String() == word && (b.Silent || statusOf(s) == check.Status) {
			return s, reason
		}
	}
	switch {
	case b.Silent:
		return router.Stopped, "nothing is known of it: its agent is silent"
	case check.Status == api.HealthPassing:
		return router.Ready, ""
	case check.Status == api.HealthWarning:
		return router.Stopped, ""
	}
	return router.Failed, output
}

// statusOf is how a check mirrors a state.
func statusOf(s router.State) string {
	switch s {
	case router.Ready:
		return api.HealthPassing
	case router.Failed:
		return api.HealthCritical
	case router.Stopped, router.Asleep, router.Waking, router.Draining:
	}
	return api.HealthWarning
}

// checkOf is the ID of the check by which an agent mirrors a backend's state, an agent or an edge says that it lives.
func checkOf(serviceID string) string { return "service:" + serviceID }
