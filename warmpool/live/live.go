package live

import (
	"fmt"
	"math"
	"strings"
	"sync"
	"time"

	"pilotlight/config"
	"pilotlight/router"
	"pilotlight/warmpool/forecast"
	"pilotlight/warmpool/planner"
	"pilotlight/warmpool/policy"
)

// Fleet is what a planner sees of a fleet.
type Fleet interface {
	Fleet() *router.Fleet
	Nodes() []*router.Node
	// Use is how much a backend is used over all edges.
	Use(backend string) router.Use
}

// Planner learns and plans. All its methods may be called from any goroutine.
type Planner struct {
	fleet   Fleet
	speed   float64
	answers answers

	mu       sync.Mutex // guards what follows
	pool     config.Pool
	forecast *forecast.Forecast
	policies map[string]policy.Policy // by what the configuration says
	models   map[string]*track
	day      time.Time // when the next one ends
	plan     planner.Plan
	places   map[string]place // of backends, by ID
	planned  *router.Fleet    // of which the plan is; nil: it is to be made anew
}

// answer is what a policy said of a model. It stands until then, unless the model is used.
type answer struct {
	of       policy.Policy
	question policy.Question
	policy.Decision
}

// stands says whether the policy need not be asked again.
func (a *answer) stands(of policy.Policy, q *policy.Question) bool {
	return a.of == of && a.question.Idle.Equal(q.Idle) && a.question.K == q.K && (a.Until.IsZero() || q.Now.Before(a.Until))
}

// place is where a backend is, and since when by the planner's time, which need not be the fleet's.
type place struct {
	state router.State
	since time.Time
}

// track is what is known of one model's use.
type track struct {
	granted int64     // in sum, when it was last looked at
	busy    bool      // then
	idle    time.Time // since when; zero: it was never used
	asked   answer
	bet     *bet
	score   Score
}

// New makes a planner that has learned nothing. Speed is how many seconds of its time pass in one of the fleet's: 1, but for replays.
func New(fleet Fleet, pool config.Pool, speed float64) *Planner {
	p := &Planner{fleet: fleet, pool: pool, speed: speed, policies: map[string]policy.Policy{}, models: map[string]*track{}, places: map[string]place{}}
	p.use(forecast.New())
	return p
}

// use makes predictions by a forecast. It learns whatever policy is in use, so that one may change to it.
func (p *Planner) use(f *forecast.Forecast) {
	p.forecast, p.policies[predictive] = f, policy.Predictive(defaultK, float64(p.pool.Alpha), f)
}

// defaultK is what a cold start is worth where neither the policy nor the prices say so.
const defaultK = 20 * time.Minute

// Update takes over a new configuration of the pool.
func (p *Planner) Update(pool config.Pool) {
	p.mu.Lock()
	defer p.mu.Unlock()
	was := p.pool.Alpha
	p.planned = nil
	if p.pool = pool; pool.Alpha != was {
		p.use(p.forecast)
	}
}

// Step learns what has happened since the step before, and makes a plan. Steps come in the order of time, about once per second, and at
// Plan.Next.
func (p *Planner) Step(now time.Time) planner.Plan {
	p.mu.Lock()
	defer p.mu.Unlock()
	changed := p.learn(now)
	fleet := p.fleet.Fleet()
	if !changed && fleet == p.planned && now.Sub(p.plan.Made) < planEvery && (p.plan.Next.IsZero() || now.Before(p.plan.Next)) {
		return p.plan
	}
	p.plan = planner.Make(p.input(now, p.pool, nil))
	p.planned = fleet
	p.keepScore(now)
	return p.plan
}

// planEvery is how old a plan may be although nothing has happened: what others hold of GPUs changes without a word.
const planEvery = time.Minute

// Answered counts a request, and whether it waited for a wake, for a promise of how few may wait for long. It is called for each one.
func (p *Planner) Answered(waited time.Duration) {
	p.answers.mu.Lock()
	defer p.answers.mu.Unlock()
	p.answers.requests++
	if waited > p.answers.most {
		p.answers.late++
	}
}

// answers counts the requests of a day or so: those of earlier fade.
type answers struct {
	mu             sync.Mutex // guards what follows
	most           time.Duration
	requests, late float64
	at             time.Time
}

// seen is what was counted.
func (a *answers) seen(now time.Time, most time.Duration) planner.Seen {
	a.mu.Lock()
	defer a.mu.Unlock()
	if a.at.IsZero() {
		a.at = now
	}
	fade := math.Exp(-float64(now.Sub(a.at)) / float64(24*time.Hour))
	a.requests, a.late, a.at, a.most = a.requests*fade, a.late*fade, now, most
	return planner.Seen{Requests: int64(a.requests), Waited: int64(a.late)}
}

