//go:build linux

package main

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"log"
	"net"
	"net/http"
	"net/http/httputil"
	"net/url"
	"os"
	"os/exec"
	"os/user"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"time"

	"pilotlight/loadtest/edge"
)

// A proxy runs as a process of its own, or several.
type proxy struct {
	addr  string
	pids  func() ([]int, error)
	stop  func() error
	admin string // of the edge: its other port
}

// cpu is the processor time of all its processes.
func (p *proxy) cpu() (sum time.Duration, err error) {
	return sum, p.each(func(pid int) error {
		used, err := edge.CPU(pid)
		sum += used
		return err
	})
}

// memory is that of all its processes, in bytes; what they share counts once.
func (p *proxy) memory() (sum int64, err error) {
	return sum, p.each(func(pid int) error {
		text, err := os.ReadFile(fmt.Sprintf("/proc/%d/smaps_rollup", pid))
		if err != nil {
			return err
		}
		_, after, _ := bytes.Cut(text, []byte("\nPss:"))
		var n int64
		if _, err := fmt.Sscan(string(after), &n); err != nil {
			return fmt.Errorf("read the memory of process %d: %w", pid, err)
		}
		sum += n << 10
		return nil
	})
}

func (p *proxy) each(do func(pid int) error) error {
	pids, err := p.pids()
	if err != nil {
		return err
	}
	for _, pid := range pids {
		if err := do(pid); err != nil {
			return err
		}
	}
	return nil
}

// find is where a rival's program is. The edge and net/http's proxy are always there.
func find(name string) (string, error) {
	if name == "pilotlight" || name == "net/http" {
		return "", nil
	}
	name, _, _ = strings.Cut(name, "+")
	if path, err := exec.LookPath(name); err == nil {
		return path, nil
	}
	return exec.LookPath("/usr/sbin/" + name) // it is seldom in a user's PATH
}

// startPilotlight starts the edge as users do. Only its limits are those of the measurement.
func startPilotlight(ctx context.Context, b *bench) (*proxy, error) {
	const configuration = `
limits: {requests_per_connection: 1000000000}
models: {m: {never_sleep: true, backends: [{address: %q, gpus: 0, slots: 65536}]}}
`
	var p *edge.Edge
	err := b.onTheirs(func() (err error) {
		p, err = edge.Start(ctx, b.binary, b.dir, fmt.Sprintf(configuration, b.server.addr))
		return err
	})
	if err != nil {
		return nil, err
	}
	return &proxy{p.Addr, func() ([]int, error) { return []int{p.PID}, nil }, p.Stop, p.Admin}, nil
}

// nginxConf is nginx as one would run it in front of a model server, with one worker. %[1]s: a folder of its own, %[2]s: the
// address to listen on, %[3]s: the model server, %[4]s: the user it runs as.
const nginxConf = `
user %[4]s;
worker_processes 1;
daemon off;
pid %[1]s/nginx.pid;
error_log stderr emerg;
events { worker_connections 65536; }
http {
  log_format line escape=json '{"time":"$time_iso8601","level":"INFO","msg":"request","id":"$connection-$connection_requests","status":$status,'
    '"backend":"$upstream_addr","method":"$request_method","path":"$uri","first_byte":"$upstream_header_time","total":$request_time,'
    '"bytes_in":"$content_length","bytes_out":$bytes_sent,"client":"$remote_addr"}';
  access_log %[1]s/nginx.log line buffer=64k flush=1s;
  keepalive_requests 1000000000;
  client_body_temp_path %[1]s/body;
  proxy_temp_path %[1]s/proxy;
  fastcgi_temp_path %[1]s/fastcgi;
  uwsgi_temp_path %[1]s/uwsgi;
  scgi_temp_path %[1]s/scgi;
  upstream model { server %[3]s; keepalive 256; keepalive_requests 1000000000; }
  server {
    listen %[2]s backlog=4096;
    location / {
      proxy_pass http://model;
      proxy_http_version 1.1;
      proxy_set_header Connection "";
      proxy_set_header Host $host;
      proxy_set_header X-Forwarded-For $proxy_add_x_forwarded_for;
      proxy_set_header X-Forwarded-Proto $scheme;
      proxy_buffering off;
      proxy_read_timeout 600s;
    }
  }
}
`

func startNginx(ctx context.Context, b *bench) (*proxy, error) {
	self, err := user.Current()
	if err != nil {
		return nil, err
	}
	return b.launch(ctx, "nginx", func(addr string) ([]string, error) {
		file := filepath.Join(b.dir, "nginx.conf")
		return []string{"-p", b.dir, "-c", file}, os.WriteFile(file, fmt.Appendf(nil, nginxConf, b.dir, addr, b.server.addr, self.Username), 0o600)
	})
}

