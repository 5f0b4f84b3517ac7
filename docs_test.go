//go:build linux

package main_test

import (
	"context"
	"fmt"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"pilotlight/probe/proc"
)

// block is fenced text of a page. What follows the language says how it is run:
//
//	sh                    to its end, which must be good
//	sh background ADDR    beside the blocks that follow, the first of which waits until somebody listens at ADDR
//	sh unrun REASON       not here; bash reads it, and every verb and flag of pilotlight in it must be there
//	yaml                  not at all, but kept as the file that its first line names, as in "# pilotlight.yaml"
type block struct {
	language, how, arg, text string
	line                     int // of the page, where the text begins
}

var fence = regexp.MustCompile("(?ms)^```(sh|yaml)(?: (background|unrun) ([^\n]+))?\n(.*?)^```$")

func blocks(page string) (all []block) {
	for _, at := range fence.FindAllStringSubmatchIndex(page, -1) {
		part := func(i int) string {
			if at[2*i] < 0 {
				return ""
			}
			return page[at[2*i]:at[2*i+1]]
		}
		all = append(all, block{part(1), part(2), part(3), part(4), 2 + strings.Count(page[:at[0]], "\n")})
	}
	return all
}

// TestEveryCommandOfTheDocsRuns runs the pages for people, each from top to bottom in a folder of its own.
func TestEveryCommandOfTheDocsRuns(t *testing.T) {
	t.Parallel()
	pages, err := filepath.Glob("docs/*.md")
	if err != nil {
		t.Fatal(err)
	}
	for _, file := range append(pages, "README.md", "SECURITY.md") {
		text, err := os.ReadFile(file)
		if err != nil {
			t.Fatal(err)
		}
		if all := blocks(string(text)); strings.Contains(string(text), "\n```sh") {
			t.Run(filepath.Base(file), func(t *testing.T) {
				t.Parallel()
				r := newReader(t)
				for _, b := range all {
					r.follow(t, b)
				}
			})
		}
	}
}

// reader does what a page says.
type reader struct {
	dir   string
	env   []string
	ports *strings.Replacer // those of the pages by others that are free, as pages run beside each other
}

// asVLLM has `vllm serve MODEL --port PORT` run a simulated one.
const asVLLM = `#!/bin/bash
[[ $1 == serve ]] && model=$2 port=8000
while (($#)); do
	case $1 in --port) port=$2 ;; --served-model-name) model=$2 ;; esac
	shift
done
exec pilotlight modelsim --load 100ms --wake-host 20ms --model "$model" --port "$port"
`

func newReader(t *testing.T) *reader {
	t.Helper()
	r := &reader{dir: t.TempDir()}
	bin := t.TempDir()
	named := []string{"8000", "8080", "8081", "8082", "8083"}
	free, err := proc.FreePorts(len(named))
	if err != nil {
		t.Fatal(err)
	}
	var pairs []string
	for i, port := range named {
		pairs = append(pairs, port, strconv.Itoa(free[i]))
	}
	r.ports = strings.NewReplacer(pairs...)
	onFree := fmt.Sprintf("#!/bin/bash\n[[ $1 != dev ]] || set -- \"$@\" %s\nexec %s \"$@\"\n", r.ports.Replace("--listen 127.0.0.1:8080 --admin 127.0.0.1:8081"), binary(t))
	for name, script := range map[string]string{"pilotlight": onFree, "vllm": asVLLM} {
		if err := os.WriteFile(filepath.Join(bin, name), []byte(script), 0o755); err != nil {
			t.Fatal(err)
		}
	}
	r.env = append(os.Environ(), raceOptions, "PATH="+bin+":"+os.Getenv("PATH"), "HOME="+r.dir, "XDG_STATE_HOME="+filepath.Join(r.dir, "state"),
		"PILOTLIGHT_ADMIN="+r.ports.Replace("127.0.0.1:8081"))
	return r
}

func (r *reader) follow(t *testing.T, b block) {
	t.Helper()
	switch text := r.ports.Replace(b.text); {
	case b.language == "yaml":
		if name := regexp.MustCompile(`^# (\S+\.yaml)\n`).FindStringSubmatch(b.text); name != nil {
			if err := os.WriteFile(filepath.Join(r.dir, name[1]), []byte(text), 0o600); err != nil {
				t.Fatal(err)
			}
		}
	case b.how == "background":
		r.beside(t, b, text)
	case b.how == "unrun":
		r.bash(t, b, "-n", text)
		r.knows(t, b)
	default:
		r.bash(t, b, "-euo", "pipefail", text)
	}
}

var command = regexp.MustCompile(`(?m)^(?:sudo )?(?:\S*/)?pilotlight ([a-z]+)([^#\n]*)`)

// knows wants pilotlight to have the verbs and flags of a block that is not run.
func (r *reader) knows(t *testing.T, b block) {
	t.Helper()
	for _, c := range command.FindAllStringSubmatch(b.text, -1) {
		help := string(run(t, "", nil, binary(t), c[1], "--help"))
		for _, below := range regexp.MustCompile(`(?m)^ +`+c[1]+` ([a-z-]+)`).FindAllStringSubmatch(help, -1) {
			help += string(run(t, "", nil, binary(t), c[1], below[1], "--help"))
		}
		for word := range strings.FieldsSeq(c[2]) {
			if flag, _, _ := strings.Cut(word, "="); strings.HasPrefix(flag, "--") && !strings.Contains(help, flag) {
				t.Errorf("line %d: pilotlight %s has no flag %s", b.line, c[1], flag)
			}
		}
	}
}

// bash runs a block, or only reads it, and bounds how long that takes.
func (r *reader) bash(t *testing.T, b block, options ...string) {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), 2*patience)
	defer cancel()
	text := options[len(options)-1]
	cmd := exec.CommandContext(ctx, "bash", append(options[:len(options)-1:len(options)-1], "-c", text)...)
	cmd.Dir, cmd.Env = r.dir, r.env
	if out, err := cmd.CombinedOutput(); err != nil {
		t.Fatalf("line %d: %v\n%s\n%s", b.line, err, text, out)
	} else {
		t.Logf("line %d:\n%s\n%s", b.line, text, out)
	}
}

// beside runs a block until the page has been read, and waits until it listens.
func (r *reader) beside(t *testing.T, b block, text string) {
	t.Helper()
	cmd := exec.Command("bash", "-c", "exec "+strings.TrimSpace(text))
	cmd.Dir, cmd.Env, cmd.WaitDelay = r.dir, r.env, time.Second
	cmd.Stdout, cmd.Stderr = t.Output(), t.Output()
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		_ = cmd.Process.Signal(syscall.SIGINT)
		late := time.AfterFunc(patience, func() { _ = cmd.Process.Kill() })
		defer late.Stop()
		_ = cmd.Wait() // a simulated vLLM that is interrupted does not end well
	})
	eventually(t, "somebody listens at "+b.arg, func() bool {
		conn, err := net.Dial("tcp", r.ports.Replace(b.arg))
		if err == nil {
			_ = conn.Close()
		}
		return err == nil
	})
}
