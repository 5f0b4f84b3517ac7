package nvml

import (
	"fmt"
	"slices"
	"time"

	"pilotlight/probe"
)

// quarantine is how long a GPU stays Sick after its last fault although the driver asks for nothing: a GPU that fails
// comes with several Xids, some after the recovery action of the first is known.
const quarantine = time.Minute

// keptXids is how many errors of each GPU are remembered.
const keptXids = 16

// past is what of a GPU's past counts. It outlives the process that looks.
type past struct {
	xids   []probe.Xid // the last ones
	ecc    int64       // uncorrected errors that have been seen; -1: never told
	energy int64       // when last told: it begins anew with the driver, or with a reset of the GPU
	faults []fault
}

// fault is what makes a GPU Sick until it has recovered from it.
type fault struct {
	at  time.Time
	why string
}

// judge says what may be asked of a GPU that looks like g, in the light of its past, which it brings up to date. What a look
// itself found (lost, unreadable) stands.
func (p *past) judge(g *probe.GPU, now time.Time) {
	p.learn(g, now)
	g.Xids = slices.Clone(p.xids)
	if g.Health != probe.Healthy {
		return
	}
	switch {
	case g.Recovery > probe.RecoveryNone:
		g.Health, g.Reason = probe.Sick, "the driver asks to "+g.Recovery.String()
		if n := len(p.faults); n > 0 {
			g.Reason += ": " + p.faults[n-1].why
		}
	case g.RemapFailed:
		g.Health, g.Reason = probe.Sick, "a row of its memory is broken and no spare is left: it must be replaced"
	case len(p.faults) > 0:
		g.Health, g.Reason = probe.Sick, p.faults[len(p.faults)-1].why
		if g.Recovery == probe.RecoveryUnknown {
			g.Reason += "; this driver does not say when it is well again: reset it, or start pilotlight anew"
		}
	case g.Throttled&probe.Degrading != 0:
		g.Health, g.Reason = probe.Degraded, "slowed down: "+(g.Throttled&probe.Degrading).String()
	case g.RemapPending:
		g.Health, g.Reason = probe.Degraded, "a row of its memory is broken and is replaced at the next reset"
	}
}

// learn takes new faults in, and lets go of those from which the GPU has recovered.
func (p *past) learn(g *probe.GPU, now time.Time) {
	reset := g.Energy >= 0 && g.Energy < p.energy
	if g.Energy >= 0 {
		p.energy = g.Energy
	}
	over := g.Recovery == probe.RecoveryNone && g.Health == probe.Healthy
	p.faults = slices.DeleteFunc(p.faults, func(f fault) bool { return reset || over && now.Sub(f.at) >= quarantine })
	for _, x := range g.Xids {
		if !slices.Contains(p.xids, x) {
			p.xids = append(p.xids, x)
			if why := xidFault(x.Code); why != "" {
				p.faults = append(p.faults, fault{x.At, why})
			}
		}
	}
	p.xids = p.xids[max(0, len(p.xids)-keptXids):]
	if p.ecc >= 0 && g.ECC > p.ecc && !reset {
		p.faults = append(p.faults, fault{now, fmt.Sprintf("%d errors of its memory could not be corrected", g.ECC-p.ecc)})
	}
	if g.ECC >= 0 {
		p.ecc = g.ECC
	}
	p.faults = p.faults[max(0, len(p.faults)-keptXids):]
}

// xidFault is why a GPU is not to be used after an Xid, empty where it may be: those errors are of a program on it, or were
// corrected. The lists follow NVIDIA's catalogue (docs.nvidia.com/deploy/xid-errors): what it answers with restarting the
// application, or with nothing, is no fault of the GPU. What is not known counts as one.
func xidFault(code int) string {
	switch code {
	case 13, 31, 32, 43, 45, 68, 69, 109, // of a program: bad address, illegal instruction, its channel was stopped
		63, 92, 94, // memory errors that were dealt with: a row was remapped, a rate is high, one was contained
		8, 66, 123, 137: // other errors of a program or of its channel
		return ""
	case 48:
		return "Xid 48: an error of two bits in its memory"
	case 64:
		return "Xid 64: a broken row of its memory could not be recorded"
	case 74:
		return "Xid 74: NVLink failed"
	case 79:
		return "Xid 79: it has fallen off the bus"
	case 95:
		return "Xid 95: an uncontained error of its memory"
	case 119, 120:
		return fmt.Sprintf("Xid %d: its own processor (GSP) does not answer", code)
	case 154:
		return "Xid 154: the driver wants it recovered"
	default:
		return fmt.Sprintf("Xid %d", code)
	}
}
