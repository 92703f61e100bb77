// Package sqliteoutbox keeps what has to be notified in an SQLite file of one
// server, apart from its approvals. What it took survives kill -9 and the loss of
// power.
//
// It is not for several servers: each has an outbox of its own.
//
//	box, err := sqliteoutbox.Open(ctx, sqliteoutbox.Config{Dir: "/var/lib/kelpie"})
//	...
//	defer box.Close()
package sqliteoutbox

import (
	"context"
	"database/sql"
	"errors"
	"fmt"
	"net/url"
	"os"
	"path/filepath"
	"time"

	_ "modernc.org/sqlite" // the driver named sqlite

	"github.com/kelpie-authz/kelpie/notify"
)

// File is the name of the database in its directory.
const File = "notify.db"

// Config says where the database is.
type Config struct {
	// Dir is made, with mode 0700, if it is not there.
	Dir string
	// MaxPending is how many deliveries may wait. Zero: 100,000, some 100 MiB.
	MaxPending int
	// Busy is how long to wait for another process that writes. Zero: 500 ms.
	Busy time.Duration
}

// Outbox implements [notify.Outbox]. Make it with Open; it is safe for concurrent use.
type Outbox struct {
	db  *sql.DB
	max int
}

var _ notify.Outbox = (*Outbox)(nil)

const (
	defaultPending = 100_000
	defaultBusy    = 500 * time.Millisecond
)

// Open opens the database, or makes it. A file of a later release is a
// [notify.ErrSchema]; one that is damaged is refused in words that say what to do.
func Open(ctx context.Context, cfg Config) (*Outbox, error) {
	if err := os.MkdirAll(cfg.Dir, 0o700); err != nil {
		return nil, fmt.Errorf("make the directory of the outbox: %w", err)
	}
	path := filepath.Join(cfg.Dir, File)
	// Made first, so that it never has another mode.
	f, err := os.OpenFile(path, os.O_RDWR|os.O_CREATE, 0o600)
	if err != nil {
		return nil, fmt.Errorf("open the outbox: %w", err)
	}
	if err := f.Close(); err != nil {
		return nil, fmt.Errorf("open the outbox: %w", err)
	}
	if cfg.Busy <= 0 {
		cfg.Busy = defaultBusy
	}
	if cfg.MaxPending <= 0 {
		cfg.MaxPending = defaultPending
	}
	q := url.Values{"_txlock": {"immediate"}}
	for _, pragma := range []string{
		"journal_mode(WAL)", "synchronous(FULL)", "trusted_schema(OFF)", fmt.Sprintf("busy_timeout(%d)", cfg.Busy.Milliseconds()),
	} {
		q.Add("_pragma", pragma)
	}
	db, err := sql.Open("sqlite", (&url.URL{Scheme: "file", Opaque: (&url.URL{Path: path}).EscapedPath(), RawQuery: q.Encode()}).String())
	if err != nil {
		return nil, fmt.Errorf("open the outbox %s: %w", path, err)
	}
	// One at a time: what is read and written here is small.
	db.SetMaxOpenConns(1)
	db.SetMaxIdleConns(1)
	o := &Outbox{db: db, max: cfg.MaxPending}
	if err := o.prepare(ctx, path); err != nil {
		return nil, errors.Join(err, db.Close())
	}
	return o, nil
}

// The states of a delivery.
const (
	waiting = iota
	delivered
	dead
)

// migrations make each version of the schema of the one before, from 1.
//
//nolint:gochecknoglobals // A constant list; Go has no constant slices.
var migrations = []string{`
CREATE TABLE deliveries (
	number   INTEGER PRIMARY KEY AUTOINCREMENT, -- the order in which they were enqueued
	channel  TEXT NOT NULL,
	event    TEXT NOT NULL,
	approval TEXT NOT NULL,
	state    INTEGER NOT NULL, -- 0 waiting, 1 delivered, 2 dead
	attempts INTEGER NOT NULL,
	enqueued INTEGER NOT NULL, -- nanoseconds since 1970, as all that follow
	due      INTEGER NOT NULL,
	ended    INTEGER NOT NULL,
	asked    INTEGER NOT NULL, -- 1: nobody has been told of the question yet, and no alarm was raised
	record   BLOB NOT NULL,
	UNIQUE (channel, event)
) STRICT;
CREATE INDEX deliveries_due ON deliveries (channel, due) WHERE state = 0;
CREATE INDEX deliveries_order ON deliveries (channel, approval, number) WHERE state = 0;
CREATE INDEX deliveries_approval ON deliveries (approval);
CREATE INDEX deliveries_event ON deliveries (event);
CREATE INDEX deliveries_asked ON deliveries (enqueued) WHERE asked = 1;
CREATE TABLE receipts (
	channel  TEXT NOT NULL,
	approval TEXT NOT NULL,
	receipt  TEXT NOT NULL,
	at       INTEGER NOT NULL,
	PRIMARY KEY (channel, approval)
) STRICT;
`}

// prepare checks the file and brings its schema up to date.
func (o *Outbox) prepare(ctx context.Context, path string) error {
	if err := ctx.Err(); err != nil {
		return err
	}
	var said string
	if err := o.db.QueryRowContext(ctx, "PRAGMA quick_check(1)").Scan(&said); err != nil || said != "ok" {
		if err == nil {
			err = errors.New(said)
		}
		return fmt.Errorf("the outbox %s is damaged: %w; restore it from a backup, or move it away to begin without what waits in it", path, err)
	}
	return o.in(ctx, func(tx *sql.Tx) error {
		var version int
		if err := tx.QueryRowContext(ctx, "PRAGMA user_version").Scan(&version); err != nil {
			return fmt.Errorf("open the outbox %s: %w", path, err)
		}
		if version > len(migrations) {
			return fmt.Errorf("the outbox %s has schema %d, and this release knows %d: %w", path, version, len(migrations), notify.ErrSchema)
		}
		for ; version < len(migrations); version++ {
			if _, err := tx.ExecContext(ctx, migrations[version]); err != nil {
				return fmt.Errorf("bring the outbox %s to schema %d: %w", path, version+1, err)
			}
		}
		if _, err := tx.ExecContext(ctx, fmt.Sprintf("PRAGMA user_version = %d", version)); err != nil {
			return fmt.Errorf("bring the outbox %s to schema %d: %w", path, version, err)
		}
		return nil
	})
}

// in runs f as one step.
func (o *Outbox) in(ctx context.Context, f func(*sql.Tx) error) error {
	tx, err := o.db.BeginTx(ctx, nil)
	if err != nil {
		return fmt.Errorf("begin with the outbox: %w", err)
	}
	defer func() { _ = tx.Rollback() }() // without effect once it is committed
	if err := f(tx); err != nil {
		return err
	}
	if err := tx.Commit(); err != nil {
		return fmt.Errorf("write the outbox: %w", err)
	}
	return nil
}

// Close implements [notify.Outbox].
func (o *Outbox) Close() error {
	if err := o.db.Close(); err != nil {
		return fmt.Errorf("close the outbox: %w", err)
	}
	return nil
}
