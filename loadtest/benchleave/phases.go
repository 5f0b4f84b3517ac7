package main

import (
	"bufio"
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"net"
	"net/http"
	"strconv"
	"sync"
	"time"
)

// phase is how far a request is when its client leaves.
type phase struct {
	name    string
	model   string
	what    string // what the model server is to do with the request: see server.serve
	upload  bool   // the body is large, and is still being sent
	beats   bool   // the client knows where it is by a heartbeat
	waiting bool   // no model server is there to notice
	begins  bool   // the answer has begun
}

var phases = []phase{
	{name: "in line", model: "busy", what: "silence", beats: true, waiting: true},
	{name: "waking", model: "asleep", what: "silence", beats: true, waiting: true},
	{name: "before an answer", model: "ready", what: "silence"},
	{name: "mid-stream", model: "ready", what: "stream", begins: true},
	{name: "large upload", model: "ready", what: "upload", upload: true},
}

// client is a connection on which one request is made.
type client struct {
	net.Conn
	in *bufio.Reader
}

// ask sends a request, with as much of its body as there is in body.
func (b *bench) ask(ctx context.Context, p phase, id int) (*client, error) {
	var d net.Dialer
	conn, err := d.DialContext(ctx, "tcp", b.edge.Addr)
	if err != nil {
		return nil, err
	}
	c := &client{conn, bufio.NewReaderSize(conn, 512)}
	path, kind, body := "/v1/chat/completions", "application/json", []byte(`{"model":"`+p.model+`","stream":true}`)
	length := len(body)
	if p.upload {
		path, kind, body = "/upstream/"+p.model+"/images", "application/octet-stream", make([]byte, 1<<20)
		length = 32 << 20
	}
	head := fmt.Appendf(nil, "POST %s HTTP/1.1\r\nHost: e\r\nContent-Type: %s\r\nContent-Length: %d\r\nX-Try: %d\r\nX-What: %s\r\n\r\n", path, kind, length, id, p.what)
	if _, err := c.Write(append(head, body...)); err != nil {
		c.Close()
		return nil, err
	}
	return c, nil
}

// hear waits until a piece of the answer's body begins.
func (c *client) hear() error {
	c.SetReadDeadline(time.Now().Add(time.Minute))
	resp, err := http.ReadResponse(c.in, nil) //nolint:bodyclose // it is not read to its end
	if err != nil {
		return err
	}
	if resp.StatusCode != http.StatusOK {
		text, _ := io.ReadAll(io.LimitReader(resp.Body, 1<<10))
		return fmt.Errorf("got %s: %s", resp.Status, text)
	}
	_, err = resp.Body.Read(make([]byte, 1)) // the body is not read to its end, so that it is not closed
	return err
}

// openStreams opens the streams that stand by while others leave.
func (b *bench) openStreams(ctx context.Context) error {
	var all sync.WaitGroup
	const openers = 32
	problems := make(chan error, openers)
	for i := range openers {
		all.Go(func() {
			for n := i; n < b.options.streams; n += openers {
				c, err := b.ask(ctx, phase{model: "ready", what: "background"}, 0)
				if err == nil {
					err = c.hear()
				}
				if err != nil {
					problems <- fmt.Errorf("open stream %d: %w", n, err)
					return
				}
				c.SetReadDeadline(time.Time{})
				b.mu.Lock()
				b.streams = append(b.streams, c)
				b.mu.Unlock()
				go io.Copy(io.Discard, c) // until the connection is closed
			}
		})
	}
	all.Wait()
	close(problems)
	return <-problems // the first will do
}

func (b *bench) close() {
	for _, c := range b.streams {
		c.Close()
	}
}

// measure has clients leave in a phase, one after the other.
func (b *bench) measure(ctx context.Context, p phase) (took []time.Duration, err error) {
	if p.model == "busy" { // its slot is taken meanwhile
		holder, err := b.ask(ctx, phase{model: "busy", what: "stream"}, 0)
		if err == nil {
			err = holder.hear()
		}
		if err != nil {
			return nil, err
		}
		defer holder.Close()
	}
	for range b.options.tries {
		one, err := b.leave(ctx, p)
		if err != nil {
			return nil, err
		}
		took = append(took, one)
	}
	return took, ctx.Err()
}

// leave has one client leave in a phase, and says how long it took until that was noticed.
func (b *bench) leave(ctx context.Context, p phase) (time.Duration, error) {
	b.last++
	try := b.server.expect(b.last)
	defer b.server.forget(b.last)
	c, err := b.ask(ctx, p, b.last)
	if err != nil {
		return 0, err
	}
	defer c.Close()
	if !p.waiting {
		select {
		case <-try.came:
		case <-ctx.Done():
			return 0, context.Cause(ctx)
		}
	}
	if p.beats || p.begins {
		if err := c.hear(); err != nil {
			return 0, err
		}
	}
	left := time.Now()
	c.Close()
	if p.waiting {
		ended, err := b.recorded(ctx, p.model, left)
		return ended.Sub(left), err
	}
	select {
	case ended := <-try.ended:
		return ended.Sub(left), nil
	case <-ctx.Done():
		return 0, context.Cause(ctx)
	}
}

// recorded is when the edge's record of the last request for a model ended.
func (b *bench) recorded(ctx context.Context, model string, left time.Time) (time.Time, error) {
	for ctx.Err() == nil {
		visits, err := b.visits(ctx)
		if err != nil {
			return time.Time{}, err
		}
		for _, v := range visits {
			if ended := v.At.Add(v.Total); v.Model == model && ended.After(left.Round(0)) {
				if v.Outcome != "left" {
					return ended, fmt.Errorf("the edge has it that the request ended as %s", v.Outcome)
				}
				return ended, nil
			}
		}
		select {
		case <-time.After(2 * time.Millisecond):
		case <-ctx.Done():
		}
	}
	return time.Time{}, context.Cause(ctx)
}

// visit is what matters of an edge's record.
type visit struct {
	At      time.Time
	Model   string
	Outcome string
	Total   time.Duration `json:"total_ns"`
}

func (b *bench) visits(ctx context.Context) (all []visit, err error) {
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, "http://"+b.edge.Admin+"/debug/visits", http.NoBody)
	if err != nil {
		return nil, err
	}
	resp, err := http.DefaultClient.Do(req)
	if err != nil {
		return nil, err
	}
	defer resp.Body.Close()
	if err := json.NewDecoder(resp.Body).Decode(&all); err != nil {
		return nil, fmt.Errorf("read the edge's records: %w", err)
	}
	return all, nil
}

// number is the number that a header field holds, or 0.
func number(b []byte) int {
	n, _ := strconv.Atoi(string(bytes.TrimSpace(b)))
	return n
}
