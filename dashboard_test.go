//go:build linux

package main_test

import (
	"encoding/json"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"
)

// chromium is the browser's program. Where there is none, and make deps could not install one, the test says so and is skipped.
func chromium(t *testing.T) string {
	t.Helper()
	for _, name := range []string{"chromium", "chromium-browser", "google-chrome", "google-chrome-stable"} {
		if path, err := exec.LookPath(name); err == nil {
			return path
		}
	}
	t.Skip("SKIPPED: no Chromium here, so nobody looked at the dashboard in a browser; install it: apt-get install chromium (make deps does, as root)")
	return ""
}

// browsed is what deploy/browser/dashboard.mjs prints.
type browsed struct {
	Errors, Elsewhere, Steps []string
	Models, Failed           string
	Cancelled                string // the state of the model after a wake that was not confirmed
	Rows, Filtered           int    // in the table, with and without a filter
	Images                   int    // within the page's main part
	Wide                     int    // of the page on a phone of 360 px
	Nameless                 int    // buttons and fields that nobody could name
}

func browse(t *testing.T, browser, base string, args ...string) (b browsed) {
	t.Helper()
	if _, err := os.Stat("deploy/browser/node_modules/playwright-core"); err != nil {
		t.Fatal("deploy/browser has no node_modules: run make deps")
	}
	out := run(t, "", nil, "node", append([]string{"deploy/browser/dashboard.mjs", browser, base}, args...)...)
	if err := json.Unmarshal(out, &b); err != nil {
		t.Fatalf("%v: %s", err, out)
	}
	if len(b.Errors)+len(b.Elsewhere) > 0 {
		t.Errorf("errors %q, requests to other hosts %q, after %q", b.Errors, b.Elsewhere, b.Steps)
	}
	return b
}

// markup is a model's name that would run as a script where names become markup.
const markup = `<img src=x onerror="alert(document.domain)">`

// manyModels are n models that nobody starts, one whose name is markup, one that fails to wake, again and again, and one that can be woken.
func manyModels(t *testing.T, n int) string {
	t.Helper()
	var b strings.Builder
	b.WriteString(simulated(t, sim{name: "aurora", args: "--load 100ms"}))
	for i := range n {
		fmt.Fprintf(&b, "  model-%03d: {backends: [{process: {command: [\"false\", \"{port}\"]}, engine: vllm}]}\n", i)
	}
	for _, name := range []string{markup, "broken"} {
		fmt.Fprintf(&b, "  %q: {min: 1, backends: [{process: {command: [\"false\", \"{port}\"]}, engine: vllm, name: %q}]}\n", name, name)
	}
	return b.String()
}

func TestTheDashboardInABrowser(t *testing.T) {
	browser := chromium(t)
	p := serve(t, t.TempDir(), manyModels(t, 40))
	b := browse(t, browser, "http://"+p.admin.Addr, "use", "aurora")
	want := []string{"opened", "scrolled to the end", "filtered", "cancelled", "woke", "pinned", "unpinned", "slept"}
	if !slices.Equal(b.Steps, want) {
		t.Errorf("came as far as %q, want %q", b.Steps, want)
	}
	if b.Models != "43 models" || b.Rows < 5 || b.Rows > 60 || b.Filtered != 1 {
		t.Errorf("of %s %d rows were drawn, and %d of one model", b.Models, b.Rows, b.Filtered)
	}
	if b.Images != 0 || b.Wide > 360 || b.Nameless != 0 || !strings.Contains(b.Failed, "failed") || !strings.Contains(b.Cancelled, "stopped") {
		t.Errorf("%d images, %d px wide on a phone, %d controls without a name, a failed one is %q, one that was not woken %q", b.Images, b.Wide, b.Nameless, b.Failed, b.Cancelled)
	}
}

func TestTheDashboardAsksForTheToken(t *testing.T) {
	browser := chromium(t)
	file := filepath.Join(t.TempDir(), "token")
	const token = "a-token-that-nobody-guesses"
	if err := os.WriteFile(file, []byte(token), 0o600); err != nil {
		t.Fatal(err)
	}
	p := serve(t, t.TempDir(), "admin_token_file: "+file+"\n"+simulated(t, sim{name: "aurora"}))
	p.admin.TokenFile = file
	if b := browse(t, browser, "http://"+p.admin.Addr, "door", token); !slices.Equal(b.Steps, []string{"opened"}) {
		t.Errorf("came as far as %q", b.Steps)
	}
}
