package main

import (
	"bytes"
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"maps"
	"net/http"
	"os"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"pilotlight/config"
	"pilotlight/warmpool/live"
	"pilotlight/warmpool/simulate"
)

// recordedFlags make dev serve recorded demand, faster than it came.
type recordedFlags struct {
	Replay string          `type:"existingfile" placeholder:"FILE" group:"Replay" help:"Ask for models as recorded there: any file that simulate reads."`
	Speed  float64         `default:"600" group:"Replay" help:"How much faster than it was recorded (${default}: a day in 2.4 minutes)."`
	Learn  span            `default:"0s" placeholder:"TIME" group:"Replay" help:"What the planner has learned before it begins: so much of the recording, such as 4d (${default})."`
	Models int             `default:"6" group:"Replay" help:"How many of its models are asked for, from the busy to the rare (${default})."`
	Policy string          `default:"predictive:k=60m" group:"Replay" help:"The pool's policy (${default})."`
	Load   config.Duration `default:"60s" group:"Replay" help:"How long a model's load takes, in the time of the recording (${default})."`
}

// replay is recorded demand on its way to a running pilotlight.
type replay struct {
	recordedFlags
	demand *simulate.Demand
	models []string // of the recording, that are asked for
	began  time.Time
	log    *slog.Logger

	asked, failed atomic.Int64
}

// maxReplayed is how many model servers are simulated at most.
const maxReplayed = 32

// newReplay reads the recording and chooses its models.
func newReplay(f recordedFlags, log *slog.Logger) (*replay, error) {
	if f.Speed < 1 || f.Speed > 3600 {
		return nil, fmt.Errorf("--speed is %g; it is from 1 to 3600", f.Speed)
	}
	if f.Models < 1 || f.Models > maxReplayed {
		return nil, fmt.Errorf("--models is %d; it is from 1 to %d", f.Models, maxReplayed)
	}
	if err := live.Check(config.PoolPolicy(f.Policy)); err != nil {
		return nil, err
	}
	demand, _, err := readDemand(f.Replay)
	if err != nil {
		return nil, err
	}
	if time.Duration(f.Learn) >= demand.Length {
		return nil, fmt.Errorf("%s is %s long; nothing is left of it after --learn %s", f.Replay, days(demand.Length), days(time.Duration(f.Learn)))
	}
	r := &replay{recordedFlags: f, demand: demand, log: log}
	r.choose()
	return r, nil
}

// choose takes models from the busiest fifth to the rarest, evenly by their rank: what is always in use, or once in the whole time, shows nothing.
func (r *replay) choose() {
	uses := map[string]int{}
	for u := range r.demand.Uses() {
		uses[u.Model]++
	}
	ranked := slices.SortedFunc(maps.Keys(uses), func(a, b string) int { return cmp.Or(uses[b]-uses[a], strings.Compare(a, b)) })
	skip := 0
	if len(ranked) > r.Models {
		skip = min(len(ranked)/5, len(ranked)-r.Models)
	}
	n := min(r.Models, len(ranked))
	for i := range n {
		r.models = append(r.models, ranked[skip+i*(len(ranked)-skip)*3/4/n])
	}
}

// name is what a recorded model is called in the fleet.
func (r *replay) name(i int) string {
	return "replay-" + strings.Map(func(c rune) rune {
		if c == '-' || c == '_' || c == '.' || c >= '0' && c <= '9' || c >= 'a' && c <= 'z' || c >= 'A' && c <= 'Z' {
			return c
		}
		return '-'
	}, r.models[i][:min(len(r.models[i]), 40)])
}

// config is a fleet of simulated model servers for the recorded models.
func (r *replay) config() []byte {
	var b bytes.Buffer
	fmt.Fprintf(&b, "drain_limit: 3s\nnode:\n  name: dev\n  gpus: [{memory: 80GiB}, {memory: 80GiB}]\n  nvml: off\n  host_memory: 400GiB\npool: {policy: %q}\nmodels:\n", r.Policy)
	load := max(time.Duration(float64(r.Load.Std())/r.Speed), time.Millisecond)
	for i := range r.models {
		fmt.Fprintf(&b, "  %s:\n    backends:\n      - process: {command: [pilotlight, modelsim, --port, \"{port}\", --model, %s, --load, %s, --wake-host, %s, --gpu-memory, \"16\", --gpu-memory-asleep, \"1\", --step, 1ms]}\n"+
			"        engine: vllm\n        sleep: engine\n        memory: 16GiB\n        asleep_memory: 1GiB\n        slots: 32\n", r.name(i), r.name(i), load, load)
	}
	return b.Bytes()
}

