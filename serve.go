package main

import (
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"net/http"
	"os"
	"os/signal"
	"path/filepath"
	"sync"
	"syscall"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/collectors"
	"golang.org/x/sync/errgroup"

	"pilotlight/config"
	"pilotlight/probe"
	"pilotlight/proxy"
	"pilotlight/proxy/admin"
	"pilotlight/router"
	"pilotlight/warmpool"
	"pilotlight/warmpool/agent"
	"pilotlight/warmpool/launch"
	"pilotlight/warmpool/live"
)

type serveCmd struct {
	Config string `short:"c" required:"" type:"existingfile" placeholder:"FILE" help:"The configuration file. It is read again on SIGHUP and when it changes."`
	Listen string `placeholder:"ADDR" help:"The data port, in place of the file's."`
	Admin  string `placeholder:"ADDR" help:"The admin port, in place of the file's."`

	Simulate bool `hidden:""` // the model servers are simulated, and so are the file's GPUs
}

// Run serves until it is told to stop. SIGTERM leaves model servers running, for the next start to adopt, as an upgrade wants
// it; Ctrl-C stops them, as a person wants it.
func (c *serveCmd) Run(ctx context.Context, log *slog.Logger) error {
	cfg, err := config.Load(c.Config)
	if err != nil {
		return err
	}
	watch := config.NewWatcher(c.Config, cfg, log) // before anything is overridden: it compares files
	if err := override(cfg, c.Listen, c.Admin); err != nil {
		return err
	}
	reload := make(chan os.Signal, 1)
	signal.Notify(reload, syscall.SIGHUP)
	defer signal.Stop(reload)
	s := site{cfg: cfg, log: log, stopServers: onInterrupt(), watch: watch, reload: reload}
	if c.Simulate {
		s.gpus = (&simulated{gpus: cfg.Node.GPUs, admin: admin.Client{Addr: cfg.Admin, TokenFile: cfg.AdminTokenFile}, others: filepath.Join(cfg.Node.StateDir, othersFile)}).Watch
	}
	return serve(ctx, s)
}

// override puts addresses from the command line in place of the file's. Where the admin port asks nobody who he is, it is on
// loopback, whoever says otherwise.
func override(cfg *config.Config, listen, admin string) error {
	if listen != "" {
		cfg.Listen = listen
	}
	if admin == "" {
		return nil
	}
	cfg.Admin = admin
	host, _, err := net.SplitHostPort(admin)
	if ip := net.ParseIP(host); err != nil || cfg.AdminTokenFile == "" && host != "localhost" && (ip == nil || !ip.IsLoopback()) {
		return fmt.Errorf("--admin is %s; without admin_token_file it must be a loopback address with a port, as in 127.0.0.1:8081", admin)
	}
	return nil
}

// onInterrupt says, when asked, whether there has been a Ctrl-C.
func onInterrupt() func() bool {
	interrupted := make(chan os.Signal, 1)
	signal.Notify(interrupted, os.Interrupt)
	return func() bool {
		signal.Stop(interrupted)
		return len(interrupted) > 0
	}
}

// site is what serve puts together.
type site struct {
	cfg         *config.Config
	log         *slog.Logger
	stopServers func() bool     // asked at the end: are model servers to be stopped too
	watch       *config.Watcher // nil: the configuration never changes
	reload      <-chan os.Signal
	started     func()              // called once both ports answer; may be nil
	gpus        probe.Watch         // nil: as node.nvml says
	clock       func() time.Time    // the planner's; nil: time.Now
	speed       float64             // how fast it goes
	planner     func(*live.Planner) // is told of the planner before that begins; may be nil
}

