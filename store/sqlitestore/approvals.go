package sqlitestore

import (
	"context"
	"database/sql"
	"errors"
	"fmt"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/kelpie-authz/kelpie/store"
)

// nanos is a time as it is kept in a column; 0 for none.
func nanos(t time.Time) int64 {
	if t.IsZero() {
		return 0
	}
	return t.UnixNano()
}

// mayGo is since when Prune may remove an approval; 0: it may not yet.
func mayGo(a *store.Approval) int64 {
	if !a.Settled() {
		return 0
	}
	return nanos(a.EndedAt)
}

// at says what failed; nil if nothing did.
func at(what string, err error) error {
	if err == nil {
		return nil
	}
	return fmt.Errorf("%s: %w", what, err)
}

// nextTouch is the number of the change that is being made.
const nextTouch = "(SELECT number FROM changes)"

// Open implements [store.Approvals].
func (s *Store) Open(ctx context.Context, a *store.Approval, limits store.OpenLimits) (*store.Approval, bool, error) {
	opened := a.Clone()
	opened.State, opened.Version, opened.Unsure = store.Pending, 1, false
	raw, err := encode(opened)
	if err != nil {
		return nil, false, unavailable(ctx, err)
	}
	var found *store.Approval
	err = s.change(ctx, func(tx *sql.Tx) error {
		before, err := newest(ctx, tx, a.Digest)
		if err == nil && limits.Stands(before) {
			found = before
			return nil
		}
		if err != nil && !errors.Is(err, store.ErrNotFound) {
			return err
		}
		if a.Grant == nil {
			if err := within(ctx, tx, a.Agent, &limits); err != nil {
				return err
			}
		}
		_, err = tx.ExecContext(ctx, "INSERT INTO approvals (id, digest, state, version, agent, opened, ended, touched, record) VALUES (?, ?, ?, ?, ?, ?, 0, "+nextTouch+", ?)",
			opened.ID, opened.Digest, opened.State, opened.Version, []byte(opened.Agent), nanos(opened.OpenedAt), raw)
		return at("add an approval", err)
	})
	switch {
	case err != nil:
		return nil, false, err
	case found != nil:
		return found, false, nil
	}
	s.tell(opened.ID)
	return opened, true, nil
}

// within tells whether an agent may ask for one more.
func within(ctx context.Context, tx *sql.Tx, agent string, limits *store.OpenLimits) error {
	if limits.Hourly > 0 {
		opened, err := questions(ctx, tx, "opened > ?", agent, limits.Now.Add(-limits.Span).UnixNano())
		if err != nil {
			return err
		}
		if len(opened) >= limits.Hourly {
			return store.ErrQuota
		}
	}
	if limits.Pending == 0 {
		return nil
	}
	waiting, err := questions(ctx, tx, "state = ?", agent, int64(store.Pending))
	if err != nil {
		return err
	}
	waiting = slices.DeleteFunc(waiting, func(a *store.Approval) bool { return !limits.Now.Before(a.ExpiresAt) })
	if len(waiting) >= limits.Pending {
		return store.ErrQuota
	}
	return nil
}

// questions are an agent's approvals of which something is true, without standing
// grants.
func questions(ctx context.Context, tx *sql.Tx, what, agent string, arg int64) ([]*store.Approval, error) {
	rows, err := tx.QueryContext(ctx, "SELECT record FROM approvals WHERE agent = ? AND "+what, []byte(agent), arg) //nolint:gosec // Of constant parts.
	if err != nil {
		return nil, at("look for an agent's approvals", err)
	}
	list, err := records(rows)
	return slices.DeleteFunc(list, func(a *store.Approval) bool { return a.Grant != nil }), err
}

type querier interface {
	QueryRowContext(ctx context.Context, query string, args ...any) *sql.Row
}

func one(row *sql.Row) (*store.Approval, error) {
	var raw []byte
	if err := row.Scan(&raw); errors.Is(err, sql.ErrNoRows) {
		return nil, store.ErrNotFound
	} else if err != nil {
		return nil, at("read an approval", err)
	}
	return decode(raw)
}

func newest(ctx context.Context, q querier, digest string) (*store.Approval, error) {
	return one(q.QueryRowContext(ctx, "SELECT record FROM approvals WHERE digest = ? ORDER BY number DESC LIMIT 1", digest))
}

func records(rows *sql.Rows) ([]*store.Approval, error) {
	defer func() { _ = rows.Close() }() // Err has told before
	var list []*store.Approval
	for rows.Next() {
		var raw []byte
		if err := rows.Scan(&raw); err != nil {
			return nil, at("read an approval", err)
		}
		a, err := decode(raw)
		if err != nil {
			return nil, err
		}
		list = append(list, a)
	}
	return list, at("read approvals", rows.Err())
}

// Get implements [store.Approvals].
func (s *Store) Get(ctx context.Context, id string) (*store.Approval, error) {
	a, err := one(s.read.QueryRowContext(ctx, "SELECT record FROM approvals WHERE id = ?", id))
	return a, s.failure(ctx, err)
}

// ByDigest implements [store.Approvals].
func (s *Store) ByDigest(ctx context.Context, digest string) (*store.Approval, error) {
	a, err := newest(ctx, s.read, digest)
	return a, s.failure(ctx, err)
}