// Plan is the last one.
func (p *Planner) Plan() planner.Plan {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.plan
}

// WhatIf is the plan that would be made now of another configuration: another pool, and other models where they are named. A policy that was not in
// use before has learned nothing.
func (p *Planner) WhatIf(now time.Time, pool config.Pool, models map[string]config.Model) planner.Plan {
	p.mu.Lock()
	defer p.mu.Unlock()
	if models == nil {
		models = map[string]config.Model{}
	}
	return planner.Make(p.input(now, pool, models))
}

// learn tells the policies how models were used. It says whether any was, or no longer is.
func (p *Planner) learn(now time.Time) (changed bool) {
	if p.day.IsZero() {
		p.day = now.Add(24 * time.Hour)
	}
	for ; !now.Before(p.day); p.day = p.day.Add(24 * time.Hour) {
		for _, known := range p.policies {
			known.Day(p.day)
		}
	}
	for _, m := range p.fleet.Fleet().Models {
		changed = p.learnModel(m, now) || changed
	}
	return changed
}

func (p *Planner) learnModel(m *router.Model, now time.Time) (changed bool) {
	granted, inFlight, waiting := int64(0), 0, 0
	for _, b := range m.Backends {
		u := p.fleet.Use(b.ID)
		granted, inFlight, waiting = granted+u.Granted, inFlight+u.InFlight, max(waiting, u.Waiting)
	}
	t := p.track(m)
	came, busy := max(0, granted-t.granted), inFlight > 0 || waiting > 0 // less were granted where an agent began anew
	t.granted = granted
	if came > 0 || busy && !t.busy {
		t.settle(now)
		for _, known := range p.policies {
			known.Arrived(m.Name, now, int(max(came, 1)))
		}
	}
	if (came > 0 || t.busy) && !busy {
		t.idle = now
		for _, known := range p.policies {
			known.Ended(m.Name, now)
		}
	}
	changed = came > 0 || busy != t.busy
	t.busy = busy
	return changed
}

// track is what is known of a model. One that is new may be asked for before its uses were looked at. p.mu is held.
func (p *Planner) track(m *router.Model) *track {
	t := p.models[m.Name]
	if t == nil {
		t = &track{idle: p.forecast.Idle(m.Name)}
		for _, b := range m.Backends {
			t.granted += p.fleet.Use(b.ID).Granted
		}
		p.models[m.Name] = t
	}
	return t
}

// predictive is the name of the policy that shares one forecast, however it is set.
const predictive = "predictive"

// policyOf is the policy that a configuration names, and its k; 0: it has none of its own. A policy that is named for the first time has learned nothing.
func (p *Planner) policyOf(spec string, keep bool) (policy.Policy, time.Duration, error) {
	name, settings, _ := strings.Cut(spec, ":")
	if name == predictive {
		k, err := theK(settings)
		if err != nil {
			return nil, 0, fmt.Errorf("policy %q: %w", spec, err)
		}
		return p.policies[predictive], k, nil
	}
	if known := p.policies[spec]; known != nil {
		return known, 0, nil
	}
	made, err := policy.Parse(spec)
	if err == nil && keep {
		p.policies[spec] = made
	}
	return made, 0, err
}

// theK is k of settings like k=60m.
func theK(settings string) (time.Duration, error) {
	text, found := strings.CutPrefix(settings, "k=")
	if settings != "" && !found {
		return 0, fmt.Errorf("it has one setting, k, as in predictive:k=20m; alpha is the pool's")
	}
	if !found {
		return defaultK, nil
	}
	k, err := policy.Duration(text)
	if err != nil || k <= 0 {
		return 0, fmt.Errorf("k=%s is no time of more than nothing, such as 20m", text)
	}
	return k, nil
}

// Check says what is wrong with a policy as a configuration names it. fixed alone is for the model's idle_time.
func Check(spec config.PoolPolicy) error {
	if spec == fixedForIdleTime || spec == "" {
		return nil
	}
	_, _, err := New(nil, config.Pool{}, 1).policyOf(string(spec), false)
	return err
}

const fixedForIdleTime = "fixed"

// Save is what was learned, in at most limit bytes.
func (p *Planner) Save(limit int) ([]byte, error) {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.forecast.Save(limit)
}

// Load takes over what was learned before. It is called before the first step.
func (p *Planner) Load(saved []byte) error {
	p.mu.Lock()
	defer p.mu.Unlock()
	f, err := forecast.Load(saved)
	if err != nil {
		return err
	}
	p.use(f)
	return nil
}
