package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"maps"
	"net"
	"net/http"
	"os"
	"os/signal"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/promhttp"
	"golang.org/x/sync/errgroup"

	"pilotlight/config"
	"pilotlight/probe"
	"pilotlight/probe/engine"
	"pilotlight/probe/meter"
	"pilotlight/router/consul"
	"pilotlight/warmpool"
	"pilotlight/warmpool/agent"
	"pilotlight/warmpool/launch"
)

type agentCmd struct {
	Config string `short:"c" required:"" type:"existingfile" placeholder:"FILE" help:"The configuration file: the node, its models and their backends, and link. It is read again on SIGHUP and when it changes."`
	Listen string `placeholder:"ADDR" help:"Where to wait for edges, in place of the file's link.listen."`
	Admin  string `placeholder:"ADDR" help:"The admin port, in place of the file's."`
}

// Run keeps a node's backends for the edges until it is told to stop. SIGTERM leaves model servers running, for the next start to adopt;
// Ctrl-C stops them.
func (c *agentCmd) Run(ctx context.Context, log *slog.Logger) error {
	reload := make(chan os.Signal, 1)
	signal.Notify(reload, syscall.SIGHUP)
	defer signal.Stop(reload)
	stopServers := onInterrupt()
	keep := func(held context.Context) error {
		s, link, err := c.load(log)
		if err != nil {
			return err
		}
		s.reload = reload
		s.stopServers = func() bool { return ctx.Err() != nil && stopServers() } // not when another agent takes over
		return keepNode(held, s, link)
	}
	s, link, err := c.load(log)
	if err != nil {
		return err
	}
	if s.cfg.Consul == nil || startsProcesses(s.cfg.Models) {
		return keep(ctx)
	}
	client, err := consul.New(*s.cfg.Consul, log, prometheus.NewRegistry())
	if err != nil {
		return err
	}
	log.Info("keeping begins when no other agent of this name keeps what is on no node", "node", s.cfg.Node.Name)
	return warmpool.Elect(ctx, client, "nodes/"+s.cfg.Node.Name, link.Listen, keep)
}

// startsProcesses says whether an agent starts model servers itself, on its own node: nobody else can own those.
func startsProcesses(models map[string]config.Model) bool {
	for _, m := range models {
		if slices.ContainsFunc(m.Backends, func(b config.Backend) bool { return b.Process != nil }) {
			return true
		}
	}
	return false
}

// load reads the file, and what the command line says in place of it.
func (c *agentCmd) load(log *slog.Logger) (site, config.Link, error) {
	link := config.Link{Listen: "127.0.0.1:8082"}
	cfg, err := config.Load(c.Config)
	if err != nil {
		return site{}, link, err
	}
	s := site{cfg: cfg, log: log, watch: config.NewWatcher(c.Config, cfg, log)} // before anything is overridden
	if err := override(cfg, "", c.Admin); err != nil {
		return site{}, link, err
	}
	if cfg.Link != nil {
		link = *cfg.Link
	}
	if c.Listen != "" {
		link.Listen = c.Listen
	}
	if host, _, err := net.SplitHostPort(link.Listen); err != nil || link.Cert == "" && !isLoopback(host) {
		return site{}, link, fmt.Errorf("--listen is %s; without link.cert, link.key and link.ca it must be a loopback address with a port, as in 127.0.0.1:8082", link.Listen)
	}
	return s, link, nil
}

