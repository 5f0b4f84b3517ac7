package forecast

import (
	"bytes"
	"compress/gzip"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"math"
	"slices"
)

const (
	saved       = "pilotlight forecast 1\n" // what a saved forecast begins with, unpacked
	maxUnpacked = 64 << 20                  // bytes
	maxName     = 1024
)

// Save writes what was learned in at most limit bytes (0: any number): weights and history, the oldest of which is left out if it must be. Load makes
// the same forecast of it, as long as nothing was left out.
func (f *Forecast) Save(limit int) ([]byte, error) {
	newest := int64(0)
	for _, t := range f.order {
		newest = max(newest, t.idle, t.start)
	}
	for span := int64(remembered); span >= 60*minute; span = span * 3 / 4 {
		blob, err := f.pack(newest - span)
		if err != nil || limit == 0 || len(blob) <= limit {
			return blob, err
		}
	}
	return nil, fmt.Errorf("save the forecast: even an hour of %d models is more than %d bytes", len(f.order), limit)
}

// pack writes all that began after a time.
func (f *Forecast) pack(after int64) ([]byte, error) {
	var packed bytes.Buffer
	z, err := gzip.NewWriterLevel(&packed, gzip.BestCompression)
	if err != nil {
		return nil, fmt.Errorf("save the forecast: %w", err)
	}
	w := []byte(saved)
	w = binary.AppendVarint(w, f.moment.born)
	w = binary.AppendVarint(w, f.fitted)
	w = binary.AppendVarint(w, f.next)
	w = binary.AppendUvarint(w, dense)
	for e := range f.experts {
		w = f.experts[e].append(w)
	}
	w = binary.AppendUvarint(w, uint64(len(f.order)))
	for _, t := range f.order {
		w = t.append(w, after)
	}
	if _, err := z.Write(w); err != nil {
		return nil, fmt.Errorf("save the forecast: %w", err)
	}
	if err := z.Close(); err != nil {
		return nil, fmt.Errorf("save the forecast: %w", err)
	}
	return packed.Bytes(), nil
}

func (e *expert) append(w []byte) []byte {
	if !e.trained {
		return append(w, 0)
	}
	w = append(w, 1)
	for _, vs := range [][]float32{e.weights[:], e.bias[:], e.means[:]} {
		for _, v := range vs {
			w = binary.LittleEndian.AppendUint32(w, math.Float32bits(v))
		}
	}
	return e.guard.append(w)
}

func (g *guard) append(w []byte) []byte {
	for _, v := range append(append(slices.Clone(g.learned[:]), g.plain[:]...), g.arrivals) {
		w = binary.LittleEndian.AppendUint32(w, math.Float32bits(v))
	}
	return w
}

func (t *track) append(w []byte, after int64) []byte {
	w = binary.AppendUvarint(w, uint64(min(len(t.name), maxName)))
	w = append(w, t.name[:min(len(t.name), maxName)]...)
	w = binary.AppendVarint(w, t.born)
	history := t.history
	for len(history) > 1 && history[0].start < after { // the last one says since when it is idle
		history = history[1:]
	}
	w = binary.AppendUvarint(w, uint64(len(history)))
	at := int64(0)
	for _, s := range history {
		w = binary.AppendVarint(w, s.start-at)
		w = binary.AppendUvarint(w, uint64(s.lasted))
		w = binary.AppendUvarint(w, uint64(s.requests))
		at = s.start + int64(s.lasted)
	}
	if t.guard.arrivals == 0 {
		return append(w, 0)
	}
	return t.guard.append(append(w, 1))
}

// Load is a forecast as it was saved. A model that was busy then is idle since its use before.
func Load(blob []byte) (*Forecast, error) {
	z, err := gzip.NewReader(bytes.NewReader(blob))
	if err != nil {
		return nil, fmt.Errorf("read a saved forecast: %w", err)
	}
	text, err := io.ReadAll(io.LimitReader(z, maxUnpacked))
	if err != nil {
		return nil, fmt.Errorf("read a saved forecast: %w", err)
	}
	r := &reader{rest: text}
	f := r.forecast()
	if r.err != nil {
		return nil, fmt.Errorf("read a saved forecast: %w", r.err)
	}
	f.prove()
	f.replay()
	return f, nil
}

