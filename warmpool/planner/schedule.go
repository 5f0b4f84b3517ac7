package planner

import "time"

// mostBegins bounds how many beginnings of one window are looked at; a window that begins more often is asked again after that many.
const mostBegins = 64

// open says whether the window is open, and until when; or else when it opens next (zero: never).
func (w Window) open(now time.Time) (open bool, change time.Time) {
	from := w.Begins.Next(now.Add(-w.For))
	if from.IsZero() || from.After(now) {
		return false, from
	}
	for range mostBegins {
		next := w.Begins.Next(from)
		if next.IsZero() || next.After(now) {
			break
		}
		from = next
	}
	return true, from.Add(w.For)
}

// window is what the schedule says of now. A window that keeps asleep goes before one that keeps awake. opens is when the next one that keeps awake
// does, change when what is said may change; zero: never.
func (r *Rules) window(now time.Time) (is *Window, opens time.Time, change time.Time) {
	for i := range r.Schedule {
		w := &r.Schedule[i]
		open, at := w.open(now)
		switch {
		case open && (is == nil || w.Asleep && !is.Asleep):
			is = w
		case !open && !w.Asleep:
			opens = sooner(opens, at)
		}
		change = sooner(change, at)
	}
	return is, opens, change
}

// sooner is the earlier of two times, where the zero time is never.
func sooner(a, b time.Time) time.Time {
	if a.IsZero() || !b.IsZero() && b.Before(a) {
		return b
	}
	return a
}
