package main

import (
	"cmp"
	"context"
	"encoding/json"
	"fmt"
	"maps"
	"os"
	"slices"
	"strconv"
	"strings"
	"text/tabwriter"
	"time"

	"pilotlight/config"
	"pilotlight/proxy/admin"
	"pilotlight/proxy/jwt"
	"pilotlight/router"
	"pilotlight/router/consul"
	"pilotlight/warmpool/agent"
)

type checkCmd struct {
	File  string `arg:"" type:"existingfile" help:"The configuration file."`
	Print bool   `help:"Print the whole configuration, defaults filled in and secrets left out."`
}

func (c checkCmd) Run() error {
	cfg, err := config.Load(c.File)
	if err != nil {
		return err
	}
	if err := checkPolicies(cfg); err != nil {
		return err
	}
	if c.Print {
		return cfg.Print(os.Stdout)
	}
	models := "models"
	if len(cfg.Models) == 1 {
		models = "model"
	}
	fmt.Printf("%s is fine: %d %s\n", c.File, len(cfg.Models), models)
	return nil
}

// remote is how to reach a running pilotlight.
type remote struct {
	Admin     string `default:"127.0.0.1:8081" env:"PILOTLIGHT_ADMIN" placeholder:"ADDR" help:"The admin port of the pilotlight to ask (${default})."`
	TokenFile string `name:"admin-token-file" env:"PILOTLIGHT_ADMIN_TOKEN_FILE" type:"existingfile" placeholder:"FILE" help:"The file with the admin port's token, where it wants one. Default: the token is PILOTLIGHT_ADMIN_TOKEN of the environment."`
	JSON      bool   `help:"Print JSON in place of a table."`
}

type statusCmd struct {
	remote
	Watch time.Duration `help:"Show it again and again, this often."`
}

func (c statusCmd) Run(ctx context.Context) error {
	for {
		s, err := c.client().Status(ctx)
		if err != nil {
			return err
		}
		if c.Watch > 0 && !c.JSON {
			fmt.Print("\033[H\033[2J")
		}
		if err := c.show(s, s.Models...); err != nil {
			return err
		}
		if !c.JSON {
			showPlanned(s.Plan)
			showConsul(s.Consul)
			showIssuers(s.Issuers)
		}
		if c.Watch == 0 {
			return nil
		}
		select {
		case <-time.After(c.Watch):
		case <-ctx.Done():
			return nil
		}
	}
}

// showIssuers prints how it is with the keys of tokens' issuers, below a table.
func showIssuers(all []jwt.IssuerStatus) {
	for _, is := range all {
		if is.Problem == "" {
			fmt.Printf("\n%s: %d keys\n", is.Issuer, is.Keys)
			continue
		}
		since := "there were none yet"
		if !is.Read.IsZero() {
			since = fmt.Sprintf("the %d of %s ago count", is.Keys, time.Since(is.Read).Round(time.Second))
		}
		fmt.Printf("\n%s: its keys are not taken over, %s: %s\n", is.Issuer, since, is.Problem)
	}
}

// showConsul prints what is known of Consul, below a table.
func showConsul(s *consul.Status) {
	if s == nil {
		return
	}
	fmt.Printf("\nConsul at %s knows %d agents, %d edges, %d backends", s.Address, s.Agents, s.Edges, s.Backends)
	for _, lock := range slices.Sorted(maps.Keys(s.Locks)) {
		fmt.Printf("; %s: %s", lock, s.Locks[lock])
	}
	fmt.Println()
	if !s.Answers {
		heard := "never"
		if !s.Contact.IsZero() {
			heard = "last " + time.Since(s.Contact).Round(time.Second).String() + " ago"
		}
		fmt.Printf("  it does not answer (%s); what it last said stands: %s\n", heard, s.Failure)
	}
	for _, problem := range s.Problems {
		fmt.Println("  " + strings.ReplaceAll(problem, "\n", "\n  "))
	}
}

