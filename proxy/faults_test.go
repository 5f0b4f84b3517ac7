//go:build linux

package proxy

import (
	"bufio"
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"runtime"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/Shopify/toxiproxy/v2"
	pipe "github.com/Shopify/toxiproxy/v2/stream"
	"github.com/Shopify/toxiproxy/v2/toxics"
	"github.com/prometheus/client_golang/prometheus/testutil"
	"github.com/rs/zerolog"
	sys "golang.org/x/sys/unix"

	"pilotlight/config"
	"pilotlight/router"
)

// after is a toxic. It lets a connection's bytes pass up to some bytes behind a mark, and strikes then: Toxiproxy's own
// strike from the first byte on.
type after struct {
	Mark  string `json:"mark"`
	Bytes int    `json:"bytes"`
	Then  string `json:"then"` // close, silence, or silence and then close
}

// Pipe is what happens to one direction of one connection.
func (a *after) Pipe(stub *toxics.ToxicStub) {
	var seen []byte
	for c := range stub.Input {
		passed := len(seen)
		seen = append(seen, c.Data...)
		if i := bytes.Index(seen, []byte(a.Mark)); i >= 0 && len(seen) > i+len(a.Mark)+a.Bytes {
			c.Data = seen[min(passed, i+len(a.Mark)+a.Bytes) : i+len(a.Mark)+a.Bytes]
			pass(stub, c)
			a.strike(stub)
			return
		}
		pass(stub, c)
	}
	stub.Close()
}

func pass(stub *toxics.ToxicStub, c *pipe.StreamChunk) {
	if len(c.Data) > 0 {
		stub.Output <- c
	}
}

// strike swallows what else comes, or else Toxiproxy would leave goroutines behind.
func (a *after) strike(stub *toxics.ToxicStub) {
	var ends <-chan time.Time
	switch a.Then {
	case "close":
		stub.Close()
	case "timeout":
		ends = time.After(2 * time.Millisecond)
	}
	for {
		select {
		case <-ends:
			stub.Close()
		case c := <-stub.Input:
			if c == nil {
				stub.Close()
				return
			}
		}
	}
}

// stage is how far a request is when a fault strikes.
type stage struct {
	name   string
	stream string // the direction that is struck: upstream is towards the backend
	mark   string // the fault strikes so many bytes behind this
	bytes  int
	answer string // of the backend
	kept   bool   // the connection has served a request before
}

const (
	lengthAnswer  = "HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nContent-Length: 40\r\n\r\n0123456789012345678901234567890123456789"
	chunkedAnswer = "HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nTransfer-Encoding: chunked\r\n\r\n" +
		"14\r\n01234567890123456789\r\n14\r\n01234567890123456789\r\n0\r\n\r\n"
	sseAnswer = "HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\nTransfer-Encoding: chunked\r\n\r\n" +
		"b\r\ndata: one\n\n\r\nb\r\ndata: two\n\n\r\n0\r\n\r\n"
)

var stages = []stage{
	{name: "connecting"},
	{name: "behind the request's head", stream: "upstream", mark: "\r\n\r\n", answer: lengthAnswer},
	{name: "within the request's body", stream: "upstream", mark: "\r\n\r\n", bytes: 50_000, answer: lengthAnswer},
	{name: "before the answer's first byte", stream: "downstream", answer: lengthAnswer},
	{name: "likewise, on a kept connection", stream: "downstream", answer: lengthAnswer, kept: true},
	{name: "within the answer's head", stream: "downstream", bytes: 30, answer: lengthAnswer},
	{name: "within a body with a length", stream: "downstream", mark: "\r\n\r\n", bytes: 7, answer: lengthAnswer},
	{name: "within a chunk", stream: "downstream", mark: "\r\n\r\n", bytes: 7, answer: chunkedAnswer},
	{name: "between two events of a stream", stream: "downstream", mark: "one\n\n\r\n", answer: sseAnswer},
}

var faultNames = []string{"refuse", "reset", "close", "half-close", "black hole", "timeout", "slow"}

// faulty is an edge in front of a Toxiproxy in front of a backend.
type faulty struct {
	*rig
	toxic *toxiproxy.Proxy
	tries atomic.Int32
}

