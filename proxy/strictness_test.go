package proxy

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"
)

// strictness is where it stands what we do with malformed messages, and what HAProxy and nginx do.
const strictness = "../docs/strictness.md"

// silence is how long a peer may say nothing before it is taken to wait.
const silence = 2 * time.Second

// TestStrictness holds the page to the tables of requests and answers, which other tests hold to the code. With -update
// it is written anew, the peers' columns too where they are installed: those are a record, made by this test.
func TestStrictness(t *testing.T) {
	page, err := os.ReadFile(strictness)
	if err != nil && !*update {
		t.Fatal(err)
	}
	before := readColumns(string(page))
	if *update {
		for i, peer := range peers() {
			if found := askPeer(t, peer); found != nil {
				before.names[i], before.cells[i] = found.name, found.cells
			}
		}
	}
	want := before.page()
	if *update {
		if err := os.WriteFile(strictness, []byte(want), 0o644); err != nil {
			t.Fatal(err)
		}
		return
	}
	if string(page) != want {
		t.Errorf("%s is stale; write it anew: go test ./proxy -run Strictness -update", strictness)
	}
}

// columns are the peers' names with their versions, and what each does with a case, by its group and name.
type columns struct {
	names [2]string
	cells [2]map[string]string
}

// readColumns takes the peers' columns from a page.
func readColumns(page string) columns {
	c := columns{names: [2]string{"HAProxy", "nginx"}, cells: [2]map[string]string{{}, {}}}
	part := ""
	for line := range strings.Lines(page) {
		if title, ok := strings.CutPrefix(line, "## "); ok {
			part = strings.TrimSpace(title)
		}
		row := strings.Split(strings.Trim(strings.TrimSpace(line), "|"), " | ")
		if len(row) != 4 {
			continue
		}
		for i := range row {
			row[i] = strings.TrimSpace(row[i])
		}
		if row[1] == "Pilotlight" {
			c.names = [2]string{row[2], row[3]}
			continue
		}
		c.cells[0][part+"/"+row[0]], c.cells[1][part+"/"+row[0]] = row[2], row[3]
	}
	return c
}

func (c columns) page() string {
	var b strings.Builder
	b.WriteString(`# Strictness

What a client gets of a malformed request, and of a malformed answer of a backend. A number is the status; 200 means that the
request went on to the backend, or that the client took the answer for a whole one.

Our column is checked by ` + "`go test ./proxy -run 'Malformed|Strictness'`" + `: every refusal also closes the connection, comes at once
and not after a time limit, lets no byte through to a backend, and has nothing of what stands behind it served as a request.

The other columns are a record of what Debian's packages did with the same bytes, with a configuration that only forwards. Where these
are installed (` + "`apt-get install haproxy nginx-light`" + `), ` + "`go test ./proxy -run Strictness -update`" + ` makes it anew. There *waits* means
that nothing came within ` + silence.String() + `, *closes* that the connection ended without an answer, and 502 under *Requests* that the
request went on and that the backend, Go's net/http, would not have it. *then on* says that what stood behind a refused request
was served.
`)
	row := func(part, name, ours string) {
		fmt.Fprintf(&b, "| %s | %s | %s | %s |\n", name, ours, c.cells[0][part+"/"+name], c.cells[1][part+"/"+name])
	}
	begin := func(title string) {
		fmt.Fprintf(&b, "\n## %s\n\n| | Pilotlight | %s | %s |\n|---|---|---|---|\n", title, c.names[0], c.names[1])
	}
	group := ""
	for _, w := range requests() {
		title := "Requests: " + w.group
		if title != group {
			begin(title)
			group = title
		}
		row(title, w.name, strconv.Itoa(w.want))
	}
	for _, a := range answersTold() {
		title := "Answers: " + a.group
		if title != group {
			begin(title)
			group = title
		}
		row(title, a.name, cellOf(a.want))
	}
	return b.String()
}

// cellOf is what the page says of what a client heard.
func cellOf(heard string) string {
	status, _, _ := strings.Cut(heard, " ")
	if heard == broke {
		return "breaks off"
	}
	return status
}

// peer is another proxy.
type peer struct {
	name    string
	command string
	version []string // arguments
	config  string   // its %[1]s is the address to listen on, %[2]s that of the backend of requests, %[3]s of answers, %[4]s a folder
	start   []string // arguments; %[1]s is the file of the configuration, %[2]s a folder
}

