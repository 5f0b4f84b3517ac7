// Package grpcsim is a client and a model server that speak KServe's second protocol over gRPC, by grpc-go and the protocol's
// own definition. They know nothing of pilotlight.
package grpcsim

import (
	"context"
	_ "embed"
	"errors"
	"fmt"
	"io"
	"strings"

	"github.com/bufbuild/protocompile"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/reflect/protoreflect"
	"google.golang.org/protobuf/types/dynamicpb"
)

//go:embed inference.proto
var definition string

// Protocol is the protocol's definition.
type Protocol struct {
	messages protoreflect.MessageDescriptors
}

// Load reads the definition.
func Load(ctx context.Context) (Protocol, error) {
	compiler := protocompile.Compiler{Resolver: &protocompile.SourceResolver{
		Accessor: protocompile.SourceAccessorFromMap(map[string]string{"inference.proto": definition}),
	}}
	files, err := compiler.Compile(ctx, "inference.proto")
	if err != nil {
		return Protocol{}, fmt.Errorf("compile inference.proto: %w", err)
	}
	return Protocol{files[0].Messages()}, nil
}

const service = "inference.GRPCInferenceService"

// Message is an empty message of the protocol.
func (p Protocol) Message(name string) *dynamicpb.Message {
	return dynamicpb.NewMessage(p.messages.ByName(protoreflect.Name(name)))
}

// field finds a field by its name.
func field(m *dynamicpb.Message, name string) protoreflect.FieldDescriptor {
	return m.Descriptor().Fields().ByName(protoreflect.Name(name))
}

// Text is a field that is a text.
func Text(m *dynamicpb.Message, name string) string { return m.Get(field(m, name)).String() }

// True is a field that is a truth value.
func True(m *dynamicpb.Message, name string) bool { return m.Get(field(m, name)).Bool() }

// set stores a text.
func set(m *dynamicpb.Message, name, text string) {
	m.Set(field(m, name), protoreflect.ValueOfString(text))
}

// Tensor is the first of a message's raw tensors.
func Tensor(m *dynamicpb.Message, name string) []byte {
	if all := m.Get(field(m, name)).List(); all.Len() > 0 {
		return all.Get(0).Bytes()
	}
	return nil
}

func setTensor(m *dynamicpb.Message, name string, raw []byte) {
	m.Mutable(field(m, name)).List().Append(protoreflect.ValueOfBytes(raw))
}

// Request asks a model for something, with a tensor of bytes.
func (p Protocol) Request(model, id string, tensor []byte) *dynamicpb.Message {
	m := p.Message("ModelInferRequest")
	set(m, "model_name", model)
	set(m, "id", id)
	setTensor(m, "raw_input_contents", tensor)
	return m
}

// Call is a call with one message each way.
func (p Protocol) Call(ctx context.Context, c grpc.ClientConnInterface, method string, request *dynamicpb.Message, options ...grpc.CallOption) (*dynamicpb.Message, error) {
	response := p.Message(method + "Response")
	return response, c.Invoke(ctx, "/"+service+"/"+method, request, response, append(options, grpc.ForceCodec(codec{}))...)
}

// codec writes fields in the order of their numbers, as generated code does. Dynamic messages have none of their own.
type codec struct{}

func (codec) Name() string { return "proto" }

func (codec) Marshal(v any) ([]byte, error) {
	return proto.MarshalOptions{Deterministic: true}.Marshal(v.(proto.Message))
}

func (codec) Unmarshal(b []byte, v any) error { return proto.Unmarshal(b, v.(proto.Message)) }

// Stream is a ModelStreamInfer.
type Stream struct {
	grpc.ClientStream
	protocol Protocol
}

// Stream begins a ModelStreamInfer.
func (p Protocol) Stream(ctx context.Context, c grpc.ClientConnInterface) (Stream, error) {
	s, err := c.NewStream(ctx, &grpc.StreamDesc{ClientStreams: true, ServerStreams: true}, "/"+service+"/ModelStreamInfer", grpc.ForceCodec(codec{}))
	return Stream{s, p}, err
}

// Receive waits for the next response, a ModelInferResponse. The end is io.EOF.
func (s Stream) Receive() (*dynamicpb.Message, error) {
	m := s.protocol.Message("ModelStreamInferResponse")
	if err := s.RecvMsg(m); err != nil {
		return nil, err
	}
	return m.Get(field(m, "infer_response")).Message().Interface().(*dynamicpb.Message), nil
}

// NewServer is a model server that serves one model: it sends every tensor back in capitals. A tensor that says "fail" fails;
// one that says "die" is for die to see to, if there is one.
func (p Protocol) NewServer(model string, die func(), options ...grpc.ServerOption) *grpc.Server {
	answer := func(request *dynamicpb.Message) (*dynamicpb.Message, error) {
		tensor := string(Tensor(request, "raw_input_contents"))
		switch name := Text(request, "model_name"); {
		case name != model:
			return nil, status.Errorf(codes.NotFound, "unknown model: %s", name)
		case tensor == "fail":
			return nil, status.Error(codes.Internal, "100% out of memory\n")
		case tensor == "die" && die != nil:
			die()
		}
		response := p.Message("ModelInferResponse")
		set(response, "model_name", model)
		set(response, "id", Text(request, "id"))
		setTensor(response, "raw_output_contents", []byte(strings.ToUpper(tensor)))
		return response, nil
	}
	infer := func(_ any, _ context.Context, decode func(any) error, _ grpc.UnaryServerInterceptor) (any, error) {
		request := p.Message("ModelInferRequest")
		if err := decode(request); err != nil {
			return nil, err
		}
		return answer(request)
	}
	s := grpc.NewServer(append(options, grpc.MaxRecvMsgSize(64<<20))...)
	s.RegisterService(&grpc.ServiceDesc{
		ServiceName: service, HandlerType: (*any)(nil),
		Methods: []grpc.MethodDesc{{MethodName: "ModelInfer", Handler: infer}},
		Streams: []grpc.StreamDesc{{
			StreamName: "ModelStreamInfer", ServerStreams: true, ClientStreams: true,
			Handler: func(_ any, s grpc.ServerStream) error { return p.serveStream(s, answer) },
		}},
	}, nil)
	return s
}

// serveStream answers each message of a stream.
func (p Protocol) serveStream(s grpc.ServerStream, answer func(*dynamicpb.Message) (*dynamicpb.Message, error)) error {
	for {
		request := p.Message("ModelInferRequest")
		if err := s.RecvMsg(request); errors.Is(err, io.EOF) {
			return nil
		} else if err != nil {
			return err
		}
		response, err := answer(request)
		if err != nil {
			return err
		}
		m := p.Message("ModelStreamInferResponse")
		m.Set(field(m, "infer_response"), protoreflect.ValueOfMessage(response))
		if err := s.SendMsg(m); err != nil {
			return err
		}
	}
}
