package fileaudit

import (
	"crypto/ed25519"
	"errors"
	"fmt"
	"path/filepath"
	"sync/atomic"
	"time"

	"github.com/kelpie-authz/kelpie/audit"
)

// mostUnsynced is how many bytes of Async records may stand in a file without
// an fsync; as many are kept to be written again if one fails.
const mostUnsynced = 1 << 20

// mark is a place in the log: the end of a line.
type mark struct {
	seq  uint64
	hash audit.Hash
	size int64 // of the segment up to there
}

// span is the oldest and newest time of records; zero: there are none.
type span struct{ from, to time.Time }

func (s *span) add(t time.Time) {
	if s.from.IsZero() || t.Before(s.from) {
		s.from = t
	}
	if t.After(s.to) {
		s.to = t
	}
}

// writer writes segments. Only the loop of its Log uses it.
type writer struct {
	cfg        *Config
	key        ed25519.PrivateKey
	q          *queue
	closed     func() // told of each segment that was closed
	headFailed func(error)

	chain       string
	seg         file          // nil: none is open
	number      uint64        // of the segment that is open, or was last
	closedBelow atomic.Uint64 // segments below it are written no more
	began       time.Time
	// at is the last line written, durable the last one that an fsync confirmed,
	// signed the last one that the head vouches for.
	at, durable mark
	signed      uint64
	records     int // in the open segment
	span        span

	// For the first line of the next segment.
	before       audit.Note
	refusedSoFar uint64

	// unsynced stand in the open segment and await an fsync; owed were taken and
	// stand in no segment.
	unsynced      []*batch
	unsyncedBytes int
	owed          []*batch
	// headErr is why the head could not be signed the last time.
	headErr error
	// broken says that writing fails and everything is refused.
	broken bool

	lines []byte
}

func (w *writer) public() ed25519.PublicKey {
	public, _ := w.key.Public().(ed25519.PublicKey)
	return public
}

func (w *writer) now() time.Time { return w.cfg.Now().UTC().Round(0) }

// flush writes what waits.
func (w *writer) flush() {
	if w.broken {
		return
	}
	w.q.gather()
	b := w.q.take()
	if b == nil {
		return
	}
	records, bytes := len(b.entries), len(b.bodies)
	if err := w.commit(b); err != nil {
		w.fail(err, b)
		return
	}
	if b.urgent {
		w.q.finish(b, nil)
		w.synced()
	}
	w.q.release(records, bytes)
}

func (w *writer) commit(b *batch) error {
	if w.seg != nil && w.full() {
		if err := w.closeSegment(audit.PurposeHead); err != nil {
			return err
		}
	}
	if w.seg == nil {
		if err := w.openSegment(); err != nil {
			return err
		}
	}
	w.lines = w.lines[:0]
	at := w.compose(w.at, b)
	if err := w.write(at); err != nil {
		return err
	}
	w.unsynced = append(w.unsynced, b)
	w.unsyncedBytes += len(b.bodies)
	if !b.urgent && w.unsyncedBytes < mostUnsynced {
		return nil
	}
	if err := w.sync(); err != nil {
		w.unsynced = w.unsynced[:len(w.unsynced)-1] // fail is handed b by itself.
		return err
	}
	if !b.urgent {
		w.synced()
	}
	return nil
}

func (w *writer) full() bool {
	return w.records > 0 && (w.at.size >= w.cfg.SegmentBytes || w.now().Sub(w.began) >= w.cfg.SegmentAge)
}

// compose adds the lines of b to what is written next, and returns their end.
func (w *writer) compose(at mark, b *batch) mark {
	start := 0
	for i := range b.entries {
		e := &b.entries[i]
		before := len(w.lines)
		at.seq++
		w.lines, at.hash = audit.AppendLine(w.lines, at.seq, at.hash, b.bodies[start:e.end])
		at.size += int64(len(w.lines) - before)
		start = e.end
		if !e.note {
			w.span.add(e.at)
			w.records++
		}
	}
	return at
}

