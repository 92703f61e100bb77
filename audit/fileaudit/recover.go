package fileaudit

import (
	"bytes"
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
// prepares the first line of the next segment.
func (w *writer) recover(found *Recovery) error {
	if err := w.tidy(); err != nil {
		return err
	}
	head, err := w.readHead()
	if err != nil {
		return err
	}
	segments, err := list(w.cfg.Dir)
	if err != nil {
		return err
	}
	t := &tail{dir: w.cfg.Dir, head: head}
	if err := t.find(segments); err != nil {
		return err
	}
	w.chain, w.durable = t.chain, mark{seq: t.end.seq, hash: t.end.hash}
	w.number = t.number
	if w.chain == "" {
		id := make([]byte, 16)
		_, _ = rand.Read(id) // It does not fail.
		w.chain = hex.EncodeToString(id)
		return nil
	}
	w.before = audit.Note{Ended: audit.EndedCrashed, CutBytes: t.cut, PrevFrom: t.span.from, PrevTo: t.span.to}
	if head != nil && head.Purpose == audit.PurposeClosed && head.Seq == t.end.seq {
		w.before.Ended = audit.EndedClosed
	}
	w.lose(t)
	*found = Recovery{w.before.Ended, t.cut, w.before.LostFrom, w.before.LostTo}
	if head != nil {
		w.signHead(audit.PurposeHead) // What was closed is open again, before anything follows.
	}
	return w.headErr
}

// lose leaves out the numbers of lines that are gone, so that the gap is in
// the log for ever.
func (w *writer) lose(t *tail) {
	switch {
	case t.head != nil && t.end.seq < t.head.Seq:
		w.before.LostFrom, w.before.LostTo = t.end.seq+1, t.head.Seq
		w.durable = mark{seq: t.head.Seq, hash: t.head.Hash}
	case t.head == nil && t.records:
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

// readHead reads the signed head. nil: there is none, or none of this log.
func (w *writer) readHead() (*audit.Checkpoint, error) {
	head, err := readCheckpoint(filepath.Join(w.cfg.Dir, headName))
	switch {
	case errors.Is(err, errBroken):
		return nil, nil
	case err != nil:
		return nil, fmt.Errorf("open the audit: %w", err)
	case head == nil:
		return nil, nil
	}
	if own := audit.KeyID(w.public()); head.Key != own {
		return nil, fmt.Errorf("the audit in %s is signed by key %s, and %s is key %s: give the old key back, or move the directory away to begin another log",
			w.cfg.Dir, head.Key, w.cfg.KeyFile, own)
	}
	if !isSigned(head, w.public()) || (head.Purpose != audit.PurposeHead && head.Purpose != audit.PurposeClosed) {
		return nil, nil
	}
	return head, nil
}

// tail is where a log ends.
type tail struct {
	dir  string
	head *audit.Checkpoint

	chain   string
	number  uint64
	end     mark
	span    span
	records bool
	cut     int64
}

// find looks at the last segment, and before it at the one before where that
// one holds nothing.
func (t *tail) find(segments []segment) error {
	if t.head != nil {
		t.chain, t.number = t.head.Chain, t.head.Segment
	}
	for i, s := range slices.Backward(segments) {
		if t.head != nil && t.head.Purpose == audit.PurposeClosed && s.number > t.head.Segment {
			// The log was closed before it: whoever wrote it was not the log.
			if err := t.setAside(s); err != nil {
				return err
			}
			continue
		}
		done, err := t.scan(s)
		if err != nil {
			return err
		}
		if done {
			t.number = max(t.number, s.number)
			t.records = t.records || i > 0
			return nil
		}
		if t.head == nil || s.number > t.head.Segment {
			if err := t.setAside(s); err != nil { // Its first line never was on the disk: nothing in it counts.
				return err
			}
			continue
		}
		t.number = max(t.number, s.number) // It is damaged, and stays as it is.
	}
	return nil
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

// scan reads a segment up to its last good line; false: it has none.
func (t *tail) scan(s segment) (bool, error) {
	l, _, err := openLines(t.dir, s.number)
	if errors.Is(err, errGarbled) {
		return false, nil
	}
	if err != nil {
		return false, fmt.Errorf("open the audit: %w", err)
	}
	defer l.close() //nolint:errcheck // It was only read.
	end, err := t.follow(l)
	if err != nil || end == nil {
		return false, err
	}
	t.end = *end
	if s.gz || t.end.size == s.size || (t.head != nil && t.end.seq < t.head.Seq) {
		return true, nil
	}
	return true, t.cutOff(s, t.end.size)
}

// follow follows the chain from the first line on; nil: that is none.
func (t *tail) follow(l *lines) (*mark, error) {
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
		if !t.step(line, end) {
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
		return nil, fmt.Errorf("%s holds segments of two logs: move those of one away", t.dir)
	}
	t.chain = first.Note.Chain
	return &mark{seq: first.Seq - 1, hash: first.Note.Prev}, nil
}

// step goes on by one line if it is the next one.
func (t *tail) step(line []byte, end *mark) bool {
	sealed, err := audit.SplitLine(line, nil)
	if err != nil || sealed.Seq != end.seq+1 || !sealed.Follows(end.hash) {
		return false
	}
	if h := t.head; h != nil && ((sealed.Seq == h.Seq && sealed.Stated != h.Hash) ||
		(sealed.Seq > h.Seq && h.Purpose == audit.PurposeClosed)) {
		return false
	}
	r, err := audit.DecodeRecord(sealed.Body)
	if err != nil {
		return false
	}
	if !r.Kind.Note() {
		t.span.add(r.Time)
		t.records = true
	}
	end.seq, end.hash, end.size = sealed.Seq, sealed.Stated, end.size+int64(len(line))
	return true
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
