//go:build linux

package main_test

import (
	"bytes"
	"encoding/json"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
)

const demand = "model,start_s,duration_s,requests\na,0,10,1\nb,60,10,4\na,400,10,2\na,4000,10,1\nb,4100,10,3\n"

// TestSimulate runs the verb as people do, on demand that is known.
func TestSimulate(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	file := filepath.Join(dir, "demand.csv")
	if err := os.WriteFile(file, []byte(demand), 0o600); err != nil {
		t.Fatal(err)
	}
	page, svg, png := filepath.Join(dir, "r.html"), filepath.Join(dir, "r.svg"), filepath.Join(dir, "r.png")
	out := run(t, "", []string{raceOptions}, binary(t), "simulate", "--trace", file, "--policy", "fixed:idle=10m", "--policy", "predictive:k=60m", "--policy", "oracle",
		"--measure-from", "100s", "--json", "-", "--html", page, "--svg", svg, "--png", png)
	var got []map[string]any
	if err := json.Unmarshal(out, &got); err != nil || len(got) != 3 {
		t.Fatalf("%v\n%s", err, out)
	}
	// From 100 s on: a at 400 s is warm, a at 4000 s and b at 4100 s are cold. The gaps of 390 s, 600 s of 3590 s, and 600 s of 4030 s were idle.
	fixed := got[0]
	if fixed["policy"] != "fixed:idle=10m" || fixed["cold_starts"] != 2.0 || fixed["requests"] != 6.0 || fixed["idle_hours"].(float64)*3600 != 1590 || fixed["load_hours"].(float64)*3600 != 60 {
		t.Errorf("%v", fixed)
	}
	if oracle := got[2]; oracle["cold_starts"] != 0.0 {
		t.Errorf("%v", oracle)
	}
	for _, name := range []string{page, svg, png} {
		if b, err := os.ReadFile(name); err != nil || len(b) < 1000 {
			t.Errorf("%s: %d bytes, %v", name, len(b), err)
		}
	}
	out = run(t, "", []string{raceOptions}, binary(t), "simulate", "--trace", file, "--memory", "gpu=70GB,host=100%", "--json", "-")
	if err := json.Unmarshal(out, &got); err != nil || len(got) != 5 || got[0]["disk_cold_pct"] == 0.0 {
		t.Errorf("%v\n%s", err, out)
	}
}

func TestSimulateSaysWhatIsWrong(t *testing.T) {
	t.Parallel()
	file := filepath.Join(t.TempDir(), "demand.csv")
	if err := os.WriteFile(file, []byte(demand), 0o600); err != nil {
		t.Fatal(err)
	}
	for _, c := range []struct{ args, want string }{
		{"--policy fix", `there is no policy "fix"; there are fixed:idle=60m`},
		{"--measure-from 4d", "nothing is left to measure from 96h0m0s on"},
		{"--load soon", `"soon" is no time that a load takes`},
		{"--load host=2s", "say how long a load from disk takes"},
		{"--memory host=10%", "say how much GPU memory there is"},
		{"--memory gpu=much", "much"},
		{"--memory gpu=1GB", "takes"},
		{"--memory gpu=70GB --policy fixed", "does not say whose memory is worth the least"},
		{"--memory gpu=70GB --svg x.svg", "there is no frontier to draw"},
		{"--rare 10%", "are for --memory"},
		{"--trace /nowhere", "no such file"},
	} {
		cmd := exec.CommandContext(t.Context(), binary(t), append([]string{"simulate", "--trace", file}, strings.Fields(c.args)...)...)
		cmd.Env = append(os.Environ(), raceOptions)
		var complaint bytes.Buffer
		cmd.Stderr = &complaint
		if err := cmd.Run(); err == nil || !strings.Contains(complaint.String(), c.want) {
			t.Errorf("%s: %v, %q; want %q", c.args, err, complaint.String(), c.want)
		}
	}
}
