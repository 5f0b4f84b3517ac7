package trace

// halves is a map that forgets: once its younger half is full the older one goes. What is put there again is young again. It belongs to whoever locks it.
type halves[K comparable, V any] struct {
	most       int // of each half
	young, old map[K]V
}

func newHalves[K comparable, V any](most int) halves[K, V] {
	return halves[K, V]{most: most, young: map[K]V{}, old: map[K]V{}}
}

// get is what is known of k.
func (h *halves[K, V]) get(k K) (V, bool) {
	v, ok := h.young[k]
	if !ok {
		v, ok = h.old[k]
	}
	return v, ok
}

// put keeps v, and returns what is forgotten for that, if anything is.
func (h *halves[K, V]) put(k K, v V) (forgotten map[K]V) {
	delete(h.old, k)
	if _, there := h.young[k]; !there && len(h.young) >= h.most {
		forgotten = h.old
		h.old, h.young = h.young, map[K]V{}
	}
	h.young[k] = v
	return forgotten
}

// remove forgets k.
func (h *halves[K, V]) remove(k K) {
	delete(h.young, k)
	delete(h.old, k)
}
