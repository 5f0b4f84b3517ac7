package launch

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/url"
	"reflect"
	"strconv"
	"strings"
	"sync"
	"time"

	"pilotlight/config"
)

const (
	podFiles  = "/var/run/secrets/kubernetes.io/serviceaccount"
	watchTime = 5 * time.Minute // after which a watch is begun anew
)

// kubernetes scales something by its scale subresource over the API of Kubernetes
// (kubernetes.io/docs/reference/using-api/api-concepts), and looks at the pods that the scale selects.
type kubernetes struct {
	spec    config.Kubernetes
	address string // configured; empty: the service or the pod says
	files   string // of the pod's service account

	mu     sync.Mutex // guards what follows
	access *config.KubeAccess
	api    *api
}

func newKubernetes(spec config.Kubernetes, address string) *kubernetes {
	return &kubernetes{spec: spec, address: address, files: podFiles}
}

// reach is the API as the kubeconfig or the pod's service account say by now: both are exchanged while we run.
func (k *kubernetes) reach() (*api, string, error) {
	var access *config.KubeAccess
	var err error
	if k.spec.Kubeconfig != "" {
		access, err = config.ReadKubeconfig(k.spec.Kubeconfig, k.spec.Context)
	} else {
		access, err = config.PodAccess(k.files)
	}
	if err != nil {
		return nil, "", err
	}
	namespace := k.spec.Namespace
	if namespace == "" {
		namespace = access.Namespace
	}
	if namespace == "" {
		namespace = "default"
	}
	k.mu.Lock()
	defer k.mu.Unlock()
	if k.api == nil || !reflect.DeepEqual(access, k.access) {
		if k.api != nil {
			k.api.close()
		}
		k.access, k.api = access, kubeAPI(access)
	}
	return k.api, namespace, nil
}

func kubeAPI(access *config.KubeAccess) *api {
	a := newAPI("Kubernetes", access.Server, nil)
	a.client.Transport.(*http.Transport).DialTLSContext = func(ctx context.Context, network, addr string) (net.Conn, error) {
		c, err := new(net.Dialer).DialContext(ctx, network, addr)
		if err != nil {
			return nil, err
		}
		return access.Over(ctx, c, addr)
	}
	a.authorize = func(req *http.Request) error {
		token := access.Token
		if access.TokenFile != "" {
			var err error
			if token, err = secretIn(access.TokenFile); err != nil {
				return err
			}
		}
		if token != "" {
			req.Header.Set("Authorization", "Bearer "+token)
		}
		return nil
	}
	return a
}

// do sends a request; its path is that below the API's root, in which {namespace} stands for ours.
func (k *kubernetes) do(ctx context.Context, c call) error {
	api, namespace, err := k.reach()
	if err != nil {
		return err
	}
	c.path = strings.ReplaceAll(c.path, "{namespace}", url.PathEscape(namespace))
	_, err = api.do(ctx, c)
	return err
}

// target is the path of what is scaled, without its name, and its name.
func (k *kubernetes) target() (path, name string) {
	group, version, resource, name, err := k.spec.Scaled()
	if err != nil {
		panic("BUG: an unchecked target: " + err.Error())
	}
	return "/apis/" + group + "/" + version + "/namespaces/{namespace}/" + resource, name
}

// scale is the scale subresource (autoscaling/v1).
type scale struct {
	APIVersion string `json:"apiVersion"`
	Kind       string `json:"kind"`
	Metadata   struct {
		Name            string `json:"name"`
		Namespace       string `json:"namespace"`
		ResourceVersion string `json:"resourceVersion"`
	} `json:"metadata"`
	Spec struct {
		Replicas int `json:"replicas"`
	} `json:"spec"`
	Status struct {
		Replicas int    `json:"replicas"`
		Selector string `json:"selector"`
	} `json:"status"`
}

func (k *kubernetes) scale(ctx context.Context) (s scale, err error) {
	path, name := k.target()
	err = k.do(ctx, call{method: http.MethodGet, path: path + "/" + name + "/scale", into: &s})
	return s, err
}

func (k *kubernetes) raise(ctx context.Context) error {
	return k.rescale(ctx, k.spec.Count, func(now int) bool { return now > 0 })
}

func (k *kubernetes) lower(ctx context.Context) error {
	err := k.rescale(ctx, 0, func(now int) bool { return now == 0 })
	if isStatus(err, http.StatusNotFound) {
		return nil
	}
	return err
}

