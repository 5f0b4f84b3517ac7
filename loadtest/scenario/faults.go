package scenario

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"math/rand/v2"
	"os"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"time"

	"go.yaml.in/yaml/v4"
)

// Faults are what goes wrong on purpose, in a run.
type Faults struct {
	// Every has the timeline begin anew each time so long has passed. Default: it runs once.
	Every time.Duration `yaml:"every"`
	// Timeline is what goes wrong, and when.
	Timeline []Fault `yaml:"timeline"`
}

// Fault is something that goes wrong.
type Fault struct {
	// At is when, after the load, or the timeline, began.
	At time.Duration `yaml:"at"`
	// Do is what: kill or freeze, and backend, agent, consul or edge; fill gpu; slow loads; drop link.
	Do string `yaml:"do"`
	// For is how long: until what was killed is started again, what is frozen goes on, and so on. Backends are started again by whoever needs them.
	For time.Duration `yaml:"for"`
	// Factor is how many times as long loads take. Default 5.
	Factor float64 `yaml:"factor"`
	// GiB is what of the GPU's memory somebody else takes. Default 20.
	GiB float64 `yaml:"gib"`
	// GPU is which. Default 0.
	GPU int `yaml:"gpu"`
}

// deeds are what a fault may do.
func deeds() []string {
	return []string{
		"kill backend", "freeze backend", "kill agent", "freeze agent", "kill consul", "freeze consul", "kill edge", "freeze edge", "fill gpu", "slow loads", "drop link",
	}
}

// LoadFaults reads a file.
func LoadFaults(file string) (*Faults, error) {
	text, err := os.ReadFile(file)
	if err != nil {
		return nil, fmt.Errorf("read the faults: %w", err)
	}
	f, err := parseFaults(text)
	if err != nil {
		return nil, fmt.Errorf("%s: %w", file, err)
	}
	return f, nil
}

func parseFaults(text []byte) (*Faults, error) {
	var f Faults
	if err := yaml.Load(text, &f, yaml.WithKnownFields()); err != nil && len(bytes.TrimSpace(text)) > 0 {
		return nil, err
	}
	if len(f.Timeline) == 0 {
		return nil, errors.New("the timeline has no fault")
	}
	for i := range f.Timeline {
		if err := f.check(&f.Timeline[i]); err != nil {
			return nil, fmt.Errorf("fault %d of the timeline: %w", i+1, err)
		}
	}
	slices.SortStableFunc(f.Timeline, func(a, b Fault) int { return int(a.At - b.At) })
	return &f, nil
}

// check fills in what was not said.
func (f *Faults) check(one *Fault) error {
	if one.Factor == 0 {
		one.Factor = 5
	}
	if one.GiB == 0 {
		one.GiB = 20
	}
	lasting := !strings.HasPrefix(one.Do, "kill")
	switch {
	case !slices.Contains(deeds(), one.Do):
		return fmt.Errorf("%q is nothing that can be done: say %s", one.Do, strings.Join(deeds(), ", "))
	case one.At < 0 || one.For < 0 || f.Every < 0 || one.Factor < 0 || one.GiB < 0 || one.GPU < 0:
		return errors.New("nothing in it may be negative")
	case lasting && one.For == 0:
		return fmt.Errorf("say for how long: %q ends by itself", one.Do)
	case f.Every > 0 && one.At+one.For >= f.Every:
		return fmt.Errorf("it ends after %s, and the timeline begins anew after %s", one.At+one.For, f.Every)
	}
	return nil
}

// fits says whether a fleet has what the faults need.
func (f *Faults) fits(fleet *fleet) error {
	for _, one := range f.Timeline {
		_, what, _ := strings.Cut(one.Do, " ")
		switch {
		case slices.Contains([]string{"agent", "consul", "edge"}, what) && len(fleet.of(role(what))) == 0:
			return fmt.Errorf("%q: the scenario's fleet has none; that of soak has", one.Do)
		case what == "link" && len(fleet.relays) == 0:
			return fmt.Errorf("%q: the scenario's fleet has no links between edges and agents; that of soak has", one.Do)
		case what == "gpu" && fleet.others == "":
			return fmt.Errorf("%q: the scenario's fleet does not look at its GPUs; those of bursty, steady-80 and zero-to-thousands do", one.Do)
		}
	}
	return nil
}

