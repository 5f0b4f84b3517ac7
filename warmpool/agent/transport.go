package agent

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"net"
	"sync"
	"syscall"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials"
	"google.golang.org/grpc/credentials/insecure"
	"google.golang.org/grpc/keepalive"

	"pilotlight/config"
)

const (
	service    = "pilotlight.Link"
	method     = "/" + service + "/Speak"
	maxMessage = 16 << 20
)

// NewServer makes the server of an agent's links. Without TLS it must listen on loopback only.
func NewServer(h *Hub, t *config.Link) (*grpc.Server, error) {
	options := []grpc.ServerOption{
		grpc.ForceServerCodec(codec{}), grpc.MaxRecvMsgSize(maxMessage), grpc.MaxSendMsgSize(maxMessage), grpc.MaxConcurrentStreams(4),
		grpc.KeepaliveParams(keepalive.ServerParameters{Time: silence / 2, Timeout: silence / 2}),
		grpc.ConnectionTimeout(silence),
	}
	if t != nil && t.Cert != "" {
		if _, err := serverTLS(t); err != nil {
			return nil, err
		}
		options = append(options, grpc.Creds(credentials.NewTLS(&tls.Config{
			MinVersion:         tls.VersionTLS13,
			GetConfigForClient: func(*tls.ClientHelloInfo) (*tls.Config, error) { return serverTLS(t) },
		})))
	}
	s := grpc.NewServer(options...)
	s.RegisterService(&grpc.ServiceDesc{
		ServiceName: service, HandlerType: (*any)(nil),
		Streams: []grpc.StreamDesc{{
			StreamName: "Speak", ServerStreams: true, ClientStreams: true,
			Handler: func(_ any, s grpc.ServerStream) error {
				return h.Serve(s.Context(), &grpc.GenericServerStream[Up, Down]{ServerStream: s})
			},
		}},
	}, nil)
	return s, nil
}

// serverTLS reads the files: what they hold anew counts from the next link on. An edge must show a certificate of the CA.
func serverTLS(t *config.Link) (*tls.Config, error) {
	c, err := commonTLS(t)
	if err != nil {
		return nil, err
	}
	c.ClientAuth, c.ClientCAs, c.RootCAs = tls.RequireAndVerifyClientCert, c.RootCAs, nil
	return c, nil
}

func commonTLS(t *config.Link) (*tls.Config, error) {
	pair, err := tls.LoadX509KeyPair(t.Cert, t.Key)
	if err != nil {
		return nil, fmt.Errorf("load the link's certificate %s with the key %s: %w", t.Cert, t.Key, err)
	}
	pool, err := config.LoadAuthorities(t.CA)
	if err != nil {
		return nil, fmt.Errorf("whom the link trusts: %w", err)
	}
	return &tls.Config{MinVersion: tls.VersionTLS13, Certificates: []tls.Certificate{pair}, RootCAs: pool, NextProtos: []string{"h2"}}, nil
}

// Dialer is how an edge opens streams to agents.
func Dialer(t *config.Link) Dial {
	return func(ctx context.Context, addr string) (EdgeStream, error) {
		creds := insecure.NewCredentials()
		if t != nil && t.Cert != "" {
			c, err := commonTLS(t)
			if err != nil {
				return nil, err
			}
			creds = credentials.NewTLS(c)
		}
		s := &edgeStream{}
		conn, err := grpc.NewClient("passthrough:///"+addr,
			grpc.WithTransportCredentials(creds), grpc.WithContextDialer(s.connect),
			grpc.WithDefaultCallOptions(grpc.ForceCodec(codec{}), grpc.MaxCallRecvMsgSize(maxMessage), grpc.MaxCallSendMsgSize(maxMessage)),
			grpc.WithConnectParams(grpc.ConnectParams{MinConnectTimeout: silence}), grpc.WithIdleTimeout(0),
		)
		if err != nil {
			return nil, fmt.Errorf("link to %s: %w", addr, err)
		}
		life, end := context.WithCancel(context.WithoutCancel(ctx))
		s.end = sync.OnceFunc(func() { end(); conn.Close() })
		stop := context.AfterFunc(ctx, s.end) // while it is being opened
		c, err := conn.NewStream(life, &grpc.StreamDesc{ClientStreams: true, ServerStreams: true}, method)
		if !stop() || err != nil {
			s.end()
			return nil, fmt.Errorf("link to %s: %w", addr, s.reason(err))
		}
		s.GenericClientStream.ClientStream = c
		return s, nil
	}
}

// edgeStream is a stream on a connection of its own: the edge, not gRPC, decides when to try again.
type edgeStream struct {
	grpc.GenericClientStream[Up, Down]
	end func()

	mu      sync.Mutex // guards refused
	refused error      // that nobody listens, if that is so
}

// Close ends the stream on both sides.
func (s *edgeStream) Close() { s.end() }

func (s *edgeStream) connect(ctx context.Context, addr string) (net.Conn, error) {
	c, err := (&net.Dialer{KeepAlive: 15 * time.Second}).DialContext(ctx, "tcp", addr)
	if errors.Is(err, syscall.ECONNREFUSED) {
		s.mu.Lock()
		defer s.mu.Unlock()
		s.refused = err
	}
	return c, err
}

// reason is why a stream could not be opened: gRPC's errors do not wrap.
func (s *edgeStream) reason(err error) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.refused != nil {
		return s.refused
	}
	return err
}