// rescale sets the number of replicas, unless it is well so. The resource version that we saw goes along, so that what others
// changed meanwhile is looked at before it is changed again.
func (k *kubernetes) rescale(ctx context.Context, to int, well func(now int) bool) error {
	path, name := k.target()
	return retried(ctx, func() (conflict bool, err error) {
		s, err := k.scale(ctx)
		if err != nil || well(s.Spec.Replicas) {
			return false, err
		}
		s.Spec.Replicas = to
		err = k.do(ctx, call{method: http.MethodPut, path: path + "/" + name + "/scale", body: s})
		return isStatus(err, http.StatusConflict), err
	})
}

func (k *kubernetes) look(ctx context.Context) (sight, error) {
	now, err := k.scale(ctx)
	if err != nil {
		return sight{}, err
	}
	_, name := k.target()
	s := sight{asked: now.Spec.Replicas > 0}
	var list struct{ Items []pod }
	if now.Status.Selector != "" {
		err = k.do(ctx, call{
			method: http.MethodGet, path: "/api/v1/namespaces/{namespace}/pods",
			query: url.Values{"labelSelector": {now.Status.Selector}}, into: &list,
		})
		if err != nil {
			return sight{}, err
		}
	}
	p := best(list.Items, k.container)
	for _, p := range list.Items {
		s.left = s.left || !p.over()
	}
	switch {
	case !s.asked:
		s.said = fmt.Sprintf("somebody scaled %s to 0", name)
		if s.left {
			s.said += "; a pod of it still ends"
		}
	case p == nil:
		s.said, err = k.podless(ctx)
	default:
		c := k.container(p)
		s.said, s.failed = p.said()
		s.log = p.Metadata.Name + "/" + c
		if p.runs(c) {
			s.failed = false // if any other container does
			s.addr, s.instance, err = k.addr(ctx, p, c)
		} else if !s.failed {
			s.said += k.warnings(ctx, p.Metadata.Name)
		}
	}
	return s, err
}

// addr is where the model server is reached, and which it is where no Service would have another in its place.
func (k *kubernetes) addr(ctx context.Context, p *pod, container string) (addr, instance string, err error) {
	switch {
	case k.address != "":
		return k.address, "", nil
	case k.spec.Service != "":
		addr, err = k.serviceAddr(ctx)
		return addr, "", err
	}
	port, err := p.port(container, k.spec.Port)
	if err != nil {
		return "", "", err
	}
	return net.JoinHostPort(p.Status.PodIP, port), p.Metadata.UID + p.status(container).ContainerID, nil
}

func (k *kubernetes) serviceAddr(ctx context.Context) (string, error) {
	var service struct {
		Spec struct {
			ClusterIP string
			Ports     []struct {
				Name string
				Port int
			}
		}
	}
	if err := k.do(ctx, call{method: http.MethodGet, path: "/api/v1/namespaces/{namespace}/services/" + k.spec.Service, into: &service}); err != nil {
		return "", err
	}
	if ip := net.ParseIP(service.Spec.ClusterIP); ip == nil {
		return "", fmt.Errorf("%w: service %s has no cluster address (%s); give the backend one", errNoAddress, k.spec.Service, service.Spec.ClusterIP)
	}
	var names []string
	for _, p := range service.Spec.Ports {
		number := strconv.Itoa(p.Port)
		names = append(names, p.Name+":"+number)
		if k.spec.Port == p.Name && p.Name != "" || k.spec.Port == number || k.spec.Port == "" && len(service.Spec.Ports) == 1 {
			return net.JoinHostPort(service.Spec.ClusterIP, number), nil
		}
	}
	return "", fmt.Errorf("%w: service %s has the ports %v; say which one by kubernetes.port", errNoAddress, k.spec.Service, names)
}

// container is the one of the pod that is the model server: the one that has the port, or the first.
func (k *kubernetes) container(p *pod) string {
	for _, c := range p.Spec.Containers {
		for _, port := range c.Ports {
			if k.spec.Port != "" && (port.Name == k.spec.Port || strconv.Itoa(port.ContainerPort) == k.spec.Port) {
				return c.Name
			}
		}
	}
	if len(p.Spec.Containers) == 0 {
		return ""
	}
	return p.Spec.Containers[0].Name
}

// podless is why there is no pod: what the conditions of what is scaled say, or the warnings about it.
func (k *kubernetes) podless(ctx context.Context) (string, error) {
	path, name := k.target()
	var it struct {
		Status struct{ Conditions []condition }
	}
	if err := k.do(ctx, call{method: http.MethodGet, path: path + "/" + name, into: &it}); err != nil {
		return "", err
	}
	said := []string{"it has no pod yet"}
	for _, c := range it.Status.Conditions {
		if c.Type == "ReplicaFailure" && c.Status == "True" || c.Type == "Progressing" && c.Status == "False" {
			said = append(said, c.Reason+": "+readable([]byte(c.Message)))
		}
	}
	return strings.Join(said, "; ") + k.warnings(ctx, name), nil
}

