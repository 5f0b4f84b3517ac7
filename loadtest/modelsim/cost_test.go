package modelsim

import (
	"math"
	"testing"
	"time"
)

// permute calls f with every order of 0 to n-1.
func permute(order []int, from int, f func([]int)) {
	if from == len(order) {
		f(order)
		return
	}
	for i := from; i < len(order); i++ {
		order[from], order[i] = order[i], order[from]
		permute(order, from+1, f)
		order[from], order[i] = order[i], order[from]
	}
}

func TestSharesAreTheMeanOverAllOrders(t *testing.T) {
	cost := Cost{Step: 7500 * time.Microsecond, Sequence: 32 * time.Microsecond, Prompt: 31 * time.Microsecond, Context: 55}
	all := []Part{{Prompt: 512}, {Context: 900}, {Prompt: 40, Context: 512}, {Context: 12}, {Context: 30000}, {Prompt: 1}}
	for n := 1; n <= len(all); n++ {
		parts, want, orders := all[:n], make([]float64, n), 0
		order := make([]int, n)
		for i := range order {
			order[i] = i
		}
		permute(order, 0, func(order []int) {
			var there []Part
			for _, i := range order {
				before := cost.Of(there)
				there = append(there, parts[i])
				want[i] += float64(cost.Of(there) - before)
			}
			orders++
		})
		got, sum := cost.Shares(parts), 0.0
		for i := range got {
			sum += got[i]
			if math.Abs(got[i]-want[i]/float64(orders)) > 1e-3 {
				t.Errorf("of %d parts, part %d: got %v ns, over all orders %v ns", n, i, got[i], want[i]/float64(orders))
			}
		}
		if math.Abs(sum-float64(cost.Of(parts))) > 1e-3 {
			t.Errorf("the shares of %d parts add up to %v ns, their step takes %v", n, sum, cost.Of(parts))
		}
	}
}
