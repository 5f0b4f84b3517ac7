package config

import (
	"bytes"
	"errors"
	"flag"
	"fmt"
	"os"
	"path/filepath"
	"reflect"
	"strings"
	"testing"
	"time"

	"github.com/rogpeppe/go-internal/txtar"
)

var update = flag.Bool("update", false, "write the expected files anew")

// TestEveryProblemIsToldInOnePass holds the exact diagnostics of each testdata/*.txtar.
func TestEveryProblemIsToldInOnePass(t *testing.T) {
	for _, file := range glob(t, "testdata/*.txtar") {
		t.Run(strings.TrimSuffix(filepath.Base(file), ".txtar"), func(t *testing.T) {
			archive, err := txtar.ParseFile(file)
			if err != nil {
				t.Fatal(err)
			}
			in, problems := archive.Files[0], &archive.Files[1]
			_, err = Parse(in.Name, in.Data)
			if _, is := errors.AsType[Problems](err); !is {
				t.Fatalf("Parse says %v; want Problems", err)
			}
			got, want := err.Error()+"\n", string(problems.Data)
			if got == want {
				return
			}
			if !*update {
				t.Fatalf("got\n%s\nwant\n%s", got, want)
			}
			problems.Data = []byte(got)
			if err := os.WriteFile(file, txtar.Format(archive), 0o644); err != nil {
				t.Fatal(err)
			}
		})
	}
}

func glob(t *testing.T, pattern string) []string {
	t.Helper()
	files, err := filepath.Glob(pattern)
	if err != nil || len(files) == 0 {
		t.Fatalf("%s: %d files, %v", pattern, len(files), err)
	}
	return files
}

// TestEveryKeyCanBeSet holds a file that uses every key, and that each of them arrives: with it nothing is left as it is
// without it.
func TestEveryKeyCanBeSet(t *testing.T) {
	cfg, err := Load("testdata/every-key.yaml")
	if err != nil {
		t.Fatal(err)
	}
	set := map[string]bool{}
	changedKeys(set, reflect.ValueOf(*cfg))
	for _, typ := range []any{Config{}, Limits{}, Node{}, GPU{}, Model{}, Line{}, Backend{}, Process{}, Hooks{}, Overflow{}, Consul{}, Link{}, Ledger{}, Telemetry{}, Prices{}, GPUPrice{}, Serverless{}, Pool{}, ColdTarget{}, Window{}, Keys{}} {
		for _, f := range reflect.VisibleFields(reflect.TypeOf(typ)) {
			if key := reflect.TypeOf(typ).Name() + "." + f.Name; !set[key] {
				t.Errorf("%s is as it would be without the file", key)
			}
		}
	}
}

// changedKeys adds to set the fields below v that differ from their defaults.
func changedKeys(set map[string]bool, v reflect.Value) {
	switch v.Kind() {
	case reflect.Struct:
		def := reflect.New(v.Type())
		setDefaults(def.Interface())
		for i, f := range reflect.VisibleFields(v.Type()) {
			if !reflect.DeepEqual(v.Field(i).Interface(), def.Elem().Field(i).Interface()) {
				set[v.Type().Name()+"."+f.Name] = true
			}
			changedKeys(set, v.Field(i))
		}
	case reflect.Slice:
		for i := range v.Len() {
			changedKeys(set, v.Index(i))
		}
	case reflect.Map:
		for _, item := range v.Seq2() {
			changedKeys(set, item)
		}
	case reflect.Pointer:
		if !v.IsNil() {
			changedKeys(set, v.Elem())
		}
	}
}

func TestExamplesParse(t *testing.T) {
	for _, file := range glob(t, "../deploy/examples/*.yaml") {
		if _, err := Load(file); err != nil {
			t.Error(err)
		}
	}
}

const small = "models: {llama: {backends: [{address: '127.0.0.1:8000'}]}}"

