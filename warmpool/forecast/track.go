package forecast

import (
	"math"
	"time"
)

// Slack is by how much a minute of idle time begins early, so that what comes exactly every so many minutes, give or take a second, falls into one of
// them.
const Slack = 2 * time.Second

const (
	minute = 60   // seconds
	day    = 1440 // minutes
	slack  = int64(Slack / time.Second)

	maxGaps  = 64
	gapDecay = 0.985 // by how much an idle time counts less than the one after it
	maxHours = 200   // uses after which the minutes of the hour are halved
)

// halfLives of the rates of use, in minutes.
var halfLives = [...]float64{10, 60, 360, 1440, 4320, 10080}

// session is one time in which a model was busy. Times are in seconds since 1970.
type session struct {
	start    int64
	lasted   int32
	requests int32
}

// track is what is remembered of one model: what its features are made of, and its history.
type track struct {
	name     string
	born     int64 // the minute of the first arrival
	busy     bool
	start    int64 // of this busy time, or the last; seconds
	idle     int64 // since when it is idle, seconds; 0: it was never used
	requests int   // of this busy time, or the last
	lasted   int64 // how long that was, seconds

	used  used
	rates [len(halfLives)]float64 // minutes of use, each of which counts half as much after another half-life
	at    int64                   // the minute that rates are of

	gaps  [maxGaps]float32 // the latest idle times, in minutes
	nGaps int
	hour  [60]float32 // uses by the minute of the hour
	hours float32     // their sum

	history []session // oldest first
	guard   guard
}

func (t *track) arrived(at int64, requests int) {
	if t.busy {
		t.requests += requests
		return
	}
	t.busy, t.start, t.requests = true, at, requests
	if t.born == 0 {
		t.born = at / minute
	}
	if t.idle > 0 {
		t.gaps[t.nGaps%maxGaps] = float32(at-t.idle+slack) / minute
		t.nGaps++
	}
	t.hour[at/minute%60]++
	if t.hours++; t.hours > maxHours {
		for i := range t.hour {
			t.hour[i] /= 2
		}
		t.hours /= 2
	}
}

func (t *track) ended(at int64) {
	t.busy, t.idle, t.lasted = false, at, at-t.start
	from, to := t.start/minute, max(t.start, at-1)/minute
	t.used.mark(from, to)
	passed := float64(max(0, to-t.at))
	for i, half := range halfLives {
		t.rates[i] = t.rates[i]*math.Exp2(-passed/half) + min(float64(to-from+1), half)
	}
	t.at = max(t.at, to)
}

// age is how many whole minutes the model is idle at a time.
func (t *track) age(at int64) int64 { return (at - t.idle) / minute }