// serve runs an edge with a keeper in the same process until ctx ends, and then stops them in order: accepting, streams,
// the keeper.
func serve(ctx context.Context, s site) error {
	if err := checkPolicies(s.cfg); err != nil {
		return err
	}
	if err := s.checkToken(); err != nil {
		return err
	}
	own := hasBackends(s.cfg)
	for _, name := range []string{"edge.lock", "lock"} { // an edge without backends of its own may share the directory with an agent
		if name == "lock" && !own {
			continue
		}
		unlock, err := lock(s.cfg.Node.StateDir, name)
		if err != nil {
			return err
		}
		defer unlock()
	}
	data, err := s.listen(ctx)
	if err != nil {
		return fmt.Errorf("open the data port: %w", err)
	}
	defer data.Close()
	operators, err := net.Listen("tcp", s.cfg.Admin)
	if err != nil {
		return fmt.Errorf("open the admin port: %w", err)
	}
	defer operators.Close()
	learned, err := warmpool.LoadLearned(filepath.Join(s.cfg.Node.StateDir, "learned.json"))
	if err != nil {
		s.log.Warn("learned wake times are lost", "error", err)
	}
	registry := prometheus.NewRegistry()
	registry.MustRegister(collectors.NewGoCollector(), collectors.NewProcessCollector(collectors.ProcessCollectorOpts{}))

	var certificates *proxy.Certificates
	if s.cfg.TLS != nil {
		if certificates, err = proxy.LoadCertificates(*s.cfg.TLS, s.log, registry); err != nil {
			return err
		}
	}

	eyes, stopLooking, err := s.openEyes(ctx)
	if err != nil {
		return err
	}
	defer stopLooking()

	pool := &lives{}
	lines := router.New(s.cfg.Models, pool, s.log)
	lines.Held = s.cfg.Limits.Held
	pool.fleet = newFleet(lines, s.cfg.Models, s.log)
	known := &observed{fleet: pool.fleet, once: make(chan struct{})}
	if own {
		pool.keeper = warmpool.New(eyes.discover(ctx, s.cfg.Node), s.cfg.Models, known, launchers(s), learned, s.log)
	}
	var found *discovery
	if !s.cfg.Alone() {
		self, err := s.identity(data.Addr())
		if err != nil {
			return err
		}
		pool.links, pool.named = agent.NewLinks(self, pool.fleet, agent.Dialer(s.cfg.Link), s.log), s.cfg.Agents
		pool.links.Set(s.cfg.Agents)
		lines.Stir = pool.links.Stir
		if s.cfg.Consul != nil {
			if found, err = s.discover(self.Name, pool, registry); err != nil {
				return err
			}
		}
	}
	plans := s.planning(pool, registry)
	plans.loadFile()
	if found != nil {
		found.plans = plans
	}
	price := s.newPricer(eyes, lines.Fleet)
	books, err := s.openLedger(ctx, s.edgeName(data.Addr()), price, registry)
	if err != nil {
		return err
	}
	traces, err := s.openTraces(ctx, s.edgeName(data.Addr()), lines.Fleet, price, registry)
	if err != nil {
		return err
	}
	defer s.closeTraces(ctx, traces)
	doors, err := s.access(registry)
	if err != nil {
		return err
	}
	gpuTimes, ending := admin.GPUTimes{}, ctx.Done()
	edge := proxy.New(proxy.Options{Access: doors.held(), CertificateName: doors.certificate(), PassKeys: doors.pass(), Listeners: append(listeners(books, traces), plans, &gpuTimes), Tracing: traces.Tracing(), Loads: lines.Loads, Metered: true, Timing: s.cfg.Timing, Estimate: estimate(books), Currency: currency(s.cfg), Limits: s.cfg.Limits, Shared: s.cfg.ReusePort, Router: lines, Trusted: s.cfg.Trusted, TLS: certificates, Log: s.log, LeaveOut: 1 - float64(s.cfg.Log.Sample), Lines: linesOf(s.log), Registry: registry})
	lines.Woke = edge.Woke
	show := &showing{site: s, pool: pool, eyes: eyes, plans: plans, price: price, books: books, edge: edge, gpu: &gpuTimes, began: time.Now()}
	gpuTime := newMetering(edge, pool, s.cfg.Node.Name, registry)
	desk := &http.Server{
		Handler: admin.Handler(admin.Options{
			Router: lines, Lives: pool, GPUs: func() admin.GPUsStatus { return eyes.status(s.cfg.Node.Name, pids(lines, s.cfg.Node.Name)) },
			Nodes: func() any { return pool.Nodes() }, Consul: found.status, Plan: func() any { return plans.shown() }, Planned: plans.status, WhatIf: plans.whatIf, Visits: func() any { return edge.Visits() }, Issuers: doors.issuers, Config: s.loaded, Ledger: books, Registry: registry, Log: s.log,
			TokenFile: s.cfg.AdminTokenFile, Pins: pool, Machines: show.machines, Expected: show.expected, Recent: show.recent, Cost: show.cost, Ending: ending,
		}),
		ReadHeaderTimeout: 10 * time.Second,
		ErrorLog:          slog.NewLogLogger(s.log.Handler(), slog.LevelWarn),
	}

	keeping, stopKeeper := context.WithCancel(context.WithoutCancel(ctx))
	defer stopKeeper()
	g, ctx := errgroup.WithContext(ctx)
	if pool.keeper != nil {
		g.Go(func() error {
			eyes.tellTo(func(look probe.GPUs) {
				gpuTime.own.See(look)
				pool.keeper.See(look) // which waits for Run, so not before
			})
			return pool.keeper.Run(keeping)
		})
	}
	metering, stopMetering := context.WithCancel(keeping)
	defer stopMetering()
	metered := make(chan struct{})
	g.Go(func() error { defer close(metered); gpuTime.run(metering); return nil })
	if pool.links != nil {
		g.Go(func() error { return pool.links.Run(keeping) })
	}
	if books != nil {
		g.Go(func() error { return books.Run(keeping) }) // what settles late is of streams that end late
	}
	if found != nil {
		g.Go(func() error { return found.run(ctx) })
	}
	g.Go(func() error { doors.run(ctx, found.client()); return nil })
	g.Go(func() error {
		pool.await(ctx, known.once)
		found.recall(ctx)
		plans.run(ctx)
		return nil
	})
	g.Go(func() error { plans.keep(ctx, found.client()); return nil })
	g.Go(func() error {
		defer stopKeeper() // the pool outlives the last stream,
		defer desk.Close() // and so does the admin port
		defer func() { stopMetering(); <-metered }()
		if s.cfg.ReusePort {
			defer lines.Close() // nobody is to notice: whoever waits in line goes on waiting, up to the limit
		} else {
			closed := make(chan struct{})
			context.AfterFunc(ctx, func() { lines.Close(); close(closed) }) // whoever waits in line is told to ask elsewhere
			defer func() { <-closed }()
		}
		found.await(ctx)
		pool.await(ctx, known.once) // or else the first to come would hear that there is nothing
		return edge.Serve(ctx, data, s.cfg.DrainLimit.Std())
	})
	g.Go(func() error {
		if err := desk.Serve(operators); !errors.Is(err, http.ErrServerClosed) {
			return fmt.Errorf("serve the admin port: %w", err)
		}
		return nil
	})
	if s.watch != nil {
		g.Go(func() error { return s.follow(ctx, pool, plans, price, registry) })
	}
	s.log.Info("serving", "listen", data.Addr().String(), "admin", operators.Addr().String(), "models", len(s.cfg.Models), "version", version())
	if s.started != nil {
		s.started()
	}
	err = g.Wait()
	if pool.keeper != nil && s.stopServers() {
		s.log.Info("stopping the model servers")
		err = errors.Join(err, pool.keeper.Halt(context.WithoutCancel(ctx)))
	}
	s.log.Info("stopped")
	return err
}

