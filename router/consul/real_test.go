package consul

import (
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/pem"
	"log/slog"
	"math/big"
	"net"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/hashicorp/consul/api"

	"pilotlight/config"
	"pilotlight/loadtest/realconsul"
	"pilotlight/router"
)

// start runs a real Consul for the length of a test.
func start(t *testing.T, o realconsul.Options) *realconsul.Cluster {
	t.Helper()
	o.Dir = t.TempDir()
	cluster, err := realconsul.Start(t.Context(), o)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := cluster.Close(); err != nil {
			t.Error(err)
		}
	})
	return cluster
}

// to is a client of a real server.
func to(t *testing.T, addr string, change func(*config.Consul)) *Client {
	t.Helper()
	cfg := config.Consul{Address: addr, Prefix: "pilotlight", Watches: 8}
	if change != nil {
		change(&cfg)
	}
	c, err := New(cfg, slog.New(slog.DiscardHandler), nil)
	if err != nil {
		t.Fatal(err)
	}
	return c
}

// seen keeps the last catalogue of a Watch that goes on for the length of the test.
type seen struct {
	mu   sync.Mutex
	last *Catalogue
	news chan struct{} // closed at the next one
}

func watching(t *testing.T, c *Client) *seen {
	t.Helper()
	s := &seen{news: make(chan struct{})}
	background(t, func(ctx context.Context) {
		_ = c.Watch(ctx, func(next *Catalogue) {
			s.mu.Lock()
			defer s.mu.Unlock()
			s.last = next
			close(s.news)
			s.news = make(chan struct{})
		})
	})
	return s
}

// background runs f until the test ends, or stop is called.
func background(t *testing.T, f func(context.Context)) (stop func()) {
	t.Helper()
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan struct{})
	go func() {
		defer close(done)
		f(ctx)
	}()
	stop = func() { cancel(); <-done }
	t.Cleanup(stop)
	return stop
}

// await waits for a catalogue as wanted.
func (s *seen) await(t *testing.T, what string, wanted func(*Catalogue) bool) {
	t.Helper()
	limit := time.After(time.Minute)
	for {
		s.mu.Lock()
		last, news := s.last, s.news
		s.mu.Unlock()
		if last != nil && wanted(last) {
			return
		}
		select {
		case <-news:
		case <-limit:
			t.Fatalf("%s: not within a minute; the last catalogue: %+v", what, last)
		}
	}
}

// state is that of a backend, -1 where it is not there.
func (c *Catalogue) state(id string) int {
	for _, backends := range c.Nodes {
		for _, b := range backends {
			if b.ID == id {
				return int(b.State)
			}
		}
	}
	return -1
}

func is(id string, s router.State) func(*Catalogue) bool {
	return func(c *Catalogue) bool { return c.state(id) == int(s) }
}

func backend(node, name, model string, state router.State) Backend {
	return Backend{Backend: router.Backend{
		ID: node + "/" + name, Model: model, Node: node, Addr: "127.0.0.1:8000", Engine: config.VLLM, Slots: 4, Width: 1, Memory: config.GiB, State: state,
	}, Agent: node}
}

