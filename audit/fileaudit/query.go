package fileaudit

import (
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"iter"
	"slices"

	"github.com/kelpie-authz/kelpie/audit"
)

// Reader reads a log, also while another process writes it. It checks no hash and no
// signature: [Verify] does; it only shows nothing that stands where no line can. It is
// safe for concurrent use.
type Reader struct{ dir string }

var _ audit.Reader = (*Reader)(nil)

// NewReader returns a reader of the log in dir.
func NewReader(dir string) *Reader { return &Reader{dir} }

// Query implements [audit.Reader]. It reads one segment after the other, and
// none whose times cannot be meant. Newest first it holds what one segment gives.
// A line that cannot be read ends it with an error that names the place.
func (r *Reader) Query(ctx context.Context, q *audit.Query) iter.Seq2[*audit.Line, error] {
	return func(yield func(*audit.Line, error) bool) {
		m, err := q.Matcher()
		if err != nil {
			yield(nil, err)
			return
		}
		parts, err := r.parts()
		if err != nil {
			yield(nil, err)
			return
		}
		if q.Order == audit.NewestFirst {
			slices.Reverse(parts)
		}
		left := q.Limit
		for _, p := range parts {
			if !m.Overlaps(p.span.from, p.span.to) {
				continue
			}
			if !r.part(ctx, m, q, p, &left, yield) {
				return
			}
		}
	}
}

// part is a segment, up to the line before which the next one begins.
type part struct {
	segment

	span span
	end  uint64 // lines from this number on do not count; 0: all do
}

// parts are the segments of the log, with the times that the next one tells.
func (r *Reader) parts() ([]part, error) {
	segments, err := list(r.dir)
	if err != nil {
		return nil, err
	}
	parts := make([]part, 0, len(segments))
	for i, s := range segments {
		parts = append(parts, part{segment: s})
		h, err := readHeader(r.dir, s.number)
		if err != nil || !h.there || i == 0 {
			continue // Reading it tells what is wrong.
		}
		before := &parts[i-1]
		before.end = h.Seq
		before.span = span{h.Note.PrevFrom, h.Note.PrevTo}
	}
	return parts, nil
}

// part gives what a segment holds of a query; false: that was the end. left is
// how many are wanted; 0: all.
func (r *Reader) part(ctx context.Context, m *audit.Matcher, q *audit.Query, p part, left *int, yield func(*audit.Line, error) bool) bool {
	more := true
	give := func(line *audit.Line) bool {
		if more = yield(line, nil); more && q.Limit > 0 {
			*left--
			more = *left > 0
		}
		return more
	}
	var held []*audit.Line
	err := r.each(ctx, m, p, func(line *audit.Line) bool {
		if q.Order == audit.OldestFirst {
			return give(line)
		}
		if q.Limit > 0 && len(held)/2 >= *left {
			held = slices.Delete(held, 0, len(held)-*left)
		}
		held = append(held, line)
		return true
	})
	for i := len(held) - 1; i >= 0 && more; i-- {
		give(held[i])
	}
	if err != nil && more {
		return yield(nil, err) && false
	}
	return more
}

// each calls take with each line of a segment that is selected, until it says no.
func (r *Reader) each(ctx context.Context, m *audit.Matcher, p part, take func(*audit.Line) bool) error {
	l, path, err := openLines(r.dir, p.number)
	if errors.Is(err, fs.ErrNotExist) {
		return nil // Retention removed it meanwhile.
	}
	if err != nil {
		return fmt.Errorf("read %s: %w", path, err)
	}
	defer l.close() //nolint:errcheck // It was only read.
	for {
		raw, err := l.inTurn(p.end)
		if errors.Is(err, io.EOF) {
			return nil
		}
		if err == nil {
			err = ctx.Err()
		}
		if err != nil {
			return fmt.Errorf("read %s, line %d: %w", path, l.count+1, err)
		}
		if !m.Maybe(raw) {
			continue
		}
		line, err := audit.DecodeLine(raw)
		if err != nil {
			return fmt.Errorf("read %s, line %d: %w", path, l.count, err)
		}
		if m.Match(&line.Record) && !take(line) {
			return nil
		}
	}
}
