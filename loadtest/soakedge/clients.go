package main

import (
	"bufio"
	"bytes"
	"cmp"
	"context"
	"encoding/binary"
	"encoding/json"
	"errors"
	"fmt"
	"hash/crc32"
	"io"
	"math/rand/v2"
	"net"
	"net/http"
	"strings"
	"time"
)

// Ends of a request. What the edge refuses and what breaks while model servers are killed is no fault; an answer that is
// another request's is.
var (
	errRefused = errors.New("refused")
	errBroken  = errors.New("broken")
	errLeft    = errors.New("left")
	errWrong   = errors.New("WRONG")
)

// client asks for one thing at a time.
type client struct {
	addr  string
	id    int
	asked int
	http1 *http.Client
	http2 *http.Client
}

func newClient(addr string, id int) *client {
	var protocols http.Protocols
	protocols.SetUnencryptedHTTP2(true)
	return &client{
		addr: addr, id: id,
		http1: &http.Client{Transport: &http.Transport{}},
		http2: &http.Client{Transport: &http.Transport{Protocols: &protocols}},
	}
}

func (c *client) close() {
	c.http1.CloseIdleConnections()
	c.http2.CloseIdleConnections()
}

// ask is one request of any kind. What it returns wraps one of the ends above, if it was not answered.
func (c *client) ask(ctx context.Context) error {
	c.asked++
	nonce := fmt.Sprintf("%d-%d-%x", c.id, c.asked, rand.Uint64())
	leaves := rand.IntN(5) == 0
	if leaves {
		var cancel context.CancelFunc
		ctx, cancel = context.WithTimeout(ctx, time.Duration(rand.IntN(60))*time.Millisecond)
		defer cancel()
	}
	err := c.askFor(ctx, nonce)
	if err != nil && leaves && ctx.Err() != nil && !errors.Is(err, errWrong) {
		return errLeft
	}
	return err
}

func (c *client) askFor(ctx context.Context, nonce string) error {
	over := c.http1
	if rand.IntN(3) == 0 {
		over = c.http2
	}
	model := "steady"
	if rand.IntN(60) == 0 {
		model = "sleepy"
	}
	switch rand.IntN(12) {
	case 0, 1:
		return c.upload(ctx, over, model, nonce)
	case 2:
		return c.upgrade(ctx, model, nonce)
	case 3:
		return c.call(ctx, model, nonce)
	case 4, 5, 6:
		return c.question(ctx, over, question{Model: model, Nonce: nonce, Stream: true})
	}
	return c.question(ctx, over, question{Model: model, Nonce: nonce, Filler: strings.Repeat("x", rand.IntN(30_000))})
}

// do sends a request and wants an answer to it.
func (c *client) do(over *http.Client, r *http.Request, nonce string) (*http.Response, error) {
	r.Header.Set("X-Nonce", nonce)
	resp, err := over.Do(r)
	if err != nil {
		return nil, fmt.Errorf("%w: %w", errBroken, err)
	}
	if resp.StatusCode == http.StatusOK {
		return resp, nil
	}
	defer resp.Body.Close()
	text, _ := io.ReadAll(resp.Body)
	if resp.StatusCode == http.StatusConflict || resp.StatusCode == http.StatusBadRequest {
		return nil, fmt.Errorf("%w: %s: %s", errWrong, resp.Status, text)
	}
	return nil, fmt.Errorf("%w: %s: %s", errRefused, resp.Status, text)
}

func (c *client) question(ctx context.Context, over *http.Client, q question) error {
	text, err := json.Marshal(q)
	if err != nil {
		return err
	}
	r, err := http.NewRequestWithContext(ctx, http.MethodPost, "http://"+c.addr+"/v1/chat/completions", bytes.NewReader(text))
	if err != nil {
		return err
	}
	r.Header.Set("Content-Type", "application/json")
	resp, err := c.do(over, r, q.Nonce)
	if err != nil {
		return err
	}
	defer resp.Body.Close()
	if q.Stream {
		return hearStream(resp.Body, q.Nonce)
	}
	_, err = hear(resp.Body, q.Nonce)
	return err
}

// hear reads an answer of one piece.
func hear(body io.Reader, nonce string) (got reply, _ error) {
	text, err := io.ReadAll(body)
	if err != nil {
		return got, fmt.Errorf("%w: %w", errBroken, err)
	}
	if err := json.Unmarshal(text, &got); err != nil || got.Nonce != nonce {
		return got, fmt.Errorf("%w: asked as %s, heard %q", errWrong, nonce, text)
	}
	return got, nil
}