func TestDefaultsFillWhatTheFileLeavesOut(t *testing.T) {
	t.Setenv("XDG_STATE_HOME", "/state")
	cfg := parse(t, small)
	host, err := os.Hostname()
	if err != nil {
		t.Fatal(err)
	}
	want := &Config{
		Listen: "127.0.0.1:8080", Admin: "127.0.0.1:8081", DrainLimit: Duration(30 * time.Second),
		Limits: Limits{
			Body: 64 * MiB, BodyHeld: MiB, Header: 64 * KiB, Connections: 65536, ConnectionsPerAddress: 4096, RequestsPerConnection: 100000,
			HeaderTime: Duration(10 * time.Second),
			BodyTime:   Duration(5 * time.Minute), IdleTime: Duration(2 * time.Minute), WriteTime: Duration(time.Minute),
			Held: GiB,
		},
		Pool:      Pool{Policy: "predictive:k=20m", GPUPrice: 0.03, HostPrice: 0.003, Loads: 10, Swaps: 2},
		Node:      Node{Name: host, NVML: NVMLAuto, HostMemory: hostMemory() / 2, StateDir: "/state/pilotlight", CUDACheckpoint: "cuda-checkpoint"},
		Ledger:    Ledger{Keep: true, File: "/state/pilotlight/ledger.db", Retention: Duration(90 * 24 * time.Hour)},
		Timing:    TimingAsked,
		Log:       Log{Sample: 1},
		Telemetry: Telemetry{Ratio: 1, Keep: []KeepTrace{KeepCold, KeepErrors, KeepSlow}, Slow: Duration(10 * time.Second), Clients: FollowTraces, Queue: 8192},
		Models: map[string]Model{"llama": {
			ServedAs: "llama",
			Backends: []Backend{{
				Name: "llama-0", Address: "127.0.0.1:8000", Engine: HTTP, Ready: "/health", Sleep: SleepNone,
				GPUs: 1, Slots: 8, ConnectTime: Duration(5 * time.Second), Stall: Duration(2 * time.Minute),
			}},
			Line:      Line{Requests: 1000, Bytes: 256 * MiB, MaxWait: Duration(5 * time.Minute)},
			Routing:   Routing{Policy: Scored, Weights: Weights{1, 1, 0.5, 0.5, 1, 0.1, 1, 0.5}, ReadingAge: Duration(2 * time.Second)},
			Answer:    Answer{FirstByte: Duration(10 * time.Minute), BetweenBytes: Duration(5 * time.Minute), Total: Duration(24 * time.Hour), Upgraded: Duration(time.Hour)},
			Heartbeat: Duration(10 * time.Second), NoHeartbeat: []string{"okhttp/"}, IdleTime: Duration(5 * time.Minute), StopAfter: Duration(24 * time.Hour),
			Policy: "predictive:k=20m", Weight: 1,
		}},
	}
	if !reflect.DeepEqual(cfg, want) {
		t.Errorf("got\n%s\nwant\n%s", cfg, want)
	}
}

func TestAnExplicitZeroIsZero(t *testing.T) {
	cfg := parse(t, `
drain_limit: 0
node: {host_memory: 0}
models:
  llama:
    heartbeat: 0s
    line: {requests: 0, bytes: 0B}
    backends:
      - address: 127.0.0.1:8000
        engine: vllm
        sleep: engine
        memory: 40GiB
        host_memory: 0
        gpus: 1
      - {address: '127.0.0.1:8001', gpus: 0}
`)
	m := cfg.Models["llama"]
	for what, v := range map[string]any{
		"drain_limit": cfg.DrainLimit, "node.host_memory": cfg.Node.HostMemory,
		"heartbeat": m.Heartbeat, "line.requests": m.Line.Requests, "line.bytes": m.Line.Bytes,
		"host_memory": m.Backends[0].HostMemory, "gpus": m.Backends[1].GPUs,
	} {
		if !reflect.ValueOf(v).IsZero() {
			t.Errorf("%s is %v; want 0", what, v)
		}
	}
	if m.Line.MaxWait != Duration(5*time.Minute) {
		t.Errorf("line.max_wait is %v beside keys that are 0; want its default", m.Line.MaxWait)
	}
}

func TestHostMemoryDefaultsToMemoryWhereSleepKeepsTheWeights(t *testing.T) {
	for backend, want := range map[string]Size{
		"engine: vllm, sleep: engine":                 8 * GiB,
		"engine: vllm, sleep: engine, sleep_level: 2": 0,
		"engine: vllm":                  0,
		"engine: sglang, sleep: engine": 8 * GiB,
		"engine: ollama, sleep: engine": 0,
	} {
		cfg := parse(t, "models: {m: {backends: [{address: 'h:1', memory: 8GiB, "+backend+"}]}}")
		if got := cfg.Models["m"].Backends[0].HostMemory; got != want {
			t.Errorf("%s: host_memory is %v, want %v", backend, got, want)
		}
	}
}

func TestHooksMakeABackendThatSleepsByThem(t *testing.T) {
	for hooks, want := range map[string]Sleep{
		"wake: POST http://h/w, sleep: POST http://h/s": SleepHooks,
		"stop: POST http://h/stop":                      SleepNone,
	} {
		cfg := parse(t, "models: {m: {backends: [{address: 'h:1', hooks: {"+hooks+"}}]}}")
		if got := cfg.Models["m"].Backends[0].Sleep; got != want {
			t.Errorf("hooks {%s}: sleep is %s, want %s", hooks, got, want)
		}
	}
}

