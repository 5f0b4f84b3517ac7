package nvml

import (
	"testing"
	"time"

	"pilotlight/probe"
)

// sound is a GPU that is well, by a driver that says so.
func sound() probe.GPU { return probe.GPU{UUID: "GPU-a", Recovery: probe.RecoveryNone, Energy: 1000} }

func TestAGPUIsWellAgainAMinuteAfterTheDriverAsksForNothing(t *testing.T) {
	begin := time.Now()
	xid := []probe.Xid{{At: begin, Code: 79}}
	p := past{ecc: -1}
	for _, step := range []struct {
		after time.Duration
		see   func(*probe.GPU)
		want  probe.Health
	}{
		{0, func(g *probe.GPU) { g.Xids = xid }, probe.Sick},
		{time.Second, func(g *probe.GPU) { g.Xids, g.Recovery = xid, probe.RecoveryReset }, probe.Sick},
		{time.Hour, func(g *probe.GPU) { g.Xids, g.Recovery = xid, probe.RecoveryReset }, probe.Sick},
		{time.Hour + time.Second, func(g *probe.GPU) { g.Xids = xid }, probe.Healthy}, // reset, and its last fault is long ago
		{time.Hour + 2*time.Second, func(*probe.GPU) {}, probe.Healthy},               // another process looks
		{2 * time.Hour, func(g *probe.GPU) { g.Xids = []probe.Xid{{At: begin.Add(2 * time.Hour), Code: 48}} }, probe.Sick},
		{2*time.Hour + 59*time.Second, func(*probe.GPU) {}, probe.Sick},
		{2*time.Hour + 60*time.Second, func(*probe.GPU) {}, probe.Healthy},
	} {
		g := sound()
		step.see(&g)
		if p.judge(&g, begin.Add(step.after)); g.Health != step.want {
			t.Fatalf("after %v it is %s (%s), want %s", step.after, g.Health, g.Reason, step.want)
		}
	}
}

func TestWithoutARecoveryActionOnlyAResetOrANewDriverMakesAGPUWell(t *testing.T) {
	begin := time.Now()
	p := past{ecc: -1}
	look := func(after time.Duration, energy int64, xids ...probe.Xid) probe.Health {
		g := sound()
		g.Recovery, g.Energy, g.Xids = probe.RecoveryUnknown, energy, xids
		p.judge(&g, begin.Add(after))
		return g.Health
	}
	if got := look(0, 1000, probe.Xid{At: begin, Code: 74}); got != probe.Sick {
		t.Errorf("after an error it is %s", got)
	}
	if got := look(24*time.Hour, 2000); got != probe.Sick {
		t.Errorf("a day later it is %s", got)
	}
	if got := look(25*time.Hour, 10); got != probe.Healthy {
		t.Errorf("when its energy counts from the beginning it is %s", got)
	}
}

func TestErrorsOfMemoryCountWhenTheyBecomeMore(t *testing.T) {
	now := time.Now()
	p := past{ecc: -1}
	for _, step := range []struct {
		ecc  int64
		want probe.Health
	}{{-1, probe.Healthy}, {5, probe.Healthy}, {5, probe.Healthy}, {6, probe.Sick}, {6, probe.Sick}} {
		g := sound()
		g.ECC = step.ecc
		if p.judge(&g, now); g.Health != step.want {
			t.Errorf("with %d errors it is %s, want %s", step.ecc, g.Health, step.want)
		}
	}
}

func TestXidsThatAreAProgramsOwnMakeNoGPUSick(t *testing.T) {
	for _, code := range []int{13, 31, 43, 45, 63, 68, 94, 109} {
		if why := xidFault(code); why != "" {
			t.Errorf("Xid %d is the GPU's fault: %s", code, why)
		}
	}
	for _, code := range []int{48, 62, 64, 74, 79, 95, 119, 120, 154, 999, 4711} {
		if xidFault(code) == "" {
			t.Errorf("Xid %d is not the GPU's fault", code)
		}
	}
}
