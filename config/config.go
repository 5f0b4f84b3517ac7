// Package config is the file: its types, whose comments are the documentation of every key, and the loading of it,
// which reports every problem in one pass with its position. It knows nothing of what the values are used for.
package config

// Config is one pilotlight.yaml. Every key has a default unless its comment says that it is required.
type Config struct {
	// Listen is the address of the data port, where clients ask for models. Default 127.0.0.1:8080.
	Listen string `yaml:"listen"`
	// Admin is the address of the admin port: status, wake, sleep, stop, metrics and /debug. Default 127.0.0.1:8081.
	// It must be a loopback address, unless admin_token_file is given.
	Admin string `yaml:"admin"`
	// AdminTokenFile is the path of a file that holds the token, of 16 characters at least, which whoever asks on the admin port must show; it is read again
	// at each request. It passes in clear: on a network that others use put TLS in front. Default: none; whoever is on this host may ask.
	AdminTokenFile string `yaml:"admin_token_file,omitempty"`
	// ReusePort lets another pilotlight listen on the data port at the same time, as an upgrade without a lost request wants it: start
	// the new one, then stop the old one. Linux only. Default false: a second one says that the port is taken.
	ReusePort bool `yaml:"reuse_port"`
	// Trusted lists the proxies in front of us, as networks in CIDR notation or as addresses: what a request from there says of
	// who forwarded it is kept, X-Forwarded-For is appended to, and the last address in it that is not trusted is the client's.
	// From everybody else the headers X-Forwarded-* and Forwarded are replaced. Default: none.
	Trusted []Network `yaml:"trusted,omitempty"`
	// DrainLimit is how long a shutdown lets requests in flight go on before it breaks them. Default 30s.
	DrainLimit Duration `yaml:"drain_limit"`
	// TLS makes the data port speak TLS. Default: none, it speaks in clear. HTTP/2 is understood either way.
	TLS *TLS `yaml:"tls,omitempty"`
	// Keys say who may ask. Default: everybody may.
	Keys *Keys `yaml:"keys,omitempty"`
	// Limits bound what a client may send and how slowly.
	Limits Limits `yaml:"limits"`
	// Node is this host: its GPUs, its memory, and where the agent keeps what must survive a restart.
	Node Node `yaml:"node"`
	// Pool is how idle models are kept warm, and woken ahead.
	Pool Pool `yaml:"pool"`
	// Consul is where other nodes and edges are found, and where models may be configured while all of them run. Default: none,
	// this host is all there is.
	Consul *Consul `yaml:"consul,omitempty"`
	// Agents are where the agents of other nodes listen for edges: host:port of each. Their models are known here without being
	// named. Default: none.
	Agents []string `yaml:"agents,omitempty"`
	// Link is how edges and agents speak with each other. Default: in clear, on loopback only.
	Link *Link `yaml:"link,omitempty"`
	// Ledger is where this edge writes down who used how much of which GPUs. Default: a file in node.state_dir.
	Ledger Ledger `yaml:"ledger"`
	// Prices are what GPU time costs, for `pilotlight usage`, `pilotlight advise` and the headers that answers may have. Default: nothing
	// has a price.
	Prices *Prices `yaml:"prices,omitempty"`
	// Timing says which answers tell what they took, in the headers Server-Timing and X-Pilotlight-Backend, -Wait-Ms, -Cold, -GPU-Ms and -Cost: asked,
	// those to requests with the header X-Pilotlight-Timing: on; always, all of them; or never. Default asked.
	Timing Timing `yaml:"timing"`
	// Log is which requests have a line in the log. Default: all.
	Log Log `yaml:"log"`
	// Telemetry is where traces go, and which requests have one. Default: nothing is traced, unless the environment says where to.
	Telemetry Telemetry `yaml:"telemetry"`
	// Models are the names that clients ask for. Required, at least one, unless consul or agents are given, where more of them may be.
	Models map[string]Model `yaml:"models"`
}

