package fileaudit

import (
	"context"
	"errors"
	"fmt"
	"runtime"
	"sync"
	"time"

	"github.com/kelpie-authz/kelpie/audit"
)

// errStalled says that what waits to be written does not become less.
var errStalled = errors.New("the disk is too slow: no room for another record")

// unavailable makes an error one of [audit.ErrUnavailable].
func unavailable(err error) error {
	if errors.Is(err, audit.ErrUnavailable) {
		return err
	}
	return fmt.Errorf("%w: %w", audit.ErrUnavailable, err)
}

// batch is what is written by one write and, where somebody waits, one fsync.
type batch struct {
	bodies  []byte
	entries []entry
	// urgent is set if some entry is waited for.
	urgent bool
	done   chan struct{} // closed when err is final
	err    error
}

// entry is one record of a batch: it ends at end, where the next one begins.
type entry struct {
	end    int
	at     time.Time
	waited bool
	note   bool
}

// eager is how many bytes are written without waiting for more.
const eager = 64 << 10

// queue holds what callers want written. It is what they and the writer share.
type queue struct {
	maxRecords, maxBytes int
	stall                time.Duration

	mu         sync.Mutex
	cur        *batch
	spares     []*batch // empty ones, with memory of spareBytes
	spareBytes int
	fault      error // refuses all; mended by the writer
	closed     bool
	// records and bytes are of cur and of what the writer holds.
	records, bytes int
	room           chan struct{} // closed when room was made, then made anew
	stats          Stats

	lazy, now chan struct{}
}

func newQueue(cfg *Config) *queue {
	return &queue{
		maxRecords: cfg.PendingRecords, maxBytes: cfg.PendingBytes, stall: cfg.Stall,
		cur: newBatch(), room: make(chan struct{}),
		lazy: make(chan struct{}, 1), now: make(chan struct{}, 1),
	}
}

func newBatch() *batch { return &batch{done: make(chan struct{})} }

// add puts a record into the batch that is written next.
func (q *queue) add(ctx context.Context, body []byte, e entry) (*batch, error) {
	q.mu.Lock()
	defer q.mu.Unlock()
	if q.full(len(body)) && !e.note {
		if err := q.awaitRoom(ctx, len(body)); err != nil {
			q.stats.Refused++
			return nil, err
		}
	}
	if q.closed {
		return nil, audit.ErrClosed
	}
	if q.fault != nil {
		q.stats.Refused++
		return nil, q.fault
	}
	b := q.cur
	b.bodies = append(b.bodies, body...)
	e.end = len(b.bodies)
	b.entries = append(b.entries, e)
	q.records++
	q.bytes += len(body)
	if !e.waited && !e.note {
		q.stats.Async++
	}
	first := len(b.entries) == 1
	urgent := e.waited && !b.urgent
	b.urgent = b.urgent || e.waited
	switch {
	case urgent || (len(b.bodies) >= eager && len(b.bodies)-len(body) < eager):
		signal(q.now)
	case first:
		signal(q.lazy)
	}
	return b, nil
}

func (q *queue) full(n int) bool {
	return q.fault == nil && !q.closed && (q.records >= q.maxRecords || (q.bytes+n > q.maxBytes && q.records > 0))
}

// awaitRoom waits, with mu held on entry and return.
func (q *queue) awaitRoom(ctx context.Context, n int) error {
	timer := time.NewTimer(q.stall)
	defer timer.Stop()
	q.stats.Stalled++
	signal(q.now)
	for q.full(n) {
		room := q.room
		q.mu.Unlock()
		var err error
		select {
		case <-room:
		case <-timer.C:
			err = errStalled
		case <-ctx.Done():
			err = ctx.Err()
		}
		q.mu.Lock()
		if err != nil {
			return unavailable(err)
		}
	}
	return nil
}

// gatherings bounds how often gather looks.
const gatherings = 64

// gather lets the callers run that the last fsync woke, as long as they bring
// more: they share the next fsync with those that waited meanwhile. It takes no
// time if nobody is about to append.
func (q *queue) gather() {
	for had, looks := -1, 0; looks < gatherings; looks++ {
		q.mu.Lock()
		has, urgent := len(q.cur.entries), q.cur.urgent
		q.mu.Unlock()
		if !urgent || has == had {
			return
		}
		had = has
		runtime.Gosched()
	}
}

// take gives the writer what waits; nil: nothing.
func (q *queue) take() *batch {
	q.mu.Lock()
	defer q.mu.Unlock()
	if len(q.cur.entries) == 0 {
		return nil
	}
	b := q.cur
	q.cur = q.fresh()
	return b
}

// fresh returns an empty batch, with mu held.
func (q *queue) fresh() *batch {
	last := len(q.spares) - 1
	if last < 0 {
		return newBatch()
	}
	b := q.spares[last]
	q.spares[last] = nil
	q.spares = q.spares[:last]
	q.spareBytes -= cap(b.bodies)
	return b
}

// finish tells who waits for b. Room is made unless its records are kept for later.
func (q *queue) finish(b *batch, err error) {
	q.mu.Lock()
	defer q.mu.Unlock()
	b.err = err
	close(b.done)
	waited := uint64(0)
	for i := range b.entries {
		if b.entries[i].waited {
			waited++
		}
	}
	if err != nil {
		q.stats.Refused += waited
	} else {
		q.stats.Sync += waited
	}
}

// release gives the room of n records back.
func (q *queue) release(records, bytes int) {
	q.mu.Lock()
	defer q.mu.Unlock()
	q.records -= records
	q.bytes -= bytes
	close(q.room)
	q.room = make(chan struct{})
}

// mostSpare is how much memory waits for the next batches: that of all which one
// fsync lets go of, so that a log under load makes no garbage.
const mostSpare = 4 * mostUnsynced

// recycle lets the memory of b be used again. Who waited for it holds it still,
// so it gets a new head.
func (q *queue) recycle(b *batch) {
	fresh := newBatch()
	fresh.bodies, fresh.entries = b.bodies[:0], b.entries[:0]
	q.mu.Lock()
	defer q.mu.Unlock()
	if q.spareBytes+cap(fresh.bodies) > mostSpare {
		return
	}
	q.spares = append(q.spares, fresh)
	q.spareBytes += cap(fresh.bodies)
}

// setFault refuses all from now on; nil: none any more.
func (q *queue) setFault(err error) {
	q.mu.Lock()
	defer q.mu.Unlock()
	q.fault = err
	close(q.room)
	q.room = make(chan struct{})
}

func (q *queue) err() error {
	q.mu.Lock()
	defer q.mu.Unlock()
	return q.fault
}

// count changes the counters.
func (q *queue) count(change func(*Stats)) {
	q.mu.Lock()
	defer q.mu.Unlock()
	change(&q.stats)
}

func (q *queue) refused() uint64 {
	q.mu.Lock()
	defer q.mu.Unlock()
	return q.stats.Refused
}

func (q *queue) close() {
	q.mu.Lock()
	defer q.mu.Unlock()
	q.closed = true
	close(q.room)
	q.room = make(chan struct{})
}

func signal(c chan<- struct{}) {
	select {
	case c <- struct{}{}:
	default:
	}
}
