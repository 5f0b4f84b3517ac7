package consul

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"maps"
	"math/rand/v2"
	"net"
	"net/http"
	"slices"
	"strconv"
	"strings"
	"sync"
	"time"

	"github.com/hashicorp/consul/api"
)

// The rhythm of registrations. A backend's check is refreshed rarely: that its agent lives, the agent's own check says.
const (
	selfTTL     = 15 * time.Second // of an agent or an edge
	selfBeat    = selfTTL / 3
	selfGone    = 24 * time.Hour // after which Consul forgets an edge that does not come back
	backendTTL  = 5 * time.Minute
	backendBeat = backendTTL / 3
	backendGone = 7 * 24 * time.Hour    // of an agent too
	gather      = 50 * time.Millisecond // changes within this time are sent together
	touchMost   = 64                    // keys in one transaction, which is Consul's limit
)

// Registration keeps one agent with its backends, or one edge, registered.
type Registration struct {
	c    *Client
	self api.AgentServiceRegistration
	node string // of an agent; empty for an edge
	name string // under which backends are registered; empty: their models'

	mu   sync.Mutex // guards what follows
	want map[string]Backend
	set  bool          // want is what there is; before that nothing is known, and nothing is taken away
	kick chan struct{} // capacity 1: want has changed

	// Only Run uses what follows.
	sent  map[string]sent
	up    bool            // self is registered
	swept bool            // what a former run left has been taken away
	tell  map[string]bool // services that changed since the edges were told
}

// sent is what Consul was last told of a backend.
type sent struct {
	api.AgentServiceRegistration
	status, output string
	refresh        time.Time
}

// RegisterAgent makes the registration of an agent. It does nothing until Run.
func (c *Client) RegisterAgent(a Agent) *Registration {
	meta := map[string]string{metaNode: a.Node, metaLink: a.Link, metaVersion: a.Version}
	r := c.registration(AgentService, a.Node, a.Link, meta)
	r.self.Check.DeregisterCriticalServiceAfter = backendGone.String() // for as long as what it left running is known
	r.node, r.name = a.Node, c.cfg.Service
	return r
}

// RegisterEdge makes the registration of an edge. It does nothing until Run.
func (c *Client) RegisterEdge(e Edge) *Registration {
	return c.registration(EdgeService, e.Name, e.Admin, map[string]string{metaEdge: e.Name, metaAdmin: e.Admin, metaVersion: e.Version})
}

func (c *Client) registration(service, name, addr string, meta map[string]string) *Registration {
	id := service + ":" + name
	host, port := split(addr)
	return &Registration{
		c: c, want: map[string]Backend{}, sent: map[string]sent{}, tell: map[string]bool{}, kick: make(chan struct{}, 1),
		self: api.AgentServiceRegistration{
			ID: id, Name: service, Address: host, Port: port, Meta: meta,
			Check: &api.AgentServiceCheck{
				CheckID: checkOf(id), Name: service + " lives", TTL: selfTTL.String(), Status: api.HealthPassing,
				DeregisterCriticalServiceAfter: selfGone.String(),
			},
		},
	}
}

// split takes host:port apart; what is none gives nothing.
func split(addr string) (host string, port int) {
	host, text, err := net.SplitHostPort(addr)
	if err != nil {
		return "", 0
	}
	port, _ = strconv.Atoi(text)
	return host, port
}

// Set says what backends there are now, all of them. It may be called from any goroutine, as often as there is news, and does not wait:
// what changes together is sent together.
func (r *Registration) Set(backends []Backend) {
	r.mu.Lock()
	r.want = make(map[string]Backend, len(backends))
	for _, b := range backends {
		r.want[b.ID] = b
	}
	r.set = true
	r.mu.Unlock()
	select {
	case r.kick <- struct{}{}:
	default:
	}
}

// Run keeps everything registered until ctx ends. Then an edge's registration is taken back. An agent's stays and says that it has ended, as those of its
// backends do, which outlive it: by its address edges know what may be sent to them.
func (r *Registration) Run(ctx context.Context) error {
	defer r.leave(context.WithoutCancel(ctx))
	failures := 0
	next := time.Duration(0)
	for {
		timer := time.NewTimer(next)
		select {
		case <-ctx.Done():
			timer.Stop()
			return context.Cause(ctx)
		case <-r.kick:
			timer.Stop()
			pause(ctx, gather)
		case <-timer.C:
		}
		next = jitter(selfBeat)
		if err := r.send(ctx); err != nil && ctx.Err() == nil {
			failures++
			next = retryAfter(failures, rand.Float64)
			r.c.note("register "+r.self.ID, err.Error())
			continue
		}
		failures = 0
		r.c.note("register "+r.self.ID, "")
	}
}

// jitter is about d: most at once would be a stampede.
func jitter(d time.Duration) time.Duration {
	return d - time.Duration(rand.Float64()*float64(d)/4)
}

