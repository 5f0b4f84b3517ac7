package forecast

import (
	"fmt"
	"math/rand/v2"
	"runtime"
	"testing"
	"time"
)

// busyFleet is some models over some days, each with as many uses as one of ServeGen's clients has.
func busyFleet(models, days int) (f *Forecast, now time.Time) {
	f = New()
	rng := rand.New(rand.NewPCG(7, 7))
	now = monday.AddDate(0, 0, days)
	for i := range models {
		t := &track{name: fmt.Sprintf("model-%d", i), born: monday.Unix() / minute}
		for at := monday.Unix(); at < monday.AddDate(0, 0, 21).Unix(); at += 70 + int64(rng.ExpFloat64()*rng.ExpFloat64()*86400/17) {
			if s := (session{at, int32(10 + rng.IntN(60)), 1}); at+60 < now.Unix() {
				t.history = append(t.history, s)
			}
		}
		f.tracks[t.name], f.order = t, append(f.order, t)
		f.sessions += len(t.history)
	}
	f.moment.born = monday.Unix() / minute
	f.replay()
	return f, now
}

// BenchmarkRefit learns from three weeks of history, having learned the night before. live-MB is what all is held in.
func BenchmarkRefit(b *testing.B) {
	for _, models := range []int{300, 3000} {
		b.Run(fmt.Sprint(models), func(b *testing.B) {
			var before, after runtime.MemStats
			runtime.GC()
			runtime.ReadMemStats(&before)
			f, now := busyFleet(models, 21)
			runtime.GC()
			runtime.ReadMemStats(&after)
			y, yesterday := busyFleet(models, 20)
			y.Refit(yesterday)
			b.ReportAllocs()
			for b.Loop() {
				f.experts = y.experts
				f.Refit(now)
			}
			b.ReportMetric(float64(after.HeapAlloc-before.HeapAlloc)/(1<<20), "live-MB")
		})
	}
}

// BenchmarkMinute forecasts one minute of one model.
func BenchmarkMinute(b *testing.B) {
	f, now := busyFleet(300, 21)
	f.Refit(now)
	i := 0
	b.ReportAllocs()
	for b.Loop() {
		f.Minute(f.order[i%300].name, now.Add(time.Duration(i%1000)*time.Minute), 0)
		i++
	}
}

// BenchmarkSave writes and reads what 300 models have learned, within what Consul's KV takes.
func BenchmarkSave(b *testing.B) {
	f, now := busyFleet(300, 21)
	f.Refit(now)
	var blob []byte
	b.ReportAllocs()
	for b.Loop() {
		var err error
		if blob, err = f.Save(384 << 10); err != nil {
			b.Fatal(err)
		}
		if _, err = Load(blob); err != nil {
			b.Fatal(err)
		}
	}
	b.ReportMetric(float64(len(blob))/1024, "KiB")
}
