//go:build linux

package main_test

import (
	"bytes"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"go.yaml.in/yaml/v4"
)

// built is a program that `make deploy-check` builds; without it the test is skipped.
func built(t *testing.T, program string) string {
	t.Helper()
	path, err := filepath.Abs(filepath.Join("bin", program))
	if err != nil {
		t.Fatal(err)
	}
	if _, err := os.Stat(path); err != nil {
		t.Skipf("%s is not there, which `make deploy-check` builds", path)
	}
	return path
}

func TestExamplesOfDeployAreGood(t *testing.T) {
	t.Parallel()
	files, err := filepath.Glob("deploy/examples/*.yaml")
	if err != nil {
		t.Fatal(err)
	}
	for _, engine := range []string{"vllm", "llama.cpp", "ollama", "sglang", "tgi", "triton"} {
		if _, err := os.Stat("deploy/examples/" + engine + ".yaml"); err != nil {
			t.Error(err)
		}
	}
	for _, file := range append(files, "deploy/container/edge.yaml", "deploy/container/agent.yaml") {
		run(t, "", []string{raceOptions}, binary(t), "check", file)
	}
}

func TestUnitsAreWhatSystemdTakes(t *testing.T) {
	t.Parallel()
	analyze, err := exec.LookPath("systemd-analyze")
	if err != nil {
		t.Skip("systemd-analyze is not installed: apt-get install systemd has it")
	}
	for _, unit := range []string{"pilotlight.service", "pilotlight-agent.service"} {
		text, err := os.ReadFile("deploy/systemd/" + unit)
		if err != nil {
			t.Fatal(err)
		}
		text = bytes.ReplaceAll(text, []byte("/usr/local/bin/pilotlight"), []byte(binary(t))) // which must be there
		file := filepath.Join(t.TempDir(), unit)
		if err := os.WriteFile(file, text, 0o600); err != nil {
			t.Fatal(err)
		}
		run(t, "", nil, analyze, "verify", "--man=no", file)
	}
}

// The manifests of deploy/kubernetes are what Helm makes of the chart; both have pilotlight serve a configuration that is good.
func TestTheChartIsWhatHelmTakes(t *testing.T) {
	t.Parallel()
	helm := built(t, "helm")
	run(t, "", nil, helm, "lint", "--strict", "--kube-version", "1.34.0", "deploy/helm/pilotlight")
	render := func(flags ...string) []byte {
		args := append([]string{"template", "pilotlight", "deploy/helm/pilotlight", "--namespace", "models", "--kube-version", "1.34.0"}, flags...)
		return run(t, "", nil, helm, args...)
	}
	const file = "deploy/kubernetes/pilotlight.yaml"
	want := fmt.Sprintf("# What Helm makes of deploy/helm/pilotlight; go test -run Chart -update . writes it. Change the ConfigMap, then:\n"+
		"#   kubectl create namespace models; kubectl -n models apply -f %s\n%s", file, render())
	if *update {
		if err := os.WriteFile(file, []byte(want), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	if got, err := os.ReadFile(file); err != nil || string(got) != want {
		t.Errorf("%s is stale (%v); write it anew with -update", file, err)
	}
	for _, rendered := range [][]byte{
		render(), render("--set", "keysSecret=k,persistence.enabled=false", "--set-json", `allowFrom=[{"podSelector":{}}]`),
		render("--set", "replicas=2,config.consul.address=consul:8500"),
	} {
		checkManifests(t, rendered)
	}
}

// checkManifests wants the manifests to have one configuration, and that to be good.
func checkManifests(t *testing.T, rendered []byte) {
	t.Helper()
	found := 0
	for text := range strings.SplitSeq(string(rendered), "\n---\n") {
		var object struct {
			Kind string
			Data map[string]string
		}
		if err := yaml.Unmarshal([]byte(text), &object); err != nil {
			t.Fatalf("%v:\n%s", err, text)
		}
		if object.Kind != "ConfigMap" {
			continue
		}
		found++
		file := filepath.Join(t.TempDir(), "pilotlight.yaml")
		config := strings.ReplaceAll(object.Data["pilotlight.yaml"], "/etc/pilotlight-keys/", t.TempDir()+"/")
		if err := os.WriteFile(file, []byte(config), 0o600); err != nil {
			t.Fatal(err)
		}
		run(t, "", []string{raceOptions}, binary(t), "check", file)
	}
	if found != 1 {
		t.Errorf("there are %d ConfigMaps, want one", found)
	}
}

func TestComposeFileIsWhatComposeTakes(t *testing.T) {
	t.Parallel()
	var project struct {
		Services map[string]struct {
			Volumes []struct{ Type, Source string }
		}
	}
	if err := yaml.Unmarshal(run(t, "deploy/container", nil, built(t, "compose"), "compose.yaml"), &project); err != nil {
		t.Fatal(err)
	}
	if len(project.Services) != 7 {
		t.Errorf("there are %d services, want 7", len(project.Services))
	}
	for name, service := range project.Services {
		for _, v := range service.Volumes {
			if _, err := os.Stat(v.Source); v.Type == "bind" && err != nil {
				t.Errorf("%s: %v", name, err)
			}
		}
	}
	promtool := debian(t, "promtool")
	run(t, "deploy/container", nil, promtool, "check", "config", "--syntax-only", "prometheus.yml")
}
