// Package scenario has the uses that pilotlight exists for, each as a made-up fleet and a load. A run starts the fleet, whose GPUs and model
// servers are simulated and all else is real, puts the load on it, and says what the clients saw and what the GPUs cost.
package scenario

import (
	_ "embed"
	"fmt"
	"iter"
	"math"
	"math/rand/v2"
	"slices"
	"time"

	"pilotlight/loadtest"
)

// soakTimeline is an example too.
//
//go:embed soak.yaml
var soakTimeline []byte

// Scenario is a use. Its times are those of the world; a run is Speed times as fast.
type Scenario struct {
	Name  string
	About string // for whom it stands, in a sentence
	Speed float64
	For   time.Duration
	GPUs  int // of 24 GiB, on each node
	Idle  time.Duration
	Awake bool // all backends are, before the load begins
	Fleet []Models
	Gaps  []Gap
	SLOs  []string

	Agents   int           // each with a node that has all models; 0: one edge keeps them itself
	Edges    int           // where there are agents
	Faults   *Faults       // that go wrong unless others are asked for; nil: none
	Patience time.Duration // of clients; 0: 5m

	requests func(s Scenario, seed uint64) iter.Seq[loadtest.Request]
}

// gpuMemory is that of a GPU, in GiB.
const gpuMemory = 24

// Models are several that are alike.
type Models struct {
	Name     string // with a number behind it where Count is more than 1
	Count    int
	Backends int
	Memory   float64       // GiB, awake
	Slots    int           // of a backend
	Load     time.Duration // from disk
	Wake     time.Duration // from host memory
	Step     time.Duration // of decoding, which gives each request a token
	Answer   int           // tokens
	Prompt   int           // tokens
}

// asleepMemory is what a model server that sleeps still holds of a GPU, in GiB.
const asleepMemory = 0.5

// Gap is a time that is not waited for: what is held when it begins counts for all of it. Either nobody asks in it, and it begins when the
// backends have fallen asleep, or all goes on as before.
type Gap struct {
	At   time.Duration // after the load began
	Long time.Duration
	Busy bool // all goes on as before
}

// Names are the models, the most popular first.
func (s Scenario) names() (all []string) {
	for _, m := range s.Fleet {
		all = append(all, m.names()...)
	}
	return all
}

func (m Models) names() (all []string) {
	if m.Count == 1 {
		return []string{m.Name}
	}
	for i := range m.Count {
		all = append(all, fmt.Sprintf("%s-%03d", m.Name, i+1))
	}
	return all
}

// of is what a model is like.
func (s Scenario) of(name string) Models {
	for _, m := range s.Fleet {
		if slices.Contains(m.names(), name) {
			return m
		}
	}
	return Models{}
}

// real is how long something of the world takes in the run.
func (s Scenario) real(d time.Duration) time.Duration { return time.Duration(float64(d) / s.Speed) }

// world is the opposite.
func (s Scenario) world(d time.Duration) time.Duration { return time.Duration(float64(d) * s.Speed) }

// All are the scenarios.
func All() []Scenario {
	const week = 7 * 24 * time.Hour
	small := Models{
		Count: 1, Backends: 1, Memory: 18, Slots: 16, Load: 40 * time.Second, Wake: 3 * time.Second, Step: 500 * time.Millisecond, Answer: 4, Prompt: 200,
	}
	live := Models{ // at the speed of the world
		Name: "llama-8b", Count: 1, Backends: 2, Memory: 18, Slots: 16, Load: 3 * time.Second, Wake: 300 * time.Millisecond,
		Step: 12 * time.Millisecond, Answer: 64, Prompt: 200,
	}
	alone := live
	alone.Backends, alone.Load = 1, time.Second
	named := func(m Models, name string) Models { m.Name = name; return m }
	many := func(m Models, name string, n int) Models { m.Name, m.Count = name, n; return m }
	crowd := live
	crowd.Backends, crowd.Slots, crowd.Answer, crowd.Prompt = 4, 64, 32, 50
	return []Scenario{
		{
			Name: "dev-staging", About: "A team's development and staging models: three models on one GPU, six requests an hour by day, none by night.",
			Speed: 480, For: 24 * time.Hour, GPUs: 1, Idle: 10 * time.Minute,
			Fleet:    []Models{named(small, "llama-8b"), named(small, "qwen-7b"), named(small, "mistral-7b")},
			SLOs:     []string{"errors<=0%"},
			requests: poisson(func(t time.Duration) float64 { return office(t) * 6 / 3600 }),
		},
		{
			Name: "low-traffic", About: "Ten internal models on two GPUs that hold two of them, sixty requests an hour around the clock, of which the first model gets a third.",
			Speed: 480, For: 24 * time.Hour, GPUs: 2, Idle: 10 * time.Minute,
			Fleet:    []Models{many(small, "model", 10)},
			SLOs:     []string{"errors<=0%"},
			requests: poisson(func(time.Duration) float64 { return 60.0 / 3600 }),
		},
		{
			Name: "bursty", About: "A model that idles for weeks and is hammered for hours: three bursts, a week apart.",
			Speed: 1, For: 105 * time.Second, GPUs: 2, Idle: 3 * time.Second,
			Fleet: []Models{live},
			Gaps: []Gap{
				{At: 18 * time.Second, Long: 3 * time.Hour, Busy: true},
				{At: 34 * time.Second, Long: week},
				{At: 53 * time.Second, Long: 3 * time.Hour, Busy: true},
				{At: 69 * time.Second, Long: week},
				{At: 88 * time.Second, Long: 3 * time.Hour, Busy: true},
				{At: 104 * time.Second, Long: week},
			},
			SLOs:     []string{"errors<=0%"},
			requests: poisson(func(t time.Duration) float64 { return burst(t%(35*time.Second), 20*time.Second, 25) }),
		},
		{
			Name: "steady-80", About: "A model in sustained use: its two backends are used at about 80 % of what they can do.",
			Speed: 1, For: time.Minute, GPUs: 2, Idle: 5 * time.Minute, Awake: true,
			Fleet:    []Models{live},
			Gaps:     []Gap{{At: 55 * time.Second, Long: 24 * time.Hour, Busy: true}},
			SLOs:     []string{"errors<=0%"},
			requests: poisson(func(time.Duration) float64 { return 0.8 * capacity(live) }),
		},
		{
			Name: "zero-to-thousands", About: "Nothing is awake, and within two seconds 2,000 clients ask for a stream.",
			Speed: 1, For: 2 * time.Second, GPUs: 4, Idle: time.Minute,
			Fleet:    []Models{crowd},
			SLOs:     []string{"errors<=0%", "ttft.max<=" + fairShare(crowd, 2000).String()},
			requests: evenly(2000, 2*time.Second),
		},
		{
			Name: "many-models", About: "A hundred models on memory for ten, a request every five seconds, of which the first model gets a fifth.",
			Speed: 20, For: time.Hour, GPUs: 10, Idle: 5 * time.Minute,
			Fleet:    []Models{many(small, "model", 100)},
			SLOs:     []string{"errors<=0%"},
			requests: poisson(func(time.Duration) float64 { return 0.2 }),
		},
		{
			Name: "soak", About: "Two edges, two agents and Consul, where something goes wrong every few seconds.",
			Speed: 1, For: 2 * time.Minute, GPUs: 1, Idle: 3 * time.Second, Agents: 2, Edges: 2, Faults: soakFaults(), Patience: time.Minute,
			Fleet:    []Models{many(alone, "model", 3)},
			SLOs:     []string{"ok>=50%"}, // it is no virtue to answer when all is killed, but something should be
			requests: poisson(func(t time.Duration) float64 { return burst(t%(20*time.Second), 17*time.Second, 20) }),
		},
	}
}

