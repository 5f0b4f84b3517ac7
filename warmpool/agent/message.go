package agent

import (
	"cmp"
	"encoding/json"
	"errors"
	"fmt"
	"time"

	"pilotlight/config"
	"pilotlight/probe/meter"
	"pilotlight/router"
)

// Up is what an edge tells an agent. A part that is nil is as it was in the message before; the first of a stream has all parts.
type Up struct {
	Edge  *Edge                   `json:",omitempty"` // in the first message of a stream
	Count uint64                  // of the edge's messages in this stream, from 1; Down.Heard repeats it
	Ack   uint64                  `json:",omitempty"` // Down.Seq of the last message that the edge acts on; Uses were counted after that
	Uses  map[string]Use          `json:",omitempty"` // by backend; those that are not in it are as they were
	Asks  []Ask                   `json:",omitzero"`  // all that is asked for now: what is no longer in it is called off
	Held  map[string]router.Grant `json:",omitempty"` // in the first message: the slots that the edge goes by at this moment
	// Wishes are all that the planner wants of the node's backends, if the edge is the planner. They are said anew before they lapse.
	Wishes map[string]Wish `json:",omitzero"`
	// Flights are the requests at the node's backends of which there is news; in the first message of a stream, and
	// after it, all of which the agent may not have heard.
	Flights []Flight `json:",omitempty"`
	Bye     bool     `json:",omitempty"` // the edge ends, and has nothing in flight any more
}

// Edge is who an edge is.
type Edge struct {
	ID      string        // of its state directory: while one process has it no other does
	Life    string        // of this process
	Name    string        // for people
	Version string        // of pilotlight
	Reach   time.Duration // the longest time from connecting to a backend for a request until it has all of it, or it is broken off
}

// Use is router.Use with a time that means the same on both hosts.
type Use struct {
	InFlight int           `json:",omitempty"`
	Waiting  int           `json:",omitempty"`
	Bytes    int64         `json:",omitempty"`
	Idle     time.Duration // since Last
	Granted  int64         `json:",omitempty"`
}

// Wish is router.Wish with times that mean the same on both hosts.
type Wish struct {
	Tier  router.Tier
	Age   time.Duration // since it was made
	For   time.Duration // it counts
	Why   string
	Worth float64 `json:",omitempty"`
}

// Ask is something that an edge wants of an agent.
type Ask struct {
	ID   uint64 // unique in the edge's life
	Verb Verb
	Name string // a backend to wake, a model to put to sleep or to stop
}

// Verb is what is wanted.
type Verb string

// The verbs.
const (
	Wake  Verb = "wake"
	Sleep Verb = "sleep"
	Stop  Verb = "stop"
)

// Down is what an agent tells an edge. A part that is nil is as it was in the message before.
type Down struct {
	Seq     uint64                  // of the agent's messages to this edge
	Heard   uint64                  // Up.Count of the last message that the agent acts on
	Held    time.Duration           // since that came
	At      time.Time               // by the agent's clock: so are all times in the message
	Lease   time.Duration           // how long the agent counts on the edge after it has heard it
	Node    *Node                   `json:",omitempty"`
	Read    *router.Readings        `json:",omitempty"` // since the message before
	Slots   map[string]router.Grant `json:",omitzero"`  // of the ready backends, how many the edge may use; none of those that are not in it
	Answers []Answer                `json:",omitempty"` // to asks that are not called off yet
	Uses    map[string]Use          `json:",omitempty"` // how much backends are used over all edges; those that are not in it are as they were
	Settled []meter.Settled         `json:",omitempty"` // GPU time of the edge's flights
	Book    *Book                   `json:",omitempty"` // to one edge only
}

// Flight is meter.Flight with times that mean the same on both hosts.
type Flight struct {
	ID      uint64
	Backend string
	Age     time.Duration // since it began
	First   time.Duration `json:",omitempty"` // from then until the first of its answer; 0: nothing has come
	Took    time.Duration `json:",omitempty"` // from then until it ended; 0: it is in flight
	Prompt  int           `json:",omitempty"`
	Pieces  int           `json:",omitempty"`
	Tokens  int           `json:",omitempty"`
	Whole   bool          `json:",omitempty"`
}

// said is a flight as it is told.
func said(f *meter.Flight, now time.Time) Flight {
	told := Flight{ID: f.ID, Backend: f.Backend, Age: now.Sub(f.Began), Prompt: f.Prompt, Pieces: f.Pieces, Tokens: f.Tokens, Whole: f.Whole}
	if !f.First.IsZero() {
		told.First = max(1, f.First.Sub(f.Began))
	}
	if !f.Ended.IsZero() {
		told.Took = max(1, f.Ended.Sub(f.Began))
	}
	return told
}

// heard is a flight as it was told at a time.
func (f *Flight) heard(now time.Time) meter.Flight {
	is := meter.Flight{ID: f.ID, Backend: f.Backend, Began: now.Add(-f.Age), Prompt: f.Prompt, Pieces: f.Pieces, Tokens: f.Tokens, Whole: f.Whole}
	if f.First > 0 {
		is.First = is.Began.Add(f.First)
	}
	if f.Took > 0 {
		is.Ended = is.Began.Add(f.Took)
	}
	return is
}

// Book is GPU time of the node that belongs to no request. It is told until it is acknowledged, under the same number, so that it counts once.
type Book struct {
	Life     string // of the agent's process
	Number   uint64 // from 1
	Accounts []meter.Account
}

// Node is a node as its agent knows it.
type Node struct {
	router.Node
	Version string                  // of pilotlight
	Memory  []config.Size           // of each GPU
	Models  map[string]config.Model // without what the agent alone needs: commands, hooks
}

// Answer is what became of an ask.
type Answer struct {
	ID      uint64
	Error   string          `json:",omitempty"` // why not; empty: done
	Refusal *router.Refusal `json:",omitempty"` // where the error is one that clients may read
}

// answer tells an error, or that there was none.
func answer(id uint64, err error) Answer {
	a := Answer{ID: id}
	if err != nil {
		a.Error = cmp.Or(err.Error(), "it failed without a reason")
		a.Refusal, _ = errors.AsType[*router.Refusal](err)
	}
	return a
}

// err is what answer was told.
func (a *Answer) err() error {
	switch {
	case a.Refusal != nil:
		return a.Refusal
	case a.Error != "":
		return errors.New(a.Error)
	}
	return nil
}

// codec writes messages as JSON: they are few, and a field that one side does not know yet is no reason to fall silent.
type codec struct{}

func (codec) Name() string { return "json" }

func (codec) Marshal(v any) ([]byte, error) {
	b, err := json.Marshal(v)
	if err != nil {
		return nil, fmt.Errorf("write a message of the link: %w", err)
	}
	return b, nil
}

func (codec) Unmarshal(b []byte, v any) error {
	if err := json.Unmarshal(b, v); err != nil {
		return fmt.Errorf("read a message of the link: %w", err)
	}
	return nil
}