// toxiProxy is a Toxiproxy in front of a backend.
func toxiProxy(t *testing.T, backend string) *toxiproxy.Proxy {
	t.Helper()
	server := toxiproxy.NewServer(toxiproxy.NewMetricsContainer(nil), zerolog.Nop())
	p := toxiproxy.NewProxy(server, t.Name(), "127.0.0.1:0", backend)
	if err := p.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(p.Stop)
	return p
}

// poison adds a toxic.
func poison(t *testing.T, p *toxiproxy.Proxy, format string, args ...any) {
	t.Helper()
	_, err := p.Toxics.AddToxicJson(strings.NewReader(fmt.Sprintf(format, args...)))
	if err != nil {
		t.Fatal(err)
	}
}

// inject makes a fault strike the connections of p at a stage.
func inject(t *testing.T, p *toxiproxy.Proxy, fault string, at stage) {
	t.Helper()
	then := fault
	switch fault {
	case "slow":
		poison(t, p, `{"type":"slicer","stream":%q,"attributes":{"average_size":%d,"delay":500}}`, at.stream, max(5, at.bytes/10))
		return
	case "reset": // by its mere presence connections end with a reset
		then = "close"
		poison(t, p, `{"type":"reset_peer","stream":%q,"toxicity":0}`, at.stream)
	case "black hole":
		then = "silence"
	}
	poison(t, p, `{"type":"after","stream":%q,"attributes":{"mark":%q,"bytes":%d,"then":%q}}`, at.stream, at.mark, at.bytes, then)
}

// borne is how long a black hole is.
const borne = config.Duration(2 * time.Second)

// newFaulty makes one cell of the table.
func newFaulty(t *testing.T, at stage, fault string) *faulty {
	f := &faulty{}
	server := backend(t, func(c net.Conn, in *bufio.Reader, _ int) {
		if fault == "half-close" { // Toxiproxy closes both halves
			halfClose(c, in, at)
			return
		}
		for readRequest(in) != nil {
			io.WriteString(c, at.answer)
		}
	})
	addr := server
	if at.stream != "" && fault != "half-close" {
		f.toxic = toxiProxy(t, server)
		addr = f.toxic.Listen
	}
	f.rig = real(t, addr, withDial(func(ctx context.Context, addr string) (net.Conn, error) {
		f.tries.Add(1)
		ctx, cancel := context.WithTimeout(ctx, 100*time.Millisecond) // the black hole's, which is 5 s for the real one
		defer cancel()
		return new(net.Dialer).DialContext(ctx, "tcp", addr)
	}), withModel(func(m *config.Model) {
		if fault == "black hole" {
			m.Answer.FirstByte, m.Answer.BetweenBytes = borne, borne
		}
	}))
	switch {
	case at.stream == "" && fault == "refuse":
		p := toxiProxy(t, server)
		f.ready(8, p.Listen)
		p.Stop()
	case at.stream == "":
		f.ready(8, unconnectable(t))
	case f.toxic != nil && !at.kept:
		inject(t, f.toxic, fault, at)
	}
	return f
}

// halfClose is a backend that closes its sending half at a stage, and reads on.
func halfClose(c net.Conn, in *bufio.Reader, at stage) {
	if at.kept {
		readRequest(in)
		io.WriteString(c, at.answer)
	}
	switch at.stream {
	case "upstream":
		for line := "-"; strings.TrimSpace(line) != ""; {
			line, _ = in.ReadString('\n')
		}
		io.CopyN(io.Discard, in, int64(at.bytes))
	case "downstream":
		readRequest(in)
		io.WriteString(c, at.answer[:strings.Index(at.answer, at.mark)+len(at.mark)+at.bytes])
	}
	c.(*net.TCPConn).CloseWrite()
	io.Copy(io.Discard, in)
}

