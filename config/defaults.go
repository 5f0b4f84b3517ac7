package config

import (
	"cmp"
	"fmt"
	"os"
	"path/filepath"
	"time"
)

// setDefaults sets what a new value holds before the file speaks. Which defaults apply is decided by which keys are in the
// file, never by a value being zero: a 0 in the file means zero. Types that it does not name default to nothing.
func setDefaults(v any) {
	const second, minute = Duration(time.Second), Duration(time.Minute)
	switch v := v.(type) {
	case *Config:
		*v = Config{
			Listen:     "127.0.0.1:8080",
			Admin:      "127.0.0.1:8081",
			DrainLimit: 30 * second,
			Limits: Limits{
				Body:                  64 * MiB,
				BodyHeld:              1 * MiB,
				Header:                64 * KiB,
				Connections:           65536,
				ConnectionsPerAddress: 4096,
				RequestsPerConnection: 100_000,
				HeaderTime:            10 * second,
				BodyTime:              5 * minute,
				IdleTime:              2 * minute,
				WriteTime:             1 * minute,
				Held:                  1 * GiB,
			},
			Pool:      Pool{Policy: "predictive:k=20m", GPUPrice: 0.03, HostPrice: 0.003, Loads: 10, Swaps: 2},
			Node:      Node{NVML: NVMLAuto, CUDACheckpoint: "cuda-checkpoint"},
			Ledger:    defaultLedger(),
			Timing:    TimingAsked,
			Log:       Log{Sample: 1},
			Telemetry: defaultTelemetry(),
		}
	case *Ledger:
		*v = defaultLedger()
	case *Telemetry:
		*v = defaultTelemetry()
	case *Prices:
		*v = Prices{Currency: "USD"}
	case *Serverless:
		*v = Serverless{Name: "serverless", Round: Duration(time.Millisecond), Window: 1 * minute}
	case *ColdTarget:
		*v = ColdTarget{Wait: 2 * second}
	case *JWT:
		*v = defaultJWT()
	case *Link:
		*v = Link{Listen: "127.0.0.1:8082"}
	case *TLS:
		*v = TLS{Min: TLS12, ClientCert: ClientCertRequired}
	case *Model:
		*v = Model{
			Line:        Line{Requests: 1000, Bytes: 256 * MiB, MaxWait: 5 * minute},
			Routing:     DefaultRouting(),
			Answer:      Answer{FirstByte: 10 * minute, BetweenBytes: 5 * minute, Total: 24 * 60 * minute, Upgraded: 60 * minute},
			Heartbeat:   10 * second,
			NoHeartbeat: []string{"okhttp/"},
			IdleTime:    5 * minute,
			StopAfter:   24 * 60 * minute,
			Weight:      1,
		}
	case *Backend:
		*v = Backend{Engine: HTTP, Sleep: SleepNone, GPUs: 1, Slots: 8, ConnectTime: 5 * second, Stall: 2 * minute}
	case *Overflow:
		*v = Overflow{After: 2 * second}
	case *Consul:
		*v = Consul{Address: "127.0.0.1:8500", Prefix: "pilotlight", Watches: 64}
	case *Process:
		*v = Process{StopTime: 10 * second}
	case *Nomad:
		*v = Nomad{Count: 1, Address: "http://127.0.0.1:4646", Namespace: "default"}
	case *Kubernetes:
		*v = Kubernetes{Count: 1}
	case *Docker:
		*v = Docker{Host: "unix:///var/run/docker.sock", Action: DockerStop, StopTime: 10 * second}
	}
}

func defaultLedger() Ledger { return Ledger{Keep: true, Retention: Duration(90 * 24 * time.Hour)} }

// derive fills in the defaults that depend on other keys or on this host.
func (c *Config) derive(at *place) {
	if c.Node.Name == "" {
		c.Node.Name, _ = os.Hostname()
	}
	if c.Node.Name == "" {
		c.Node.Name = "localhost"
	}
	if at.below("node").get("host_memory") == nil {
		c.Node.HostMemory = hostMemory() / 2
	}
	if c.Node.StateDir == "" {
		dir, err := stateDir()
		if err != nil {
			at.below("node").problem("node.state_dir has no default here: %s", err)
		}
		c.Node.StateDir = dir
	}
	if c.Ledger.File == "" {
		c.Ledger.File = filepath.Join(c.Node.StateDir, "ledger.db")
	}
	for name, at := range at.models() {
		m := c.Models[name]
		m.derive(at, name)
		m.Policy = cmp.Or(m.Policy, c.Pool.Policy)
		c.Models[name] = m
	}
}

// residue is what an engine that sleeps still holds of each GPU, which is mostly CUDA's own context and graphs: 0.8 to 2 GiB
// for vLLM (llm-d fast-model-actuation, docs/e2e-recipe.md, which plans 2).
const residue = 2 * GiB

func (m *Model) derive(at *place, name string) {
	if m.ServedAs == "" {
		m.ServedAs = name
	}
	if m.Policy == "" && at.get("idle_time") != nil {
		m.Policy = "fixed"
	}
	if o := m.Overflow; o != nil {
		o.Model = cmp.Or(o.Model, name)
		if o.When == nil {
			o.When = reasons()
		}
	}
	backends := at.below("backends")
	for i := range m.Backends {
		m.Backends[i].derive(backends.item(i), fmt.Sprintf("%s-%d", name, i))
	}
}

func (b *Backend) derive(at *place, name string) {
	if b.Name == "" {
		b.Name = name
	}
	if b.Ready == "" && b.Engine == HTTP {
		b.Ready = "/health"
	}
	if at.get("gpus") == nil && (b.Nomad != nil || b.Kubernetes != nil) {
		b.GPUs = 0
	}
	if at.get("sleep") == nil && b.Hooks != nil && b.Hooks.Wake != "" && b.Hooks.Sleep != "" {
		b.Sleep = SleepHooks
	}
	if at.get("sleep_level") == nil && b.Engine == VLLM {
		b.SleepLevel = 1
	}
	byEngine := b.Sleep == SleepEngine && (b.Engine == VLLM || b.Engine == SGLang)
	if at.get("asleep_memory") == nil && byEngine {
		b.AsleepMemory = min(Size(b.GPUs)*residue, b.Memory)
	}
	keepsWeights := byEngine && (b.Engine == SGLang || b.SleepLevel == 1) || b.Sleep == SleepCheckpoint
	if at.get("host_memory") == nil && keepsWeights {
		b.HostMemory = b.Memory
	}
}

// stateDir is where programs of this user keep state, by the XDG base directory specification.
func stateDir() (string, error) {
	if dir := os.Getenv("XDG_STATE_HOME"); filepath.IsAbs(dir) {
		return filepath.Join(dir, "pilotlight"), nil
	}
	home, err := os.UserHomeDir()
	if err != nil {
		return "", err
	}
	return filepath.Join(home, ".local", "state", "pilotlight"), nil
}

// hostMemory is that of this host; 0 where it does not say.
func hostMemory() Size {
	text, err := os.ReadFile("/proc/meminfo")
	if err != nil {
		return 0
	}
	var kib Size
	if _, err := fmt.Sscanf(string(text), "MemTotal: %d kB", &kib); err != nil {
		return 0
	}
	return kib * KiB
}
