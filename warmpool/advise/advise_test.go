package advise

import (
	"bytes"
	"encoding/xml"
	"errors"
	"io"
	"math"
	"math/rand/v2"
	"path/filepath"
	"testing"
	"time"

	"pilotlight/config"
	"pilotlight/loadtest/trace"
)

const hour = time.Hour

func list(t testing.TB, name string) *config.Prices {
	t.Helper()
	p, err := config.LoadPrices(filepath.Join("../../deploy/prices", name+".yaml"))
	if err != nil {
		t.Fatal(err)
	}
	return p
}

func lists() []string { return []string{"runpod-h100", "lambda-modal-h100", "aws-cloudrun-l4"} }

// plain prices: an hour costs 1 always on and on demand, and 2 elsewhere, to the nanosecond, with a window of 10 minutes.
func plain() *config.Prices {
	return &config.Prices{
		GPUs:       map[string]config.GPUPrice{config.DefaultGPU: {OnDemand: 1}},
		Serverless: &config.Serverless{Second: 2. / 3600, Window: config.Duration(10 * time.Minute)},
	}
}

func advised(t testing.TB, m Model, o Options) Advice {
	t.Helper()
	a, err := Advise(m, o)
	if err != nil {
		t.Fatal(err)
	}
	return a
}

func same(a, b float64) bool { return math.Abs(a-b) <= 1e-9*max(1, math.Abs(a), math.Abs(b)) }

// TestOneModelIsCountedByHand: two hours of use in a day, one of them with two replicas.
func TestOneModelIsCountedByHand(t *testing.T) {
	m := Model{
		Name: "m", Slots: 2, GPUs: 1, Idle: 30 * time.Minute, Load: 6 * time.Minute,
		Uses: []Use{
			{At: 8 * hour, Requests: 3, Each: hour}, // three at once: two replicas
			{At: 10 * hour, Requests: 1, Each: hour},
		},
	}
	got := advised(t, m, Options{Length: 24 * hour, Prices: plain()})
	// The first sleeps between 9:30 and 10:00, so it wakes twice: 2·(6 + 60 + 30) minutes; the second once: 96 minutes.
	// Elsewhere windows of 10 minutes: 3·(6 + 60 + 10) at 2 an hour.
	if got.Replicas != 2 || got.AlwaysOn != 48 || !same(got.Sleeping, 4.8) || !same(got.Serverless, 7.6) || got.ColdStarts != 3 || !same(got.Use, 3./48) {
		t.Errorf("got %+v", got)
	}
	if got.Best != Sleeping || got.Keep != 0 || !same(got.Saving, 0.9) {
		t.Errorf("got %s with %d on, which saves %v; want both scaled to zero, and 0.9", got.Best, got.Keep, got.Saving)
	}
}

// TestSteadyUseIsProvidedForAndTheRestScalesToZero: the rule of the textbooks, from prices. Where serverless costs 1.25 of always on, in blocks of use, the way changes at 80 %.
func TestSteadyUseIsProvidedForAndTheRestScalesToZero(t *testing.T) {
	p := &config.Prices{
		GPUs:       map[string]config.GPUPrice{config.DefaultGPU: {Reserved: 1}}, // there is no saving in not using it
		Serverless: &config.Serverless{Second: 1.25 / 3600, Window: config.Duration(time.Second)},
	}
	for percent, want := range map[int]Way{5: Serverless, 30: Serverless, 60: Serverless, 79: Serverless, 81: AlwaysOn, 95: AlwaysOn} {
		m := Model{Name: "m", Slots: 8, GPUs: 1, Load: time.Second}
		for day := range 10 {
			m.Uses = append(m.Uses, Use{At: time.Duration(day) * 24 * hour, Requests: 1, Each: time.Duration(percent) * 24 * hour / 100})
		}
		got := advised(t, m, Options{Length: 240 * hour, Prices: p})
		if got.Best != want || got.Sleeping != -1 {
			t.Errorf("%d %% in use: got %s at %.2f, always on at %.2f; want %s", percent, got.Best, got.Serverless, got.AlwaysOn, want)
		}
	}
}