// unconnectable is the address of a listener whose queue is full: attempts to connect to it are not answered.
func unconnectable(t *testing.T) string {
	t.Helper()
	fd, err := sys.Socket(sys.AF_INET, sys.SOCK_STREAM|sys.SOCK_CLOEXEC, 0)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { sys.Close(fd) })
	err = errors.Join(sys.Bind(fd, &sys.SockaddrInet4{Addr: [4]byte{127, 0, 0, 1}}), sys.Listen(fd, 0))
	if err != nil {
		t.Fatal(err)
	}
	sa, err := sys.Getsockname(fd)
	if err != nil {
		t.Fatal(err)
	}
	addr := fmt.Sprintf("127.0.0.1:%d", sa.(*sys.SockaddrInet4).Port)
	for range 20 {
		c, err := net.DialTimeout("tcp", addr, 50*time.Millisecond)
		if err != nil {
			return addr
		}
		t.Cleanup(func() { c.Close() })
	}
	t.Fatal("the queue is never full")
	return ""
}

// cell is what comes of a fault at a stage, as the table says it.
func (f *faulty) cell(t *testing.T, at stage, fault string) string {
	c := f.dial()
	in := bufio.NewReader(c)
	visits := 1
	if at.kept {
		io.WriteString(c, post(""))
		hear(t, in)
		visits = 2
		if f.toxic != nil {
			inject(t, f.toxic, fault, at)
		}
	}
	more := ""
	if at.stream == "upstream" {
		more = `,"prompt":"` + strings.Repeat("x", 2*at.bytes) + `"`
	}
	io.WriteString(c, post(more))
	saw := f.hears(t, in, at)
	v := f.last(visits)
	f.idle()
	tries := ""
	if n := f.tries.Load(); n > 1 {
		tries = fmt.Sprintf(", %d connections", n)
	}
	if fault != "slow" && v.Outcome == router.OK {
		t.Errorf("the outcome is %s", v.Outcome)
	}
	return fmt.Sprintf("%s: `%s`%s", saw, v.Outcome, tries)
}

// hears is how the client sees the answer end.
func (f *faulty) hears(t *testing.T, in *bufio.Reader, at stage) string {
	resp, err := http.ReadResponse(in, nil)
	if err != nil {
		return "no answer"
	}
	body, err := io.ReadAll(resp.Body)
	whole, err2 := http.ReadResponse(bufio.NewReader(strings.NewReader(at.answer)), nil)
	switch {
	case err != nil:
		return fmt.Sprintf("%d, cut off", resp.StatusCode)
	case resp.StatusCode >= 400:
		return fmt.Sprint(resp.StatusCode)
	case err2 != nil:
		t.Fatal(err2)
	}
	if want, _ := io.ReadAll(whole.Body); !bytes.Equal(body, want) {
		t.Errorf("the client took %q for the whole answer %q", body, want)
	}
	return fmt.Sprintf("%d, whole", resp.StatusCode)
}

// can says whether a fault can strike at a stage.
func (at stage) can(fault string) bool {
	if at.stream == "" {
		return fault == "refuse" || fault == "black hole"
	}
	return fault != "refuse" && !(fault == "slow" && at.kept)
}

const faultsHead = `# Faults between edge and backends

What becomes of a request whose backend fails, by how it fails and how far the request is. A test writes this page from what
it sees, through [Toxiproxy](https://github.com/Shopify/toxiproxy): ` + "`go test ./proxy -run FaultInEveryStage -update`" + `.

Each cell is what the client gets, and the request's outcome. Where more than one connection was opened for it, it was tried
again: nothing of it had reached the backend. *Cut off* means that the
client can tell: the connection ends before the length or the last chunk. In a *black hole* bytes vanish and no connection ends:
what ends the request is the model's ` + "`answer.first_byte`" + `, or ` + "`answer.between_bytes`" + ` once its answer has begun, and for connecting the
backend's ` + "`connect_time`" + `.

`