// hearStream reads events, which must be all there and in order if the stream looks whole.
func hearStream(body io.Reader, nonce string) error {
	var last reply
	lines := bufio.NewScanner(body)
	for lines.Scan() {
		text, ok := strings.CutPrefix(lines.Text(), "data: ")
		if !ok {
			continue
		}
		var got reply
		if strings.HasPrefix(text, `{"error"`) {
			return fmt.Errorf("%w: %s", errRefused, text)
		}
		if err := json.Unmarshal([]byte(text), &got); err != nil || got.Nonce != nonce || got.Piece != last.Piece+1 || last.Last {
			return fmt.Errorf("%w: asked as %s, heard %q behind piece %d", errWrong, nonce, text, last.Piece)
		}
		last = got
	}
	switch err := lines.Err(); {
	case err != nil:
		return fmt.Errorf("%w: %w", errBroken, err)
	case !last.Last:
		return fmt.Errorf("%w: the stream of %s looks whole, but ended behind piece %d", errWrong, nonce, last.Piece)
	}
	return nil
}

// upload sends more than the edge holds, or less, and says beforehand how much or not.
func (c *client) upload(ctx context.Context, over *http.Client, model, nonce string) error {
	body := bytes.Repeat([]byte(nonce), 1+rand.IntN(50_000))
	r, err := http.NewRequestWithContext(ctx, http.MethodPost, "http://"+c.addr+"/upstream/"+model+"/images", bytes.NewReader(body))
	if err != nil {
		return err
	}
	if rand.IntN(2) == 0 {
		r.ContentLength, r.GetBody = -1, nil
	}
	r.Header.Set("Content-Type", "application/octet-stream")
	resp, err := c.do(over, r, nonce)
	if err != nil {
		return err
	}
	defer resp.Body.Close()
	got, err := hear(resp.Body, nonce)
	if err == nil && (got.Sum != crc32.ChecksumIEEE(body) || got.Size != int64(len(body))) {
		return fmt.Errorf("%w: the upload of %s came as %d bytes, of %d", errWrong, nonce, got.Size, len(body))
	}
	return err
}

// call is one of KServe's, whose message begins with the model's name and goes on with the nonce for its id.
func (c *client) call(ctx context.Context, model, nonce string) error {
	message := append([]byte{1<<3 | 2, byte(len(model))}, model...)
	message = append(append(message, 3<<3|2, byte(len(nonce))), nonce...)
	frame := append(binary.BigEndian.AppendUint32([]byte{0}, uint32(len(message))), message...)
	r, err := http.NewRequestWithContext(ctx, http.MethodPost, "http://"+c.addr+"/inference.GRPCInferenceService/ModelInfer", bytes.NewReader(frame))
	if err != nil {
		return err
	}
	r.Header.Set("Content-Type", "application/grpc")
	r.Header.Set("Te", "trailers")
	resp, err := c.do(c.http2, r, nonce)
	if err != nil {
		return err
	}
	defer resp.Body.Close()
	got, err := io.ReadAll(resp.Body)
	if err != nil {
		return fmt.Errorf("%w: %w", errBroken, err)
	}
	switch status := cmp.Or(resp.Trailer.Get("Grpc-Status"), resp.Header.Get("Grpc-Status")); {
	case status == "14" || status == "8": // unavailable, or too much
		return fmt.Errorf("%w: %s", errRefused, cmp.Or(resp.Trailer.Get("Grpc-Message"), resp.Header.Get("Grpc-Message")))
	case status != "0" || !bytes.Equal(got, frame) || resp.Trailer.Get("X-Nonce") != nonce:
		return fmt.Errorf("%w: the call of %s got %q with status %q, trailer %v", errWrong, nonce, got, status, resp.Trailer)
	}
	return nil
}

// upgrade talks over an upgraded connection.
func (c *client) upgrade(ctx context.Context, model, nonce string) error {
	var d net.Dialer
	conn, err := d.DialContext(ctx, "tcp", c.addr)
	if err != nil {
		return fmt.Errorf("%w: %w", errBroken, err)
	}
	defer conn.Close()
	defer context.AfterFunc(ctx, func() { conn.Close() })()
	fmt.Fprintf(conn, "GET /upstream/%s/ws HTTP/1.1\r\nHost: e\r\nConnection: Upgrade\r\nUpgrade: echo\r\nX-Nonce: %s\r\n\r\n", model, nonce)
	in := bufio.NewReader(conn)
	resp, err := http.ReadResponse(in, nil)
	if err != nil {
		return fmt.Errorf("%w: %w", errBroken, err)
	}
	if resp.StatusCode != http.StatusSwitchingProtocols {
		resp.Body.Close()
		return fmt.Errorf("%w: %s", errRefused, resp.Status)
	}
	for i := range 1 + rand.IntN(10) {
		want := fmt.Sprintf("%s line %d\n", nonce, i)
		fmt.Fprintf(conn, "line %d\n", i)
		got, err := in.ReadString('\n')
		if err != nil {
			return fmt.Errorf("%w: %w", errBroken, err)
		}
		if got != want {
			return fmt.Errorf("%w: heard %q, want %q", errWrong, got, want)
		}
	}
	return nil
}
