package main

import (
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/alecthomas/kong"
)

func TestCompletion(t *testing.T) {
	app, err := kong.New(&verbs{}, kong.Name("pilotlight"))
	if err != nil {
		t.Fatal(err)
	}
	models := func(addr string) []string { return []string{"llama\tready", "lava\tasleep", "at-" + addr} }
	for line, want := range map[string]string{
		"":                           "dev serve agent check import status nodes explain plan keys",
		"ser":                        "serve",
		"keys ":                      "new list revoke",
		"wake ":                      "llama lava at-127.0.0.1:8081",
		"wake la":                    "lava",
		"wake --admin h:1 at":        "at-h:1",
		"wake --json ll":             "llama",
		"wake llama ":                "",
		"status --w":                 "--watch",
		"serve -c ":                  ":files",
		"serve --config x --list":    "--listen",
		"check ":                     ":files",
		"completion ":                "bash zsh fish",
		"completion z":               "zsh",
		"pin --admin-token-file ":    ":files",
		"pin llama --f":              "--for",
		"nothing-of-that-name --adm": "",
	} {
		var got []string
		for _, one := range complete(app.Model.Node, strings.Split(line, " "), models) {
			name, _, _ := strings.Cut(one, "\t")
			got = append(got, name)
		}
		if line == "" {
			got = got[:min(len(got), 10)]
		}
		if !slices.Equal(got, strings.Fields(want)) {
			t.Errorf("%q: got %q, want %s", line, got, want)
		}
	}
	for _, hidden := range []string{"nvml", "complete "} {
		if all := complete(app.Model.Node, []string{hidden[:4]}, models); slices.ContainsFunc(all, func(s string) bool { return strings.HasPrefix(s, hidden+"\t") }) {
			t.Errorf("%s is offered", hidden)
		}
	}
}

func TestNamesThatMeanSomethingToAShellAreNotOffered(t *testing.T) {
	for name, want := range map[string]bool{
		"llama-8b": true, "meta/llama-3.1": true, "$(reboot)": false, "`reboot`": false, "a b": false, "a;b": false, "-rf": false, "a\nb": false, "<img>": false, "": false,
	} {
		if plainName.MatchString(name) != want {
			t.Errorf("%q is offered: %v", name, !want)
		}
	}
}

// TestBashCompletes runs the script in bash itself, with this test as pilotlight.
func TestBashCompletes(t *testing.T) {
	bash, err := exec.LookPath("bash")
	if err != nil {
		t.Fatal("there is no bash here, which the Makefile needs, too")
	}
	dir := t.TempDir()
	if err := os.WriteFile(filepath.Join(dir, "pilotlight"), []byte("#!/bin/sh\nshift 2\nprintf 'llama\\tready\\n<%s>\\n' \"$*\"\n"), 0o755); err != nil {
		t.Fatal(err)
	}
	cmd := exec.CommandContext(t.Context(), bash, "--norc", "-c", bashCompletion+"\nCOMP_WORDS=(pilotlight wake la more); COMP_CWORD=2; _pilotlight; printf '%s,' \"${COMPREPLY[@]}\"; complete -p pilotlight")
	cmd.Env = append(os.Environ(), "PATH="+dir+":"+os.Getenv("PATH"))
	out, err := cmd.CombinedOutput()
	if want := "llama,<wake la>,complete -F _pilotlight pilotlight\n"; err != nil || string(out) != want {
		t.Errorf("%v: got %q, want %q", err, out, want)
	}
}

// shell is a shell, with a pilotlight before all others in PATH that offers models and writes down with what else it is run.
type shell struct {
	*exec.Cmd
	script string // the completion script
	ran    string // a file
}

// inShell makes the shell called name run program, which finds the completion script in $SCRIPT. It is no failure that there is no such shell here.
func inShell(t *testing.T, name, completion string, args ...string) *shell {
	t.Helper()
	path, err := exec.LookPath(name)
	if err != nil {
		t.Skipf("there is no %s here; make deps installs it where it may", name)
	}
	dir := t.TempDir()
	s := &shell{script: filepath.Join(dir, "script"), ran: filepath.Join(dir, "ran")}
	const fake = `#!/bin/sh
if [ "$1" = complete ]; then
	shift 2
	for last; do :; done
	case "$last" in -*) printf '%s\n' '--json';; f*) echo ':files';; *) printf 'llama:8b\tready\n<%s>\tasleep\n' "$*";; esac
else
	printf '%s' "$*" > "$RAN.new" && mv "$RAN.new" "$RAN"
fi
`
	for file, text := range map[string]string{filepath.Join(dir, "pilotlight"): fake, s.script: completion, filepath.Join(dir, "found.yaml"): ""} {
		if err := os.WriteFile(file, []byte(text), 0o755); err != nil {
			t.Fatal(err)
		}
	}
	s.Cmd = exec.CommandContext(t.Context(), path, args...)
	s.Dir = dir
	s.Env = append(os.Environ(), "PATH="+dir+":"+os.Getenv("PATH"), "SCRIPT="+s.script, "RAN="+s.ran, "HOME="+dir, "XDG_CONFIG_HOME="+dir, "XDG_DATA_HOME="+dir, "TERM=dumb")
	return s
}

// TestZshCompletes presses Tab in an interactive zsh, and looks at what is run then.
func TestZshCompletes(t *testing.T) {
	for typed, want := range map[string]string{"pilotlight wake ll\t": "wake llama:8b", "pilotlight wake --js\t": "wake --json", "pilotlight check fou\t": "check found.yaml"} {
		s := inShell(t, "zsh", zshCompletion, "-f", "-c", `
			zmodload zsh/zpty
			zpty shell zsh -f -i
			zpty -w shell 'autoload -Uz compinit && compinit -u -D && source $SCRIPT; print REA""DY'
			zpty -r shell said '*READY*'
			zpty -w shell "$TYPED"
			zpty -w shell 'print DO""NE; exit'
			zpty -r shell said '*DONE*'`)
		s.Env = append(s.Env, "TYPED="+typed)
		out, err := s.CombinedOutput()
		if got, _ := os.ReadFile(s.ran); err != nil || string(got) != want {
			t.Errorf("%q ran %q, want %q: %v\n%s", typed, got, want, err, out)
		}
	}
}

// TestFishCompletes asks fish what it would offer.
func TestFishCompletes(t *testing.T) {
	for line, want := range map[string]string{"pilotlight wake ll": "llama:8b\tready\n", "pilotlight wake --js": "--json\n", "pilotlight check fou": "found.yaml\n"} {
		s := inShell(t, "fish", fishCompletion, "--no-config", "-c", "source $SCRIPT; complete -C $LINE")
		s.Env = append(s.Env, "LINE="+line)
		if out, err := s.CombinedOutput(); err != nil || string(out) != want {
			t.Errorf("%q: %v, got %q, want %q", line, err, out, want)
		}
	}
}
