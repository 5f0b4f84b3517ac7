package proxy

import (
	"bytes"
	"errors"
	"io"
	"strconv"
)

// framing is how a body is delimited on its way to the client.
type framing uint8

// The framings.
const (
	plain  framing = iota // by its length, or by the end of the connection
	framed                // in chunks
)

var errChunk = errors.New("a chunk of the body is malformed")

// maxTrailer bounds the trailer of a chunked body, and the extensions of one chunk; those of a request, all in all.
const maxTrailer = 8 << 10

// body takes an answer's body apart as its bytes come in. A body that stops before its end is an error: it must
// never look like a finished answer.
type body struct {
	kind    bodyKind
	asked   bool  // it is a request's
	left    int64 // of the body, or of the present chunk
	chunk   chunkState
	skip    int    // bytes of extensions so far
	trailer []byte // as far as it came
	done    bool
}

type bodyKind uint8

const (
	byLength bodyKind = iota
	byChunks
	byClose
)

type chunkState uint8

const (
	chunkSize  chunkState = iota // at the first digit of a size
	chunkDigit                   // within a size
	chunkPad                     // in the white space behind it, which some servers write
	chunkExt                     // behind a size
	chunkHead                    // at the LF behind a size
	chunkData
	chunkCR // behind the data
	chunkLF
	chunkTrailer
)

// bodyOf is the body that follows the head of an answer.
func bodyOf(a *answer, toHead bool) body {
	switch {
	case a.empty(toHead), a.length == 0:
		return body{done: true}
	case a.chunked:
		return body{kind: byChunks}
	case a.length > 0:
		return body{left: a.length}
	}
	return body{kind: byClose}
}

// requestBody is the body that follows the head of a request.
func requestBody(h *head) body {
	switch {
	case h.chunked:
		return body{kind: byChunks, asked: true}
	case h.length > 0:
		return body{left: h.length}
	}
	return body{done: true}
}

// append appends data in the framing.
func (f framing) append(dst, data []byte) []byte {
	if f == framed {
		return appendChunk(dst, data)
	}
	return append(dst, data...)
}

// take consumes bytes from the front of b and returns the data among them, which it moves together within b.
func (d *body) take(b []byte) (data []byte, used int, err error) {
	switch {
	case d.done:
		return nil, 0, nil
	case d.kind == byClose:
		return b, len(b), nil
	case d.kind == byLength:
		used = d.piece(len(b))
		return b[:used], used, nil
	}
	n := 0
	for used < len(b) && !d.done {
		if d.chunk == chunkData {
			size := d.piece(len(b) - used)
			n += copy(b[n:], b[used:used+size])
			used += size
			continue
		}
		if err := d.step(b[used]); err != nil {
			return b[:n], used, err
		}
		used++
	}
	return b[:n], used, nil
}

// piece takes up to n bytes of data.
func (d *body) piece(n int) int {
	size := min(d.left, int64(n))
	if d.left -= size; d.left == 0 && d.kind == byLength {
		d.done = true
	} else if d.left == 0 {
		d.chunk = chunkCR
	}
	return int(size)
}

// step takes one byte of what is around the data.
func (d *body) step(c byte) error {
	switch d.chunk {
	case chunkSize, chunkDigit:
		v, ok := hexDigit(c)
		switch {
		case ok && d.left < 1<<55:
			d.left, d.chunk = d.left<<4|v, chunkDigit
		case d.chunk == chunkDigit && c == '\r':
			d.chunk = chunkHead
		case d.chunk == chunkDigit && c == ';':
			d.extend()
		case d.chunk == chunkDigit && !d.asked && (c == ' ' || c == '\t'):
			d.chunk = chunkPad
		default:
			return errChunk
		}
	case chunkPad:
		switch c {
		case ' ', '\t':
		case '\r':
			d.chunk = chunkHead
		case ';':
			d.extend()
		default:
			return errChunk
		}
	case chunkExt:
		if c == '\r' {
			d.chunk = chunkHead
		} else if d.skip++; d.skip > maxTrailer || c < ' ' && c != '\t' || c == 0x7f {
			return errChunk
		}
	case chunkHead:
		if c != '\n' {
			return errChunk
		}
		if d.chunk = chunkData; d.left == 0 {
			d.chunk = chunkTrailer
		}
	case chunkCR:
		if d.chunk = chunkLF; c != '\r' {
			return errChunk
		}
	case chunkLF:
		if d.chunk = chunkSize; c != '\n' {
			return errChunk
		}
	case chunkTrailer:
		return d.trail(c)
	case chunkData:
		panic("BUG: data is not taken byte by byte")
	}
	return nil
}

// extend is at the semicolon before an extension.
func (d *body) extend() {
	d.chunk = chunkExt
	if !d.asked {
		d.skip = 0
	}
}

// trail takes one byte of the trailer, which ends with an empty line.
func (d *body) trail(c byte) error {
	if d.trailer = append(d.trailer, c); len(d.trailer) > maxTrailer || c == '\n' && !bytes.HasSuffix(d.trailer, crlf) {
		return errChunk
	}
	if c != '\n' || len(d.trailer) > 2 && !bytes.HasSuffix(d.trailer, crlfcrlf) {
		return nil
	}
	var fields head
	if err := fields.scan(d.trailer); err != nil {
		return errChunk
	}
	for name := range fields.each {
		if d.asked && !mayTrail(name) { // backends that merge it into the header would believe it
			return errTrailer
		}
	}
	d.done, d.trailer = true, fields.appendFields(nil, nothing)
	return nil
}

// end is what err means, with which reading the backend's connection ended. A body without a length ends with it.
func (d *body) end(err error) error {
	switch {
	case errors.Is(err, io.EOF) && d.kind == byClose:
		d.done = true
		return nil
	case errors.Is(err, io.EOF):
		return io.ErrUnexpectedEOF
	}
	return err
}

// appendChunk appends data as one chunk, if there is any.
func appendChunk(dst, data []byte) []byte {
	if len(data) == 0 {
		return dst
	}
	dst = append(strconv.AppendInt(dst, int64(len(data)), 16), "\r\n"...)
	return append(append(dst, data...), "\r\n"...)
}

// appendEnd appends the final chunk and the trailer.
func appendEnd(dst, trailer []byte) []byte {
	return append(append(append(dst, "0\r\n"...), trailer...), "\r\n"...)
}

func hexDigit(c byte) (int64, bool) {
	switch {
	case '0' <= c && c <= '9':
		return int64(c - '0'), true
	case 'a' <= c|0x20 && c|0x20 <= 'f':
		return int64(c|0x20-'a') + 10, true
	}
	return 0, false
}
