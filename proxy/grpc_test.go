package proxy

import (
	"bytes"
	"context"
	"encoding/binary"
	"errors"
	"io"
	"net"
	"strings"
	"testing"
	"testing/iotest"

	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/credentials"
	"google.golang.org/grpc/credentials/insecure"
	"google.golang.org/grpc/metadata"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/encoding/protowire"

	"pilotlight/config"
	"pilotlight/loadtest/grpcsim"
	"pilotlight/router"
)

// grpcRig is a whole edge in front of a model server that speaks gRPC and knows the model as served, and a client.
type grpcRig struct {
	*rig
	protocol grpcsim.Protocol
	client   *grpc.ClientConn
	server   *grpc.Server
}

func withGRPC(addr string) rigOption {
	return withModel(func(m *config.Model) {
		m.ServedAs = "served"
		m.Backends = []config.Backend{{Name: "m-0", GRPC: addr, ConnectTime: config.Duration(patience)}}
	})
}

func newGRPCRig(t *testing.T, options ...rigOption) *grpcRig {
	protocol, err := grpcsim.Load(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	g := &grpcRig{protocol: protocol}
	g.server = protocol.NewServer("served", func() { go g.server.Stop() })
	done := make(chan error, 1)
	go func() { done <- g.server.Serve(ln) }()
	t.Cleanup(func() { g.server.Stop(); within(t, done) })
	_, port, _ := net.SplitHostPort(ln.Addr().String())
	g.rig = real(t, "127.0.0.1:1", append([]rigOption{withGRPC(":" + port)}, options...)...)
	g.client = grpcClient(t, g.addr, insecure.NewCredentials())
	return g
}

func grpcClient(t *testing.T, addr string, how credentials.TransportCredentials) *grpc.ClientConn {
	c, err := grpc.NewClient("passthrough:///"+addr, grpc.WithTransportCredentials(how))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { c.Close() })
	return c
}

// infer sends a tensor and gets one back.
func (g *grpcRig) infer(ctx context.Context, model, tensor string, options ...grpc.CallOption) (string, error) {
	response, err := g.protocol.Call(ctx, g.client, "ModelInfer", g.protocol.Request(model, "7", []byte(tensor)), options...)
	if err == nil && grpcsim.Text(response, "id") != "7" {
		err = errors.New("another request's answer")
	}
	return string(grpcsim.Tensor(response, "raw_output_contents")), err
}

func TestACallToAModelThatIsAsleep(t *testing.T) {
	g := newGRPCRig(t)
	wake := func() {
		until(t, "a call waits", func() bool { return g.router.Use("m-0").Waiting == 1 })
		g.ready(1, "127.0.0.1:1")
	}
	for _, model := range []string{"m", "alias"} {
		g.asleep()
		go wake()
		if got, err := g.infer(t.Context(), model, "hello"); got != "HELLO" || err != nil {
			t.Errorf("%s: got %q, %v", model, got, err)
		}
	}
	v := g.last(2)
	if v.Outcome != router.OK || v.Model != "m" || v.Backend != "m-0" || v.Status != 200 || v.Waited == 0 || v.FirstByte == 0 ||
		v.Path != "/inference.GRPCInferenceService/ModelInfer" || v.Client != "127.0.0.1" || v.BytesIn == 0 || v.BytesOut == 0 {
		t.Errorf("recorded %+v", v)
	}
	g.idle()

	g.asleep()
	go wake()
	s, err := g.protocol.Stream(t.Context(), g.client)
	if err != nil {
		t.Fatal(err)
	}
	for _, tensor := range []string{"one", "two", strings.Repeat("three", 500000)} { // each only once the one before is answered
		if err := s.SendMsg(g.protocol.Request("m", "7", []byte(tensor))); err != nil {
			t.Fatal(err)
		}
		response, err := s.Receive()
		if err != nil {
			t.Fatal(err)
		}
		if got := string(grpcsim.Tensor(response, "raw_output_contents")); got != strings.ToUpper(tensor) {
			t.Errorf("got %d bytes, want %d", len(got), len(tensor))
		}
	}
	s.CloseSend()
	if _, err := s.Receive(); err != io.EOF {
		t.Errorf("the stream ended with %v", err)
	}
	if v := g.last(3); v.Outcome != router.OK || v.Waited == 0 {
		t.Errorf("recorded %+v", v)
	}
	g.idle()
}