// deed is a fault that happened.
type deed struct {
	at   time.Time
	what string
	edge bool // an edge was killed: what it had counted is lost with it
	err  error
}

// run lets things go wrong until ctx ends, one after the other, and mends each before it goes on.
func (f *Faults) run(ctx context.Context, fleet *fleet, seed uint64) (done []deed) {
	random := rand.New(rand.NewPCG(seed, 'f'))
	for began := time.Now(); ; began = began.Add(f.Every) {
		for _, one := range f.Timeline {
			if !sleep(ctx, time.Until(began.Add(one.At))) {
				return done
			}
			d := deed{at: time.Now(), what: one.Do, edge: one.Do == "kill edge"}
			d.err = one.happen(ctx, fleet, random)
			done = append(done, d)
		}
		if f.Every == 0 || !sleep(ctx, time.Until(began.Add(f.Every))) {
			return done
		}
	}
}

func sleep(ctx context.Context, d time.Duration) bool {
	if d > 0 {
		pause(ctx, d)
	}
	return ctx.Err() == nil
}

// happen does it, and mends it after its time, or when ctx ends.
func (one Fault) happen(ctx context.Context, fleet *fleet, random *rand.Rand) error {
	how, what, _ := strings.Cut(one.Do, " ")
	switch {
	case what == "link":
		r := fleet.relays[random.IntN(len(fleet.relays))]
		r.drop()
		defer r.restore()
	case what == "gpu":
		if err := fleet.fill(one); err != nil {
			return err
		}
		defer os.Remove(fleet.others)
	case what == "loads":
		if err := os.WriteFile(fleet.factor, []byte(strconv.FormatFloat(one.Factor, 'f', -1, 64)), 0o600); err != nil {
			return err
		}
		defer os.Remove(fleet.factor)
	case what == string(aBackend):
		return one.strikeBackend(ctx, fleet, how, random)
	default:
		all := fleet.of(role(what))
		return one.strike(ctx, fleet, all[random.IntN(len(all))], how)
	}
	pause(ctx, one.For)
	return nil
}

// strike kills or freezes a process for a while.
func (one Fault) strike(ctx context.Context, fleet *fleet, p *process, how string) error {
	if how == "freeze" {
		if err := p.signal(syscall.SIGSTOP); err != nil {
			return fmt.Errorf("freeze %s: %w", p.name, err)
		}
		pause(ctx, one.For)
		return p.signal(syscall.SIGCONT)
	}
	between := fleet.before(p)
	if err := p.kill(); err != nil {
		return err
	}
	if between != nil {
		between.close()
	}
	pause(ctx, one.For)
	err := p.start()
	if between != nil {
		err = errors.Join(err, between.open())
	}
	return err
}

// before is the relay that stands before an agent; nil: none.
func (f *fleet) before(p *process) *relay {
	if i := slices.Index(f.of(anAgent), p); i >= 0 {
		return f.relays[i]
	}
	return nil
}

// strikeBackend kills or freezes a model server that is up, if one is.
func (one Fault) strikeBackend(ctx context.Context, fleet *fleet, how string, random *rand.Rand) error {
	s, err := fleet.status(ctx)
	if err != nil {
		return err
	}
	pids := s.pids()
	if len(pids) == 0 {
		return nil
	}
	pid := pids[random.IntN(len(pids))]
	if how == "kill" {
		return gone(syscall.Kill(pid, syscall.SIGKILL))
	}
	if err := gone(syscall.Kill(pid, syscall.SIGSTOP)); err != nil {
		return err
	}
	pause(ctx, one.For)
	return gone(syscall.Kill(pid, syscall.SIGCONT))
}

// gone is the error, unless it says that the process ended before.
func gone(err error) error {
	if errors.Is(err, syscall.ESRCH) {
		return nil
	}
	return err
}

// fill has somebody else take memory of a GPU.
func (f *fleet) fill(one Fault) error {
	held := make([]string, one.GPU+1)
	for i := range held {
		held[i] = "0B"
	}
	held[one.GPU] = fmt.Sprintf("%gGiB", one.GiB)
	text, err := json.Marshal(held)
	if err != nil {
		return err
	}
	return os.WriteFile(f.others, text, 0o600)
}
