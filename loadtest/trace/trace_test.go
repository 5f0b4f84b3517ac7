package trace

import (
	"bytes"
	"compress/gzip"
	"fmt"
	"slices"
	"strings"
	"testing"
	"time"
)

// read reads a recording that must be a good one.
func read(t *testing.T, text string) (*Trace, []Arrival) {
	t.Helper()
	got, err := Read(strings.NewReader(text))
	if err != nil {
		t.Fatal(err)
	}
	all := slices.Collect(got.Arrivals())
	again := slices.Collect(got.Arrivals())
	if int64(len(all)) != got.Count || fmt.Sprint(all) != fmt.Sprint(again) {
		t.Errorf("%d arrivals of %d, the second time %d", len(all), got.Count, len(again))
	}
	if !slices.IsSortedFunc(all, func(a, b Arrival) int { return int(a.At - b.At) }) {
		t.Error("they are not in order")
	}
	return got, all
}

const (
	azureLLM = "TIMESTAMP,ContextTokens,GeneratedTokens\n2023-11-16 18:15:46.6805900,374,44\n2023-11-16 18:15:50.6805900,396,109\n"
	mooncake = `{"timestamp": 1000, "input_length": 6758, "output_length": 500, "hash_ids": [0, 1, 2]}` + "\n" +
		`{"timestamp": 3500, "input_length": 10, "output_length": 5, "hash_ids": [0]}` + "\n\n"
	serveGen  = "client,start_s,dur_s,requests\na/0,10,5,100\nb/1,0,60,50\na/0,100,0,3\n"
	functions = "id,src_file,m1,m2,m3\nA,x,0,2,0\nB,y,10,,1\n"
	table     = "model,start_s,duration_s\r\nllama,10,5\r\nqwen,0.5,60\r\n"
	counts    = "model,start_s,duration_s,requests\nllama,10,5,3\nqwen,0,60,1\nllama,90,1,0\n"
	accessLog = `{"time":"2026-01-01T00:00:00Z","level":"INFO","msg":"serving","listen":"x"}` + "\n" +
		`{"time":"2026-01-01T00:00:09Z","level":"INFO","msg":"request","outcome":"ok","model":"b","client":"10.0.0.1","total_ms":1000,"bytes_in":400}` + "\n" +
		`{"time":"2026-01-01T00:00:10Z","level":"INFO","msg":"request","outcome":"ok","model":"a","client":"10.0.0.2","waited_ms":3000.5,"total_ms":5000.5,"bytes_in":4000}` + "\n" +
		`{"time":"2026-01-01T00:00:11Z","level":"INFO","msg":"request","outcome":"refused","model":"","client":"10.0.0.2","total_ms":1,"bytes_in":4000}` + "\n"
)

func TestRecordingsThatListRequests(t *testing.T) {
	for _, c := range []struct {
		text   string
		format Format
		want   []Arrival
	}{
		{azureLLM, AzureLLM, []Arrival{{Prompt: 374, Answer: 44}, {At: 4 * time.Second, Prompt: 396, Answer: 109}}},
		{mooncake, Mooncake, []Arrival{
			{Prompt: 6758, Answer: 500, Blocks: []uint64{0, 1, 2}}, {At: 2500 * time.Millisecond, Prompt: 10, Answer: 5, Blocks: []uint64{0}},
		}},
		// In the order in which they began, which is not that in which they ended.
		{accessLog, AccessLog, []Arrival{
			{Model: "a", Client: "10.0.0.2", Prompt: 1000, Took: 2 * time.Second}, {At: 3000500 * time.Microsecond, Model: "b", Client: "10.0.0.1", Prompt: 100, Took: time.Second},
		}},
	} {
		got, all := read(t, c.text)
		if got.Format != c.format || fmt.Sprint(all) != fmt.Sprint(c.want) || got.Length != all[len(all)-1].At {
			t.Errorf("%s of %v: %v, want %v", got.Format, got.Length, all, c.want)
		}
	}
}

func TestRecordingsThatCountRequests(t *testing.T) {
	got, all := read(t, serveGen)
	if got.Format != ServeGen || got.Count != 153 || got.Length != 100*time.Second || !slices.Equal(got.Clients, []string{"a/0", "b/1"}) {
		t.Errorf("%+v", got)
	}
	within := 0
	for _, a := range all {
		switch {
		case a.Client == "a/0" && a.At >= 10*time.Second && a.At <= 15*time.Second:
			within++
		case a.Client == "a/0" && a.At != 100*time.Second, a.Client == "b/1" && a.At > time.Minute:
			t.Errorf("%s came at %v", a.Client, a.At)
		}
	}
	if within != 100 {
		t.Errorf("%d of 100 requests came when they did", within)
	}
	got, all = read(t, functions)
	if got.Format != AzureFunctions || got.Count != 13 || got.Clients[0] != "y/B" {
		t.Errorf("%+v", got)
	}
	if last := all[len(all)-1]; last.Client != "y/B" || last.At < 2*time.Minute || last.At > 3*time.Minute {
		t.Errorf("the last of them is %v", last)
	}
}

