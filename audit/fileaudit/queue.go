package fileaudit

import (
	"context"
	"errors"
	"fmt"
	"runtime"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"github.com/kelpie-authz/kelpie/audit"
)

// errStalled says that the disk does not take what is to be written.
var errStalled = errors.New("the disk is too slow or does not answer: see to it; the audit goes on by itself then")

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
	// since is the look of the queue at which the first entry came.
	since int64
	// owed and owedBytes are the records that nobody waits for.
	owed, owedBytes int
	done            chan struct{} // closed when err is final
	over            bool          // done is closed
	err             error
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

// mostOwed is how many bytes of Async records may be in memory and in the file
// without an fsync: as many a loss of power can take. lineExtra is what a record
// becomes longer by as a line, a little more.
const (
	mostOwed  = 1 << 20
	lineExtra = 128
)

// cause is why records are refused. Of several the first is told.
type cause int

const (
	causeWrite cause = iota // writing fails
	causeStall              // the disk does not answer
	causeHead               // the head was not signed for too long
	causes
)

// queue holds what callers want written. It is what they and the writer share.
type queue struct {
	maxRecords, maxBytes int
	stall                time.Duration
	// After so many looks an Async record waits like any other, and after so
	// many all are refused.
	lateLooks, stallLooks int64

	// looks is how often look was called, busy the look at which the writer began
	// what it does; 0: it is idle. They are a clock that stands still with the process.
	looks, busy atomic.Int64

	mu         sync.Mutex
	cur        *batch
	writing    *batch   // of the writer; nil: none
	spares     []*batch // empty ones, with memory of spareBytes
	spareBytes int
	faults     [causes]error
	fault      error // the first of faults: it refuses all
	closed     bool
	// records and bytes are of cur and of what the writer holds.
	records, bytes int
	// heldSince is the look at which the oldest record came that the writer holds
	// and no fsync has confirmed; 0: there is none. held and heldBytes are those
	// among them that nobody waits for, lost those that no segment has.
	heldSince             int64
	held, heldBytes, lost int
	late                  bool
	untold                error         // a stall that look has to tell
	waiting               int           // for room
	room                  chan struct{} // closed when room was made, then made anew
	stats                 Stats

	lazy, now chan struct{}
}

func newQueue(cfg *Config) *queue {
	return &queue{
		maxRecords: cfg.PendingRecords, maxBytes: cfg.PendingBytes, stall: cfg.Stall,
		lateLooks: max(1, int64(cfg.lateAfter/cfg.watchEvery)), stallLooks: max(2, int64(cfg.Stall/cfg.watchEvery)),
		cur: newBatch(), room: make(chan struct{}),
		lazy: make(chan struct{}, 1), now: make(chan struct{}, 1),
	}
}

func newBatch() *batch { return &batch{done: make(chan struct{})} }

