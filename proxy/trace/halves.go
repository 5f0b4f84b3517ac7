package trace

import "time"

// halves is a map that forgets: once its younger half is full, or has been filled for long enough, the older one goes. What is put there again is young
// again. It belongs to whoever locks it.
type halves[K comparable, V any] struct {
	most       int           // of each half
	age        time.Duration // that a half is filled for; 0: until it is full
	since      time.Time     // the younger one has been
	young, old map[K]V
}

func newHalves[K comparable, V any](most int, age time.Duration) halves[K, V] {
	return halves[K, V]{most: most, age: age, young: map[K]V{}, old: map[K]V{}}
}

// get is what is known of k.
func (h *halves[K, V]) get(k K) (V, bool) {
	v, ok := h.young[k]
	if !ok {
		v, ok = h.old[k]
	}
	return v, ok
}

// put keeps v, and returns what is forgotten for that, if anything is. Whoever calls it knows the time already.
func (h *halves[K, V]) put(k K, v V, now time.Time) (forgotten map[K]V) {
	delete(h.old, k)
	if h.since.IsZero() {
		h.since = now
	}
	if _, there := h.young[k]; !there && len(h.young) >= h.most || h.age > 0 && now.Sub(h.since) >= h.age {
		forgotten = h.old
		h.old, h.young, h.since = h.young, map[K]V{}, now
	}
	h.young[k] = v
	return forgotten
}

// remove forgets k.
func (h *halves[K, V]) remove(k K) {
	delete(h.young, k)
	delete(h.old, k)
}
