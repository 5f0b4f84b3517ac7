package simulate

import (
	"context"
	"fmt"
	"hash/fnv"
	"io"
	"slices"
	"sync/atomic"
	"time"

	"pilotlight/warmpool/policy"
)

// Memory is a pool of fixed size, in which any model may be anywhere: GPU memory as if it were of one GPU, and the host's for those that sleep.
//
// Nothing is unloaded until memory is needed. Then the idle model that its policy thinks is worth the least goes to the host's memory, where in turn
// the one that is worth the least goes to disk. Who finds no room, since all are busy, waits until somebody ends; in order.
type Memory struct {
	GPU, Host int64 // bytes
	Size      func(model string) int64
	Disk      func(size int64) time.Duration // how long a load takes from disk
	Wake      func(size int64) time.Duration // and from the host's memory

	From    time.Duration // what arrives earlier is learned from and not counted
	Ahead   int           // loads that may begin in a minute before somebody asks, if the policy wants any
	Handled *atomic.Int64 // counts uses as they are handled; nil: nobody looks
}

const gigabyte = 1_000_000_000

// HashSize is a size for a model of which nobody knows it: 6, 10, 18, 34 or 68 GB, by a hash of its name.
func HashSize(model string) int64 {
	h := fnv.New32a()
	_, _ = io.WriteString(h, model)
	switch n := h.Sum32() % 100; {
	case n < 20:
		return 6 * gigabyte
	case n < 50:
		return 10 * gigabyte
	case n < 75:
		return 18 * gigabyte
	case n < 90:
		return 34 * gigabyte
	}
	return 68 * gigabyte
}

// DiskTime is how long a model server takes to start and to read weights from disk: 15 s, and 2 GB in a second.
func DiskTime(size int64) time.Duration { return 15*time.Second + transfer(size, 2*gigabyte) }

// WakeTime is how long it takes to wake from the host's memory: 0.3 s, and 20 GB in a second.
func WakeTime(size int64) time.Duration { return 300*time.Millisecond + transfer(size, 20*gigabyte) }

func transfer(size, perSecond int64) time.Duration {
	return time.Duration(float64(size) / float64(perSecond) * float64(time.Second))
}

// late is the delay from which a request is late.
const late = 5 * time.Second

// PoolResult is what a policy would have made of the memory.
type PoolResult struct {
	Requests, Rows int64
	Disk, DiskRows int64 // that found their model on disk
	Host, HostRows int64 // that found it in the host's memory
	Late, LateRows int64 // that waited for more than 5 s, for a load or for room
	Delay          time.Duration
	AheadDisk      float64 // loads a day before somebody asked, from disk
	AheadHost      float64
}

// RunPool replays demand in fixed memory. It ends early, with an error, when ctx does.
func RunPool(ctx context.Context, d *Demand, p policy.Ranker, m Memory) (*PoolResult, error) {
	if m.From < 0 || m.From >= d.Length {
		return nil, fmt.Errorf("the recording is %s long: nothing is left to measure from %s on", d.Length, m.From)
	}
	for _, name := range d.Models {
		if size := m.Size(name); size > m.GPU {
			return nil, fmt.Errorf("%s takes %.1f GB, and there are %.1f GB of GPU memory", name, float64(size)/gigabyte, float64(m.GPU)/gigabyte)
		}
	}
	w := newPool(d, p, m)
	err := d.each(ctx, m.Handled, func(u use) {
		w.until(u.at)
		w.arrive(&w.models[u.model], u)
	})
	for err == nil && len(w.line) > 0 { // somebody is busy, else nobody would wait
		w.until(w.agenda[0].due + 1)
	}
	return w.result(d.Length - m.From), err
}

// newPool has all models on disk.
func newPool(d *Demand, p policy.Ranker, m Memory) *pool {
	if seer, is := p.(policy.Clairvoyant); is {
		seer.Foresee(d.foresee())
	}
	w := &pool{Memory: m, policy: p, began: d.Began, day: 24 * time.Hour, minute: time.Minute, gpu: m.GPU, host: m.Host}
	for i, name := range d.Models {
		w.models = append(w.models, resident{model: model{name: name, place: -1, number: i}, size: m.Size(name)})
	}
	return w
}

// tier is where a model is.
type tier int

const (
	onDisk tier = iota
	onHost
	onGPU
)

// resident is one model in the pool.
type resident struct {
	model
	size    int64
	tier    tier
	waiting []use // that came before there was room
}

// idleAt says whether it is on its GPU and could leave.
func (r *resident) idleAt(now time.Duration) bool {
	return r.tier == onGPU && !r.busy && r.loaded <= now
}

// pool is demand, memory and a policy in virtual time.
type pool struct {
	Memory
	policy      policy.Ranker
	began       time.Time
	day, minute time.Duration // the next of each
	models      []resident
	agenda      agenda
	gpu, host   int64       // free
	line        []*resident // that wait for room

	counted PoolResult
	delay   float64    // seconds, of all requests
	ahead   [onGPU]int // loads that began before somebody asked, by where from
}

// until lets pass all that is due before a time.
func (w *pool) until(now time.Duration) {
	for {
		due := min(w.minute, w.day)
		if len(w.agenda) > 0 {
			due = min(due, w.agenda[0].due)
		}
		switch {
		case due >= now:
			return
		case due == w.day:
			w.policy.Day(w.began.Add(w.day))
			w.day += 24 * time.Hour
		case due == w.minute:
			w.wakeAhead(due)
			w.minute += time.Minute
		default:
			w.ended(&w.models[w.agenda[0].number], due)
		}
	}
}

