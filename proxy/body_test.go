package proxy

import (
	"bufio"
	"bytes"
	"fmt"
	"io"
	"math/rand/v2"
	"net"
	"net/http"
	"net/http/httputil"
	"strings"
	"testing"
)

// decode takes a chunked body apart that comes in pieces of these sizes.
func decode(b []byte, sizes func() int) (data []byte, rest int, done bool, err error) {
	d := body{kind: byChunks}
	for len(b) > 0 && !d.done {
		piece := bytes.Clone(b[:min(len(b), sizes())])
		got, used, err := d.take(piece)
		if err != nil {
			return data, len(b), false, err
		}
		data = append(data, got...)
		b = b[used:]
		if used < len(piece) && !d.done {
			panic("not everything was taken")
		}
	}
	return data, len(b), d.done, nil
}

func TestChunksMayComeInAnyPieces(t *testing.T) {
	text := "3\r\nabc\r\nA;x=y\r\n0123456789\r\n01 \r\nz\r\n0\r\nT: 1\r\nConnection: x\r\n\r\nrest"
	for size := 1; size <= len(text); size++ {
		data, rest, done, err := decode([]byte(text), func() int { return size })
		if string(data) != "abc0123456789z" || rest != 4 || !done || err != nil {
			t.Errorf("in pieces of %d: %q, %d left, done %v, %v", size, data, rest, done, err)
		}
	}
}

func FuzzChunks(f *testing.F) {
	for _, s := range []string{"0\r\n\r\n", "3\r\nabc\r\n0\r\n\r\n", "3\nabc\n0\n\n", "1;\r\na\r\n0\r\nX: y\r\n\r\n", "ffffffffffffffffff\r\n", " 1\r\na\r\n0\r\n\r\n"} {
		f.Add([]byte(s), uint64(1))
	}
	f.Fuzz(func(t *testing.T, b []byte, seed uint64) {
		r := rand.New(rand.NewPCG(seed, 0))
		one, restOne, doneOne, errOne := decode(b, func() int { return len(b) })
		some, rest, done, err := decode(b, func() int { return 1 + r.IntN(5) })
		if done != doneOne || (err == nil) != (errOne == nil) || done && (rest != restOne || !bytes.Equal(one, some)) {
			t.Fatalf("whole: %q %d %v %v; in pieces: %q %d %v %v", one, restOne, doneOne, errOne, some, rest, done, err)
		}
		strict := body{kind: byChunks, asked: true}
		if _, used, err := strict.take(bytes.Clone(b)); strict.done && (err != nil || !done || len(b)-used != rest) {
			t.Fatalf("a request's body: %d left, %v; an answer's: %d left, %v", len(b)-used, err, rest, done)
		}
		if done { // what we take for an answer, net/http takes for the same one
			resp, err := http.ReadResponse(bufio.NewReader(io.MultiReader(strings.NewReader("HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n"), bytes.NewReader(b))), nil)
			if err != nil {
				t.Fatal(err)
			}
			if want, err := io.ReadAll(resp.Body); err == nil && !bytes.Equal(one, want) {
				t.Fatalf("got %q, net/http has %q", one, want)
			}
		}
	})
}

func FuzzHead(f *testing.F) {
	for _, s := range []string{"A: b\r\n\r\n", "\r\n", "Content-Length: 5\r\n\r\n", "Connection: a, b\r\nA: 1\r\n\r\n", "A:b\r\n c\r\n\r\n", "A: b\n\r\n"} {
		f.Add([]byte(s))
	}
	f.Fuzz(func(t *testing.T, b []byte) {
		var h head
		if h.scan(b) != nil {
			return
		}
		out := h.appendFields(nil, nothing)
		var again head
		if err := again.scan(out); err != nil || again.length != -1 || again.chunked || again.close {
			t.Fatalf("%q went on as %q: %v", b, out, err)
		}
		if bytes.Contains(bytes.ReplaceAll(out, []byte("\r\n"), nil), []byte("\n")) {
			t.Fatalf("%q went on with a bare line feed: %q", b, out)
		}
	})
}

func TestBodiesArriveByteForByte(t *testing.T) {
	r := rand.New(rand.NewPCG(1, 2))
	content := make([]byte, 3_000_000)
	for i := range content {
		content[i] = byte(r.Uint32())
	}
	for _, framing := range []string{"Content-Length: 3000000", "Transfer-Encoding: chunked", "Connection: close"} {
		for round := range 3 {
			pieces := rand.New(rand.NewPCG(uint64(round), 3))
			rig := real(t, backend(t, func(c net.Conn, in *bufio.Reader, _ int) {
				readRequest(in)
				fmt.Fprintf(c, "HTTP/1.1 200 OK\r\n%s\r\n\r\n", framing)
				var w io.Writer = c
				chunked := strings.HasSuffix(framing, "chunked")
				if chunked {
					w = httputil.NewChunkedWriter(c)
				}
				for rest := content; len(rest) > 0; {
					n := min(len(rest), 1+pieces.IntN(1<<pieces.IntN(20)))
					if _, err := w.Write(rest[:n]); err != nil {
						return
					}
					rest = rest[n:]
				}
				if chunked {
					io.WriteString(c, "0\r\nDigest: d\r\n\r\n")
				}
			}))
			resp, body := say(t, rig.dial(), post(""))
			if body != string(content) {
				t.Errorf("%s: %d bytes came, and not the same", framing, len(body))
			}
			if strings.HasSuffix(framing, "chunked") && resp.Trailer.Get("Digest") != "d" {
				t.Error("the trailer did not come")
			}
		}
	}
}

func TestRequestBodiesArriveByteForByte(t *testing.T) {
	content := `{"model":"m","x":"` + strings.Repeat("y", 900_000) + `"}`
	got := make(chan string, 1)
	r := real(t, backend(t, func(c net.Conn, in *bufio.Reader, _ int) {
		for {
			req := readRequest(in)
			if req == nil {
				return
			}
			b, _ := io.ReadAll(req.Body)
			got <- string(b)
			io.WriteString(c, ok)
		}
	}))
	c := r.dial()
	for _, text := range []string{
		fmt.Sprintf("Content-Length: %d\r\n\r\n%s", len(content), content),
		fmt.Sprintf("Transfer-Encoding: chunked\r\n\r\n5\r\n%s\r\n%x\r\n%s\r\n0\r\nX: y\r\n\r\n", content[:5], len(content)-5, content[5:]),
	} {
		say(t, c, "POST /v1/chat/completions HTTP/1.1\r\nHost: e\r\nContent-Type: application/json\r\n"+text)
		if got := within(t, got); got != content {
			t.Errorf("%d bytes came, and not the same", len(got))
		}
	}
}