// send tells Consul what it does not know yet.
func (r *Registration) send(ctx context.Context) error {
	if r.up {
		err := r.c.pass(ctx, r.self, api.HealthPassing, "")
		if errors.Is(err, errUnknown) {
			r.up = false // Consul has lost its data, and that of the backends with it
			clear(r.sent)
			if !pause(ctx, time.Duration(rand.Float64()*float64(2*time.Second))) { // as all others see just now
				return nil
			}
		} else if err != nil {
			return err
		}
	}
	if !r.up {
		if err := r.c.put(ctx, "register "+r.self.ID, r.self); err != nil {
			return err
		}
		r.up = true
	}
	if r.node == "" {
		return nil
	}
	return r.sendBackends(ctx)
}

// sendBackends tells Consul of the backends what it does not know yet, and touches the keys of services that changed.
func (r *Registration) sendBackends(ctx context.Context) error {
	r.mu.Lock()
	want, set := r.want, r.set
	r.mu.Unlock()
	if !set {
		return nil
	}
	var failed []error
	for _, id := range slices.Sorted(maps.Keys(want)) {
		was := r.sent[id]
		service, err := r.sendBackend(ctx, want[id])
		if err != nil {
			failed = append(failed, err)
		}
		if service != "" {
			r.tell[service] = true
			if was.Name != "" {
				r.tell[was.Name] = true
			}
		}
	}
	failed = append(failed, r.takeAway(ctx, want), r.touch(ctx))
	return errors.Join(failed...)
}

// sendBackend tells Consul of one backend. It gives the service's name if that changed anything.
func (r *Registration) sendBackend(ctx context.Context, b Backend) (changed string, err error) {
	now := time.Now()
	entry := r.entry(b)
	was, known := r.sent[b.ID]
	next := sent{entry, statusOf(b.State), output(b), now.Add(jitter(backendBeat))}
	switch {
	case !known || !equal(was.AgentServiceRegistration, entry):
		fresh := entry
		check := *entry.Check
		check.Status = next.status
		fresh.Check = &check
		if err := r.c.put(ctx, "register "+fresh.ID, fresh); err != nil {
			return "", err
		}
		changed = entry.Name
	case was.status == next.status && was.output == next.output && now.Before(was.refresh):
		return "", nil
	case was.status != next.status: // Consul holds back for minutes what a check says and no more
		changed = entry.Name
	}
	err = r.c.pass(ctx, entry, next.status, next.output)
	if errors.Is(err, errUnknown) {
		delete(r.sent, b.ID)
		return changed, fmt.Errorf("%s is forgotten", b.ID)
	}
	if err == nil {
		r.sent[b.ID] = next
	}
	return changed, err
}

// output is what the check of a backend says: the word for its state first.
func output(b Backend) string {
	if b.Reason == "" {
		return b.State.String()
	}
	return b.State.String() + ": " + b.Reason
}

// entry is how a backend is registered.
func (r *Registration) entry(b Backend) api.AgentServiceRegistration {
	host, port := split(b.Addr)
	meta := map[string]string{
		metaModel: b.Model, metaEngine: string(b.Engine), metaSlots: strconv.Itoa(max(b.Slots, 1)), metaMemory: b.Memory.String(), metaGPUs: strconv.Itoa(b.Width),
		metaNode: b.Node, metaAgent: r.node, metaWake: b.Wake, metaServedAs: b.ServedAs,
	}
	maps.DeleteFunc(meta, func(_, value string) bool { return value == "" })
	return api.AgentServiceRegistration{
		ID: b.ID, Name: cmp.Or(r.name, ServiceName(b.Model)), Address: host, Port: port, Meta: meta,
		Check: &api.AgentServiceCheck{
			CheckID: checkOf(b.ID), Name: "pilotlight: " + b.Model, TTL: backendTTL.String(), DeregisterCriticalServiceAfter: backendGone.String(),
		},
	}
}

// ServiceName is the name under which a model's backends are registered: one that DNS can carry.
func ServiceName(model string) string {
	name := strings.Map(func(r rune) rune {
		switch {
		case r >= 'a' && r <= 'z', r >= '0' && r <= '9':
			return r
		case r >= 'A' && r <= 'Z':
			return r - 'A' + 'a'
		}
		return '-'
	}, model)
	const most = 63 // of a label, RFC 1035 2.3.4
	return cmp.Or(strings.Trim(name[:min(len(name), most)], "-"), "model")
}

func equal(a, b api.AgentServiceRegistration) bool {
	return a.Name == b.Name && a.Address == b.Address && a.Port == b.Port && maps.Equal(a.Meta, b.Meta)
}