func peers() [2]peer {
	return [2]peer{{
		name: "HAProxy", command: "haproxy", version: []string{"-v"}, start: []string{"-db", "-f", "%[1]s"},
		config: `
defaults
  mode http
  timeout client 1h
  timeout server 1h
  timeout connect 5s
  timeout http-request 1h
frontend f
  bind %[1]s
  use_backend answers if { path_beg /answers/ }
  default_backend requests
backend requests
  server s %[2]s
backend answers
  http-request replace-path /answers/(.*) /\1
  server s %[3]s
`,
	}, {
		name: "nginx", command: "nginx", version: []string{"-v"}, start: []string{"-c", "%[1]s", "-p", "%[2]s", "-e", "stderr"},
		config: `
daemon off; master_process off; pid %[4]s/pid; error_log stderr crit;
events {}
http {
  access_log off; client_header_timeout 1h; client_body_timeout 1h; client_max_body_size 1m;
  client_body_temp_path %[4]s/1; proxy_temp_path %[4]s/2; fastcgi_temp_path %[4]s/3; uwsgi_temp_path %[4]s/4; scgi_temp_path %[4]s/5;
  proxy_http_version 1.1; proxy_set_header Connection ""; proxy_set_header Host $http_host; proxy_request_buffering on;
  server {
    listen %[1]s;
    location / { proxy_pass http://%[2]s; }
    location /answers/ { proxy_pass http://%[3]s/; }
  }
}
`,
	}}
}

// asked is a peer's column.
type asked struct {
	name  string
	cells map[string]string
}

// askPeer runs a peer and sends it everything. It is nil where the peer is not installed.
func askPeer(t *testing.T, p peer) *asked {
	path, err := exec.LookPath(p.command)
	if err != nil {
		t.Logf("%s is not installed: its column stays as it is", p.command)
		return nil
	}
	version, err := exec.CommandContext(t.Context(), path, p.version...).CombinedOutput()
	if err != nil {
		t.Fatal(err)
	}
	a := &asked{name: p.name + " " + regexp.MustCompile(`[0-9]+\.[0-9.]+`).FindString(string(version)), cells: map[string]string{}}
	seen, told := recording(t), answersTold()
	addr := p.run(t, path, seen.addr, scripted(t, told).addr)
	for _, w := range requests() {
		a.cells["Requests: "+w.group+"/"+w.name] = askRequest(t, addr, w, seen)
	}
	for i, w := range told {
		a.cells["Answers: "+w.group+"/"+w.name] = askAnswer(t, addr, i)
	}
	return a
}

// run starts the peer, which ends with the test, and says where it listens.
func (p peer) run(t *testing.T, path, requests, answers string) string {
	t.Helper()
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	addr := ln.Addr().String()
	ln.Close()
	dir := t.TempDir()
	file := filepath.Join(dir, "config")
	if err := os.WriteFile(file, fmt.Appendf(nil, p.config, addr, requests, answers, dir), 0o644); err != nil {
		t.Fatal(err)
	}
	var args []string
	for _, arg := range p.start {
		args = append(args, strings.NewReplacer("%[1]s", file, "%[2]s", dir).Replace(arg))
	}
	ctx, stop := context.WithCancel(context.WithoutCancel(t.Context()))
	cmd := exec.CommandContext(ctx, path, args...)
	cmd.Stderr = os.Stderr
	cmd.Cancel = func() error { return cmd.Process.Signal(syscall.SIGTERM) }
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { stop(); cmd.Wait() })
	until(t, p.command+" listens", func() bool {
		c, err := net.Dial("tcp", addr)
		if err == nil {
			c.Close()
		}
		return err == nil
	})
	return addr
}

// askRequest sends a request and what stands behind it.
func askRequest(t *testing.T, addr string, w wire, seen *recorder) string {
	c, err := net.Dial("tcp", addr)
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	before := len(seen.saw())
	go io.WriteString(c, w.text())
	in := bufio.NewReader(c)
	first := hearPeer(c, in)
	if w.alone || len(seen.saw()) > before { // it went on, and what stands behind it may too
		return first
	}
	hearPeer(c, in)
	if len(seen.saw()) > before {
		return first + ", then on"
	}
	return first
}

// askAnswer asks for the answer of a number.
func askAnswer(t *testing.T, addr string, i int) string {
	c, err := net.Dial("tcp", addr)
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	io.WriteString(c, lines(fmt.Sprintf("GET /answers/%d HTTP/1.1", i), "Host: e"))
	return hearPeer(c, bufio.NewReader(c))
}

// hearPeer hears one answer.
func hearPeer(c net.Conn, in *bufio.Reader) string {
	c.SetReadDeadline(time.Now().Add(silence))
	resp, err := http.ReadResponse(in, nil)
	for err == nil && resp.StatusCode < 200 { // an interim one
		resp, err = http.ReadResponse(in, nil)
	}
	switch {
	case errors.Is(err, os.ErrDeadlineExceeded):
		return "waits"
	case err != nil:
		return "closes"
	}
	_, err = io.Copy(io.Discard, resp.Body)
	switch {
	case errors.Is(err, os.ErrDeadlineExceeded):
		return "waits"
	case err != nil:
		return "breaks off"
	}
	return strconv.Itoa(resp.StatusCode)
}