// Alone says that there is nothing but what the file names: no models, nodes and backends are found elsewhere.
func (c *Config) Alone() bool { return c.Consul == nil && len(c.Agents) == 0 }

// Limits bound what a client may send and how slowly. A limit of 0 means zero, not "no limit".
type Limits struct {
	// Body is the largest request body. Default 64MiB.
	Body Size `yaml:"body"`
	// BodyHeld is the largest request body that is read as a whole before anything else happens. A larger one streams
	// through to the backend if the path or the header names the model and nothing in the body does, as for KServe and for
	// /upstream/MODEL with a body that is neither JSON nor a form. One whose length is not known is held until it is longer. Default 1MiB.
	BodyHeld Size `yaml:"body_held"`
	// Header is the largest request header, request line included. Default 64KiB.
	Header Size `yaml:"header"`
	// Connections is how many clients may be connected at once. Default 65536.
	Connections int `yaml:"connections"`
	// ConnectionsPerAddress is how many of them may come from one address; one of IPv6 is the first 64 bits. Connections
	// from this host itself are not counted. Raise it where a proxy stands in front. Default 4096.
	ConnectionsPerAddress int `yaml:"connections_per_address"`
	// RequestsPerConnection is how many requests a connection serves before it is closed. Default 100000.
	RequestsPerConnection int `yaml:"requests_per_connection"`
	// HeaderTime is how long a client may take to send a request's header. Default 10s.
	HeaderTime Duration `yaml:"header_time"`
	// BodyTime is how long a client may take to send a request's body. Default 5m.
	BodyTime Duration `yaml:"body_time"`
	// IdleTime is how long a connection stays open between two requests. Default 2m.
	IdleTime Duration `yaml:"idle_time"`
	// WriteTime is how long one write to a client may take before the client counts as gone: a client that stops
	// reading must not hold a slot. Default 1m.
	WriteTime Duration `yaml:"write_time"`
	// Held is how many bytes of request bodies the lines of all models may hold together; beyond that requests are refused
	// with 429. Default 1GiB.
	Held Size `yaml:"held"`
}

// TLS is what the data port needs to speak it. When a file changes it is read again; one that is no good changes nothing.
type TLS struct {
	// Cert is the path of the certificate, with intermediate ones behind it, as PEM. Required.
	Cert string `yaml:"cert" jsonschema:"required"`
	// Key is the path of the certificate's private key, as PEM. Required.
	Key string `yaml:"key" jsonschema:"required"`
	// Min is the lowest version of TLS that clients may speak: 1.2 or 1.3. Default 1.2.
	Min TLSVersion `yaml:"min"`
	// ClientCA is the path of the authorities, as PEM, that must have signed clients' certificates. Default: none, clients
	// need no certificate.
	ClientCA string `yaml:"client_ca,omitempty"`
	// ClientCert says whether a client must show a certificate or may, where client_ca is given: required or optional.
	// Default required.
	ClientCert ClientCert `yaml:"client_cert"`
}

// Link is how edges and agents speak with each other: by TLS, in which both show a certificate. In clear they do on loopback only.
type Link struct {
	// Listen is the address at which an agent waits for edges. An edge has no use for it. Default 127.0.0.1:8082.
	Listen string `yaml:"listen"`
	// Advertise is the name or the address, without a port, by which edges on other hosts reach this node: the link, and the model
	// servers that the agent starts, which must listen there too. Default: the host of listen, unless that is loopback or
	// every address; then edges on this host alone reach what is here.
	Advertise string `yaml:"advertise,omitempty"`
	// Cert is the path of our certificate, with intermediate ones behind it, as PEM. An agent's must bear the host by which edges
	// name it. Default: none.
	Cert string `yaml:"cert,omitempty"`
	// Key is the path of its private key, as PEM. Required with cert.
	Key string `yaml:"key,omitempty"`
	// CA is the path of the authorities, as PEM, that must have signed the other side's certificate. Required with cert. Whoever has
	// a certificate of theirs may wake and put to sleep what he likes: use authorities that sign for nobody else.
	CA string `yaml:"ca,omitempty"`
}

