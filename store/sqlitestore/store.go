// Package sqlitestore keeps what the store contracts say in one SQLite file of one
// machine: the embedded default. What it has answered survives kill -9 and the loss
// of power.
//
// It is not for several machines: that is redisstore's. One process opens a file at
// a time; a second one waits for its writes and sees its changes a little later.
//
//	db, err := sqlitestore.Open(ctx, sqlitestore.Config{Dir: "/var/lib/kelpie"})
//	...
//	defer db.Close()
//	found, opened, err := db.Open(ctx, &approval, limits)
package sqlitestore

import (
	"context"
	"database/sql"
	"errors"
	"fmt"
	"net/url"
	"os"
	"path/filepath"
	"sync"
	"time"

	_ "modernc.org/sqlite" // the driver named sqlite

	"github.com/kelpie-authz/kelpie/store"
)

// File is the name of the database in its directory.
const File = "kelpie.db"

// Config says where the database is.
type Config struct {
	// Dir is made, with mode 0700, if it is not there.
	Dir string
	// Busy is how long to wait for another process that writes. Zero: 2 s.
	Busy time.Duration
}

// Store implements [store.Approvals]. Make it with Open; it is safe for
// concurrent use.
type Store struct {
	write, read *sql.DB

	mu       sync.Mutex
	closed   bool
	watchers map[chan string]struct{}
	done     chan struct{}
	polling  sync.WaitGroup
}

var _ store.Approvals = (*Store)(nil)

const defaultBusy = 2 * time.Second

// Open opens the database, or makes it. A file of a later release is a
// [store.ErrSchema]; one that is damaged is refused in words that say what to do.
func Open(ctx context.Context, cfg Config) (*Store, error) {
	if err := os.MkdirAll(cfg.Dir, 0o700); err != nil {
		return nil, fmt.Errorf("make the directory of the database: %w", err)
	}
	path := filepath.Join(cfg.Dir, File)
	// Made first, so that it never has another mode.
	f, err := os.OpenFile(path, os.O_RDWR|os.O_CREATE, 0o600)
	if err != nil {
		return nil, fmt.Errorf("open the database: %w", err)
	}
	if err := f.Close(); err != nil {
		return nil, fmt.Errorf("open the database: %w", err)
	}
	if cfg.Busy == 0 {
		cfg.Busy = defaultBusy
	}
	s := &Store{watchers: make(map[chan string]struct{}), done: make(chan struct{})}
	if s.write, err = open(path, cfg.Busy, "immediate", 1); err != nil {
		return nil, err
	}
	if s.read, err = open(path, cfg.Busy, "deferred", 4); err != nil {
		return nil, errors.Join(err, s.write.Close())
	}
	if err := s.prepare(ctx, path); err != nil {
		return nil, errors.Join(err, s.write.Close(), s.read.Close())
	}
	touched, err := s.touched(ctx)
	if err != nil {
		return nil, errors.Join(err, s.write.Close(), s.read.Close())
	}
	s.polling.Go(func() { s.poll(touched) }) //nolint:contextcheck // It lives until Close.
	return s, nil
}

// open opens a pool. Writers are one at a time, and wait for the disk: what was
// answered is not to be lost.
func open(path string, busy time.Duration, lock string, conns int) (*sql.DB, error) {
	q := url.Values{"_txlock": {lock}}
	for _, pragma := range []string{
		"journal_mode(WAL)", "synchronous(FULL)", "foreign_keys(ON)", "trusted_schema(OFF)",
		fmt.Sprintf("busy_timeout(%d)", busy.Milliseconds()),
	} {
		q.Add("_pragma", pragma)
	}
	db, err := sql.Open("sqlite", (&url.URL{Scheme: "file", Opaque: (&url.URL{Path: path}).EscapedPath(), RawQuery: q.Encode()}).String())
	if err != nil {
		return nil, fmt.Errorf("open the database %s: %w", path, err)
	}
	db.SetMaxOpenConns(conns)
	db.SetMaxIdleConns(conns)
	return db, nil
}

// migrations make each version of the schema of the one before, from 1.
//
//nolint:gochecknoglobals // A constant list; Go has no constant slices.
var migrations = []string{`
CREATE TABLE approvals (
	number  INTEGER PRIMARY KEY AUTOINCREMENT, -- the order in which they were opened
	id      TEXT NOT NULL UNIQUE,
	digest  TEXT NOT NULL,
	state   INTEGER NOT NULL,
	version INTEGER NOT NULL,
	agent   BLOB NOT NULL,
	opened  INTEGER NOT NULL, -- nanoseconds since 1970
	ended   INTEGER NOT NULL,
	touched INTEGER NOT NULL, -- the order in which they were changed last
	record  BLOB NOT NULL
) STRICT;
CREATE TABLE changes (number INTEGER NOT NULL) STRICT; -- one row: how many there were
INSERT INTO changes VALUES (0);
CREATE INDEX approvals_digest ON approvals (digest, number);
CREATE INDEX approvals_agent ON approvals (agent, opened);
CREATE INDEX approvals_pending ON approvals (agent, state);
CREATE INDEX approvals_state ON approvals (state, number);
CREATE INDEX approvals_touched ON approvals (touched);
CREATE INDEX approvals_ended ON approvals (ended) WHERE ended > 0;
`}

// prepare checks the file and brings its schema up to date.
func (s *Store) prepare(ctx context.Context, path string) error {
	if err := ctx.Err(); err != nil {
		return err
	}
	var said string
	if err := s.write.QueryRowContext(ctx, "PRAGMA quick_check(1)").Scan(&said); err != nil || said != "ok" {
		if err == nil {
			err = errors.New(said)
		}
		return fmt.Errorf("the database %s is damaged: %w; restore it from a backup, or move it away to begin without approvals", path, err)
	}
	tx, err := s.write.BeginTx(ctx, nil)
	if err != nil {
		return fmt.Errorf("open the database %s: %w", path, err)
	}
	defer func() { _ = tx.Rollback() }() // without effect once it is committed
	var version int
	if err := tx.QueryRowContext(ctx, "PRAGMA user_version").Scan(&version); err != nil {
		return fmt.Errorf("open the database %s: %w", path, err)
	}
	if version > len(migrations) {
		return fmt.Errorf("the database %s has schema %d, and this release knows %d: %w", path, version, len(migrations), store.ErrSchema)
	}
	for ; version < len(migrations); version++ {
		if _, err := tx.ExecContext(ctx, migrations[version]); err != nil {
			return fmt.Errorf("bring the database %s to schema %d: %w", path, version+1, err)
		}
	}
	if _, err := tx.ExecContext(ctx, fmt.Sprintf("PRAGMA user_version = %d", version)); err != nil {
		return fmt.Errorf("bring the database %s to schema %d: %w", path, version, err)
	}
	if err := tx.Commit(); err != nil {
		return fmt.Errorf("bring the database %s to schema %d: %w", path, version, err)
	}
	return nil
}

// Close implements [store.Approvals].
func (s *Store) Close() error {
	s.mu.Lock()
	if s.closed {
		s.mu.Unlock()
		return nil
	}
	s.closed = true
	close(s.done)
	s.mu.Unlock()
	s.polling.Wait()
	if err := errors.Join(s.read.Close(), s.write.Close()); err != nil {
		return fmt.Errorf("close the database: %w", err)
	}
	return nil
}

// unavailable says that the database could not be asked, and why; of ctx it says
// what ctx does.
func unavailable(ctx context.Context, err error) error {
	if ended := ctx.Err(); ended != nil {
		return ended
	}
	return fmt.Errorf("%w: %w", store.ErrUnavailable, err)
}
