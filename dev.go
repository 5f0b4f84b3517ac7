package main

import (
	"context"
	_ "embed"
	"fmt"
	"log/slog"
	"os"
	"path/filepath"

	"pilotlight/config"
	"pilotlight/proxy/admin"
	"pilotlight/warmpool/live"
)

// devConfig is the made-up fleet of dev. It is an example too: everything in it works in a file of one's own.
//
//go:embed deploy/examples/dev.yaml
var devConfig []byte

type devCmd struct {
	Listen string `default:"127.0.0.1:8080" placeholder:"ADDR" help:"The data port (${default})."`
	Admin  string `default:"127.0.0.1:8081" placeholder:"ADDR" help:"The admin port (${default})."`
	recordedFlags
	Print bool `help:"Print the configuration of the made-up fleet, and do nothing else."`
}

// Run serves the made-up fleet until it is told to stop. Nothing of it remains.
func (c *devCmd) Run(ctx context.Context, log *slog.Logger) error {
	if c.Print {
		_, err := os.Stdout.Write(devConfig)
		return err
	}
	text, recorded := devConfig, (*replay)(nil)
	if c.Replay != "" {
		var err error
		if recorded, err = newReplay(c.recordedFlags, log); err != nil {
			return err
		}
		text = recorded.config()
	}
	cfg, err := config.Parse("dev.yaml", text)
	if err != nil {
		return err
	}
	self, err := os.Executable()
	if err != nil {
		return fmt.Errorf("find the simulated model server, which is this program: %w", err)
	}
	for _, m := range cfg.Models {
		for _, b := range m.Backends {
			b.Process.Command[0] = self
		}
	}
	dir, err := os.MkdirTemp("", "pilotlight-dev-")
	if err != nil {
		return fmt.Errorf("make a directory for the state: %w", err)
	}
	defer os.RemoveAll(dir)
	cfg.Node.StateDir, cfg.Ledger.File = dir, filepath.Join(dir, "ledger.db")
	if err := override(cfg, c.Listen, c.Admin); err != nil {
		return err
	}
	gpus := &simulated{gpus: cfg.Node.GPUs, admin: admin.Client{Addr: cfg.Admin, TokenFile: cfg.AdminTokenFile}}
	s := site{
		cfg: cfg, log: log, gpus: gpus.Watch,
		stopServers: func() bool { return true },
		started:     func() { fmt.Printf(welcome, c.Listen, c.Admin, c.Listen, c.Admin) },
	}
	if recorded != nil {
		if err := replaceFile(filepath.Join(dir, "learned.json"), recorded.learned()); err != nil {
			return err
		}
		c.serveRecorded(ctx, &s, recorded)
	}
	return serve(ctx, s)
}

// serveRecorded has what is served be asked for as recorded.
func (c *devCmd) serveRecorded(ctx context.Context, s *site, r *replay) {
	s.clock, s.speed = r.clock, r.Speed
	var plans *live.Planner
	s.planner = func(p *live.Planner) {
		plans = p
		r.teach(p)
	}
	s.started = func() {
		r.tell(c)
		go func() {
			if r.run(ctx, c.Listen) == nil {
				r.end(plans)
			}
		}()
	}
}

const welcome = `
Four simulated models sleep on two simulated GPUs. Paste this in another terminal; the model wakes, and answers:

  curl -N http://%s/v1/chat/completions -H 'Content-Type: application/json' \
    -d '{"model":"llama-8b","stream":true,"messages":[{"role":"user","content":"Tell me about pilot lights."}]}'

What it did: pilotlight status --admin %s   (go run . status works too)
Data port: http://%s   Admin port: http://%s   Ctrl-C ends it all.

`