func TestMergeKeysShareWhatModelsHaveInCommon(t *testing.T) {
	cfg := parse(t, `
models:
  a: &common {idle_time: 1h, min: 1, backends: [{address: 'h:1'}]}
  b: {<<: *common, min: 0, backends: [{address: 'h:2'}]}
`)
	if b := cfg.Models["b"]; b.IdleTime != Duration(time.Hour) || b.Min != 0 || b.Backends[0].Address != "h:2" {
		t.Errorf("b is %+v; want idle_time of a, its own min and backends", b)
	}
}

func TestProblemsAreShownUpToFifty(t *testing.T) {
	text := small + "\n"
	for i := range 60 {
		text += fmt.Sprintf("k%d: 1\n", i)
	}
	_, err := Parse("x.yaml", []byte(text))
	if got := strings.Count(err.Error(), "unknown key"); got != 50 {
		t.Errorf("%d problems are shown, want 50", got)
	}
	if !strings.HasSuffix(err.Error(), "\nand 10 more") {
		t.Errorf("the end is %q", err.Error()[len(err.Error())-40:])
	}
}

func TestOddFilesAreRefusedWithAWord(t *testing.T) {
	for text, want := range map[string]string{
		"":                               "x.yaml: the file is empty; it needs models at least",
		"---\n":                          "x.yaml: the file is empty; it needs models at least",
		strings.Repeat("#", maxFile+1):   "x.yaml: the file is larger than 1MiB",
		"a: \xff\xfe":                    "x.yaml:1:4: the file is not UTF-8 here",
		"a: b\n# \x1b[31m":               "x.yaml:2:3: the character U+001B cannot stand in the file",
		"a: \u2028":                      "x.yaml:1:4: the character U+2028 cannot stand in the file",
		strings.Repeat("[", 100_000):     "exceeded max depth",
		strings.Repeat("- ", 100_000):    "exceeded max depth",
		strings.Repeat("- a\n", 100_001): "the file expands to more than 100000 values",
	} {
		_, err := Parse("x.yaml", []byte(text))
		if err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%.20q: %.200v; want %s", text, err, want)
		}
	}
}

func TestLineBreaksAndAByteOrderMarkDoNotMatter(t *testing.T) {
	want := parse(t, "admin: 127.0.0.1:1\n"+small).Hash()
	for _, text := range []string{"\uFEFFadmin: 127.0.0.1:1\r\n" + small + "\r\n", "admin: 127.0.0.1:1\r" + small} {
		if got := parse(t, text).Hash(); got != want {
			t.Errorf("%q: hash %s, want %s", text, got, want)
		}
	}
}

func TestLoadSaysWhichFileCannotBeRead(t *testing.T) {
	_, err := Load(filepath.Join(t.TempDir(), "none.yaml"))
	if !errors.Is(err, os.ErrNotExist) || !strings.Contains(err.Error(), "none.yaml") {
		t.Errorf("got %v", err)
	}
}

// FuzzParse: no text makes Parse panic, problems lie within the file, and what parses prints as a file that means the
// same.
func FuzzParse(f *testing.F) {
	for _, pattern := range []string{"testdata/*.txtar", "testdata/*.yaml", "../deploy/examples/*.yaml"} {
		files, err := filepath.Glob(pattern)
		if err != nil {
			f.Fatal(err)
		}
		for _, file := range files {
			text, err := os.ReadFile(file)
			if err != nil {
				f.Fatal(err)
			}
			if archive := txtar.Parse(text); len(archive.Files) > 0 {
				text = archive.Files[0].Data
			}
			f.Add(text)
		}
	}
	f.Fuzz(func(t *testing.T, text []byte) {
		cfg, err := Parse("fuzz.yaml", text)
		if problems, is := errors.AsType[Problems](err); is {
			_ = problems.Error()
			for _, p := range problems {
				if p.Line > 0 && p.Column < 1 || p.Line > 2+bytes.Count(text, []byte("\n"))+bytes.Count(text, []byte("\r")) {
					t.Errorf("a problem lies outside of the file: %v", p)
				}
			}
			return
		}
		if err != nil {
			t.Fatalf("Parse says %v; want Problems", err)
		}
		printed := dump((*open)(cfg))
		again, err := Parse("printed.yaml", printed)
		if err != nil {
			t.Fatalf("%s\nprints as\n%s\nwhich does not parse: %v", text, printed, err)
		}
		if again.Hash() != cfg.Hash() {
			t.Errorf("%s\nprints as\n%s\nwhich means\n%s", text, printed, dump((*open)(again)))
		}
	})
}

func parse(t *testing.T, text string) *Config {
	t.Helper()
	cfg, err := Parse("test.yaml", []byte(text))
	if err != nil {
		t.Fatal(err)
	}
	return cfg
}