// ended makes a model idle, and gives its room to who waits.
func (w *pool) ended(r *resident, now time.Duration) {
	w.agenda.remove(&r.model)
	r.busy, r.idle = false, now
	w.policy.Ended(r.name, w.began.Add(now))
	for len(w.line) > 0 && w.admit(w.line[0], now) {
		next := w.line[0]
		w.line = w.line[1:]
		for _, u := range next.waiting {
			w.serve(next, u, now)
		}
		next.waiting = nil
	}
}

// arrive handles one use.
func (w *pool) arrive(r *resident, u use) {
	w.policy.Arrived(r.name, w.began.Add(u.at), int(u.requests))
	r.known = true
	if u.at >= w.From {
		w.counted.Rows++
		w.counted.Requests += u.requests
		switch r.tier {
		case onDisk:
			w.counted.DiskRows++
			w.counted.Disk += u.requests
		case onHost:
			w.counted.HostRows++
			w.counted.Host += u.requests
		case onGPU:
		}
	}
	if r.tier != onGPU && (len(r.waiting) > 0 || !w.admit(r, u.at)) {
		if len(r.waiting) == 0 {
			w.line = append(w.line, r)
		}
		r.waiting = append(r.waiting, u)
		return
	}
	w.serve(r, u, u.at)
}

// serve handles a use of a model that is on its GPU, or on its way there.
func (w *pool) serve(r *resident, u use, now time.Duration) {
	begin := max(now, r.loaded)
	if delay := begin - u.at; delay > 0 && u.at >= w.From {
		w.delay += delay.Seconds() * float64(u.requests)
		if delay > late {
			w.counted.LateRows++
			w.counted.Late += u.requests
		}
	}
	if r.busy {
		r.end = max(r.end, begin+u.took)
	} else {
		r.end = begin + u.took
	}
	r.busy = true
	w.agenda.at(&r.model, r.end)
}

// admit brings a model to its GPU, if there is room or can be made.
func (w *pool) admit(r *resident, now time.Duration) bool {
	victims, free := w.victims(r.size, now, func(*resident) bool { return true })
	if free < r.size {
		return false
	}
	w.load(r, victims, now)
	return true
}

// victims are the idle models that are worth the least, until there is room for so much.
func (w *pool) victims(size int64, now time.Duration, may func(*resident) bool) (victims []valued, free int64) {
	free = w.gpu
	if free >= size {
		return nil, free
	}
	var all []valued
	for i := range w.models {
		if r := &w.models[i]; r.idleAt(now) && may(r) {
			all = append(all, valued{r, w.worth(r, now, onGPU)})
		}
	}
	slices.SortFunc(all, valued.compare)
	for i, v := range all {
		if free += v.size; free >= size {
			return all[:i+1], free
		}
	}
	return all, free
}

// valued is a model and what its memory is worth.
type valued struct {
	*resident
	worth float64
}

func (v valued) compare(other valued) int {
	switch {
	case v.worth < other.worth:
		return -1
	case v.worth > other.worth:
		return 1
	}
	return v.number - other.number
}

// worth is that of keeping a model in a tier, and not in the one below.
func (w *pool) worth(r *resident, now time.Duration, in tier) float64 {
	miss := w.Disk(r.size)
	switch {
	case in == onHost:
		miss -= w.Wake(r.size)
	case r.size <= w.Memory.Host:
		miss = w.Wake(r.size)
	}
	return w.policy.Worth(w.holding(r, now, in, miss))
}

func (w *pool) holding(r *resident, now time.Duration, in tier, miss time.Duration) policy.Holding {
	return policy.Holding{Model: r.name, Now: w.began.Add(now), Idle: w.began.Add(r.idle), Asleep: in == onHost, Size: r.size, Miss: miss}
}

// load evicts and loads.
func (w *pool) load(r *resident, victims []valued, now time.Duration) {
	took := w.Disk(r.size)
	if r.tier == onHost {
		took = w.Wake(r.size)
		w.host += r.size
	}
	r.tier, r.loaded = onGPU, now+took
	w.gpu -= r.size
	for _, v := range victims {
		w.gpu += v.size
		w.sleep(v.resident, now)
		w.policy.Evicted(w.holding(v.resident, now, onGPU, 0), v.worth, v.tier == onDisk)
	}
}

// sleep moves a model to the host's memory, or to disk if what is there is worth more.
func (w *pool) sleep(r *resident, now time.Duration) {
	r.tier = onDisk
	if r.size > w.Memory.Host {
		return
	}
	dropped, free := w.dropped(r, now)
	if free < r.size {
		return
	}
	for _, v := range dropped {
		w.policy.Evicted(w.holding(v.resident, now, onHost, 0), v.worth, true)
		v.tier = onDisk
		w.host += v.size
	}
	r.tier = onHost
	w.host -= r.size
}

// dropped are those that leave the host's memory for a model: they are worth less, and as many as it needs.
func (w *pool) dropped(r *resident, now time.Duration) (victims []valued, free int64) {
	free = w.host
	if free >= r.size {
		return nil, free
	}
	own := w.worth(r, now, onHost)
	var all []valued
	for i := range w.models {
		if other := &w.models[i]; other.tier == onHost {
			if v := (valued{other, w.worth(other, now, onHost)}); v.worth <= own {
				all = append(all, v)
			}
		}
	}
	slices.SortFunc(all, valued.compare)
	for i, v := range all {
		if free += v.size; free >= r.size {
			return all[:i+1], free
		}
	}
	return nil, free
}
