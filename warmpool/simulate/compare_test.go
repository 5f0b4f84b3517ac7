package simulate

import (
	"math"
	"slices"
	"testing"
)

func TestFrontiers(t *testing.T) {
	f := Frontier([]Point{{1000, 10}, {10, 30}, {500, 25}, {100, 20}, {100, 22}})
	if want := []Point{{10, 30}, {100, 20}, {1000, 10}}; !slices.Equal(f, want) {
		t.Fatalf("%v, want %v", f, want)
	}
	for _, c := range []struct {
		starts, hours float64
		ok            bool
	}{{10, 30, true}, {100, 20, true}, {math.Sqrt(1000), 25, true}, {1000, 10, true}, {9, 0, false}, {1001, 0, false}} {
		if hours, ok := WasteAt(f, c.starts); ok != c.ok || math.Abs(hours-c.hours) > 1e-9 {
			t.Errorf("waste at %v: %v %t, want %v", c.starts, hours, ok, c.hours)
		}
		if !c.ok {
			continue
		}
		if starts, ok := StartsAt(f, c.hours); !ok || math.Abs(starts-c.starts) > 1e-6 {
			t.Errorf("cold starts at %v h: %v %t, want %v", c.hours, starts, ok, c.starts)
		}
	}
	for _, hours := range []float64{31, 9} {
		if _, ok := StartsAt(f, hours); ok {
			t.Errorf("there are cold starts at %v h", hours)
		}
	}
}
