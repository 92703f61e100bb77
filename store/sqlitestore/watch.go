package sqlitestore

import (
	"context"
	"errors"
	"fmt"
	"time"
)

// pollEvery is how soon changes of another process are seen.
const pollEvery = 250 * time.Millisecond

// longestQueue is how many ids wait for somebody who watches; those beyond are
// lost, and who watches looks again from time to time.
const longestQueue = 1024

var errClosed = errors.New("it is closed")

// Watch implements [store.Approvals].
func (s *Store) Watch(ctx context.Context) (<-chan string, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.closed {
		return nil, unavailable(ctx, errClosed)
	}
	own := make(chan string, longestQueue)
	s.watchers[own] = struct{}{}
	context.AfterFunc(ctx, func() { s.unwatch(own) })
	return own, nil
}

func (s *Store) unwatch(own chan string) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if _, there := s.watchers[own]; there {
		delete(s.watchers, own)
		close(own)
	}
}

// tell tells everybody who watches.
func (s *Store) tell(id string) {
	s.mu.Lock()
	defer s.mu.Unlock()
	for w := range s.watchers {
		select {
		case w <- id:
		default:
		}
	}
}

// touched is the number of the last change.
func (s *Store) touched(ctx context.Context) (n int64, err error) {
	if err := s.read.QueryRowContext(ctx, "SELECT number FROM changes").Scan(&n); err != nil {
		return 0, fmt.Errorf("open the database: %w", err)
	}
	return n, nil
}

// poll looks for changes, those of other processes among them, and tells of them.
func (s *Store) poll(seen int64) {
	tick := time.NewTicker(pollEvery)
	defer tick.Stop()
	ctx, cancel := context.WithCancel(context.Background())
	defer cancel()
	for {
		select {
		case <-s.done:
			s.mu.Lock()
			for w := range s.watchers {
				delete(s.watchers, w)
				close(w)
			}
			s.mu.Unlock()
			return
		case <-tick.C:
		}
		seen = s.tellSince(ctx, seen)
	}
}

// tellSince tells of what was changed after a change, and returns the last one.
func (s *Store) tellSince(ctx context.Context, seen int64) int64 {
	rows, err := s.read.QueryContext(ctx, "SELECT id, touched FROM approvals WHERE touched > ? ORDER BY touched", seen)
	if err != nil {
		return seen // it is looked at again
	}
	defer func() { _ = rows.Close() }() // Err has told before
	for rows.Next() {
		var id string
		var touched int64
		if err := rows.Scan(&id, &touched); err != nil {
			return seen
		}
		s.tell(id)
		seen = touched
	}
	if rows.Err() != nil {
		return seen // what is behind is looked at again
	}
	return seen
}
