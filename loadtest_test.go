//go:build linux

package main_test

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
)

// loaded is what matters of a report.
type loaded struct {
	Requests int64
	Outcomes map[string]int64
	Times    []struct{ What string }
	SLOs     []struct {
		SLO, Got string
		Held     bool
	}
	Tables []struct {
		Title string
		Rows  [][]string
	}
}

// loadtest runs pilotlight loadtest and returns its report, and whether it ended with status 0.
func loadtest(t *testing.T, args ...string) (p loaded, well bool) {
	t.Helper()
	cmd := exec.CommandContext(t.Context(), binary(t), append([]string{"loadtest"}, append(args, "-q", "--json", "-")...)...)
	cmd.Env = append(os.Environ(), raceOptions)
	var out, complaint bytes.Buffer
	cmd.Stdout, cmd.Stderr = &out, &complaint
	err := cmd.Run()
	if exit, ended := errors.AsType[*exec.ExitError](err); err != nil && (!ended || exit.ExitCode() != 1) {
		t.Fatalf("%v: %s", err, complaint.String())
	}
	if e := json.Unmarshal(out.Bytes(), &p); e != nil {
		t.Fatalf("%v in %q; %s", e, out.String(), complaint.String())
	}
	return p, err == nil
}

func TestALoadIsMeasuredAndJudged(t *testing.T) {
	p := serve(t, t.TempDir(), simulated(t, sim{name: "m", args: "--load 100ms --step 1ms --answer 3"}, sim{name: "n", args: "--load 100ms --step 1ms --answer 3"}))
	page := filepath.Join(t.TempDir(), "report.html")
	got, well := loadtest(t, p.base, "--rate", "50", "--for", "1s", "--slo", "errors<=0%", "--slo", "ttft.p50>1us", "--html", page)
	if !well || got.Requests < 20 || got.Outcomes["ok"] != got.Requests || len(got.Times) != 4 {
		t.Errorf("%+v", got)
	}
	if html, err := os.ReadFile(page); err != nil || !strings.Contains(string(html), "</html>") {
		t.Errorf("the page: %v", err)
	}
	if got, well := loadtest(t, p.base, "--model", "nobody", "--requests", "3", "--arrivals", "constant", "--for", "1s", "--slo", "errors<=0%"); well || got.Outcomes["refused"] != 3 {
		t.Errorf("a model that is not there, and a threshold that does not hold: %+v", got)
	}
	log := filepath.Join(t.TempDir(), "log")
	line := `{"time":"2026-01-01T00:00:0%dZ","level":"INFO","msg":"request","model":"n","client":"::1","total_ms":10,"bytes_in":100}` + "\n"
	if err := os.WriteFile(log, fmt.Appendf(nil, line+line, 1, 2), 0o600); err != nil {
		t.Fatal(err)
	}
	if got, well := loadtest(t, p.base, "--trace", log, "--speed", "10"); !well || got.Outcomes["ok"] != 2 {
		t.Errorf("what the log says, once more: %+v", got)
	}
	if got, well := loadtest(t, p.base, "--compare", "again="+p.base, "--rounds", "1", "--for", "200ms", "--rate", "50"); !well || len(got.Tables) != 2 || len(got.Tables[0].Rows) != 2 {
		t.Errorf("compared with itself: %+v", got)
	}
}

// TestAScenarioLeavesNothing: a fleet is started, used for three hours of an office in a second and a half, and ended; every request is accounted
// for, and nothing is left of any.
func TestAScenarioLeavesNothing(t *testing.T) {
	got, well := loadtest(t, "scenario", "dev-staging", "--for", "12h", "--speed", "7200")
	if !well || got.Requests < 5 || got.Outcomes["ok"] != got.Requests || len(got.Tables) < 2 || len(got.Tables[len(got.Tables)-1].Rows) != 5 {
		t.Errorf("%+v", got)
	}
}
