//go:build linux

package main_test

import (
	"cmp"
	"encoding/json"
	"io"
	"math"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"pilotlight/proxy/ledger"
)

// soakLedger is the variable of the environment that says how long TestUsageOfTwoEdges goes on; see make soak-ledger.
const soakLedger = "PILOTLIGHT_SOAK_LEDGER"

// usage asks edges, and reads files, for what was used.
func usage(t *testing.T, args ...string) (table ledger.Table) {
	t.Helper()
	out := run(t, "", []string{raceOptions}, binary(t), append([]string{"usage", "--json", "--by", "model"}, args...)...)
	if err := json.Unmarshal(out, &table); err != nil {
		t.Fatalf("%v\n%s", err, out)
	}
	return table
}

// meter is how many seconds of GPU time an edge has settled since it began, once it has settled all of it.
func meter(t *testing.T, p *pilotlight) float64 {
	t.Helper()
	eventually(t, "GPU time is settled", func() bool { return metric(t, p.admin.Addr, "pilotlight_gpu_unsettled_requests") == 0 })
	return metric(t, p.admin.Addr, `pilotlight_gpu_seconds_total{kind="request",method="wallclock",model="m",tenant=""}`)
}

// TestUsageOfTwoEdges has two edges serve, kills one on the spot in the middle, and looks whether what clients got answers to is what usage shows.
func TestUsageOfTwoEdges(t *testing.T) {
	t.Parallel()
	long, err := time.ParseDuration(cmp.Or(os.Getenv(soakLedger), "0s"))
	if err != nil {
		t.Fatal(err)
	}
	config := simulated(t, sim{name: "m", args: "--load 10ms", backend: "slots: 8, memory: 1GiB"}) + "\nprices: {gpus: {default: {on_demand: 0.8048, memory: 24GiB}}}\n"
	a, b := serve(t, t.TempDir(), config), serve(t, t.TempDir(), config)
	rounds := 1
	if long > 0 {
		rounds = 1 << 30
	}
	first := answersOf(t, rounds, long/2, a, b)
	var before ledger.Table
	eventually(t, "the first edge has written down what it answered", func() bool {
		before = usage(t, "--admin", a.admin.Addr)
		return before.Total.OK == first[0]
	})
	metered := meter(t, a)
	before = usage(t, "--admin", a.admin.Addr)
	a.kill(t)
	file := filepath.Join(a.state, "pilotlight", "ledger.db")
	after := usage(t, file)
	if before.Total.OK != first[0] || after.Total.OK != first[0] || before.Total.GPU != after.Total.GPU {
		t.Errorf("a killed edge had answered %d requests and said %+v, and its file says %+v", first[0], before.Total, after.Total)
	}
	again := serve(t, a.state, config)
	second := answersOf(t, rounds, long/2, again, b)
	want := first[0] + first[1] + second[0] + second[1]
	var all ledger.Table
	eventually(t, "both have", func() bool {
		all = usage(t, "--admin", again.admin.Addr, "--admin", b.admin.Addr)
		return all.Total.OK >= want
	})
	if all.Total.Requests != want || all.Total.OK != want {
		t.Errorf("got %+v, want %d requests", all.Total, want)
	}
	metered += meter(t, again) + meter(t, b)
	all = usage(t, "--admin", again.admin.Addr, "--admin", b.admin.Addr)
	if math.Abs(metered-all.Total.GPU.Seconds()) > 1e-6 {
		t.Errorf("the meters counted %v s, and the ledgers have %v", metered, all.Total.GPU.Seconds())
	}
	var sums ledger.Sums
	for _, one := range []ledger.Table{usage(t, file), usage(t, "--admin", b.admin.Addr)} {
		sums.Add(&one.Total.Sums)
	}
	if sums.Requests != all.Total.Requests || sums.GPU != all.Total.GPU || all.Total.GPU <= 0 || all.Total.Cost <= 0 {
		t.Errorf("one by one: %+v; together: %+v", sums, all.Total)
	}
	t.Logf("%d requests, %s of GPUs, %d billionths of %s", all.Total.Requests, all.Total.GPU, all.Total.Cost, all.Currency)
}

// answersOf asks each edge from several clients, for so many rounds or so long, and returns how many requests each has answered: all of them.
func answersOf(t *testing.T, rounds int, long time.Duration, edges ...*pilotlight) []int64 {
	t.Helper()
	answered := make([]int64, len(edges))
	until := time.Now().Add(long)
	var all sync.WaitGroup
	for i, edge := range edges {
		for range 4 {
			all.Go(func() {
				for n := 0; n < 5 || n < rounds && time.Now().Before(until); n++ {
					resp, err := http.Post(edge.base+"/v1/chat/completions", "application/json", strings.NewReader(chatBody("m", "a word")))
					if err != nil {
						t.Errorf("ask: %v", err)
						return
					}
					_, _ = io.Copy(io.Discard, resp.Body)
					if resp.Body.Close(); resp.StatusCode != http.StatusOK {
						t.Errorf("ask: %s", resp.Status)
						return
					}
					atomic.AddInt64(&answered[i], 1)
				}
			})
		}
	}
	all.Wait()
	return answered
}

// TestAdviceOnARecordingAndOnALedger: both are read, and what comes out is what a replay by brute force says.
func TestAdviceOnARecordingAndOnALedger(t *testing.T) {
	t.Parallel()
	state := t.TempDir()
	p := serve(t, state, simulated(t, sim{name: "m", args: "--load 10ms", backend: "slots: 8, memory: 1GiB"}))
	answered := answersOf(t, 1, 0, p)
	eventually(t, "the requests are written down", func() bool { return usage(t, "--admin", p.admin.Addr).Total.OK == answered[0] })
	sleeping := map[string]float64{}
	for name, args := range map[string][]string{
		"policy":    {"--trace", "warmpool/advise/testdata/servegen.csv", "--policy", "fixed:idle=5m"}, // the same as no policy
		"recording": {"--trace", "warmpool/advise/testdata/servegen.csv"}, "edge": {"--admin", p.admin.Addr}, "file": {filepath.Join(state, "pilotlight", "ledger.db")},
	} {
		args = append([]string{"advise", "--json", "--check", "--prices", "deploy/prices/runpod-h100.yaml", "--svg", filepath.Join(t.TempDir(), "a.svg")}, args...)
		var reports []struct {
			Models []struct{ Requests int64 }
			Total  struct {
				Requests int64
				Sleeping float64
			}
			OffBy float64 `json:"off_by"`
		}
		out := run(t, "", []string{raceOptions}, binary(t), args...)
		if err := json.Unmarshal(out, &reports); err != nil || len(reports) != 1 || len(reports[0].Models) == 0 || reports[0].OffBy > 0.01 {
			t.Errorf("%s: %v\n%s", name, err, out)
		} else if sleeping[name] = reports[0].Total.Sleeping; strings.Contains(strings.Join(args, " "), "--trace") {
			continue
		} else if got := reports[0].Total.Requests; got != answered[0] {
			t.Errorf("%s: got %d requests, want %d", name, got, answered[0])
		}
	}
	if a, b := sleeping["policy"], sleeping["recording"]; a < 0.99*b || a > 1.01*b {
		t.Errorf("idle for 5m costs %v as a policy, and %v otherwise", a, b)
	}
}
