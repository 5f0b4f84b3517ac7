package main

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"time"

	"pilotlight/loadtest/scenario"
)

// scenarioCmd runs a use on a fleet of its own.
type scenarioCmd struct {
	Name string `arg:"" optional:"" help:"Which one; without a name, what there is."`

	Speed   float64       `placeholder:"X" group:"Scenario" help:"How many times as fast as the world, in place of the scenario's own."`
	For     time.Duration `placeholder:"TIME" group:"Scenario" help:"How long, in the time of the world, in place of the scenario's own."`
	Seed    uint64        `default:"1" group:"Scenario" help:"The same seed makes the same requests at the same times (${default})."`
	Faults  string        `placeholder:"FILE" type:"existingfile" group:"Scenario" help:"Let things go wrong, as a timeline in YAML says; loadtest/scenario/soak.yaml is one."`
	Consul  string        `placeholder:"PATH" group:"Scenario" help:"The program Consul, for the fleet of soak. Default: bin/consul or consul, where there is one; else it does without."`
	GPUHour float64       `name:"gpu-hour" placeholder:"US$" group:"Prices" help:"An hour of a GPU that is rented by the hour. Default: 0.8048, that of an L4."`
	Second  float64       `name:"serverless-second" placeholder:"US$" group:"Prices" help:"A second of a serverless GPU, in place of the public prices."`
	Window  time.Duration `name:"serverless-window" default:"1m" group:"Prices" help:"How long a serverless GPU is kept, and charged for, after its last request (${default})."`
	reportFlags
}

// Help is what kong prints below the usage.
func (scenarioCmd) Help() string {
	var b strings.Builder
	b.WriteString("Each starts a fleet of its own on this machine: a real pilotlight, model servers that are simulated, GPUs that are made up. Where one spans hours, time is\ncompressed, and the report says how.\n\n")
	for _, s := range scenario.All() {
		fmt.Fprintf(&b, "  pilotlight loadtest scenario %-18s %s\n", s.Name, s.About)
	}
	return b.String()
}

// Run runs it and prints its report.
func (c *scenarioCmd) Run(ctx context.Context) error {
	if c.Name == "" {
		fmt.Print(c.Help())
		return nil
	}
	s, err := c.scenario()
	if err != nil {
		return err
	}
	program, err := os.Executable()
	if err != nil {
		return fmt.Errorf("find the fleet, which is this program: %w", err)
	}
	o := scenario.Options{Program: program, Seed: c.Seed, Prices: c.prices(), Terminal: isTerminal(os.Stderr)}
	if !c.Quiet {
		o.Progress = os.Stderr
	}
	if c.Faults != "" {
		if o.Faults, err = scenario.LoadFaults(c.Faults); err != nil {
			return err
		}
	}
	if o.Consul, err = c.consul(); err != nil {
		return err
	}
	p, err := s.Run(ctx, o)
	if err != nil {
		return fmt.Errorf("scenario %s: %w", c.Name, err)
	}
	p.Command = commandLine()
	return c.write(p)
}

// scenario is the one that is asked for, as it is asked for.
func (c *scenarioCmd) scenario() (scenario.Scenario, error) {
	var names []string
	for _, s := range scenario.All() {
		names = append(names, s.Name)
		if s.Name != c.Name {
			continue
		}
		if c.Speed < 0 || c.For < 0 {
			return s, errors.New("--speed and --for may not be negative")
		}
		if c.Speed > 0 {
			s.Speed = c.Speed
		}
		if c.For > 0 {
			s.For = c.For
		}
		for _, slo := range c.SLO {
			s.SLOs = append(s.SLOs, slo.String())
		}
		return s, nil
	}
	return scenario.Scenario{}, fmt.Errorf("there is no scenario %q: there are %s", c.Name, strings.Join(names, ", "))
}

// consul is where Consul is; empty: nowhere.
func (c *scenarioCmd) consul() (string, error) {
	if c.Consul != "" {
		path, err := exec.LookPath(c.Consul)
		if err != nil {
			return "", fmt.Errorf("find Consul: %w", err)
		}
		return filepath.Abs(path)
	}
	for _, place := range []string{"bin/consul", "consul"} {
		if path, err := exec.LookPath(place); err == nil {
			return filepath.Abs(path)
		}
	}
	return "", nil
}

func (c *scenarioCmd) prices() scenario.Prices {
	p := scenario.PublicPrices()
	p.Window = c.Window
	if c.GPUHour > 0 {
		p.GPUHour = c.GPUHour
	}
	if c.Second > 0 {
		p.Serverless = []scenario.Serverless{{Name: "as told", Second: c.Second}}
	}
	return p
}