func TestUsesAreAsTheyWereWrittenDown(t *testing.T) {
	for _, c := range []struct {
		text  string
		named bool
		began string
		want  []Use
	}{
		{table, true, "", []Use{
			{Client: "qwen", Model: "qwen", At: 500 * time.Millisecond, Took: time.Minute, Requests: 1}, {Client: "llama", Model: "llama", At: 10 * time.Second, Took: 5 * time.Second, Requests: 1},
		}},
		{counts, true, "", []Use{
			{Client: "qwen", Model: "qwen", Took: time.Minute, Requests: 1}, {Client: "llama", Model: "llama", At: 10 * time.Second, Took: 5 * time.Second, Requests: 3},
		}},
		{serveGen, false, "", []Use{
			{Client: "b/1", Took: time.Minute, Requests: 50}, {Client: "a/0", At: 10 * time.Second, Took: 5 * time.Second, Requests: 100}, {Client: "a/0", At: 100 * time.Second, Requests: 3},
		}},
		{functions, false, "", []Use{
			{Client: "y/B", Took: time.Minute, Requests: 10}, {Client: "x/A", At: time.Minute, Took: time.Minute, Requests: 2}, {Client: "y/B", At: 2 * time.Minute, Took: time.Minute, Requests: 1},
		}},
		{azureLLM, false, "2023-11-16T18:15:46.68059Z", []Use{{Requests: 1, Prompt: 374, Answer: 44}, {At: 4 * time.Second, Requests: 1, Prompt: 396, Answer: 109}}},
		{accessLog, true, "2026-01-01T00:00:04.9995Z", []Use{
			{Client: "10.0.0.2", Model: "a", Took: 2 * time.Second, Requests: 1, Prompt: 1000},
			{Client: "10.0.0.1", Model: "b", At: 3000500 * time.Microsecond, Took: time.Second, Requests: 1, Prompt: 100},
		}},
	} {
		got, _ := read(t, c.text)
		began := ""
		if !got.Began.IsZero() {
			began = got.Began.Format(time.RFC3339Nano)
		}
		if all := slices.Collect(got.Uses()); fmt.Sprint(all) != fmt.Sprint(c.want) || got.Named != c.named || began != c.began {
			t.Errorf("%s: named %t, began %q\n%v, want\n%v", got.Format, got.Named, began, all, c.want)
		}
	}
}

// TestABurstIsSpreadEvenly: requests that are made one after the other come as if each had drawn its time by itself.
func TestABurstIsSpreadEvenly(t *testing.T) {
	_, all := read(t, "client,start_s,dur_s,requests\na,0,100,10000\n")
	for _, part := range []float64{0.1, 0.25, 0.5, 0.9} {
		n, _ := slices.BinarySearchFunc(all, time.Duration(part*float64(100*time.Second)), func(a Arrival, at time.Duration) int { return int(a.At - at) })
		if off := float64(n) - part*10000; off > 300 || off < -300 { // six standard deviations
			t.Errorf("%d of 10000 came in %v of the time", n, part)
		}
	}
}

func TestARecordingMayBeCompressed(t *testing.T) {
	var b bytes.Buffer
	w := gzip.NewWriter(&b)
	if _, err := w.Write([]byte(mooncake)); err != nil {
		t.Fatal(err)
	}
	if err := w.Close(); err != nil {
		t.Fatal(err)
	}
	if got, _ := read(t, b.String()); got.Format != Mooncake {
		t.Errorf("it is read as %s", got.Format)
	}
}

func TestWhatIsNoRecordingIsRefused(t *testing.T) {
	const head = "TIMESTAMP,ContextTokens,GeneratedTokens\n"
	for text, want := range map[string]string{
		"":               "it is empty",
		"hello\n":        `begins with "hello"`,
		head:             "there is no request in it",
		head + "x,1,2\n": `line 2: "x" is no time`,
		head + "2023-11-16 18:15:46,1,1\n0001-11-16 18:15:46,1,1\n": "line 3: 0001-11-16 is more than ten years from",
		head + "2023-11-16 18:15:46,1\n":                            "line 2",
		head + "2023-11-16 18:15:46,-1,2\n":                         `line 2: "-1" is no number of tokens`,
		mooncake + "{":                                              "line 4",
		mooncake + `{"timestamp":-1}`:                               "line 4: a time or a length is out of bounds",
		serveGen + "a,NaN,1,1\n":                                    `line 5: "NaN" is no time`,
		serveGen + "a,1,1,1e99\n":                                   `line 5: "1e99" is no number of requests`,
		functions + "C,z,1,2,3\nD,z,1,x,3\n":                        `line 5: "x" is no number`,
		`{"time":"2026-01-01T00:00:09Z","msg":"request","model":"b","total_ms":1,"left_out":99}` + "\n": "99 requests are not in it, which log.sample left out",
		`{"msg":"serving"}` + "\n":                      "there is no request in it",
		`{"msg":"request"}` + "\n{\"msg\":\"request\",": "line 2",
		"\x1f\x8b broken":                               "decompress",
	} {
		if _, err := Read(strings.NewReader(text)); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%q: the error is %v, want one with %q", text, err, want)
		}
	}
}

// FuzzRead: whatever a file holds, it is refused, or its arrivals are in order and as many as it says.
func FuzzRead(f *testing.F) {
	for _, text := range []string{azureLLM, mooncake, serveGen, functions, table, counts, accessLog} {
		f.Add(text)
	}
	f.Add("TIMESTAMP,ContextTokens,GeneratedTokens\n7000-01-01 0:00:00,0,0\n0000-01-01 0:00:00,0,0") // further apart than a time.Duration is long
	f.Fuzz(func(t *testing.T, text string) {
		got, err := Read(strings.NewReader(text))
		if err != nil || got.Count > 10000 {
			return
		}
		var n int64
		last := time.Duration(0)
		for a := range got.Arrivals() {
			if n++; a.At < last {
				t.Fatalf("%v comes behind %v", a.At, last)
			}
			last = a.At
		}
		if n != got.Count {
			t.Errorf("%d arrivals of %d", n, got.Count)
		}
	})
}
