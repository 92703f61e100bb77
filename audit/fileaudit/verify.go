package fileaudit

import (
	"context"
	"crypto/ed25519"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"path/filepath"

	"github.com/kelpie-authz/kelpie/audit"
)

// verifyTries is how often a log is looked at anew that is shortened by
// retention, or opened, while it is verified.
const verifyTries = 5

// Verify reads a whole log and tells whether it is what was written by the
// holder of key, or the first place where it is not. anchors are heads of this log that
// were kept elsewhere; each has to be found in it, unless what it vouches for
// was removed on purpose. It may run while the log is written.
//
// The error is of reading, not of what was read: a log with a fault has none.
func Verify(ctx context.Context, dir string, key ed25519.PublicKey, anchors ...audit.Checkpoint) (audit.Verification, error) {
	for try := 1; ; try++ {
		v := &verifier{dir: dir, key: key, anchors: anchors}
		err := v.run(ctx)
		if errors.Is(err, fs.ErrNotExist) || (err == nil && v.out.Fault != nil) {
			start, startErr := readCheckpoint(filepath.Join(dir, startName))
			moved := startErr == nil && start != nil && (v.start == nil || start.Seq != v.start.Seq)
			head, headErr := readCheckpoint(filepath.Join(dir, headName))
			opened := v.out.Closed && headErr == nil && head != nil && head.Purpose == audit.PurposeHead
			if (moved || opened) && try < verifyTries {
				continue
			}
		}
		return v.out, err
	}
}

// verifier follows the chain from its start to its end.
type verifier struct {
	dir     string
	key     ed25519.PublicKey
	anchors []audit.Checkpoint

	head, start *audit.Checkpoint
	out         audit.Verification
	at          mark
	number      uint64 // of the segment before
	span        span
	file        string
	line        int
	scratch     []byte
}

// faultf notes the first fault, at the line that is looked at.
func (v *verifier) faultf(kind audit.FaultKind, format string, args ...any) {
	if v.out.Fault == nil {
		v.out.Fault = &audit.Fault{Kind: kind, File: v.file, Line: v.line, Seq: v.at.seq + 1, What: fmt.Sprintf(format, args...)}
	}
}

func (v *verifier) run(ctx context.Context) error {
	if err := v.signed(); err != nil || v.out.Fault != nil {
		return err
	}
	segments, err := list(v.dir)
	if err != nil {
		return err
	}
	// What stands before the start was removed, up to a crash.
	for v.start != nil && len(segments) > 0 && segments[0].number < v.start.Segment {
		segments = segments[1:]
	}
	for i, s := range segments {
		if err := v.segment(ctx, s, segments[i+1:]); err != nil || v.out.Fault != nil {
			return err
		}
	}
	v.line = 0
	v.finish()
	return nil
}

// signed reads the files that are signed beside the segments.
func (v *verifier) signed() error {
	for _, f := range []struct {
		name     string
		to       **audit.Checkpoint
		purposes [2]audit.Purpose
		needed   bool
	}{
		{startName, &v.start, [2]audit.Purpose{audit.PurposeStart}, false},
		{headName, &v.head, [2]audit.Purpose{audit.PurposeHead, audit.PurposeClosed}, true},
	} {
		v.file = f.name
		c, err := readCheckpoint(filepath.Join(v.dir, f.name))
		switch {
		case errors.Is(err, errBroken):
			v.faultf(audit.FaultForged, "it cannot be read: %v", err)
			return nil
		case err != nil:
			return fmt.Errorf("verify the audit: %w", err)
		case c == nil && f.needed:
			v.faultf(audit.FaultMissing, "the signed head is not there: nobody can tell whether the end was cut off")
			return nil
		case c == nil:
			continue
		}
		if !isSigned(c, v.key) {
			v.unsigned(c)
			return nil
		}
		v.out.Checkpoints++
		if c.Purpose != f.purposes[0] && c.Purpose != f.purposes[1] {
			v.faultf(audit.FaultForged, "what it signs is a %s, not what belongs here", c.Purpose)
			return nil
		}
		*f.to = c
	}
	v.begin()
	return nil
}

// unsigned notes that a file beside the segments is not signed by the key. Most often
// it is the key that is another's.
func (v *verifier) unsigned(c *audit.Checkpoint) {
	if mine := audit.KeyID(v.key); c.Key != mine {
		v.faultf(audit.FaultForged, "it says that key %s signed it, and is verified with key %s: take the public key of this log; if it is that, this file was forged", c.Key, mine)
		return
	}
	v.faultf(audit.FaultForged, "it is not signed by key %s, which it names", c.Key)
}

