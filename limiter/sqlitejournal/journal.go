// Package sqlitejournal keeps what quotas have used in one SQLite file of one
// machine, for a [limiter.Kept]. What it has answered survives kill -9 and the
// loss of power.
//
// It is not for other kinds of limit, nor for several processes: one opens a file
// at a time, and a second one is refused.
//
//	j, err := sqlitejournal.Open(ctx, "/var/lib/kelpie/quotas.db")
//	...
//	kept, err := limiter.NewKept(ctx, memory, j)
package sqlitejournal

import (
	"context"
	"database/sql"
	"errors"
	"fmt"
	"net/url"
	"os"
	"sync"
	"time"

	_ "modernc.org/sqlite" // the driver named sqlite

	"github.com/kelpie-authz/kelpie/limiter"
)

// ErrSchema says that the file is of a later release.
var ErrSchema = errors.New("the file is of a later release of Kelpie; run that one, or move the file away to begin with quotas that are full")

// errLocked says that another process has the file.
var errLocked = errors.New("another process uses it; give each server a state directory of its own")

// busy is how long to wait for whoever looks at the file with another program.
const busy = time.Second

// schema is the version of what the file holds.
const schema = 1

// Journal implements [limiter.Journal]. Make it with Open.
type Journal struct {
	db    *sql.DB
	close func() error
}

var _ limiter.Journal = (*Journal)(nil)

// Open opens a file, or makes it, with mode 0600; its directory has to be there.
// A file of a later release is an [ErrSchema]; one that is damaged is refused in
// words that say what to do.
func Open(ctx context.Context, path string) (*Journal, error) {
	// Made first, so that it never has another mode.
	f, err := os.OpenFile(path, os.O_RDWR|os.O_CREATE, 0o600)
	if err != nil {
		return nil, fmt.Errorf("open the quotas: %w", err)
	}
	if err := f.Close(); err != nil {
		return nil, fmt.Errorf("open the quotas: %w", err)
	}
	q := url.Values{"_txlock": {"immediate"}}
	for _, pragma := range []string{
		"locking_mode(EXCLUSIVE)", "journal_mode(WAL)", "synchronous(FULL)", "trusted_schema(OFF)", "wal_autocheckpoint(100)", fmt.Sprintf("busy_timeout(%d)", busy.Milliseconds()),
	} {
		q.Add("_pragma", pragma)
	}
	db, err := sql.Open("sqlite", (&url.URL{Scheme: "file", Opaque: (&url.URL{Path: path}).EscapedPath(), RawQuery: q.Encode()}).String())
	if err != nil {
		return nil, fmt.Errorf("open the quotas in %s: %w", path, err)
	}
	db.SetMaxOpenConns(1)
	db.SetMaxIdleConns(1)
	j := &Journal{db: db, close: sync.OnceValue(db.Close)}
	if err := j.prepare(ctx); err != nil {
		return nil, errors.Join(fmt.Errorf("the quotas in %s: %w", path, err), j.Close())
	}
	return j, nil
}

// prepare checks the file, takes it for this process, and makes its table.
func (j *Journal) prepare(ctx context.Context) error {
	var said string
	if err := j.db.QueryRowContext(ctx, "PRAGMA quick_check(1)").Scan(&said); err != nil || said != "ok" {
		if code, ok := codeOf(err); ok && code == codeBusy {
			return errLocked
		}
		if err == nil {
			err = errors.New(said)
		}
		return fmt.Errorf("the file is damaged: %w; move it away to begin with quotas that are full", err)
	}
	var version int
	if err := j.db.QueryRowContext(ctx, "PRAGMA user_version").Scan(&version); err != nil {
		return err //nolint:wrapcheck // Open says what it is about.
	}
	if version > schema {
		return fmt.Errorf("schema %d, and this release knows %d: %w", version, schema, ErrSchema)
	}
	tx, err := j.db.BeginTx(ctx, nil)
	if err != nil {
		if code, ok := codeOf(err); ok && code == codeBusy {
			return errLocked
		}
		return err //nolint:wrapcheck // Open says what it is about.
	}
	defer func() { _ = tx.Rollback() }() // without effect once it is committed
	for _, statement := range []string{
		`CREATE TABLE IF NOT EXISTS quotas (
			key BLOB NOT NULL, calendar INTEGER NOT NULL, zone TEXT NOT NULL,
			start INTEGER NOT NULL, "end" INTEGER NOT NULL, used INTEGER NOT NULL, -- ticks, millionths
			PRIMARY KEY (key, calendar, zone)
		) STRICT, WITHOUT ROWID`,
		fmt.Sprintf("PRAGMA user_version = %d", schema),
	} {
		if _, err := tx.ExecContext(ctx, statement); err != nil {
			return err //nolint:wrapcheck // Open says what it is about.
		}
	}
	return tx.Commit() //nolint:wrapcheck // Open says what it is about.
}

// codeBusy is SQLite's primary result code for a file that another process has.
const codeBusy = 5

func codeOf(err error) (int, bool) {
	var coded interface{ Code() int }
	if !errors.As(err, &coded) {
		return 0, false
	}
	return coded.Code() & 0xff, true
}

// Load implements [limiter.Journal].
func (j *Journal) Load(ctx context.Context, f func(limiter.QuotaMark) error) error {
	rows, err := j.db.QueryContext(ctx, `SELECT key, calendar, zone, start, "end", used FROM quotas`)
	if err != nil {
		return fmt.Errorf("read the quotas: %w", err)
	}
	defer func() { _ = rows.Close() }()
	for rows.Next() {
		var m limiter.QuotaMark
		if err := rows.Scan(&m.Key, &m.Calendar, &m.Zone, &m.Start, &m.End, &m.Used); err != nil {
			return fmt.Errorf("read the quotas: %w", err)
		}
		if err := f(m); err != nil {
			return err
		}
	}
	if err := rows.Err(); err != nil {
		return fmt.Errorf("read the quotas: %w", err)
	}
	return nil
}

// Write implements [limiter.Journal].
func (j *Journal) Write(ctx context.Context, marks []limiter.QuotaMark) error {
	tx, err := j.db.BeginTx(ctx, nil)
	if err != nil {
		return fmt.Errorf("write the quotas: %w", err)
	}
	defer func() { _ = tx.Rollback() }() // without effect once it is committed
	put, err := tx.PrepareContext(ctx, `INSERT INTO quotas VALUES (?, ?, ?, ?, ?, ?)
		ON CONFLICT DO UPDATE SET start = excluded.start, "end" = excluded."end", used = excluded.used`)
	if err != nil {
		return fmt.Errorf("write the quotas: %w", err)
	}
	defer func() { _ = put.Close() }()
	for i := range marks {
		m := &marks[i]
		if _, err := put.ExecContext(ctx, m.Key, m.Calendar, m.Zone, m.Start, m.End, int64(m.Used)); err != nil {
			return fmt.Errorf("write the quotas: %w", err)
		}
	}
	if err := tx.Commit(); err != nil {
		return fmt.Errorf("write the quotas: %w", err)
	}
	return nil
}

// Prune implements [limiter.Journal].
func (j *Journal) Prune(ctx context.Context, until int64) error {
	if _, err := j.db.ExecContext(ctx, `DELETE FROM quotas WHERE "end" <= ?`, until); err != nil {
		return fmt.Errorf("forget quotas that are over: %w", err)
	}
	return nil
}

// Close implements [limiter.Journal].
func (j *Journal) Close() error {
	if err := j.close(); err != nil {
		return fmt.Errorf("close the quotas: %w", err)
	}
	return nil
}
