package launch

import (
	"context"
	"encoding/binary"
	"encoding/json"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/url"
	"slices"
	"strconv"
	"strings"
	"time"

	"pilotlight/config"
)

// docker starts and stops a container over the API of Docker Engine, which Podman speaks too. Version 1.40 of it is Docker 19.03's
// (docs.docker.com/reference/api/engine/version/v1.40), and has all that we need.
type docker struct {
	api     *api
	spec    config.Docker
	address string // configured; empty: the container says
	path    string // of the container
	host    string // where ports are reached that the container publishes
}

func newDocker(spec config.Docker, address string) *docker {
	d := &docker{
		api: newAPI("Docker", spec.Host, spec.TLS), spec: spec, address: address,
		path: "/v1.40/containers/" + url.PathEscape(spec.Container), host: "127.0.0.1",
	}
	if u, err := url.Parse(spec.Host); err == nil && u.Hostname() != "" {
		d.host = u.Hostname()
	}
	return d
}

// container is what the engine says of it (ContainerInspect).
type container struct {
	ID           string
	State        containerState
	RestartCount int
	HostConfig   struct {
		NetworkMode    string
		DeviceRequests []struct {
			Driver    string
			DeviceIDs []string
		}
	}
	Config          struct{ ExposedPorts map[string]struct{} }
	NetworkSettings struct {
		Ports    map[string][]struct{ HostIP, HostPort string }
		Networks map[string]struct{ IPAddress string }
	}
}

type containerState struct {
	Status                      string // created, running, paused, restarting, removing, exited, dead
	Running, Paused, Restarting bool
	OOMKilled                   bool
	ExitCode                    int
	Error                       string
	StartedAt                   string
}

// how says how the container ended, or what it is doing.
func (s containerState) how() string {
	switch {
	case s.Paused:
		return "its container is paused"
	case s.Running && !s.Restarting:
		return "its container runs"
	case s.Status == "created" && s.Error == "":
		return "its container has never been started"
	}
	text := fmt.Sprintf("its container exited with code %d", s.ExitCode)
	if s.OOMKilled {
		text += ", for it took more memory than it may"
	}
	if s.Error != "" {
		text += ": " + readable([]byte(s.Error))
	}
	return text
}

func (d *docker) inspect(ctx context.Context) (c container, err error) {
	_, err = d.api.do(ctx, call{method: http.MethodGet, path: d.path + "/json", into: &c})
	return c, err
}

// raise starts the container or, where somebody paused it, lets it go on.
func (d *docker) raise(ctx context.Context) error {
	return retried(ctx, func() (conflict bool, err error) {
		c, err := d.inspect(ctx)
		switch {
		case err != nil:
			return false, err
		case c.State.Paused:
			err = d.post(ctx, "/unpause", nil, 0)
			return err != nil, err
		case c.State.Running:
			return false, nil
		}
		err = d.post(ctx, "/start", nil, time.Minute) // it answers when the process runs; there may be file systems to mount
		return isStatus(err, http.StatusConflict), err
	})
}

// lower stops the container or pauses it. An engine stops none that is paused.
func (d *docker) lower(ctx context.Context) error {
	return retried(ctx, func() (conflict bool, err error) {
		c, err := d.inspect(ctx)
		down := !c.State.Running && !c.State.Restarting || c.State.Paused && d.spec.Action == config.DockerPause
		switch {
		case isStatus(err, http.StatusNotFound), err == nil && down:
			return false, nil
		case err != nil:
			return false, err
		case d.spec.Action == config.DockerPause && !c.State.Restarting:
			err = d.post(ctx, "/pause", nil, 0)
			return err != nil, err
		case c.State.Paused:
			if err := d.post(ctx, "/unpause", nil, 0); err != nil {
				return true, err
			}
		}
		patience := d.spec.StopTime.Std()
		seconds := strconv.Itoa(int((patience + time.Second - 1) / time.Second))
		err = d.post(ctx, "/stop", url.Values{"t": {seconds}}, patience+time.Minute)
		return isStatus(err, http.StatusConflict), err
	})
}

func (d *docker) post(ctx context.Context, verb string, query url.Values, lasts time.Duration) error {
	_, err := d.api.do(ctx, call{method: http.MethodPost, path: d.path + verb, query: query, lasts: lasts})
	return err
}

