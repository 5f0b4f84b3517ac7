package proxy

import (
	"bytes"
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"slices"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"github.com/valyala/fasthttp"

	"pilotlight/config"
	"pilotlight/router"
)

// gRPC needs HTTP/2 all the way, with messages that flow in both directions at once. So a call is read and forwarded here, by
// net/http's HTTP/2 on both sides; its visit, its place in line and its lease are those of every request.

// call is what a visit has more if it is a gRPC call.
type call struct {
	stream  *stream
	streams bool   // it may have many messages each way
	read    []byte // of the messages, while the model was looked for
	bytes   atomic.Int64
	heard   func() // to be called when the backend has said something
}

// kserveService is where the Open Inference Protocol, which is KServe's second, has its methods.
const kserveService = "/inference.GRPCInferenceService/"

// aboutModels are its methods whose messages begin with the name of a model.
var aboutModels = [...]string{"ModelInfer", "ModelStreamInfer", "ModelReady", "ModelMetadata", "ModelConfig", "ModelStatistics"}

func isGRPC(r *http.Request) bool {
	rest, ok := strings.CutPrefix(r.Header.Get("Content-Type"), "application/grpc")
	return ok && r.Method == http.MethodPost && (rest == "" || rest[0] == '+' || rest[0] == ';')
}

// handleCall is one call, from its head to its record.
func (e *Edge) handleCall(c *conn, s *stream) {
	defer c.Close()
	path := s.r.URL.EscapedPath()
	v := e.receive(c, e.takeIn(), []byte(s.r.Method), []byte(path), time.Now())
	defer v.close()
	v.http1, v.call = true, &call{stream: s, streams: path != kserveService+"ModelInfer"}
	v.ask.api = gRPC
	answer, err := v.readCall(path)
	v.Model = v.ask.model
	switch {
	case err != nil:
		v.fail(err)
	case answer != nil:
		v.answerCall(answer)
	default:
		v.serve()
	}
	v.BytesIn = v.call.bytes.Load()
}

// yes is a message whose first field is true: alive, ready, serving.
var yes = []byte{0x08, 0x01}

// readCall finds the model that a call is for. What is asked of the edge and not of a model has its answer; none of that
// wakes anything.
func (v *visit) readCall(path string) (answer []byte, _ error) {
	_, fields, _ := bytes.Cut(v.call.stream.in, crlf)
	if err := v.head.scan(fields); err != nil {
		return nil, badRequest(fasthttp.StatusBadRequest, "%v", err)
	}
	v.trace()
	if v.conn.trusted {
		v.Client = v.edge.trusted.client(&v.head, v.conn.client)
	}
	method, ok := strings.CutPrefix(path, kserveService)
	no := v.identify()
	switch {
	case path == "/grpc.health.v1.Health/Check", ok && (method == "ServerLive" || method == "ServerReady"):
		return yes, nil
	case no != nil:
		return nil, no
	case ok && method == "ServerMetadata":
		return appendString(appendString(nil, 1, "pilotlight"), 2, version()), nil
	}
	v.ask.model = v.call.stream.r.Header.Get(modelHeader)
	if v.ask.model == "" && ok && slices.Contains(aboutModels[:], method) {
		if err := v.modelOfCall(); err != nil {
			return nil, err
		}
	}
	model, known := v.edge.router.Model(v.ask.model)
	switch {
	case v.ask.model == "":
		return nil, &router.Refusal{
			Status: fasthttp.StatusBadRequest, Code: router.NoModel,
			Reason: "the call names no model; name one in its message, where that is one of the Open Inference Protocol, or in the metadata " + strings.ToLower(modelHeader),
		}
	case len(v.ask.model) > maxName:
		return nil, badRequest(fasthttp.StatusBadRequest, "the model's name is longer than %d bytes", maxName)
	case !known:
		return nil, unknownModel(v.ask.model)
	case method == "ModelReady": // see readyModel
		return yes, nil
	case !slices.ContainsFunc(model.Config.Backends, func(b config.Backend) bool { return b.GRPC != "" }):
		return nil, badRequest(fasthttp.StatusNotImplemented, "no backend of %s speaks gRPC; one that does says where, with the key grpc", model.Name)
	}
	return nil, nil
}

