package ledger

import (
	"context"
	"database/sql"
	"errors"
	"fmt"
	"os"
	"slices"
	"strings"
	"time"
)

// Query says which entries are asked for, and what is to be told apart.
type Query struct {
	By           []By      // in this order
	Since, Until time.Time // whole minutes: Until's own is not among them. A zero Until is now
}

// By is something that entries are told apart by.
type By string

// What entries are told apart by. Hours and days are those of UTC.
const (
	ByTenant  By = "tenant"
	ByModel   By = "model"
	ByBackend By = "backend"
	ByMinute  By = "minute"
	ByHour    By = "hour"
	ByDay     By = "day"
	ByEdge    By = "edge"
)

func bys() []By { return []By{ByTenant, ByModel, ByBackend, ByMinute, ByHour, ByDay, ByEdge} }

// ParseBy reads a list with commas, as in tenant,model.
func ParseBy(list string) (all []By, err error) {
	for name := range strings.SplitSeq(list, ",") {
		by := By(strings.TrimSpace(name))
		switch {
		case by == "":
		case !slices.Contains(bys(), by):
			return nil, fmt.Errorf("usage cannot be told apart by %q; it can by tenant, model, backend, minute, hour, day and edge", name)
		case !slices.Contains(all, by):
			all = append(all, by)
		}
	}
	return all, nil
}

// width is how many minutes are one.
func (q *Query) width() int64 {
	switch {
	case slices.Contains(q.By, ByMinute):
		return 1
	case slices.Contains(q.By, ByHour):
		return 60
	case slices.Contains(q.By, ByDay):
		return 24 * 60
	}
	return 0
}

// Book is what one ledger, or several together, say.
type Book struct {
	Edges    []string  `json:"edges"`
	Since    time.Time `json:"since"`
	Until    time.Time `json:"until"`
	Currency string    `json:"currency"`          // empty: nothing has a price
	Dropped  int64     `json:"dropped,omitempty"` // how often something could not be written down, since the edge began
	Entries  []Entry   `json:"entries"`
}

// Read reads a file that a running edge may be writing, or that one has left. The book does not know whose it is: the file's name stands for that.
func Read(ctx context.Context, file string, q Query) (Book, error) {
	if _, err := os.Stat(file); err != nil {
		return Book{}, fmt.Errorf("read a ledger: %w", err)
	}
	db, err := sql.Open("sqlite", dsn(file, "mode=ro", "_pragma=busy_timeout(10000)", "_pragma=query_only(1)"))
	if err != nil {
		return Book{}, fmt.Errorf("read the ledger %s: %w", file, err)
	}
	defer db.Close()
	var version int
	if err := db.QueryRowContext(ctx, "PRAGMA user_version").Scan(&version); err != nil {
		return Book{}, fmt.Errorf("read the ledger %s: %w", file, err)
	}
	if version != schemaVersion {
		return Book{}, fmt.Errorf("read %s: it has the schema %d, and this pilotlight knows %d", file, version, schemaVersion)
	}
	book, err := query(ctx, db, q)
	if err != nil {
		return Book{}, fmt.Errorf("read the ledger %s: %w", file, err)
	}
	for name, into := range map[string]*string{"currency": &book.Currency, "edge": &book.Edges[0]} {
		err := db.QueryRowContext(ctx, "SELECT value FROM facts WHERE name = ?", name).Scan(into)
		if err != nil && !errors.Is(err, sql.ErrNoRows) {
			return Book{}, fmt.Errorf("read the ledger %s: %w", file, err)
		}
	}
	return book, nil
}

// query adds up entries. Backends, nodes, kinds and rates are always told apart: costs are made of them.
func query(ctx context.Context, db *sql.DB, q Query) (Book, error) {
	if q.Until.IsZero() {
		q.Until = time.Now().Add(time.Minute) // the minute that has begun is not left out
	}
	keys := []string{"0", "''", "''", "backend", "node", "kind", "rate"}
	if width := q.width(); width > 0 {
		keys[0] = fmt.Sprintf("minute / %d * %d", width, width)
	}
	for i, by := range map[int]By{1: ByTenant, 2: ByModel} {
		if slices.Contains(q.By, by) {
			keys[i] = string(by)
		}
	}
	columns := strings.Join(keys, ", ") + ", SUM(" + strings.Join(sums(), "), SUM(") + ")"
	book := Book{Edges: []string{""}, Since: q.Since, Until: q.Until, Entries: []Entry{}}
	rows, err := db.QueryContext(ctx, "SELECT "+columns+" FROM usage WHERE minute >= ? AND minute < ? GROUP BY 1, 2, 3, 4, 5, 6, 7", minuteOf(q.Since), minuteOf(q.Until))
	if err != nil {
		return book, err
	}
	defer rows.Close()
	for rows.Next() {
		var e Entry
		into := []any{&e.Minute, &e.Tenant, &e.Model, &e.Backend, &e.Node, &e.Kind, &e.Rate}
		for _, field := range e.fields() {
			into = append(into, field)
		}
		if err := rows.Scan(into...); err != nil {
			return book, err
		}
		book.Entries = append(book.Entries, e)
	}
	return book, rows.Err()
}

// Merge adds up books of several edges.
func Merge(books ...Book) (Book, error) {
	all := Book{Entries: []Entry{}}
	sums := map[Key]*Sums{}
	for _, b := range books {
		if all.Currency != "" && b.Currency != "" && all.Currency != b.Currency {
			return all, fmt.Errorf("%s counts in %s and %s in %s; ask them one by one", strings.Join(all.Edges, ", "), all.Currency, strings.Join(b.Edges, ", "), b.Currency)
		}
		for _, name := range b.Edges {
			if slices.Contains(all.Edges, name) {
				return all, fmt.Errorf("%s was asked twice; its usage would count double", name)
			}
		}
		if all.Currency == "" {
			all.Currency = b.Currency
		}
		if len(all.Edges) == 0 {
			all.Since, all.Until = b.Since, b.Until
		}
		all.Edges = append(all.Edges, b.Edges...)
		all.Dropped += b.Dropped
		for i := range b.Entries {
			e := &b.Entries[i]
			if e.Edge == "" && len(b.Edges) == 1 {
				e.Edge = b.Edges[0]
			}
			if sums[e.Key] == nil {
				sums[e.Key] = &Sums{}
			}
			sums[e.Key].Add(&e.Sums)
		}
	}
	for k, s := range sums {
		all.Entries = append(all.Entries, Entry{k, *s})
	}
	return all, nil
}
