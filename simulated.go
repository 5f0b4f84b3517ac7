package main

import (
	"bufio"
	"context"
	"encoding/json"
	"fmt"
	"net/http"
	"os"
	"strconv"
	"strings"
	"time"

	"pilotlight/config"
	"pilotlight/probe"
	"pilotlight/proxy/admin"
)

// simulated looks at GPUs that are not there. What is held of them, and how busy they are, it asks the simulated model servers,
// as the driver would ask its GPUs; who they are, it asks the pilotlight that runs them.
type simulated struct {
	gpus   []config.GPU
	admin  admin.Client
	others string // file that says what others hold of them; empty: nothing

	at  time.Time             // of the look before
	ran map[int]time.Duration // for how long each server, by its PID, had computed then
	all []time.Duration       // for how long each GPU has
}

// othersFile is where, beside the state, a load test says what others hold of simulated GPUs: a JSON list of sizes, by GPU.
const othersFile = "others.json"

// lookEvery is how often.
const lookEvery = 200 * time.Millisecond

// Watch is a probe.Watch.
func (s *simulated) Watch(ctx context.Context, see func(probe.GPUs)) error {
	s.ran, s.all = map[int]time.Duration{}, make([]time.Duration, len(s.gpus))
	for {
		see(s.look(ctx))
		if !pause(ctx, lookEvery) {
			return ctx.Err()
		}
	}
}

func (s *simulated) look(ctx context.Context) probe.GPUs {
	look := probe.GPUs{At: time.Now(), Driver: probe.SimulatedDriver}
	for i, g := range s.gpus {
		look.GPUs = append(look.GPUs, probe.GPU{
			Index: i, UUID: fmt.Sprintf("SIM-%d", i), Name: "simulated", NUMA: -1, Total: g.Memory, Free: g.Memory, Ran: s.all[i], RanAt: look.At,
			Energy: -1, Power: -1, Heat: -1, Clock: -1, ECC: -1, Remapped: -1, Recovery: probe.RecoveryNone,
		})
	}
	s.addOthers(look)
	status, err := s.admin.Status(ctx)
	if err != nil {
		return look // it has not begun yet, or is ending
	}
	passed := look.At.Sub(s.at)
	s.at = look.At
	ran := map[int]time.Duration{}
	for _, m := range status.Models {
		for _, b := range m.Backends {
			if b.PID == 0 || b.Addr == "" || len(b.GPUs) == 0 {
				continue
			}
			held, busy := ask(ctx, b.Addr)
			ran[b.PID] = busy
			was, known := s.ran[b.PID]
			if !known {
				was = busy
			}
			s.add(look, b, held, max(0, busy-was), passed)
		}
	}
	s.ran = ran
	return look
}

// addOthers counts what others hold, if they hold anything.
func (s *simulated) addOthers(look probe.GPUs) {
	var held []config.Size
	text, err := os.ReadFile(s.others)
	if err != nil || json.Unmarshal(text, &held) != nil {
		return // there is no such file, or it is being written
	}
	for i := range min(len(held), len(look.GPUs)) {
		g := &look.GPUs[i]
		g.Used, g.Free = g.Used+held[i], max(0, g.Free-held[i])
	}
}

// add counts what a server holds and how it was busy, evenly on its GPUs.
func (s *simulated) add(look probe.GPUs, b admin.BackendStatus, held config.Size, busy, passed time.Duration) {
	for _, i := range b.GPUs {
		if i >= len(look.GPUs) {
			continue
		}
		g, each, share := &look.GPUs[i], held/config.Size(len(b.GPUs)), min(1, float64(busy)/float64(passed))
		g.Used, g.Free, g.Busy = g.Used+each, g.Free-each, min(1, g.Busy+share)
		s.all[i] += busy
		g.Ran = s.all[i]
		if each > 0 {
			g.Processes = append(g.Processes, probe.Process{PID: b.PID, Used: each, Busy: share, Name: "modelsim"})
		}
	}
}

// ask reads from a simulated model server's metrics what it holds of its GPUs, and for how long it has computed.
func ask(ctx context.Context, addr string) (held config.Size, busy time.Duration) {
	ctx, cancel := context.WithTimeout(ctx, lookEvery)
	defer cancel()
	r, err := http.NewRequestWithContext(ctx, http.MethodGet, "http://"+addr+"/metrics", nil)
	if err != nil {
		return 0, 0
	}
	answer, err := http.DefaultClient.Do(r)
	if err != nil {
		return 0, 0
	}
	defer answer.Body.Close()
	for lines := bufio.NewScanner(answer.Body); lines.Scan(); {
		name, _, _ := strings.Cut(lines.Text(), "{")
		value, err := strconv.ParseFloat(lines.Text()[strings.LastIndexByte(lines.Text(), ' ')+1:], 64)
		switch {
		case err != nil:
		case name == "modelsim_gpu_memory_bytes":
			held = config.Size(value)
		case name == "modelsim_gpu_busy_seconds_total":
			busy = time.Duration(value * float64(time.Second))
		}
	}
	return held, busy
}