// BackendTLS is how we speak TLS to a backend: in its requests, its gRPC and its test of readiness alike. No key is required: {} is
// TLS with the authorities that this host trusts.
type BackendTLS struct {
	// CA is the path of the authorities, as PEM, that must have signed the backend's certificate. Default: those that this
	// host trusts.
	CA string `yaml:"ca,omitempty"`
	// ServerName is the name that the backend's certificate must bear. Default: the host of its address.
	ServerName string `yaml:"server_name,omitempty"`
	// Cert is the path of our own certificate, as PEM. Default: none.
	Cert string `yaml:"cert,omitempty"`
	// Key is the path of its private key, as PEM. Required with cert.
	Key string `yaml:"key,omitempty"`
}

// TLSVersion is a version of TLS.
type TLSVersion string

// The versions.
const (
	TLS12 TLSVersion = "1.2"
	TLS13 TLSVersion = "1.3"
)

// ClientCert says whether a client must show a certificate.
type ClientCert string

// The ways to look at clients' certificates.
const (
	ClientCertRequired ClientCert = "required"
	ClientCertOptional ClientCert = "optional"
)

// Node is a host with GPUs.
type Node struct {
	// Name of the node. Default: the host's name.
	Name string `yaml:"name"`
	// GPUs of the node, in the order of NVIDIA's indices. Default: those that the NVIDIA driver names. Without any, memory is not
	// counted and every backend fits.
	GPUs []GPU `yaml:"gpus,omitempty"`
	// NVML says how the GPUs are looked at: auto (with the NVIDIA driver's library, where there is a driver), off, or the path
	// of the library, as in /opt/nvidia/libnvidia-ml.so.1. Default auto.
	NVML NVML `yaml:"nvml"`
	// HostMemory is how much of the host's memory sleeping backends may hold in sum. A backend that finds no room there is
	// stopped instead. Default: half of the host's memory.
	HostMemory Size `yaml:"host_memory"`
	// Headroom is GPU memory that is never given out, on each GPU. Default 0B.
	Headroom Size `yaml:"headroom"`
	// StateDir holds the records of running model servers (by which a restarted agent adopts them), learned wake times,
	// and the model servers' logs. Default: $XDG_STATE_HOME/pilotlight, or ~/.local/state/pilotlight.
	StateDir string `yaml:"state_dir"`
	// CUDACheckpoint is NVIDIA's cuda-checkpoint, by which backends with sleep: cuda-checkpoint sleep: its path, or its name
	// in PATH. Default cuda-checkpoint.
	CUDACheckpoint string `yaml:"cuda_checkpoint"`
}

// GPU is one GPU of a node.
type GPU struct {
	// Memory of the GPU, at most; if the driver says that it has less, that counts. Required.
	Memory Size `yaml:"memory" jsonschema:"required"`
}

// NVML is a way to look at GPUs, or the path of a library to look with.
type NVML string

// The ways.
const (
	NVMLAuto NVML = "auto"
	NVMLOff  NVML = "off"
)