// haproxyConf is HAProxy likewise. Its lines go out one by one, as they come. %[1]s is what it says of its log, %[2]d how many connections it may have.
const haproxyConf = `
global
  nbthread 1
  maxconn %[2]d
defaults
  %[1]s
  mode http
  timeout connect 5s
  timeout client 600s
  timeout server 600s
  option http-keep-alive
  option http-no-delay
  option abortonclose
  http-reuse always
frontend clients
  bind %[3]s backlog 4096
  default_backend model
backend model
  option forwardfor
  http-request set-header X-Forwarded-Proto http
  server model %[4]s pool-max-conn 256
`

// haproxyLog has HAProxy log each request, as the configuration of Debian's package has it.
const haproxyLog = "log stdout format raw local0\n  option httplog"

// startHAProxy starts it with what it says of its log.
func startHAProxy(log string) func(context.Context, *bench) (*proxy, error) {
	return func(ctx context.Context, b *bench) (*proxy, error) {
		return b.launch(ctx, "haproxy", func(addr string) ([]string, error) {
			file := filepath.Join(b.dir, "haproxy.cfg")
			return []string{"-db", "-f", file}, os.WriteFile(file, fmt.Appendf(nil, haproxyConf, log, b.idle+150, addr, b.server.addr), 0o600)
		})
	}
}

// startReverse starts this program as a proxy.
func startReverse(ctx context.Context, b *bench) (*proxy, error) {
	return b.launch(ctx, "net/http", func(addr string) ([]string, error) {
		return []string{"-reverse", addr + "," + b.server.addr}, nil
	})
}

func serveReverse(ctx context.Context, addrs string) error {
	listen, backend, _ := strings.Cut(addrs, ",")
	transport := http.DefaultTransport.(*http.Transport).Clone()
	transport.MaxIdleConns, transport.MaxIdleConnsPerHost = 256, 256
	handler := &httputil.ReverseProxy{Transport: transport, ErrorLog: log.New(io.Discard, "", 0), Rewrite: func(r *httputil.ProxyRequest) {
		r.SetURL(&url.URL{Scheme: "http", Host: backend})
		r.SetXForwarded()
	}}
	server := &http.Server{Addr: listen, Handler: handler, ReadHeaderTimeout: 10 * time.Second}
	defer context.AfterFunc(ctx, func() { server.Close() })()
	if err := server.ListenAndServe(); !errors.Is(err, http.ErrServerClosed) {
		return err
	}
	return nil
}

// launch starts a program that listens where it is told to.
func (b *bench) launch(ctx context.Context, name string, args func(addr string) ([]string, error)) (*proxy, error) {
	path, err := find(name)
	if err == nil && path == "" {
		path, err = os.Executable()
	}
	if err != nil {
		return nil, err
	}
	addr, err := freeAddr()
	if err != nil {
		return nil, err
	}
	words, err := args(addr)
	if err != nil {
		return nil, err
	}
	cmd := exec.CommandContext(ctx, path, words...)
	log, err := os.Create(filepath.Join(b.dir, filepath.Base(path)+".out"))
	if err != nil {
		return nil, err
	}
	defer log.Close()
	cmd.Stdout, cmd.Stderr = log, os.Stderr
	cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true} // Ctrl-C is for us to pass on
	cmd.Cancel = func() error { return cmd.Process.Signal(syscall.SIGTERM) }
	if err := b.onTheirs(cmd.Start); err != nil {
		return nil, err
	}
	stop := func() error {
		if err := cmd.Process.Signal(syscall.SIGTERM); err != nil && !errors.Is(err, os.ErrProcessDone) {
			return err
		}
		defer time.AfterFunc(5*time.Second, func() { cmd.Process.Kill() }).Stop()
		_ = cmd.Wait() // how it ends is its own business
		return nil
	}
	if err := awaitPort(ctx, addr); err != nil {
		return nil, errors.Join(err, stop())
	}
	return &proxy{addr, func() ([]int, error) { return family(cmd.Process.Pid) }, stop, ""}, nil
}

// family is a process and its children.
func family(pid int) ([]int, error) {
	pids := []int{pid}
	tasks, err := filepath.Glob(fmt.Sprintf("/proc/%d/task/*/children", pid))
	for _, task := range tasks {
		text, err := os.ReadFile(task)
		if err != nil {
			continue // a thread that has ended
		}
		for word := range strings.FieldsSeq(string(text)) {
			child, err := strconv.Atoi(word)
			if err != nil {
				return nil, err
			}
			pids = append(pids, child)
		}
	}
	return pids, err
}

// awaitPort waits until something listens on addr, for 5 s at most.
func awaitPort(ctx context.Context, addr string) error {
	ctx, cancel := context.WithTimeout(ctx, 5*time.Second)
	defer cancel()
	for {
		var d net.Dialer
		conn, err := d.DialContext(ctx, "tcp", addr)
		if err == nil {
			return conn.Close()
		}
		if pause(ctx, 10*time.Millisecond) != nil {
			return fmt.Errorf("it does not listen: %w", err)
		}
	}
}

// freeAddr is a port of the loopback address that was free a moment ago.
func freeAddr() (string, error) {
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		return "", err
	}
	return ln.Addr().String(), ln.Close()
}
