package main

import (
	"container/heap"
	"fmt"
	"math"
	"math/rand/v2"
	"slices"
	"time"

	"pilotlight/config"
	"pilotlight/loadtest/modelsim"
	"pilotlight/probe"
	"pilotlight/router"
)

// The fleet. Where tenants are, and what they take, is skewed: half of the GPUs have none. A tenant works for some minutes and
// then pauses for some. While it takes a share of a GPU's time, the model server's steps take as much longer as that
// leaves it less: a step of 10 ms takes 20 ms beside a tenant that takes half. Else a model server is modelsim's: each step gives
// every running request a token, and reads new prompts first.
const (
	nodes       = 4
	gpusPerNode = 2
	replicas    = 6

	tenantEvery = 2 // GPUs
	leastShare  = 0.2
	mostShare   = 0.8
	meanTurn    = 3 * time.Minute // that a tenant works or pauses
)

// The probes, as they are on a real node: engines are asked, and GPUs are looked at, at some interval, each in a phase of its
// own; what they say is known to Pick only after some time. Utilisation is the mean since the look before, in whole percent as
// NVML gives it, and wrong by a few percent.
const (
	probeEvery = 200 * time.Millisecond
	newsDelay  = 30 * time.Millisecond
	error95    = 0.05 // of utilisation: 95 of 100 are no more wrong than that
)

// world is one run in virtual time.
type world struct {
	rand     *rand.Rand
	policy   config.RoutingPolicy
	now      time.Duration
	events   events
	replicas []*replica
	picks    []*router.Candidate
	line     []*request
	turn     uint64
	first    []time.Duration // to the first token
	open     int             // requests that are not finished
}

// epoch is when virtual time begins.
func epoch() time.Time { return time.Date(2026, 11, 1, 0, 0, 0, 0, time.UTC) }

// simulate replays the trace on the fleet of a seed and gives the times to the first token.
func simulate(seed uint64, policy config.RoutingPolicy, trace []arrival) []time.Duration {
	w := &world{rand: rand.New(rand.NewPCG(seed, 1)), policy: policy, open: len(trace)}
	w.build()
	for _, a := range trace {
		w.at(a.at, func() { w.arrive(&request{arrival: a}) })
	}
	for w.open > 0 {
		e := heap.Pop(&w.events).(event)
		w.now = e.at
		e.do()
	}
	return w.first
}

// at has something done at a time.
func (w *world) at(t time.Duration, do func()) {
	w.events.made++
	heap.Push(&w.events, event{t, w.events.made, do})
}

// events are what is to be done, the next first.
type events struct {
	all  []event
	made int
}

type event struct {
	at    time.Duration
	order int
	do    func()
}

func (e *events) Len() int      { return len(e.all) }
func (e *events) Swap(i, j int) { e.all[i], e.all[j] = e.all[j], e.all[i] }
func (e *events) Push(x any)    { e.all = append(e.all, x.(event)) }
func (e *events) Less(i, j int) bool {
	a, b := e.all[i], e.all[j]
	return a.at < b.at || a.at == b.at && a.order < b.order
}

func (e *events) Pop() any {
	last := e.all[len(e.all)-1]
	e.all = e.all[:len(e.all)-1]
	return last
}

// gpu is one GPU and its tenant.
type gpu struct {
	share float64 // of its time that the tenant takes now

	since time.Duration // up to which what follows is counted
	taken time.Duration // by the tenant, since the last look
	own   time.Duration // by the replica, likewise
}

// account counts what the tenant took up to now.
func (g *gpu) account(now time.Duration) {
	g.taken += time.Duration(g.share * float64(now-g.since))
	g.since = now
}

// replica is one model server on a GPU.
type replica struct {
	*router.Candidate
	modelsim.Options
	gpu      *gpu
	looked   time.Duration
	waiting  []*request
	running  []*request
	stepping bool
}

// request is one request in the fleet.
type request struct {
	arrival
	generated int
}

func (q *request) held() int { return q.prompt + q.generated }

// build makes the fleet of the seed: GPUs, tenants, replicas and the phases of probes.
func (w *world) build() {
	options := modelsim.Defaults()
	for place, g := range w.rand.Perm(nodes * gpusPerNode)[:replicas] {
		on := &gpu{}
		r := &replica{gpu: on, Options: options, Candidate: &router.Candidate{Backend: &router.Backend{
			ID: fmt.Sprintf("replica-%d", place), Node: fmt.Sprintf("node-%d", g/gpusPerNode), GPUs: []int{g % gpusPerNode}, Slots: options.Slots,
			PID: 1000 + place, State: router.Ready, Tier: router.OnGPU, Width: 1,
		}}}
		w.replicas, w.picks = append(w.replicas, r), append(w.picks, r.Candidate)
		if place%tenantEvery == 0 {
			w.tenant(on, w.rand.IntN(2) == 0)
		}
		w.at(w.phase(), func() { w.ask(r) })
		w.at(w.phase(), func() { w.look(r) })
	}
}