// hasBackends says whether the edge has backends of its own, and so a keeper.
func hasBackends(cfg *config.Config) bool {
	for _, m := range cfg.Models {
		if len(m.Backends) > 0 {
			return true
		}
	}
	return cfg.Alone()
}

// identity is who this edge is to agents. While one process has a state directory no other does, so that a process which has
// one says of the last that it is gone.
func (s site) identity(data net.Addr) (agent.Edge, error) {
	file := filepath.Join(s.cfg.Node.StateDir, "edge")
	id, err := os.ReadFile(file)
	if errors.Is(err, os.ErrNotExist) {
		id = []byte(rand.Text())
		err = os.WriteFile(file, id, 0o644)
	}
	if err != nil {
		return agent.Edge{}, fmt.Errorf("know who this edge is: %w", err)
	}
	return agent.Edge{
		ID: string(id), Life: rand.Text(), Name: s.edgeName(data), Version: version(), Reach: s.cfg.Limits.BodyTime.Std(),
	}, nil
}

// edgeName is what others call this edge.
func (s site) edgeName(data net.Addr) string {
	_, port, _ := net.SplitHostPort(data.String())
	return s.cfg.Node.Name + ":" + port
}

// observed is a fleet that hears of our own backends, and says when it first has.
type observed struct {
	*fleet
	first sync.Once
	once  chan struct{}
}

