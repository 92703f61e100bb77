package fileaudit

import (
	"bytes"
	"crypto/ed25519"
	"crypto/rand"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"

	"github.com/kelpie-authz/kelpie/audit"
)

// recover finds where the log ends, cuts off what a crash left behind it, and
// prepares the first line of the next segment. made says that the key is new, and
// not on the disk yet.
func (w *writer) recover(found *Recovery, made bool) error {
	if err := w.tidy(); err != nil {
		return err
	}
	segments, err := list(w.cfg.Dir)
	if err != nil {
		return err
	}
	head, err := w.readHead(made && len(segments) == 0)
	if err != nil {
		return err
	}
	kept := w.readKept()
	if head != nil && kept != nil && head.Chain != kept.Chain {
		return fmt.Errorf("the audit in %s is log %s, and %s is the head of log %s: give that one back, or move the file away to go on with this one",
			w.cfg.Dir, head.Chain, keptPath(w.cfg), kept.Chain)
	}
	t := &tail{dir: w.cfg.Dir, head: head}
	if head == nil || (kept != nil && kept.Seq > head.Seq) {
		t.head = kept // Somebody removed the head, or put an older one back.
	}
	// A key without any of these can be one that somebody brought for a first start.
	t.gone = head == nil && (kept != nil || len(segments) > 0)
	t.from(w)
	if err := t.find(segments); err != nil {
		return err
	}
	w.chain, w.durable, w.number = t.chain, mark{seq: t.end.seq, hash: t.end.hash}, t.number
	if w.chain == "" {
		id := make([]byte, 16)
		_, _ = rand.Read(id) // It does not fail.
		w.chain = hex.EncodeToString(id)
	} else {
		w.before = audit.Note{Ended: audit.EndedCrashed, PrevFrom: t.span.from, PrevTo: t.span.to}
		if t.head != nil && t.head.Purpose == audit.PurposeClosed && t.head.Seq == t.end.seq {
			w.before.Ended = audit.EndedClosed
		}
	}
	w.before.CutBytes, w.before.Adopted = t.cut, t.adopted()
	w.lose(t)
	*found = Recovery{w.before.Ended, t.cut, w.before.Adopted, w.before.LostFrom, w.before.LostTo}
	// What was closed is open again before anything follows, and that there is a log,
	// or a loss, is known before its first segment is.
	w.signHead(audit.PurposeHead)
	if w.headErr != nil || !made {
		return w.headErr
	}
	// Only now: a key that is there without a log says that the log was removed.
	return saveKey(w.cfg.KeyFile, w.key)
}

// lose leaves out the numbers of lines that are gone, so that the gap is in
// the log for ever.
func (w *writer) lose(t *tail) {
	switch {
	case t.head != nil && t.end.seq < t.head.Seq:
		w.before.LostFrom, w.before.LostTo = t.end.seq+1, t.head.Seq
		w.durable = mark{seq: t.head.Seq, hash: t.head.Hash}
	case t.gone:
		// Nobody knows what stood at the end, if the head is gone.
		w.before.LostFrom, w.before.LostTo = t.end.seq+1, t.end.seq+1
		w.durable.seq++
	}
}

// tidy removes what a crash left of files that were being written, and leaves one file
// of each segment.
func (w *writer) tidy() error {
	entries, err := os.ReadDir(w.cfg.Dir)
	if err != nil {
		return fmt.Errorf("open the audit: %w", err)
	}
	for _, e := range entries {
		var err error
		if strings.HasSuffix(e.Name(), tmpSuffix) {
			err = removeIfThere(filepath.Join(w.cfg.Dir, e.Name()))
		}
		if m := segmentName.FindStringSubmatch(e.Name()); len(m) == 3 && m[2] != "" {
			if number, parseErr := strconv.ParseUint(m[1], 10, 64); parseErr == nil {
				err = unite(w.cfg.Dir, number, w.public())
			}
		}
		if err != nil && !errors.Is(err, errNeither) { // The archiver tells that, as long as it is so.
			return fmt.Errorf("open the audit: %w", err)
		}
	}
	return nil
}

