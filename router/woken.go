package router

import "time"

// recent is how long after its end a wake is news: what a new link tells of may have been long ago.
const recent = time.Minute

// tellWakes tells of the wakes that have ended on a node.
func (r *Router) tellWakes(was, is *Node) {
	if r.Woke == nil {
		return
	}
	before := make(map[string]*Backend, len(was.Backends))
	for i := range was.Backends {
		before[was.Backends[i].ID] = &was.Backends[i]
	}
	for i := range is.Backends {
		if b := &is.Backends[i]; before[b.ID] != nil && b.wokeSince(before[b.ID]) {
			r.Woke(b)
		}
	}
}

// wokeSince says whether a wake has ended since the backend was as it was.
func (b *Backend) wokeSince(was *Backend) bool {
	switch w := &b.Woken; {
	case w.Wanted.IsZero():
		return false
	case !w.Ready.IsZero():
		return !w.Ready.Equal(was.Woken.Ready) && time.Since(w.Ready) < recent
	case b.State == Failed:
		return (was.State != Failed || !w.Wanted.Equal(was.Woken.Wanted)) && time.Since(b.Since) < recent
	}
	return false
}