// begin sets where the chain starts.
func (v *verifier) begin() {
	v.out.Chain = v.head.Chain
	v.out.SignedSeq, v.out.SignedAt = v.head.Seq, v.head.Time
	v.out.Closed = v.head.Purpose == audit.PurposeClosed
	if v.start == nil {
		return
	}
	v.file = startName
	if v.start.Chain != v.head.Chain {
		v.faultf(audit.FaultForged, "it is of another log: %s", v.start.Chain)
	}
	v.out.Removed = true
	v.at, v.number = mark{seq: v.start.Seq, hash: v.start.Hash}, v.start.Segment-1
}

// segment follows the chain through one segment.
func (v *verifier) segment(ctx context.Context, s segment, later []segment) error {
	v.file, v.line = s.name(), 0
	if s.number != v.number+1 {
		v.faultf(audit.FaultMissing, "segment %d should come here: it is not there, or out of its place", v.number+1)
		return nil
	}
	end := uint64(0)
	if len(later) > 0 {
		if next, err := readHeader(v.dir, later[0].number); err == nil && next.there && next.Note.Ended == audit.EndedFailed {
			end = next.Seq
		}
	}
	l, _, err := openLines(v.dir, s.number)
	if errors.Is(err, errGarbled) {
		v.faultf(audit.FaultLine, "%v", err)
		return nil
	}
	if err != nil {
		return fmt.Errorf("verify the audit: %w", err)
	}
	defer l.close() //nolint:errcheck // It was only read.
	v.out.Segments++
	v.number = s.number
	return v.lines(ctx, l, s, end, len(later) == 0)
}

func (v *verifier) lines(ctx context.Context, l *lines, s segment, end uint64, last bool) error {
	for {
		raw, err := l.next()
		v.line = l.count
		switch {
		case errors.Is(err, io.EOF):
			v.ended(l, last, end > 0)
			return nil
		case errors.Is(err, errTooLong), errors.Is(err, errGarbled):
			v.line++
			v.faultf(audit.FaultLine, "%v", err)
			return nil
		case err != nil:
			return fmt.Errorf("verify the audit: %w", err)
		}
		if err := ctx.Err(); err != nil {
			return fmt.Errorf("verify the audit: %w", err)
		}
		if end > 0 && v.at.seq+1 >= end && l.count > 1 {
			v.out.Ignored++ // The next segment says, signed, that this one failed before it.
			continue
		}
		v.one(raw, s, l.count == 1)
		if v.out.Fault != nil {
			return nil
		}
	}
}

// ended looks at what stands behind the last whole line of a segment.
func (v *verifier) ended(l *lines, last, failed bool) {
	v.line = l.count + 1
	switch {
	case l.count == 0 && !last:
		v.faultf(audit.FaultSegment, "the segment is empty")
	case l.rest() == 0 || failed:
	case !last:
		v.faultf(audit.FaultLine, "a line is cut: its end is not there")
	case v.at.seq < v.head.Seq && v.out.Closed:
		v.faultf(audit.FaultTail, "the end is cut off: only the beginning of line %d is there, and the log was closed after line %d at %s",
			v.at.seq+1, v.head.Seq, v.head.Time.Format("2006-01-02 15:04:05Z"))
	case v.out.Closed:
		v.faultf(audit.FaultAppended, "something stands behind the end of a log that was closed")
	default:
		v.out.TornBytes = l.rest()
	}
}

// one checks the line that comes next.
func (v *verifier) one(raw []byte, s segment, first bool) {
	sealed, err := audit.SplitLine(raw, v.scratch)
	if err != nil {
		v.faultf(audit.FaultLine, "%v", err)
		return
	}
	v.scratch = sealed.Body
	r, err := audit.DecodeRecord(sealed.Body)
	if err != nil {
		v.faultf(audit.FaultLine, "%v", err)
		return
	}
	if first {
		v.first(&sealed, &r, s)
	} else if r.Kind == audit.KindSegment {
		v.faultf(audit.FaultSegment, "a segment begins in the middle of another")
	}
	if sealed.Seq != v.at.seq+1 {
		v.faultf(audit.FaultSequence, "line %d of the log stands where %d should", sealed.Seq, v.at.seq+1)
	}
	if !sealed.Follows(v.at.hash) {
		v.faultf(audit.FaultHash, "it is not what was written here: its hash is not that of its text after the line before")
	}
	v.signedLine(&sealed, &r)
	if v.out.Fault != nil {
		return
	}
	v.at.seq, v.at.hash = sealed.Seq, sealed.Stated
	v.count(&r)
}

