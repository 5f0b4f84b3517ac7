// Pilotlight stands in front of model servers on GPUs: clients speak to it as they would to the model server itself. Behind it,
// models sleep when nobody asks for them, and wake when somebody does.
//
// A request comes in through package proxy, gets a slot of a backend from package router, and is passed on. Where no backend
// is ready, the router asks the keeper in package warmpool to wake one. serve.go puts these together.
package main

import (
	"context"
	"fmt"
	"os"
	"os/signal"
	"runtime/debug"
	"syscall"

	"github.com/alecthomas/kong"

	"pilotlight/loadtest/modelsim"
)

// verbs are what pilotlight can be told to do.
type verbs struct {
	Dev        devCmd           `cmd:"" help:"Try it: four simulated models on two simulated GPUs, on this machine. Needs nothing."`
	Serve      serveCmd         `cmd:"" help:"Serve the models of a configuration file."`
	Agent      agentCmd         `cmd:"" help:"Keep the backends of one node, for edges elsewhere."`
	Check      checkCmd         `cmd:"" help:"Say what is wrong with a configuration file, all at once."`
	Import     importCmd        `cmd:"" help:"Make a configuration file of what llama-swap or Ollama know of models."`
	Status     statusCmd        `cmd:"" help:"Show models, backends, slots and lines of a running pilotlight."`
	Nodes      nodesCmd         `cmd:"" help:"Show the nodes that a running pilotlight has links to: GPUs, backends, when their agents were heard."`
	Explain    explainCmd       `cmd:"" help:"Show how a model's next request would be decided: which backend would get it or be woken, and why not the others."`
	Plan       planCmd          `cmd:"" help:"Show where every backend should be, and why; or what another policy would make of it."`
	Keys       keysCmd          `cmd:"" help:"Make, list and revoke API keys."`
	Wake       wakeCmd          `cmd:"" help:"Wake a model, and wait until it is ready."`
	Sleep      sleepCmd         `cmd:"" help:"Put a model to sleep, once it has finished what it is doing."`
	Stop       stopCmd          `cmd:"" help:"Stop a model's backends, once they have finished what they are doing."`
	Pin        pinCmd           `cmd:"" help:"Keep a model awake, whatever is planned."`
	Unpin      unpinCmd         `cmd:"" help:"Take a model's pin away."`
	GPUs       gpusCmd          `cmd:"" name:"gpus" help:"Show GPUs: who holds their memory, how busy they are, and whether they are well."`
	Usage      usageCmd         `cmd:"" help:"Show who used how much of the GPUs, and what it cost, by tenant, model and more."`
	Advise     adviseCmd        `cmd:"" help:"Say what models would cost always on, scaled to zero, or serverless, and what to keep on."`
	Loadtest   loadtestCmd      `cmd:"" help:"Put a load on a model server or a pilotlight, and measure what clients see."`
	Simulate   simulateCmd      `cmd:"" help:"Replay recorded demand against policies of the warm pool, in virtual time: cold starts, and memory held for nothing."`
	NVML       nvmlCmd          `cmd:"" name:"nvml" hidden:""`
	Modelsim   modelsim.Options `cmd:"" help:"Run one simulated model server, as dev does."`
	Complete   completeCmd      `cmd:"" hidden:""`
	Completion completionCmd    `cmd:"" help:"Print a script by which bash, zsh or fish complete verbs, flags and models."`
	Version    versionCmd       `cmd:"" help:"Print the version."`

	Log string `enum:"auto,json,text" default:"auto" env:"PILOTLIGHT_LOG" help:"How lines of the log look: json, text, or auto, which is text on a terminal and else JSON."`
}

func main() {
	var v verbs
	told := kong.Parse(&v, kong.Name("pilotlight"), kong.UsageOnError(), kong.ConfigureHelp(kong.HelpOptions{Compact: true}),
		kong.Description("The reverse proxy that lets model servers on GPUs sleep, and has them awake before anybody waits.\n\n"+
			"Start with `pilotlight dev`, then put your own models into a file and run `pilotlight serve -c FILE`."))
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer stop()
	context.AfterFunc(ctx, stop) // a second signal ends it at once
	told.BindTo(ctx, (*context.Context)(nil))
	log, flush := newLog(ctx, v.Log)
	err := told.Run(log)
	flush()
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
}

type versionCmd struct{}

func (versionCmd) Run() error {
	fmt.Println("pilotlight", version())
	return nil
}

// version is what the build knows of itself.
func version() string {
	if info, ok := debug.ReadBuildInfo(); ok && info.Main.Version != "" {
		return info.Main.Version
	}
	return "(devel)"
}
