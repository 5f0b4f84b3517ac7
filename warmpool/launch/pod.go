package launch

import (
	"fmt"
	"slices"
	"strconv"
	"time"
)

// pod is what we need of a pod (kubernetes.io/docs/reference/kubernetes-api/workload-resources/pod-v1).
type pod struct {
	Metadata struct {
		Name, UID         string
		DeletionTimestamp time.Time
		CreationTimestamp time.Time
	}
	Spec struct {
		Containers []struct {
			Name  string
			Ports []struct {
				Name          string
				ContainerPort int
				Protocol      string
			}
		}
	}
	Status struct {
		Phase, Reason, Message, PodIP string
		Conditions                    []condition
		InitContainerStatuses         []containerStatus
		ContainerStatuses             []containerStatus
	}
}

type condition struct{ Type, Status, Reason, Message string }

type containerStatus struct {
	Name, ContainerID string
	RestartCount      int
	State, LastState  struct {
		Waiting    *struct{ Reason, Message string }
		Running    *struct{}
		Terminated *struct {
			ExitCode        int
			Reason, Message string
		}
	}
}

// hopeless are the reasons for which a container waits that do not pass unless a person does something, or that come after
// Kubernetes has tried more than once.
func hopeless() []string {
	return []string{
		"CrashLoopBackOff", "ImagePullBackOff", "ErrImageNeverPull", "InvalidImageName", "ImageInspectError",
		"CreateContainerConfigError", "CreateContainerError", "RunContainerError",
	}
}

// over says that the pod has ended and holds nothing any more.
func (p *pod) over() bool { return p.Status.Phase == "Succeeded" || p.Status.Phase == "Failed" }

func (p *pod) ending() bool { return !p.Metadata.DeletionTimestamp.IsZero() }

func (p *pod) status(container string) containerStatus {
	i := slices.IndexFunc(p.Status.ContainerStatuses, func(s containerStatus) bool { return s.Name == container })
	if i < 0 {
		return containerStatus{}
	}
	return p.Status.ContainerStatuses[i]
}

// runs says whether the container runs and can be reached.
func (p *pod) runs(container string) bool {
	return p.Status.PodIP != "" && p.status(container).State.Running != nil
}

// best is the pod to look at: one that runs, the oldest of them, else the newest that is neither over nor ending, else one
// that failed.
func best(pods []pod, container func(*pod) string) *pod {
	rank := func(p *pod) int {
		switch {
		case p.ending() || p.Status.Phase == "Succeeded":
			return 0
		case p.over():
			return 1
		case p.runs(container(p)):
			return 3
		}
		return 2
	}
	var found *pod
	for i := range pods {
		p := &pods[i]
		if rank(p) == 0 {
			continue
		}
		older := found != nil && p.Metadata.CreationTimestamp.Before(found.Metadata.CreationTimestamp)
		if found == nil || rank(p) > rank(found) || rank(p) == rank(found) && older == (rank(p) == 3) {
			found = p
		}
	}
	return found
}

// said is what Kubernetes says of the pod, and whether it fails again and again.
func (p *pod) said() (text string, failed bool) {
	text = "its pod " + p.Metadata.Name + " is " + p.Status.Phase
	if p.over() { // evicted, as a rule; its controller makes another
		return text + because(p.Status.Reason, p.Status.Message), false
	}
	for _, c := range p.Status.Conditions {
		if c.Type == "PodScheduled" && c.Status == "False" {
			return text + because(c.Reason, c.Message), false
		}
	}
	for _, s := range slices.Concat(p.Status.InitContainerStatuses, p.Status.ContainerStatuses) {
		switch waiting, ended := s.State.Waiting, s.State.Terminated; {
		case waiting != nil && waiting.Reason != "PodInitializing":
			text += "; container " + s.Name + because(waiting.Reason, waiting.Message) + lastEnd(s)
			failed = failed || slices.Contains(hopeless(), waiting.Reason)
		case ended != nil && ended.ExitCode != 0:
			text += fmt.Sprintf("; container %s exited with code %d%s", s.Name, ended.ExitCode, because(ended.Reason, ended.Message))
		}
	}
	return text, failed
}

// lastEnd is how the container ended in its life before.
func lastEnd(s containerStatus) string {
	if ended := s.LastState.Terminated; ended != nil {
		return fmt.Sprintf(" (it exited with code %d%s)", ended.ExitCode, because(ended.Reason, ""))
	}
	return ""
}

func because(reason, message string) string {
	switch {
	case reason == "" && message == "":
		return ""
	case message == "":
		return ": " + reason
	}
	return ": " + reason + ": " + readable([]byte(message))
}

// port of the container, by its name or number; "" is the only one.
func (p *pod) port(container, port string) (string, error) {
	if _, err := strconv.Atoi(port); err == nil {
		return port, nil
	}
	var names []string
	for _, c := range p.Spec.Containers {
		if c.Name != container {
			continue
		}
		for _, has := range c.Ports {
			number := strconv.Itoa(has.ContainerPort)
			names = append(names, has.Name+":"+number)
			if has.Name == port && port != "" || port == "" && len(c.Ports) == 1 {
				return number, nil
			}
		}
	}
	return "", fmt.Errorf("%w: container %s of pod %s has the ports %v; say which one by kubernetes.port", errNoAddress, container, p.Metadata.Name, names)
}