func TestAFleetFindsItselfInARealConsul(t *testing.T) {
	t.Parallel()
	cluster := start(t, realconsul.Options{})
	c := to(t, cluster.Servers[0].Addr, nil)
	w := watching(t, c)
	agent := c.RegisterAgent(Agent{Node: "n1", Link: "127.0.0.1:7001", Version: "test"})
	stop := background(t, func(ctx context.Context) { _ = agent.Run(ctx) })
	edge := c.RegisterEdge(Edge{Name: "e1", Admin: "127.0.0.1:8081"})
	background(t, func(ctx context.Context) { _ = edge.Run(ctx) })

	agent.Set([]Backend{backend("n1", "llama-0", "org/Llama", router.Stopped), backend("n1", "qwen-0", "qwen", router.Ready)})
	w.await(t, "registered", func(c *Catalogue) bool {
		return c.state("n1/llama-0") == int(router.Stopped) && c.state("n1/qwen-0") == int(router.Ready) && c.Agents["n1"].Alive && c.Edges["e1"].Alive
	})
	b := w.last.Nodes["n1"][0]
	if b.Model != "org/Llama" || b.Addr != "127.0.0.1:8000" || b.Engine != config.VLLM || b.Slots != 4 || b.Width != 1 || b.Memory != config.GiB || b.Agent != "n1" {
		t.Errorf("got %+v", b)
	}
	for _, s := range []router.State{router.Ready, router.Failed, router.Ready} {
		agent.Set([]Backend{backend("n1", "llama-0", "org/Llama", s), backend("n1", "qwen-0", "qwen", router.Ready)})
		w.await(t, s.String(), is("n1/llama-0", s))
	}
	moved := backend("n1", "llama-0", "org/Llama", router.Ready)
	moved.Addr = "127.0.0.1:8001"
	agent.Set([]Backend{moved})
	w.await(t, "one moved, one taken away", func(c *Catalogue) bool {
		return c.state("n1/qwen-0") == -1 && c.state("n1/llama-0") == int(router.Ready) && c.Nodes["n1"][0].Addr == "127.0.0.1:8001"
	})
	if err := cluster.API(0).Agent().EnableServiceMaintenance("n1/llama-0", "new fans"); err != nil {
		t.Fatal(err)
	}
	// Nobody touches a key for this: it is seen when the service is looked at again, for whatever reason.
	if _, err := cluster.API(0).KV().Put(&api.KVPair{Key: "pilotlight/changed/org-llama", Value: []byte("now")}, nil); err != nil {
		t.Fatal(err)
	}
	w.await(t, "in maintenance", func(c *Catalogue) bool {
		return c.state("n1/llama-0") == int(router.Draining) && c.Nodes["n1"][0].Hold == "in maintenance: new fans"
	})
	stop()
	w.await(t, "its agent left", func(c *Catalogue) bool {
		a, there := c.Agents["n1"]
		return there && !a.Alive && a.Link == "127.0.0.1:7001" && c.Nodes["n1"][0].Silent
	})

	// A next run of the agent finds what the last one left and it has no more.
	next := c.RegisterAgent(Agent{Node: "n1", Link: "127.0.0.1:7001"})
	stop = background(t, func(ctx context.Context) { _ = next.Run(ctx) })
	next.Set([]Backend{backend("n1", "other-0", "other", router.Asleep)})
	w.await(t, "the next run", func(c *Catalogue) bool {
		return len(c.Nodes["n1"]) == 1 && c.state("n1/other-0") == int(router.Stopped)
	})
	stop()
	if err := next.Withdraw(t.Context()); err != nil {
		t.Error(err)
	}
	w.await(t, "all of it has ended", func(c *Catalogue) bool { return len(c.Nodes) == 0 && len(c.Agents) == 0 })
}

func TestServicesOfOthersAreBackendsInARealConsul(t *testing.T) {
	t.Parallel()
	cluster := start(t, realconsul.Options{})
	c := to(t, cluster.Servers[0].Addr, func(c *config.Consul) { c.Services = map[string]string{"legacy": "mistral"} })
	w := watching(t, c)
	consul := cluster.API(0).Agent()
	for _, s := range []*api.AgentServiceRegistration{
		{ID: "v", Name: "vllm", Port: 8000, Meta: map[string]string{metaModel: "llama, llama-instruct"}, Check: &api.AgentServiceCheck{CheckID: "v-ttl", TTL: "1h", Status: api.HealthPassing}},
		{ID: "l", Name: "legacy", Port: 8001},
		{ID: "p", Name: "postgres", Port: 5432},
	} {
		if err := consul.ServiceRegister(s); err != nil {
			t.Fatal(err)
		}
	}
	w.await(t, "found", func(c *Catalogue) bool {
		return c.state("server-0/v:llama") == int(router.Ready) && c.state("server-0/v:llama-instruct") == int(router.Ready) && c.state("server-0/l") == int(router.Ready) &&
			len(c.Nodes["server-0"]) == 3
	})
	if err := consul.UpdateTTL("v-ttl", "CUDA error", api.HealthCritical); err != nil {
		t.Fatal(err)
	}
	w.await(t, "critical", is("server-0/v:llama", router.Failed))
	if err := consul.EnableNodeMaintenance("new switch"); err != nil {
		t.Fatal(err)
	}
	w.await(t, "node maintenance", is("server-0/l", router.Draining))
	if err := consul.DisableNodeMaintenance(); err != nil {
		t.Fatal(err)
	}
	if err := consul.ServiceDeregister("v"); err != nil {
		t.Fatal(err)
	}
	w.await(t, "deregistered", func(c *Catalogue) bool {
		return len(c.Nodes["server-0"]) == 1 && c.state("server-0/l") == int(router.Ready)
	})
}

