package proxy

import (
	"strconv"
	"time"
)

// timingHeader is the header by which a client asks for what its request took: on.
const timingHeader = "X-Pilotlight-Timing"

// appendTook appends what is known of what the request took while the head of its answer is written: who answers, and how long it waited. Of an answer that came
// whole the GPU time follows, which is an estimate: what was measured is settled later. Of one that comes in pieces the trailer tells it.
func (v *visit) appendTook(dst []byte, f framing) []byte {
	dst = appendField(dst, "X-Pilotlight-Request", v.name())
	dst = v.appendWho(dst)
	timing := "wait;dur=" + millis(v.Waited)
	switch {
	case f == framed && v.behind:
		dst = appendField(dst, "Trailer", "Server-Timing, X-Pilotlight-GPU-Ms, X-Pilotlight-Cost")
	case f != framed:
		if gpu, ok := v.guess(); ok {
			dst = v.appendGPU(dst, gpu)
			timing += gpu.entry()
		}
	}
	return appendField(dst, "Server-Timing", timing)
}

// appendWho appends who answers, and how long the request waited.
func (v *visit) appendWho(dst []byte) []byte {
	dst = appendField(dst, "X-Pilotlight-Backend", v.Backend)
	dst = appendField(dst, "X-Pilotlight-Wait-Ms", millis(v.Waited))
	return appendField(dst, "X-Pilotlight-Cold", strconv.FormatBool(v.Cold))
}

// appendBegun appends what is known when we begin a stream ourselves, because its client waits: which request it is. All else is in the trailer.
func (v *visit) appendBegun(dst []byte) []byte {
	if v.tells {
		dst = appendField(dst, "X-Pilotlight-Request", v.name())
	}
	if v.behind {
		dst = appendField(dst, "Trailer", "Server-Timing, X-Pilotlight-Backend, X-Pilotlight-Wait-Ms, X-Pilotlight-Cold, X-Pilotlight-GPU-Ms, X-Pilotlight-Cost")
	}
	return dst
}

// took is the trailer of an answer, with what its request took if the client wants to know and can be told there.
func (v *visit) took(trailer []byte) []byte {
	if !v.behind {
		return trailer
	}
	dst := append([]byte(nil), trailer...)
	if v.begun {
		dst = v.appendWho(dst)
	}
	gpu, ok := v.guess()
	if !ok {
		return dst
	}
	dst = v.appendGPU(dst, gpu)
	return appendField(dst, "Server-Timing", "wait;dur="+millis(v.Waited)+gpu.entry())
}

// guessed is an estimate of what a request took.
type guessed struct {
	gpu  time.Duration
	cost int64 // billionths
}

// entry is that of Server-Timing (w3.org/TR/server-timing), behind others.
func (g guessed) entry() string { return `, gpu;dur=` + millis(g.gpu) + `;desc="estimate"` }

// guess estimates what the request took until now. What another service answers is not on our GPUs.
func (v *visit) guess() (guessed, bool) {
	if v.edge.estimate == nil || v.Overflow {
		return guessed{}, false
	}
	gpu, cost := v.edge.estimate(v.Backend, max(0, time.Since(v.At)-v.Waited))
	return guessed{gpu, cost}, true
}

// appendGPU appends what the request took of GPUs, and what that costs.
func (v *visit) appendGPU(dst []byte, g guessed) []byte {
	dst = appendField(dst, "X-Pilotlight-GPU-Ms", millis(g.gpu)+"; estimate")
	if v.edge.currency != "" {
		const nano = 1e9
		dst = appendField(dst, "X-Pilotlight-Cost", strconv.FormatFloat(float64(g.cost)/nano, 'f', 9, 64)+" "+v.edge.currency+"; estimate")
	}
	return dst
}

// millis is a time in milliseconds, to the microsecond.
func millis(d time.Duration) string { return strconv.FormatFloat(ms(d), 'f', 3, 64) }