func (o *observed) Observe(n router.Node) {
	o.own(n)
	o.first.Do(func() { close(o.once) })
}

// listen opens the data port.
func (s site) listen(ctx context.Context) (net.Listener, error) {
	if s.cfg.ReusePort {
		return proxy.ListenShared(ctx, s.cfg.Listen)
	}
	return net.Listen("tcp", s.cfg.Listen)
}

// launchers makes the launcher of each backend.
func launchers(s site) warmpool.Launch {
	return func(_ string, m config.Model, b config.Backend) warmpool.Launcher {
		return launch.New(launch.Spec{ID: ownName(s.cfg.Node.Name, b.Name), ServedAs: m.ServedAs, Backend: b, StateDir: s.cfg.Node.StateDir, Checkpoint: s.cfg.Node.CUDACheckpoint, Log: s.log})
	}
}

// follow takes over changes of the file. Addresses, trusted proxies, limits and the node's own keys are those of the start.
func (s site) follow(ctx context.Context, pool *lives, plans *planning, price *pricer, registry prometheus.Registerer) error {
	registry.MustRegister(prometheus.NewGaugeFunc(prometheus.GaugeOpts{
		Name: "pilotlight_config_last_reload_successful", Help: "1 if what the configuration file holds is in use, else 0.",
	}, func() float64 {
		if s.watch.Status().LastReloadSuccessful {
			return 1
		}
		return 0
	}))
	s.watch.Run(ctx, s.reload, func(next *config.Config) error {
		if err := checkPolicies(next); err != nil {
			return err
		}
		if err := pool.update(next); err != nil {
			return err
		}
		price.prices.Store(next.Prices) // for what is settled from now on
		plans.update(next.Pool)
		return nil
	})
	return nil
}

// loaded is what /debug/config shows.
func (s site) loaded() any {
	if s.watch == nil {
		return config.Status{LastReloadSuccessful: true, Hash: s.cfg.Hash()}
	}
	return s.watch.Status()
}

// lock keeps a second pilotlight from the same state directory: it would adopt, and stop, the first one's model servers.
func lock(stateDir, name string) (unlock func(), err error) {
	if err := os.MkdirAll(stateDir, 0o755); err != nil {
		return nil, fmt.Errorf("make the state directory: %w", err)
	}
	f, err := os.OpenFile(filepath.Join(stateDir, name), os.O_CREATE|os.O_RDWR, 0o644)
	if err != nil {
		return nil, fmt.Errorf("lock the state directory: %w", err)
	}
	if err := syscall.Flock(int(f.Fd()), syscall.LOCK_EX|syscall.LOCK_NB); err != nil {
		f.Close()
		return nil, fmt.Errorf("another pilotlight uses the state directory %s; stop it, or give this one a node.state_dir of its own", stateDir)
	}
	return func() { f.Close() }, nil
}
