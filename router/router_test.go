package router

import (
	"context"
	"fmt"
	"log/slog"
	"reflect"
	"slices"
	"testing"
	"time"

	"pilotlight/config"
	"pilotlight/probe"
)

type nobody struct{}

func (nobody) Wake(context.Context, string) error { return nil }

// many is a router with nodes of backends that are ready: backend b serves model b mod models, and each of a model's is on another
// node, while there are some.
func many(nodes, models, backends int) (*Router, []Node) {
	named := map[string]config.Model{}
	for m := range models {
		named[fmt.Sprintf("m%03d", m)] = config.Model{Aliases: []string{fmt.Sprintf("alias%03d", m)}, Line: wide}
	}
	r := New(named, nobody{}, slog.New(slog.DiscardHandler))
	all := make([]Node, nodes)
	for n := range all {
		all[n].Name = fmt.Sprintf("n%03d", n)
	}
	for b := range backends {
		n := &all[(b+b/models*7)%nodes]
		n.Backends = append(n.Backends, Backend{
			ID: fmt.Sprintf("b%04d", b), Model: fmt.Sprintf("m%03d", b%models), Slots: 8, State: Ready, GPUs: []int{b % 8}, Width: 1,
		})
	}
	for _, n := range all {
		r.Observe(n)
	}
	return r, all
}

func TestAnObservationChangesOnlyTheModelsOfItsNode(t *testing.T) {
	r, nodes := many(2, 2, 4) // each node has a backend of each model
	nodes[1].Backends = slices.DeleteFunc(nodes[1].Backends, func(b Backend) bool { return b.Model != "m000" })
	r.Observe(nodes[1])
	before := r.Fleet()
	nodes[1].Backends[0].State = Draining
	r.Observe(nodes[1])
	after := r.Fleet()
	if a, b := before.Models[1], after.Models[1]; a != b || len(b.Backends) != 1 {
		t.Errorf("the model that has no backend there was made anew: %v, %v", a, b)
	}
	a, _ := before.Model("alias000")
	b, _ := after.Model("alias000")
	if a.Backends[1].State != Ready || b.Backends[1].State != Draining || b.Backends[0] != a.Backends[0] {
		t.Errorf("got %+v after %+v", b.Backends, a.Backends)
	}
	r.Observe(Node{Name: nodes[1].Name})
	if b, _ := r.Model("m000"); len(b.Backends) != 1 || b.Backends[0].Node != "n000" {
		t.Errorf("a node without backends still has some: %+v", b.Backends)
	}
}

// However it is told, the fleet is what it would be if it were made at once.
func TestObservationsAddUp(t *testing.T) {
	r, nodes := many(7, 5, 60)
	for i := range 100 {
		n := &nodes[i*3%7]
		n.Backends = append([]Backend(nil), n.Backends[i%2:]...)
		if i%5 == 0 {
			r.Update(map[string]config.Model{"m000": {}, "m001": {}, fmt.Sprintf("m%03d", 2+i%3): {}})
		}
		r.Observe(*n)
		got := backendsOf(r)
		r.Update(func() map[string]config.Model {
			same := map[string]config.Model{}
			for _, m := range r.Fleet().Models {
				same[m.Name] = m.Config
			}
			return same
		}())
		if want := backendsOf(r); !reflect.DeepEqual(got, want) {
			t.Fatalf("after %d observations: got %v, want %v", i, got, want)
		}
	}
}

func backendsOf(r *Router) map[string][]string {
	all := map[string][]string{}
	for _, m := range r.Fleet().Models {
		for _, b := range m.Backends {
			all[m.Name] = append(all[m.Name], b.ID+" on "+b.Node)
		}
	}
	return all
}

func TestWhatIsReadCountsFromTheNextRequestOn(t *testing.T) {
	r, _ := many(2, 1, 2)
	r.Read("n000", Readings{Backends: map[string]probe.Reading{"b0000": {At: time.Now(), Running: 3, Waiting: 1}, "unknown": {}}})
	lease, err := r.TryAcquire(Request{Model: "m000"})
	if err != nil || lease.Backend.ID != "b0001" {
		t.Errorf("got %v, %v, want the backend that is not busy with others' requests", lease.Backend, err)
	}
	r.Read("n000", Readings{Backends: map[string]probe.Reading{"b0000": {At: time.Now().Add(-time.Second)}}})
	if again, err := r.TryAcquire(Request{Model: "m000"}); err != nil || again.Backend.ID != "b0001" {
		t.Errorf("got %v, %v: a reading from before the last one was taken for news", again.Backend, err)
	}
}

func BenchmarkObserve(b *testing.B) {
	r, nodes := many(200, 500, 5000)
	b.ReportAllocs()
	for i := 0; b.Loop(); i++ {
		r.Observe(nodes[i%len(nodes)])
	}
}

func BenchmarkRead(b *testing.B) {
	r, nodes := many(200, 500, 5000)
	seen := make([]Readings, len(nodes))
	for i, n := range nodes {
		seen[i] = Readings{GPUs: &probe.GPUs{At: time.Now(), GPUs: make([]probe.GPU, 8)}, Backends: map[string]probe.Reading{}}
		for _, of := range n.Backends {
			seen[i].Backends[of.ID] = probe.Reading{At: time.Now(), Running: 3}
		}
	}
	b.ReportAllocs()
	for i := 0; b.Loop(); i++ {
		r.Read(nodes[i%len(nodes)].Name, seen[i%len(nodes)])
	}
}
