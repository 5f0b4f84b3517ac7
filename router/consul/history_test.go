package consul

import (
	"fmt"
	"math/rand/v2"
	"testing"
	"time"
)

func TestAHistoryComesBackAsItWasSaved(t *testing.T) {
	now := time.Unix(1_800_000_000, 0)
	var h History
	h.Count("llama", 3, now)
	h.Count("llama", 2, now.Add(time.Hour))
	h.Learn("n1/llama-0", "disk", time.Minute)
	packed, err := h.pack()
	if err != nil {
		t.Fatal(err)
	}
	got, err := unpack(packed)
	if err != nil || got.Models["llama"].Hours[500_000] != 3 || got.Models["llama"].Hours[500_001] != 2 || got.Wakes["n1/llama-0"]["disk"] != time.Minute {
		t.Errorf("got %+v, %v", got, err)
	}
	got.merge(h)
	if got.Models["llama"].Hours[500_000] != 6 || !got.Models["llama"].Last.Equal(now.Add(time.Hour)) {
		t.Errorf("two edges' in sum: %+v", got)
	}
	got.prune(now.Add(Hours*time.Hour + 30*time.Minute))
	if len(got.Models["llama"].Hours) != 1 {
		t.Errorf("an hour of more than a week ago: %+v", got)
	}
	got.prune(now.Add(forget + 2*time.Hour))
	if len(got.Models) != 0 {
		t.Errorf("a model that nobody has asked for: %+v", got)
	}
}

func TestAHistoryFitsIntoConsul(t *testing.T) {
	random := rand.New(rand.NewPCG(1, 2))
	now := time.Unix(1_800_000_000, 0)
	var h History
	for i := range 3000 {
		model := fmt.Sprintf("model-%d-%x", i, random.Uint64())
		for hour := range 40 {
			h.Count(model, random.Int64N(1<<40), now.Add(time.Duration(i-hour*3600)*time.Second))
		}
		h.Learn(model, "disk", time.Duration(random.Int64()))
	}
	packed, err := h.pack()
	if err != nil || len(packed) > maxHistory {
		t.Fatalf("%d bytes, %v", len(packed), err)
	}
	got, err := unpack(packed)
	if err != nil || len(got.Models) == 0 || len(got.Models) >= 3000 {
		t.Fatalf("%d models, %v", len(got.Models), err)
	}
	for model, d := range got.Models {
		if d.Last.Before(now) {
			t.Fatalf("%s was asked for at %s and is kept; others later", model, d.Last)
		}
	}
}

func FuzzUnpack(f *testing.F) {
	packed, err := History{}.pack()
	if err != nil {
		f.Fatal(err)
	}
	f.Add(packed)
	f.Fuzz(func(_ *testing.T, packed []byte) {
		h, _ := unpack(packed)
		h.prune(time.Unix(1_800_000_000, 0))
	})
}
