package ledger

import (
	"math"
	"math/big"
	"time"
)

// Kinds of entries. Only those of KindRequest belong to a request.
const (
	KindRequest      = "request"
	KindWake         = "wake"
	KindIdle         = "idle"
	KindUnattributed = "unattributed"
	KindOthers       = "others"
)

// Key is what an entry is about. What it has been folded over is empty, or 0.
type Key struct {
	Edge    string `json:"edge,omitempty"`
	Minute  int64  `json:"minute,omitempty"` // since 1970: the first of those that it was folded over
	Tenant  string `json:"tenant,omitempty"`
	Model   string `json:"model,omitempty"`
	Backend string `json:"backend,omitempty"`
	Node    string `json:"node,omitempty"`
	Kind    string `json:"kind"`
	Rate    int64  `json:"rate,omitempty"` // billionths of the currency for an hour of a GPU
}

// Sums are what came together under a Key.
type Sums struct {
	Requests int64 `json:"requests,omitempty"`
	OK       int64 `json:"ok,omitempty"`
	Refused  int64 `json:"refused,omitempty"`
	Left     int64 `json:"left,omitempty"`
	Broken   int64 `json:"broken,omitempty"`
	Cold     int64 `json:"cold_starts,omitempty"`
	Prompt   int64 `json:"prompt_tokens,omitempty"`
	Output   int64 `json:"output_tokens,omitempty"`

	Served time.Duration `json:"served_ns,omitempty"` // from a slot to the end, summed over requests
	Waited time.Duration `json:"waited_ns,omitempty"` // in line

	GPU       time.Duration `json:"gpu_ns,omitempty"`       // summed over GPUs
	Estimated time.Duration `json:"estimated_ns,omitempty"` // of GPU, what no driver measured
	Held      time.Duration `json:"held_ns,omitempty"`      // GPU time whose memory was held: a backend with half of a GPU's memory holds half of its time

	Microjoules int64 `json:"microjoules,omitempty"`
}

// Entry is a row of the ledger.
type Entry struct {
	Key
	Sums
}

// fields are the sums in the order of the table's columns.
func (s *Sums) fields() []*int64 {
	return []*int64{
		&s.Requests, &s.OK, &s.Refused, &s.Left, &s.Broken, &s.Cold, &s.Prompt, &s.Output, (*int64)(&s.Served), (*int64)(&s.Waited),
		(*int64)(&s.GPU), (*int64)(&s.Estimated), (*int64)(&s.Held), &s.Microjoules,
	}
}

// Add adds other.
func (s *Sums) Add(other *Sums) {
	theirs := other.fields()
	for i, field := range s.fields() {
		*field += *theirs[i]
	}
}

// Cost is what a time on GPUs costs at rate billionths an hour, in billionths, rounded to the next one.
func Cost(gpu time.Duration, rate int64) int64 {
	if gpu == 0 || rate == 0 {
		return 0
	}
	product := new(big.Int).Mul(big.NewInt(int64(gpu)), big.NewInt(rate))
	product.Add(product, big.NewInt(int64(time.Hour)/2))
	return product.Div(product, big.NewInt(int64(time.Hour))).Int64()
}

// micro is a number of joules in millionths.
func micro(joules float64) int64 {
	if math.IsNaN(joules) || math.Abs(joules) > math.MaxInt64/1e7 {
		return 0
	}
	return int64(math.Round(joules * 1e6))
}

// minuteOf is a time as the ledger counts.
func minuteOf(t time.Time) int64 { return t.Unix() / 60 }