// keepNode runs a keeper and its links until ctx ends. The link's port is open for as long as the keeper may move anything: whoever is
// refused there may count on that.
func keepNode(ctx context.Context, s site, link config.Link) error {
	if err := s.checkToken(); err != nil {
		return err
	}
	unlock, err := lock(s.cfg.Node.StateDir, "lock")
	if err != nil {
		return err
	}
	defer unlock()
	edges, err := net.Listen("tcp", link.Listen)
	if err != nil {
		return fmt.Errorf("open the link's port: %w", err)
	}
	defer edges.Close()
	operators, err := net.Listen("tcp", s.cfg.Admin)
	if err != nil {
		return fmt.Errorf("open the admin port: %w", err)
	}
	defer operators.Close()
	learned, err := warmpool.LoadLearned(filepath.Join(s.cfg.Node.StateDir, "learned.json"))
	if err != nil {
		s.log.Warn("learned wake times are lost", "error", err)
	}
	eyes, stopLooking, err := s.openEyes(ctx)
	if err != nil {
		return err
	}
	defer stopLooking()
	models, node := onNode(s.cfg.Node.Name, s.cfg.Models), eyes.discover(ctx, s.cfg.Node)

	var keeper *warmpool.Keeper
	gpuTime := meter.New("")
	hub := agent.NewHub(agent.Options{
		Meter: gpuTime,
		Node:  node, Version: version(), Models: models, Keeper: func() agent.Keeper { return keeper },
		Host: reachedBy(link), Look: look, File: filepath.Join(s.cfg.Node.StateDir, "edges.json"), Log: s.log,
	})
	registry := prometheus.NewRegistry()
	mirror, err := s.mirror(hub, hub.Advertised(edges.Addr()), registry)
	if err != nil {
		return err
	}
	keeper = warmpool.New(node, models, mirror, launchers(s), learned, s.log)
	server, err := agent.NewServer(hub, &link)
	if err != nil {
		return err
	}
	desk := &http.Server{Handler: s.guarded(agentDesk(hub, mirror, registry)), ReadHeaderTimeout: 10 * time.Second, ErrorLog: slog.NewLogLogger(s.log.Handler(), slog.LevelWarn)}

	keeping, stopKeeper := context.WithCancel(context.WithoutCancel(ctx))
	defer stopKeeper()
	linking, stopLinks := context.WithCancel(context.WithoutCancel(ctx))
	defer stopLinks()
	g, ctx := errgroup.WithContext(ctx)
	context.AfterFunc(ctx, stopKeeper)
	g.Go(func() error {
		defer desk.Close()
		defer hub.Close()
		defer server.Stop()
		defer stopLinks()
		eyes.tellTo(func(look probe.GPUs) {
			gpuTime.See(look)
			keeper.See(look) // which waits for Run, so not before
		})
		return keeper.Run(keeping)
	})
	g.Go(func() error { return hub.Run(linking) })
	g.Go(func() error { return mirror.run(ctx) })
	g.Go(func() error {
		if err := server.Serve(edges); err != nil {
			return fmt.Errorf("serve the link's port: %w", err)
		}
		return nil
	})
	g.Go(func() error {
		if err := desk.Serve(operators); !errors.Is(err, http.ErrServerClosed) {
			return fmt.Errorf("serve the admin port: %w", err)
		}
		return nil
	})
	g.Go(func() error {
		s.watch.Run(ctx, s.reload, func(next *config.Config) error {
			models := onNode(s.cfg.Node.Name, next.Models)
			hub.Update(models)
			keeper.Update(models)
			return nil
		})
		return nil
	})
	s.log.Info("keeping", "node", s.cfg.Node.Name, "listen", edges.Addr().String(), "admin", operators.Addr().String(), "models", len(models), "version", version())
	err = g.Wait()
	if s.stopServers() {
		s.log.Info("stopping the model servers")
		err = errors.Join(err, keeper.Halt(context.WithoutCancel(ctx)))
		mirror.withdraw(context.WithoutCancel(ctx))
	}
	s.log.Info("stopped")
	return err
}

// reachedBy is how edges on other hosts reach this one; empty: they do not.
func reachedBy(link config.Link) string {
	if link.Advertise != "" {
		return link.Advertise
	}
	host, _, err := net.SplitHostPort(link.Listen)
	if ip := net.ParseIP(host); err != nil || host == "" || isLoopback(host) || ip != nil && ip.IsUnspecified() {
		return ""
	}
	return host
}

// onNode are the models with backends whose names are unique in the fleet: NODE/NAME.
func onNode(node string, models map[string]config.Model) map[string]config.Model {
	all := maps.Clone(models)
	for name, m := range all {
		m.Backends = slices.Clone(m.Backends)
		for i := range m.Backends {
			m.Backends[i].Name = node + "/" + m.Backends[i].Name
		}
		all[name] = m
	}
	return all
}

// look asks a backend's engine what it does.
func look(ctx context.Context, servedAs string, b config.Backend, addr string) probe.Reading {
	client := &http.Client{Transport: &http.Transport{DialContext: launch.Dial(b), DisableKeepAlives: true}}
	reading, _ := engine.New(b.Engine, servedAs, b.Ready).Read(ctx, client, addr)
	return reading
}

// agentDesk answers the admin port of an agent.
func agentDesk(hub *agent.Hub, m *mirror, registry *prometheus.Registry) http.Handler {
	mux := http.NewServeMux()
	mux.Handle("GET /metrics", promhttp.HandlerFor(registry, promhttp.HandlerOpts{EnableOpenMetrics: true}))
	mux.HandleFunc("GET /api/consul", func(w http.ResponseWriter, _ *http.Request) {
		w.Header().Set("Content-Type", "application/json")
		_ = json.NewEncoder(w).Encode(m.status()) // the client went away
	})
	mux.HandleFunc("GET /healthz", func(w http.ResponseWriter, _ *http.Request) { fmt.Fprintln(w, "ok") })
	mux.HandleFunc("GET /api/edges", func(w http.ResponseWriter, _ *http.Request) {
		w.Header().Set("Content-Type", "application/json")
		_ = json.NewEncoder(w).Encode(hub.Edges()) // the client went away
	})
	return mux
}

func isLoopback(host string) bool {
	ip := net.ParseIP(host)
	return host == "localhost" || ip != nil && ip.IsLoopback()
}

// ownName is a backend's name in its node's file.
func ownName(node, id string) string { return strings.TrimPrefix(id, node+"/") }