// note adds a line of the log about itself.
func (w *writer) note(at mark, r *audit.Record) mark {
	before := len(w.lines)
	at.seq++
	w.lines, at.hash = audit.AppendLine(w.lines, at.seq, at.hash, audit.AppendRecord(nil, r))
	at.size += int64(len(w.lines) - before)
	return at
}

// write writes the lines that end at at.
func (w *writer) write(at mark) error {
	n, err := w.seg.Write(w.lines)
	if err != nil {
		return fmt.Errorf("write the audit: %w", err)
	}
	w.at = at
	w.q.count(func(s *Stats) { s.Bytes += uint64(n); s.Writes++ }) //nolint:gosec // A length.
	return nil
}

func (w *writer) sync() error {
	if err := w.seg.Sync(); err != nil {
		return fmt.Errorf("fsync the audit: %w", err)
	}
	w.durable = w.at
	w.q.count(func(s *Stats) { s.Fsyncs++ })
	return nil
}

// synced lets go of what is on the disk now.
func (w *writer) synced() {
	for _, b := range w.unsynced {
		w.q.recycle(b)
	}
	clear(w.unsynced)
	w.unsynced, w.unsyncedBytes = w.unsynced[:0], 0
}

// fail ends a segment that cannot be trusted any more: what an fsync did not
// confirm may be on the disk or not, whatever a later one says. Who waits is
// refused; what was taken without waiting is owed, and goes into the next segment.
func (w *writer) fail(err error, last *batch) {
	err = unavailable(err)
	w.q.setFault(err)
	w.broken = true
	w.q.count(func(s *Stats) { s.Failures++ })
	for _, b := range w.unsynced {
		w.owe(b)
	}
	w.unsynced, w.unsyncedBytes = nil, 0
	if last == nil {
		last = w.q.take()
	}
	for b := last; b != nil; b = w.q.take() {
		records, bytes := len(b.entries), len(b.bodies)
		if b.urgent {
			w.q.finish(b, err)
		}
		w.owe(b)
		w.q.release(records, bytes)
	}
	if w.seg != nil {
		w.before = audit.Note{Ended: audit.EndedFailed, PrevFrom: w.span.from, PrevTo: w.span.to}
		truncated := w.seg.Truncate(w.durable.size)
		// What stands behind the end after that was put there by somebody else.
		w.before.Truncated = truncated == nil && w.seg.Sync() == nil
		err = errors.Join(err, truncated, w.seg.Close()) // The next segment says where this one ends; cutting it only spares the reader.
		w.seg = nil
	}
	w.at = w.durable
	w.cfg.Failed(err)
}

// owe keeps the records of b that nobody waits for.
func (w *writer) owe(b *batch) {
	kept := newBatch()
	start := 0
	for _, e := range b.entries {
		body := b.bodies[start:e.end]
		start = e.end
		if e.waited {
			continue
		}
		kept.bodies = append(kept.bodies, body...)
		e.end = len(kept.bodies)
		kept.entries = append(kept.entries, e)
	}
	if len(kept.entries) > 0 {
		w.owed = append(w.owed, kept)
	}
}

// retry begins a new segment with what is owed, and takes records again.
func (w *writer) retry() {
	if err := w.openSegment(); err != nil {
		w.q.setFault(unavailable(err))
		return
	}
	w.broken = false
	w.q.setFault(nil)
	w.tick()
}

// openSegment begins the next segment: on the disk, with what is owed, or not at all.
func (w *writer) openSegment() error {
	path := segmentPath(w.cfg.Dir, w.number+1)
	f, err := w.cfg.create(path)
	if err != nil {
		return fmt.Errorf("write the audit: %w", err)
	}
	began, at := w.now(), w.durable
	at.size = 0
	note := w.before
	note.Chain, note.Segment, note.Prev = w.chain, w.number+1, w.durable.hash
	refused := w.q.refused()
	note.Refused = refused - w.refusedSoFar
	w.lines, w.span, w.records = w.lines[:0], span{}, 0
	at = w.note(at, &audit.Record{Time: began, Kind: audit.KindSegment, Note: &note})
	for _, b := range w.owed {
		at = w.compose(at, b)
	}
	n, err := f.Write(w.lines)
	if err == nil {
		err = f.Sync()
	}
	if err == nil {
		err = syncDir(w.cfg.Dir)
	}
	if err != nil {
		return fmt.Errorf("write the audit: %w", errors.Join(err, f.Close(), removeIfThere(path)))
	}
	w.seg, w.began, w.at, w.durable, w.owed = f, began, at, at, nil
	w.before, w.refusedSoFar = audit.Note{}, refused
	w.number++
	w.closedBelow.Store(w.number)
	w.q.count(func(s *Stats) { s.Segments++; s.Writes++; s.Fsyncs++; s.Bytes += uint64(n) }) //nolint:gosec // A length.
	return nil
}