// takeAway takes away the registrations of backends that there are no more, those of a former run included.
func (r *Registration) takeAway(ctx context.Context, want map[string]Backend) (err error) {
	stale := map[string]string{} // names of services by ID
	for id, was := range r.sent {
		if _, ok := want[id]; !ok {
			stale[id] = was.Name
		}
	}
	if !r.swept {
		q := request{"look for registrations of a former run", "service:read for services with backends"}
		err = r.c.do(ctx, q, askTime, func(ctx context.Context) error {
			found, err := r.c.api.Agent().ServicesWithFilterOpts(`Meta["`+metaAgent+`"] == `+strconv.Quote(r.node), (&api.QueryOptions{}).WithContext(ctx))
			for id, s := range found {
				if _, ok := want[id]; !ok {
					stale[id] = s.Service
				}
			}
			return err
		})
		r.swept = err == nil
	}
	for id, service := range stale {
		wrong := r.c.deregister(ctx, id, service)
		err = errors.Join(err, wrong)
		if wrong == nil {
			delete(r.sent, id)
			r.tell[service] = true
		}
	}
	return err
}

// errUnknown is Consul's answer for a check that it does not know.
var errUnknown = errors.New("the check is not known")

// put registers a service with its check; what says so.
func (c *Client) put(ctx context.Context, what string, entry api.AgentServiceRegistration) error {
	q := request{what, `service:write for "` + entry.Name + `"`}
	return c.do(ctx, q, askTime, func(ctx context.Context) error {
		return c.api.Agent().ServiceRegisterOpts(&entry, api.ServiceRegisterOpts{}.WithContext(ctx))
	})
}

// pass refreshes a check and says what state there is.
func (c *Client) pass(ctx context.Context, entry api.AgentServiceRegistration, status, output string) error {
	q := request{"refresh the check of " + entry.ID, `service:write for "` + entry.Name + `"`}
	unknown := false
	err := c.do(ctx, q, askTime, func(ctx context.Context) error {
		err := c.api.Agent().UpdateTTLOpts(checkOf(entry.ID), output, status, (&api.QueryOptions{}).WithContext(ctx))
		if code, ok := errors.AsType[api.StatusError](err); ok && (code.Code == http.StatusNotFound || strings.Contains(code.Body, "does not have associated TTL")) {
			unknown = true
			return nil // it did answer
		}
		return err
	})
	if unknown {
		return errUnknown
	}
	return err
}

func (c *Client) deregister(ctx context.Context, id, service string) error {
	q := request{"deregister " + id, `service:write for "` + service + `"`}
	return c.do(ctx, q, askTime, func(ctx context.Context) error {
		err := c.api.Agent().ServiceDeregisterOpts(id, (&api.QueryOptions{}).WithContext(ctx))
		if code, ok := errors.AsType[api.StatusError](err); ok && code.Code == http.StatusNotFound {
			return nil
		}
		return err
	})
}

// touch tells the edges that services have changed, once Consul has been told how.
func (r *Registration) touch(ctx context.Context) error {
	for some := range slices.Chunk(slices.Sorted(maps.Keys(r.tell)), touchMost) {
		var ops api.TxnOps
		for _, service := range some {
			// The value is different each time: a write that changes nothing moves no index.
			ops = append(ops, &api.TxnOp{KV: &api.KVTxnOp{Verb: api.KVSet, Key: r.c.changedPrefix() + service, Value: strconv.AppendInt(nil, time.Now().UnixNano(), 36)}})
		}
		q := request{"tell the edges of a change", `key:write for "` + r.c.changedPrefix() + `"`}
		err := r.c.do(ctx, q, askTime, func(ctx context.Context) error {
			ok, answer, _, err := r.c.api.Txn().Txn(ops, (&api.QueryOptions{}).WithContext(ctx))
			if err == nil && !ok && len(answer.Errors) > 0 {
				err = api.StatusError{Code: http.StatusConflict, Body: answer.Errors[0].What}
			}
			return err
		})
		if err != nil {
			return err
		}
		for _, service := range some {
			delete(r.tell, service)
		}
	}
	return nil
}

// leave says that whoever is registered has ended; Consul would say for a while yet that it lives.
func (r *Registration) leave(ctx context.Context) {
	if !r.up {
		return
	}
	ctx, cancel := context.WithTimeout(ctx, 2*time.Second)
	defer cancel()
	err := error(nil)
	if r.node == "" {
		err = r.c.deregister(ctx, r.self.ID, r.self.Name)
	} else {
		err = errors.Join(r.sendBackends(ctx), r.c.pass(ctx, r.self, api.HealthCritical, "it has ended, and left running what ran"))
	}
	if err != nil {
		r.c.log.Warn("the registration stays until it times out", "error", err)
	}
}

// Withdraw takes back the registrations of an agent and of all its backends, which have ended. It is called once Run has returned.
func (r *Registration) Withdraw(ctx context.Context) error {
	ctx, cancel := context.WithTimeout(ctx, 3*time.Second)
	defer cancel()
	r.swept = false
	return errors.Join(r.takeAway(ctx, nil), r.touch(ctx), r.c.deregister(ctx, r.self.ID, r.self.Name))
}