// beforeName is within how much of a message of a stream the model's name must be. Most encoders begin with it.
const beforeName = 4 << 10

// modelOfCall finds the model in the first message. A call of one message is read to its end, so that nothing of it is
// in the way of others on its connection while it waits in line.
func (v *visit) modelOfCall() error {
	c := v.call
	in := c.reader(v.edge.limits)
	within := beforeName
	if !c.streams {
		within = int(v.edge.limits.Body)
	}
	first, err := readFrame(in, within)
	if err == nil && !c.streams {
		var rest []byte
		rest, err = io.ReadAll(io.LimitReader(in, int64(v.edge.limits.Body)-int64(len(first))+1))
		first = append(first, rest...)
	}
	c.read = first
	v.BytesIn = int64(len(first))
	switch {
	case v.conn.Err() != nil:
		return v.conn.Err()
	case err != nil:
		return badRequest(fasthttp.StatusBadRequest, "the message cannot be read: %v", err)
	case !c.streams && len(first) > int(v.edge.limits.Body):
		return tooLarge(v.edge.limits)
	case first[0] != 0:
		return badRequest(fasthttp.StatusUnsupportedMediaType, "the message is compressed, so the model cannot be read from it; name it in the metadata %s", strings.ToLower(modelHeader))
	}
	at, ok := findModel(first[frameHead:])
	if !ok {
		return nil
	}
	v.ask.model = string(at.name.of(first[frameHead:]))
	return nil
}

// reader reads messages that nobody has read yet, for as long as a body may take.
func (c *call) reader(limits config.Limits) io.Reader {
	c.stream.SetReadDeadline(time.Now().Add(limits.BodyTime.Std()))
	return readerFunc(func(p []byte) (int, error) {
		n, err := c.stream.r.Body.Read(p)
		c.bytes.Add(int64(n))
		return n, err
	})
}

type readerFunc func([]byte) (int, error)

func (f readerFunc) Read(p []byte) (int, error) { return f(p) }

// forwardCall has the backend of the lease answer the call.
func (v *visit) forwardCall() error {
	v.phase = asking
	addr, ok := grpcAddr(&v.lease)
	if !ok {
		return v.broken("speaks no gRPC", errUntouched)
	}
	limits := v.to.answer
	ctx, cancel := context.WithTimeoutCause(context.WithValue(v.conn, backendKey{}, configured(&v.lease)), limits.Total.Std(), errSlow)
	defer cancel()
	ctx, late := context.WithCancelCause(ctx)
	alarm := time.AfterFunc(limits.FirstByte.Std(), func() { late(errSlow) })
	defer alarm.Stop()
	defer late(nil)
	req, err := http.NewRequestWithContext(ctx, http.MethodPost, "http://"+addr+v.call.stream.r.URL.RequestURI(), v.call.messages(v.conn, v.ask.model, v.to.model))
	if err != nil {
		return badRequest(fasthttp.StatusBadRequest, "the method cannot be understood: %v", err)
	}
	v.headCall(req)
	v.Last.Asked = time.Since(v.At)
	resp, err := v.edge.calls.transport.RoundTrip(req)
	switch {
	case v.conn.Err() != nil:
		return v.conn.Err()
	case errors.Is(err, errUntouched):
		return v.broken("cannot be reached", err)
	case err != nil:
		return v.broken("broke off before it answered", errors.Join(context.Cause(ctx), err))
	}
	defer resp.Body.Close()
	silence := limits.BetweenBytes
	if v.call.streams {
		silence = limits.Upgraded // it is as much the client's business to say something
	}
	v.call.heard = func() { alarm.Reset(silence.Std()) }
	v.FirstByte, v.phase, v.Status = time.Since(v.At), streaming, resp.StatusCode
	return v.relayCall(resp)
}

// messages are the body of a call as it is sent to a backend, the model in it named as that knows it. net/http reads it for as
// long as the client sends, and closes it when the backend wants no more, which must end a read that waits.
type messages struct {
	io.Reader
	client io.Closer // of what the client sends

	mu              sync.Mutex // guards what follows
	touched, closed bool
}