func TestEveryFaultInEveryStage(t *testing.T) {
	toxics.Register("after", new(after))
	table := make([][]string, len(stages))
	t.Run("cells", func(t *testing.T) {
		for i, at := range stages {
			table[i] = make([]string, len(faultNames))
			for j, fault := range faultNames {
				if table[i][j] = "–"; at.can(fault) {
					t.Run(at.name+" "+fault, func(t *testing.T) {
						t.Parallel()
						table[i][j] = newFaulty(t, at, fault).cell(t, at, fault)
					})
				}
			}
		}
	})
	var b strings.Builder
	fmt.Fprintf(&b, "%s| The fault strikes | %s |\n%s\n", faultsHead, strings.Join(faultNames, " | "), strings.Repeat("|---", len(faultNames)+1)+"|")
	for i, at := range stages {
		fmt.Fprintf(&b, "| %s | %s |\n", at.name, strings.Join(table[i], " | "))
	}
	golden(t, "../docs/faults.md", b.String())
}

// golden compares a page with its file, or writes it.
func golden(t *testing.T, file, page string) {
	t.Helper()
	if *update {
		if err := os.WriteFile(file, []byte(page), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	got, err := os.ReadFile(file)
	if err != nil {
		t.Fatal(err)
	}
	if string(got) != page {
		t.Errorf("%s is stale; write it anew with -update. It would be:\n%s", file, page)
	}
}

// Whatever breaks, and however often, nothing of it is left.
func TestTenThousandFaultyRequestsLeaveNothing(t *testing.T) {
	toxics.Register("after", new(after))
	goroutines, files := runtime.NumGoroutine(), openFiles(t)
	t.Run("requests", func(t *testing.T) {
		faults := faultySites(t)
		var dialled atomic.Uint32
		r := real(t, "", withDial(func(ctx context.Context, _ string) (net.Conn, error) {
			return new(net.Dialer).DialContext(ctx, "tcp", faults[int(dialled.Add(1))%len(faults)])
		}), withModel(func(m *config.Model) {
			m.Line.Requests = 1000
			m.Answer.FirstByte = config.Duration(20 * time.Millisecond) // what ends a black hole
		}))
		r.ready(8, "in turn") // of the 16 clients half wait in line
		const clients, each = 16, 625
		first := r.edge.lastID.Load()
		var all sync.WaitGroup
		for range clients {
			all.Go(func() { hurry(t, r.addr, each) })
		}
		all.Wait()
		until(t, "all visits have ended", func() bool {
			return r.edge.lastID.Load() == first+clients*each && testutil.ToFloat64(r.edge.metrics.inFlight) == 0
		})
		r.idle()
	})
	until(t, "the goroutines are gone", func() bool { return runtime.NumGoroutine() <= goroutines+1 }) // fasthttp's cleaner sleeps on
	until(t, "the descriptors are closed", func() bool { return openFiles(t) <= files })
}

// faultySites are the addresses of a backend behind each fault.
func faultySites(t *testing.T) (addrs []string) {
	for _, at := range stages[1:] {
		server := backend(t, func(c net.Conn, in *bufio.Reader, _ int) {
			for readRequest(in) != nil {
				io.WriteString(c, at.answer)
			}
		})
		at.bytes = min(at.bytes, 30)
		for _, fault := range []string{"reset", "close", "timeout", "black hole"} {
			p := toxiProxy(t, server)
			inject(t, p, fault, at)
			addrs = append(addrs, p.Listen)
		}
	}
	refused := toxiProxy(t, "127.0.0.1:1")
	refused.Stop()
	return append(addrs, refused.Listen)
}

// hurry is a client that leaves as soon as it has seen an answer begin, unless that is a refusal, and comes back.
func hurry(t *testing.T, addr string, times int) {
	var c net.Conn
	for range times {
		if c == nil {
			var err error
			if c, err = net.Dial("tcp", addr); err != nil {
				t.Error(err)
				return
			}
		}
		c.SetDeadline(time.Now().Add(patience))
		io.WriteString(c, post(""))
		resp, err := http.ReadResponse(bufio.NewReader(c), nil)
		if err != nil {
			t.Error(err)
		} else if resp.StatusCode >= 400 {
			io.Copy(io.Discard, resp.Body)
			continue
		}
		c.Close()
		c = nil
	}
	if c != nil {
		c.Close()
	}
}

func openFiles(t *testing.T) int {
	all, err := os.ReadDir("/proc/self/fd")
	if err != nil {
		t.Fatal(err)
	}
	return len(all)
}
