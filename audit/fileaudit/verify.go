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
// holder of key, or the places where it is not. Behind a fault it goes on with
// the next segment, and behind a loss that the log tells of itself at once, so
// that one accident does not hide what comes later. anchors are heads of this log
// that were kept elsewhere; each has to be found in it, unless what it vouches for
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

// ReadHead reads a copy of head.json, to verify with: Verify checks its signature.
func ReadHead(path string) (audit.Checkpoint, error) {
	c, err := readCheckpoint(path)
	switch {
	case err != nil && !errors.Is(err, errBroken):
		return audit.Checkpoint{}, fmt.Errorf("read a head of the audit: %w", err)
	case err == nil && c == nil:
		return audit.Checkpoint{}, fmt.Errorf("read a head of the audit: %s is not there", path)
	case err != nil || (c.Purpose != audit.PurposeHead && c.Purpose != audit.PurposeClosed):
		return audit.Checkpoint{}, fmt.Errorf("%s is no head of an audit: take a copy of a head.json", path)
	}
	return *c, nil
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
	// broken says that a fault was found which the log does not tell of: nothing more
	// can be said of this segment. faulty says that it was found in any.
	broken, faulty bool
	// pending are records that no signature has vouched for yet.
	pending uint64
	survey  *survey // nil: nobody wants to know more of the segments
}

// faultf notes a fault, at the line that is looked at: the first one of a segment.
func (v *verifier) faultf(kind audit.FaultKind, format string, args ...any) {
	if v.broken {
		return
	}
	v.broken, v.faulty, v.pending = true, true, 0
	v.note(&audit.Fault{Kind: kind, File: v.file, Line: v.line, Seq: v.at.seq + 1, What: fmt.Sprintf(format, args...)})
}

func (v *verifier) note(f *audit.Fault) {
	if v.out.Fault == nil {
		v.out.Fault = f
	} else {
		v.out.Later = append(v.out.Later, *f)
	}
}

