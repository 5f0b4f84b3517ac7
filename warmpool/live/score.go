package live

import (
	"maps"
	"slices"
	"time"

	"pilotlight/router"
)

// Score says what became of wakes ahead.
type Score struct {
	Model    string  `json:"model,omitempty"`
	Used     int     `json:"used"`             // somebody asked once it was ready, and did not wait
	Late     int     `json:"late"`             // somebody asked before it was ready
	Wasted   int     `json:"wasted"`           // nobody asked before it was let sleep again
	GPUHours float64 `json:"wasted_gpu_hours"` // that those held, each with its share of one GPU's memory or of several GPUs
	GiBHours float64 `json:"wasted_gib_hours"` // likewise
}

// HitRate is the share of the wakes ahead that were used, NaN where there were none.
func (s Score) HitRate() float64 { return float64(s.Used) / float64(s.Used+s.Late+s.Wasted) }

// bet is a wake ahead, done or, in a dry run, only planned.
type bet struct {
	at, ready time.Time
	gib       float64
}

// settle ends a bet since somebody has asked.
func (t *track) settle(now time.Time) {
	if t.bet == nil {
		return
	}
	if now.Before(t.bet.ready) {
		t.score.Late++
	} else {
		t.score.Used++
	}
	t.bet = nil
}

// keepScore opens a bet for each model that the plan wakes ahead, and ends those that the plan gives up.
func (p *Planner) keepScore(now time.Time) {
	stays := map[string]bool{}
	for i := range p.plan.Items {
		it := &p.plan.Items[i]
		t := p.models[it.Model]
		if it.Want == router.OnGPU {
			stays[it.Model] = true
		}
		if it.Ahead && it.Now != router.OnGPU && t.bet == nil && !t.busy {
			b := p.find(it.Model, it.Backend)
			t.bet = &bet{at: now, ready: now.Add(p.scaled(b.WakeTime)), gib: float64(b.Memory) / (1 << 30)}
		}
	}
	for model, t := range p.models {
		if t.bet != nil && !stays[model] {
			held := now.Sub(t.bet.at).Hours()
			t.score.Wasted++
			t.score.GPUHours += held
			t.score.GiBHours += held * t.bet.gib
			t.bet = nil
		}
	}
}

func (p *Planner) find(model, backend string) router.Backend {
	if m, ok := p.fleet.Fleet().Model(model); ok {
		for _, b := range m.Backends {
			if b.ID == backend {
				return *b
			}
		}
	}
	return router.Backend{}
}

// Scores are those of all models that were ever woken ahead, by name, and their sum.
func (p *Planner) Scores() (sum Score, all []Score) {
	p.mu.Lock()
	defer p.mu.Unlock()
	for _, model := range slices.Sorted(maps.Keys(p.models)) {
		s := p.models[model].score
		if s == (Score{}) {
			continue
		}
		sum.Used, sum.Late, sum.Wasted = sum.Used+s.Used, sum.Late+s.Late, sum.Wasted+s.Wasted
		sum.GPUHours, sum.GiBHours = sum.GPUHours+s.GPUHours, sum.GiBHours+s.GiBHours
		s.Model = model
		all = append(all, s)
	}
	return sum, all
}