// Model is what a client asks for by name.
type Model struct {
	// Aliases are other names that clients may use for the model.
	Aliases []string `yaml:"aliases,omitempty"`
	// ServedAs is the name by which the model server itself knows the model. A request that names the model otherwise
	// is rewritten. Default: the model's own name.
	ServedAs string `yaml:"served_as"`
	// Backends are the model servers that can serve the model. Required, at least one, unless consul or agents are given, where more of them
	// may be found.
	Backends []Backend `yaml:"backends"`
	// Line bounds the requests that wait for a slot.
	Line Line `yaml:"line"`
	// Routing is how one of the ready backends is picked for a request.
	Routing Routing `yaml:"routing"`
	// Answer bounds how slowly the model's backends may answer.
	Answer Answer `yaml:"answer"`
	// Heartbeat is how often a client that asked for a stream of server-sent events gets a comment while it waits, so
	// that nothing between it and us closes the connection. 0s turns heartbeats off. Default 10s.
	Heartbeat Duration `yaml:"heartbeat"`
	// NoHeartbeat lists clients that get none because they choke on comments: parts of their User-Agent. Default [okhttp/],
	// which is what openai4j and its like say (Lambdua/openai4j#90). An empty list spares nobody.
	NoHeartbeat []string `yaml:"no_heartbeat,omitempty"`
	// IdleTime is how long a backend stays ready after its last request. Where it is given it counts, whatever is forecast. Default 5m,
	// which counts where nobody plans; else the pool's policy does.
	IdleTime Duration `yaml:"idle_time"`
	// Policy is the model's own, in place of the pool's. fixed alone is for the model's idle_time. Default: fixed where idle_time is given, else the pool's.
	Policy PoolPolicy `yaml:"policy,omitempty"`
	// Weight is how much a wait for the model counts beside waits for others. Default 1.
	Weight Weight `yaml:"weight"`
	// Schedule is when the model is kept awake, or asleep, whatever is forecast. Default: never.
	Schedule []Window `yaml:"schedule,omitempty"`
	// Pin is the node whose backends are woken ahead first. Default: none, where it is soonest.
	Pin string `yaml:"pin,omitempty"`
	// StopAfter is how long a backend stays asleep before it is stopped and its host memory is given back. Default 24h.
	StopAfter Duration `yaml:"stop_after"`
	// Min is how many backends are kept ready without anybody asking. Default 0.
	Min int `yaml:"min"`
	// Max is how many backends may be ready at once, however long the line is: one more wakes when requests wait for as long as
	// that takes, and goes when the others would do. Default 0: all of them.
	Max int `yaml:"max"`
	// NeverSleep keeps every backend that is awake awake, idle or not. Default false.
	NeverSleep bool `yaml:"never_sleep"`
	// Overflow is where requests go that would wait too long here. Default: nowhere.
	Overflow *Overflow `yaml:"overflow,omitempty"`
}

// Overflow is another server that answers a model's requests while the model cannot: a hosted OpenAI-compatible API. Only
// requests in OpenAI's API go there. The model goes on waking for those who come later.
type Overflow struct {
	// URL is the base of the API, as clients are given it: https://api.example.com/v1. Required.
	URL string `yaml:"url" jsonschema:"required"`
	// Model is the name that requests ask for there. Default: the model's own name.
	Model string `yaml:"model"`
	// KeyFile is the path of a file that holds the API's key. It is sent in place of the client's own, which never goes
	// there. Default: none is sent.
	KeyFile string `yaml:"key_file,omitempty"`
	// CA is the path of a PEM file with the certificates by which the server is known. Default: the system's.
	CA string `yaml:"ca,omitempty"`
	// When says which requests go there: cold, those that have waited for a wake for longer than after, or whose model cannot
	// be woken; full, those that would be refused because too many wait. Default: both.
	When []OverflowWhen `yaml:"when"`
	// After is how long a request waits for a wake before it goes there. Default 2s.
	After Duration `yaml:"after"`
}

// Line bounds the requests of one model that wait for a slot.
type Line struct {
	// Requests that may wait at once; the next one is refused with 429. Default 1000.
	Requests int `yaml:"requests"`
	// Bytes of request bodies that may wait at once; beyond that requests are refused with 429. Default 256MiB.
	Bytes Size `yaml:"bytes"`
	// MaxWait is how long a request may wait for a slot of a backend that is ready; then it is refused with 503. The
	// time a backend takes to wake does not count: Backend.Stall bounds that. Default 5m.
	MaxWait Duration `yaml:"max_wait"`
}