func (w *world) phase() time.Duration { return time.Duration(w.rand.Int64N(int64(probeEvery))) }

// tenant has the tenant of a GPU work or pause, and the other thing afterwards.
func (w *world) tenant(on *gpu, works bool) {
	on.account(w.now)
	if on.share = 0; works {
		on.share = leastShare + w.rand.Float64()*(mostShare-leastShare)
	}
	w.at(w.now+time.Duration(w.rand.ExpFloat64()*float64(meanTurn)), func() { w.tenant(on, !works) })
}

// ask is what the probe of an engine does.
func (w *world) ask(r *replica) {
	tokens := 0
	for _, q := range r.running {
		tokens += q.held()
	}
	seen := probe.Reading{
		At: epoch().Add(w.now), Status: probe.Ready, Running: len(r.running), Waiting: len(r.waiting), KVCache: float64(tokens) / float64(r.KVTokens),
	}
	w.at(w.now+newsDelay, func() { r.See(seen) })
	w.at(w.now+probeEvery, func() { w.ask(r) })
}

// look is what the probe of a GPU does.
func (w *world) look(r *replica) {
	r.gpu.account(w.now)
	taken := w.percent(r.gpu.taken, w.now-r.looked)
	own := w.percent(r.gpu.own, w.now-r.looked)
	r.looked, r.gpu.taken, r.gpu.own = w.now, 0, 0
	seen := &probe.GPUs{At: epoch().Add(w.now), GPUs: []probe.GPU{{
		Index: r.GPUs[0], Busy: min(taken+own, 1), Processes: []probe.Process{{PID: r.PID, Busy: own}, {PID: 1, Busy: taken}},
	}}}
	w.at(w.now+newsDelay, func() { r.SeeGPUs(seen) })
	w.at(w.now+probeEvery, func() { w.look(r) })
}

// percent is a share of a time as NVML shows it.
func (w *world) percent(part, of time.Duration) float64 {
	if of <= 0 || part <= 0 {
		return 0
	}
	share := float64(part)/float64(of) + w.rand.NormFloat64()*error95/2
	return math.Round(100*min(max(share, 0), 1)) / 100
}

// arrive is a request at the edge.
func (w *world) arrive(q *request) {
	w.line = append(w.line, q)
	w.serve()
}

// serve gives slots to the head of the line.
func (w *world) serve() {
	for len(w.line) > 0 {
		routing := config.DefaultRouting()
		routing.Policy = w.policy
		c, _ := router.Pick(w.picks, epoch().Add(w.now), router.Ask{Routing: routing, Turn: w.turn})
		if c == nil {
			return
		}
		w.turn++
		c.InFlight++
		c.Opening++
		r := w.replicas[slices.Index(w.picks, c)]
		r.waiting = append(r.waiting, w.line[0])
		w.line = w.line[1:]
		w.step(r)
	}
}

// step begins a step, as modelsim's engine does.
func (w *world) step(r *replica) {
	if r.stepping {
		return
	}
	for r.held()+len(r.running) > r.KVTokens {
		newest := len(r.running) - 1
		r.waiting = slices.Insert(r.waiting, 0, r.running[newest])
		r.running = r.running[:newest]
	}
	prefill := 0
	for len(r.waiting) > 0 && len(r.running) < r.Options.Slots && r.held()+r.waiting[0].held()+len(r.running)+1 <= r.KVTokens {
		prefill += r.waiting[0].held()
		r.running, r.waiting = append(r.running, r.waiting[0]), r.waiting[1:]
	}
	if len(r.running) == 0 {
		return
	}
	work := r.Step + time.Duration(len(r.running))*r.StepPerSeq + time.Duration(prefill)*r.Prefill
	took := time.Duration(float64(work) / (1 - r.gpu.share))
	r.stepping = true
	w.at(w.now+took, func() {
		r.gpu.own += work
		w.end(r)
	})
}

// held is what the running requests hold of the KV cache, in tokens.
func (r *replica) held() (tokens int) {
	for _, q := range r.running {
		tokens += q.held()
	}
	return tokens
}

// end hands out the tokens of a step.
func (w *world) end(r *replica) {
	r.stepping = false
	r.running = slices.DeleteFunc(r.running, func(q *request) bool {
		if q.generated++; q.generated == 1 {
			w.first = append(w.first, w.now-q.at)
			r.Opening--
		}
		if q.generated < q.answer {
			return false
		}
		r.InFlight--
		w.open--
		return true
	})
	w.serve()
	w.step(r)
}
