package main

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net/http"
	"os"
	"os/exec"
	"runtime"
	"strconv"
	"strings"
	"sync"
	"time"

	"pilotlight/config"
	"pilotlight/router"
	"pilotlight/router/consul"
)

// follow is the process that is measured: an edge's discovery and its router. It prints a line for each backend whose state changes,
// and one with what that took after each catalogue and each second.
func follow(ctx context.Context, o options) error {
	c, err := client(o.follow)
	if err != nil {
		return err
	}
	models := map[string]config.Model{}
	for _, form := range []string{"model-%03d", "new-%03d"} {
		for i := range o.models {
			name := fmt.Sprintf(form, i)
			models[name] = config.DefaultModel(name)
		}
	}
	lines := router.New(models, nobody{}, slog.New(slog.DiscardHandler))
	var mu sync.Mutex // guards the output
	states := map[string]router.State{}
	catalogues := 0
	go func() {
		for range time.Tick(time.Second) {
			mu.Lock()
			bytes, requests := c.Received()
			fmt.Println("used", bytes, requests, catalogues)
			mu.Unlock()
		}
	}()
	return c.Watch(ctx, func(next *consul.Catalogue) {
		for _, node := range next.Changed {
			lines.Observe(next.Node(node))
		}
		now := time.Now().UnixNano()
		mu.Lock()
		defer mu.Unlock()
		catalogues++
		for _, node := range next.Changed {
			for _, b := range next.Nodes[node] {
				if was, known := states[b.ID]; !known || was != b.State {
					states[b.ID] = b.State
					fmt.Println("state", now, b.ID, b.State)
				}
			}
		}
	})
}

type nobody struct{}

func (nobody) Wake(context.Context, string) error { return errors.New("nobody wakes anything here") }

// edge is that process, seen from outside.
type edge struct {
	cmd *exec.Cmd

	mu     sync.Mutex // guards what follows
	states map[string]seen
	nReady int
	last   usage
	news   chan struct{}
}

type seen struct {
	state string
	at    time.Time
}

type usage struct {
	cpu             time.Duration
	bytes, requests int64
	catalogues      int64
}

func (u usage) minus(v usage) usage {
	return usage{u.cpu - v.cpu, u.bytes - v.bytes, u.requests - v.requests, u.catalogues - v.catalogues}
}

func startEdge(ctx context.Context, addr string) (*edge, error) {
	self, err := os.Executable()
	if err != nil {
		return nil, err
	}
	e := &edge{cmd: exec.CommandContext(ctx, self, "-follow", addr), states: map[string]seen{}, news: make(chan struct{})}
	e.cmd.Stderr = os.Stderr
	out, err := e.cmd.StdoutPipe()
	if err != nil {
		return nil, err
	}
	if err := e.cmd.Start(); err != nil {
		return nil, err
	}
	go e.read(out)
	return e, nil
}

func (e *edge) read(out io.Reader) {
	lines := bufio.NewScanner(out)
	for lines.Scan() {
		f := strings.Fields(lines.Text())
		e.mu.Lock()
		switch f[0] {
		case "state":
			at, _ := strconv.ParseInt(f[1], 10, 64)
			if e.states[f[2]].state == "ready" {
				e.nReady--
			}
			if f[3] == "ready" {
				e.nReady++
			}
			e.states[f[2]] = seen{f[3], time.Unix(0, at)}
		case "used":
			e.last.bytes, _ = strconv.ParseInt(f[1], 10, 64)
			e.last.requests, _ = strconv.ParseInt(f[2], 10, 64)
			e.last.catalogues, _ = strconv.ParseInt(f[3], 10, 64)
		}
		close(e.news)
		e.news = make(chan struct{})
		e.mu.Unlock()
	}
}

func (e *edge) end() {
	_ = e.cmd.Process.Kill()
	_ = e.cmd.Wait()
}

func (e *edge) ready() int {
	e.mu.Lock()
	defer e.mu.Unlock()
	return e.nReady
}

func (e *edge) state(id string) string {
	e.mu.Lock()
	defer e.mu.Unlock()
	return e.states[id].state
}

func (e *edge) when(id string) time.Time {
	e.mu.Lock()
	defer e.mu.Unlock()
	return e.states[id].at
}

// await waits until the edge has said what is wanted.
func (e *edge) await(ctx context.Context, what string, limit time.Duration, wanted func() bool) error {
	ctx, cancel := context.WithTimeout(ctx, limit)
	defer cancel()
	for {
		e.mu.Lock()
		news := e.news
		e.mu.Unlock()
		if wanted() {
			return nil
		}
		select {
		case <-news:
		case <-ctx.Done():
			return fmt.Errorf("%s: not within %s; %d are ready", what, limit, e.ready())
		}
	}
}

// rest waits until the edge has asked for nothing for a while.
func (e *edge) rest(ctx context.Context, quiet time.Duration) error {
	before := e.usage()
	since := time.Now()
	for range 300 {
		select {
		case <-time.After(time.Second):
		case <-ctx.Done():
			return context.Cause(ctx)
		}
		if now := e.usage(); now.requests != before.requests {
			before, since = now, time.Now()
		}
		if time.Since(since) >= quiet {
			return nil
		}
	}
	return nil
}

// usage is what the edge has used so far. What it says of itself is a second old at most.
func (e *edge) usage() usage {
	<-time.After(1100 * time.Millisecond)
	e.mu.Lock()
	defer e.mu.Unlock()
	u := e.last
	u.cpu = cpu(e.cmd.Process.Pid)
	return u
}

// cpu is the processor time that a process has used, from /proc/PID/stat, whose unit is a hundredth of a second.
func cpu(pid int) time.Duration {
	text, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", pid))
	if err != nil {
		return 0
	}
	_, rest, _ := strings.Cut(string(text), ") ")
	f := strings.Fields(rest)
	user, _ := strconv.ParseInt(f[11], 10, 64)
	system, _ := strconv.ParseInt(f[12], 10, 64)
	return time.Duration(user+system) * 10 * time.Millisecond
}

// memory is how much of the edge is resident, in bytes.
func (e *edge) memory() int64 {
	text, err := os.ReadFile(fmt.Sprintf("/proc/%d/status", e.cmd.Process.Pid))
	if err != nil {
		return 0
	}
	_, rest, _ := strings.Cut(string(text), "VmRSS:")
	f := strings.Fields(rest)
	n, _ := strconv.ParseInt(f[0], 10, 64)
	return n << 10
}

func numCPU() int { return runtime.NumCPU() }

// wholeFleet is the size of the answer with all checks, compressed as it is sent.
func wholeFleet(ctx context.Context, addr string) (int64, error) {
	r, err := http.NewRequestWithContext(ctx, http.MethodGet, "http://"+addr+"/v1/health/state/any", nil)
	if err != nil {
		return 0, err
	}
	r.Header.Set("Accept-Encoding", "gzip")
	answer, err := http.DefaultClient.Do(r)
	if err != nil {
		return 0, err
	}
	defer answer.Body.Close()
	n, err := io.Copy(io.Discard, answer.Body)
	return n, err
}
