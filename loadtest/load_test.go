package loadtest

import (
	"encoding/json"
	"io"
	"math"
	"slices"
	"strings"
	"testing"
	"time"
)

func TestArrivalsAreAsManyAsTheRateSays(t *testing.T) {
	for _, c := range []struct {
		rate Rate
		want float64 // in all
		half float64 // in the first half of the time
	}{
		{Rate{50, 50}, 5000, 2500},
		{Rate{0, 100}, 5000, 1250},
		{Rate{100, 0}, 5000, 3750},
		{Rate{10, 30}, 2000, 750},
	} {
		const whole = 100 * time.Second
		for name, arrivals := range map[string][]time.Duration{
			"constant": slices.Collect(Constant(c.rate, whole)), "poisson": slices.Collect(Poisson(c.rate, whole, 1)),
		} {
			if !slices.IsSorted(arrivals) {
				t.Errorf("%s %v: not in order", name, c.rate)
			}
			half, _ := slices.BinarySearch(arrivals, whole/2)
			// Six standard deviations of a Poisson process, and the last arrival of a constant one.
			if off := math.Abs(float64(len(arrivals)) - c.want); off > 6*math.Sqrt(c.want) || name == "constant" && off > 1 {
				t.Errorf("%s %v: %d arrivals, want %v", name, c.rate, len(arrivals), c.want)
			}
			if off := math.Abs(float64(half) - c.half); off > 6*math.Sqrt(c.half) || name == "constant" && off > 1 {
				t.Errorf("%s %v: %d arrivals in the first half, want %v", name, c.rate, half, c.half)
			}
		}
	}
	if a, b := slices.Collect(Poisson(Rate{5, 5}, time.Minute, 7)), slices.Collect(Poisson(Rate{5, 5}, time.Minute, 7)); !slices.Equal(a, b) {
		t.Error("the same seed gives other arrivals")
	}
}

func TestRatesAreReadOrRefused(t *testing.T) {
	for text, want := range map[string]Rate{"20": {20, 20}, "0.5": {0.5, 0.5}, "1..200": {1, 200}, "5..0": {5, 0}} {
		var r Rate
		if err := r.UnmarshalText([]byte(text)); err != nil || r != want || r.String() != text {
			t.Errorf("%s is read as %v (%v)", text, r, err)
		}
	}
	for _, text := range []string{"", "x", "0", "-1", "1..", "..2", "0..0", "NaN", "Inf", "1e9", "1..2..3"} {
		var r Rate
		if err := r.UnmarshalText([]byte(text)); err == nil || !strings.Contains(err.Error(), "1..200") {
			t.Errorf("%q is read as %v, with the error %v", text, r, err)
		}
	}
}

func TestZipf(t *testing.T) {
	z, counts := NewZipf(4, 1), make([]int, 4)
	const n = 25000
	for i := range n {
		counts[z.Draw((float64(i)+0.5)/n)]++
	}
	if want := []int{12000, 6000, 4000, 3000}; !slices.Equal(counts, want) {
		t.Errorf("drawn %v times, want %v", counts, want)
	}
}

func TestABodyIsAsLongAsItSaysAndSharesItsBlocks(t *testing.T) {
	shape := Shape{Stream: true, Exact: true}
	read := func(r Request) string {
		open, size, err := shape.body(&r)
		if err != nil {
			t.Fatal(err)
		}
		first, _ := io.ReadAll(open())
		again, _ := io.ReadAll(open())
		if int64(len(first)) != size || string(first) != string(again) {
			t.Errorf("a body of %d bytes says that it has %d", len(first), size)
		}
		var in struct {
			Model     string
			Stream    bool
			MaxTokens int  `json:"max_tokens"`
			IgnoreEOS bool `json:"ignore_eos"`
			Messages  []struct{ Content string }
		}
		if err := json.Unmarshal(first, &in); err != nil || in.Model != r.Model || !in.Stream || in.MaxTokens != r.Answer || !in.IgnoreEOS {
			t.Errorf("it says %.200s (%v)", first, err)
		}
		if got := len(in.Messages[0].Content); got != 4*r.Prompt {
			t.Errorf("a prompt of %d tokens has %d bytes", r.Prompt, got)
		}
		return in.Messages[0].Content
	}
	a := read(Request{Model: `a"b`, Prompt: 1500, Answer: 9, Blocks: []uint64{7, 8}, Seed: 1})
	b := read(Request{Model: "b", Prompt: 1300, Answer: 9, Blocks: []uint64{7, 9}, Seed: 2})
	if a[:2048] != b[:2048] || a[2048:4096] == b[2048:4096] || a[4096:5200] == b[4096:5200] {
		t.Error("prompts must be alike in the blocks that they share, and nowhere else")
	}
	if c := read(Request{Model: "b", Prompt: 1, Answer: 9, Seed: 3}); len(c) != 4 {
		t.Errorf("a prompt of one token is %q", c)
	}
}

