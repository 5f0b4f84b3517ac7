package proxy

import (
	"bytes"
	"log/slog"
	"testing"
	"time"

	"pilotlight/router"
)

func FuzzLine(f *testing.F) {
	f.Add("llama-8b", "/v1/chat/completions", "", "10.0.0.1", int64(1234567), int64(0), uint64(7), 200)
	f.Add("a \"model\"\\", "/\x00\xff/ü\u2028\u007f<&>", "the line\nis full", "::1", int64(-5), int64(1<<60), uint64(0), -1)
	f.Fuzz(func(t *testing.T, model, path, reason, client string, total, waited int64, id uint64, status int) {
		v := &visit{record: record{id: id, Visit: Visit{
			At: time.Unix(1_780_000_000, total), Client: client, Method: "POST", Model: model, Backend: model + "-1", Status: status, Outcome: router.Refused,
			Code: router.LineFull, Reason: reason, Waited: time.Duration(waited), Cold: id%2 == 1, FirstByte: time.Duration(total) / 2, Total: time.Duration(total), BytesOut: total,
		}}}
		v.pathLen = copy(v.path[:], path)
		v.Context = Context{Trace: [16]byte{byte(id), 15: 1}, Flags: byte(id)}
		var want bytes.Buffer
		v.log(slog.New(slog.NewJSONHandler(&want, &slog.HandlerOptions{ReplaceAttr: func(_ []string, a slog.Attr) slog.Attr {
			if a.Key == slog.TimeKey {
				return slog.Time(a.Key, v.At.Add(v.Total))
			}
			return a
		}})))
		if got := v.appendLine(nil); string(got) != want.String() {
			t.Errorf("got  %s\nwant %s", got, &want)
		}
	})
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
