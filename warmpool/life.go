package warmpool

import "pilotlight/router"

// event is something that happened to a backend.
type event uint8

const (
	wanted    event = iota // somebody asked for it
	cameUp                 // its engine says that it can answer
	dismissed              // it is to leave the GPU: idle, evicted, or a person said so
	slept                  // it sleeps
	halted                 // it has stopped, and so has its process
	fellOver               // its process ended by itself, or a wake failed
	rested                 // it has been down long enough after a failure
)

func (e event) String() string {
	return [...]string{"wanted", "came up", "dismissed", "slept", "halted", "fell over", "rested"}[e]
}

// life is every move a backend can make. A pair that is not here is ignored: events arrive late, and a late event must
// never move a backend. A stopped backend comes up or sleeps without having been woken when its keeper finds it so at
// start.
var life = map[router.State]map[event]router.State{
	router.Stopped:  {wanted: router.Waking, cameUp: router.Ready, slept: router.Asleep},
	router.Asleep:   {wanted: router.Waking, halted: router.Stopped, fellOver: router.Failed},
	router.Waking:   {cameUp: router.Ready, slept: router.Asleep, halted: router.Stopped, fellOver: router.Failed},
	router.Ready:    {dismissed: router.Draining, fellOver: router.Failed},
	router.Draining: {wanted: router.Ready, slept: router.Asleep, halted: router.Stopped, fellOver: router.Failed},
	router.Failed:   {rested: router.Stopped},
}
