package ledger

import (
	"time"

	"pilotlight/proxy"
	"pilotlight/router"
)

// Ended writes a request down in the minute in which it ended.
func (l *Ledger) Ended(v *proxy.Visit) {
	end := v.At.Add(v.Total)
	k := Key{Minute: minuteOf(end), Tenant: v.Tenant, Model: v.Model, Backend: v.Backend, Kind: KindRequest}
	s := Sums{Requests: 1, Prompt: v.PromptTokens, Output: v.Tokens, Waited: v.Waited}
	switch v.Outcome {
	case router.OK:
		s.OK = 1
	case router.Refused:
		s.Refused = 1
	case router.Left:
		s.Left = 1
	case router.Broken:
		s.Broken = 1
	}
	if v.Cold {
		s.Cold = 1
	}
	if v.Backend != "" {
		s.Served = max(0, v.Total-v.Waited)
		k.Rate = l.Rate(v.Backend, "").Nano
	}
	sh := l.shardOf(v.Number)
	sh.mu.Lock()
	defer sh.mu.Unlock()
	l.add(sh, k, &s)
	if v.Backend != "" {
		*sh.lateAt(v.Number) = ended{v.Number, int32(k.Minute)}
	}
}

// Settled adds what a request took of GPUs to its minute, or to that in which it was used, if the request goes on or ended long ago, or in another
// life of this edge.
func (l *Ledger) Settled(share *proxy.Share) {
	k := Key{Minute: minuteOf(share.At), Tenant: share.Tenant, Model: share.Model, Backend: share.Backend, Kind: KindRequest}
	k.Rate = l.Rate(share.Backend, "").Nano
	s := Sums{GPU: share.GPU, Microjoules: micro(share.Joules)}
	if share.Method != measured {
		s.Estimated = share.GPU
	}
	sh := l.shardOf(share.ID)
	sh.mu.Lock()
	defer sh.mu.Unlock()
	if at := sh.lateAt(share.ID); at.request == share.ID && at.minute > 0 {
		k.Minute = int64(at.minute)
	}
	l.add(sh, k, &s)
}

// measured is the method of GPU time that a driver measured.
const measured = "nvml"

// Accounted writes down what belongs to no request.
func (l *Ledger) Accounted(a *proxy.Account) {
	rate := l.Rate(a.Backend, a.Node)
	k := Key{Minute: minuteOf(a.From), Model: a.Model, Backend: a.Backend, Node: a.Node, Kind: a.Kind, Rate: rate.Nano}
	s := Sums{GPU: a.GPU, Microjoules: micro(a.Joules)}
	if rate.Memory > 0 {
		s.Held = time.Duration(a.MemoryByteSeconds / float64(rate.Memory) * float64(time.Second))
	}
	if a.Method != measured {
		s.Estimated = a.GPU
	}
	sh := l.shardOf(l.accounts.Add(1)) // a large fleet has more of them in a second than one shard takes
	sh.mu.Lock()
	defer sh.mu.Unlock()
	l.add(sh, k, &s)
}

// memoryOfRatio is how many seconds of service a ratio remembers: what was longer ago counts half at each halving.
const memoryOfRatio = 600

// weigh takes what was written into the ratios.
func (l *Ledger) weigh(written map[Key]*Sums) {
	l.mu.Lock()
	defer l.mu.Unlock()
	for k, s := range written {
		if k.Kind != KindRequest || k.Backend == "" {
			continue
		}
		r, known := l.ratios[k.Backend]
		r.gpu, r.served = r.gpu+s.GPU.Seconds(), r.served+s.Served.Seconds()
		if r.served > memoryOfRatio {
			r.gpu, r.served = r.gpu/2, r.served/2
		}
		if known || len(l.ratios) < maxRatios {
			l.ratios[k.Backend] = r
		}
	}
}

// Estimate guesses what a request took of GPUs before that is settled: by what others of its backend took, as far as it is written, of the time in
// which they were served. Where nothing is known it is that time itself. The cost is in billionths of the currency.
func (l *Ledger) Estimate(backend string, served time.Duration) (gpu time.Duration, cost int64) {
	l.mu.Lock()
	r := l.ratios[backend]
	l.mu.Unlock()
	gpu = served
	if r.gpu > 0 && r.served > 0 {
		gpu = time.Duration(float64(served) * r.gpu / r.served)
	}
	return gpu, Cost(gpu, l.Rate(backend, "").Nano)
}
