//go:build linux

package main_test

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"go/ast"
	"io"
	"net/http"
	"net/url"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strconv"
	"strings"
	"sync"
	"testing"

	"pilotlight/loadtest/otlpsim"
	"pilotlight/probe/proc"
)

// debian is how a test says what it needs that is not installed.
func debian(t *testing.T, program string) string {
	t.Helper()
	path, err := exec.LookPath(program)
	if err != nil {
		t.Skipf("%s is not installed: apt-get install prometheus has it", program)
	}
	return path
}

func TestAlertsAreWhatPromtoolTakesAndDoWhatTheySay(t *testing.T) {
	t.Parallel()
	promtool := debian(t, "promtool")
	for _, args := range [][]string{{"check", "rules", "alerts.yaml"}, {"test", "rules", "alerts.test.yaml"}, {"check", "config", "prometheus.yml"}} {
		run(t, filepath.Join("deploy", "prometheus"), nil, promtool, args...)
	}
}

// dashboard is a file of Grafana's, as far as its queries go.
type dashboard struct {
	Panels []struct {
		Title   string
		Targets []struct{ Expr string }
	}
}

func readDashboard(t *testing.T) (d dashboard) {
	t.Helper()
	text, err := os.ReadFile("deploy/grafana/pilotlight.json")
	if err == nil {
		err = json.Unmarshal(text, &d)
	}
	if err != nil {
		t.Fatal(err)
	}
	return d
}

// TestTheDashboardHasData has Prometheus scrape pilotlight dev and asks all that the dashboard asks.
func TestTheDashboardHasData(t *testing.T) {
	t.Parallel()
	received, err := otlpsim.Start(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	ports, err := proc.FreePorts(3)
	if err != nil {
		t.Fatal(err)
	}
	addr := func(i int) string { return "127.0.0.1:" + strconv.Itoa(ports[i]) }
	d := &pilotlight{addr: addr(0), base: "http://" + addr(0)}
	d.process = start(t, []string{raceOptions, "OTEL_EXPORTER_OTLP_ENDPOINT=http://" + received.HTTP}, binary(t), "dev", "--listen", addr(0), "--admin", addr(1))
	t.Cleanup(func() { d.end(t, os.Interrupt) })
	eventually(t, "dev is ready", func() bool { return get(t.Context(), "http://"+addr(1)+"/readyz", nil) == nil })
	for _, model := range []string{"llama-8b", "llama-70b"} { // the second has the first make room
		if got := d.call(t, chat(model, "hello", `"stream":true`)).reply(t); got.status != 200 {
			t.Fatalf("%s: %d %s", model, got.status, got.body)
		}
	}
	var page bytes.Buffer
	if err := get(t.Context(), "http://"+addr(1)+"/metrics", &page); err != nil {
		t.Fatal(err)
	}
	wantKnown(t, page.String())

	p := scrape(t, addr(1), addr(2))
	keepAsking(t, d.base)
	for _, panel := range readDashboard(t).Panels {
		for _, target := range panel.Targets {
			query := strings.NewReplacer("$model", ".*", "$__rate_interval", "30s", "$__range", "5m").Replace(target.Expr)
			eventually(t, fmt.Sprintf("%q has data: %s", panel.Title, query), func() bool {
				var answer struct{ Data struct{ Result []any } }
				if err := get(t.Context(), p+"/api/v1/query?query="+url.QueryEscape(query), &answer); err != nil {
					t.Fatal(err)
				}
				return len(answer.Data.Result) > 0
			})
		}
	}
	eventually(t, "a time has a trace as its example", func() bool {
		var answer struct {
			Data []struct {
				Exemplars []struct{ Labels map[string]string }
			}
		}
		if err := get(t.Context(), p+"/api/v1/query_exemplars?query=pilotlight_first_byte_seconds_bucket&start=0&end=4000000000", &answer); err != nil {
			t.Fatal(err)
		}
		return len(answer.Data) > 0 && len(answer.Data[0].Exemplars[0].Labels["trace_id"]) == 32
	})
}

// keepAsking asks for streams, one after the other, until the test ends.
func keepAsking(t *testing.T, base string) {
	ctx, stop := context.WithCancel(t.Context())
	var asking sync.WaitGroup
	t.Cleanup(func() { stop(); asking.Wait() })
	asking.Go(func() {
		for ctx.Err() == nil {
			body := strings.NewReader(chatBody("llama-70b", "hello", `"stream":true`, `"max_tokens":4`))
			req, err := http.NewRequestWithContext(ctx, http.MethodPost, base+"/v1/chat/completions", body)
			if err != nil {
				t.Error(err)
				return
			}
			if resp, err := http.DefaultClient.Do(req); err == nil {
				_, _ = io.Copy(io.Discard, resp.Body)
				resp.Body.Close()
			}
		}
	})
}

// scrape runs Prometheus and returns where it answers.
func scrape(t *testing.T, admin, listen string) string {
	t.Helper()
	prometheus := debian(t, "prometheus")
	dir := t.TempDir()
	text, err := os.ReadFile("deploy/prometheus/prometheus.yml")
	if err != nil {
		t.Fatal(err)
	}
	config := strings.NewReplacer("127.0.0.1:8081", admin, "scrape_interval: 15s", "scrape_interval: 500ms", "rule_files: [alerts.yaml]", "").Replace(string(text))
	file := filepath.Join(dir, "prometheus.yml")
	if err := os.WriteFile(file, []byte(config), 0o600); err != nil {
		t.Fatal(err)
	}
	p := start(t, nil, prometheus, "--config.file", file, "--storage.tsdb.path", filepath.Join(dir, "data"), "--web.listen-address", listen,
		"--enable-feature=exemplar-storage", "--log.level=warn")
	t.Cleanup(func() { p.end(t, os.Interrupt) })
	eventually(t, "Prometheus is ready", func() bool { return get(t.Context(), "http://"+listen+"/-/ready", nil) == nil })
	return "http://" + listen
}

// wantKnown wants every metric that the dashboard and the alerts name to be on the page, or, for those of parts that do not run, to be named in the source.
func wantKnown(t *testing.T, page string) {
	t.Helper()
	known := map[string]bool{}
	for line := range strings.Lines(page) {
		if f := strings.Fields(line); len(f) == 4 && f[1] == "TYPE" {
			known[f[2]] = true
		}
	}
	for _, f := range sources(t) {
		if f.isTest() {
			continue
		}
		ast.Inspect(f.syntax, func(n ast.Node) bool {
			if text, ok := n.(*ast.BasicLit); ok {
				known[strings.Trim(text.Value, `"`)] = true
			}
			return true
		})
	}
	for _, file := range []string{"deploy/grafana/pilotlight.json", "deploy/prometheus/alerts.yaml"} {
		text, err := os.ReadFile(file)
		if err != nil {
			t.Fatal(err)
		}
		for _, name := range regexp.MustCompile(`pilotlight_[a-z_]+`).FindAllString(string(text), -1) {
			if !known[name] && !known[regexp.MustCompile(`_(bucket|sum|count)$`).ReplaceAllString(name, "")] {
				t.Errorf("%s asks for %s, which nobody exposes", file, name)
			}
		}
	}
}
