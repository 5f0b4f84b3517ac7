package proxy

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"math"
	"math/rand/v2"
	"slices"
	"testing"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/testutil"

	"pilotlight/router"
)

func FuzzLine(f *testing.F) {
	f.Add("llama-8b", "/v1/chat/completions", "", "10.0.0.1", int64(1234567), int64(0), uint64(7), 200)
	f.Add("\b\f", "/", "", "", int64(0), int64(0), uint64(1), 200)
	f.Add("a \"model\"\\", "/\x00\xff/ü\u2028\u007f<&>", "the line\nis full", "::1", int64(-5), int64(1<<60), uint64(0), -1)
	f.Fuzz(func(t *testing.T, model, path, reason, client string, total, waited int64, id uint64, status int) {
		v := &visit{record: record{id: id, Visit: Visit{
			At: time.Unix(1_780_000_000, total), Client: client, Method: "POST", Model: model, Backend: model + "-1", Status: status, Outcome: router.Refused,
			Code: router.LineFull, Reason: reason, Waited: time.Duration(waited), Cold: id%2 == 1, FirstByte: time.Duration(total) / 2, Total: time.Duration(total), BytesOut: total,
		}}}
		v.pathLen, v.leftOut = copy(v.path[:], path), id/3
		v.Context = Context{Trace: [16]byte{byte(id), 15: 1}, Flags: byte(id)}
		var want bytes.Buffer
		v.log(slog.New(slog.NewJSONHandler(&want, &slog.HandlerOptions{ReplaceAttr: func(_ []string, a slog.Attr) slog.Attr {
			if a.Key == slog.TimeKey {
				return slog.Time(a.Key, v.At.Add(v.Total))
			}
			return a
		}})))
		got := v.appendLine(nil)
		if !bytes.HasSuffix(got, []byte("}\n")) || !slices.Equal(said(t, got), said(t, want.Bytes())) { // a backspace can be spelt in two ways
			t.Errorf("got  %s\nwant %s", got, &want)
		}
	})
}

// said is what a text of JSON says, in order.
func said(t *testing.T, text []byte) (all []json.Token) {
	t.Helper()
	d := json.NewDecoder(bytes.NewReader(text))
	d.UseNumber()
	for {
		token, err := d.Token()
		if errors.Is(err, io.EOF) {
			return all
		}
		if err != nil {
			t.Fatalf("%q: %v", text, err)
		}
		all = append(all, token)
	}
}

func BenchmarkLine(b *testing.B) {
	v := &visit{record: record{id: 1 << 60, Visit: Visit{
		At: time.Now(), Client: "127.0.0.1", Method: "POST", Model: "llama-8b", Backend: "llama-8b-1", Status: 200, Outcome: router.OK,
		FirstByte: 1234567, Total: 1345678, BytesIn: 93, BytesOut: 1200,
	}}}
	v.pathLen = copy(v.path[:], "/v1/chat/completions")
	b.ReportAllocs()
	var line []byte
	for b.Loop() {
		line = v.appendLine(line[:0])
	}
}

// Of what went well a part is written, and each line says how many are missing before it; everything else is written.
func TestLinesAreLeftOutAndCounted(t *testing.T) {
	for _, part := range []float64{0, 0.5, 0.99, 1} {
		registry, lines := prometheus.NewRegistry(), &bytes.Buffer{}
		e := New(Options{LeaveOut: part, Lines: lines, Registry: registry})
		written := func(id uint64, change func(*visit)) (n int, out uint64) {
			v := &visit{edge: e, record: record{id: id, Visit: Visit{Outcome: router.OK}}}
			change(v)
			lines.Reset()
			v.tell()
			var line struct {
				LeftOut uint64 `json:"left_out"`
			}
			if lines.Len() > 0 && json.Unmarshal(lines.Bytes(), &line) != nil {
				t.Fatalf("got %q", lines)
			}
			return bytes.Count(lines.Bytes(), []byte("\n")), line.LeftOut
		}
		const requests = 10_000
		n, out := 0, uint64(0)
		for id := range uint64(requests) {
			wrote, left := written(id<<12+id, func(*visit) {})
			n, out = n+wrote, out+left
		}
		if want := (1 - part) * requests; math.Abs(float64(n)-want) > 100 {
			t.Errorf("of %d lines %d are written where %g are to be left out", requests, n, part)
		}
		for what, change := range map[string]func(*visit){
			"refused": func(v *visit) { v.Outcome = router.Refused }, "broken": func(v *visit) { v.Outcome = router.Broken }, "left": func(v *visit) { v.Outcome = router.Left },
			"cold": func(v *visit) { v.Cold = true }, "overflown": func(v *visit) { v.Overflow = true },
		} {
			for id := range uint64(100) {
				wrote, left := written(id, change)
				if wrote != 1 {
					t.Fatalf("one that was %s has %d lines", what, wrote)
				}
				out += left
			}
		}
		if got, err := testutil.GatherAndCount(registry, "pilotlight_log_lines_left_out_total"); err != nil || (got == 1) != (part > 0) {
			t.Errorf("there are %d counters, %v", got, err)
		}
		if out+uint64(n) != requests {
			t.Errorf("%d lines and %d that they say are missing, of %d", n, out, requests)
		}
	}
}

// BenchmarkTell is what the log costs a request that went well.
func BenchmarkTell(b *testing.B) {
	for _, part := range []float64{0, 0.99} {
		b.Run(fmt.Sprintf("sample=%.2f", 1-part), func(b *testing.B) {
			e := New(Options{LeaveOut: part, Lines: io.Discard})
			b.RunParallel(func(pb *testing.PB) {
				v := &visit{edge: e, record: record{id: rand.Uint64(), Visit: Visit{At: time.Now(), Client: "127.0.0.1", Method: "POST", Model: "llama-8b", Backend: "llama-8b-1", Status: 200, Outcome: router.OK, FirstByte: 1234567, Total: 1345678, BytesIn: 93, BytesOut: 1200}}}
				v.pathLen = copy(v.path[:], "/v1/chat/completions")
				for pb.Next() {
					v.id++
					v.tell()
				}
			})
		})
	}
}
