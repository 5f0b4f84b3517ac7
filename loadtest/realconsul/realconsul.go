// Package realconsul runs the real Consul for tests and measurements: one server or three, with ACLs, with TLS, on free ports of
// loopback. It kills, freezes and restarts them, each by its process ID.
package realconsul

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"maps"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"time"

	"github.com/hashicorp/consul/api"

	"pilotlight/probe/proc"
)

// Options say what to run.
type Options struct {
	Dir     string // for data, configuration and logs; required
	Servers int    // 1 or 3; default 1
	ACL     bool   // deny what no policy allows; Cluster.Token may do everything
	TLS     *TLS   // serve the API over TLS; default: in clear
}

// TLS are paths of PEM files.
type TLS struct{ CA, Cert, Key string }

// Cluster is what runs.
type Cluster struct {
	Token   string // of the management, with ACLs
	Servers []*Server
	options Options
}

// Server is one Consul server.
type Server struct {
	Addr string // host:port of its API

	name  string
	dir   string
	ports map[string]int
	cmd   *exec.Cmd
	ended chan struct{} // closed when the process has ended
}

// managementToken is as good as any: it opens nothing but what a test started.
const managementToken = "c0ffee00-0000-4000-8000-000000000000"

// Start runs what o says and returns when there is a leader.
func Start(ctx context.Context, o Options) (*Cluster, error) {
	c := &Cluster{options: o}
	if o.ACL {
		c.Token = managementToken
	}
	for i := range max(o.Servers, 1) {
		s := &Server{name: fmt.Sprintf("server-%d", i), dir: filepath.Join(o.Dir, fmt.Sprintf("server-%d", i))}
		if err := s.findPorts(); err != nil {
			return nil, err
		}
		c.Servers = append(c.Servers, s)
	}
	for _, s := range c.Servers {
		if err := c.start(s); err != nil {
			return nil, errors.Join(err, c.Close())
		}
	}
	if err := c.AwaitLeader(ctx); err != nil {
		return nil, errors.Join(err, c.Close())
	}
	return c, nil
}

// findPorts finds free ports.
func (s *Server) findPorts() error {
	ports, err := proc.FreePorts(4)
	if err != nil {
		return err
	}
	s.ports = map[string]int{
		"dns": -1, "grpc": -1, "http": -1, "https": -1,
		"api": ports[0], "server": ports[1], "serf_lan": ports[2], "serf_wan": ports[3],
	}
	s.Addr = fmt.Sprintf("127.0.0.1:%d", ports[0])
	return nil
}

// Binary is the Consul that `make deps` builds.
func Binary() (string, error) {
	dir, err := os.Getwd()
	if err != nil {
		return "", fmt.Errorf("look for bin/consul: %w", err)
	}
	for ; ; dir = filepath.Dir(dir) {
		file := filepath.Join(dir, "bin", "consul")
		if info, err := os.Stat(file); err == nil && !info.IsDir() {
			return file, nil
		}
		if dir == filepath.Dir(dir) {
			return "", errors.New("bin/consul is not there; `make deps` builds it")
		}
	}
}

// start begins one server's process.
func (c *Cluster) start(s *Server) error {
	binary, err := Binary()
	if err != nil {
		return err
	}
	if err := os.MkdirAll(s.dir, 0o755); err != nil {
		return fmt.Errorf("start Consul: %w", err)
	}
	text, err := json.Marshal(c.configuration(s))
	if err != nil {
		return fmt.Errorf("start Consul: %w", err)
	}
	file := filepath.Join(s.dir, "consul.json")
	if err := os.WriteFile(file, text, 0o644); err != nil {
		return fmt.Errorf("start Consul: %w", err)
	}
	log, err := os.OpenFile(filepath.Join(s.dir, "log"), os.O_CREATE|os.O_APPEND|os.O_WRONLY, 0o644)
	if err != nil {
		return fmt.Errorf("start Consul: %w", err)
	}
	defer log.Close()
	s.cmd = exec.Command(binary, "agent", "-config-file", file) //nolint:noctx // it ends when it is told to
	s.cmd.Stdout, s.cmd.Stderr = log, log
	if err := s.cmd.Start(); err != nil {
		return fmt.Errorf("start Consul: %w", err)
	}
	s.ended = make(chan struct{})
	go func(cmd *exec.Cmd, ended chan struct{}) {
		_ = cmd.Wait()
		close(ended)
	}(s.cmd, s.ended)
	return nil
}