// show prints whole as JSON, or the models as a table.
func (c remote) show(whole any, models ...admin.ModelStatus) error {
	if c.JSON {
		e := json.NewEncoder(os.Stdout)
		e.SetIndent("", "  ")
		return e.Encode(whole)
	}
	w := tabwriter.NewWriter(os.Stdout, 0, 0, 2, ' ', 0)
	fmt.Fprintln(w, "MODEL\tLINE\tBACKEND\tSTATE\tSINCE\tSLOTS\tGPUS\tMEMORY\tADDRESS\tWHY")
	for _, m := range models {
		if len(m.Backends) == 0 {
			fmt.Fprintf(w, "%s\t%d\tnone\t\t\t\t\t\t\t\n", m.Name, m.Line.Waiting)
		}
		for i, b := range m.Backends {
			name, line := m.Name, strconv.Itoa(m.Line.Waiting)
			if i > 0 {
				name, line = "", ""
			}
			fmt.Fprintf(w, "%s\t%s\t%s\t%s\t%s ago\t%d/%d\t%s\t%s\t%s\t%s\n", name, line, b.ID, b.State,
				time.Since(b.Since).Round(time.Second), b.InFlight, b.Slots, gpus(b), memory(b), b.Addr, b.Reason)
		}
	}
	return w.Flush()
}

// memory is what the backend needs, and what the configuration says of it where that is less.
func memory(b admin.BackendStatus) string {
	if b.Memory == b.Configured {
		return config.Size(b.Memory).String()
	}
	return fmt.Sprintf("%s (configured: %s)", rounded(b.Memory), config.Size(b.Configured))
}

// rounded is a measured size, to a tenth of its unit.
func rounded(bytes int64) string {
	if size := config.Size(bytes); size < config.GiB {
		return fmt.Sprintf("%.1fMiB", float64(size)/float64(config.MiB))
	}
	return fmt.Sprintf("%.1fGiB", float64(bytes)/float64(config.GiB))
}

// gpus are the backend's, as 0,1.
func gpus(b admin.BackendStatus) string {
	return strings.Trim(strings.ReplaceAll(fmt.Sprint(b.GPUs), " ", ","), "[]")
}

type nodesCmd struct{ remote }

func (c nodesCmd) Run(ctx context.Context) error {
	var nodes []agent.NodeStatus
	if err := c.client().Nodes(ctx, &nodes); err != nil {
		return err
	}
	if c.JSON {
		e := json.NewEncoder(os.Stdout)
		e.SetIndent("", "  ")
		return e.Encode(nodes)
	}
	w := tabwriter.NewWriter(os.Stdout, 0, 0, 2, ' ', 0)
	fmt.Fprintln(w, "NODE\tAGENT\tLINK\tHEARD\tGPUS\tBACKENDS\tVERSION\tWHY")
	for _, n := range nodes {
		heard := "never"
		if !n.Heard.IsZero() {
			heard = time.Since(n.Heard).Round(time.Second).String() + " ago"
		}
		fmt.Fprintf(w, "%s\t%s\t%s\t%s\t%s\t%s\t%s\t%s\n", cmp.Or(n.Name, "?"), n.Addr, n.Link, heard, memories(n.GPUs), counts(n.Backends), n.Version, n.Why)
	}
	return w.Flush()
}

// memories are those of GPUs, as 2x24GiB.
func memories(gpus []agent.GPUStatus) string {
	var all []string
	for i := 0; i < len(gpus); {
		n := i
		for n < len(gpus) && gpus[n].Memory == gpus[i].Memory {
			n++
		}
		all = append(all, fmt.Sprintf("%dx%s", n-i, gpus[i].Memory))
		i = n
	}
	return cmp.Or(strings.Join(all, ","), "none")
}

// counts are how many backends are in each state, as 1 ready, 2 asleep.
func counts(backends map[string]int) string {
	var all []string
	for _, s := range []router.State{router.Ready, router.Waking, router.Draining, router.Asleep, router.Stopped, router.Failed} {
		if n := backends[s.String()]; n > 0 {
			all = append(all, fmt.Sprintf("%d %s", n, s))
		}
	}
	return cmp.Or(strings.Join(all, ", "), "none")
}

type wakeCmd struct{ mover }

func (c wakeCmd) Run(ctx context.Context) error { return c.move(ctx, "wake") }

type sleepCmd struct{ mover }

func (c sleepCmd) Run(ctx context.Context) error { return c.move(ctx, "sleep") }

type stopCmd struct{ mover }

func (c stopCmd) Run(ctx context.Context) error { return c.move(ctx, "stop") }

// mover moves one model by hand.
type mover struct {
	remote
	Model string `arg:"" help:"The model, or an alias of it."`
}

func (c mover) move(ctx context.Context, verb string) error {
	m, err := c.client().Move(ctx, verb, c.Model)
	if err != nil {
		return err
	}
	return c.show(m, m)
}