func (c *call) messages(client *conn, from, to string) *messages {
	c.stream.SetReadDeadline(time.Time{})
	m := &messages{client: c.stream.r.Body}
	m.Reader = io.MultiReader(bytes.NewReader(c.read), readerFunc(func(p []byte) (int, error) {
		n, err := c.stream.r.Body.Read(p)
		if c.bytes.Add(int64(n)); err != nil && err != io.EOF && !m.isClosed() {
			client.left()
		}
		return n, err
	}))
	if to != from {
		m.Reader = &renamer{in: m.Reader, from: from, to: to, within: max(beforeName, len(c.read))}
	}
	return m
}

func (m *messages) Read(p []byte) (int, error) {
	m.mu.Lock()
	closed := m.closed
	m.touched = true
	m.mu.Unlock()
	if closed {
		return 0, net.ErrClosed
	}
	return m.Reader.Read(p)
}

func (m *messages) isClosed() bool {
	m.mu.Lock()
	defer m.mu.Unlock()
	return m.closed
}

// Close ends reading. What nobody has touched may go to another backend, and stays open.
func (m *messages) Close() error {
	m.mu.Lock()
	first, touched := !m.closed, m.touched
	m.closed = true
	m.mu.Unlock()
	if first && touched {
		return m.client.Close()
	}
	return nil
}

// headCall says what a backend is told of the call.
func (v *visit) headCall(req *http.Request) {
	m := message{head: &v.head, client: v.conn.client, trusted: v.conn.trusted, keyed: v.keyed(), proto: v.conn.proto(), carried: v.carries()}
	var fields head
	if err := fields.scan(m.appendFields(nil)); err != nil {
		panic("BUG: a header that was checked is malformed: " + err.Error())
	}
	for name, value := range fields.each {
		req.Header.Add(string(name), string(value))
	}
	req.Header.Set("Te", "trailers")
	req.Host = v.call.stream.r.Host
}

// relayCall passes the answer on, every message as soon as it comes. Where it breaks off the client is told by a status of
// ours: gRPC takes no other end for an end.
func (v *visit) relayCall(resp *http.Response) error {
	s := v.call.stream
	header := s.w.Header()
	for name, values := range resp.Header {
		if !ofThisHop([]byte(name)) {
			header[name] = values
		}
	}
	s.w.WriteHeader(resp.StatusCode)
	status := resp.Header
	if status.Get("Grpc-Status") == "" { // else it is all there is, and must go out with the end of the stream
		if err := v.relayMessages(resp.Body); err != nil {
			return err
		}
		status = resp.Trailer
		for name, values := range resp.Trailer {
			header[http.TrailerPrefix+name] = values
		}
	}
	switch v.Outcome = router.OK; status.Get("Grpc-Status") {
	case "2", "13", "14", "15", "": // unknown, internal, unavailable, data loss, nothing at all
		v.Outcome = router.Broken
	}
	return nil
}

func (v *visit) relayMessages(body io.Reader) error {
	s := v.call.stream
	send := func(do func() error) error {
		s.writeBy = time.Now().Add(v.edge.limits.WriteTime.Std())
		return do()
	}
	if send(s.flush) != nil {
		v.conn.left()
		return v.conn.Err()
	}
	b := make([]byte, callBuffer)
	for {
		v.call.heard()
		n, err := body.Read(b)
		if n > 0 {
			v.came(b[:n])
			if send(func() error { return s.writeData(b[:n]) }) != nil || send(s.flush) != nil {
				v.conn.left()
				return v.conn.Err()
			}
			v.BytesOut += int64(n)
		}
		switch {
		case err == io.EOF:
			return nil
		case v.conn.Err() != nil:
			return v.conn.Err()
		case err != nil:
			reason := fmt.Errorf("backend %s broke off its answer: %w", v.to.id, err)
			s.w.Header().Set(http.TrailerPrefix+"Grpc-Status", unavailable)
			s.w.Header().Set(http.TrailerPrefix+"Grpc-Message", percent(reason.Error()))
			return reason
		}
	}
}

