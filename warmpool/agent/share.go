package agent

import (
	"cmp"
	"slices"
)

// claim is what an edge has of a backend's slots, and wants of them.
type claim struct {
	wants  int     // requests that it has in flight there, and in line
	has    int     // slots that it is to have, by the last division
	had    int     // slots that it really had, or used
	credit float64 // slots times turns that it got too few of in the past; negative: too many
}

// share divides a backend's slots: everybody gets what he wants, and an even part of what is left over, if there is enough for all.
// Else everybody gets his part by what he wants, so that a request is as well off at one edge as at another; what cannot be divided
// goes to whom most is owed, and where that is equal to whom has it. The sum is slots if anybody is there.
func share(slots int, claims []claim) []int {
	given := make([]int, len(claims))
	wanted := 0
	for _, c := range claims {
		wanted += c.wants
	}
	if wanted <= slots {
		for i, c := range claims {
			given[i] = c.wants
		}
		spread(slots-wanted, given, claims)
		return given
	}
	order := make([]int, len(claims))
	rest := make([]float64, len(claims))
	left := slots
	for i, c := range claims {
		order[i] = i
		due := float64(slots) * float64(c.wants) / float64(wanted)
		given[i] = max(0, min(int(due+c.credit), c.wants, left))
		left -= given[i]
		rest[i] = due + c.credit - float64(given[i])
	}
	slices.SortStableFunc(order, func(a, b int) int {
		return cmp.Or(cmp.Compare(rest[b], rest[a]), cmp.Compare(claims[b].has, claims[a].has))
	})
	for left > 0 { // ends: more is wanted than there is
		for _, i := range order {
			if left > 0 && given[i] < claims[i].wants {
				given[i]++
				left--
			}
		}
	}
	return given
}

// spread gives what is left over, one by one to whom has least, and where that is equal to whom had most.
func spread(left int, given []int, claims []claim) {
	extra := make([]int, len(given))
	for ; left > 0 && len(given) > 0; left-- {
		least := 0
		for i := range extra {
			if extra[i] < extra[least] || extra[i] == extra[least] && claims[i].has-given[i] > claims[least].has-given[least] {
				least = i
			}
		}
		extra[least]++
		given[least]++
	}
}

// settle notes a turn in which edges had what they had: who got less than his part is owed it.
func settle(slots int, claims []claim) {
	wanted := 0
	for _, c := range claims {
		wanted += c.wants
	}
	for i := range claims {
		c := &claims[i]
		if wanted <= slots || c.wants == 0 {
			c.credit = 0
			continue
		}
		c.credit += float64(slots)*float64(c.wants)/float64(wanted) - float64(c.had)
	}
}
