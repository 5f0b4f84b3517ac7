package main

import (
	"errors"
	"fmt"
	"slices"
	"strconv"
	"time"

	"github.com/hashicorp/consul/api"
)

// fleet is what stands in Consul. It is written in transactions, straight into the catalogue: one Consul agent could not stand in for
// those of all nodes, which keep the TTLs of their own backends only.
type fleet struct {
	o        options
	consul   *api.Client
	backends [][]backend // by node
	ops      api.TxnOps  // to be committed
	touched  map[string]bool
}

type backend struct {
	id, model string
	ready     bool
}

func nodeName(node int) string { return fmt.Sprintf("node-%03d", node) }

func newFleet(o options, consul *api.Client) *fleet {
	return &fleet{o: o, consul: consul, backends: make([][]backend, o.nodes), touched: map[string]bool{}}
}

// register puts all nodes, their agents and their backends into Consul.
func (f *fleet) register() error {
	for node := range f.o.nodes {
		name, addr := nodeName(node), fmt.Sprintf("10.0.%d.%d", node/250, node%250)
		f.ops = append(f.ops, &api.TxnOp{Node: &api.NodeTxnOp{Verb: api.NodeSet, Node: api.Node{Node: name, Address: addr}}})
		f.service(node, "pilotlight-agent:"+name, "pilotlight-agent", 0, map[string]string{"pilotlight-node": name})
		f.check(node, "pilotlight-agent:"+name, api.HealthPassing, "")
	}
	for i := range f.o.backends {
		model := fmt.Sprintf("model-%03d", i%f.o.models)
		f.add(i%f.o.nodes, backend{id: fmt.Sprintf("%s/%s-%d", nodeName(i%f.o.nodes), model, i/f.o.models), model: model, ready: true})
	}
	return f.commit()
}

func (f *fleet) service(node int, id, name string, port int, meta map[string]string) {
	f.ops = append(f.ops, &api.TxnOp{Service: &api.ServiceTxnOp{Verb: api.ServiceSet, Node: nodeName(node), Service: api.AgentService{ID: id, Service: name, Port: port, Meta: meta}}})
}

func (f *fleet) check(node int, service, status, output string) {
	f.ops = append(f.ops, &api.TxnOp{Check: &api.CheckTxnOp{Verb: api.CheckSet, Check: api.HealthCheck{
		Node: nodeName(node), CheckID: "service:" + service, Name: "pilotlight", ServiceID: service, Status: status, Output: output,
	}}})
}

// add registers one more backend, as its agent would.
func (f *fleet) add(node int, b backend) {
	f.backends[node] = append(f.backends[node], b)
	f.service(node, b.id, b.model, 8000+len(f.backends[node]), map[string]string{
		"pilotlight-model": b.model, "pilotlight-engine": "vllm", "pilotlight-slots": "64", "pilotlight-gpus": "1", "pilotlight-memory": "40GiB",
		"pilotlight-node": nodeName(node), "pilotlight-agent": nodeName(node), "pilotlight-wake": "process",
	})
	f.mirror(node, b)
}

// mirror puts a backend's state into its check, and touches its service's key.
func (f *fleet) mirror(node int, b backend) (state string) {
	state, status := "ready", api.HealthPassing
	if !b.ready {
		state, status = "asleep", api.HealthWarning
	}
	f.check(node, b.id, status, state+": so it was decided")
	f.touched[b.model] = true
	return state
}

// move changes the state of a node's i-th backend, and gives its ID and its state.
func (f *fleet) move(node, i int) (id, state string) {
	b := &f.backends[node][i%len(f.backends[node])]
	b.ready = !b.ready
	return b.id, f.mirror(node, *b)
}

// commit writes what is to be written.
func (f *fleet) commit() error {
	for model := range f.touched {
		f.ops = append(f.ops, &api.TxnOp{KV: &api.KVTxnOp{Verb: api.KVSet, Key: "pilotlight/changed/" + model, Value: strconv.AppendInt(nil, time.Now().UnixNano(), 36)}})
	}
	for ops := range slices.Chunk(f.ops, 64) {
		ok, answer, _, err := f.consul.Txn().Txn(ops, nil)
		if err == nil && !ok {
			err = errors.New(answer.Errors[0].What)
		}
		if err != nil {
			return fmt.Errorf("write to Consul: %w", err)
		}
	}
	f.ops = nil
	clear(f.touched)
	return nil
}