// warnings is the last warning about something, where we may read events; they tell of what no status does, as that a volume
// cannot be mounted.
func (k *kubernetes) warnings(ctx context.Context, name string) string {
	var list struct {
		Items []struct {
			Reason, Message string
			LastTimestamp   time.Time
			EventTime       time.Time
		}
	}
	err := k.do(ctx, call{
		method: http.MethodGet, path: "/api/v1/namespaces/{namespace}/events",
		query: url.Values{"fieldSelector": {"type=Warning,involvedObject.name=" + name}, "limit": {"100"}}, into: &list,
	})
	said, newest := "", time.Time{}
	for _, e := range list.Items {
		at := e.LastTimestamp
		if at.IsZero() {
			at = e.EventTime
		}
		if !at.Before(newest) && e.Reason != "FailedScheduling" { // which the pod's own condition says, too
			newest, said = at, "; "+e.Reason+": "+readable([]byte(e.Message))
		}
	}
	if err != nil {
		return ""
	}
	return said
}

// notify watches the pods, and what is scaled. What they are is looked at anew each time.
func (k *kubernetes) notify(ctx context.Context, happened func()) error {
	now, err := k.scale(ctx)
	if err != nil {
		return err
	}
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	path, name := k.target()
	errs := make(chan error, 2)
	watch := func(path string, query url.Values) { errs <- k.watch(ctx, path, query, happened) }
	go watch(path, url.Values{"fieldSelector": {"metadata.name=" + name}})
	go watch("/api/v1/namespaces/{namespace}/pods", url.Values{"labelSelector": {now.Status.Selector}})
	err = <-errs
	cancel()
	<-errs
	return err
}

// watch tells of each change to what is selected, until the server or ctx ends it.
func (k *kubernetes) watch(ctx context.Context, path string, query url.Values, happened func()) error {
	api, namespace, err := k.reach()
	if err != nil {
		return err
	}
	var list struct {
		Metadata struct{ ResourceVersion string }
	}
	path = strings.ReplaceAll(path, "{namespace}", url.PathEscape(namespace))
	query.Set("limit", "1") // for its version only
	if _, err := api.do(ctx, call{method: http.MethodGet, path: path, query: query, into: &list}); err != nil {
		return err
	}
	query.Del("limit")
	query.Set("watch", "true")
	query.Set("allowWatchBookmarks", "true")
	query.Set("resourceVersion", list.Metadata.ResourceVersion)
	query.Set("timeoutSeconds", strconv.Itoa(int(watchTime.Seconds())))
	resp, err := api.open(ctx, call{method: http.MethodGet, path: path, query: query})
	if err != nil {
		return err
	}
	defer resp.Body.Close() //nolint:errcheck // nothing can be lost by it
	happened()
	for events := json.NewDecoder(resp.Body); ; {
		var event struct {
			Type   string // ADDED, MODIFIED, DELETED, BOOKMARK, ERROR
			Object struct{ Message string }
		}
		err := events.Decode(&event)
		switch {
		case errors.Is(err, io.EOF):
			return nil // its time is up
		case err != nil:
			return err
		case event.Type == "ERROR": // as that what happened since is no longer known
			return fmt.Errorf("watch %s: %s", path, event.Object.Message)
		case event.Type != "BOOKMARK":
			happened()
		}
	}
}

// logged is the end of what the container has logged: in its life before where it waits for the next.
func (k *kubernetes) logged(ctx context.Context, s sight) ([]byte, error) {
	api, namespace, err := k.reach()
	pod, container, ok := strings.Cut(s.log, "/")
	if err != nil || !ok {
		return nil, err
	}
	query := url.Values{"container": {container}, "tailLines": {strconv.Itoa(tailLines)}, "limitBytes": {strconv.Itoa(maxAnswer)}}
	if s.failed {
		query.Set("previous", "true")
	}
	resp, err := api.open(ctx, call{
		method: http.MethodGet, path: "/api/v1/namespaces/" + url.PathEscape(namespace) + "/pods/" + pod + "/log", query: query,
	})
	if err != nil {
		return nil, err
	}
	defer resp.Body.Close() //nolint:errcheck // nothing can be lost by it
	return io.ReadAll(io.LimitReader(resp.Body, maxAnswer))
}

func (k *kubernetes) close() {
	k.mu.Lock()
	defer k.mu.Unlock()
	if k.api != nil {
		k.api.close()
	}
}