// TestAdviceIsThatOfABruteForceReplay holds what is counted by gaps to a replay with replicas that live and idle, for an excerpt of ServeGen and three lists of prices.
func TestAdviceIsThatOfABruteForceReplay(t *testing.T) {
	tr, err := trace.Open("testdata/servegen.csv")
	if err != nil {
		t.Fatal(err)
	}
	by := map[string][]Use{}
	for u := range tr.Uses() {
		by[u.Client] = append(by[u.Client], Use{u.At, u.Took, u.Requests, 2 * time.Second})
	}
	for _, name := range lists() {
		o := Options{Length: tr.Length, Prices: list(t, name), Wait: 0.01}
		var all []Advice
		for client, uses := range by {
			m := Model{Name: client, Uses: uses, Slots: 8, GPUs: 1, Idle: 5 * time.Minute, Load: 30 * time.Second}
			got := advised(t, m, o)
			want, err := Replay(m, o)
			if err != nil {
				t.Fatal(err)
			}
			if math.Abs(got.Sleeping/want.Sleeping-1) > 0.01 || math.Abs(got.Serverless/want.Serverless-1) > 0.01 ||
				got.ColdStarts != want.ColdStarts || got.ColdThere != want.ColdThere || got.Replicas != want.Replicas {
				t.Errorf("%s at %s: counted %+v, replayed %+v", client, name, got, want)
			}
			all = append(all, got)
		}
		flips, err := Flips(all, o, 2*time.Second, 5*time.Minute, 30*time.Second)
		if err != nil {
			t.Fatal(err)
		}
		for _, f := range flips {
			if f.Parted < 0.9 {
				t.Errorf("%s at %s: a limit of %.2f parts %.2f of the replicas", f.Way, name, f.Recorded, f.Parted)
			}
		}
		total := Total(all)
		if !(total.Low <= total.Saving && total.Saving <= total.High) || total.Mixed > min(total.AlwaysOn, total.Sleeping, total.Serverless)+1e-6 {
			t.Errorf("%s: got %+v", name, total)
		}
	}
}

// TestRandomDemandIsThatOfABruteForceReplay does so for demand of all kinds.
func TestRandomDemandIsThatOfABruteForceReplay(t *testing.T) {
	random := rand.New(rand.NewPCG(5, 6))
	o := Options{Length: 48 * hour, Prices: plain()}
	o.Prices.Serverless.Round = config.Duration(7 * time.Second)
	for range 200 {
		m := Model{Slots: 1 + random.IntN(4), GPUs: 1, Idle: time.Duration(random.Int64N(int64(hour))), Load: time.Minute}
		for range 1 + random.IntN(60) {
			m.Uses = append(m.Uses, Use{
				At: time.Duration(random.Int64N(int64(47 * hour))), Took: time.Duration(random.Int64N(int64(hour))), Requests: 1 + random.Int64N(40),
				Each: time.Duration(random.Int64N(int64(10 * time.Minute))),
			})
		}
		got := advised(t, m, o)
		want, err := Replay(m, o)
		if err != nil {
			t.Fatal(err)
		}
		// A window that the end of the recording cuts off is rounded as if it had not been.
		most := 2. / 3600 * 7 * float64(got.Replicas)
		if math.Abs(got.Sleeping-want.Sleeping) > 1e-6 || math.Abs(got.Serverless-want.Serverless) > most || got.ColdStarts != want.ColdStarts {
			t.Fatalf("counted %+v, replayed %+v", got, want)
		}
	}
}

// TestPaidShareIsThatOfRandomRequests holds the formula to a simulation of one server: requests come at random and are served one after the other.
func TestPaidShareIsThatOfRandomRequests(t *testing.T) {
	random := rand.New(rand.NewPCG(7, 8))
	for _, c := range []struct{ perSecond, each, keep, load float64 }{{0.01, 2, 60, 30}, {0.2, 2, 5, 30}, {0.05, 10, 20, 5}} {
		paid, free, at := 0.0, -c.keep-1, 0.0 // free: when the server has nothing to do
		for range 300_000 {
			at += random.ExpFloat64() / c.perSecond
			switch gap := at - free; {
			case gap > c.keep:
				paid += c.keep
				paid += c.load + c.each
				free = at + c.load + c.each
			case gap > 0:
				paid += gap + c.each
				free = at + c.each
			default:
				paid += c.each
				free += c.each
			}
		}
		if got, want := PaidShare(c.perSecond, c.each, c.keep, c.load), paid/free; math.Abs(got-want) > 0.01 {
			t.Errorf("%+v: got %.4f, simulated %.4f", c, got, want)
		}
	}
}

func TestThePictureIsOne(t *testing.T) {
	var b bytes.Buffer
	points := []Point{{0.1, 0.2, 0.3}, {0.9, 0.95, 1.2}, {0.5, -1, 0.7}}
	if err := SVG(&b, "<prices>", points, map[Way]float64{Serverless: 0.8}); err != nil {
		t.Fatal(err)
	}
	for d := xml.NewDecoder(&b); ; {
		if _, err := d.Token(); errors.Is(err, io.EOF) {
			return
		} else if err != nil {
			t.Fatal(err)
		}
	}
}
