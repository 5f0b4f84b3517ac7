package admin

import (
	"encoding/json"
	"fmt"
	"os"
	"os/exec"
	"testing"
	"time"

	"pilotlight/config"
	"pilotlight/router"
)

// markup is a name that would run as a script where names become markup.
const markup = `<img src=x onerror="alert(document.domain)">`

// TestFiveHundredModelsInABrowser shows a fleet of 500 models to a real browser: few rows are drawn, and no name becomes markup. With PILOTLIGHT_SHOT=FILE
// it makes a picture.
func TestFiveHundredModelsInABrowser(t *testing.T) {
	browser, err := exec.LookPath("chromium")
	if err != nil {
		t.Skip("SKIPPED: no chromium here, so nobody looked at the dashboard in a browser; install it: apt-get install chromium (make deps does, as root)")
	}
	if _, err := os.Stat("../../deploy/browser/node_modules/playwright-core"); err != nil {
		t.Fatal("deploy/browser has no node_modules: run make deps")
	}
	d := open(t, many)
	models, node := map[string]config.Model{}, router.Node{Name: "n"}
	for i := range 500 {
		name := fmt.Sprintf("model-%03d", i)
		if i == 250 {
			name = markup
		}
		models[name] = config.Model{Aliases: []string{name + "-alias"}}
		state := []router.State{router.Stopped, router.Asleep, router.Stopped, router.Ready, router.Asleep}[i%5]
		if i%125 == 0 {
			state = router.Failed
		}
		tier := map[router.State]router.Tier{router.Ready: router.OnGPU, router.Asleep: router.OnHost}[state]
		node.Backends = append(node.Backends, router.Backend{ID: name + "-0", Model: name, Node: "n", State: state, Tier: tier, Since: time.Now(), Slots: 4, Reason: "so " + name + " said"})
	}
	d.router.Update(models)
	d.router.Observe(node)
	args := []string{"../../deploy/browser/dashboard.mjs", browser, d.URL, "look"}
	if file := os.Getenv("PILOTLIGHT_SHOT"); file != "" {
		args = append(args, file)
	}
	out, err := exec.CommandContext(t.Context(), "node", args...).Output()
	var saw struct {
		Errors, Elsewhere, Steps   []string
		Models                     string
		Rows, RowsAtTheEnd, Images int
	}
	if err == nil {
		err = json.Unmarshal(out, &saw)
	}
	if err != nil || len(saw.Errors)+len(saw.Elsewhere) > 0 || saw.Models != "500 models" || saw.Images != 0 || saw.Rows < 5 || saw.Rows > 60 || saw.RowsAtTheEnd < 5 || saw.RowsAtTheEnd > 60 {
		t.Errorf("%v: %+v", err, saw)
	}
}

// many adds what bad clients and configurations can name.
func many(o *Options) {
	o.Machines = func() []Machine {
		return []Machine{{Name: markup, GPUs: []MachineGPU{{Name: markup, Total: 80 << 30, Free: 8 << 30, Others: -1, Busy: 0.5, Health: "healthy", Held: []Holding{{markup, markup, "ready", 72 << 30}}}}}}
	}
	o.Recent = func(int) []Request {
		return []Request{{ID: "1", At: time.Now(), Model: markup, Tenant: markup, Backend: markup + "-0", Outcome: "broken", Reason: markup, Status: 502, GPU: -1}}
	}
	o.Expected = func() map[string]Expectation {
		return map[string]Expectation{markup: {Next: time.Now().Add(time.Minute), Chance: 0.5, Why: markup}}
	}
}
