package main

import (
	"cmp"
	"errors"
	"fmt"
	"io"
	"slices"
	"strings"
)

// tree is a trace as Jaeger's API has it.
type tree struct {
	Data []struct {
		Spans []jaegerSpan
	}
}

type jaegerSpan struct {
	SpanID        string
	OperationName string
	References    []struct{ RefType, TraceID, SpanID string }
	StartTime     int64 // µs since 1970
	Duration      int64 // µs
	Tags          []struct {
		Key   string
		Value any
	}
}

func (t *tree) spans() []jaegerSpan {
	if len(t.Data) == 0 {
		return nil
	}
	all := t.Data[0].Spans
	slices.SortFunc(all, func(a, b jaegerSpan) int {
		return cmp.Or(cmp.Compare(a.StartTime, b.StartTime), cmp.Compare(b.Duration, a.Duration))
	})
	return all
}

func (t *tree) has(name string) bool {
	return slices.ContainsFunc(t.spans(), func(s jaegerSpan) bool { return s.OperationName == name })
}

// parent is the span that it is below.
func (s *jaegerSpan) parent() string {
	for _, r := range s.References {
		if r.RefType == "CHILD_OF" {
			return r.SpanID
		}
	}
	return ""
}

// links are the spans that it is linked with.
func (s *jaegerSpan) links() (all []string) {
	for _, r := range s.References {
		if r.RefType != "CHILD_OF" {
			all = append(all, r.SpanID)
		}
	}
	return all
}

// tag is what the span says under a key; nothing where it says nothing.
func (s *jaegerSpan) tag(key string) string {
	for _, t := range s.Tags {
		if t.Key == key {
			return fmt.Sprint(t.Value)
		}
	}
	return ""
}

// walk goes through the tree, each span after the one that it is below.
func (t *tree) walk(visit func(s *jaegerSpan, depth int)) {
	all := t.spans()
	var below func(parent string, depth int)
	below = func(parent string, depth int) {
		for i := range all {
			if all[i].parent() == parent {
				visit(&all[i], depth)
				below(all[i].SpanID, depth+1)
			}
		}
	}
	below(span, 0)
}

// told are the tags that are printed.
func told() []string {
	return []string{
		"faas.coldstart", "gen_ai.request.model", "gen_ai.usage.output_tokens", "pilotlight.wait.reason", "pilotlight.wake.from", "pilotlight.wake.evicted",
		"pilotlight.backend", "pilotlight.gpu.time", "pilotlight.gpu.method", "pilotlight.gpu.cost", "pilotlight.gpu.currency",
	}
}

// print writes a line for each span: when it began and how long it took, in ms, and some of what it says.
func (t *tree) print(w io.Writer) {
	names := map[string]string{}
	began := int64(0)
	t.walk(func(s *jaegerSpan, depth int) {
		names[s.SpanID] = s.OperationName
		if depth == 0 {
			began = s.StartTime
		}
	})
	const ms = 1000
	t.walk(func(s *jaegerSpan, depth int) {
		var says []string
		for _, key := range told() {
			if v := s.tag(key); v != "" {
				says = append(says, key+"="+v)
			}
		}
		for _, l := range s.links() {
			says = append(says, "linked with "+names[l])
		}
		name := strings.Repeat("  ", depth) + s.OperationName
		fmt.Fprintf(w, "%-42s %8.1f %8.1f  %s\n", name, float64(s.StartTime-began)/ms, float64(s.Duration)/ms, strings.Join(says, " "))
	})
}

// check wants what a request to a model that slept must have, in one tree.
func (t *tree) check(model string) error {
	const server = "POST /v1/chat/completions"
	by := map[string]*jaegerSpan{}
	t.walk(func(s *jaegerSpan, _ int) { by[s.OperationName] = s })
	var errs []error
	wake := "wake " + model
	for name, above := range map[string]string{
		"wait": server, "upstream " + server: server, "gpu": server, wake: "wait",
		"evict": wake, "memory": wake, "start": wake, "weights": wake, "first token": wake,
	} {
		switch {
		case by[name] == nil:
			errs = append(errs, fmt.Errorf("there is no span %q", name))
		case by[above] == nil || by[name].parent() != by[above].SpanID:
			errs = append(errs, fmt.Errorf("%q is not below %q", name, above))
		}
	}
	if wait, w := by["wait"], by[wake]; wait != nil && w != nil && !slices.Contains(wait.links(), w.SpanID) {
		errs = append(errs, errors.New("the wait is not linked with the wake"))
	}
	return errors.Join(errs...)
}