// closeSegment ends the open segment by a checkpoint.
func (w *writer) closeSegment(purpose audit.Purpose) error {
	if err := w.checkpoint(purpose); err != nil {
		return err
	}
	w.before = audit.Note{Ended: audit.EndedClosed, PrevFrom: w.span.from, PrevTo: w.span.to}
	err := w.seg.Close()
	w.seg = nil
	w.closedBelow.Store(w.number + 1)
	if err != nil {
		w.cfg.Failed(fmt.Errorf("close a segment of the audit: %w", err)) // All of it is on the disk.
	}
	if w.closed != nil {
		w.closed()
	}
	return nil
}

// checkpoint signs what is written: by a line, and by the head, which vouches
// for that line too. An error means that the segment could not be written; one
// of the head is told, and the head is tried again with the next checkpoint.
func (w *writer) checkpoint(purpose audit.Purpose) error {
	c := audit.Checkpoint{
		Purpose: audit.PurposeLine, Chain: w.chain, Segment: w.number,
		Seq: w.at.seq, Hash: w.at.hash, Time: w.now(),
	}
	c.Sign(w.key)
	note := audit.Note{Chain: w.chain, Segment: c.Segment, Checkpoint: &c}
	w.lines = w.lines[:0]
	at := w.note(w.at, &audit.Record{Time: c.Time, Kind: audit.KindCheckpoint, Note: &note})
	if err := w.write(at); err != nil {
		return err
	}
	if err := w.sync(); err != nil {
		return err
	}
	w.synced()
	w.signHead(purpose)
	return nil
}

func (w *writer) signHead(purpose audit.Purpose) {
	head := audit.Checkpoint{
		Purpose: purpose, Chain: w.chain, Segment: w.number,
		Seq: w.durable.seq, Hash: w.durable.hash, Time: w.now(),
	}
	head.Sign(w.key)
	if err := writeCheckpoint(filepath.Join(w.cfg.Dir, headName), &head); err != nil {
		err = fmt.Errorf("sign the head of the audit: %w", err)
		w.headErr = err
		w.headFailed(err)
		w.cfg.Failed(err)
		return
	}
	w.headErr = nil
	w.headFailed(nil)
	w.signed = head.Seq
	w.cfg.Checkpoint(head)
}

// tick signs what was written since the last time, and ends a segment that is old.
func (w *writer) tick() {
	if w.broken || w.seg == nil {
		return
	}
	var err error
	switch {
	case w.full():
		err = w.closeSegment(audit.PurposeHead)
	case w.at.seq > w.signed:
		err = w.checkpoint(audit.PurposeHead)
	}
	if err != nil {
		w.fail(err, nil)
	}
}

// errLost says that records which were taken could not be written.
var errLost = errors.New("records that were taken without waiting are lost")

// close ends the log. Nobody appends any more.
func (w *writer) close() error {
	w.flush()
	if !w.broken && w.seg == nil {
		w.signHead(audit.PurposeClosed)
		return w.headSigned()
	}
	if w.broken {
		if err := w.openSegment(); err != nil {
			if len(w.owed) > 0 {
				err = errors.Join(err, errLost)
			}
			return fmt.Errorf("close the audit: %w", err)
		}
	}
	if err := w.closeSegment(audit.PurposeClosed); err != nil {
		w.fail(err, nil)
		return fmt.Errorf("close the audit: %w", err)
	}
	return w.headSigned()
}

func (w *writer) headSigned() error {
	if w.headErr != nil {
		return fmt.Errorf("close the audit: %w", w.headErr)
	}
	return nil
}