func (d *docker) look(ctx context.Context) (sight, error) {
	c, err := d.inspect(ctx)
	if err != nil {
		return sight{}, err
	}
	s := sight{
		asked: c.State.Running && !c.State.Paused || c.State.Restarting, said: c.State.how(), gpus: d.gpus(c),
		failed: c.State.Restarting && c.RestartCount > 1, log: c.ID,
	}
	s.left = c.State.Running && !(c.State.Paused && d.spec.Action == config.DockerPause)
	if s.asked && !c.State.Restarting {
		s.instance = c.ID + c.State.StartedAt
		if s.addr, err = d.addr(c); err != nil {
			return sight{}, err
		}
	}
	return s, nil
}

// addr is where the container is reached: where it publishes its port, else on the host's network or on its own.
func (d *docker) addr(c container) (string, error) {
	if d.address != "" {
		return d.address, nil
	}
	port, err := d.port(c)
	if err != nil {
		return "", err
	}
	if published := c.NetworkSettings.Ports[port+"/tcp"]; len(published) > 0 {
		host := published[0].HostIP
		if ip := net.ParseIP(host); ip == nil || ip.IsUnspecified() {
			host = d.host
		}
		return net.JoinHostPort(host, published[0].HostPort), nil
	}
	if c.HostConfig.NetworkMode == "host" {
		return net.JoinHostPort(d.host, port), nil
	}
	for _, name := range sortedKeys(c.NetworkSettings.Networks) {
		if ip := c.NetworkSettings.Networks[name].IPAddress; ip != "" {
			return net.JoinHostPort(ip, port), nil
		}
	}
	return "", fmt.Errorf("%w: container %s has none that we could reach; give the backend one", errNoAddress, d.spec.Container)
}

// port of the container where the model server listens.
func (d *docker) port(c container) (string, error) {
	if d.spec.Port != 0 {
		return strconv.Itoa(d.spec.Port), nil
	}
	var ports []string
	for _, port := range sortedKeys(c.Config.ExposedPorts) {
		if number, ok := strings.CutSuffix(port, "/tcp"); ok {
			ports = append(ports, number)
		}
	}
	if len(ports) != 1 {
		return "", fmt.Errorf("%w: container %s exposes the ports %v; say which one by docker.port", errNoAddress, d.spec.Container, ports)
	}
	return ports[0], nil
}

// gpus are those of this node that the container was given by their numbers.
func (d *docker) gpus(c container) (gpus []int) {
	for _, r := range c.HostConfig.DeviceRequests {
		for _, id := range r.DeviceIDs {
			n, err := strconv.Atoi(id)
			if err != nil || !strings.HasPrefix(d.spec.Host, "unix://") {
				return nil
			}
			gpus = append(gpus, n)
		}
	}
	slices.Sort(gpus)
	return gpus
}

// notify: every event of the container is a reason to look.
func (d *docker) notify(ctx context.Context, happened func()) error {
	filters, err := json.Marshal(map[string][]string{"type": {"container"}, "container": {d.spec.Container}})
	if err != nil {
		panic("BUG: a filter has no JSON: " + err.Error())
	}
	resp, err := d.api.open(ctx, call{method: http.MethodGet, path: "/v1.40/events", query: url.Values{"filters": {string(filters)}}})
	if err != nil {
		return err
	}
	defer resp.Body.Close() //nolint:errcheck // nothing can be lost by it
	for events := json.NewDecoder(resp.Body); ; {
		happened()
		if err := events.Decode(new(json.RawMessage)); err != nil {
			return err
		}
	}
}

// logged: without a terminal, what a container writes comes in frames of one stream each: its number, three zeros, the length.
func (d *docker) logged(ctx context.Context, _ sight) ([]byte, error) {
	resp, err := d.api.open(ctx, call{
		method: http.MethodGet, path: d.path + "/logs",
		query: url.Values{"stdout": {"1"}, "stderr": {"1"}, "tail": {strconv.Itoa(tailLines)}},
	})
	if err != nil {
		return nil, err
	}
	defer resp.Body.Close() //nolint:errcheck // nothing can be lost by it
	text, err := io.ReadAll(io.LimitReader(resp.Body, maxAnswer))
	return unframed(text), err
}

func unframed(text []byte) []byte {
	var plain []byte
	for rest := text; len(rest) > 0; {
		if len(rest) < 8 || rest[0] > 2 || rest[1] != 0 || rest[2] != 0 || rest[3] != 0 {
			return text // it has a terminal
		}
		n := int(min(binary.BigEndian.Uint32(rest[4:8]), uint32(len(rest)-8)))
		plain = append(plain, rest[8:8+n]...)
		rest = rest[8+n:]
	}
	return plain
}

func (d *docker) close() { d.api.close() }
