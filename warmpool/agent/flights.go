package agent

import (
	"time"

	"pilotlight/probe/meter"
)

// flying are the requests of an edge at the backends of one agent, as far as that may not have heard all of them. It is guarded by the link's mutex.
type flying struct {
	all    map[uint64]*told
	news   map[uint64]struct{} // of whom there is something to say
	landed []uint64            // those that ended, in the order in which that was told
}

// told is a flight, and the message in which its end was told.
type told struct {
	meter.Flight
	count uint64 // Up.Count; 0: it was not
}

// maxFlying bounds them: while an agent cannot be heard those that come later are not told of. The edge settles them by itself.
const maxFlying = 50_000

func newFlying() flying {
	return flying{all: map[uint64]*told{}, news: map[uint64]struct{}{}}
}

// note takes in news.
func (s *flying) note(f meter.Flight) {
	if s.all[f.ID] == nil && len(s.all) >= maxFlying {
		return
	}
	s.all[f.ID] = &told{Flight: f}
	s.news[f.ID] = struct{}{}
}

// anew has all told again, to an agent that may have heard of none.
func (s *flying) anew() {
	s.landed = nil
	for id, f := range s.all {
		f.count = 0
		s.news[id] = struct{}{}
	}
}

// say are the news, as they are told in the message of that count.
func (s *flying) say(count uint64, now time.Time) (news []Flight) {
	for id := range s.news {
		f := s.all[id]
		news = append(news, said(&f.Flight, now))
		if !f.Ended.IsZero() {
			f.count = count
			s.landed = append(s.landed, id)
		}
	}
	clear(s.news)
	return news
}

// heard forgets flights whose end was told in a message up to that count.
func (s *flying) heard(count uint64) {
	n := 0
	for ; n < len(s.landed); n++ {
		f := s.all[s.landed[n]]
		if f != nil && f.count > count {
			break
		}
		delete(s.all, s.landed[n])
	}
	s.landed = s.landed[n:]
}

// Report tells agents of flights at their backends.
func (s *Links) Report(flights []meter.Flight) {
	for i := range flights {
		f := &flights[i]
		if l, ok := s.owners.Load(f.Backend); ok {
			l.(*Link).report(f)
		}
	}
}

func (l *Link) report(f *meter.Flight) {
	l.mu.Lock()
	l.flying.note(*f)
	l.mu.Unlock()
	l.kick()
}