func TestModelsAndHistoryStandInARealConsul(t *testing.T) {
	t.Parallel()
	cluster := start(t, realconsul.Options{})
	c := to(t, cluster.Servers[0].Addr, nil)
	kv := cluster.API(0).KV()
	models := make(chan map[string]config.Model, 16)
	background(t, func(ctx context.Context) { _ = c.Models(ctx, func(m map[string]config.Model) { models <- m }) })
	if got := <-models; len(got) != 0 {
		t.Fatalf("of an empty KV: %v", got)
	}
	for value, want := range map[string]bool{"idle_time: 7m": true} {
		if _, err := kv.Put(&api.KVPair{Key: "pilotlight/models/llama", Value: []byte(value)}, nil); err != nil {
			t.Fatal(err)
		}
		if got := <-models; (got["llama"].IdleTime == config.Duration(7*time.Minute)) != want {
			t.Errorf("got %+v", got)
		}
	}
	if _, err := kv.Put(&api.KVPair{Key: "pilotlight/models/llama", Value: []byte("idle_time: soon")}, nil); err != nil {
		t.Fatal(err)
	}
	if _, err := kv.Put(&api.KVPair{Key: "pilotlight/models/qwen", Value: nil}, nil); err != nil {
		t.Fatal(err)
	}
	got := <-models
	if _, known := got["qwen"]; !known || got["llama"].IdleTime != config.Duration(7*time.Minute) || !strings.Contains(strings.Join(c.Status().Problems, ""), `"soon" is not a duration`) {
		t.Errorf("got %+v, problems %q", got, c.Status().Problems)
	}

	var h History
	h.Count("llama", 5, time.Now())
	h.Learn("n1/llama-0", "disk", time.Minute)
	for _, edge := range []string{"e1", "e2"} {
		if err := c.SaveHistory(t.Context(), edge, h); err != nil {
			t.Fatal(err)
		}
	}
	all, own, err := c.LoadHistory(t.Context(), "e1")
	var sum, mine int64
	for _, n := range all.Models["llama"].Hours {
		sum += n
	}
	for _, n := range own.Models["llama"].Hours {
		mine += n
	}
	if err != nil || sum != 10 || mine != 5 || all.Wakes["n1/llama-0"]["disk"] != time.Minute {
		t.Errorf("got %+v, own %+v, %v", all, own, err)
	}
	if err := c.ForgetEdges(t.Context()); err != nil {
		t.Error(err)
	}
}

func TestALockHasOneHolderInARealConsul(t *testing.T) {
	t.Parallel()
	cluster := start(t, realconsul.Options{})
	held := make(chan string, 8)
	lost := make(chan string, 8)
	contend := func(who string) (stop func()) {
		c := to(t, cluster.Servers[0].Addr, nil)
		return background(t, func(ctx context.Context) {
			_ = c.Lock(ctx, "planner", who, func(ctx context.Context) {
				held <- who
				<-ctx.Done()
				lost <- who
			})
		})
	}
	stopA := contend("a")
	if got := within(t, held); got != "a" {
		t.Fatalf("held by %s", got)
	}
	contend("b")
	select {
	case who := <-held:
		t.Fatalf("%s holds it too", who)
	case <-time.After(300 * time.Millisecond):
	}
	stopA()
	if who, next := within(t, lost), within(t, held); who != "a" || next != "b" {
		t.Fatalf("%s lost it, %s holds it", who, next)
	}
	// Somebody ends b's session.
	pair, _, err := cluster.API(0).KV().Get("pilotlight/locks/planner", nil)
	if err != nil || string(pair.Value) != "b" {
		t.Fatalf("%+v, %v", pair, err)
	}
	session, _, err := cluster.API(0).Session().Info(pair.Session, nil)
	if err != nil || len(session.NodeChecks) != 0 || len(session.ServiceChecks) != 1 || session.TTL != "10s" || session.LockDelay != lockDelay {
		t.Errorf("the session is %+v, %v; it must end with its own check, or its TTL, and nothing else", session, err)
	}
	if _, err := cluster.API(0).Session().Destroy(pair.Session, nil); err != nil {
		t.Fatal(err)
	}
	if who := within(t, lost); who != "b" {
		t.Fatalf("%s lost it", who)
	}
	if who := within(t, held); who != "b" {
		t.Fatalf("%s holds it; b is alone and takes it again", who)
	}
	// Consul freezes: b cannot know whether it still holds it, and lets go in time.
	if err := cluster.Servers[0].Freeze(); err != nil {
		t.Fatal(err)
	}
	began := time.Now()
	if who := within(t, lost); who != "b" {
		t.Fatalf("%s lost it", who)
	}
	t.Logf("let go %s after Consul froze", time.Since(began).Round(time.Millisecond))
	if err := cluster.Servers[0].Thaw(); err != nil {
		t.Fatal(err)
	}
	if who := within(t, held); who != "b" {
		t.Fatalf("%s holds it", who)
	}
}

