package fileaudit

import (
	"errors"
	"fmt"
	"slices"

	"github.com/kelpie-authz/kelpie/audit"
)

// fail ends the open segment. Of what an fsync did not confirm nobody knows
// whether it is on the disk, whatever a later one says, and it does not count;
// where a write failed, the whole lines before it do. Who waits is refused; what
// was taken without waiting is owed, and goes into the next segment.
func (w *writer) fail(err error, last *batch) {
	refusal := unavailable(err)
	w.q.setFault(causeWrite, refusal)
	w.broken = true
	w.q.count(func(s *Stats) { s.Failures++ })
	if last != nil && last.urgent {
		w.q.finish(last, refusal)
	}
	kept := 0
	if w.seg != nil {
		w.before = audit.Note{Ended: audit.EndedFailed}
		var cutErr error
		kept, cutErr = w.cut(err)
		w.before.PrevFrom, w.before.PrevTo = w.durable.span.from, w.durable.span.to
		err = errors.Join(err, cutErr, w.seg.Close())
		w.seg = nil
	}
	w.at = w.durable
	for _, b := range w.unsynced {
		w.owe(b, 0)
	}
	w.unsynced, w.unsyncedBytes = nil, 0
	if last == nil {
		last = w.q.take()
	}
	for b := last; b != nil; b = w.q.take() {
		records, size := len(b.entries), len(b.bodies)
		if b.urgent {
			w.q.finish(b, refusal)
		}
		w.owe(b, kept)
		w.q.release(records, size)
		kept = 0
	}
	w.count()
	w.cfg.Failed(err)
}

// cut makes the open segment end where it counts: behind the last whole line
// that was written, if it is certain what was, or the last one that an fsync
// confirmed. It returns how many entries of the last batch that keeps.
func (w *writer) cut(err error) (int, error) {
	if errors.Is(err, errNotOurs) {
		return 0, nil // It may be another's by now.
	}
	var mendErr error
	if short := (*cutError)(nil); errors.As(err, &short) {
		mendErr = w.mend(short.end)
		if mendErr == nil {
			w.before.Truncated = true // What stands behind the end after that was put there by somebody else.
			return short.kept, nil
		}
		if errors.Is(mendErr, errNotOurs) {
			return 0, mendErr
		}
	}
	// The next segment says where this one ends; cutting it only spares the reader.
	info, statErr := w.seg.Stat()
	if statErr == nil && info.Size() > w.durable.size {
		statErr = w.seg.Truncate(w.durable.size)
	}
	w.before.Truncated = statErr == nil && w.seg.Sync() == nil
	return 0, errors.Join(mendErr, statErr)
}

// mend cuts off what stands behind end, and has the rest on the disk.
func (w *writer) mend(end mark) error {
	if err := w.lock.stands(); err != nil {
		return err
	}
	if err := w.seg.Truncate(end.size); err != nil {
		return fmt.Errorf("cut the audit behind its last whole line: %w", err)
	}
	w.at = end
	if err := w.sync(); err != nil {
		return err
	}
	w.confirmed()
	return nil
}

// owe keeps the records of b from entry on that nobody waits for.
func (w *writer) owe(b *batch, entry int) {
	if kept := b.rest(entry); len(kept.entries) > 0 {
		w.owed = append(w.owed, kept)
	}
}

// rest is a batch of the entries from one on that nobody waits for.
func (b *batch) rest(from int) *batch {
	kept := newBatch()
	start := 0
	for i, e := range b.entries {
		body := b.bodies[start:e.end]
		start = e.end
		if e.waited || i < from {
			continue
		}
		kept.bodies = append(kept.bodies, body...)
		e.end = len(kept.bodies)
		kept.entries = append(kept.entries, e)
	}
	return kept
}

// count tells how many records are owed: callers, and whoever opens the log after
// a crash.
func (w *writer) count() {
	lost := 0
	for _, b := range w.owed {
		for i := range b.entries {
			if !b.entries[i].note {
				lost++
			}
		}
	}
	w.lock.pledge(uint64(lost))
	w.q.settled(lost)
}

// retry writes what is owed, and takes records again.
func (w *writer) retry() {
	err := w.catchUp(len(w.owed) > 0)
	if err == nil {
		// What is taken from now on must have room as well.
		if err = w.reserve.keep(); err != nil && w.signed < w.durable.seq {
			w.signHead(audit.PurposeHead) // What was owed stands there, and need not wait to be vouched for.
		}
	}
	if err != nil {
		w.q.setFault(causeWrite, unavailable(err))
		return
	}
	w.broken = false
	w.q.setFault(causeWrite, nil)
	w.tick()
}

// catchUp begins a segment, unless one is open, and writes what is owed. spend
// says that the room which is held back may be used for that.
func (w *writer) catchUp(spend bool) error {
	if err := w.lock.again(); err != nil {
		return err
	}
	for {
		var err error
		if w.seg == nil {
			err = w.openSegment()
		}
		for err == nil && len(w.owed) > 0 {
			err = w.writeOwed()
		}
		if err == nil || !spend || !isFull(err) || !w.reserve.release() {
			return err
		}
	}
}

// writeOwed writes the first batch that is owed, as far as that goes.
func (w *writer) writeOwed() error {
	b := w.owed[0]
	err := w.writeBatch(b)
	if err == nil {
		if err = w.sync(); err == nil {
			w.durable = w.at
			w.owed = w.owed[1:]
			w.count()
			return nil
		}
	}
	w.before = audit.Note{Ended: audit.EndedFailed}
	kept, cutErr := w.cut(err)
	if short := (*cutError)(nil); cutErr == nil && errors.As(err, &short) {
		// It goes on behind the last whole line when there is room.
		if w.before, w.owed = (audit.Note{}), w.owed[1:]; kept < len(b.entries) {
			w.owed = slices.Insert(w.owed, 0, b.rest(kept))
		}
		w.count()
		return err
	}
	w.before.PrevFrom, w.before.PrevTo = w.durable.span.from, w.durable.span.to
	err = errors.Join(err, cutErr, w.seg.Close())
	w.seg, w.at = nil, w.durable
	return err
}