func TestManyCallsAtOnce(t *testing.T) {
	g := newGRPCRig(t, withModel(func(m *config.Model) { m.Line.Bytes = config.GiB }))
	failed := make(chan error)
	for range 64 {
		go func() {
			got, err := g.infer(t.Context(), "m", strings.Repeat("large", 100000), grpc.MaxCallRecvMsgSize(64<<20))
			if err == nil && len(got) != 500000 {
				err = errors.New("part of an answer")
			}
			failed <- err
		}()
	}
	for range 64 {
		if err := within(t, failed); err != nil {
			t.Error(err)
		}
	}
	g.idle()
}

func TestCallsOverTLS(t *testing.T) {
	a := newAuthority(t)
	g := newGRPCRig(t, withTLS(t, a, nil))
	g.client = grpcClient(t, g.addr, credentials.NewTLS(a.trust()))
	if got, err := g.infer(t.Context(), "m", "hello"); got != "HELLO" || err != nil {
		t.Errorf("got %q, %v", got, err)
	}
}

func TestWhatTheEdgeAnswersOfItself(t *testing.T) {
	g := newGRPCRig(t)
	g.asleep()
	for method, name := range map[string]string{"ServerLive": "live", "ServerReady": "ready"} {
		m, err := g.protocol.Call(t.Context(), g.client, method, g.protocol.Message(method+"Request"))
		if err != nil || !grpcsim.True(m, name) {
			t.Errorf("%s: got %v, %v", method, m, err)
		}
	}
	m, err := g.protocol.Call(t.Context(), g.client, "ServerMetadata", g.protocol.Message("ServerMetadataRequest"))
	if err != nil || grpcsim.Text(m, "name") != "pilotlight" {
		t.Errorf("got %v, %v", m, err)
	}
	m, err = g.protocol.Call(t.Context(), g.client, "ModelReady", g.protocol.Request("m", "", nil)) // its first field is the name's
	if err != nil || !grpcsim.True(m, "ready") {
		t.Errorf("got %v, %v", m, err)
	}
	if v := g.last(4); v.Outcome != router.OK || g.router.Use("m-0").Waiting != 0 {
		t.Errorf("recorded %+v", v)
	}
}

func TestRefusedCalls(t *testing.T) {
	g := newGRPCRig(t, withModel(func(m *config.Model) { m.Line.Requests = 0 }))
	named := metadata.AppendToOutgoingContext(t.Context(), "x-pilotlight-model", "m")
	for name, test := range map[string]struct {
		ctx           context.Context
		model, tensor string
		want          codes.Code
		reason        string
		outcome       router.Outcome
	}{
		"an unknown model":         {t.Context(), "x", "", codes.NotFound, `no model is called "x"; GET /v1/models lists those there are`, router.Refused},
		"no model":                 {t.Context(), "", "", codes.InvalidArgument, "the call names no model; name one", router.Refused},
		"too large":                {t.Context(), "m", strings.Repeat("x", 2<<20), codes.ResourceExhausted, "the body is larger than the limit", router.Refused},
		"the model server's error": {t.Context(), "m", "fail", codes.Internal, "100% out of memory\n", router.Broken},
		"a model by metadata":      {named, "n", "", codes.NotFound, "unknown model: n", router.OK}, // the message is the server's business
	} {
		t.Run(name, func(t *testing.T) {
			before := len(g.edge.Visits())
			_, err := g.infer(test.ctx, test.model, test.tensor)
			if s := status.Convert(err); s.Code() != test.want || !strings.HasPrefix(s.Message(), test.reason) {
				t.Errorf("got %v", err)
			}
			if v := g.last(before + 1); v.Outcome != test.outcome {
				t.Errorf("recorded %+v", v)
			}
		})
	}
	g.asleep()
	if _, err := g.infer(t.Context(), "m", ""); status.Code(err) != codes.ResourceExhausted {
		t.Errorf("a full line: got %v", err)
	}
	g.idle()
}

func TestAModelWithoutGRPC(t *testing.T) {
	g := newGRPCRig(t, withGRPC(""))
	_, err := g.infer(t.Context(), "m", "")
	if s := status.Convert(err); s.Code() != codes.Unimplemented || !strings.Contains(s.Message(), "no backend of m speaks gRPC") {
		t.Errorf("got %v", err)
	}
}

