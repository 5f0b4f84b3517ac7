package nvml

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"io"
	"log/slog"
	"reflect"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"pilotlight/config"
	"pilotlight/probe"
)

// stage is a watch in virtual time, over processes that are made up.
type stage struct {
	started atomic.Int32
	alive   atomic.Int32
	mortal  bool          // killing ends a process
	release chan struct{} // closed: so does that
	said    []probe.GPUs
}

// text is a reading as a process writes it.
func text(t *testing.T, r probe.GPUs) []byte {
	t.Helper()
	all, err := json.Marshal(line{Reading: write(r)})
	if err != nil {
		t.Fatal(err)
	}
	return append(all, '\n')
}

// play watches for a while; speak is what each process does.
func (s *stage) play(t *testing.T, span time.Duration, speak func(process int, out io.Writer)) {
	s.release = make(chan struct{})
	w := &Watcher{Log: slog.New(slog.DiscardHandler)}
	w.start = func() (*looking, error) {
		number := int(s.started.Add(1))
		s.alive.Add(1)
		lines, out := io.Pipe()
		p := &looking{lines: lines, gone: make(chan struct{})}
		killed := make(chan struct{})
		p.kill = func() { _ = lines.Close(); close(killed) }
		go speak(number, out)
		go func() {
			<-killed
			if !s.mortal {
				<-s.release
			}
			s.alive.Add(-1)
			close(p.gone)
		}()
		return p, nil
	}
	ctx, cancel := context.WithTimeout(t.Context(), span)
	defer cancel()
	err := w.Watch(ctx, func(r probe.GPUs) { s.said = append(s.said, r) })
	if !errors.Is(err, context.DeadlineExceeded) {
		t.Errorf("the watch ended with %v", err)
	}
}

func TestProcessesThatCannotBeEndedAreFewAndHoldUpNobody(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := &stage{}
		s.play(t, 24*time.Hour, func(int, io.Writer) {}) // says nothing, and does not end
		if started, alive := s.started.Load(), s.alive.Load(); started != maxProcesses || alive != maxProcesses {
			t.Errorf("in a day %d were started, and %d are there; want %d", started, alive, maxProcesses)
		}
		close(s.release)
	})
}

func TestAProcessThatIsSilentIsReplaced(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := &stage{mortal: true}
		one := text(t, probe.GPUs{At: time.Now(), GPUs: []probe.GPU{sound()}})
		s.play(t, 2*stuck, func(_ int, out io.Writer) { _, _ = out.Write(one) }) // once, and then nothing
		if started := s.started.Load(); started != 2 {
			t.Errorf("%d were started, want 2", started)
		}
		var healths []probe.Health
		for _, r := range s.said {
			healths = append(healths, r.GPUs[0].Health)
		}
		want := []probe.Health{probe.Healthy, probe.Unknown, probe.Unknown, probe.Healthy, probe.Unknown}
		if !reflect.DeepEqual(healths, want) {
			t.Errorf("the GPU was %v, want %v", healths, want)
		}
	})
}

func TestAProcessThatEndsAtOnceIsStartedEverMoreSeldom(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := &stage{mortal: true}
		s.play(t, time.Hour, func(_ int, out io.Writer) { _ = out.(io.Closer).Close() })
		if started := s.started.Load(); started < 60 || started > 70 {
			t.Errorf("in an hour %d were started", started)
		}
		if got := s.said[len(s.said)-1].Problem; got != "the process that looks at GPUs ended: EOF" {
			t.Errorf("it says %q", got)
		}
	})
}

func TestAReadingComesOverTheWireAsItWas(t *testing.T) {
	r := probe.GPUs{
		At: time.Now().UTC().Round(0), Driver: "580", HostTotal: 3, HostFree: 2, Links: [][]probe.Link{{probe.LinkSelf}},
		GPUs: []probe.GPU{{
			UUID: "GPU-a", Total: 80 * config.GiB, Used: -1, Free: 1, Reserved: -1, Busy: -1, Ran: time.Second, Recovery: probe.RecoveryReset, Health: probe.Sick,
			Xids:      []probe.Xid{{At: time.Now().UTC().Round(0), Code: 79}},
			Processes: []probe.Process{{PID: 7, Used: -1, Busy: 0.5, Lineage: []int{7, 1}}},
		}},
	}
	got, err := parse(bytes.TrimSpace(text(t, r)))
	if err != nil || !reflect.DeepEqual(got, r) {
		t.Errorf("got %+v, %v\nwant %+v", got, err, r)
	}
}

func FuzzParse(f *testing.F) {
	f.Add([]byte(`{"Reading":{"At":"2026-11-26T01:21:00Z","Each":[{"UUID":"GPU-aaa","Total":85899345920,"Used":-1,"Processes":[{"PID":7}]}]}}`))
	f.Add([]byte(`{"NoLibrary":"none"}`))
	f.Add([]byte(`{"Afresh":true}`))
	f.Fuzz(func(t *testing.T, data []byte) {
		r, err := parse(data)
		if err != nil {
			return
		}
		m := memory{pasts: map[string]*past{}}
		for range 2 {
			r = m.know(r, time.Now())
			for i, g := range r.GPUs {
				if g.Index != i || g.Health > probe.Unknown || len(g.Xids) > keptXids {
					t.Fatalf("GPU %d is %+v", i, g)
				}
				_, _, _ = g.Health.String(), g.Recovery.String(), g.Throttled.String()
			}
		}
	})
}
