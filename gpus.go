package main

import (
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"os"
	"strings"
	"text/tabwriter"
	"time"

	"pilotlight/probe"
	"pilotlight/probe/nvml"
	"pilotlight/proxy/admin"
)

type gpusCmd struct {
	remote
	Watch time.Duration `help:"Show them again and again, this often."`
	Local bool          `help:"Look at this machine, whether a pilotlight runs here or not. Without a running one that is what happens anyway."`
	NVML  string        `name:"nvml" placeholder:"PATH" help:"Look at this machine with this library, in place of the system's libnvidia-ml.so.1."`
}

// Run shows the GPUs that a running pilotlight sees, or else those of this machine.
func (c gpusCmd) Run(ctx context.Context, log *slog.Logger) error {
	if !c.Local && c.NVML == "" {
		s, err := c.client().GPUs(ctx)
		for err == nil {
			if err = c.print(s); err != nil || c.Watch == 0 {
				return err
			}
			if !pause(ctx, c.Watch) {
				return nil
			}
			s, err = c.client().GPUs(ctx)
		}
		if !errors.Is(err, admin.ErrNobody) {
			return err
		}
		fmt.Fprintf(os.Stderr, "No pilotlight answers on %s: this is what this machine itself says.\n", c.Admin)
	}
	return c.local(ctx, log)
}

// local looks at this machine. A first look says little of what is used: the second, a moment later, is shown.
func (c gpusCmd) local(ctx context.Context, log *slog.Logger) error {
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	watch, err := watchNVML(c.NVML, log)
	if err != nil {
		return err
	}
	host, _ := os.Hostname()
	nobodys := func(probe.Process) string { return "" }
	began, shown, looks := time.Now(), time.Time{}, 0
	var problem error
	err = watch(ctx, func(look probe.GPUs) {
		starting := look.At.IsZero() && time.Since(began) < driverStart
		if looks++; starting || len(look.GPUs) > 0 && looks < settled || !shown.IsZero() && time.Since(shown) < c.Watch {
			return
		}
		shown = time.Now()
		if problem = c.print(admin.GPUsOf(host, look, nobodys)); problem != nil || c.Watch == 0 {
			cancel()
		}
	})
	switch {
	case errors.Is(err, nvml.ErrNoLibrary) && shown.IsZero():
		return c.print(admin.GPUsOf(host, probe.GPUs{Problem: err.Error()}, nobodys))
	case errors.Is(err, nvml.ErrNoLibrary), errors.Is(err, context.Canceled):
		return problem
	}
	return cmp.Or(problem, err)
}

// settled is how many looks it takes until one says how busy GPUs are.
const settled = 6

func pause(ctx context.Context, d time.Duration) bool {
	select {
	case <-time.After(d):
		return true
	case <-ctx.Done():
		return false
	}
}

// print shows one look.
func (c gpusCmd) print(s admin.GPUsStatus) error {
	if c.JSON {
		e := json.NewEncoder(os.Stdout)
		e.SetIndent("", "  ")
		return e.Encode(s)
	}
	if c.Watch > 0 {
		fmt.Print("\033[H\033[2J")
	}
	return gpuTable(os.Stdout, s)
}

// gpuTable shows the GPUs of a node, a line each, and a line for each of their processes.
func gpuTable(to io.Writer, s admin.GPUsStatus) error {
	if len(s.GPUs) == 0 {
		_, err := fmt.Fprintf(to, "%s has no GPU that we can see: %s\n", s.Node, cmp.Or(s.Problem, "its driver lists none"))
		return err
	}
	w := tabwriter.NewWriter(to, 0, 0, 2, ' ', 0)
	fmt.Fprintln(w, "NODE\tGPU\tNAME\tBACKENDS\tOTHERS\tFREE\tTOTAL\tBUSY\tHEALTH\tPROCESS\tBACKEND\tHOLDS\tBUSY")
	for _, g := range s.GPUs {
		line := fmt.Sprintf("%s\t%d\t%s\t%s\t%s\t%s\t%s\t%s\t%s", s.Node, g.Index, cmp.Or(g.Name, "?"),
			mib(g.Ours), mib(g.Others), mib(g.Free), mib(g.Total), percent(g.Busy), g.Health)
		for i, p := range g.Processes {
			if i > 0 {
				line = strings.Repeat("\t", 8)
			}
			fmt.Fprintf(w, "%s\t%s\t%s\t%s\t%s\n", line, strings.TrimSpace(fmt.Sprint(p.PID, " ", p.Name)), cmp.Or(p.Backend, "-"), mib(p.Used), percent(p.Busy))
		}
		if len(g.Processes) == 0 {
			fmt.Fprintf(w, "%s\t-\t\t\t\n", line)
		}
	}
	if err := w.Flush(); err != nil {
		return err
	}
	return remarks(to, s)
}

// remarks say under the table what does not fit into it.
func remarks(to io.Writer, s admin.GPUsStatus) error {
	var err error
	say := func(format string, values ...any) {
		if err == nil {
			_, err = fmt.Fprintf(to, format+"\n", values...)
		}
	}
	for _, g := range s.GPUs {
		if g.Reason != "" {
			say("GPU %d is %s: %s", g.Index, g.Health, g.Reason)
		}
		for _, not := range g.Silent {
			say("GPU %d does not tell %s", g.Index, not)
		}
	}
	if s.At != nil {
		if age := time.Since(*s.At); age > 2*time.Second {
			say("This was read %s ago.", age.Round(time.Second))
		}
	}
	if s.Foreign {
		say("The driver names processes by the host's PIDs, which cannot be seen from this container: give it the host's PID namespace, or its /proc as HOST_PROC.")
	}
	return err
}

// mib is an amount of memory as nvidia-smi writes it.
func mib(bytes int64) string {
	if bytes < 0 {
		return "?"
	}
	return fmt.Sprintf("%dMiB", (bytes+1<<19)>>20)
}

func percent(share float64) string {
	if share < 0 {
		return "?"
	}
	return fmt.Sprintf("%.0f%%", share*100)
}

// nvmlCmd is the process in which NVML lives: what nvml.Watcher starts.
type nvmlCmd struct {
	Library string `arg:"" optional:"" help:"The library; the system's where it is not given."`
}

func (c nvmlCmd) Run(ctx context.Context) error {
	return nvml.Child(ctx, c.Library, os.Stdin, os.Stdout)
}

// watchNVML watches this machine's GPUs with the library at path, or the system's.
func watchNVML(path string, log *slog.Logger) (probe.Watch, error) {
	self, err := os.Executable()
	if err != nil {
		return nil, fmt.Errorf("find the program that looks at GPUs, which is this one: %w", err)
	}
	w := &nvml.Watcher{Command: []string{self, "nvml"}, Log: log}
	if path != "" {
		w.Command = append(w.Command, path)
	}
	return w.Watch, nil
}