// callBuffer is how much of an answer is read at once.
const callBuffer = 8 << 10

// answerCall answers with a message of our own.
func (v *visit) answerCall(message []byte) {
	v.Outcome, v.Status = router.OK, fasthttp.StatusOK
	frame := append(binary.BigEndian.AppendUint32([]byte{0}, uint32(len(message))), message...)
	dst := append([]byte(nil), "HTTP/1.1 200 OK\r\nContent-Type: application/grpc\r\nTransfer-Encoding: chunked\r\n\r\n"...)
	if v.send(appendEnd(appendChunk(dst, frame), []byte("Grpc-Status: 0\r\n"))) != nil {
		v.Outcome = router.Left
	}
}

// appendRefusedCall appends a refusal as gRPC has it: a status in the header, and no body.
func (v *visit) appendRefusedCall(dst []byte, r *router.Refusal) []byte {
	dst = append(dst, "HTTP/1.1 200 OK\r\nContent-Type: application/grpc\r\nContent-Length: 0\r\n"...)
	dst = appendField(dst, "Grpc-Status", grpcStatus(r.Status))
	dst = appendField(dst, "Grpc-Message", percent(r.Reason))
	dst = appendField(dst, "X-Pilotlight-Request", v.name())
	if r.RetryAfter > 0 {
		dst = appendField(dst, "Grpc-Retry-Pushback-Ms", strconv.FormatInt(r.RetryAfter.Milliseconds(), 10))
	}
	return append(dst, "\r\n"...)
}

// unavailable is gRPC's status for what another try may cure.
const unavailable = "14"

// grpcStatus is gRPC's status for one of HTTP.
func grpcStatus(status int) string {
	switch status {
	case fasthttp.StatusBadRequest:
		return "3" // invalid argument
	case fasthttp.StatusUnauthorized:
		return "16" // unauthenticated
	case fasthttp.StatusForbidden:
		return "7" // permission denied
	case fasthttp.StatusNotFound:
		return "5" // not found
	case fasthttp.StatusRequestEntityTooLarge, fasthttp.StatusTooManyRequests:
		return "8" // resource exhausted
	case fasthttp.StatusUnsupportedMediaType, fasthttp.StatusNotImplemented:
		return "12" // unimplemented
	case fasthttp.StatusRequestTimeout, fasthttp.StatusGatewayTimeout:
		return "4" // deadline exceeded
	}
	return unavailable
}

// percent encodes a message for a field: gRPC's is printable ASCII without the percent sign, the rest written %XX.
func percent(s string) string {
	var b strings.Builder
	for _, c := range []byte(s) {
		if ' ' <= c && c <= '~' && c != '%' {
			b.WriteByte(c)
		} else {
			fmt.Fprintf(&b, "%%%02X", c)
		}
	}
	return b.String()
}

// grpcAddr is where the backend of a lease speaks gRPC.
func grpcAddr(l *router.Lease) (string, bool) {
	at := configured(l).GRPC
	host, _, err := net.SplitHostPort(l.Backend.Addr)
	if port, ok := strings.CutPrefix(at, ":"); ok && err == nil {
		return net.JoinHostPort(host, port), true
	}
	return at, at != ""
}

// backendKey is the key of the config.Backend in a call's context.
type backendKey struct{}

// calls are the connections to backends on which gRPC is spoken, each for many calls at once.
type calls struct{ transport *http.Transport }

func newCalls(p *upstreams) calls {
	var protocols http.Protocols
	protocols.SetUnencryptedHTTP2(true) // TLS is ours
	return calls{&http.Transport{
		Protocols: &protocols, DisableCompression: true, IdleConnTimeout: idleTime,
		HTTP2: &http.HTTP2Config{SendPingTimeout: pingTime, MaxReceiveBufferPerStream: streamWindow},
		DialContext: func(ctx context.Context, _, addr string) (net.Conn, error) {
			c, _, err := p.open(ctx, addr, ctx.Value(backendKey{}).(config.Backend), "h2")
			if err != nil {
				return nil, errors.Join(errUntouched, err)
			}
			return c, nil
		},
	}}
}

func (c calls) close() { c.transport.CloseIdleConnections() }