// Answer bounds how slowly backends may answer. One that is slower counts as broken: the client gets 504, or its stream
// breaks off.
type Answer struct {
	// FirstByte is how long a backend may take from the request to the headers of its answer. An answer that is not streamed
	// begins when it is finished, so this is long: the official clients of OpenAI and Anthropic wait as long. Default 10m.
	FirstByte Duration `yaml:"first_byte"`
	// BetweenBytes is how long an answer that has begun may be silent. Default 5m.
	BetweenBytes Duration `yaml:"between_bytes"`
	// Total is how long a backend may take from the request to the end of its answer. Default 24h.
	Total Duration `yaml:"total"`
	// Upgraded is how long a WebSocket, or what else a connection was upgraded to, may be silent in both directions before
	// the client counts as gone: it holds a slot all the while. The other limits do not apply to it. Default 1h.
	Upgraded Duration `yaml:"upgraded"`
}

// Backend is one model server that serves the model. It is a process that we start, or one that Nomad, Kubernetes or a container
// engine starts for us, or an address alone: a server that somebody else keeps running.
type Backend struct {
	// Name of the backend, unique in the file. Default: the model's name, a dash and the position, as in llama-8b-0.
	Name string `yaml:"name"`
	// Process is the model server as a command that we start and stop.
	Process *Process `yaml:"process,omitempty"`
	// Nomad has Nomad run the model server, by the count of a job's group.
	Nomad *Nomad `yaml:"nomad,omitempty"`
	// Kubernetes has Kubernetes run it, by the scale of a Deployment or of whatever else has one.
	Kubernetes *Kubernetes `yaml:"kubernetes,omitempty"`
	// Docker has Docker or Podman run it, in a container that is there already.
	Docker *Docker `yaml:"docker,omitempty"`
	// Address is host:port of a model server that somebody else starts. Required where there is none of process, nomad,
	// kubernetes and docker. With one of the last three: where their model server is reached, if not where they say that it is.
	Address string `yaml:"address,omitempty"`
	// TLS makes us speak TLS to the address. Default: none. Only a backend with an address has it.
	TLS *BackendTLS `yaml:"tls,omitempty"`
	// GRPC is where the model server speaks gRPC: host:port, or :port on the host of its address. All backends of a
	// model have it or none. Default: none, calls for its model are refused.
	GRPC string `yaml:"grpc,omitempty"`
	// Engine is the kind of model server: its test of readiness, its load, its way to sleep. One of vllm, sglang,
	// llama.cpp, ollama, tgi, triton, http. http knows only Backend.Ready. Default http.
	Engine Engine `yaml:"engine"`
	// Ready is the path whose 2xx answer says that the model server can answer. Default: the engine's own test; for
	// engine http /health.
	Ready string `yaml:"ready,omitempty"`
	// Sleep is how the backend gives its GPU memory back while its process lives: none (it is stopped instead, where
	// we started it), engine (the engine's own sleep mode), hooks, or cuda-checkpoint (NVIDIA's program takes the memory away
	// from any CUDA process that we started, and gives it back; driver 570 or later. Where that fails the process is stopped
	// instead). Default none, or hooks where hooks are given.
	Sleep Sleep `yaml:"sleep"`
	// SleepLevel is vLLM's: 1 keeps the weights in host memory, 2 throws them away. Default 1; engines other than
	// vllm have none.
	SleepLevel int `yaml:"sleep_level,omitempty"`
	// Hooks wake, sleep and stop the backend by plain HTTP requests.
	Hooks *Hooks `yaml:"hooks,omitempty"`
	// Memory is what the backend takes of GPU memory while ready, over all its GPUs. Where a probe measures more, that
	// counts. Default 0B.
	Memory Size `yaml:"memory"`
	// AsleepMemory is what it still takes of GPU memory while asleep, over all its GPUs. What a probe measures replaces it.
	// Default: 2GiB for each GPU, but no more than memory, for the sleep mode of vllm and of sglang; else 0B.
	AsleepMemory Size `yaml:"asleep_memory"`
	// HostMemory is what it takes of host memory while asleep. Default: memory for a sleep mode that keeps the weights
	// there (vllm level 1, sglang, cuda-checkpoint), else 0B.
	HostMemory Size `yaml:"host_memory"`
	// GPUs is how many GPUs of this node the backend spreads over, evenly. Default 1, but 0 with nomad and kubernetes, which place it
	// themselves; 0 for a backend that uses none.
	GPUs int `yaml:"gpus"`
	// Slots is how many requests the backend serves at once. Default 8.
	Slots int `yaml:"slots"`
	// Trace says which requests take their trace along to the backend, in the headers traceparent and tracestate: always, all that are traced;
	// sampled, those whose trace is kept; or never. Default always, but sampled with engine triton, which traces all that name one.
	Trace SendTrace `yaml:"trace,omitempty" json:",omitempty"`
	// ConnectTime is how long connecting to the backend may take before it counts as out of reach. Default 5s.
	ConnectTime Duration `yaml:"connect_time"`
	// Stall is how long a wake may go without any progress before it has failed: a log line, a change in what the server
	// answers or in what its scheduler says, bytes read from disk. It is no deadline: a load that goes on may take as long as it needs. Default 2m.
	Stall Duration `yaml:"stall"`
}

