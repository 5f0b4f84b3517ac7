package modelsim

import (
	"context"
	"encoding"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/alecthomas/kong"
)

// Options are what one simulated model server is like. They are the flags of the verb modelsim; for use in memory start
// with Defaults.
type Options struct {
	Host   string   `default:"127.0.0.1" help:"Address to listen on (${default})."`
	Port   uint16   `default:"8000" help:"Port to listen on (${default}); 0: any."`
	Models []string `name:"model" default:"sim" placeholder:"NAME" help:"Name by which clients ask for the model (${default}); repeat it for more names."`
	Answer int      `default:"64" placeholder:"TOKENS" help:"Length of an answer that the client does not end sooner (${default})."`

	Load        time.Duration `default:"3s" group:"Loading" help:"Time from the start until the weights are on the GPU (${default})."`
	ListenEarly bool          `group:"Loading" help:"Open the port at once and answer 503 while loading, as llama.cpp does, rather than when loaded, as vLLM does."`
	WakeHost    time.Duration `default:"300ms" group:"Loading" help:"Time to wake from sleep level 1, with the weights in host memory (${default})."`
	WakeDisk    time.Duration `default:"2s" group:"Loading" help:"Time to wake from sleep level 2, with the weights on disk (${default})."`
	LoadFactor  string        `group:"Loading" placeholder:"FILE" help:"File with a number by which loading and waking take longer, as from a slow disk. It is read each time; while there is none it is 1."`

	Step       time.Duration `default:"10ms" group:"Engine" help:"Time of a decoding step, which gives every running request a token (${default})."`
	StepPerSeq time.Duration `default:"200us" group:"Engine" help:"What each running request adds to a step (${default})."`
	Prefill    time.Duration `default:"100us" group:"Engine" help:"What each token of a new prompt adds to the step that reads it, for all (${default})."`
	Slots      int           `default:"32" group:"Engine" help:"Requests that run at once; the others wait in the engine (${default})."`
	KVTokens   int           `name:"kv-tokens" default:"65536" group:"Engine" placeholder:"TOKENS" help:"Size of the KV cache, and with it of the longest prompt and answer (${default})."`

	Memory       float64 `name:"gpu-memory" default:"0" group:"Memory" placeholder:"GIB" help:"GPU memory that it says that it holds while awake (${default}), in GiB."`
	AsleepMemory float64 `name:"gpu-memory-asleep" default:"0" group:"Memory" placeholder:"GIB" help:"The same while it sleeps (${default})."`

	Asleep     string        `enum:"wait,crash" default:"wait" group:"Failures" help:"What a request to a sleeping engine does: wait until the engine wakes (vLLM since 0.17) or crash it (vLLM before)."`
	StallAfter time.Duration `group:"Failures" help:"Stop making progress after so much loading, and hang."`
	Fail       Failure       `group:"Failures" placeholder:"HOW" help:"Fail: crash-on-load, oom, hang (accept and never answer) or die-mid-stream[=TOKENS] (20)."`
	FailTimes  int           `group:"Failures" placeholder:"N" help:"Let only the first N starts fail; the starts are counted in --fail-state."`
	FailState  string        `group:"Failures" type:"path" placeholder:"FILE" help:"File that counts the starts, one byte each."`

	Output io.Writer `kong:"-"` // what the server prints; nil: nothing, or standard error where Run is used
}

// Defaults are the options of a server that was given no flags.
func Defaults() Options {
	var o Options
	if err := kong.ApplyDefaults(&o); err != nil {
		panic("BUG: the defaults of modelsim are not valid: " + err.Error())
	}
	return o
}

// Run serves on the options' port until ctx ends. An error means that the simulated server died.
func (o *Options) Run(ctx context.Context) error {
	served := *o
	if served.Output == nil {
		served.Output = os.Stderr
	}
	return Serve(ctx, func() (net.Listener, error) {
		var config net.ListenConfig
		return config.Listen(ctx, "tcp", net.JoinHostPort(o.Host, strconv.Itoa(int(o.Port))))
	}, served)
}

func (o *Options) check() error {
	switch {
	case len(o.Models) == 0:
		return errors.New("a simulated model server needs a model")
	case o.Step <= 0:
		return fmt.Errorf("a step of %v would never end; it must be more than 0", o.Step)
	case min(o.Load, o.WakeHost, o.WakeDisk, o.StepPerSeq, o.Prefill, o.StallAfter) < 0:
		return errors.New("no time may be negative")
	case min(o.Memory, o.AsleepMemory) < 0:
		return errors.New("no memory may be negative")
	case min(o.Slots, o.KVTokens, o.Answer) < 1:
		return fmt.Errorf("%d slots, %d KV tokens and answers of %d tokens: each must be at least 1", o.Slots, o.KVTokens, o.Answer)
	case o.FailTimes > 0 && o.FailState == "":
		return errors.New("the starts that fail are counted in a file: say in which with --fail-state")
	}
	return nil
}

// failure is the failure of this start. It counts the start where only the first ones fail.
func (o *Options) failure() (Failure, error) {
	if o.Fail.Kind == "" || o.FailTimes == 0 {
		return o.Fail, nil
	}
	f, err := os.OpenFile(o.FailState, os.O_CREATE|os.O_WRONLY|os.O_APPEND, 0o600)
	if err != nil {
		return Failure{}, fmt.Errorf("count the starts: %w", err)
	}
	defer f.Close()
	if _, err := f.WriteString("."); err != nil {
		return Failure{}, fmt.Errorf("count the starts: %w", err)
	}
	start, err := f.Seek(0, io.SeekCurrent) // the end of our own byte, even if others append at the same time
	if err != nil {
		return Failure{}, fmt.Errorf("count the starts: %w", err)
	}
	if start > int64(o.FailTimes) {
		return Failure{}, nil
	}
	return o.Fail, nil
}

// The kinds of Failure.
const (
	CrashOnLoad  = "crash-on-load"  // Serve returns an error after half of the load time
	OutOfMemory  = "oom"            // the same, and the error is PyTorch's
	Hang         = "hang"           // connections are accepted, and no request is ever answered
	DieMidStream = "die-mid-stream" // Serve returns an error when an answer is Tokens long
)

// Failure is how a server fails. The zero value does not.
type Failure struct {
	Kind   string // one of the constants, or empty
	Tokens int    // of DieMidStream: what an answer gets before the server dies
}

var _ encoding.TextUnmarshaler = (*Failure)(nil)

// UnmarshalText reads a kind, with =TOKENS where it is DieMidStream.
func (f *Failure) UnmarshalText(text []byte) error {
	kind, tokens, counted := strings.Cut(string(text), "=")
	if !slices.Contains([]string{CrashOnLoad, OutOfMemory, Hang, DieMidStream}, kind) {
		return fmt.Errorf("%q is no way to fail; take crash-on-load, oom, hang or die-mid-stream", text)
	}
	*f = Failure{Kind: kind}
	if kind == DieMidStream {
		f.Tokens = 20
	}
	if !counted {
		return nil
	}
	n, err := strconv.Atoi(tokens)
	if err != nil || n < 0 || kind != DieMidStream {
		return fmt.Errorf("%q: only die-mid-stream takes a number of tokens, as in die-mid-stream=20", text)
	}
	f.Tokens = n
	return nil
}