// soakFaults is the timeline of the soak.
func soakFaults() *Faults {
	f, err := parseFaults(soakTimeline)
	if err != nil {
		panic("BUG: the timeline of the soak: " + err.Error())
	}
	return f
}

// stepPerSeq is what each running request adds to a step of a simulated model server.
const stepPerSeq = 50 * time.Microsecond

// answerTime is how long a backend takes for an answer while all of its slots are used.
func answerTime(m Models) time.Duration {
	return time.Duration(m.Answer) * (m.Step + time.Duration(m.Slots)*stepPerSeq)
}

// capacity is how many requests a second the backends of a model can answer.
func capacity(m Models) float64 {
	return float64(m.Backends*m.Slots) / answerTime(m).Seconds()
}

// fairShare is how long the last of n requests that come at once may wait for its first token: until a backend is awake, and then for the
// answers that stand before it in the line, even if no other backend comes to help.
func fairShare(m Models, n int) time.Duration {
	turns := math.Ceil(float64(n) / float64(m.Slots))
	return (m.Load + time.Duration(turns)*answerTime(m)).Round(100 * time.Millisecond)
}

// office is 1 from nine to six, and 0 else.
func office(t time.Duration) float64 {
	if h := t % (24 * time.Hour); h >= 9*time.Hour && h < 18*time.Hour {
		return 1
	}
	return 0
}

// burst is a rate for a while, after which there is none.
func burst(t, long time.Duration, rate float64) float64 {
	if t < long {
		return rate
	}
	return 0
}

// poisson are requests at a rate per second that changes with time, of models whose popularity is Zipf's.
func poisson(rate func(time.Duration) float64) func(Scenario, uint64) iter.Seq[loadtest.Request] {
	return func(s Scenario, seed uint64) iter.Seq[loadtest.Request] {
		names := s.names()
		popular := loadtest.NewZipf(len(names), 1)
		most := 0.0
		for t := time.Duration(0); t < s.For; t += s.For / 1000 {
			most = max(most, rate(t))
		}
		return func(yield func(loadtest.Request) bool) {
			random := rand.New(rand.NewPCG(seed, 's'))
			for at := range loadtest.Poisson(loadtest.Rate{From: most, To: most}, s.For, seed) {
				keep, which, text := random.Float64()*most, random.Float64(), random.Uint64()
				if keep >= rate(at) {
					continue
				}
				name := names[popular.Draw(which)]
				m := s.of(name)
				if !yield(loadtest.Request{At: s.real(at), Model: name, Prompt: m.Prompt, Answer: m.Answer, Seed: text}) {
					return
				}
			}
		}
	}
}

// evenly are n requests for the first model.
func evenly(n int, within time.Duration) func(Scenario, uint64) iter.Seq[loadtest.Request] {
	return func(s Scenario, seed uint64) iter.Seq[loadtest.Request] {
		m := s.Fleet[0]
		return func(yield func(loadtest.Request) bool) {
			for i := range n {
				at := within * time.Duration(i) / time.Duration(n)
				if !yield(loadtest.Request{At: s.real(at), Model: m.names()[0], Prompt: m.Prompt, Answer: m.Answer, Seed: seed + uint64(i)}) {
					return
				}
			}
		}
	}
}