// Process is a model server as a command. {port} in the command, in the environment's values and in nothing else stands for the
// port it is given, {gpus} for the comma-separated indices of its GPUs, which CUDA_VISIBLE_DEVICES holds too.
type Process struct {
	// Command and its arguments. Required. It is not passed through a shell.
	Command []string `yaml:"command" jsonschema:"required"`
	// Dir is the working directory. Default: that of pilotlight.
	Dir string `yaml:"dir,omitempty"`
	// Env adds to the environment of pilotlight.
	Env map[string]string `yaml:"env,omitempty"`
	// SecretEnv adds to it from files: each value is the path of a file that holds the secret.
	SecretEnv map[string]string `yaml:"secret_env,omitempty"`
	// Port it listens on. Default 0: a free one, found at each start.
	Port int `yaml:"port"`
	// StopTime is how long the process group may take to end after SIGTERM, before SIGKILL. Default 10s.
	StopTime Duration `yaml:"stop_time"`
}

// Nomad is the group of a Nomad job that is scaled up to wake the backend, and to 0 to stop it. The job is there already.
type Nomad struct {
	// Job is the job's ID. Required.
	Job string `yaml:"job" jsonschema:"required"`
	// Group is the group that is scaled. Default: the job's only one.
	Group string `yaml:"group,omitempty"`
	// Count is what the group is scaled to. Default 1; more than 1 needs the backend's address, behind which they stand.
	Count int `yaml:"count"`
	// Port is the label of the port where the model server listens. Default: the only one that its allocation has.
	Port string `yaml:"port,omitempty"`
	// Address is the base of Nomad's HTTP API. Default http://127.0.0.1:4646.
	Address string `yaml:"address"`
	// Region of Nomad. Default: that of the server that answers.
	Region string `yaml:"region,omitempty"`
	// Namespace of the job. Default default.
	Namespace string `yaml:"namespace"`
	// TokenFile is the path of a file that holds the token, which needs read-job, scale-job and read-logs in the namespace. It is read at
	// each request. Default: none is sent.
	TokenFile string `yaml:"token_file,omitempty"`
	// TLS is how we speak TLS to an https address. Default: with the authorities that this host trusts.
	TLS *BackendTLS `yaml:"tls,omitempty"`
}

