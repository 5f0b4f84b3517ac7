package advise

import "time"

// day is what sampling is done by.
const day = 24 * time.Hour

// tally is what one replica, or several together, would be paid for.
type tally struct {
	paid  time.Duration
	cold  int64
	daily []time.Duration // of paid, by the day
}

func newTally(length time.Duration) tally {
	return tally{daily: make([]time.Duration, max(1, int((length+day-1)/day)))}
}

// pay adds a time.
func (t *tally) pay(begin, end time.Duration) {
	t.paid += end - begin
	for d := int(begin / day); begin < end; d++ {
		next := min(end, time.Duration(d+1)*day)
		t.daily[min(d, len(t.daily)-1)] += next - begin
		begin = next
	}
}

// start adds a cold start, whose load is paid for on top of the use that waits for it.
func (t *tally) start(at, load time.Duration) {
	t.cold++
	t.paid += load
	t.daily[min(int(at/day), len(t.daily)-1)] += load
}

func (t *tally) add(other *tally) {
	t.paid += other.paid
	t.cold += other.cold
	for i, d := range other.daily {
		t.daily[i] += d
	}
}

// terms are those under which an idle replica is kept.
type terms struct {
	keep  time.Duration // after its last use
	load  time.Duration
	round time.Duration // what its whole life is rounded up to; 0: it is not
}

// count is what a replica with these uses would be paid for.
func (o terms) count(uses []span, length time.Duration) tally {
	t := newTally(length)
	born := time.Duration(0)
	for i, u := range uses {
		if i == 0 || u.begin-uses[i-1].end > o.keep {
			born = u.begin
			t.start(u.begin, o.load)
		}
		kept := u.end + o.keep
		last := i+1 == len(uses)
		if !last && uses[i+1].begin <= kept {
			kept = uses[i+1].begin
		} else if over := (kept - born + o.load) % max(o.round, 1); o.round > 0 && over > 0 {
			t.paid += o.round - over
			t.daily[min(int(u.begin/day), len(t.daily)-1)] += o.round - over
		}
		t.pay(u.begin, min(kept, length))
	}
	return t
}
