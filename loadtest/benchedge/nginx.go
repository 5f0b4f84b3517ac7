package main

import (
	"context"
	"errors"
	"fmt"
	"net"
	"os"
	"os/exec"
	"os/user"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"time"
)

// nginxConf is nginx as one would run it in front of a model server, with one worker. %[1]s: a folder of its own, %[2]s: the
// address to listen on, %[3]s: the model server, %[4]s: the user it runs as.
const nginxConf = `
user %[4]s;
worker_processes 1;
daemon off;
pid %[1]s/nginx.pid;
error_log stderr warn;
events { worker_connections 4096; }
http {
  access_log off;
  keepalive_requests 1000000000;
  client_body_temp_path %[1]s/body;
  proxy_temp_path %[1]s/proxy;
  fastcgi_temp_path %[1]s/fastcgi;
  uwsgi_temp_path %[1]s/uwsgi;
  scgi_temp_path %[1]s/scgi;
  upstream model { server %[3]s; keepalive 256; keepalive_requests 1000000000; }
  server {
    listen %[2]s;
    location / {
      proxy_pass http://model;
      proxy_http_version 1.1;
      proxy_set_header Connection "";
      proxy_set_header Host $host;
    }
  }
}
`

// startNginx returns exec.ErrNotFound where nginx is not installed.
func startNginx(ctx context.Context, dir, server string) (*rival, func() error, error) {
	binary, err := exec.LookPath("nginx")
	if err != nil {
		if binary, err = exec.LookPath("/usr/sbin/nginx"); err != nil { // it is seldom in a user's PATH
			return nil, nil, exec.ErrNotFound
		}
	}
	self, err := user.Current()
	if err != nil {
		return nil, nil, err
	}
	addr, err := freeAddr()
	if err != nil {
		return nil, nil, err
	}
	file := filepath.Join(dir, "nginx.conf")
	if err := os.WriteFile(file, fmt.Appendf(nil, nginxConf, dir, addr, server, self.Username), 0o600); err != nil {
		return nil, nil, err
	}
	cmd := exec.CommandContext(ctx, binary, "-p", dir, "-c", file)
	cmd.Stderr = os.Stderr
	cmd.Cancel = func() error { return cmd.Process.Signal(syscall.SIGTERM) }
	if err := cmd.Start(); err != nil {
		return nil, nil, fmt.Errorf("start nginx: %w", err)
	}
	stop := func() error {
		if err := cmd.Process.Signal(syscall.SIGTERM); err != nil && !errors.Is(err, os.ErrProcessDone) {
			return fmt.Errorf("stop nginx: %w", err)
		}
		return cmd.Wait()
	}
	if err := awaitPort(ctx, addr); err != nil {
		return nil, nil, errors.Join(err, stop())
	}
	return &rival{name: "nginx", addr: addr, pids: func() ([]int, error) { return family(cmd.Process.Pid) }}, stop, nil
}

// family is a process and its children.
func family(pid int) ([]int, error) {
	text, err := os.ReadFile(fmt.Sprintf("/proc/%d/task/%d/children", pid, pid))
	if err != nil {
		return nil, fmt.Errorf("find the workers of nginx: %w", err)
	}
	pids := []int{pid}
	for word := range strings.FieldsSeq(string(text)) {
		child, err := strconv.Atoi(word)
		if err != nil {
			return nil, fmt.Errorf("find the workers of nginx: %w", err)
		}
		pids = append(pids, child)
	}
	return pids, nil
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
			return fmt.Errorf("nginx does not listen: %w", err)
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
