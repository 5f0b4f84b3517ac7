package config

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"fmt"
	"net"
	"os"
)

// Over speaks TLS to the backend at addr (host:port) on a connection, which it closes where that fails. The files are read each time: what
// they hold anew counts from the next connection on.
func (t *BackendTLS) Over(ctx context.Context, socket net.Conn, addr, protocol string) (net.Conn, error) {
	c, err := t.Client(addr, protocol)
	if err != nil {
		socket.Close()
		return nil, err
	}
	conn := tls.Client(socket, c)
	if err := conn.HandshakeContext(ctx); err != nil {
		socket.Close()
		return nil, fmt.Errorf("speak TLS: %w", err)
	}
	return conn, nil
}

// Client is what TLS to the backend at addr (host:port) needs.
func (t *BackendTLS) Client(addr, protocol string) (*tls.Config, error) {
	c := &tls.Config{ServerName: t.ServerName, MinVersion: tls.VersionTLS12, NextProtos: []string{protocol}}
	if host, _, err := net.SplitHostPort(addr); err == nil && c.ServerName == "" {
		c.ServerName = host
	}
	if t.CA != "" {
		pool, err := LoadAuthorities(t.CA)
		if err != nil {
			return nil, err
		}
		c.RootCAs = pool
	}
	if t.Cert != "" {
		pair, err := tls.LoadX509KeyPair(t.Cert, t.Key)
		if err != nil {
			return nil, fmt.Errorf("load the certificate %s with the key %s: %w", t.Cert, t.Key, err)
		}
		c.Certificates = []tls.Certificate{pair}
	}
	return c, nil
}

// LoadAuthorities reads certificate authorities in PEM form, at least one.
func LoadAuthorities(file string) (*x509.CertPool, error) {
	text, err := os.ReadFile(file)
	if err != nil {
		return nil, fmt.Errorf("load certificate authorities: %w", err)
	}
	pool := x509.NewCertPool()
	if !pool.AppendCertsFromPEM(text) {
		return nil, fmt.Errorf("load certificate authorities: %s holds none in PEM form", file)
	}
	return pool, nil
}
