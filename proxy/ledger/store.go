package ledger

import (
	"context"
	"database/sql"
	"errors"
	"fmt"
	"net/url"
	"os"
	"path/filepath"
	"strings"
	"time"

	"modernc.org/sqlite" // also the driver
)

// schemaVersion is that of the tables below, which is kept in the file's user_version. A change of the tables is a new one, with what makes it of
// the one before.
const schemaVersion = 1

// schema has an entry per row, under a key that has no row number beside it.
const schema = `
CREATE TABLE usage (
	minute INTEGER NOT NULL, tenant TEXT NOT NULL, model TEXT NOT NULL, backend TEXT NOT NULL, node TEXT NOT NULL, kind TEXT NOT NULL, rate INTEGER NOT NULL,
	requests INTEGER NOT NULL, ok INTEGER NOT NULL, refused INTEGER NOT NULL, left INTEGER NOT NULL, broken INTEGER NOT NULL, cold INTEGER NOT NULL,
	prompt INTEGER NOT NULL, output INTEGER NOT NULL, served INTEGER NOT NULL, waited INTEGER NOT NULL,
	gpu INTEGER NOT NULL, estimated INTEGER NOT NULL, held INTEGER NOT NULL, microjoules INTEGER NOT NULL,
	PRIMARY KEY (minute, tenant, model, backend, node, kind, rate)
) WITHOUT ROWID;
CREATE TABLE facts (name TEXT PRIMARY KEY, value TEXT NOT NULL) WITHOUT ROWID;
PRAGMA user_version = 1;`

// sums are the columns of Sums, in the order of its fields.
func sums() []string {
	return []string{"requests", "ok", "refused", "left", "broken", "cold", "prompt", "output", "served", "waited", "gpu", "estimated", "held", "microjoules"}
}

// store is the database.
type store struct {
	db  *sql.DB
	add string // adds an entry
}

// The codes of SQLite that say that a file is no database, or no whole one (sqlite.org/rescode.html).
const (
	codeCorrupt = 11
	codeNotDB   = 26
)

// errDamaged says that a file is not what SQLite wrote.
var errDamaged = errors.New("the ledger is damaged")

// open opens the database of a file for writing, and makes it if there is none.
func open(ctx context.Context, file string) (*store, error) {
	if err := os.MkdirAll(filepath.Dir(file), 0o755); err != nil {
		return nil, fmt.Errorf("make the ledger's directory: %w", err)
	}
	db, err := sql.Open("sqlite", dsn(file, "_pragma=journal_mode(WAL)", "_pragma=synchronous(NORMAL)", "_pragma=busy_timeout(10000)", "_txlock=immediate"))
	if err != nil {
		return nil, fmt.Errorf("open the ledger: %w", err)
	}
	db.SetMaxOpenConns(1)
	s := &store{db: db, add: addStatement()}
	if err := s.prepare(ctx); err != nil {
		return nil, errors.Join(fmt.Errorf("open the ledger %s: %w", file, damaged(err)), db.Close())
	}
	return s, nil
}

// damaged marks an error that says that the file is no database.
func damaged(err error) error {
	if e, is := errors.AsType[*sqlite.Error](err); is && (e.Code()&0xff == codeCorrupt || e.Code()&0xff == codeNotDB) {
		return fmt.Errorf("%w: %w", errDamaged, err)
	}
	return err
}

func dsn(file string, options ...string) string {
	return "file:" + (&url.URL{Path: file}).EscapedPath() + "?" + strings.Join(options, "&")
}

// prepare makes the tables, or sees that they are those we know.
func (s *store) prepare(ctx context.Context) error {
	tx, err := s.db.BeginTx(ctx, nil)
	if err != nil {
		return err
	}
	defer func() { _ = tx.Rollback() }() // it does nothing once it is committed
	var version int
	if err := tx.QueryRowContext(ctx, "PRAGMA user_version").Scan(&version); err != nil {
		return err
	}
	switch version {
	case schemaVersion:
		return nil
	case 0:
		if _, err := tx.ExecContext(ctx, schema); err != nil {
			return err
		}
		return tx.Commit()
	}
	return fmt.Errorf("it has the schema %d, and this pilotlight knows %d: a newer one wrote it; give ledger.file another path", version, schemaVersion)
}

// addStatement adds to an entry, or makes it.
func addStatement() string {
	columns := sums()
	var more []string
	for _, c := range columns {
		more = append(more, c+" = "+c+" + excluded."+c)
	}
	return "INSERT INTO usage (minute, tenant, model, backend, node, kind, rate, " + strings.Join(columns, ", ") + ") VALUES (?" +
		strings.Repeat(", ?", 6+len(columns)) + ") ON CONFLICT DO UPDATE SET " + strings.Join(more, ", ")
}

// write adds entries: all of them or none.
func (s *store) write(ctx context.Context, all map[Key]*Sums) error {
	tx, err := s.db.BeginTx(ctx, nil)
	if err != nil {
		return fmt.Errorf("write the ledger: %w", err)
	}
	defer func() { _ = tx.Rollback() }() // it does nothing once it is committed
	add, err := tx.PrepareContext(ctx, s.add)
	if err != nil {
		return fmt.Errorf("write the ledger: %w", err)
	}
	defer add.Close()
	args := make([]any, 0, 7+len(sums()))
	for k, sum := range all {
		args = append(args[:0], k.Minute, k.Tenant, k.Model, k.Backend, k.Node, k.Kind, k.Rate)
		for _, field := range sum.fields() {
			args = append(args, *field)
		}
		if _, err := add.ExecContext(ctx, args...); err != nil {
			return fmt.Errorf("write the ledger: %w", err)
		}
	}
	if err := tx.Commit(); err != nil {
		return fmt.Errorf("write the ledger: %w", err)
	}
	return nil
}

// forgetAtOnce is how many rows one transaction removes at most: readers and the next second's entries do not wait for more.
const forgetAtOnce = 20_000

// forget removes what is older.
func (s *store) forget(ctx context.Context, before time.Time) error {
	for {
		gone, err := s.db.ExecContext(ctx, "DELETE FROM usage WHERE (minute, tenant, model, backend, node, kind, rate) IN "+
			"(SELECT minute, tenant, model, backend, node, kind, rate FROM usage WHERE minute < ? LIMIT ?)", minuteOf(before), forgetAtOnce)
		if err != nil {
			return fmt.Errorf("forget what is old in the ledger: %w", err)
		}
		if n, err := gone.RowsAffected(); err != nil || n < forgetAtOnce {
			return err
		}
	}
}

// note keeps a fact about the whole file.
func (s *store) note(ctx context.Context, name, value string) error {
	_, err := s.db.ExecContext(ctx, "INSERT INTO facts VALUES (?, ?) ON CONFLICT DO UPDATE SET value = excluded.value", name, value)
	if err != nil {
		return fmt.Errorf("write the ledger: %w", err)
	}
	return nil
}