func TestACallWhoseBackendIsAwayOrBreaks(t *testing.T) {
	g := newGRPCRig(t)
	s, err := g.protocol.Stream(t.Context(), g.client)
	if err != nil {
		t.Fatal(err)
	}
	s.SendMsg(g.protocol.Request("m", "", []byte("one")))
	if _, err := s.Receive(); err != nil {
		t.Fatal(err)
	}
	s.SendMsg(g.protocol.Request("m", "", []byte("die")))
	for err == nil {
		_, err = s.Receive()
	}
	if status.Code(err) != codes.Unavailable || !strings.Contains(err.Error(), "backend m-0 broke off its answer") {
		t.Errorf("got %v", err)
	}
	if v := g.last(1); v.Outcome != router.Broken || v.Code != router.BackendBroken {
		t.Errorf("recorded %+v", v)
	}
	_, err = g.infer(t.Context(), "m", "")
	if status.Code(err) != codes.Unavailable || !strings.Contains(err.Error(), "backend m-0 cannot be reached") {
		t.Errorf("got %v", err)
	}
	g.idle()
}

func TestADepartureFromACallIsNoticed(t *testing.T) {
	g := newGRPCRig(t)
	ctx, leave := context.WithCancel(t.Context())
	s, err := g.protocol.Stream(ctx, g.client)
	if err != nil {
		t.Fatal(err)
	}
	s.SendMsg(g.protocol.Request("m", "", []byte("one")))
	if _, err := s.Receive(); err != nil {
		t.Fatal(err)
	}
	leave()
	if v := g.last(1); v.Outcome != router.Left {
		t.Errorf("recorded %+v", v)
	}
	g.idle()

	g.asleep()
	ctx, leave = context.WithCancel(t.Context())
	go func() {
		until(t, "a call waits", func() bool { return g.router.Use("m-0").Waiting == 1 })
		leave()
	}()
	if _, err := g.infer(ctx, "m", ""); status.Code(err) != codes.Canceled {
		t.Errorf("got %v", err)
	}
	if v := g.last(2); v.Outcome != router.Left {
		t.Errorf("recorded %+v", v)
	}
}

func TestModelsInMessages(t *testing.T) {
	text := func(number protowire.Number, s string) []byte {
		return protowire.AppendString(protowire.AppendTag(nil, number, protowire.BytesType), s)
	}
	for name, test := range map[string]struct {
		message []byte
		want    string
	}{
		"first":          {append(text(1, "llama"), text(2, "1")...), "llama"},
		"behind others":  {append(append(text(3, "id"), 0x10, 0xff, 0x01, 0x25, 1, 2, 3, 4, 0x21, 1, 2, 3, 4, 5, 6, 7, 8), text(1, "llama")...), "llama"},
		"absent":         {text(2, "1"), ""},
		"empty":          {text(1, ""), ""},
		"cut off":        {text(1, "llama")[:4], ""},
		"of another use": {[]byte{0x08, 0x01}, ""},
		"a group":        {append([]byte{0x0b}, text(1, "llama")...), ""},
		"too long":       {[]byte{0x0a, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0x7f, 'x'}, ""},
	} {
		at, _ := findModel(test.message)
		if got := string(at.name.of(test.message)); got != test.want {
			t.Errorf("%s: got %q, want %q", name, got, test.want)
		}
	}
}

// framed1 is one message as gRPC sends it.
func framed1(message []byte) []byte {
	return append(binary.BigEndian.AppendUint32([]byte{0}, uint32(len(message))), message...)
}

func FuzzRenamer(f *testing.F) {
	const within = 16
	f.Add([]byte("\x0a\x01m\x12\x011"), []byte{}, "served")
	f.Add([]byte("\x12\x011\x0a\x01m"), []byte("longer than what is looked at"), "s")
	f.Fuzz(func(t *testing.T, first, second []byte, to string) {
		in := append(framed1(first), framed1(second)...)
		r := &renamer{in: iotest.OneByteReader(bytes.NewReader(in)), from: "m", to: to, within: within}
		got, err := io.ReadAll(iotest.OneByteReader(r))
		if err != nil {
			t.Fatal(err)
		}
		for _, message := range [][]byte{first, second} {
			size := binary.BigEndian.Uint32(got[1:frameHead])
			sent := got[frameHead : frameHead+size]
			got = got[frameHead+size:]
			seen := message[:min(len(message), within)]
			at, ok := findModel(seen)
			want := message
			if ok && string(at.name.of(seen)) == "m" {
				want = append(appendString(bytes.Clone(message[:at.field.from]), 1, to), message[at.field.to:]...)
			}
			if !bytes.Equal(sent, want) {
				t.Errorf("%q became %q, want %q", message, sent, want)
			}
		}
		if len(got) > 0 {
			t.Errorf("%q was left", got)
		}
		if _, err := io.ReadAll(&renamer{in: bytes.NewReader(in[:len(in)-1]), from: "m", to: to, within: within}); err == nil {
			t.Error("half a message passed for a whole one")
		}
	})
}
