// Package probe says what GPUs and model servers are doing. It looks; it changes nothing.
package probe

import "time"

// Status is how far a model server is from answering.
type Status uint8

// Healthy is not awake: Loading, Asleep and Ready servers all answer their health check.
const (
	Away    Status = iota // nothing listens, or it does not answer
	Loading               // it answers, and says that it is not ready yet
	Asleep                // it answers, and its engine sleeps
	Ready                 // it can serve the model
)

func (s Status) String() string {
	return [...]string{"away", "loading", "asleep", "ready"}[s]
}

// Reading is what a probe saw of one backend.
type Reading struct {
	At      time.Time // when it was seen; the zero time: never
	Status  Status
	Running int     // requests the engine works on; -1 where it does not say
	Waiting int     // requests in the engine's own queue; -1 where it does not say
	KVCache float64 // share of the KV cache in use, 0 to 1; -1 where it does not say
}
