package launch

import (
	"context"
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

// nomadWait is how long a blocking query waits for something new. Nomad adds a sixteenth.
const nomadWait = time.Minute

// nomad scales a group of a job over Nomad's HTTP API (developer.hashicorp.com/nomad/api-docs). It keeps one connection of those
// that Nomad allows a client (http_max_conns_per_client, 100) per backend that is up.
type nomad struct {
	api     *api
	spec    config.Nomad
	address string // configured; empty: the allocation says
	path    string // of the job
}

func newNomad(spec config.Nomad, address string) *nomad {
	n := &nomad{api: newAPI("Nomad", spec.Address, spec.TLS), spec: spec, address: address, path: "/v1/job/" + url.PathEscape(spec.Job)}
	n.api.rights = n.needs
	if spec.TokenFile != "" {
		n.api.authorize = func(req *http.Request) error {
			token, err := secretIn(spec.TokenFile)
			req.Header.Set("X-Nomad-Token", token)
			return err
		}
	}
	return n
}

// needs is the capability that a request needs (developer.hashicorp.com/nomad/docs/other-specifications/acl-policy).
func (n *nomad) needs(request string) string {
	capability := "read-job"
	switch {
	case strings.HasSuffix(request, "/scale"):
		capability = "scale-job"
	case strings.Contains(request, "/client/fs/"):
		capability = "read-logs"
	}
	from := "nomad.token_file"
	if n.spec.TokenFile != "" {
		from = n.spec.TokenFile
	}
	return fmt.Sprintf("a token in %s that has %s in namespace %s", from, capability, n.spec.Namespace)
}

func (n *nomad) where() url.Values {
	q := url.Values{"namespace": {n.spec.Namespace}}
	if n.spec.Region != "" {
		q.Set("region", n.spec.Region)
	}
	return q
}

func (n *nomad) get(ctx context.Context, path string, into any) error {
	_, err := n.api.do(ctx, call{method: http.MethodGet, path: path, query: n.where(), into: into})
	return err
}

// nomadJob is what we need of a job.
type nomadJob struct {
	Stop           bool
	JobModifyIndex uint64
	TaskGroups     []struct {
		Name  string
		Count int
	}
}

// job reads the job and finds its group.
func (n *nomad) job(ctx context.Context) (job nomadJob, group string, count int, err error) {
	if err := n.get(ctx, n.path, &job); err != nil {
		return job, "", 0, err
	}
	var names []string
	for _, g := range job.TaskGroups {
		names = append(names, g.Name)
		if g.Name == n.spec.Group || n.spec.Group == "" && len(job.TaskGroups) == 1 {
			return job, g.Name, g.Count, nil
		}
	}
	return job, "", 0, fmt.Errorf("%w: job %s has no group %q; it has %s", errNoAddress, n.spec.Job, n.spec.Group, strings.Join(names, ", "))
}

func (n *nomad) raise(ctx context.Context) error {
	return n.scale(ctx, n.spec.Count, func(job nomadJob, count int) (bool, error) {
		if job.Stop {
			return false, fmt.Errorf("job %s of Nomad is stopped; it takes `nomad job run` or `nomad job start` to have it back", n.spec.Job)
		}
		return count > 0, nil
	})
}

func (n *nomad) lower(ctx context.Context) error {
	err := n.scale(ctx, 0, func(job nomadJob, count int) (bool, error) { return job.Stop || count == 0, nil })
	if isStatus(err, http.StatusNotFound) {
		return nil
	}
	return err
}

// scale makes the group's count what it should be, unless it is well so. Where the job was changed between our look and our
// word, both are tried again; and so it is, for as long as that goes on, where Nomad scales nothing as long as a deployment of the job is active.
func (n *nomad) scale(ctx context.Context, to int, well func(nomadJob, int) (bool, error)) error {
	for {
		err := retried(ctx, func() (conflict bool, err error) {
			job, group, count, err := n.job(ctx)
			if err != nil {
				return false, err
			}
			if done, err := well(job, count); done || err != nil {
				return false, err
			}
			_, err = n.api.do(ctx, call{method: http.MethodPost, path: n.path + "/scale", query: n.where(), body: object{
				"Count": to, "Target": object{"Job": n.spec.Job, "Group": group}, "JobModifyIndex": job.JobModifyIndex,
				"Message": fmt.Sprintf("pilotlight scales it to %d", to),
			}})
			return isStatus(err, http.StatusConflict) || err != nil && strings.Contains(err.Error(), "modify index"), err
		})
		if err == nil || !strings.Contains(err.Error(), "active deployment") {
			return err
		}
		select {
		case <-ctx.Done():
			return fmt.Errorf("%w: %w", err, context.Cause(ctx))
		case <-time.After(lookOften):
		}
	}
}

// allocation is what we need of one.
type allocation struct {
	ID, TaskGroup, NodeName           string
	DesiredStatus, DesiredDescription string // run, stop, evict
	ClientStatus, ClientDescription   string // pending, running, complete, failed, lost, unknown
	NextAllocation                    string
	CreateIndex                       uint64
	TaskStates                        map[string]taskState
}

type taskState struct {
	State    string // pending, running, dead
	Failed   bool
	Restarts int
	Events   []taskEvent
}

type taskEvent struct{ Type, DisplayMessage string }

// over says that the allocation has ended and holds nothing any more.
func (a allocation) over() bool {
	return slices.Contains([]string{"complete", "failed", "lost"}, a.ClientStatus)
}

// said is what the allocation's tasks were last heard of, in Nomad's words.
func (a allocation) said() string {
	text := []string{fmt.Sprintf("its allocation %.8s on %s is %s", a.ID, a.NodeName, a.ClientStatus)}
	for _, name := range sortedKeys(a.TaskStates) {
		events := a.TaskStates[name].Events
		told := ""
		for _, e := range slices.Backward(events) {
			if told == "" {
				told = e.Type + ": " + e.DisplayMessage
			}
			if slices.Contains([]string{"Terminated", "Driver Failure", "Setup Failure", "Failed Validation", "Failed Artifact Download", "Killed"}, e.Type) {
				told = e.Type + ": " + e.DisplayMessage // why, rather than what follows from it
				break
			}
		}
		if told != "" {
			text = append(text, "task "+name+": "+readable([]byte(told)))
		}
	}
	return strings.Join(text, "; ")
}

// restarts is how often a task of it has been started again.
func (a allocation) restarts() (most int) {
	for _, t := range a.TaskStates {
		most = max(most, t.Restarts)
	}
	return most
}

func (n *nomad) look(ctx context.Context) (sight, error) {
	job, group, count, err := n.job(ctx)
	if err != nil {
		return sight{}, err
	}
	var all []allocation
	if err := n.get(ctx, n.path+"/allocations", &all); err != nil {
		return sight{}, err
	}
	all = slices.DeleteFunc(all, func(a allocation) bool { return a.TaskGroup != group || a.NextAllocation != "" })
	slices.SortFunc(all, func(a, b allocation) int { return int(b.CreateIndex) - int(a.CreateIndex) })
	s := sight{asked: !job.Stop && count > 0}
	var now *allocation
	for i, a := range all {
		s.left = s.left || !a.over()
		if a.DesiredStatus == "run" && (now == nil || a.ClientStatus == "running" && now.ClientStatus != "running") {
			now = &all[i]
		}
	}
	switch {
	case job.Stop:
		s.said = "somebody stopped job " + n.spec.Job
	case !s.asked:
		s.said = fmt.Sprintf("somebody scaled group %s of job %s to 0", group, n.spec.Job)
	case now == nil:
		s.said, err = n.unplaced(ctx, group)
	default:
		s.said, s.log = now.said(), now.ID
		s.failed = now.ClientStatus == "failed" || now.ClientStatus == "lost" || now.restarts() > 1
		if now.ClientStatus == "running" {
			s.addr, s.instance, err = n.addr(ctx, *now)
		}
	}
	if !s.asked && s.left {
		s.said += "; an allocation still ends"
	}
	return s, err
}

// unplaced is why Nomad has not placed an allocation: what its last evaluation found.
func (n *nomad) unplaced(ctx context.Context, group string) (string, error) {
	var all []struct {
		Status, StatusDescription string
		CreateIndex               uint64
		FailedTGAllocs            map[string]placement
	}
	if err := n.get(ctx, n.path+"/evaluations", &all); err != nil {
		return "", err
	}
	said, newest := "Nomad has not placed it yet", uint64(0)
	for _, e := range all {
		if e.CreateIndex < newest {
			continue
		}
		if failure, ok := e.FailedTGAllocs[group]; ok {
			newest, said = e.CreateIndex, "Nomad cannot place it: "+failure.String()
		}
	}
	return said, nil
}

// placement is why no node would do.
type placement struct {
	NodesEvaluated, NodesFiltered, NodesExhausted         int
	ClassFiltered, ConstraintFiltered, DimensionExhausted map[string]int
	QuotaExhausted                                        []string
}

// String says it as `nomad job status` does.
func (p placement) String() string {
	if p.NodesEvaluated == 0 {
		return "no nodes were eligible for evaluation"
	}
	var why []string
	for _, filtered := range []map[string]int{p.ConstraintFiltered, p.ClassFiltered} {
		for _, name := range sortedKeys(filtered) {
			why = append(why, fmt.Sprintf("%q filtered %d nodes", name, filtered[name]))
		}
	}
	for _, name := range sortedKeys(p.DimensionExhausted) {
		why = append(why, fmt.Sprintf("%q exhausted on %d nodes", name, p.DimensionExhausted[name]))
	}
	for _, quota := range p.QuotaExhausted {
		why = append(why, fmt.Sprintf("quota limit %q reached", quota))
	}
	return fmt.Sprintf("of %d nodes %d were filtered and %d exhausted (%s)", p.NodesEvaluated, p.NodesFiltered, p.NodesExhausted, strings.Join(why, ", "))
}

// addr is where an allocation listens, and which it is where that is its own.
func (n *nomad) addr(ctx context.Context, a allocation) (addr, instance string, err error) {
	if n.address != "" {
		return n.address, "", nil
	}
	var whole struct {
		AllocatedResources struct {
			Shared struct {
				Ports []struct {
					Label, HostIP string
					Value         int
				}
			}
		}
	}
	if err := n.get(ctx, "/v1/allocation/"+a.ID, &whole); err != nil {
		return "", "", err
	}
	var labels []string
	ports := whole.AllocatedResources.Shared.Ports
	for _, p := range ports {
		labels = append(labels, p.Label)
		if p.Label == n.spec.Port || n.spec.Port == "" && len(ports) == 1 {
			return net.JoinHostPort(p.HostIP, strconv.Itoa(p.Value)), a.ID + strconv.Itoa(a.restarts()), nil
		}
	}
	return "", "", fmt.Errorf("%w: group %s of job %s has the ports %v; say which one by nomad.port", errNoAddress, a.TaskGroup, n.spec.Job, labels)
}

// notify waits for changes of the job's allocations by blocking queries. An index that goes back begins anew
// (developer.hashicorp.com/nomad/api-docs#blocking-queries).
func (n *nomad) notify(ctx context.Context, happened func()) error {
	index := uint64(0)
	for {
		query := n.where()
		query.Set("index", strconv.FormatUint(index, 10))
		query.Set("wait", nomadWait.String())
		header, err := n.api.do(ctx, call{method: http.MethodGet, path: n.path + "/allocations", query: query, lasts: nomadWait + nomadWait/16})
		if err != nil {
			return err
		}
		next, err := strconv.ParseUint(header.Get("X-Nomad-Index"), 10, 64)
		switch {
		case err != nil || next == 0:
			return fmt.Errorf("X-Nomad-Index of Nomad's answer is %q", header.Get("X-Nomad-Index"))
		case next < index:
			next = 0
		}
		if next != index {
			happened()
		}
		index = next
	}
}

// logged reads the ends of what the allocation's tasks have written.
func (n *nomad) logged(ctx context.Context, s sight) (text []byte, err error) {
	if s.log == "" {
		return nil, nil
	}
	var a allocation
	if err := n.get(ctx, "/v1/allocation/"+s.log, &a); err != nil {
		return nil, err
	}
	for _, task := range sortedKeys(a.TaskStates) {
		for _, kind := range []string{"stdout", "stderr"} {
			query := n.where()
			for key, value := range map[string]string{"task": task, "type": kind, "origin": "end", "offset": strconv.Itoa(logTail), "plain": "true"} {
				query.Set(key, value)
			}
			resp, err := n.api.open(ctx, call{method: http.MethodGet, path: "/v1/client/fs/logs/" + s.log, query: query})
			if err != nil {
				return text, err
			}
			part, err := io.ReadAll(io.LimitReader(resp.Body, logTail))
			resp.Body.Close() //nolint:errcheck // nothing can be lost by it
			if err != nil {
				return text, err
			}
			text = append(text, part...)
		}
	}
	return text, nil
}

func (n *nomad) close() { n.api.close() }