func within(t *testing.T, c <-chan string) string {
	t.Helper()
	select {
	case s := <-c:
		return s
	case <-time.After(time.Minute):
		t.Fatal("nothing within a minute")
		return ""
	}
}

func TestAConsulThatIsKilledFrozenOrEmptiedTakesNothingAway(t *testing.T) {
	t.Parallel()
	cluster := start(t, realconsul.Options{})
	c := to(t, cluster.Servers[0].Addr, nil)
	w := watching(t, c)
	agent := c.RegisterAgent(Agent{Node: "n1", Link: "127.0.0.1:7001"})
	background(t, func(ctx context.Context) { _ = agent.Run(ctx) })
	agent.Set([]Backend{backend("n1", "llama-0", "llama", router.Ready)})
	w.await(t, "registered", is("n1/llama-0", router.Ready))
	missing := make(chan *Catalogue, 1)
	background(t, func(ctx context.Context) {
		for ctx.Err() == nil {
			w.mu.Lock()
			last, news := w.last, w.news
			w.mu.Unlock()
			if last.state("n1/llama-0") == -1 {
				missing <- last
				return
			}
			select {
			case <-news:
			case <-ctx.Done():
			}
		}
	})
	server := cluster.Servers[0]
	for name, harm := range map[string]func() error{
		"killed":  func() error { return cluster.Restart(0, true) },
		"emptied": func() error { return cluster.Restart(0, false) },
		"frozen": func() error {
			if err := server.Freeze(); err != nil {
				return err
			}
			<-time.After(2 * time.Second)
			return server.Thaw()
		},
	} {
		if err := harm(); err != nil {
			t.Fatal(err)
		}
		if err := cluster.AwaitLeader(t.Context()); err != nil {
			t.Fatal(err)
		}
		for s := range 2 { // news get through again
			state := []router.State{router.Failed, router.Ready}[s]
			agent.Set([]Backend{backend("n1", "llama-0", "llama", state)})
			w.await(t, name+": "+state.String(), is("n1/llama-0", state))
		}
	}
	select {
	case c := <-missing:
		t.Errorf("it was gone for a moment: %+v", c)
	default:
	}
}

func TestThreeServersLoseTheirLeader(t *testing.T) {
	t.Parallel()
	cluster := start(t, realconsul.Options{Servers: 3})
	leader := cluster.Leader()
	if leader < 0 {
		t.Fatal("no leader")
	}
	c := to(t, cluster.Servers[(leader+1)%3].Addr, nil)
	w := watching(t, c)
	agent := c.RegisterAgent(Agent{Node: "n1", Link: "127.0.0.1:7001"})
	background(t, func(ctx context.Context) { _ = agent.Run(ctx) })
	agent.Set([]Backend{backend("n1", "llama-0", "llama", router.Ready)})
	w.await(t, "registered", is("n1/llama-0", router.Ready))
	if err := cluster.Servers[leader].Kill(); err != nil {
		t.Fatal(err)
	}
	agent.Set([]Backend{backend("n1", "llama-0", "llama", router.Failed)})
	w.await(t, "news after another leader was found", is("n1/llama-0", router.Failed))
}

