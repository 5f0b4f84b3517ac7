package forecast

import "math"

// experts share the work by idle age.
const experts = 5

// expertOf is who forecasts for a model that has been idle for so many minutes.
func expertOf(age int64) int {
	switch {
	case age < 3:
		return 0
	case age < 15:
		return 1
	case age < 90:
		return 2
	case age < 720:
		return 3
	}
	return 4
}

// until is the idle age, in minutes, at which an expert's work ends.
func until(expert int) int64 {
	return [experts]int64{3, 15, 90, 720, math.MaxInt32}[expert]
}

// expert is one logistic function of a row.
type expert struct {
	trained bool
	weights [dense]float32
	bias    [ages]float32
	means   [dense]float32 // of the features among those that it learned from, by which a forecast is explained
	guard   guard
}

// chance is that of an arrival in the row's minute.
func (e *expert) chance(r *row) float64 {
	z := e.bias[r.bin]
	for i, x := range r.x {
		z += e.weights[i] * x
	}
	return 1 / (1 + math.Exp(-float64(min(max(z, -18), 18))))
}

// plain is the chance by which whoever keeps what is worth it keeps for as long as that is.
func plain(age int64) float64 { return 1 / float64(age+1) }
