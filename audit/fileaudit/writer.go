package fileaudit

import (
	"bytes"
	"crypto/ed25519"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"sync/atomic"
	"time"

	"github.com/kelpie-authz/kelpie/audit"
)

// syncBytes is how many bytes of Async records are written before an fsync that
// nobody waits for: half of what may be without one, so that the other half can
// be taken meanwhile.
const syncBytes = mostOwed / 2

// mark is a place in the log: the end of a line.
type mark struct {
	seq  uint64
	hash audit.Hash
	// Of the segment up to there: its size, how many records, and their times.
	size    int64
	records int
	span    span
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

	lock    *holder
	reserve reserve

	chain       string
	seg         file          // nil: none is open
	path        string        // of seg
	info        os.FileInfo   // of seg
	half        os.FileInfo   // of a file that an attempt left that failed; nil: none
	number      uint64        // of the segment that is open, or was last
	closedBelow atomic.Uint64 // segments below it are written no more
	began       time.Time
	// at is the last line written, durable the last one that an fsync confirmed,
	// sealed the last checkpoint, signed the last one that the head vouches for.
	at, durable    mark
	sealed, signed uint64

	// For the first line of the next segment.
	before       audit.Note
	refusedSoFar uint64

	// unsynced stand in the open segment and await an fsync; owed were taken and
	// stand in no segment.
	unsynced      []*batch
	unsyncedBytes int
	owed          []*batch
	// headErr is why the head could not be signed the last time, headSince when
	// that began.
	headErr   error
	headSince time.Time
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
	records, size := len(b.entries), len(b.bodies)
	if err := w.commit(b); err != nil {
		w.fail(err, b)
		return
	}
	w.q.release(records, size)
}

// cutError says that writing failed behind a line that can stay the last one.
type cutError struct {
	error

	end mark
	// kept is how many entries of the batch stand before it.
	kept int
}

// Unwrap gives the cause.
func (e *cutError) Unwrap() error { return e.error }

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
	before := w.at
	if w.q.given(b) { // Whoever was refused must not be found.
		return &cutError{error: errStalled, end: before}
	}
	if err := w.writeBatch(b); err != nil {
		return err
	}
	if !b.urgent && w.unsyncedBytes+len(b.bodies) < syncBytes {
		w.unsynced = append(w.unsynced, b)
		w.unsyncedBytes += len(b.bodies)
		return nil
	}
	if err := w.sync(); err != nil {
		return err
	}
	if b.urgent && !w.q.finish(b, nil) {
		return &cutError{error: errStalled, end: before}
	}
	w.unsynced = append(w.unsynced, b)
	w.confirmed()
	return nil
}

func (w *writer) full() bool {
	return w.at.records > 0 && (w.at.size >= w.cfg.SegmentBytes || w.now().Sub(w.began) >= w.cfg.SegmentAge)
}

// writeBatch writes b. Where a part is written, a [cutError] says how much of it
// counts: whole lines, and none that somebody waits for, since he is refused.
func (w *writer) writeBatch(b *batch) error {
	w.lines = w.lines[:0]
	at := w.compose(w.at, b, len(b.entries))
	n, err := w.write(at)
	if err == nil {
		return nil
	}
	whole := bytes.Count(w.lines[:n], []byte{'\n'})
	kept := 0
	for kept < whole && !b.entries[kept].waited {
		kept++
	}
	w.lines = w.lines[:0]
	return &cutError{error: err, end: w.compose(w.at, b, kept), kept: kept}
}