func TestExactlyTheDocumentedRightsSuffice(t *testing.T) {
	t.Parallel()
	cluster := start(t, realconsul.Options{ACL: true})
	text, err := os.ReadFile("../../deploy/consul/policy.hcl")
	if err != nil {
		t.Fatal(err)
	}
	rules := regexp.MustCompile(`(?s)\n(\w+ "[^"]*") \{.*?\n\}`).FindAllStringSubmatch(string(text), -1)
	if len(rules) != 4 {
		t.Fatalf("the policy has %d rules: %q", len(rules), rules)
	}
	whole := &use{c: withPolicy(t, cluster, "whole", string(text)), node: "n-whole"}
	whole.run(t)
	whole.seen.await(t, "all of it works", func(c *Catalogue) bool {
		return c.state("n-whole/llama-0") == int(router.Ready) && c.Edges["n-whole"].Alive && whole.c.Status().Locks["n-whole"] == "somebody"
	})
	if err := whole.c.SaveHistory(t.Context(), "e", History{}); err != nil {
		t.Error(err)
	}
	if problems := whole.c.Status().Problems; len(problems) > 0 {
		t.Errorf("problems: %q", problems)
	}
	for rule, want := range map[string][]string{
		`service_prefix ""`:        {`register pilotlight-agent:n-1: the token lacks service:write for "pilotlight-agent"`},
		`node_prefix ""`:           {`node:read`},
		`key_prefix "pilotlight/"`: {`the token lacks key:write for "pilotlight/changed/"`, `key:read for "pilotlight/changed/"`},
		`session_prefix ""`:        {`the token lacks session:write for the node`},
	} {
		i := 0
		less := regexp.MustCompile(`(?s)\n\w+ "[^"]*" \{.*?\n\}`).ReplaceAllStringFunc(string(text), func(s string) string {
			if strings.Contains(s, rule) {
				i++
				return ""
			}
			return s
		})
		if i != 1 {
			t.Fatalf("the policy has %d rules %s", i, rule)
		}
		u := &use{c: withPolicy(t, cluster, "less-"+regexp.MustCompile(`\W`).ReplaceAllString(rule, ""), less), node: "n-1"}
		stop := u.run(t)
		u.awaitProblem(t, "without "+rule, want)
		stop()
	}
}

// use is everything that a client is used for.
type use struct {
	c    *Client
	node string
	seen *seen
}

func (u *use) run(t *testing.T) (stop func()) {
	t.Helper()
	u.seen = watching(t, u.c)
	agent := u.c.RegisterAgent(Agent{Node: u.node, Link: "127.0.0.1:7001"})
	edge := u.c.RegisterEdge(Edge{Name: u.node})
	agent.Set([]Backend{backend(u.node, "llama-0", "llama", router.Ready)})
	stops := []func(){
		background(t, func(ctx context.Context) { _ = agent.Run(ctx) }),
		background(t, func(ctx context.Context) { _ = edge.Run(ctx) }),
		background(t, func(ctx context.Context) { _ = u.c.Models(ctx, func(map[string]config.Model) {}) }),
		background(t, func(ctx context.Context) {
			_ = u.c.Lock(ctx, u.node, "somebody", func(ctx context.Context) { <-ctx.Done() })
		}),
	}
	return func() {
		for _, stop := range stops {
			stop()
		}
	}
}

// awaitProblem waits until status says all that is wanted.
func (u *use) awaitProblem(t *testing.T, what string, want []string) {
	t.Helper()
	limit := time.After(time.Minute)
	tick := time.NewTicker(50 * time.Millisecond)
	defer tick.Stop()
	for {
		all := strings.Join(u.c.Status().Problems, "\n")
		missing := false
		for _, text := range want {
			missing = missing || !strings.Contains(all, text)
		}
		if !missing {
			return
		}
		select {
		case <-tick.C:
		case <-limit:
			t.Errorf("%s: the problems are\n%s\nwant %q among them", what, all, want)
			return
		}
	}
}

