package scenario

import (
	"cmp"
	"slices"
	"time"
)

// Prices are what an hour of a GPU costs in US dollars, by who is asked for it.
type Prices struct {
	GPUHour    float64       // of a GPU that is rented by the hour
	Serverless []Serverless  // of those who charge by the second
	Window     time.Duration // how long a serverless GPU is kept, and charged for, after its last request
}

// Serverless is one who charges by the second, from the start of a container to its end.
type Serverless struct {
	Name   string
	Second float64
}

// PublicPrices are those of a GPU with 24 GB (NVIDIA L4): AWS EC2 g6.xlarge on demand in us-east-1, the list price as we know
// it; docs.runpod.io/serverless/pricing (flex) and modal.com/pricing, read in May 2026. The window is Modal's scaledown_window unless one asks for another.
func PublicPrices() Prices {
	return Prices{
		GPUHour:    0.8048,
		Serverless: []Serverless{{"RunPod flex, L4", 0.00019}, {"Modal, L4", 0.000222}},
		Window:     time.Minute,
	}
}

// span is a time, after the load began.
type span struct{ begin, end time.Duration }

// together are spans of which those that are less than a gap apart are one.
func together(all []span, gap time.Duration) (joined []span) {
	sorted := slices.SortedFunc(slices.Values(all), func(a, b span) int { return cmp.Compare(a.begin, b.begin) })
	for _, s := range sorted {
		if n := len(joined); n > 0 && s.begin <= joined[n-1].end+gap {
			joined[n-1].end = max(joined[n-1].end, s.end)
			continue
		}
		joined = append(joined, s)
	}
	return joined
}

// serverless are the times for which serverless GPUs would be charged: a container of a model starts when a request finds none with a slot,
// which takes load, and ends a window after its last request. Requests are spread over as few containers as have slots for them.
func serverless(requests []span, slots int, load, window time.Duration) (charged []span) {
	sorted := slices.SortedFunc(slices.Values(requests), func(a, b span) int { return cmp.Compare(a.begin, b.begin) })
	lanes := [][]span{} // one after another, as slots take them
	for _, r := range sorted {
		free := slices.IndexFunc(lanes, func(lane []span) bool { return lane[len(lane)-1].end <= r.begin })
		if free < 0 {
			lanes, free = append(lanes, nil), len(lanes)
		}
		lanes[free] = append(lanes[free], r)
	}
	for container := range slices.Chunk(lanes, max(slots, 1)) {
		for _, s := range together(slices.Concat(container...), window) {
			charged = append(charged, span{s.begin - load, s.end + window})
		}
	}
	return charged
}