// Kubernetes is what is scaled up in Kubernetes to wake the backend, and to 0 to stop it. One of deployment, stateful_set and target
// is required. It is there already.
type Kubernetes struct {
	// Namespace of what is scaled. Default: that of the kubeconfig's context, or of the pod that we run in, or default.
	Namespace string `yaml:"namespace,omitempty"`
	// Deployment is the name of the Deployment that is scaled.
	Deployment string `yaml:"deployment,omitempty"`
	// StatefulSet is the name of the StatefulSet that is scaled.
	StatefulSet string `yaml:"stateful_set,omitempty"`
	// Target is anything else that has a scale, as group/version/resource/name: leaderworkerset.x-k8s.io/v1/leaderworkersets/llama.
	Target string `yaml:"target,omitempty"`
	// Count is how many replicas it is scaled to. Default 1; more than 1 needs service or the backend's address, behind which they stand.
	Count int `yaml:"count"`
	// Service is the name of the Service by whose cluster address the model server is reached. Default: none, by its pod's address.
	Service string `yaml:"service,omitempty"`
	// Port is the name or the number of the port, of the service or else of the pod's containers. Default: the only one.
	Port string `yaml:"port,omitempty"`
	// Kubeconfig is the path of a kubeconfig, whose user has a token or a certificate. Default: the service account of the pod that we
	// run in.
	Kubeconfig string `yaml:"kubeconfig,omitempty"`
	// Context of the kubeconfig. Default: its current one.
	Context string `yaml:"context,omitempty"`
}

// Docker is a container that is started to wake the backend, and stopped to stop it. It is there already.
type Docker struct {
	// Container is its name or its ID. Required.
	Container string `yaml:"container" jsonschema:"required"`
	// Host is where the engine's API listens: unix:///path, tcp://host:port, or https://host:port. Podman's is
	// unix:///run/podman/podman.sock. Default unix:///var/run/docker.sock.
	Host string `yaml:"host"`
	// Action is what takes the backend down: stop, or pause, which keeps all its memory and is for backends that use no GPU. Default
	// stop.
	Action DockerAction `yaml:"action"`
	// Port is the container's port where the model server listens. Default: the only one that it exposes.
	Port int `yaml:"port"`
	// StopTime is how long the container may take to end after SIGTERM, before SIGKILL. Default 10s.
	StopTime Duration `yaml:"stop_time"`
	// TLS is how we speak TLS to an https host. Default: with the authorities that this host trusts.
	TLS *BackendTLS `yaml:"tls,omitempty"`
}

// Hooks are HTTP requests by which a backend is moved; each is "METHOD URL". Only wake and sleep together make a backend that
// can sleep.
type Hooks struct {
	// Wake is sent to wake the backend. Its answer must be 2xx.
	Wake string `yaml:"wake,omitempty"`
	// Sleep is sent to put it to sleep. Its answer must be 2xx.
	Sleep string `yaml:"sleep,omitempty"`
	// Stop is sent to stop it. Default: none, it stays asleep.
	Stop string `yaml:"stop,omitempty"`
	// BearerFile is the path of a file whose content is sent as a bearer token.
	BearerFile string `yaml:"bearer_file,omitempty"`
}

// Network is a range of addresses, as in 10.0.0.0/8. The zero Network holds none.
type Network string

// Engine is a kind of model server.
type Engine string

// The engines.
const (
	VLLM     Engine = "vllm"
	SGLang   Engine = "sglang"
	LlamaCPP Engine = "llama.cpp"
	Ollama   Engine = "ollama"
	TGI      Engine = "tgi"
	Triton   Engine = "triton"
	HTTP     Engine = "http"
)

// DockerAction is what takes a container down.
type DockerAction string

// The ways to take a container down.
const (
	DockerStop  DockerAction = "stop"
	DockerPause DockerAction = "pause"
)

// Sleep is how a backend gives its GPU memory back while its process lives.
type Sleep string

// The ways to sleep.
const (
	SleepNone   Sleep = "none"
	SleepEngine Sleep = "engine"
	SleepHooks  Sleep = "hooks"

	SleepCheckpoint Sleep = "cuda-checkpoint"
)

// OverflowWhen is a reason for which requests go to another upstream.
type OverflowWhen string

// The reasons.
const (
	OverflowCold OverflowWhen = "cold"
	OverflowFull OverflowWhen = "full"
)
