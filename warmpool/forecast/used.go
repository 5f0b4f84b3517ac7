package forecast

import "math/bits"

// ring is how many minutes of a model's use are kept one by one: eleven days, so that the same time a week ago has neighbours.
const ring = 1 << 14

// used is in which minutes a model was in use, one bit each.
type used struct {
	words [ring / 64]uint64
	sums  [ring / 64]int32 // how many bits there were before each word, since ever
	until int64            // the newest minute that the ring covers
}

// mark notes the minutes from one to another, both included, and forgets what is too old. What it notes is newer than what it noted before.
func (u *used) mark(from, to int64) {
	if to-u.until >= ring {
		clear(u.words[:])
		u.until = to - ring + 64
	}
	from = max(from, to-ring+64)
	for w := u.until / 64; w <= to/64; w++ {
		if w > u.until/64 {
			before := (w - 1) % (ring / 64)
			u.words[w%(ring/64)], u.sums[w%(ring/64)] = 0, u.sums[before]+int32(bits.OnesCount64(u.words[before]))
		}
		if first, last := max(from, w*64), min(to, w*64+63); first <= last {
			u.words[w%(ring/64)] |= (1<<(last-first+1) - 1) << (first - w*64)
		}
	}
	u.until = max(u.until, to)
}

// word is the 64 minutes from one on. Minutes that are not covered are 0.
func (u *used) word(from int64) uint64 {
	if from <= u.until-ring+64 || from < 0 || from > u.until {
		return 0
	}
	i, shift := from/64, uint(from%64)
	w := u.words[i%(ring/64)] >> shift
	if shift > 0 && i < u.until/64 {
		w |= u.words[(i+1)%(ring/64)] << (64 - shift)
	}
	return w
}

// count is how many of the minutes [from, to) it was in use.
func (u *used) count(from, to int64) int { return max(0, u.before(to)-u.before(from)) }

// before is how many minutes before one there were since ever, as far back as the ring covers.
func (u *used) before(m int64) int {
	m = min(max(m, u.until-ring+65), u.until+1)
	w := m / 64
	if w > u.until/64 {
		w--
	}
	i := w % (ring / 64)
	return int(u.sums[i]) + bits.OnesCount64(u.words[i]&(1<<(m-w*64)-1))
}