// compose adds the lines of the first n of b to what is written next, and
// returns their end.
func (w *writer) compose(at mark, b *batch, n int) mark {
	start := 0
	for i := range b.entries[:n] {
		e := &b.entries[i]
		before := len(w.lines)
		at.seq++
		w.lines, at.hash = audit.AppendLine(w.lines, at.seq, at.hash, b.bodies[start:e.end])
		at.size += int64(len(w.lines) - before)
		start = e.end
		if !e.note {
			at.span.add(e.at)
			at.records++
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

// write writes the lines that end at at, and returns how many bytes it wrote.
func (w *writer) write(at mark) (int, error) {
	n, err := w.seg.Write(w.lines)
	if err != nil {
		return n, fmt.Errorf("write the audit: %w", err)
	}
	w.at = at
	w.q.count(func(s *Stats) { s.Bytes += uint64(n); s.Writes++ }) //nolint:gosec // A length.
	return n, nil
}

// sync puts what is written on the disk, where it can be found: a file without
// its name is as good as none.
func (w *writer) sync() error {
	if err := w.seg.Sync(); err != nil {
		return fmt.Errorf("fsync the audit: %w", err)
	}
	w.q.count(func(s *Stats) { s.Fsyncs++ })
	return w.stands()
}

// stands tells whether the open segment is what this process wrote, and the
// directory this process's.
func (w *writer) stands() error {
	err := w.lock.stands()
	if err != nil || w.seg == nil {
		return err
	}
	info, err := sameFile(w.path, w.info)
	if err == nil && info.Size() != w.at.size {
		err = fmt.Errorf("%w: %s has %d bytes, and %d were written", errNotOurs, w.path, info.Size(), w.at.size)
	}
	return err
}

// confirmed lets go of what is on the disk now: all that is written.
func (w *writer) confirmed() {
	w.durable = w.at
	for _, b := range w.unsynced {
		w.q.recycle(b)
	}
	clear(w.unsynced)
	w.unsynced, w.unsyncedBytes = w.unsynced[:0], 0
	w.q.settled(0)
}

// openSegment begins the next segment: on the disk, or not at all.
func (w *writer) openSegment() error {
	if err := w.lock.stands(); err != nil {
		return err
	}
	path := segmentPath(w.cfg.Dir, w.number+1)
	f, info, err := w.create(path)
	if err != nil {
		return err
	}
	began, at := w.now(), w.durable
	at.size, at.records, at.span = 0, 0, span{}
	note := w.before
	note.Chain, note.Segment, note.Prev = w.chain, w.number+1, w.durable.hash
	refused := w.q.refused()
	note.Refused = refused - w.refusedSoFar
	w.lines = w.lines[:0]
	at = w.note(at, &audit.Record{Time: began, Kind: audit.KindSegment, Note: &note})
	n, err := f.Write(w.lines)
	if err == nil {
		err = f.Sync()
	}
	if err == nil {
		err = syncDir(w.cfg.Dir)
	}
	if err != nil {
		w.half = info
		return fmt.Errorf("write the audit: %w", errors.Join(err, f.Close(), w.discard(path)))
	}
	w.seg, w.path, w.info, w.began, w.at, w.durable = f, path, info, began, at, at
	w.before, w.refusedSoFar = audit.Note{}, refused
	w.number++
	w.closedBelow.Store(w.number)
	w.q.count(func(s *Stats) { s.Segments++; s.Writes++; s.Fsyncs++; s.Bytes += uint64(n) }) //nolint:gosec // A length.
	return nil
}

// create makes the file of a segment, in the place of one that an attempt left.
func (w *writer) create(path string) (file, os.FileInfo, error) {
	err := w.discard(path)
	if err != nil {
		return nil, nil, fmt.Errorf("write the audit: %w", err)
	}
	f, err := w.cfg.create(path)
	if errors.Is(err, fs.ErrExist) {
		return nil, nil, fmt.Errorf("%w: %s is there, and this process did not make it: see that no other writes the directory, and start this one anew", errNotOurs, path)
	}
	if err != nil {
		return nil, nil, fmt.Errorf("write the audit: %w", err)
	}
	info, err := f.Stat()
	if err != nil {
		return nil, nil, fmt.Errorf("write the audit: %w", errors.Join(err, f.Close()))
	}
	return f, info, nil
}

// discard removes what an attempt left that failed, if it is still that.
func (w *writer) discard(path string) error {
	if w.half == nil {
		return nil
	}
	_, err := sameFile(path, w.half)
	if err == nil {
		err = removeIfThere(path)
	}
	if err == nil || errors.Is(err, errNotOurs) {
		w.half = nil
		return nil
	}
	return err
}

// closeSegment ends the open segment by a checkpoint.
func (w *writer) closeSegment(purpose audit.Purpose) error {
	if err := w.checkpoint(purpose); err != nil {
		return err
	}
	w.before = audit.Note{Ended: audit.EndedClosed, PrevFrom: w.at.span.from, PrevTo: w.at.span.to}
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
	if _, err := w.write(at); err != nil {
		return &cutError{error: err, end: w.at}
	}
	if err := w.sync(); err != nil {
		return err
	}
	w.confirmed()
	w.sealed = at.seq
	w.signHead(purpose)
	return nil
}

// headPatience is for how long records are taken while the head cannot be
// signed: the end that is protected stands still meanwhile.
const headPatience = 10 * time.Second

func (w *writer) signHead(purpose audit.Purpose) {
	head := audit.Checkpoint{
		Purpose: purpose, Chain: w.chain, Segment: w.number,
		Seq: w.durable.seq, Hash: w.durable.hash, Time: w.now(),
	}
	head.Sign(w.key)
	if err := writeCheckpoint(filepath.Join(w.cfg.Dir, headName), &head); err != nil {
		err = fmt.Errorf("sign the head of the audit: %w", err)
		now := w.cfg.Now()
		if w.headErr == nil {
			w.headSince = now
		}
		w.headErr = err
		w.headFailed(err)
		if now.Sub(w.headSince) >= headPatience {
			w.q.setFault(causeHead, unavailable(fmt.Errorf("for %v nothing could be signed: %w", headPatience, err)))
		}
		w.cfg.Failed(err)
		return
	}
	if w.headErr != nil {
		w.headErr = nil
		w.headFailed(nil)
		w.q.setFault(causeHead, nil)
	}
	w.signed = head.Seq
	w.cfg.Checkpoint(head)
}

// tick signs what was written since the last time, and ends a segment that is old.
func (w *writer) tick() {
	if w.broken {
		return
	}
	err := w.stands()
	switch {
	case err != nil:
	case w.seg != nil && w.full():
		err = w.closeSegment(audit.PurposeHead)
	case w.seg != nil && w.at.seq > w.sealed:
		err = w.checkpoint(audit.PurposeHead)
	case w.headErr != nil:
		w.signHead(audit.PurposeHead)
	}
	if err != nil {
		w.fail(err, nil)
		return
	}
	if err := w.reserve.keep(); err != nil {
		w.cfg.Failed(err) // Somebody removed it. What is taken is written all the same while there is room.
	}
}

// errLost says that records which were taken could not be written.
var errLost = errors.New("records that were taken without waiting are lost")

// close ends the log. Nobody appends any more.
func (w *writer) close() error {
	w.flush()
	defer w.reserve.release() // The next process makes it anew; a log that rests needs none.
	if !w.broken && w.seg == nil {
		w.signHead(audit.PurposeClosed)
		return w.headSigned()
	}
	err := w.end()
	if isFull(err) && w.reserve.release() {
		err = w.end()
	}
	if lost := w.q.unsafe(); lost > 0 {
		err = errors.Join(err, fmt.Errorf("%w: %d of them; the log tells it once it is opened again", errLost, lost))
	}
	if err != nil {
		return fmt.Errorf("close the audit: %w", err)
	}
	return w.headSigned()
}

// end writes what is owed, and closes the segment.
func (w *writer) end() error {
	if w.broken {
		if err := w.catchUp(true); err != nil {
			if w.seg != nil {
				w.signHead(audit.PurposeHead) // What could be written is vouched for; closed it is not.
			}
			return err
		}
	}
	err := w.closeSegment(audit.PurposeClosed)
	if err != nil {
		w.fail(err, nil)
	}
	return err
}

func (w *writer) headSigned() error {
	if w.headErr != nil {
		return fmt.Errorf("close the audit: %w", w.headErr)
	}
	return nil
}