// configuration is what Consul's file holds.
func (c *Cluster) configuration(s *Server) map[string]any {
	ports := maps.Clone(s.ports)
	delete(ports, "api")
	var join []string
	for _, other := range c.Servers {
		if other != s {
			join = append(join, fmt.Sprintf("127.0.0.1:%d", other.ports["serf_lan"]))
		}
	}
	config := map[string]any{
		"server": true, "bootstrap_expect": len(c.Servers), "node_name": s.name, "data_dir": filepath.Join(s.dir, "data"),
		"bind_addr": "127.0.0.1", "client_addr": "127.0.0.1", "ports": ports, "retry_join": join, "retry_interval": "1s",
		"performance": map[string]any{"raft_multiplier": 1}, "disable_update_check": true, "leave_on_terminate": false, "log_level": "warn",
		"connect": map[string]any{"enabled": false}, "rejoin_after_leave": true,
	}
	if c.options.TLS == nil {
		ports["http"] = s.ports["api"]
	} else {
		ports["https"] = s.ports["api"]
		files := c.options.TLS
		config["tls"] = map[string]any{"https": map[string]any{"ca_file": files.CA, "cert_file": files.Cert, "key_file": files.Key, "verify_incoming": true}}
	}
	if c.options.ACL {
		config["acl"] = map[string]any{
			"enabled": true, "default_policy": "deny",
			"tokens": map[string]any{"initial_management": managementToken, "agent": managementToken},
		}
	}
	return config
}

// API is a client of the i-th server that may do everything.
func (c *Cluster) API(i int) *api.Client {
	config := &api.Config{Address: c.Servers[i].Addr, Token: c.Token, HttpClient: &http.Client{Timeout: 20 * time.Second, Transport: &http.Transport{DisableKeepAlives: true}}}
	if files := c.options.TLS; files != nil {
		config.Scheme, config.HttpClient = "https", nil
		config.TLSConfig = api.TLSConfig{CAFile: files.CA, CertFile: files.Cert, KeyFile: files.Key}
	}
	client, err := api.NewClient(config)
	if err != nil {
		panic("BUG: a client of our own Consul: " + err.Error())
	}
	return client
}

// AwaitLeader waits until writes succeed.
func (c *Cluster) AwaitLeader(ctx context.Context) error {
	limit, cancel := context.WithTimeout(ctx, time.Minute)
	defer cancel()
	for {
		var last error
		for i, s := range c.Servers {
			if s.Alive() {
				if _, last = c.API(i).KV().Put(&api.KVPair{Key: "realconsul/ready"}, (&api.WriteOptions{}).WithContext(limit)); last == nil {
					return nil
				}
			}
		}
		select {
		case <-time.After(50 * time.Millisecond):
		case <-limit.Done():
			return fmt.Errorf("no leader of Consul: %w; its log ends: %s", errors.Join(last, context.Cause(limit)), c.tail())
		}
	}
}

// tail is the end of the first server's log.
func (c *Cluster) tail() string {
	f, err := os.Open(filepath.Join(c.Servers[0].dir, "log"))
	if err != nil {
		return err.Error()
	}
	defer f.Close()
	if info, err := f.Stat(); err == nil {
		_, _ = f.Seek(max(0, info.Size()-2000), io.SeekStart)
	}
	text, _ := io.ReadAll(f)
	return strings.TrimSpace(string(text))
}

// Leader is the server that leads, -1 where there is none.
func (c *Cluster) Leader() int {
	for i, s := range c.Servers {
		if !s.Alive() {
			continue
		}
		leader, err := c.API(i).Status().Leader()
		if err != nil {
			continue
		}
		for j, other := range c.Servers {
			if leader == fmt.Sprintf("127.0.0.1:%d", other.ports["server"]) {
				return j
			}
		}
	}
	return -1
}

// Alive says whether the process runs, frozen or not.
func (s *Server) Alive() bool {
	if s.ended == nil {
		return false
	}
	select {
	case <-s.ended:
		return false
	default:
		return true
	}
}

// PID is that of the server's process.
func (s *Server) PID() int { return s.cmd.Process.Pid }

// Kill ends the server's process at once.
func (s *Server) Kill() error {
	if !s.Alive() {
		return nil
	}
	if err := s.cmd.Process.Kill(); err != nil {
		return fmt.Errorf("kill Consul: %w", err)
	}
	<-s.ended
	return nil
}

// Freeze stops the server's process where it is, and Thaw lets it go on.
func (s *Server) Freeze() error { return s.cmd.Process.Signal(syscall.SIGSTOP) }

// Thaw lets a frozen server go on.
func (s *Server) Thaw() error { return s.cmd.Process.Signal(syscall.SIGCONT) }

// Restart starts a killed server again, with its data or without.
func (c *Cluster) Restart(i int, keepData bool) error {
	s := c.Servers[i]
	if err := s.Kill(); err != nil {
		return err
	}
	if !keepData {
		if err := os.RemoveAll(filepath.Join(s.dir, "data")); err != nil {
			return fmt.Errorf("restart Consul: %w", err)
		}
	}
	return c.start(s)
}

// Close ends all servers.
func (c *Cluster) Close() error {
	var failed []error
	for _, s := range c.Servers {
		failed = append(failed, s.Kill())
	}
	return errors.Join(failed...)
}
