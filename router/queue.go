package router

import (
	"container/list"
	"time"
)

// Priority says whom a line serves first. A lower one waits until nobody of a higher one does.
type Priority int8

// The priorities.
const (
	Low    Priority = -1
	Normal Priority = 0
	High   Priority = 1
)

func (p Priority) String() string { return [...]string{"low", "normal", "high"}[p-Low] }

// waiter is one request in line.
type waiter struct {
	req    Request
	since  time.Time
	cold   bool
	done   chan answer // capacity 1: an answer never blocks
	tenant *tenant     // in whose row it stands, at this place
	at     *list.Element
}

// queue is the order of a line: higher priorities first; within one the tenants take turns, a request each; within a tenant
// by arrival.
type queue struct {
	levels [High - Low + 1]level // the highest last
	n      int
}

// level is one priority: the tenants of whom somebody waits, the next in turn first.
type level struct {
	turns  list.List // of *tenant
	byName map[string]*tenant
}

// tenant is those of one tenant and priority who wait.
type tenant struct {
	name    string
	level   *level
	at      *list.Element // of level.turns
	waiters list.List     // of *waiter
}

// Len is how many wait.
func (q *queue) Len() int { return q.n }

// push adds a waiter behind the others of its tenant and priority. A tenant of whom nobody waited has its turn last.
func (q *queue) push(w *waiter) {
	v := &q.levels[min(max(w.req.Priority, Low), High)-Low]
	t := v.byName[w.req.Tenant]
	if t == nil {
		t = &tenant{name: w.req.Tenant, level: v}
		t.at = v.turns.PushBack(t)
		if v.byName == nil {
			v.byName = map[string]*tenant{}
		}
		v.byName[t.name] = t
	}
	w.tenant, w.at = t, t.waiters.PushBack(w)
	q.n++
}

// head is who is next; nil: nobody waits.
func (q *queue) head() *waiter {
	for i := len(q.levels) - 1; i >= 0; i-- {
		if e := q.levels[i].turns.Front(); e != nil {
			return e.Value.(*tenant).waiters.Front().Value.(*waiter)
		}
	}
	return nil
}

// serve removes a waiter because it is served: it is the next tenant's turn.
func (q *queue) serve(w *waiter) {
	w.tenant.level.turns.MoveToBack(w.tenant.at)
	q.remove(w)
}

// remove removes a waiter that leaves. Its tenant keeps its turn.
func (q *queue) remove(w *waiter) {
	t := w.tenant
	t.waiters.Remove(w.at)
	q.n--
	if t.waiters.Len() == 0 {
		t.level.turns.Remove(t.at)
		delete(t.level.byName, t.name)
	}
}