// learned is what is known of wake times before the first: those of a recording are shorter than any guess.
func (r *replay) learned() []byte {
	type lesson struct {
		Wake map[string]time.Duration `json:"wake_ns"`
	}
	const starts = 80 * time.Millisecond // a process
	load := time.Duration(float64(r.Load.Std()) / r.Speed)
	all := map[string]lesson{}
	for i := range r.models {
		all[r.name(i)+"-0"] = lesson{map[string]time.Duration{"disk": load + starts, "host": load}}
	}
	text, err := json.Marshal(map[string]any{"version": 2, "backends": all})
	if err != nil {
		panic("BUG: " + err.Error())
	}
	return text
}

// teach lets the planner learn from the part of the recording that is past when the replay begins.
func (r *replay) teach(p *live.Planner) {
	p.Teach(r.demand.Began, time.Duration(r.Learn), func(yield func(live.Use) bool) {
		for u := range r.demand.Uses() {
			i := slices.Index(r.models, u.Model)
			if u.At >= time.Duration(r.Learn) {
				return
			}
			if i >= 0 && !yield(live.Use{Model: r.name(i), At: u.At, Took: u.Took, Requests: u.Requests}) {
				return
			}
		}
	})
	r.began = time.Now()
}

// clock is the recording's time.
func (r *replay) clock() time.Time {
	return r.demand.Began.Add(time.Duration(r.Learn)).Add(time.Duration(float64(time.Since(r.began)) * r.Speed))
}

// run asks for models as recorded, until the recording or ctx ends.
func (r *replay) run(ctx context.Context, listen string) error {
	var asking sync.WaitGroup
	defer asking.Wait()
	free := make(chan struct{}, 256)
	for u := range r.demand.Uses() {
		i := slices.Index(r.models, u.Model)
		if u.At < time.Duration(r.Learn) || i < 0 {
			continue
		}
		due := r.began.Add(time.Duration(float64(u.At-time.Duration(r.Learn)) / r.Speed))
		if !wait(ctx, time.Until(due)) {
			return context.Cause(ctx)
		}
		select {
		case free <- struct{}{}:
		case <-ctx.Done():
			return context.Cause(ctx)
		}
		asking.Go(func() {
			defer func() { <-free }()
			r.ask(ctx, listen, r.name(i), time.Duration(float64(u.Took)/r.Speed))
		})
	}
	return nil
}

// ask asks for so many tokens as take the recorded time, one each millisecond.
func (r *replay) ask(ctx context.Context, listen, model string, takes time.Duration) {
	body := fmt.Sprintf(`{"model":%q,"max_tokens":%d,"messages":[{"role":"user","content":"replayed"}]}`, model, max(1, min(takes.Milliseconds(), 100_000)))
	request, err := http.NewRequestWithContext(ctx, http.MethodPost, "http://"+listen+"/v1/chat/completions", strings.NewReader(body))
	if err != nil {
		panic("BUG: " + err.Error())
	}
	request.Header.Set("Content-Type", "application/json")
	r.asked.Add(1)
	answer, err := http.DefaultClient.Do(request)
	if err == nil {
		_, err = bytes.NewBuffer(nil).ReadFrom(answer.Body)
		err = errors.Join(err, answer.Body.Close())
		if answer.StatusCode != http.StatusOK {
			err = errors.Join(err, errors.New(answer.Status))
		}
	}
	if err != nil && ctx.Err() == nil {
		r.failed.Add(1)
		r.log.Warn("a replayed request failed", "model", model, "error", err)
	}
}

// tell prints what the replay does.
func (r *replay) tell(c *devCmd) {
	fmt.Printf("\n%d models of %s, %g times as fast", len(r.models), r.Replay, r.Speed)
	if r.Learn > 0 {
		fmt.Printf(", after %s that are learned", days(time.Duration(r.Learn)))
	}
	fmt.Printf(".\n\n  pilotlight status --admin %s --watch 1s\n  pilotlight plan --admin %s\n  pilotlight explain %s --admin %s\n\n", c.Admin, c.Admin, r.name(0), c.Admin)
}

// end prints what became of it.
func (r *replay) end(p *live.Planner) {
	sum, all := p.Scores()
	fmt.Fprintf(os.Stdout, "\nThe replay is over: %d requests, %d failed. Wakes ahead: %d used, %d too late, %d wasted (%.1f GPU-hours of the recording's time).\n",
		r.asked.Load(), r.failed.Load(), sum.Used, sum.Late, sum.Wasted, sum.GPUHours)
	for _, s := range all {
		fmt.Printf("  %s: %d used, %d too late, %d wasted\n", s.Model, s.Used, s.Late, s.Wasted)
	}
	fmt.Println("Ctrl-C ends it.")
}
