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
		t.Skip("there is no bash here")
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
