package proxy

import (
	"encoding/binary"
	"errors"
	"io"
)

// frameHead is how long the head of a gRPC message is: whether it is compressed, and its length.
const frameHead = 5

// errNoMessage says that a call ended before its first message.
var errNoMessage = errors.New("there is none")

// readFrame reads a message's head, and so much of the message at most.
func readFrame(r io.Reader, most int) ([]byte, error) {
	b := make([]byte, frameHead)
	if _, err := io.ReadFull(r, b); err != nil {
		if err == io.EOF {
			err = errNoMessage
		}
		return nil, err
	}
	size := min(int64(binary.BigEndian.Uint32(b[1:])), int64(most))
	message, err := io.ReadAll(io.LimitReader(r, size)) // which takes no more room than there are bytes
	if err == nil && int64(len(message)) < size {
		err = io.ErrUnexpectedEOF
	}
	return append(b, message...), err
}

// naming is where a message names its model: the whole field, and the name in it.
type naming struct{ field, name span }

// findModel finds the first field with the number 1, if it is a text, in a message in protobuf's form or in what has come of it.
// That is model_name, or name, in all messages of the Open Inference Protocol that are about a model.
func findModel(b []byte) (naming, bool) {
	for i := 0; i < len(b); {
		from := i
		tag, n := binary.Uvarint(b[i:])
		if n <= 0 {
			break
		}
		i += n
		n = 0 // from here to what the field holds
		var size uint64
		switch tag & 7 {
		case 0:
			_, n = binary.Uvarint(b[i:])
		case 1:
			size = 8
		case 2:
			if size, n = binary.Uvarint(b[i:]); n == 0 {
				n = -1
			}
		case 5:
			size = 4
		default: // groups are history
			n = -1
		}
		if n < 0 || size > uint64(len(b)-i-n) {
			break
		}
		i += n
		to := i + int(size)
		if tag == 1<<3|2 {
			return naming{span{from, to}, span{i, to}}, to > i
		}
		i = to
	}
	return naming{}, false
}

// appendString appends a field that is a text.
func appendString(dst []byte, number uint64, s string) []byte {
	dst = binary.AppendUvarint(dst, number<<3|2)
	return append(binary.AppendUvarint(dst, uint64(len(s))), s...)
}

// A renamer passes messages on and renames the model in those that name it as the client did.
type renamer struct {
	in       io.Reader
	from, to string
	within   int    // how much of a message, in which the name must be
	out      []byte // to be read
	left     int64  // of the message, which passes as it is
}

func (r *renamer) Read(p []byte) (int, error) {
	if len(r.out) == 0 && r.left == 0 {
		if err := r.next(); err != nil {
			return 0, err
		}
	}
	if len(r.out) > 0 {
		n := copy(p, r.out)
		r.out = r.out[n:]
		return n, nil
	}
	n, err := r.in.Read(p[:min(int64(len(p)), r.left)])
	r.left -= int64(n)
	if err == io.EOF && r.left > 0 {
		err = io.ErrUnexpectedEOF
	}
	return n, err
}

// next begins a message.
func (r *renamer) next() error {
	b, err := readFrame(r.in, r.within)
	if errors.Is(err, errNoMessage) {
		return io.EOF
	}
	if err != nil {
		return err
	}
	size := int64(binary.BigEndian.Uint32(b[1:]))
	r.out, r.left = b, size-int64(len(b)-frameHead)
	message := b[frameHead:]
	at, ok := findModel(message)
	if b[0] != 0 || !ok || string(at.name.of(message)) != r.from {
		return nil
	}
	renamed := append([]byte{b[0], 0, 0, 0, 0}, message[:at.field.from]...)
	renamed = append(appendString(renamed, 1, r.to), message[at.field.to:]...)
	binary.BigEndian.PutUint32(renamed[1:], uint32(size+int64(len(renamed)-len(b))))
	r.out = renamed
	return nil
}