// replay makes what is not saved from history.
func (f *Forecast) replay() {
	var starts []int64
	for _, t := range f.order {
		for _, s := range t.history {
			t.arrived(s.start, int(s.requests))
			t.ended(s.start + int64(s.lasted))
			starts = append(starts, s.start)
		}
	}
	slices.Sort(starts)
	for _, at := range starts {
		f.moment.platform.arrived(at)
	}
}

// reader takes numbers from what was saved, and keeps the first error.
type reader struct {
	rest []byte
	err  error
}

var errShort = errors.New("it ends too early, or has a number that cannot be")

func (r *reader) fail() {
	if r.err == nil {
		r.err = errShort
	}
	r.rest = nil
}

// number is a signed one, at most of the size of times in seconds for the next thousand years.
func (r *reader) number() int64 {
	v, n := binary.Varint(r.rest)
	if n <= 0 || v > 1<<35 || v < -1<<35 {
		r.fail()
		return 0
	}
	r.rest = r.rest[n:]
	return v
}

// count is one from 0 to most.
func (r *reader) count(most uint64) int {
	v, n := binary.Uvarint(r.rest)
	if n <= 0 || v > most {
		r.fail()
		return 0
	}
	r.rest = r.rest[n:]
	return int(v)
}

func (r *reader) bytes(n int) []byte {
	if n > len(r.rest) {
		r.fail()
		return nil
	}
	b := r.rest[:n]
	r.rest = r.rest[n:]
	return b
}

func (r *reader) floats(to []float32) {
	b := r.bytes(4 * len(to))
	if b == nil {
		return
	}
	for i := range to {
		to[i] = math.Float32frombits(binary.LittleEndian.Uint32(b[4*i:]))
		if x := float64(to[i]); math.IsNaN(x) || math.Abs(x) > 1e12 {
			r.fail()
		}
	}
}

func (r *reader) forecast() *Forecast {
	f := New()
	if string(r.bytes(len(saved))) != saved {
		r.err = errors.New("it is not one, or of another version")
		return f
	}
	f.moment.born, f.fitted, f.next = r.number(), r.number(), r.number()
	if r.count(1<<16) != dense {
		r.err = errors.Join(r.err, errors.New("it is of another version"))
		return f
	}
	for e := range f.experts {
		r.expert(&f.experts[e])
	}
	for range r.count(maxModels) {
		t := r.track()
		if f.tracks[t.name] != nil {
			r.fail()
		}
		if r.err != nil {
			break
		}
		f.tracks[t.name], f.order = t, append(f.order, t)
		f.sessions += len(t.history)
	}
	return f
}

func (r *reader) expert(e *expert) {
	if r.count(1) == 0 {
		return
	}
	e.trained = true
	r.floats(e.weights[:])
	r.floats(e.bias[:])
	r.floats(e.means[:])
	r.guard(&e.guard)
}

func (r *reader) guard(g *guard) {
	r.floats(g.learned[:])
	r.floats(g.plain[:])
	var arrivals [1]float32
	r.floats(arrivals[:])
	g.arrivals = arrivals[0]
}

func (r *reader) track() *track {
	t := &track{name: string(r.bytes(r.count(maxName)))}
	t.born = r.number()
	at := int64(0)
	for range r.count(mostKept + 1) {
		start := at + r.number()
		if start < at || start > 1<<35 {
			r.fail()
		}
		if r.err != nil {
			break
		}
		s := session{start, int32(r.count(math.MaxInt32)), int32(r.count(math.MaxInt32))}
		t.history = append(t.history, s)
		at = start + int64(s.lasted)
	}
	if r.count(1) == 1 {
		r.guard(&t.guard)
	}
	return t
}