// add puts a record into the batch that is written next.
func (q *queue) add(ctx context.Context, body []byte, e entry) (*batch, error) {
	q.mu.Lock()
	defer q.mu.Unlock()
	if !e.note && q.full(len(body), e.waited) {
		if err := q.awaitRoom(ctx, len(body), e.waited); err != nil {
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
	first := len(b.entries) == 1
	if first {
		b.since = q.looks.Load() + 1
	}
	if !e.waited && !e.note {
		q.stats.Async++
		b.owed++
		b.owedBytes += len(body) + lineExtra
	}
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

// full tells whether a record of n bytes has to wait. One that nobody waits for
// has to where the loss of power would take too much already.
func (q *queue) full(n int, waited bool) bool {
	switch {
	case q.fault != nil || q.closed:
		return false
	case q.records >= q.maxRecords || (q.bytes+n > q.maxBytes && q.records > 0):
		return true
	case waited:
		return false
	}
	owed := q.heldBytes + q.cur.owedBytes
	return q.late || (owed > 0 && owed+n+lineExtra > mostOwed)
}

// awaitRoom waits, with mu held on entry and return.
func (q *queue) awaitRoom(ctx context.Context, n int, waited bool) error {
	timer := time.NewTimer(q.stall)
	defer timer.Stop()
	q.stats.Stalled++
	q.waiting++
	defer func() { q.waiting-- }()
	signal(q.now)
	for q.full(n, waited) {
		room := q.room
		q.mu.Unlock()
		var err error
		select {
		case <-room:
		case <-timer.C:
			err = fmt.Errorf("no room for another record: %w", errStalled)
		case <-ctx.Done():
			err = ctx.Err()
		}
		q.mu.Lock()
		if err == nil {
			continue
		}
		err = unavailable(err)
		if errors.Is(err, errStalled) && q.faults[causeStall] == nil {
			q.beginStall(err) // Those who come next need not find out again.
		}
		return err
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
	q.writing = b
	if q.heldSince == 0 {
		q.heldSince = b.since
	}
	q.held += b.owed
	q.heldBytes += b.owedBytes
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

// finish tells who waits for b; false: they have been told something else already.
// Room is made unless its records are kept for later.
func (q *queue) finish(b *batch, err error) bool {
	q.mu.Lock()
	defer q.mu.Unlock()
	return q.end(b, err)
}

// end is finish with mu held.
func (q *queue) end(b *batch, err error) bool {
	if b.over {
		return false
	}
	b.over, b.err = true, err
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
	return true
}

// given tells whether those who wait for b were given up.
func (q *queue) given(b *batch) bool {
	q.mu.Lock()
	defer q.mu.Unlock()
	return b.over
}

// release gives the room of n records back.
func (q *queue) release(records, bytes int) {
	q.mu.Lock()
	defer q.mu.Unlock()
	q.writing = nil
	q.records -= records
	q.bytes -= bytes
	q.wake()
}

// wake lets those look again who wait for room, with mu held.
func (q *queue) wake() {
	if q.waiting == 0 {
		return
	}
	close(q.room)
	q.room = make(chan struct{})
}

// settled says that the writer holds nothing that is not on the disk, but for
// so many records that it has to write again.
func (q *queue) settled(lost int) {
	q.mu.Lock()
	defer q.mu.Unlock()
	q.heldSince, q.held, q.heldBytes, q.lost = 0, 0, 0, lost
	q.wake()
}

// unsafe is how many records were taken without waiting and are not on the disk.
func (q *queue) unsafe() int {
	q.mu.Lock()
	defer q.mu.Unlock()
	return q.held + q.lost + q.cur.owed
}

// age is for how many looks the oldest record waits, or the writer is at one
// thing; with mu held.
func (q *queue) age() int64 {
	oldest := q.heldSince
	if oldest == 0 && len(q.cur.entries) > 0 {
		oldest = q.cur.since
	}
	if busy := q.busy.Load(); busy > 0 && (oldest == 0 || busy < oldest) {
		oldest = busy
	}
	if oldest == 0 {
		return 0
	}
	return q.looks.Load() + 1 - oldest
}

// look is called at even times: it finds that the disk does not answer, though
// the writer hangs in it, and that it does again. The error is a fault that began.
func (q *queue) look() error {
	q.looks.Add(1)
	q.mu.Lock()
	defer q.mu.Unlock()
	age := q.age()
	late := age >= q.lateLooks
	if q.late && !late {
		defer q.wake()
	}
	q.late = late
	switch stalled := q.faults[causeStall] != nil; {
	case age >= q.stallLooks:
		err := unavailable(fmt.Errorf("for %v nothing was put on the disk: %w", q.stall, errStalled))
		q.giveUp(err)
		if !stalled {
			q.beginStall(err)
		}
	case stalled && !late:
		q.refuse(causeStall, nil)
	}
	began := q.untold
	q.untold = nil
	return began
}

// beginStall refuses all, with mu held, until look finds that the disk answers.
func (q *queue) beginStall(err error) {
	q.stats.Failures++
	q.untold = err
	q.refuse(causeStall, err)
}

// giveUp refuses all who wait, with mu held. What the writer holds of theirs it
// takes back when the disk answers.
func (q *queue) giveUp(err error) {
	for _, b := range []*batch{q.writing, q.cur} {
		if b != nil && b.urgent {
			q.end(b, err)
		}
	}
}

// abandon refuses all who wait, for good.
func (q *queue) abandon(err error) {
	q.mu.Lock()
	defer q.mu.Unlock()
	q.giveUp(err)
}

// mostSpare is how much memory waits for the next batches: that of all which one
// fsync lets go of, so that a log under load makes no garbage.
const mostSpare = 4 * mostOwed

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

// setFault refuses all from now on for a cause; nil: not for that any more.
func (q *queue) setFault(c cause, err error) {
	q.mu.Lock()
	defer q.mu.Unlock()
	q.refuse(c, err)
}

// refuse is setFault with mu held.
func (q *queue) refuse(c cause, err error) {
	q.faults[c], q.fault = err, nil
	for _, fault := range slices.Backward(q.faults[:]) {
		if fault != nil {
			q.fault = fault
		}
	}
	q.wake()
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
	q.wake()
}

func signal(c chan<- struct{}) {
	select {
	case c <- struct{}{}:
	default:
	}
}
