package loadtest

import (
	"slices"
	"strings"
	"testing"
	"time"

	"pilotlight/loadtest/trace"
)

const sessions = "client,start_s,dur_s,requests\na,0,10,20\nb,100,10,10\nc,200,10,5\n"

func recording(t *testing.T, text string) *trace.Trace {
	t.Helper()
	got, err := trace.Read(strings.NewReader(text))
	if err != nil {
		t.Fatal(err)
	}
	return got
}

func TestARecordingIsReplayedFasterAndInPart(t *testing.T) {
	tr := recording(t, sessions)
	requests, err := Replay{Speed: 10, From: 50 * time.Second, Clients: 2, Models: []string{"x", "y", "z"}, Prompt: 7, Answer: 9}.Requests(tr)
	if err != nil {
		t.Fatal(err)
	}
	all := slices.Collect(requests)
	if len(all) != 10 {
		t.Fatalf("%d requests, want the 10 of b", len(all))
	}
	for _, r := range all {
		if r.At < 5*time.Second || r.At > 6*time.Second || r.Model != all[0].Model || r.Prompt != 7 || r.Answer != 9 {
			t.Errorf("%+v", r)
		}
	}
}

func TestWhatBelongsTogetherGoesToOneModel(t *testing.T) {
	var lines []string
	for i := range 200 {
		lines = append(lines, strings.ReplaceAll(`{"timestamp": 1, "input_length": 2000, "output_length": 5, "hash_ids": [0, N, 5]}`, "N", string(rune('1'+i%9))))
	}
	requests, err := Replay{Speed: 1, Models: []string{"x", "y", "z"}, MaxPrompt: 1024}.Requests(recording(t, strings.Join(lines, "\n")))
	if err != nil {
		t.Fatal(err)
	}
	models, of := map[string]bool{}, map[uint64]string{}
	for r := range requests {
		if before := of[r.Blocks[1]]; before != "" && before != r.Model || r.Prompt != 1024 {
			t.Errorf("a conversation is with %s and %s, its prompt is %d", before, r.Model, r.Prompt)
		}
		of[r.Blocks[1]], models[r.Model] = r.Model, true
	}
	if len(models) < 2 {
		t.Errorf("all conversations are with %v", models)
	}
}

func TestWhatCannotBeReplayedIsRefused(t *testing.T) {
	tr := recording(t, sessions)
	for want, o := range map[string]Replay{
		"must be more than 0": {Models: []string{"m"}},
		"nothing at":          {Speed: 1, From: time.Hour, Models: []string{"m"}},
		"name some":           {Speed: 1},
		"choosing -1 clients": {Speed: 1, Clients: -1, Models: []string{"m"}},
	} {
		if _, err := o.Requests(tr); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%+v: the error is %v, want one with %q", o, err, want)
		}
	}
}