// readHead reads the signed head. nil: there is none, or none of this log. fresh says
// that there is nothing else, and that the key is new.
func (w *writer) readHead(fresh bool) (*audit.Checkpoint, error) {
	head, err := readCheckpoint(filepath.Join(w.cfg.Dir, headName))
	switch {
	case errors.Is(err, errBroken):
		return nil, nil
	case err != nil:
		return nil, fmt.Errorf("open the audit: %w", err)
	case head == nil || (fresh && head.Seq == 0):
		return nil, nil // The very first start was cut short before its key was kept.
	}
	if own := audit.KeyID(w.public()); head.Key != own {
		return nil, fmt.Errorf("the audit in %s is signed by key %s, and %s is key %s: give the old key back, or move the directory away to begin another log",
			w.cfg.Dir, head.Key, w.cfg.KeyFile, own)
	}
	if !isHead(head, w.public()) {
		return nil, nil
	}
	return head, nil
}

// isHead tells whether c is a head that key signed.
func isHead(c *audit.Checkpoint, key ed25519.PublicKey) bool {
	return isSigned(c, key) && (c.Purpose == audit.PurposeHead || c.Purpose == audit.PurposeClosed)
}

// tail is where a log ends.
type tail struct {
	dir string
	// head is the last one that is known, gone says that it was not where it should be.
	head *audit.Checkpoint
	gone bool

	chain  string
	number uint64
	end    mark
	span   span     // of last
	last   *segment // that has something that counts; nil: none has
	size   int64    // of what counts in it
	cut    int64
}

// from sets where the log begins: at its first line, or behind what retention removed.
func (t *tail) from(w *writer) {
	start, err := readCheckpoint(filepath.Join(t.dir, startName))
	if err == nil && start != nil && t.head != nil && start.Chain == t.head.Chain && start.Purpose == audit.PurposeStart && isSigned(start, w.public()) {
		t.end = mark{seq: start.Seq, hash: start.Hash}
	}
}

// adopted is how many lines follow those that the head vouches for.
func (t *tail) adopted() uint64 {
	if t.head == nil || t.end.seq < t.head.Seq {
		return 0
	}
	return t.end.seq - t.head.Seq
}

// find looks for the last line that the head knows, or any if there is none, and
// goes on from there as long as one line follows the other.
func (t *tail) find(segments []segment) error {
	base := len(segments)
	if t.head != nil {
		t.chain, t.number = t.head.Chain, t.head.Segment
		for base > 0 && segments[base-1].number > t.head.Segment {
			base--
		}
	}
	if err := t.base(segments[:base], segments[base:]); err != nil {
		return err
	}
	if err := t.goOn(segments[base:]); err != nil {
		return err
	}
	if t.last == nil || t.last.gz || t.size == t.last.size || (t.head != nil && t.end.seq < t.head.Seq) {
		return nil
	}
	return t.cutOff(*t.last, t.size)
}

// base finds the last segment that has something that the head can vouch for.
func (t *tail) base(segments, later []segment) error {
	for i, s := range slices.Backward(segments) {
		next := later
		if i+1 < len(segments) {
			next = segments[i+1:]
		}
		found, err := t.scan(s, t.limit(next))
		switch {
		case err != nil:
			return err
		case found:
			return nil
		case t.head == nil:
			if err := t.setAside(s); err != nil { // Nothing in it counts.
				return err
			}
		default:
			t.number = max(t.number, s.number) // It is damaged, and stays as it is.
		}
	}
	return nil
}

// goOn follows segments that the head does not know.
func (t *tail) goOn(segments []segment) error {
	aside := t.head != nil && t.head.Purpose == audit.PurposeClosed
	for i, s := range segments {
		found := false
		if !aside && t.follows(s) {
			var err error
			if found, err = t.scan(s, t.limit(segments[i+1:])); err != nil {
				return err
			}
		}
		if found {
			continue
		}
		// Its first line was never on the disk, or whoever wrote it was not the log.
		aside = true
		if err := t.setAside(s); err != nil {
			return err
		}
	}
	return nil
}

// limit is the number of the line before which a segment ends since it failed, as the
// next one says; 0: it did not.
func (t *tail) limit(later []segment) uint64 {
	if len(later) == 0 {
		return 0
	}
	next, err := readHeader(t.dir, later[0].number)
	if err != nil || !next.there || next.Note.Ended != audit.EndedFailed || (t.head != nil && next.Seq <= t.head.Seq) {
		return 0
	}
	return next.Seq
}

// follows tells whether a segment that the head does not know goes on where the lines
// before end, or where the head does: it vouches for a line that is damaged.
func (t *tail) follows(s segment) bool {
	first, err := readHeader(t.dir, s.number)
	if err != nil || !first.there || first.Note.Chain != t.chain || first.Note.Segment != s.number {
		return false
	}
	prev := first.Seq - 1
	return (prev == t.end.seq && first.Note.Prev == t.end.hash) || (prev == t.head.Seq && first.Note.Prev == t.head.Hash)
}