// first checks what a segment says of itself and of the one before.
func (v *verifier) first(sealed *audit.Sealed, r *audit.Record, s segment) {
	if r.Kind != audit.KindSegment {
		v.faultf(audit.FaultSegment, "%v", errNoHeader)
		return
	}
	n := r.Note
	if n.Chain != v.out.Chain || n.Segment != s.number {
		v.faultf(audit.FaultSegment, "it says that it is segment %d of log %s, and this is segment %d of log %s", n.Segment, n.Chain, s.number, v.out.Chain)
	}
	if n.LostFrom > 0 {
		v.faultf(audit.FaultTail, "lines %d to %d are gone: they were signed, or the signed head was gone, when the log was opened at %s",
			n.LostFrom, n.LostTo, r.Time.Format("2006-01-02 15:04:05Z"))
	}
	if n.Prev != v.at.hash {
		v.faultf(audit.FaultHash, "it does not follow the segment before: what it says of that one's last line is not so")
	}
	v.out.Refused += n.Refused
	switch n.Ended {
	case audit.EndedCrashed:
		v.out.Crashes++
	case audit.EndedFailed:
		v.out.Failures++
	}
	if v.out.Lines == 0 {
		v.out.FirstSeq = sealed.Seq
	}
}

// signedLine compares a line with what is signed of it.
func (v *verifier) signedLine(sealed *audit.Sealed, r *audit.Record) {
	if c := checkpointOf(r); c != nil && v.out.Fault == nil {
		switch {
		case c.Verify(v.key) != nil:
			v.faultf(audit.FaultForged, "the checkpoint is not signed by key %s", audit.KeyID(v.key))
		case c.Chain != v.out.Chain || c.Seq != v.at.seq || c.Hash != v.at.hash:
			v.faultf(audit.FaultForged, "the checkpoint is of another place")
		}
		v.out.Checkpoints++
	}
	if sealed.Seq == v.head.Seq && sealed.Stated != v.head.Hash {
		v.faultf(audit.FaultHash, "the signed head knows another line here")
	}
	if v.out.Closed && sealed.Seq > v.head.Seq {
		v.faultf(audit.FaultAppended, "the log was closed after line %d: this one was added by hand", v.head.Seq)
	}
	for i := range v.anchors {
		if a := &v.anchors[i]; a.Seq == sealed.Seq && (a.Hash != sealed.Stated || a.Chain != v.out.Chain) {
			v.faultf(audit.FaultHash, "a head that was kept elsewhere (signed at %s) knows another line here", a.Time.Format("2006-01-02 15:04:05Z"))
		}
	}
}

func checkpointOf(r *audit.Record) *audit.Checkpoint {
	if r.Note == nil {
		return nil
	}
	return r.Note.Checkpoint
}

func (v *verifier) count(r *audit.Record) {
	v.out.Lines++
	v.out.LastSeq = v.at.seq
	if !r.Kind.Note() {
		v.out.Records++
		v.span.add(r.Time)
		v.out.From, v.out.To = v.span.from, v.span.to
	}
}

// finish looks at what should have come.
func (v *verifier) finish() {
	if v.at.seq < v.head.Seq {
		v.faultf(audit.FaultTail, "the end is cut off: the log ends with line %d, and line %d was signed at %s",
			v.at.seq, v.head.Seq, v.head.Time.Format("2006-01-02 15:04:05Z"))
		return
	}
	v.out.Unsigned = v.at.seq - v.head.Seq
	for i := range v.anchors {
		a := &v.anchors[i]
		if a.Verify(v.key) != nil {
			v.faultf(audit.FaultForged, "a head that was kept elsewhere is not signed by key %s", audit.KeyID(v.key))
		}
		if a.Seq > v.at.seq || a.Chain != v.out.Chain {
			v.faultf(audit.FaultTail, "the end is cut off: the log ends with line %d, and a head that was kept elsewhere signed line %d of log %s", v.at.seq, a.Seq, a.Chain)
		}
	}
}