// withPolicy is a client whose token, in a file, may do what the rules say.
func withPolicy(t *testing.T, cluster *realconsul.Cluster, name, rules string) *Client {
	t.Helper()
	acl := cluster.API(0).ACL()
	policy, _, err := acl.PolicyCreate(&api.ACLPolicy{Name: name, Rules: rules}, nil)
	if err != nil {
		t.Fatal(err)
	}
	token, _, err := acl.TokenCreate(&api.ACLToken{Policies: []*api.ACLTokenPolicyLink{{ID: policy.ID}}}, nil)
	if err != nil {
		t.Fatal(err)
	}
	file := filepath.Join(t.TempDir(), "token")
	if err := os.WriteFile(file, []byte(token.SecretID+"\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	return to(t, cluster.Servers[0].Addr, func(c *config.Consul) { c.TokenFile = file })
}

func TestTLSIsSpokenAndAWrongCertificateIsRefused(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	good, bad := certificates(t, filepath.Join(dir, "good")), certificates(t, filepath.Join(dir, "bad"))
	cluster := start(t, realconsul.Options{TLS: &realconsul.TLS{CA: good.CA, Cert: good.Cert, Key: good.Key}})
	addr := cluster.Servers[0].Addr
	ask := func(tls *config.BackendTLS) error {
		c := to(t, addr, func(c *config.Consul) { c.TLS = tls })
		_, _, err := c.LoadHistory(t.Context(), "e1")
		return err
	}
	if err := ask(good); err != nil {
		t.Errorf("with the right certificates: %v", err)
	}
	for name, tls := range map[string]*config.BackendTLS{
		"an authority that did not sign it":       {CA: bad.CA, Cert: good.Cert, Key: good.Key},
		"a name that it does not bear":            {CA: good.CA, Cert: good.Cert, Key: good.Key, ServerName: "server.dc1.consul"},
		"a certificate of our own from elsewhere": {CA: good.CA, Cert: bad.Cert, Key: bad.Key},
		"no certificate of our own":               {CA: good.CA},
		"no TLS":                                  nil,
	} {
		if err := ask(tls); err == nil {
			t.Errorf("%s: it is spoken to", name)
		} else {
			t.Logf("%s: %v", name, err)
		}
	}
	if _, err := New(config.Consul{Address: addr, TLS: &config.BackendTLS{CA: filepath.Join(dir, "none")}}, slog.New(slog.DiscardHandler), nil); err == nil {
		t.Error("a file that is not there is no error")
	}
}

// certificates makes an authority, and a certificate by it for 127.0.0.1.
func certificates(t *testing.T, dir string) *config.BackendTLS {
	t.Helper()
	if err := os.MkdirAll(dir, 0o755); err != nil {
		t.Fatal(err)
	}
	template := func(serial int64) *x509.Certificate {
		return &x509.Certificate{
			SerialNumber: big.NewInt(serial), Subject: pkix.Name{CommonName: dir}, NotBefore: time.Now().Add(-time.Hour), NotAfter: time.Now().Add(time.Hour),
			BasicConstraintsValid: true, IPAddresses: []net.IP{net.IPv4(127, 0, 0, 1)},
			ExtKeyUsage: []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth, x509.ExtKeyUsageClientAuth},
		}
	}
	authority := template(1)
	authority.IsCA, authority.KeyUsage = true, x509.KeyUsageCertSign
	caKey, key := newKey(t), newKey(t)
	files := &config.BackendTLS{CA: filepath.Join(dir, "ca.pem"), Cert: filepath.Join(dir, "cert.pem"), Key: filepath.Join(dir, "key.pem")}
	ca, err := x509.CreateCertificate(rand.Reader, authority, authority, &caKey.PublicKey, caKey)
	if err != nil {
		t.Fatal(err)
	}
	cert, err := x509.CreateCertificate(rand.Reader, template(2), authority, &key.PublicKey, caKey)
	if err != nil {
		t.Fatal(err)
	}
	private, err := x509.MarshalPKCS8PrivateKey(key)
	if err != nil {
		t.Fatal(err)
	}
	for file, block := range map[string]*pem.Block{
		files.CA: {Type: "CERTIFICATE", Bytes: ca}, files.Cert: {Type: "CERTIFICATE", Bytes: cert}, files.Key: {Type: "PRIVATE KEY", Bytes: private},
	} {
		if err := os.WriteFile(file, pem.EncodeToMemory(block), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	return files
}

func newKey(t *testing.T) *ecdsa.PrivateKey {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	return key
}