// setAside takes a whole file out of the log.
func (t *tail) setAside(s segment) error {
	t.cut += s.size
	var err error
	if s.size == 0 {
		err = os.Remove(s.path)
	} else {
		err = setAside(s.path)
	}
	if err != nil {
		return fmt.Errorf("open the audit: %w", err)
	}
	return nil
}

// scan reads a segment up to its last good line before limit, where the log ends then;
// false: it has none.
func (t *tail) scan(s segment, limit uint64) (bool, error) {
	l, _, err := openLines(t.dir, s.number)
	if errors.Is(err, errGarbled) {
		return false, nil
	}
	if err != nil {
		return false, fmt.Errorf("open the audit: %w", err)
	}
	defer l.close() //nolint:errcheck // It was only read.
	times := t.span
	end, err := t.follow(l, limit)
	if err != nil || end == nil {
		t.span = times
		return false, err
	}
	t.end, t.last, t.size = *end, &s, end.size
	t.number = max(t.number, s.number)
	return true, nil
}

// follow follows the chain from the first line on; nil: that is none.
func (t *tail) follow(l *lines, limit uint64) (*mark, error) {
	var end *mark
	for {
		line, err := l.next()
		switch {
		case errors.Is(err, io.EOF), errors.Is(err, errTooLong), errors.Is(err, errGarbled):
			return end, nil
		case err != nil:
			return nil, fmt.Errorf("open the audit: %w", err)
		}
		if end == nil {
			if end, err = t.begin(line); err != nil || end == nil {
				return nil, err
			}
		}
		if (limit > 0 && end.seq+1 >= limit) || !t.step(line, end) {
			if end.size == 0 {
				end = nil
			}
			return end, nil
		}
	}
}

// begin reads the first line of a segment; nil: it is none.
func (t *tail) begin(line []byte) (*mark, error) {
	first, err := parseHeader(line)
	if err != nil {
		return nil, nil //nolint:nilerr // A segment without its first line holds nothing that counts.
	}
	if t.chain != "" && t.chain != first.Note.Chain {
		return nil, fmt.Errorf("%s holds segments of two logs, or its head is of another one: move those of one away", t.dir)
	}
	t.chain, t.span = first.Note.Chain, span{}
	return &mark{seq: first.Seq - 1, hash: first.Note.Prev}, nil
}

// step goes on by one line if it is the next one.
func (t *tail) step(line []byte, end *mark) bool {
	sealed, err := audit.SplitLine(line, nil)
	if err != nil || sealed.Seq != end.seq+1 || !sealed.Follows(end.hash) {
		return false
	}
	r, err := audit.DecodeRecord(sealed.Body)
	if err != nil || !t.fits(&sealed) {
		return false
	}
	if !r.Kind.Note() {
		t.span.add(r.Time)
	}
	end.seq, end.hash, end.size = sealed.Seq, sealed.Stated, end.size+int64(len(line))
	return true
}

// fits tells whether a line can be what the head vouches for, or what was written
// after it. Nothing proves the latter; its time does not either, for the clock of a
// start can be behind that of the last run, and what was answered must stay.
func (t *tail) fits(sealed *audit.Sealed) bool {
	h := t.head
	switch {
	case h == nil || sealed.Seq < h.Seq:
		return true
	case sealed.Seq == h.Seq:
		return sealed.Stated == h.Hash
	default:
		return h.Purpose != audit.PurposeClosed
	}
}

// cutOff cuts a segment behind its last good line. More than a torn line is
// kept beside it, for a person to look at.
func (t *tail) cutOff(s segment, size int64) error {
	f, err := os.OpenFile(s.path, os.O_RDWR, fileMode)
	if err != nil {
		return fmt.Errorf("open the audit: %w", err)
	}
	cut := make([]byte, s.size-size)
	_, err = f.ReadAt(cut, size)
	if err == nil && bytes.IndexByte(cut, '\n') >= 0 {
		err = replace(asidePath(s.path), cut)
	}
	if err == nil {
		err = f.Truncate(size)
	}
	if err == nil {
		err = f.Sync()
	}
	if err = errors.Join(err, f.Close()); err != nil {
		return fmt.Errorf("open the audit: cut off what a crash left: %w", err)
	}
	t.cut += s.size - size
	return nil
}
