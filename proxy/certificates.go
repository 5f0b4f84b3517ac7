package proxy

import (
	"context"
	"crypto/tls"
	"fmt"
	"log/slog"
	"net"
	"os"
	"sync/atomic"
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"pilotlight/config"
)

// Certificates are what the data port needs to speak TLS. Their files are looked at again and again; what they hold anew
// counts from the next connection on, unless it is no good: then the old certificate stays in use.
type Certificates struct {
	from   config.TLS
	log    *slog.Logger
	inUse  atomic.Pointer[tls.Config]
	fresh  prometheus.Gauge
	expiry prometheus.Gauge
}

// certificateTime is how often the files are looked at. A change counts once two looks in a row have seen the same:
// certificate and key are two files.
const certificateTime = 5 * time.Second

// LoadCertificates reads the files, which must be good, and registers metrics about them.
func LoadCertificates(from config.TLS, log *slog.Logger, registry prometheus.Registerer) (*Certificates, error) {
	c := &Certificates{
		from: from, log: log,
		fresh:  prometheus.NewGauge(prometheus.GaugeOpts{Name: "pilotlight_tls_last_reload_successful", Help: "1 if what the certificate files hold is in use, else 0."}),
		expiry: prometheus.NewGauge(prometheus.GaugeOpts{Name: "pilotlight_tls_certificate_expiry_timestamp_seconds", Help: "When the certificate in use expires, in Unix time."}),
	}
	if err := c.load(); err != nil {
		return nil, err
	}
	registry.MustRegister(c.fresh, c.expiry)
	return c, nil
}

// server speaks TLS on a client's connection.
func (c *Certificates) server(socket net.Conn) *tls.Conn { return tls.Server(socket, c.inUse.Load()) }

// load puts what the files hold in use.
func (c *Certificates) load() error {
	pair, err := tls.LoadX509KeyPair(c.from.Cert, c.from.Key)
	if err != nil {
		return fmt.Errorf("load the certificate %s with the key %s: %w", c.from.Cert, c.from.Key, err)
	}
	next := &tls.Config{Certificates: []tls.Certificate{pair}, MinVersion: tls.VersionTLS12, NextProtos: []string{"h2", "http/1.1"}}
	if c.from.Min == config.TLS13 {
		next.MinVersion = tls.VersionTLS13
	}
	if c.from.ClientCA != "" {
		if next.ClientCAs, err = config.LoadAuthorities(c.from.ClientCA); err != nil {
			return err
		}
		next.ClientAuth = tls.RequireAndVerifyClientCert
		if c.from.ClientCert == config.ClientCertOptional {
			next.ClientAuth = tls.VerifyClientCertIfGiven
		}
	}
	c.inUse.Store(next)
	c.fresh.Set(1)
	c.expiry.Set(float64(pair.Leaf.NotAfter.Unix()))
	return nil
}

// follow looks at the files until ctx ends.
func (c *Certificates) follow(ctx context.Context) {
	tick := time.NewTicker(certificateTime)
	defer tick.Stop()
	loaded := c.look()
	for seen := loaded; ; {
		select {
		case <-ctx.Done():
			return
		case <-tick.C:
		}
		now := c.look()
		if now == seen && now != loaded {
			loaded = now
			c.reload()
		}
		seen = now
	}
}

func (c *Certificates) reload() {
	if err := c.load(); err != nil {
		c.fresh.Set(0)
		c.log.Error("the certificate stays as it was", "error", err)
		return
	}
	c.log.Info("the certificate has changed", "file", c.from.Cert, "expires", c.inUse.Load().Certificates[0].Leaf.NotAfter)
}

// seenFiles is how the files were when they were looked at; one that cannot be seen is zero.
type seenFiles [3]struct {
	size  int64
	since int64 // Unix time of its last change, in nanoseconds
}

func (c *Certificates) look() (seen seenFiles) {
	for i, name := range []string{c.from.Cert, c.from.Key, c.from.ClientCA} {
		if info, err := os.Stat(name); err == nil {
			seen[i].size, seen[i].since = info.Size(), info.ModTime().UnixNano()
		}
	}
	return seen
}
