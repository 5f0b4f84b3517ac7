package proxy

import (
	"encoding/binary"
	"encoding/hex"
	"math/rand/v2"

	"pilotlight/config"
)

// Tracing has requests stand in traces, as the W3C has them (Trace Context, level 2). Its functions are called on requests' own goroutines, and must not wait.
type Tracing struct {
	// Clients says what becomes of the traces that clients name.
	Clients config.ClientTraces
	// Cold says that a request that waited for a wake is kept: its backend is told so.
	Cold bool
	// Sample says whether a trace that begins here is kept from its beginning. It must go by nothing but the ID, so that all edges say the same.
	Sample func(trace [16]byte) bool
	// Keep says, when a request has ended whose trace is not kept, that it is.
	Keep func(*Visit) bool
}

// Context is where a request stands in a trace.
type Context struct {
	Trace  [16]byte // zero: in none
	Span   [8]byte  // of the request itself; Try gives those of its tries
	Parent [8]byte  // of the client's, in the same trace; zero: the trace begins here
	Flags  byte     // of traceparent
	Linked [24]byte // trace and span that a client named and that are not followed; zero: none
	State  string   // the tracestate that came with Parent, where it is not too long
}

// The flags of traceparent.
const (
	flagSampled = 1
	flagRandom  = 2
)

// maxState is how much of a tracestate is passed on: what everybody must pass on at least.
const maxState = 512

// Sampled says whether the trace is kept.
func (c *Context) Sampled() bool { return c.Flags&flagSampled != 0 }

// Try is the ID of the span of the request's nth try, from 0.
func (c *Context) Try(n int) (span [8]byte) {
	binary.BigEndian.PutUint64(span[:], binary.BigEndian.Uint64(c.Span[:])+uint64(n)+1)
	return span
}

// trace gives a request that has just come its place in a trace.
func (v *visit) trace() {
	t := v.edge.tracing
	if t == nil {
		return
	}
	c := &v.Context
	binary.BigEndian.PutUint64(c.Span[:], rand.Uint64()>>1|1) // so that no try has 0, which is none
	parent, span, flags, ok := parseParent(v.head.traceparent)
	switch {
	case !ok || v.head.traceparents != 1 || t.Clients == config.IgnoreTraces:
	case t.Clients == config.LinkTraces:
		copy(c.Linked[:], parent[:])
		copy(c.Linked[len(parent):], span[:])
	default:
		c.Trace, c.Parent, c.Flags = parent, span, flags&(flagSampled|flagRandom)
		if len(v.head.tracestate) > 0 && v.head.stateLength <= maxState {
			c.State = string(v.head.tracestate)
		}
		return
	}
	binary.BigEndian.PutUint64(c.Trace[:], rand.Uint64()|1)
	binary.BigEndian.PutUint64(c.Trace[8:], rand.Uint64())
	c.Flags = flagRandom
	if t.Sample(c.Trace) {
		c.Flags |= flagSampled
	}
}

// kept decides, now that everything is known of a request, whether its trace is kept.
func (v *visit) kept() {
	t := v.edge.tracing
	if t == nil || v.Context.Trace == [16]byte{} {
		return
	}
	if !v.Context.Sampled() && t.Keep(&v.Visit) {
		v.Context.Flags |= flagSampled
	}
	if v.Context.Sampled() {
		v.Path = string(v.path[:v.pathLen])
	}
}

// carried is what a message says of the trace that it is part of.
type carried struct {
	context *Context
	parent  [8]byte
	send    bool // else it says nothing
}

// carries is what a request says to its backend, whose trace goes with it if the configuration says so.
func (v *visit) carries() *carried {
	t := v.edge.tracing
	if t == nil {
		return nil
	}
	c := &v.Context
	if v.Cold && t.Cold {
		c.Flags |= flagSampled
	}
	send := config.SendAlways
	backends := v.lease.Model.Config.Backends
	for i := range backends {
		if backends[i].Name == v.to.id {
			send = backends[i].Sends()
		}
	}
	v.carry = carried{context: c, parent: c.Try(len(v.Tries)), send: send == config.SendAlways || send == config.SendSampled && c.Sampled()}
	return &v.carry
}

// appendTo appends the fields of W3C's Trace Context.
func (c *carried) appendTo(dst []byte, h *head) []byte {
	if !c.send {
		return dst
	}
	dst = append(dst, "traceparent: 00-"...)
	dst = hex.AppendEncode(dst, c.context.Trace[:])
	dst = hex.AppendEncode(append(dst, '-'), c.parent[:])
	dst = hex.AppendEncode(append(dst, '-'), []byte{c.context.Flags})
	dst = append(dst, crlf...)
	if c.context.Parent == [8]byte{} || h.stateLength > maxState {
		return dst // it is of another trace
	}
	for name, value := range h.each {
		if is(name, "tracestate") {
			dst = appendField(dst, "tracestate", string(value))
		}
	}
	return dst
}

// ofATrace names the fields that say which trace a request is part of, and what comes along with it.
func ofATrace(name []byte) bool {
	return is(name, "traceparent") || is(name, "tracestate") || is(name, "baggage")
}

// parentLength is how long a traceparent is: version, trace, span and flags. Versions to come may have more behind that.
const parentLength = 2 + 1 + 32 + 1 + 16 + 1 + 2

// parseParent reads a traceparent.
func parseParent(b []byte) (trace [16]byte, span [8]byte, flags byte, ok bool) {
	var version, last [1]byte
	if len(b) < parentLength || b[2] != '-' || b[35] != '-' || b[52] != '-' ||
		!unhex(version[:], b) || !unhex(trace[:], b[3:]) || !unhex(span[:], b[36:]) || !unhex(last[:], b[53:]) {
		return trace, span, 0, false
	}
	more := len(b) > parentLength
	switch {
	case version[0] == 0xff, version[0] == 0 && more, more && b[parentLength] != '-', trace == [16]byte{}, span == [8]byte{}:
		return trace, span, 0, false
	}
	return trace, span, last[0], true
}

// unhex reads two digits for each byte of dst; letters are small.
func unhex(dst, b []byte) bool {
	for i := range dst {
		high, low := digit(b[2*i]), digit(b[2*i+1])
		if high > 15 || low > 15 {
			return false
		}
		dst[i] = high<<4 | low
	}
	return true
}

// digit is what a hexadecimal digit stands for; more than 15: it is none.
func digit(c byte) byte {
	switch {
	case '0' <= c && c <= '9':
		return c - '0'
	case 'a' <= c && c <= 'f':
		return c - 'a' + 10
	}
	return 16
}