func TestThresholdsAreReadOrRefused(t *testing.T) {
	for _, text := range []string{
		"", "ttft", "ttft<1s", "ttft.p0<1s", "ttft.p101<1s", "ttft.x<1s", "ttft.p99=1s", "ttft.p99<5", "ttft.p99<-5s", "speed>1", "errors<150%",
		"errors.p9<1%", "errors<x", "rate>5%", "rate>-1",
	} {
		var s SLO
		if err := s.UnmarshalText([]byte(text)); err == nil || !strings.Contains(err.Error(), "ttft.p99<500ms") {
			t.Errorf("%q is read, or refused without an example: %v", text, err)
		}
	}
}

func TestThresholdsHoldOrDoNot(t *testing.T) {
	r := NewResult()
	r.begin(Load{})
	for i := range 100 {
		a := Answer{Outcome: OK, Sent: r.Began, First: r.Began.Add(time.Duration(i+1) * time.Millisecond), Ended: r.Began.Add(time.Second), Tokens: 10}
		if i >= 95 {
			a = Answer{Outcome: Refused, Kind: "429", Sent: r.Began, Ended: r.Began.Add(time.Second)}
		}
		r.sent(0)
		r.add(&Request{Model: "m"}, r.Began, a)
	}
	r.Ended = r.Began.Add(10 * time.Second)
	for text, want := range map[string]bool{
		"ttft.p50<60ms": true, "ttft.p99 < 90ms": false, "ttft.max<=96ms": true, "ttft.mean>40ms": true, "total.p99<=1s": false, "total.p99<=1.001s": true,
		"gap.p99<1s": false, // there were none
		"errors<=5%": true, "errors<0.05": false, "refused>=5%": true, "broken<=0%": true, "ok>94%": true, "rate>9": true, "rate>=9.6": false, "tokens>90": true,
	} {
		var s SLO
		if err := s.UnmarshalText([]byte(text)); err != nil {
			t.Fatal(err)
		}
		if v := s.Check(r); v.Held != want || v.Got == "" {
			t.Errorf("%s: held %t, for it was %s", text, v.Held, v.Got)
		}
	}
}

func TestWhatIsKeptOfALoadIsBounded(t *testing.T) {
	r := NewResult()
	r.begin(Load{})
	const n = 20000
	for i := range n {
		at := time.Duration(i) * 10 * time.Second // more than two days
		name := strings.Repeat("m", i%500)
		r.sent(at)
		r.add(&Request{At: at, Model: name}, r.Began.Add(at), Answer{
			Outcome: Broken, Kind: name, Sent: r.Began.Add(at), First: r.Began.Add(at), Ended: r.Began.Add(at + 2*time.Hour),
		})
	}
	every, parts := r.Timeline()
	if len(parts) > maxParts || every*time.Duration(len(parts)) < n*10*time.Second {
		t.Errorf("%d parts of %v", len(parts), every)
	}
	ended, open := r.Everything()
	if ended[Broken] != n || open != 0 || r.Requests() != n {
		t.Errorf("%v ended, %d are open, %d requests: want %d", ended, open, r.Requests(), n)
	}
	if len(r.Models()) > maxModels || len(r.Kinds()) > maxKinds+1 {
		t.Errorf("%d models and %d kinds", len(r.Models()), len(r.Kinds()))
	}
}

func TestWhereRequestsGo(t *testing.T) {
	for base, want := range map[string]string{
		"127.0.0.1:8080": "http://127.0.0.1:8080/v1/chat/completions", "http://h/": "http://h/v1/chat/completions", "https://h/api/v1": "https://h/api/v1/chat/completions",
		"https://h/api/v1/": "https://h/api/v1/chat/completions", "http://h/v1/completions": "http://h/v1/completions",
	} {
		if got, err := Endpoint(base, true); err != nil || got != want {
			t.Errorf("%s leads to %s (%v), want %s", base, got, err, want)
		}
	}
	for _, base := range []string{"", "http://", "ftp://h", "http://[::1"} {
		if got, err := Endpoint(base, true); err == nil {
			t.Errorf("%q leads to %s", base, got)
		}
	}
}
