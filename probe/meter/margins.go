package meter

import "time"

// Margins divides the busy time of a GPU's windows among those that share it. Totals are how long each was busy over all the windows, as the driver says of
// processes, which it does more rarely and less exactly than of GPUs. Hint is how many seconds of a window somebody could have been busy; [owner][window].
//
// The parts of a window add up to its busy time, to the nanosecond; those of an owner are to its total as all busy time is to all totals, where the hints
// allow. Iterative proportional fitting: Deming and Stephan, 1940.
func Margins(busy, totals []time.Duration, hint [][]float64) [][]time.Duration {
	x := seeds(len(busy), totals, hint)
	for range 200 {
		scaleRows(x, busy, totals)
		scaleColumns(x, busy)
	}
	parts := make([][]time.Duration, len(totals))
	for o := range parts {
		parts[o] = make([]time.Duration, len(busy))
	}
	column := make([]float64, len(totals))
	for k, b := range busy {
		for o := range x {
			column[o] = x[o][k]
		}
		for o, part := range Apportion(b, column) {
			parts[o][k] = part
		}
	}
	return parts
}

// seeds are the hints, and a little everywhere: hints may be wrong.
func seeds(windows int, totals []time.Duration, hint [][]float64) [][]float64 {
	x := make([][]float64, len(totals))
	for o := range x {
		x[o] = make([]float64, windows)
		for k := range x[o] {
			x[o][k] = hint[o][k] + 1e-6
		}
	}
	return x
}

// scaleRows makes each owner's parts add up to its part of all busy time.
func scaleRows(x [][]float64, busy, totals []time.Duration) {
	var all, said float64
	for _, b := range busy {
		all += float64(b)
	}
	for _, t := range totals {
		said += float64(t)
	}
	if said <= 0 {
		return
	}
	for o := range x {
		scale(x[o], float64(totals[o])*all/said)
	}
}

func scaleColumns(x [][]float64, busy []time.Duration) {
	for k, b := range busy {
		s := 0.0
		for o := range x {
			s += x[o][k]
		}
		if s <= 0 {
			continue
		}
		for o := range x {
			x[o][k] *= float64(b) / s
		}
	}
}

func scale(xs []float64, to float64) {
	if s := sum(xs); s > 0 {
		for i := range xs {
			xs[i] *= to / s
		}
	}
}
