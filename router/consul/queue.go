package consul

import (
	"container/heap"
	"context"
	"sync"
	"time"
)

// A queue holds the services that are to be asked for, each once, by the time when they are due.
type queue struct {
	mu    sync.Mutex // guards what follows
	heap  dueHeap
	items map[serviceKey]*due
	kick  chan struct{} // capacity 1: something is due earlier than before
}

type due struct {
	key serviceKey
	at  time.Time
	pos int
}

func newQueue() *queue { return &queue{items: map[serviceKey]*due{}, kick: make(chan struct{}, 1)} }

// add has key asked for at the given time, or earlier if that was to be.
func (q *queue) add(key serviceKey, at time.Time) {
	q.mu.Lock()
	defer q.mu.Unlock()
	if d, ok := q.items[key]; ok {
		if at.Before(d.at) {
			d.at = at
			heap.Fix(&q.heap, d.pos)
		}
	} else {
		d = &due{key: key, at: at}
		q.items[key] = d
		heap.Push(&q.heap, d)
	}
	select {
	case q.kick <- struct{}{}:
	default:
	}
}

// remove takes key out.
func (q *queue) remove(key serviceKey) {
	q.mu.Lock()
	defer q.mu.Unlock()
	if d, ok := q.items[key]; ok {
		heap.Remove(&q.heap, d.pos)
		delete(q.items, key)
	}
}

// len is how many are in the queue.
func (q *queue) len() int {
	q.mu.Lock()
	defer q.mu.Unlock()
	return len(q.items)
}

// next takes out a key that is due now, or says how long until one is.
func (q *queue) next(now time.Time) (key serviceKey, ok bool, wait time.Duration) {
	q.mu.Lock()
	defer q.mu.Unlock()
	if len(q.heap) == 0 {
		return key, false, time.Hour
	}
	d := q.heap[0]
	if wait := d.at.Sub(now); wait > 0 {
		return key, false, wait
	}
	heap.Pop(&q.heap)
	delete(q.items, d.key)
	return d.key, true, 0
}

// run has do called for each key that is due, by at most workers at once, until ctx ends.
func (q *queue) run(ctx context.Context, workers int, do func(serviceKey)) {
	free := make(chan struct{}, workers)
	var working sync.WaitGroup
	defer working.Wait()
	for {
		key, ok, wait := q.next(time.Now())
		if !ok {
			timer := time.NewTimer(wait)
			select {
			case <-timer.C:
			case <-q.kick:
			case <-ctx.Done():
				timer.Stop()
				return
			}
			timer.Stop()
			continue
		}
		select {
		case free <- struct{}{}:
		case <-ctx.Done():
			return
		}
		working.Go(func() {
			defer func() { <-free }()
			do(key)
		})
	}
}

// dueHeap is a heap of what is due, the earliest first.
type dueHeap []*due

func (h dueHeap) Len() int           { return len(h) }
func (h dueHeap) Less(i, j int) bool { return h[i].at.Before(h[j].at) }
func (h dueHeap) Swap(i, j int) {
	h[i], h[j] = h[j], h[i]
	h[i].pos, h[j].pos = i, j
}

func (h *dueHeap) Push(x any) {
	d := x.(*due)
	d.pos = len(*h)
	*h = append(*h, d)
}

func (h *dueHeap) Pop() any {
	old := *h
	last := old[len(old)-1]
	*h = old[:len(old)-1]
	return last
}