func (v *verifier) run(ctx context.Context) error {
	if err := v.signed(); err != nil || v.broken {
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
	if err := v.walk(ctx, segments); err != nil {
		return err
	}
	v.line = 0
	v.finish()
	return nil
}

// walk follows the chain through segments.
func (v *verifier) walk(ctx context.Context, segments []segment) error {
	firsts := make([]header, len(segments))
	for i, s := range segments {
		if h, err := readHeader(v.dir, s.number); err == nil { // Reading the segment tells what is wrong.
			firsts[i] = h
		}
	}
	for i, s := range segments {
		v.broken = false
		if err := v.segment(ctx, s, firsts[i], firsts[i+1:]); err != nil || v.survey.over(v.faulty) {
			return err
		}
		if v.broken && i+1 < len(segments) {
			v.resume(segments[i+1], firsts[i+1])
		}
	}
	return nil
}

// resume goes on with a segment, by what it says of itself.
func (v *verifier) resume(s segment, first header) {
	v.number = s.number - 1
	if first.there {
		v.at = mark{seq: first.Seq - 1, hash: first.Note.Prev}
		if first.Note.LostFrom > 0 {
			v.at.seq = first.Note.LostFrom - 1
		}
	}
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
			kept := v.keptHead()
			if kept == nil {
				v.faultf(audit.FaultMissing, "the signed head is not there: nobody can tell whether the end was cut off")
				return nil
			}
			v.faultf(audit.FaultMissing, "the signed head is not there; that which was kept elsewhere is taken for it")
			v.broken, v.head = false, kept
			continue
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

// keptHead is the newest of the heads that were kept elsewhere; nil: there is none
// that the key signed. Lines can have followed it, also if it ended a log.
func (v *verifier) keptHead() (newest *audit.Checkpoint) {
	for i := range v.anchors {
		if a := &v.anchors[i]; isHead(a, v.key) && (newest == nil || a.Seq > newest.Seq) {
			newest = a
		}
	}
	if newest != nil {
		open := *newest
		open.Purpose = audit.PurposeHead
		newest = &open
	}
	return newest
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

// limit is where the lines of a segment that count end.
type limit struct {
	seq uint64 // of the first line that does not count; 0: all do
	// lost: a start found from there on nothing that it could trust. Otherwise the
	// segment failed, and truncated says that it was cut there.
	lost, truncated bool
}

// limitOf is the limit of the segment that comes now, by the first lines of those behind it.
func (v *verifier) limitOf(later []header) limit {
	var l limit
	if len(later) > 0 && later[0].there && later[0].Note.Ended == audit.EndedFailed {
		l = limit{seq: later[0].Seq, truncated: later[0].Note.Truncated}
	}
	for _, h := range later {
		if h.there && h.Note.LostFrom > v.at.seq && h.Note.Chain == v.out.Chain {
			if l.seq == 0 || h.Note.LostFrom < l.seq {
				l = limit{seq: h.Note.LostFrom, lost: true}
			}
			break
		}
	}
	return l
}

// segment follows the chain through one segment.
func (v *verifier) segment(ctx context.Context, s segment, first header, later []header) error {
	v.file, v.line = s.name(), 0
	if s.number != v.number+1 {
		if told := first.there && first.Note.LostFrom > 0 && first.Note.LostFrom == v.at.seq+1; !told {
			v.faultf(audit.FaultMissing, "segment %d should come here: it is not there, or out of its place", v.number+1)
			v.resume(s, first)
			v.broken = false
		}
	}
	v.number = s.number
	if err := v.survey.begin(s, v.at); err != nil {
		return err
	}
	end := v.limitOf(later)
	if end.lost && v.at.seq+1 >= end.seq {
		return nil // All of it is among what was lost.
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
	return v.lines(ctx, l, s, end, len(later) == 0)
}

func (v *verifier) lines(ctx context.Context, l *lines, s segment, end limit, last bool) error {
	for {
		if end.lost && v.at.seq+1 >= end.seq && l.count > 0 {
			return nil
		}
		raw, err := l.next()
		v.line = l.count
		switch {
		case errors.Is(err, io.EOF):
			v.ended(l, last, end)
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
		if end.seq > 0 && v.at.seq+1 >= end.seq && l.count > 1 {
			v.out.Ignored++ // The next segment says, signed, that this one failed before it.
			if end.truncated {
				v.faultf(audit.FaultAppended, "something stands behind the end of a segment that was cut there when writing it failed")
				return nil
			}
			continue
		}
		v.one(raw, s, l.count == 1)
		if v.broken || v.survey.over(false) {
			return nil
		}
	}
}

// ended looks at what stands behind the last whole line of a segment.
func (v *verifier) ended(l *lines, last bool, end limit) {
	v.line = l.count + 1
	switch {
	case l.count == 0 && !last:
		v.faultf(audit.FaultSegment, "the segment is empty")
	case l.rest() == 0 || (end.seq > 0 && !end.truncated):
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
	if v.broken {
		return
	}
	v.at.seq, v.at.hash = sealed.Seq, sealed.Stated
	v.survey.line(raw, &sealed, &r)
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
		v.lost(sealed, r)
	}
	if n.Prev != v.at.hash {
		v.faultf(audit.FaultHash, "it does not follow the segment before: what it says of that one's last line is not so")
	}
	v.out.Refused += n.Refused
	v.out.Adopted += n.Adopted
	v.out.Lost += n.Lost
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

// lost notes what a start found gone, and goes on behind it.
func (v *verifier) lost(sealed *audit.Sealed, r *audit.Record) {
	n := r.Note
	if v.broken {
		return
	}
	v.note(&audit.Fault{
		Kind: audit.FaultLost, File: v.file, Line: v.line, Seq: n.LostFrom, Known: sealed.Seq <= v.head.Seq,
		What: fmt.Sprintf("lines %d to %d are gone: they were signed, or the signed head or the whole log was gone, when the log was opened at %s",
			n.LostFrom, n.LostTo, r.Time.Format("2006-01-02 15:04:05Z")),
	})
	v.out.Proved, v.pending = 0, 0
	if n.LostFrom == v.at.seq+1 {
		v.at.seq, v.at.hash = n.LostTo, n.Prev
	}
}

// signedLine compares a line with what is signed of it.
func (v *verifier) signedLine(sealed *audit.Sealed, r *audit.Record) {
	if c := checkpointOf(r); c != nil && !v.broken {
		switch {
		case c.Verify(v.key) != nil:
			v.faultf(audit.FaultForged, "the checkpoint is not signed by key %s", audit.KeyID(v.key))
		case c.Chain != v.out.Chain || c.Seq != v.at.seq || c.Hash != v.at.hash:
			v.faultf(audit.FaultForged, "the checkpoint is of another place")
		}
		v.out.Checkpoints++
		v.vouched()
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

// vouched says that all up to here is signed.
func (v *verifier) vouched() {
	if !v.broken {
		v.out.Proved += v.pending
		v.pending = 0
		v.survey.vouched()
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
		v.pending++
		v.span.add(r.Time)
		v.out.From, v.out.To = v.span.from, v.span.to
	}
	if v.at.seq == v.head.Seq {
		v.vouched()
	}
}

// finish looks at what should have come.
func (v *verifier) finish() {
	if v.broken {
		return // Nobody knows how far the last segment went.
	}
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