// failure passes on what the contract names, and makes the rest unavailable.
func (s *Store) failure(ctx context.Context, err error) error {
	switch {
	case err == nil, errors.Is(err, store.ErrNotFound), errors.Is(err, store.ErrQuota), errors.Is(err, store.ErrChanged):
		return err
	default:
		return unavailable(ctx, err)
	}
}

// change runs f in a transaction that nothing else writes beside.
func (s *Store) change(ctx context.Context, f func(*sql.Tx) error) error {
	tx, err := s.write.BeginTx(ctx, nil)
	if err != nil {
		return unavailable(ctx, err)
	}
	defer func() { _ = tx.Rollback() }() // without effect once it is committed
	if _, err := tx.ExecContext(ctx, "UPDATE changes SET number = number + 1"); err != nil {
		return unavailable(ctx, err)
	}
	if err := f(tx); err != nil {
		return s.failure(ctx, err)
	}
	if err := tx.Commit(); err != nil {
		return unavailable(ctx, err)
	}
	return nil
}

// Swap implements [store.Approvals].
func (s *Store) Swap(ctx context.Context, a *store.Approval) error {
	next := a.Clone()
	next.Version++
	raw, err := encode(next)
	if err != nil {
		return unavailable(ctx, err)
	}
	err = s.change(ctx, func(tx *sql.Tx) error {
		done, err := tx.ExecContext(ctx, "UPDATE approvals SET state = ?, version = ?, ended = ?, touched = "+nextTouch+", record = ? WHERE id = ? AND version = ?",
			next.State, next.Version, mayGo(next), raw, a.ID, a.Version)
		if err != nil {
			return at("change an approval", err)
		}
		if n, err := done.RowsAffected(); err != nil || n == 1 {
			return at("change an approval", err)
		}
		var there int
		if err := tx.QueryRowContext(ctx, "SELECT count(*) FROM approvals WHERE id = ?", a.ID).Scan(&there); err != nil {
			return at("look for an approval", err)
		}
		if there == 0 {
			return store.ErrNotFound
		}
		return store.ErrChanged
	})
	if err == nil {
		a.Version = next.Version
		s.tell(a.ID)
	}
	return err
}

// The sizes of a page of List.
const (
	usualPage   = 100
	largestPage = 1000
)

// List implements [store.Approvals]. A cursor is the number of the last one that
// was shown.
func (s *Store) List(ctx context.Context, f store.Filter) ([]*store.Approval, string, error) {
	limit := usualPage
	if f.Limit > 0 {
		limit = min(f.Limit, largestPage)
	}
	where, args := []string{"1"}, []any{}
	if f.After != "" {
		n, err := strconv.ParseInt(f.After, 10, 64)
		if err != nil {
			return nil, "", fmt.Errorf("%w: %q is no cursor of this store", store.ErrNotFound, f.After)
		}
		where, args = append(where, "number < ?"), append(args, n)
	}
	if f.Agent != "" {
		where, args = append(where, "agent = ?"), append(args, []byte(f.Agent))
	}
	if len(f.States) > 0 {
		where = append(where, "state IN (?"+strings.Repeat(", ?", len(f.States)-1)+")")
		for _, st := range f.States {
			args = append(args, int(st))
		}
	}
	// The numbers first, of which an index knows all: of an agent with many approvals the
	// records would be read to be sorted.
	rows, err := s.read.QueryContext(ctx, "SELECT number, record FROM approvals WHERE number IN (SELECT number FROM approvals WHERE "+strings.Join(where, " AND ")+" ORDER BY number DESC LIMIT ?) ORDER BY number DESC", append(args, limit+1)...) //nolint:gosec // Of constant parts; what is asked for are arguments.
	if err != nil {
		return nil, "", unavailable(ctx, err)
	}
	defer func() { _ = rows.Close() }() // Err has told before
	var list []*store.Approval
	var last int64
	for rows.Next() {
		var number int64
		var raw []byte
		if err := rows.Scan(&number, &raw); err != nil {
			return nil, "", unavailable(ctx, err)
		}
		if len(list) == limit {
			return list, strconv.FormatInt(last, 10), nil
		}
		a, err := decode(raw)
		if err != nil {
			return nil, "", unavailable(ctx, err)
		}
		list, last = append(list, a), number
	}
	if err := rows.Err(); err != nil {
		return nil, "", unavailable(ctx, err)
	}
	return list, "", nil
}

// mostPruned bounds how many are removed in one transaction.
const mostPruned = 500

// Prune implements [store.Approvals].
func (s *Store) Prune(ctx context.Context, before time.Time) (int, error) {
	var n int64
	err := s.change(ctx, func(tx *sql.Tx) error {
		done, err := tx.ExecContext(ctx, "DELETE FROM approvals WHERE number IN (SELECT number FROM approvals WHERE ended > 0 AND ended < ? AND state NOT IN (?, ?) LIMIT ?)",
			before.UnixNano(), store.Pending, store.Approved, mostPruned)
		if err != nil {
			return at("remove approvals", err)
		}
		n, err = done.RowsAffected()
		return at("remove approvals", err)
	})
	return int(n), err
}
