package ledger

import (
	"cmp"
	"maps"
	"math/big"
	"slices"
	"time"
)

// Row is a line of a table: what a tenant, a model and so on came to, on the two bases that costs have.
type Row struct {
	Time    *time.Time `json:"time,omitempty"` // when its minute, hour or day began
	Edge    string     `json:"edge,omitempty"`
	Tenant  string     `json:"tenant,omitempty"`
	Model   string     `json:"model,omitempty"`
	Backend string     `json:"backend,omitempty"`
	Kind    string     `json:"kind"` // request; else what belongs to no request: wake, idle, unattributed, others
	Sums
	Cost      int64 `json:"cost_nano"`      // of GPU: its share of what the GPUs were busy with
	Allocated int64 `json:"allocated_nano"` // its share of the memory that its backends held, busy or not
}

// Table is a book for people: requests first, then what belongs to none, with costs in billionths of the currency. Both costs of all rows add up to those
// of Total: nothing is lost in rounding.
type Table struct {
	Since    time.Time `json:"since"`
	Until    time.Time `json:"until"`
	Edges    []string  `json:"edges"`
	Currency string    `json:"currency,omitempty"`
	Dropped  int64     `json:"dropped,omitempty"`
	Rows     []Row     `json:"rows"`
	Total    Row       `json:"total"`
}

// Table folds the book's entries over all that by does not name.
func (b *Book) Table(by []By) Table {
	t := Table{Since: b.Since, Until: b.Until, Edges: b.Edges, Currency: b.Currency, Dropped: b.Dropped, Rows: []Row{}}
	entries := slices.SortedFunc(slices.Values(b.Entries), func(x, y Entry) int { return compare(&x.Key, &y.Key) })
	allocated := allocate(entries)
	rows := map[Key]*Row{}
	for i := range entries {
		e := &entries[i]
		k := e.fold(by)
		if rows[k] == nil {
			rows[k] = rowOf(k, by)
		}
		for _, r := range []*Row{rows[k], &t.Total} {
			r.Add(&e.Sums)
			r.Cost += Cost(e.GPU, e.Rate)
			r.Allocated += allocated[i]
		}
	}
	for _, k := range slices.SortedFunc(maps.Keys(rows), func(x, y Key) int { return compare(&x, &y) }) {
		t.Rows = append(t.Rows, *rows[k])
	}
	return t
}

// fold is the key of the row that an entry is a part of.
func (k Key) fold(by []By) Key {
	folded := Key{Kind: k.Kind}
	for _, b := range by {
		switch b {
		case ByTenant:
			folded.Tenant = k.Tenant
		case ByModel:
			folded.Model = k.Model
		case ByBackend:
			folded.Backend = k.Backend
		case ByEdge:
			folded.Edge = k.Edge
		case ByMinute, ByHour, ByDay:
			folded.Minute = k.Minute
		}
	}
	return folded
}

func rowOf(k Key, by []By) *Row {
	r := &Row{Edge: k.Edge, Tenant: k.Tenant, Model: k.Model, Backend: k.Backend, Kind: k.Kind}
	if slices.ContainsFunc(by, func(b By) bool { return b == ByMinute || b == ByHour || b == ByDay }) {
		at := time.Unix(k.Minute*60, 0).UTC()
		r.Time = &at
	}
	return r
}

// compare puts requests first, and then what is earlier.
func compare(x, y *Key) int {
	first := func(k *Key) int {
		if k.Kind == KindRequest {
			return 0
		}
		return 1
	}
	return cmp.Or(cmp.Compare(first(x), first(y)), cmp.Compare(x.Minute, y.Minute), cmp.Compare(x.Tenant, y.Tenant), cmp.Compare(x.Model, y.Model),
		cmp.Compare(x.Backend, y.Backend), cmp.Compare(x.Edge, y.Edge), cmp.Compare(x.Node, y.Node), cmp.Compare(x.Kind, y.Kind), cmp.Compare(x.Rate, y.Rate))
}

// allocate is each entry's share of what the memory of its backend cost in that time: requests have theirs by the GPU time they took. What a backend
// held in which nobody used it stays where it was written down.
func allocate(entries []Entry) []int64 {
	type place struct {
		backend string
		minute  int64
	}
	held, used := map[place]int64{}, map[place]int64{}
	at := func(e *Entry) place { return place{e.Backend, e.Minute} }
	for i := range entries {
		e := &entries[i]
		held[at(e)] += Cost(e.Held, e.Rate)
		if e.Kind == KindRequest {
			used[at(e)] += int64(e.GPU)
		}
	}
	shares, so := make([]int64, len(entries)), map[place]int64{}
	given := map[place]int64{}
	for i := range entries {
		e := &entries[i]
		p := at(e)
		switch {
		case used[p] == 0:
			shares[i] = Cost(e.Held, e.Rate)
		case e.Kind == KindRequest: // what is given is never off by more than one: the next share makes up for it
			so[p] += int64(e.GPU)
			upTo := part(held[p], so[p], used[p])
			shares[i] = upTo - given[p]
			given[p] = upTo
		}
	}
	return shares
}

// part is whole·a/b.
func part(whole, a, b int64) int64 {
	n := new(big.Int).Mul(big.NewInt(whole), big.NewInt(a))
	return n.Div(n, big.NewInt(b)).Int64()
}
